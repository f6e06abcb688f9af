"""The words of a verdict, made from its numbers alone."""

from __future__ import annotations

import math

from budgerigar.evaluation.crossed import NeededSize
from budgerigar.evaluation.statistics import LEVEL, Interval


def words_of_pair(
    names: tuple[str, str],
    seeds: tuple[int, int],
    points: float,
    interval: Interval,
    confidence: float,
    p: float,
    pairs: int,
    needed: NeededSize,
    better: str | None,
) -> str:
    """One sentence without its full stop.

    Args:
        names: the first and the second of the pair.
        seeds: how many each has.
        points: the first's accuracy less the second's, in percentage points.
        interval: of `points`.
        confidence: of the interval.
        p: corrected for the number of pairs.
        pairs: that were compared.
        needed: what it would take to see a difference.
        better: one of the names, or None.
    """
    sides = [
        name if count > 1 else f"the one model of {name}"
        for name, count in zip(names, seeds, strict=True)
    ]
    correction = f" after Holm's correction for {pairs} pairs" if pairs > 1 else ""
    against = better == names[1]
    if against:
        sides.reverse()
        points, interval = -points, Interval(-interval.high, -interval.low)
    low, high, decimals = _limits(interval)
    numbers = (
        f"({written_p(p)}{correction}, {_signed(points, decimals)} points, "
        f"{100 * confidence:.3g} % interval {low} to {high})"
    )
    if better:
        said = f"{sides[0]} is better than {sides[1]} {numbers}"
    else:
        said = f"no difference shown between {sides[0]} and {sides[1]} {numbers}"
        said += f"; {_needed(needed, names, seeds)}"
    return said + _scope(names, seeds)


def written_p(p: float) -> str:
    """`p = 0.012`, with as many digits as keep it on its side of 0.05."""
    if p < 0.001:
        return "p < 0.001"
    for digits in range(2, 12):
        shown = f"{p:.{digits}g}"
        if (float(shown) < LEVEL) == (p < LEVEL):
            return f"p = {shown}"
    return f"p = {p}"


def _limits(interval: Interval) -> tuple[str, str, int]:
    """Both limits, with as many digits as keep them on their side of 0."""
    decimals = 1
    while decimals < 6 and any(
        limit != 0 and round(limit, decimals) == 0 for limit in (interval.low, interval.high)
    ):
        decimals += 1
    return f"{interval.low:.{decimals}f}", f"{interval.high:.{decimals}f}", decimals


def _signed(points: float, decimals: int) -> str:
    shown = f"{points:+.{decimals}f}"
    return shown[1:] if float(shown) == 0 else shown


def _needed(needed: NeededSize, names: tuple[str, str], seeds: tuple[int, int]) -> str:
    one = f"one of {needed.points:g} points"
    if needed.enough:
        return f"{one} would have been seen four times out of five"
    several = max(seeds) > 1
    if not several:
        assert needed.texts is not None
        return f"to see {one} would take about {_rounded(needed.texts)} texts"
    of_whom = "a side" if min(seeds) > 1 else f"of {names[0] if seeds[0] > 1 else names[1]}"
    would = f"to see {one} would take about"
    if needed.texts and needed.seeds:
        return f"{would} {_rounded(needed.texts)} texts or {needed.seeds:,} seeds {of_whom}"
    if needed.seeds:
        return f"{would} {needed.seeds:,} seeds {of_whom}; more texts alone would not do"
    if needed.texts:
        return f"{would} {_rounded(needed.texts)} texts; more seeds alone would not do"
    if needed.seeds_with_texts:
        more_seeds, more_texts = needed.seeds_with_texts
        return (
            f"{would} {more_seeds:,} seeds {of_whom} with {_rounded(more_texts)} texts; "
            "neither more texts nor more seeds alone would do"
        )
    return f"no number of texts and seeds would show {one}"


def _scope(names: tuple[str, str], seeds: tuple[int, int]) -> str:
    single = [name for name, count in zip(names, seeds, strict=True) if count == 1]
    if not single:
        return ""
    if len(single) == 2:
        return (
            "; with one seed a side this speaks of the two models and cannot speak of the recipes"
        )
    return f"; with one seed this speaks of that model and cannot speak of the recipe {single[0]}"


def _rounded(count: int) -> str:
    """Up to two leading digits."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"{math.ceil(count / unit) * unit:,}"
