"""The shift section: what it holds, how it is worded, what it makes findings of."""

from __future__ import annotations

import json

import numpy as np
import pytest
from kinds import headlines, rewritten, vectors_of

from budgerigar.audit import wording
from budgerigar.audit.head import Predicted, predicted_by_head
from budgerigar.audit.section import Encoded, layers, shift_section

ROWS = headlines()
CLASSES = ("World", "Sports", "Business", "Sci/Tech")
LABELS = np.array([CLASSES.index(label) for _, label in ROWS])
NEWS = [text for text, _ in ROWS]


def encoded(texts: list[str]) -> Encoded:
    return Encoded(texts, vectors_of(texts), 48)


@pytest.fixture(scope="module")
def section():
    train, other = NEWS[:600], NEWS[600:900] + [rewritten(text) for text in NEWS[900:]]
    predicted = predicted_by_head(
        train, vectors_of(train), LABELS[:600], CLASSES, vectors_of(other), seed=0
    )
    return shift_section(encoded(train), encoded(other), predicted)


def test_a_section_holds_groups_kinds_and_expected_accuracy(section):
    content = json.loads(json.dumps(section.content, allow_nan=False))
    assert content["kinds"] == "two"
    assert len(content["groups"]) == 600
    assert set(content["groups"]) == {"like", "unlike"}
    sizes = {kind["group"]: kind["texts"] for kind in content["clusters"]}
    assert sizes["unlike"] == content["groups"].count("unlike")
    assert sum(sizes.values()) == 600
    unlike = next(kind for kind in content["clusters"] if kind["group"] == "unlike")
    assert {"experts", "cautious", "developments"} <= set(unlike["words"])
    for part in unlike["parts"]:
        assert all(content["groups"][row] == "unlike" for row in part["rows"])
    expected = content["expected_accuracy"]
    assert {"validation", "all", "like", "unlike"} <= set(expected)
    assert len(expected["all"]["methods"]) == 2
    assert expected["like"]["texts"] + expected["unlike"]["texts"] == 600
    for shares in content["class_shares"].values():
        assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    top = content["differences"][0]
    assert abs(top["distance"]) >= abs(content["differences"][-1]["distance"])


def test_another_kind_is_the_worst_finding_and_names_its_rows(section):
    found = {one.code: one for one in section.findings}
    unlike = found["unlike-training"]
    assert unlike.severity == "error"
    assert unlike.file == "against"
    assert unlike.count == len(unlike.rows) == section.content["groups"].count("unlike")
    assert unlike.advice
    assert unlike.examples


def test_people_read_the_findings_first_and_then_the_kinds(section):
    lines = list(wording.describe(section.findings, section.content))
    plain = [line for line in lines if isinstance(line, str)]
    assert plain[0].startswith("error: unlike-training (")
    assert any(line.startswith("shift: two populations: ") for line in plain)
    tables = [line for line in lines if isinstance(line, wording.Table)]
    assert [table.title.split(" ")[0] for table in tables] == ["how", "accuracy", "share"]
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_like_texts_give_no_finding_and_one_group():
    found = shift_section(encoded(NEWS[:400]), encoded(NEWS[600:800]))
    assert found.findings == []
    assert found.content["kinds"] == "none"
    assert found.content["groups"] == ["like"] * 200
    assert "no shift shown" in found.content["verdict"]
    assert found.content["most_unlike"] == []


def test_too_few_texts_say_so():
    found = shift_section(encoded(NEWS[:400]), encoded(NEWS[600:605]))
    assert found.shift is None
    assert found.content["groups"] == ["like"] * 5
    assert any("fewer than" in str(line) for line in wording.describe([], found.content))


def test_lower_accuracy_is_a_finding_by_group():
    """Logits that are sure where labels are known, and unsure on the other texts."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 500)
    sure = 6.0 * np.eye(4)[labels] + draw.normal(size=(500, 4))
    unsure = draw.normal(size=(200, 4))
    predicted = Predicted(CLASSES, sure, labels, unsure, "a test")
    found = shift_section(encoded(NEWS[:400]), encoded(NEWS[600:800]), predicted)
    assert [one.code for one in found.findings] == ["lower-accuracy-expected"]


def test_a_head_needs_rows_of_every_class():
    vectors = vectors_of(NEWS[:20])
    assert (
        predicted_by_head(NEWS[:20], vectors, np.arange(20) % 10, "abcdefghij", vectors, 0) is None
    )
    assert predicted_by_head(NEWS[:20], vectors, np.zeros(20, int), "ab", vectors, 0) is None


def test_a_head_predicts_out_of_sample():
    vectors = vectors_of(NEWS, 256)
    found = predicted_by_head(NEWS[:900], vectors[:900], LABELS[:900], CLASSES, vectors[900:], 0)
    held_out = (found.validation_BC.argmax(1) == LABELS[:900]).mean()
    truth = (found.unlabelled_BC.argmax(1) == LABELS[900:]).mean()
    assert held_out == pytest.approx(truth, abs=0.08)
    assert truth > 0.5


def test_layers_are_the_last_of_each_third():
    assert layers(6) == (1, 3, 5)
    assert layers(12) == (3, 7, 11)
    assert layers(1) == (0,)
    assert layers(2)[-1] == 1
