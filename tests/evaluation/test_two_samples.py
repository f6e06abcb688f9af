"""The two-sample test: its area, its interval's coverage, its level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from budgerigar.evaluation.two_samples import two_sample_test


def drawn(seed: int, distance: float, texts: int = 60) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    second = np.repeat([False, True], texts)
    return draw.normal(size=2 * texts) + distance * second, second


def test_one_fold_gives_the_known_area_and_mann_whitneys_p_value():
    scores, second = drawn(0, 0.4)
    scores = scores.round(1)  # Ties.
    found = two_sample_test(scores, second, np.zeros(120), cross_validated=False)
    expected = mannwhitneyu(
        scores[second],
        scores[~second],
        alternative="greater",
        method="asymptotic",
        use_continuity=False,
    )
    assert found.auc == pytest.approx(roc_auc_score(second, scores))
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_folds_are_compared_within_themselves():
    scores, second = drawn(1, 1.0)
    folds = np.arange(120) % 4
    moved = scores + 100 * folds  # Scores of another fold mean nothing.
    there, here = (
        two_sample_test(one, second, folds, cross_validated=True) for one in (scores, moved)
    )
    assert there.auc == pytest.approx(here.auc)
    assert there.p_value == pytest.approx(here.p_value)


def test_intervals_cover_and_the_test_keeps_its_level():
    truth = float(norm.cdf(0.8 / np.sqrt(2)))
    folds = np.arange(120) % 4
    covered = rejected = 0
    for seed in range(300):
        interval = two_sample_test(*drawn(seed, 0.8), folds, cross_validated=False).interval
        covered += interval.low <= truth <= interval.high
        rejected += two_sample_test(*drawn(seed, 0.0), folds, cross_validated=False).p_value < 0.05
    assert covered >= 274
    assert 5 <= rejected <= 26


def test_an_empty_side_says_nothing():
    found = two_sample_test(np.arange(3.0), np.zeros(3, bool), np.zeros(3), cross_validated=True)
    assert (found.auc, found.p_value) == (0.5, 1.0)


def test_cross_validated_scores_keep_the_level_too():
    """Difference of means as the classifier, 20 features without any difference, four folds."""
    below = {True: 0, False: 0}
    second, folds = np.repeat([False, True], 60), np.arange(120) % 4
    for seed in range(300):
        features = np.random.default_rng(seed).normal(size=(120, 20))
        scores = np.zeros(120)
        for fold in range(4):
            fitted = folds != fold
            apart = features[fitted & second].mean(0) - features[fitted & ~second].mean(0)
            scores[~fitted] = features[~fitted] @ apart
        for cross_validated in below:
            found = two_sample_test(scores, second, folds, cross_validated=cross_validated)
            below[cross_validated] += found.p_value < 0.05
    assert 5 <= below[True] <= 26
    # Without counting shared chance twice the test would err too often.
    assert below[False] > 26
