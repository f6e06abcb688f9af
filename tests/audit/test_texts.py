"""Findings that single texts show."""

from __future__ import annotations

import numpy as np
import pytest

from budgerigar.audit import texts as text_audit
from budgerigar.audit.vectors import Vectors

PLAIN = "An ordinary sentence, with nothing odd in it: 5 < 6 & AT&T; café, naïve — “quoted”."


def by_code(findings) -> dict:
    return {one.code: one for one in findings}


def test_plain_texts_give_no_finding():
    assert text_audit.findings([PLAIN] * 3, "train", None) == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("empty-texts", " \n"),
        ("markup", "profits &lt;b&gt;rose&lt;/b&gt;"),
        ("markup", "the bank #39;s shares"),
        ("markup", 'see <a href="x">here</a>'),
        ("odd-characters", "lost \ufffd letter"),
        ("odd-characters", "caf\u00c3\u00a9"),
        ("odd-characters", "it\u00e2\u20ac\u2122s"),
        ("odd-characters", "a \x07 bell"),
    ],
)
def test_odd_texts_are_found_with_their_rows(code, text):
    found = by_code(text_audit.findings([PLAIN, text, PLAIN, text], "against", None))
    assert set(found) == {code}
    assert found[code].rows == (1, 3)
    assert found[code].file == "against"
    assert found[code].count == 2
    assert found[code].examples[0].text == text


def test_texts_that_were_cut_are_counted():
    vectors = Vectors(np.zeros((4, 2)), np.array([5, 16, 16, 9]), np.array([1, 2]), 16)
    found = by_code(text_audit.findings([PLAIN] * 4, "train", vectors))
    assert found["texts-cut"].rows == (1, 2)
    assert found["texts-cut"].severity == "warning"


def test_rare_classes_and_lengths_by_class():
    texts = ["short"] * 30 + ["a much longer text " * 5] * 300
    labels = np.repeat([0, 1], [30, 300])
    found = by_code(text_audit.class_findings(texts, labels, ["rare", "frequent"]))
    assert found["class-imbalance"].details["classes"] == {"rare": 30, "frequent": 300}
    assert "rare (30)" in found["class-imbalance"].message
    assert found["length-by-class"].details["median_characters"]["frequent"] == 95
    small = by_code(text_audit.class_findings(["same"] * 12, np.repeat([0, 1], 6), ["a", "b"]))
    assert small["class-imbalance"].message == "few texts of a (6), b (6)"
    even = text_audit.class_findings(["same"] * 60, np.repeat([0, 1], 30), ["a", "b"])
    assert even == []


def test_lengths_of_two_files_are_compared():
    assert text_audit.length_findings(["x" * 100] * 9, ["x" * 120] * 9) == []
    found = text_audit.length_findings(["x" * 100] * 9, ["x" * 30] * 9)
    assert [one.code for one in found] == ["length-differs"]
