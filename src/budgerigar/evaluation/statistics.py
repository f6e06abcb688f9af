"""Intervals: how far a number from so many texts can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from statsmodels.stats.proportion import proportion_confint


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
    return Interval(float(low), float(high))
