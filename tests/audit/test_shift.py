"""Shift: found where there is one, with its texts; not where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from kinds import headlines, rewritten, vectors_of

from budgerigar.audit import shift

NEWS = [text for text, _ in headlines()]


def detect(train: list[str], other: list[str], seed: int = 0) -> shift.Shift:
    return shift.detect(train, vectors_of(train), other, vectors_of(other), seed)


@pytest.mark.parametrize(("like", "unlike"), [(300, 300), (500, 60), (40, 400)])
def test_both_kinds_are_found_in_their_shares(like, unlike):
    other = NEWS[600 : 600 + like] + [rewritten(text) for text in NEWS[1200 - unlike :]]
    truth = np.repeat([False, True], [like, unlike])
    found = detect(NEWS[:600], other)
    assert found.kinds == "two"
    assert np.mean(found.unlike_B == truth) > 0.95
    assert found.share == pytest.approx(unlike / (like + unlike), abs=0.08)
    assert truth[found.most_unlike[:30]].all()
    assert found.test.interval.low < found.test.auc < found.test.interval.high


def test_a_few_dozen_texts_show_a_shift_and_most_of_its_texts():
    other = NEWS[600:630] + [rewritten(text) for text in NEWS[700:730]]
    found = detect(NEWS[:60], other)
    assert found.kinds == "two"
    assert np.mean(found.unlike_B == np.repeat([False, True], 30)) > 0.75


def test_texts_that_are_all_of_another_kind_are_called_so():
    found = detect(NEWS[:600], [rewritten(text) for text in NEWS[600:]])
    assert found.kinds == "all"
    assert found.unlike_B.mean() > 0.98
    assert found.test.auc > 0.99


def test_no_shift_is_claimed_among_halves_of_one_file():
    p_values = []
    for seed in range(60):
        order = np.random.default_rng(seed).permutation(len(NEWS))[:240].tolist()
        texts = [NEWS[row] for row in order]
        found = detect(texts[:120], texts[120:], seed)
        assert found.kinds in ("none", "gradual")
        assert not found.unlike_B.any()
        p_values.append(found.test.p_value)
    # Of 60 uniform p values more than eight lie below 0.05 once in 400 times, more than three
    # below 0.01 as rarely.
    assert np.sum(np.array(p_values) < 0.05) <= 8
    assert np.sum(np.array(p_values) < 0.01) <= 3
    assert 0.3 < np.mean(p_values) < 0.8


def test_the_same_seed_gives_the_same_groups():
    other = NEWS[600:700] + [rewritten(text) for text in NEWS[700:800]]
    one, again = detect(NEWS[:300], other, 5), detect(NEWS[:300], other, 5)
    np.testing.assert_array_equal(one.score_B, again.score_B)
    assert one.test == again.test


def test_all_texts_are_grouped_where_only_a_sample_is_fitted(monkeypatch):
    monkeypatch.setattr(shift, "LARGEST_SAMPLE", 200)
    other = NEWS[600:900] + [rewritten(text) for text in NEWS[900:]]
    found = detect(NEWS[:600], other)
    assert found.sampled == (200, 200)
    assert np.mean(found.unlike_B == np.repeat([False, True], 300)) > 0.95


def test_equal_texts_share_a_fold_and_files_are_spread_evenly():
    texts = [*NEWS[:40], NEWS[0].upper(), NEWS[1], *NEWS[40:78]]
    folds = shift.folds_of(texts, 40, np.random.default_rng(0))
    assert folds[0] == folds[40]
    assert folds[1] == folds[41]
    assert np.ptp(np.bincount(folds[:40])) <= 1
