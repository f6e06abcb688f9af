"""How often verdicts err, and what they see: simulated recipes of known accuracy.

    python benchmarks/verdicts.py [--comparisons 2000] [--texts 7600] [--json FILE]

Every text has its own chance of being right, a logistic-normal one: mean accuracy 92 %, and two
seeds of one recipe disagree on 5 % of the texts. A seed shifts its recipe's accuracy by a
normal amount. "Same" recipes have the same chances; "alike" ones have the same accuracy and
disagree on about half a point more of the texts, as recipes do that differ in kind. Every
comparison draws new texts, new seeds and new predictions. The tables are Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats
from scipy.special import expit

from budgerigar.evaluation.crossed import Chance, chance
from budgerigar.evaluation.statistics import LEVEL

DIFFICULTY_MEAN, DIFFICULTY_SPREAD = 8.342, 5.656
"""Of the logit: 92 % right, two seeds disagree on 5 %."""
MEAN_VARIANCE = 0.025
"""Mean over texts of a prediction's variance: half the share on which two seeds disagree."""
ALIKE = 0.98
"""Correlation of a text's difficulty for two recipes that are alike."""
SEEDS = (3, 5, 10)
SPREADS = (0.0, 0.3, 0.6)
RESAMPLES = 500

Test = Callable[[Chance, np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Case:
    """Two recipes: seeds a side, spread over seeds in points, what else they differ in."""

    seeds: tuple[int, int]
    spreads: tuple[float, float]
    correlation: float = 1.0
    difference: float = 0.0

    def draw(self, texts: int, random: np.random.Generator) -> list[np.ndarray]:
        """Right predictions of both sides, `[S, B]` each."""
        shared_B = random.standard_normal(texts, dtype=np.float32)
        sides = []
        for seeds, spread, sign in zip(self.seeds, self.spreads, (1, -1), strict=True):
            own_B = random.standard_normal(texts, dtype=np.float32)
            mixed_B = math.sqrt(self.correlation) * shared_B
            mixed_B += math.sqrt(1 - self.correlation) * own_B
            chance_B = expit(np.float32(DIFFICULTY_MEAN) + np.float32(DIFFICULTY_SPREAD) * mixed_B)
            moves_B = chance_B * (1 - chance_B) / np.float32(MEAN_VARIANCE)
            shift_S = random.normal(sign * self.difference / 2, spread, seeds) / 100
            shift_S = shift_S.astype(np.float32)
            drawn_SB = random.random((seeds, texts), dtype=np.float32)
            sides.append(drawn_SB < chance_B + shift_S[:, None] * moves_B)
        return sides


def shipped(found: Chance, a_SB: np.ndarray, b_SB: np.ndarray) -> float:
    """The test that verdicts use."""
    return found.test().p


def hillis(found: Chance, a_SB: np.ndarray, b_SB: np.ndarray) -> float:
    """Hillis 2007: the texts' part never under 0, the seeds' part as observed."""
    parts = [(side.observed / side.seeds, side.seeds - 1) for side in (found.a, found.b)]
    noise = sum(side.residual / side.seeds for side in (found.a, found.b)) / found.texts
    return welch(found.a.mean - found.b.mean, parts, max(found.of_texts - noise, 0))


def seeds_alone(found: Chance, a_SB: np.ndarray, b_SB: np.ndarray) -> float:
    """Welch's t test of the accuracies."""
    parts = [(side.observed / side.seeds, side.seeds - 1) for side in (found.a, found.b)]
    return welch(found.a.mean - found.b.mean, parts, 0.0)


def texts_alone(found: Chance, a_SB: np.ndarray, b_SB: np.ndarray) -> float:
    """A t test over texts of the difference of mean predictions."""
    difference_B = a_SB.mean(axis=0) - b_SB.mean(axis=0)
    return float(stats.ttest_1samp(difference_B, 0).pvalue)


class Bootstrap:
    """Paired hierarchical bootstrap: seeds drawn by number and texts, each for both sides."""

    def __init__(self, seeds: int, texts: int) -> None:
        draw = np.random.default_rng(seeds).multinomial
        # One set of texts' weights serves all comparisons: texts stand in random order.
        self.weights_BR = draw(texts, np.full(texts, 1 / texts), RESAMPLES).T.astype(np.float32)
        self.weights_RS = draw(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds

    def __call__(self, found: Chance, a_SB: np.ndarray, b_SB: np.ndarray) -> float:
        difference_SB = a_SB.astype(np.float32) - b_SB.astype(np.float32)
        of_seeds_SR = difference_SB @ self.weights_BR
        means_R = (self.weights_RS.T * of_seeds_SR).sum(axis=0)
        return float(min(1.0, 2 * min((means_R <= 0).mean(), (means_R >= 0).mean())))


def welch(difference: float, parts: list[tuple[float, int]], steady: float) -> float:
    """A t test's two-sided p value.

    Args:
        difference: of the means.
        parts: variance of each mean, and its degrees of freedom.
        steady: variance that is as good as known.
    """
    variance = sum(part for part, _ in parts) + steady
    uncertain = sum(part**2 / free for part, free in parts)
    if uncertain == 0:
        return float(difference == 0)
    freedom = variance**2 / uncertain
    return float(2 * stats.t.sf(abs(difference) / math.sqrt(variance), freedom))


def shares(
    case: Case, tests: dict[str, Test], comparisons: int, texts: int, again: int = 0
) -> dict[str, float]:
    """Which share of the comparisons each test calls different; `again` draws other ones."""
    called = dict.fromkeys(tests, 0)
    random = np.random.default_rng([*repr(case).encode(), again])
    for _ in range(comparisons):
        sides = case.draw(texts, random)
        found = chance(*sides)
        for name, test in tests.items():
            called[name] += test(found, *sides) < LEVEL
    return {name: count / comparisons for name, count in called.items()}


def above(share: float, comparisons: int) -> float:
    """p value of a share above 5 %."""
    called = round(share * comparisons)
    return float(stats.binomtest(called, comparisons, LEVEL, alternative="greater").pvalue)


def null_tables(asked: argparse.Namespace) -> list[dict]:
    """Equal recipes: every candidate, then the shipped test where the sides are unlike."""
    rows = []
    plain = {
        "shipped": shipped,
        "Hillis": hillis,
        "seeds alone": seeds_alone,
        "texts alone": texts_alone,
    }
    heading("Equal recipes called different", [*plain, "bootstrap"])
    for correlation in (1.0, ALIKE):
        for spread in SPREADS:
            for seeds in SEEDS:
                tests = {**plain, "bootstrap": Bootstrap(seeds, asked.texts)}
                case = Case((seeds, seeds), (spread, spread), correlation)
                rows.append(null_row(case, tests, asked))
    heading("Equal recipes, other numbers of seeds", ["shipped", "Hillis"])
    for seeds, spreads in [
        *(((few, many), (spread,) * 2) for few, many in ((2, 2), (2, 5), (3, 5), (3, 10), (5, 10))
          for spread in SPREADS),
        *((seeds, (0.6, 0.0)) for seeds in ((3, 3), (5, 5), (3, 5), (5, 10), (3, 10))),
    ]:  # fmt: skip
        case = Case(seeds, spreads, ALIKE)
        rows.append(null_row(case, {"shipped": shipped, "Hillis": hillis}, asked))
    heading("A model as good as another recipe's models on average", ["shipped"])
    for seeds in SEEDS:
        for spread in SPREADS[1:]:
            case = Case((1, seeds), (0.0, spread), ALIKE)
            rows.append(null_row(case, {"shipped": shipped}, asked))
    return rows


def heading(title: str, columns: Sequence[str]) -> None:
    """A title, and a table's head."""
    first = ["recipes", "spread over seeds", "seeds", columns[0], "p, above 5 %", *columns[1:]]
    print(f"\n{title}\n\n| " + " | ".join(first) + " |\n|" + "---|" * len(first), flush=True)


def null_row(case: Case, tests: dict[str, Test], asked: argparse.Namespace, times: int = 1) -> dict:
    """Runs a case and prints its row; `times` as many comparisons, other ones."""
    comparisons = times * asked.comparisons
    found = shares(case, tests, comparisons, asked.texts, again=times - 1)
    p = above(found["shipped"], comparisons)
    first, *others = (f"{100 * share:.1f} %" for share in found.values())
    kind = "same" if case.correlation == 1 else "alike"
    spread = " and ".join(f"{value:g}" for value in dict.fromkeys(case.spreads))
    seeds = f"{case.seeds[0]} and {case.seeds[1]}"
    print("| " + " | ".join([kind, spread, seeds, first, f"{p:.2g}", *others]) + " |", flush=True)
    return {"case": asdict(case), "comparisons": comparisons, "p_above": p, "shares": found}


def highest_again(rows: list[dict], asked: argparse.Namespace) -> dict:
    """The case of equal spreads with the largest share, in ten times as many new comparisons.

    Of many cases some share is high by chance; new comparisons tell chance from fault.
    """
    plain = [row for row in rows if "bootstrap" in row["shares"]]
    worst = max(plain, key=lambda row: row["shares"]["shipped"])
    heading("The highest of the first table again, ten times as many", ["shipped"])
    return null_row(Case(**worst["case"]), {"shipped": shipped}, asked, times=10)


def power_table(asked: argparse.Namespace) -> list[dict]:
    """Recipes that differ: how often the shipped test sees it."""
    rows = []
    print("\nTrue differences seen\n\n| spread over seeds | seeds a side | 0.5 points | 1 point |")
    print("|---|---|---|---|", flush=True)
    for spread in SPREADS:
        for seeds in SEEDS:
            seen = []
            for difference in (0.5, 1.0):
                case = Case((seeds, seeds), (spread, spread), ALIKE, difference)
                found = shares(case, {"shipped": shipped}, asked.comparisons, asked.texts)
                seen.append(found["shipped"])
                rows.append({"case": asdict(case), "share": seen[-1]})
            shown = " | ".join(f"{100 * share:.0f} %" for share in seen)
            print(f"| {spread:g} | {seeds} | {shown} |", flush=True)
    return rows


def main() -> None:
    """Runs the simulation, prints its tables, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=2_000, help="of each case")
    parser.add_argument("--texts", type=int, default=7_600, help="in each comparison")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    rows = null_tables(asked)
    figures = {
        "comparisons": asked.comparisons,
        "texts": asked.texts,
        "null": rows,
        "highest_again": highest_again(rows, asked),
        "power": power_table(asked),
    }
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
