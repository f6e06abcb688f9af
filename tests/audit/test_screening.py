"""What is looked over before training: every set, with rows as its file numbers them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from budgerigar.audit import screening
from budgerigar.data.corpus import Corpus
from budgerigar.data.texts import Texts

CLASSES = ("World", "Sports")


def corpus(strings: list[str], labels: list[int] | None = None) -> Corpus:
    return Corpus(
        texts=Texts(pa.chunked_array([pa.array(strings, pa.large_string())])),
        labels=None if labels is None else np.array(labels),
        classes=CLASSES,
        source="texts.csv",
        fingerprint="",
        notes=(),
        label_base=0,
    )


def sets() -> dict[str, Corpus]:
    """Forty-four rows of which the first two validate, and others."""
    plain = [f"the team won its match number {n} in {n} minutes of play" for n in range(40)]
    file = corpus(["one &amp; two", "held out", *plain, "\x00 odd", "twice"], [0, 1] * 22)
    return {
        "train": file.select(np.arange(2, 44)),
        "validation": file.select(np.arange(2)),
        "test": corpus(["fresh", "TWICE"], [0, 1]),
        "unlabelled": corpus(["new <b>words</b>", "held  out", "fresh"]),
    }


def test_every_set_is_looked_over():
    found = screening.screen(sets(), CLASSES)
    assert [(one.severity, one.code, one.file, one.rows) for one in found] == [
        ("error", "leak", "test", (1,)),
        ("warning", "leak", "unlabelled", (1,)),
        ("warning", "leak", "unlabelled", (2,)),
        ("warning", "odd-characters", "train", (42,)),
        ("note", "markup", "unlabelled", (0,)),
        ("note", "markup", "validation", (0,)),
    ]
    assert [one.details["known"] for one in found[:3]] == ["train", "validation", "test"]
    assert found[0].examples[0].about == "same as training row 43"
    assert found[3].examples[0].row == 42


def test_a_finding_is_one_line_with_rows_and_advice():
    lines = [screening.line_of(one) for one in screening.screen(sets(), CLASSES)]
    assert lines[0] == (
        "error: leak in the test texts: 1 of 2 test texts stands in the training rows (row 1, "
        "counted from 0). "
        "Remove them from the training rows: results on them show memory, not skill."
    )
    assert all(line.isprintable() for line in lines)


def test_clean_sets_have_no_findings():
    clean = {name: sets()[name] for name in ("train",)}
    rows = np.arange(40)
    assert screening.screen({"train": clean["train"].select(rows)}, CLASSES) == []


def test_rare_classes_are_told():
    texts = [f"the team won its match number {n} in {n} minutes of play" for n in range(60)]
    found = screening.screen({"train": corpus(texts, [0] * 55 + [1] * 5)}, CLASSES)
    assert [one.code for one in found] == ["class-imbalance"]
    assert screening.line_of(found[0]).startswith("warning: class-imbalance in the training texts:")
