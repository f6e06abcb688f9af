"""Verdicts: which recipe is better, in words that follow from the numbers.

Shape letters: S seeds, B texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from budgerigar.errors import DataError
from budgerigar.evaluation.crossed import (
    NeededSize,
    RecipeTest,
    chance,
    mean_interval,
    needed_size,
    needed_texts,
)
from budgerigar.evaluation.statistics import (
    LEVEL,
    Interval,
    ModelTest,
    Right,
    compare_models,
    holm,
)
from budgerigar.evaluation.wording import words_of_pair

Scope = Literal["recipes", "models", "model and recipe"]


@dataclass(frozen=True)
class RecipeSummary:
    """One recipe's accuracies on the texts. Shares, not points.

    Attributes:
        name: as given.
        accuracies: one for each seed, in the order given.
        mean: over seeds.
        standard_deviation: over seeds; None with one seed.
        worst: the lowest.
        worst_seed: its place among the seeds, from 0.
        interval: 95 %, over seeds and texts; with one seed over texts alone.
        speaks_of: what the interval is of.
    """

    name: str
    accuracies: tuple[float, ...]
    mean: float
    standard_deviation: float | None
    worst: float
    worst_seed: int
    interval: Interval
    speaks_of: Literal["recipe", "model"]


@dataclass(frozen=True)
class Pair:
    """Two recipes, or their models, compared. Differences are in percentage points.

    Attributes:
        first, second: names.
        speaks_of: `recipes` with several seeds a side; `models` with one a side; else one model
            and one recipe.
        test: `seeds and texts` (`crossed.Chance.test`) or `McNemar, exact`.
        points: the first's mean accuracy less the second's.
        interval: of `points`, at `confidence`: it leaves out 0 exactly where `p_holm` is
            under 0.05.
        confidence: 0.95 for one pair; for several, what Holm's procedure asked of this pair.
        p: the test's own.
        p_holm: after Holm's correction over all pairs of the comparison.
        freedom: degrees of freedom of the t test; None for McNemar's.
        differ: share of texts on which a model of the first and one of the second are not both
            right or both wrong, mean over all pairs of seeds.
        better: the name of the better one, None where no difference is shown.
        needed: what it would take to see a difference of `needed.points`.
        words: the verdict as a sentence without its full stop.
    """

    first: str
    second: str
    speaks_of: Scope
    test: Literal["seeds and texts", "McNemar, exact"]
    points: float
    interval: Interval
    confidence: float
    p: float
    p_holm: float
    freedom: float | None
    differ: float
    better: str | None
    needed: NeededSize
    words: str


@dataclass(frozen=True)
class Comparison:
    """All recipes and all pairs of them, in the order given.

    Attributes:
        texts: how many all were scored on.
        recipes: each one's accuracies.
        pairs: the first with the second, with the third, and so on.
    """

    texts: int
    recipes: tuple[RecipeSummary, ...]
    pairs: tuple[Pair, ...]


def compare(named: Mapping[str, Right], points: float = 0.5) -> Comparison:
    """Compares every recipe with every other on the same texts.

    Args:
        named: name -> whether each seed is right on each text, `[S, B]`; texts in the same order
            for all, S may differ.
        points: the difference in accuracy, in percentage points, that the words name a size for.

    Raises:
        DataError: no texts, no seeds, or texts that differ in number.
    """
    rights = {name: np.asarray(right_SB, dtype=bool) for name, right_SB in named.items()}
    _check(rights)
    pairs = list(combinations(rights, 2))
    tests = [_test(rights[first], rights[second]) for first, second in pairs]
    correction = holm([test.p for test in tests])
    return Comparison(
        texts=next(iter(rights.values())).shape[1],
        recipes=tuple(summarise(name, right_SB) for name, right_SB in rights.items()),
        pairs=tuple(
            _pair(first, second, rights, test, p_holm, level, points, len(pairs))
            for (first, second), test, p_holm, level in zip(
                pairs, tests, correction.p, correction.levels, strict=True
            )
        ),
    )


def summarise(name: str, right_SB: Right) -> RecipeSummary:
    """One recipe's mean, spread and worst seed, from `[S, B]`, S > 0 and B > 0."""
    accuracies = [float(accuracy) for accuracy in right_SB.mean(axis=1)]
    seeds = len(accuracies)
    return RecipeSummary(
        name=name,
        accuracies=tuple(accuracies),
        mean=float(right_SB.mean()),
        standard_deviation=float(np.std(accuracies, ddof=1)) if seeds > 1 else None,
        worst=min(accuracies),
        worst_seed=int(np.argmin(accuracies)),
        interval=mean_interval(right_SB),
        speaks_of="recipe" if seeds > 1 else "model",
    )


