"""Whether one score tells two samples apart: area under the curve, interval, p value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from budgerigar.evaluation.statistics import Interval


@dataclass(frozen=True)
class TwoSamples:
    """A two-sample test.

    Attributes:
        auc: probability that a text of the second sample scores above one of the first,
            ties counting half.
        interval: 95 %.
        p_value: one-sided, of no difference.
    """

    auc: float
    interval: Interval
    p_value: float


def two_sample_test(
    scores_B: np.ndarray, second_B: np.ndarray, folds_B: np.ndarray, *, cross_validated: bool
) -> TwoSamples:
    """Compares scores within each fold and adds the folds up.

    The p value is the Mann-Whitney test's (normal approximation with ties, stratified as in
    van Elteren 1960); the interval is DeLong's (DeLong, DeLong and Clarke-Pearson 1988,
    Biometrics 44:837-845).

    Args:
        scores_B: scored out of sample; comparable within a fold only.
        second_B: which belong to the second sample.
        folds_B: the fold that scored each.
        cross_validated: whether each fold was scored by what was fitted to the others. Chance
            that two folds share then counts twice, once with either as the judge, and not as
            two draws: for a linear score that doubles the variance of the sum without a
            difference (a sum over ordered pairs of folds has each pair twice).
    """
    total = area = spread = chance = 0.0
    for fold in np.unique(folds_B):
        inside = folds_B == fold
        first, second = scores_B[inside & ~second_B], scores_B[inside & second_B]
        if not (pairs := len(first) * len(second)):
            continue
        places = rankdata(np.concatenate([first, second]))
        # The share of the other sample that each text beats.
        beaten_first = (places[: len(first)] - rankdata(first)) / len(second)
        beaten_second = (places[len(first) :] - rankdata(second)) / len(first)
        total += pairs
        area += pairs * float(beaten_second.mean())
        of_first = beaten_first.var(ddof=1) / len(first) if len(first) > 1 else 0.25
        of_second = beaten_second.var(ddof=1) / len(second) if len(second) > 1 else 0.25
        spread += pairs**2 * float(of_first + of_second)
        every = len(first) + len(second)
        _, ties = np.unique(places, return_counts=True)
        tied = float((ties.astype(float) ** 3 - ties).sum()) / max(1, every * (every - 1))
        chance += pairs * (every + 1 - tied) / 12
    if not total:
        return TwoSamples(0.5, Interval(0.0, 1.0), 1.0)
    twice = np.sqrt(2.0) if cross_validated else 1.0
    auc, deviation = area / total, twice * np.sqrt(spread) / total
    low, high = np.clip([auc - 1.96 * deviation, auc + 1.96 * deviation], 0.0, 1.0)
    by_chance = twice * np.sqrt(chance) / total
    p_value = float(norm.sf((auc - 0.5) / by_chance)) if by_chance else 1.0
    return TwoSamples(float(auc), Interval(float(low), float(high)), p_value)
