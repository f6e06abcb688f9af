"""Recipes compared over seeds and texts at once: two sources of chance, crossed.

Every seed of a recipe predicts the same texts, so a difference between two recipes' mean
accuracies varies with the seeds drawn and with the texts drawn. Radiology compares tests so,
with readers for seeds and cases for texts (Obuchowski and Rockette 1995, Commun. Statist. Simul.
24:285-308; Hillis 2007, Statistics in Medicine 26:596-619; readers within tests). docs/verdicts.md
shows the calibration of what is here beside other tests.

Shape letters: S seeds, B texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from statsmodels.stats.proportion import proportion_confint

from budgerigar.evaluation.statistics import LEVEL, Interval, Right, wilson_interval

POWER = 0.8
MOST = 10**9
"""More seeds or texts than this are as good as never enough."""


@dataclass(frozen=True)
class Side:
    """One recipe's right predictions, as what they say of chance. Shares, not points.

    Attributes:
        seeds: how many.
        mean: mean accuracy over seeds.
        observed: variance of the accuracies over seeds, on these texts; 0 with one seed.
        residual: variance of a seed's answer to one text that neither the text nor the seed's
            accuracy explains; 0 with one seed, whose share of it cannot be told from the texts'.
        own: part of `observed` that more texts would not take away. Not under 0.
    """

    seeds: int
    mean: float
    observed: float
    residual: float
    own: float


def side(right_SB: Right) -> Side:
    """The variances of one recipe's right predictions `[S, B]`, S > 0 and B > 0.

    Method of moments in the two-way layout of seeds and texts without repetition (Searle, Casella
    and McCulloch 1992, Variance Components, section 4.2).
    """
    seeds, texts = right_SB.shape
    accuracy_S = right_SB.sum(axis=1) / texts
    mean = float(right_SB.sum() / right_SB.size)
    if seeds == 1:
        return Side(1, mean, 0.0, 0.0, 0.0)
    observed = float(accuracy_S.var(ddof=1))
    right_B = right_SB.sum(axis=0, dtype=np.int64)
    within = float((right_B * (seeds - right_B)).sum()) / (texts * seeds * (seeds - 1))
    residual = max((within - observed) * texts / (texts - 1), 0.0) if texts > 1 else 0.0
    return Side(seeds, mean, observed, residual, max(observed - residual / texts, 0.0))


@dataclass(frozen=True)
class RecipeTest:
    """A t test of two recipes' difference in mean accuracy, as a share.

    Attributes:
        difference: the first recipe's mean accuracy less the second's.
        variance: of the difference, from seeds and texts.
        freedom: degrees of freedom, Satterthwaite's; 0 where one text leaves none.
        of_seeds: the part of the critical value that `freedom` decides; the texts' number decides
            the rest.
        texts: how many there are.
        p: two-sided.
    """

    difference: float
    variance: float
    freedom: float
    of_seeds: float
    texts: int
    p: float

    def interval(self, confidence: float = 1 - LEVEL) -> Interval:
        """Of the difference; it leaves out 0 exactly when p is under `1 - confidence`."""
        if self.freedom == 0:
            return Interval(-1.0, 1.0)
        critical = _critical(1 - confidence, self.freedom, self.of_seeds, self.texts)
        reach = critical * math.sqrt(self.variance)
        return Interval(
            float(max(self.difference - reach, -1.0)), float(min(self.difference + reach, 1.0))
        )


@dataclass(frozen=True)
class Chance:
    """What a difference between two sides owes to chance, and so how it shrinks with more of each.

    Attributes:
        a, b: the two sides.
        texts: how many there are.
        of_texts: variance of the difference through the texts, as measured with these seeds.
    """

    a: Side
    b: Side
    texts: int
    of_texts: float

    def test(self) -> RecipeTest:
        """Tests whether the two mean accuracies are equal. One seed alone stands for its model.

        The variance is what the seeds add beyond these texts, never under 0, and what the texts
        add. The degrees of freedom take no side's seeds for steadier than the noise of their
        answers allows.

        Where the sides differ in number, the one with fewer is taken for no steadier than both
        together, and the critical value lies between those of the seeds and of the texts
        (Cochran and Cox 1957, Experimental Designs, section 4.14): few seeds beside many often
        look alike by chance.
        """
        a, b = self.a, self.b
        difference = a.mean - b.mean
        own_a, own_b = a.own, b.own
        if min(a.seeds, b.seeds) > 1:
            free_a, free_b = a.seeds - 1, b.seeds - 1
            pooled = (free_a * own_a + free_b * own_b) / (free_a + free_b)
            own_a = max(own_a, pooled) if a.seeds < b.seeds else own_a
            own_b = max(own_b, pooled) if b.seeds < a.seeds else own_b
        variance = own_a / a.seeds + own_b / b.seeds + self.of_texts
        if self.texts == 1:
            return RecipeTest(difference, variance, 0.0, 1.0, 1, 1.0)
        parts = [
            (max(each.observed, each.residual / self.texts) / each.seeds, each.seeds - 1)
            for each in (a, b)
            if each.seeds > 1
        ]
        alike = a.seeds == b.seeds
        freedom, of_seeds = _freedom(variance, parts, self.of_texts, self.texts, alike)
        at = abs(difference) / math.sqrt(variance)
        p = _two_sided(at, freedom, of_seeds, self.texts)
        return RecipeTest(difference, variance, freedom, of_seeds, self.texts, p)

    def shows(self, difference: float, seeds: int | None, texts: int, level: float) -> bool:
        """Whether so many seeds a side and texts would show a true difference four times of five.

        Args:
            difference: as a share, more than 0.
            seeds: a side, at least 2; None leaves both sides as they are. A side with one seed
                is one model, and stays so.
            texts: at least 2.
            level: two-sided level of the test.
        """
        noise = sum(each.residual / each.seeds for each in (self.a, self.b))
        variance = of_texts = max(self.of_texts * self.texts - noise, 0.0) / texts
        excess = 0.0
        parts = []
        for each in (self.a, self.b):
            if each.seeds == 1:
                continue
            number = each.seeds if seeds is None else seeds
            part = (each.own + each.residual / texts) / number
            parts.append((part, number - 1))
            variance += part
            excess += _floored(each.own / number, part * math.sqrt(2 / (number - 1)))
            excess -= each.own / number
        if variance == 0:
            return True
        alike = self.a.seeds == self.b.seeds or (seeds is not None and len(parts) == 2)
        freedom, of_seeds = _freedom(variance, parts, of_texts, texts, alike)
        reach = _critical(level, freedom, of_seeds, texts) * math.sqrt(variance + excess)
        return bool(reach + stats.t.ppf(POWER, freedom) * math.sqrt(variance) <= difference)


def chance(right_a_SB: Right, right_b_SB: Right) -> Chance:
    """Both sides' variances, and that of the difference through the texts.

    Args:
        right_a_SB: whether each seed of the first recipe is right on each text, `[S, B]`.
        right_b_SB: the same of the second, texts in the same order; it may have other seeds, and
            more or fewer. That seeds bear the same number is not used.
    """
    a, b = side(right_a_SB), side(right_b_SB)
    texts = right_a_SB.shape[1]
    # In whole numbers, so that the order of the texts changes nothing.
    right_a_B = right_a_SB.sum(axis=0, dtype=np.int64)
    right_b_B = right_b_SB.sum(axis=0, dtype=np.int64)
    scale = a.seeds * b.seeds
    difference_B = right_a_B * b.seeds - right_b_B * a.seeds
    squares, total = int((difference_B**2).sum()), int(difference_B.sum())
    # One text more for each side, as far apart as others are (Bonett and Price 2012, J. Educ.
    # Behav. Stat. 37:479-488): texts that happen to agree are no proof that the next will.
    apart = squares / int(np.abs(difference_B).sum()) if squares else scale
    count = texts + 2
    of_texts = (squares + 2 * apart**2 - total**2 / count) / (scale**2 * count * (count - 1))
    return Chance(a, b, texts, of_texts)


@dataclass(frozen=True)
class NeededSize:
    """What it would take to see a difference of `points`, four times out of five.

    Attributes:
        points: the true difference in accuracy, in percentage points.
        enough: the sizes at hand would do.
        texts: how many, with the seeds at hand; None where no number of texts is enough.
        seeds: how many a side, with the texts at hand; None where no number of seeds is enough,
            or where seeds are not what the test counts.
        seeds_with_texts: where neither alone is enough, seeds a side and texts, grown alike.
    """

    points: float
    enough: bool
    texts: int | None
    seeds: int | None
    seeds_with_texts: tuple[int, int] | None


def needed_size(found: Chance, points: float, level: float = LEVEL) -> NeededSize:
    """Sizes for a difference of `points`, from variances as estimated: about, not exactly."""
    share = points / 100
    seeds, texts = max(found.a.seeds, found.b.seeds), found.texts
    more_texts = _fewest(lambda n: found.shows(share, None, n, level))
    more_seeds = None
    if seeds > 1:
        more_seeds = _fewest(lambda n: found.shows(share, n, max(texts, 2), level))
    both = None
    if more_texts is None and more_seeds is None:
        # One seed more for each side, and more texts in proportion.
        def beside(number: int) -> int:
            return max(math.ceil(texts * number / seeds), 2)

        grown = _fewest(lambda n: found.shows(share, n, beside(n), level))
        both = None if grown is None else (grown, beside(grown))
    enough = texts > 1 and found.shows(share, None, texts, level)
    return NeededSize(points, enough, more_texts, more_seeds, both)


def needed_texts(differ: int, texts: int, points: float, level: float = LEVEL) -> NeededSize:
    """Texts that McNemar's test needs, by how many of `texts` the two models differ on.

    Connor 1987, Biometrics 43:207-211.
    """
    share = points / 100
    differ_share = max((differ + 2) / (texts + 2), share)
    root = stats.norm.isf(level / 2) * math.sqrt(differ_share)
    root += stats.norm.ppf(POWER) * math.sqrt(max(differ_share - share**2, 0.0))
    needed = math.ceil((root / share) ** 2)
    return NeededSize(points, needed <= texts, needed, None, None)


def mean_interval(right_SB: Right, confidence: float = 1 - LEVEL) -> Interval:
    """Interval of a recipe's accuracy over seeds and texts; of the model's with one seed.

    Wilson's interval for the number of texts that would give the same variance, with Student's t
    for the normal (Dean and Pagano 2015, J. Surv. Stat. Methodol. 3:484-503).

    Args:
        right_SB: whether each seed is right on each text, `[S, B]`.
        confidence: coverage.
    """
    found = side(right_SB)
    seeds, texts = right_SB.shape
    if seeds == 1 or found.mean in (0.0, 1.0):
        return wilson_interval(round(found.mean * texts), texts, confidence)
    if texts == 1:
        return Interval(0.0, 1.0)
    right_B = right_SB.sum(axis=0, dtype=np.int64)
    squares = float((right_B**2).sum()) - float(right_B.sum()) ** 2 / texts
    of_texts = squares / (texts * (texts - 1) * seeds**2)
    variance = found.own / seeds + of_texts
    steadiness = max(found.observed, found.residual / texts) / seeds
    parts = steadiness**2 / (seeds - 1) + of_texts**2 / (texts - 1)
    reach = stats.t.isf((1 - confidence) / 2, max(variance**2 / parts, 1.0))
    spread = found.mean * (1 - found.mean)
    count = spread / max(variance, spread / (seeds * texts))
    low, high = proportion_confint(
        found.mean * count, count, alpha=2 * stats.norm.sf(reach), method="wilson"
    )
    return Interval(float(low), float(high))


def _freedom(
    variance: float, parts: list[tuple[float, int]], of_texts: float, texts: int, alike: bool
) -> tuple[float, float]:
    """Degrees of freedom, and the part of the critical value that they decide.

    Args:
        variance: of the difference.
        parts: what each side's seeds add to it, with its degrees of freedom.
        of_texts: what the texts add.
        texts: how many.
        alike: the sides have as many seeds.
    """
    uncertain = sum(part**2 / free for part, free in parts)
    if alike or uncertain == 0:
        uncertain += of_texts**2 / (texts - 1)
        return max(variance**2 / uncertain, 1.0), 1.0
    total = sum(part for part, _ in parts)
    return total**2 / uncertain, min(total / variance, 1.0)


def _critical(level: float, freedom: float, of_seeds: float, texts: int) -> float:
    """What a t value must pass, two-sided."""
    seeds, rest = stats.t.isf(level / 2, (freedom, texts - 1))
    return float(of_seeds * seeds + (1 - of_seeds) * rest)


def _two_sided(at: float, freedom: float, of_seeds: float, texts: int) -> float:
    """The level at which `at` is just critical."""
    low, high = sorted(float(2 * tail) for tail in stats.t.sf(at, (freedom, texts - 1)))
    if at == 0 or of_seeds == 1:
        return float(2 * stats.t.sf(at, freedom))
    if high < 1e-12:
        return high
    # A little wider than the bounds, so that rounding leaves the root between them.
    low, high = max(low * (1 - 1e-9), 1e-300), min(high * (1 + 1e-9), 1.0)
    return float(brentq(lambda p: _critical(p, freedom, of_seeds, texts) - at, low, high))


def _floored(mean: float, deviation: float) -> float:
    """Mean of a normal variable of which what is under 0 counts as 0."""
    if deviation == 0:
        return max(mean, 0.0)
    at = mean / deviation
    return float(mean * stats.norm.cdf(at) + deviation * stats.norm.pdf(at))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The least number from 2 that is enough; None where `MOST` is not."""
    if not enough(MOST):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
