"""Expected accuracy: right where nothing changed, lower where texts became harder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from budgerigar.evaluation.estimate import expected_accuracy, fit_temperature


def drawn(
    seed: int, texts: int, signal: float, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax, at scale 1, is exactly how often each class is right."""
    draw = np.random.default_rng(seed)
    logits_BC = signal * draw.normal(size=(texts, 4))
    probabilities = np.exp(logits_BC) / np.exp(logits_BC).sum(1, keepdims=True)
    labels_B = (draw.random(texts)[:, None] > probabilities.cumsum(1)).sum(1)
    return (scale * logits_BC).astype(np.float32), np.minimum(labels_B, 3)


def accuracy(logits_BC, labels_B) -> float:
    return float((logits_BC.argmax(1) == labels_B).mean())


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_the_temperature_that_made_the_logits_is_found(scale):
    assert fit_temperature(*drawn(0, 4000, 3.0, scale)) == pytest.approx(scale, rel=0.1)


def test_every_method_expects_the_validation_accuracy_where_nothing_changed():
    validation, labels = drawn(1, 4000, 3.0, scale=4.0)
    unlabelled, truth = drawn(2, 4000, 3.0, scale=4.0)
    found = expected_accuracy(validation, labels, unlabelled, np.random.default_rng(0))["all"]
    assert len(found.methods) == 2
    for method in found.methods:
        assert method.accuracy == pytest.approx(accuracy(unlabelled, truth), abs=0.02)
    assert found.interval.low <= accuracy(unlabelled, truth) <= found.interval.high


def test_harder_texts_lower_what_is_expected():
    """Confidence means the same there, so that its difference is exact; thresholding overdoes."""
    validation, labels = drawn(1, 4000, 3.0, scale=4.0)
    unlabelled, truth = drawn(2, 4000, 2.0, scale=4.0)
    found = expected_accuracy(validation, labels, unlabelled, np.random.default_rng(0))["all"]
    thresholded, difference = found.methods
    assert difference.accuracy == pytest.approx(accuracy(unlabelled, truth), abs=0.03)
    assert thresholded.accuracy < accuracy(validation, labels) - 0.05


def test_intervals_cover_the_accuracy_as_often_as_they_say():
    covered = np.zeros(2)
    for seed in range(100):
        validation, labels = drawn(2 * seed, 400, 2.0)
        unlabelled, truth = drawn(2 * seed + 1, 300, 2.0)
        found = expected_accuracy(validation, labels, unlabelled, np.random.default_rng(seed))
        covered += [
            one.interval.low <= accuracy(unlabelled, truth) <= one.interval.high
            for one in found["all"].methods
        ]
    assert covered.min() >= 90


def test_groups_are_estimated_by_themselves_and_empty_ones_left_out():
    validation, labels = drawn(1, 2000, 3.0)
    easy, _ = drawn(2, 500, 3.0)
    hard, _ = drawn(3, 500, 0.8)
    groups = {"like": np.arange(500), "unlike": np.arange(500, 1000), "none": np.arange(0)}
    unlabelled = np.concatenate([easy, hard])
    found = expected_accuracy(validation, labels, unlabelled, np.random.default_rng(0), groups)
    assert set(found) == {"all", "like", "unlike"}
    assert found["unlike"].interval.high < found["like"].interval.low
    assert found["unlike"].accuracy < found["all"].accuracy < found["like"].accuracy
    content = json.loads(json.dumps(found["all"].to_json()))
    assert content["texts"] == 1000
    assert all(one["source"] for one in content["methods"])


@pytest.mark.parametrize("right", [True, False])
def test_a_classifier_that_is_never_or_always_right_is_no_special_case(right):
    logits = np.tile([4.0, 0.0], (30, 1)) + np.arange(30)[:, None] * [0.01, 0]
    labels = np.full(30, 0 if right else 1)
    found = expected_accuracy(logits, labels, logits[:8], np.random.default_rng(0))["all"]
    assert found.accuracy == pytest.approx(1.0 if right else 0.0, abs=0.01)
    assert found.interval.high > found.interval.low


def test_validation_texts_that_are_all_right_leave_room_for_doubt():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 200)
    sure = 6.0 * np.eye(4)[labels] + draw.normal(size=(200, 4))
    assert fit_temperature(sure, labels) > 0.3
    unsure = draw.normal(size=(200, 4))
    found = expected_accuracy(sure, labels, unsure, np.random.default_rng(0))["all"]
    assert found.interval.high < 0.9
