"""Scores against hand-made numbers and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from budgerigar.evaluation import metrics
from budgerigar.evaluation.statistics import wilson_interval


def test_a_case_worked_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    labels = np.array([0, 1, 1, 0])
    scores = metrics.score(np.log(probabilities), labels)
    assert (scores.texts, scores.correct, scores.accuracy) == (4, 3, 0.75)
    assert scores.confusion == [[2, 0], [1, 1]]
    assert scores.classes[0].precision == pytest.approx(2 / 3)
    assert scores.classes[1].recall == pytest.approx(1 / 2)
    assert scores.loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    # Each text has a bin of its own: gaps 0.1, 0.6, 0.2, 0.3.
    assert scores.calibration_error == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)


def test_extreme_logits_stay_finite():
    scores = metrics.score(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([1, 1]))
    assert scores.loss == pytest.approx(1e4)
    assert scores.calibration_error == pytest.approx(0.5)


def test_a_class_that_is_never_met_counts_as_zero():
    scores = metrics.score(np.array([[2.0, 1.0, 0.0]]), np.array([0]))
    assert [one.f1 for one in scores.classes] == [1.0, 0.0, 0.0]
    assert scores.macro_f1 == pytest.approx(1 / 3)


@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 2**32))
def test_scores_agree_with_scikit_learn(texts, classes, seed):
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(texts, classes))
    labels = draw.integers(classes, size=texts)
    scores = metrics.score(logits, labels)
    every = range(classes)
    predicted = logits.argmax(axis=1)
    assert scores.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
    f1 = sk.f1_score(labels, predicted, labels=every, average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(f1)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert scores.loss == pytest.approx(sk.log_loss(labels, softmax, labels=list(every)))
    assert 0 <= scores.calibration_error <= 1
    assert np.sum(scores.confusion) == texts


def test_wilson_against_published_values():
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    for correct, texts, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = wilson_interval(correct, texts)
        assert interval.low == pytest.approx(low, abs=1e-4)
        assert interval.high == pytest.approx(high, abs=1e-4)
