"""Intervals and tests for shares of right predictions: arrays in, numbers out.

`crossed.py` has the tests for which seeds count; shape letter: B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.05
"""Share of equal sides that a test may call different."""

QUADRATURE_POINTS = 500

Right: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """An interval that covers the true value with the confidence it was asked for."""

    low: float
    high: float


def wilson_interval(correct: int, texts: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share (Wilson 1927, JASA 22:209-212).

    Args:
        correct: right predictions.
        texts: all predictions, more than 0.
        confidence: coverage.
    """
    low, high = proportion_confint(correct, texts, alpha=1 - confidence, method="wilson")
    # Rounding must not put the share itself outside.
    return Interval(min(float(low), correct / texts), max(float(high), correct / texts))


@dataclass(frozen=True)
class ModelTest:
    """Two trained models on the same texts.

    Attributes:
        only_a, only_b: texts that only the one model, only the other, has right.
        texts: all texts.
        p: McNemar's exact test, two-sided (McNemar 1947, Psychometrika 12:153-157).
    """

    only_a: int
    only_b: int
    texts: int
    p: float

    @property
    def difference(self) -> float:
        """The first model's accuracy less the second's, as a share."""
        return (self.only_a - self.only_b) / self.texts

    def interval(self, confidence: float = 1 - LEVEL) -> Interval:
        """Of the difference; it leaves out 0 exactly when p is under `1 - confidence`.

        Fay and Lumbard 2021, Statistics in Medicine 40:1147-1159: the share of texts on which
        the models differ, times how one-sided those texts are, both with their confidence
        distributions.
        """
        tail = (1 - confidence) / 2
        return Interval(
            _lower_limit(self.only_a, self.only_b, self.texts, tail),
            -_lower_limit(self.only_b, self.only_a, self.texts, tail),
        )


def compare_models(right_a_B: Right, right_b_B: Right) -> ModelTest:
    """McNemar's exact test of two models.

    Args:
        right_a_B: whether the first model is right on each text, `[B]`, B > 0.
        right_b_B: the same of the second, texts in the same order.
    """
    only_a = int((right_a_B & ~right_b_B).sum())
    only_b = int((right_b_B & ~right_a_B).sum())
    p = mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue
    return ModelTest(only_a, only_b, len(right_a_B), min(float(p), 1.0))


def _lower_limit(only_a: int, only_b: int, texts: int, tail: float) -> float:
    """Lower limit of the difference: the `tail` quantile of a product of two beta variables."""
    differ = only_a + only_b
    at = (np.arange(QUADRATURE_POINTS) + 0.5) / QUADRATURE_POINTS
    most = beta(differ + 1, texts - differ) if differ < texts else None
    if only_a == 0:
        return float(-most.ppf(1 - tail)) if most else -1.0
    one_sided = beta(only_a, only_b + 1)
    if one_sided.cdf(0.5) > tail:
        shares = most.ppf(at) if most else np.ones(QUADRATURE_POINTS)
        bracket = (-1.0, 0.0)
    else:
        shares = beta(differ, texts - differ + 1).ppf(at)
        bracket = (0.0, 1.0)
    return float(
        brentq(lambda limit: one_sided.cdf((limit / shares + 1) / 2).mean() - tail, *bracket)
    )


@dataclass(frozen=True)
class Correction:
    """Holm's correction of several tests (Holm 1979, Scand. J. Statist. 6:65-70).

    Attributes:
        p: adjusted p values: under `LEVEL` where the procedure calls a pair different.
        levels: the level at which the procedure judged each test, from `LEVEL` over the number
            of tests up to `LEVEL`. A test's own interval at `1 - level` leaves out 0 exactly
            where its adjusted p is under `LEVEL`.
    """

    p: tuple[float, ...]
    levels: tuple[float, ...]


def holm(p: Sequence[float]) -> Correction:
    """Corrects p values for their number; none is a correction of nothing."""
    if not p:
        return Correction((), ())
    _, adjusted, _, _ = multipletests(p, alpha=LEVEL, method="holm")
    # Equal p values stand on one step, so that the order in which tests come changes nothing.
    steps = np.searchsorted(np.sort(p), p, side="left")
    kept = adjusted >= LEVEL
    if kept.any():
        steps = np.where(kept, steps[kept].min(), steps)
    return Correction(
        tuple(float(value) for value in adjusted),
        tuple(float(LEVEL / (len(p) - step)) for step in steps),
    )