def _check(rights: Mapping[str, Right]) -> None:
    if not rights:
        raise DataError("nothing to compare", remedy="name at least one recipe")
    for name, right_SB in rights.items():
        if right_SB.ndim != 2:
            raise ValueError(f"{name}: expected [seeds, texts], got shape {right_SB.shape}")
        if right_SB.size == 0:
            raise DataError(
                f"{name} has nothing to compare",
                why=f"{right_SB.shape[0]} seeds with {right_SB.shape[1]} predictions each",
                remedy="compare runs that predicted the same labelled texts",
            )
    counts = {name: right_SB.shape[1] for name, right_SB in rights.items()}
    if len(set(counts.values())) > 1:
        raise DataError(
            "recipes were scored on different texts",
            why=", ".join(f"{name} on {count:,}" for name, count in counts.items()),
            remedy="compare runs that predicted the same labelled texts",
        )


def _test(right_a_SB: Right, right_b_SB: Right) -> ModelTest | RecipeTest:
    if len(right_a_SB) == len(right_b_SB) == 1:
        return compare_models(right_a_SB[0], right_b_SB[0])
    return chance(right_a_SB, right_b_SB).test()


def _pair(
    first: str,
    second: str,
    rights: Mapping[str, Right],
    test: ModelTest | RecipeTest,
    p_holm: float,
    level: float,
    points: float,
    pairs: int,
) -> Pair:
    a, b = rights[first], rights[second]
    interval = test.interval(1 - level)
    better = None
    if p_holm < LEVEL:
        better = first if test.difference > 0 else second
    # A difference that all pairs may have must pass the strictest of Holm's levels.
    strictest = LEVEL / pairs
    if isinstance(test, ModelTest):
        differ = test.only_a + test.only_b
        needed = needed_texts(differ, test.texts, points, strictest)
    else:
        needed = needed_size(chance(a, b), points, strictest)
    shown = Interval(100 * interval.low, 100 * interval.high)
    return Pair(
        first=first,
        second=second,
        speaks_of=_scope(len(a), len(b)),
        test="McNemar, exact" if isinstance(test, ModelTest) else "seeds and texts",
        points=100 * test.difference,
        interval=shown,
        confidence=1 - level,
        p=test.p,
        p_holm=p_holm,
        freedom=None if isinstance(test, ModelTest) else test.freedom,
        differ=_differ(a, b),
        better=better,
        needed=needed,
        words=words_of_pair(
            (first, second),
            (len(a), len(b)),
            100 * test.difference,
            shown,
            1 - level,
            p_holm,
            pairs,
            needed,
            better,
        ),
    )


def _scope(seeds_a: int, seeds_b: int) -> Scope:
    if seeds_a > 1 and seeds_b > 1:
        return "recipes"
    return "models" if seeds_a == seeds_b else "model and recipe"


def _differ(right_a_SB: Right, right_b_SB: Right) -> float:
    """Share of texts on which a seed of each differ, mean over all pairs of seeds."""
    share_a_B, share_b_B = right_a_SB.mean(axis=0), right_b_SB.mean(axis=0)
    return float((share_a_B * (1 - share_b_B) + share_b_B * (1 - share_a_B)).mean())
