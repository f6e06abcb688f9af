"""A comparison's report: a pure function of `comparison.json`.

Shape letters: C classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budgerigar.reports import diagrams
from budgerigar.reports.figures import PANELS, Curve, curve_drawings
from budgerigar.reports.page import write_page


def write_comparison_report(content: dict[str, Any], path: Path) -> None:
    """Writes the report of `comparison.json` as one HTML file that needs no network.

    Args:
        content: of `comparison.json`.
        path: the file.

    Raises:
        RunError: when the file cannot be written.
    """
    of_verdict = {one["name"]: one for one in content["verdict"]["recipes"]}
    every = [
        _Side(number, record, of_verdict[record["name"]], content["scored_on"])
        for number, record in enumerate(content["recipes"])
        if record["name"] in of_verdict
    ]
    best = max(every, key=lambda side: side.summary["mean"])
    runs = [run for side in every for run in side.runs]
    cohorts = _cohorts(every)
    write_page(
        "comparison.html",
        path,
        c=content,
        sides=every,
        best=best,
        others=[side for side in every if side is not best],
        panels=PANELS,
        curve_drawings=curve_drawings(curves_of(content)),
        accuracy_drawing=diagrams.accuracy_drawing(
            [side.summary for side in every], [side.number for side in every]
        ),
        differing=_differing({one["name"]: one["recipe"] for one in content["recipes"]}),
        data=_distinct((name, one) for run in runs for name, one in run["data"].items()),
        models=_distinct((run["model"]["name"], run["model"]) for run in runs),
        machines=_distinct(("machine", run["hardware"]) for run in runs),
        cohorts=cohorts,
        costs={side.name: _Cost.of(side.name, cohorts) for side in every},
        shifts=[
            (side, run["seed"], run["unlabelled"]["shift"])
            for side in every
            for run in side.runs
            if run["unlabelled"] and "shift" in run["unlabelled"]
        ],
        predicted=[side for side in every if any(run["unlabelled"] for run in side.runs)],
    )


def curves_of(content: Mapping[str, Any]) -> list[Curve]:
    """The learning curves of a comparison: one for each recipe that has a finished run."""
    found = [
        Curve(one["name"], [run["epochs"] for run in one["runs"] if run["failure"] is None])
        for one in content["recipes"]
    ]
    return [curve for curve in found if curve.runs]


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    low: float
    high: float


class _Side:
    """One recipe with its finished runs, as the page shows it.

    Attributes:
        number: its place among the comparison's recipes, which gives it its look.
        record: its entry of `recipes`.
        summary: its entry of `verdict.recipes`.
        runs: the finished ones.
        scores: of these, on the texts that the comparison is about.
        confusion: `[C][C]` counts, mean over runs.
    """

    def __init__(
        self, number: int, record: dict[str, Any], summary: dict[str, Any], scored_on: str
    ) -> None:
        self.number, self.record, self.summary = number, record, summary
        self.name: str = record["name"]
        self.runs = [run for run in record["runs"] if run["failure"] is None]
        self.scores = [run[scored_on] for run in self.runs]
        self.curve = Curve(self.name, [run["epochs"] for run in self.runs])
        self.sample = diagrams.sample_drawing(number)
        self.reliability = diagrams.reliability_drawing(record["reliability"], number, self.name)
        self.confusion = [
            [_mean(cells) for cells in zip(*rows, strict=True)]
            for rows in zip(*(one["confusion"] for one in self.scores), strict=True)
        ]

    def over_seeds(self, field: str) -> Spread:
        """A figure of the scores over seeds."""
        return _spread([one[field] for one in self.scores])

    def of_class(self, place: int, field: str) -> Spread:
        """A figure of one class over seeds."""
        return _spread([one["classes"][place][field] for one in self.scores])

    def right_of_class(self, place: int) -> Spread:
        """Texts of one class that were classified correctly, over seeds."""
        return _spread([one["confusion"][place][place] for one in self.scores])

    def confusion_less(self, other: _Side) -> list[list[float]]:
        """Mean counts less the other's, `[C][C]`."""
        return [
            [own - its for own, its in zip(row, its_row, strict=True)]
            for row, its_row in zip(self.confusion, other.confusion, strict=True)
        ]

    def epochs(self) -> list[tuple[float, dict[str, Any]]]:
        """Each epoch with its point of every panel."""
        by_field = {panel.field: self.curve.points(panel.field) for panel in PANELS}
        rows = zip(*by_field.values(), strict=True)
        return [(points[0].epoch, dict(zip(by_field, points, strict=True))) for points in rows]

    def predicted(self, name: str) -> Spread:
        """Unlabelled texts that were given a class, over seeds."""
        found = [run["unlabelled"]["distribution"] for run in self.runs if run["unlabelled"]]
        return _spread([one.get(name, 0) for one in found])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(_mean(values), min(values), max(values))


def _differing(recipes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Fields in which recipes differ, each with its value in every one; `–` where it has none."""
    flat = [dict(_fields(recipe)) for recipe in recipes.values()]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [(name, [one.get(name, "–") for one in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _fields(tree: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    """Every field of a recipe with its path and value, but for what tells runs apart."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{path}{name}.")
        elif path or name not in ("name", "seed"):
            plain = isinstance(value, str)
            yield f"{path}{name}", value if plain else json.dumps(value, ensure_ascii=False)


def _distinct(entries: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Named records, each once."""
    found = {json.dumps(entry, sort_keys=True): entry for entry in entries}
    return list(found.values())


@dataclass(frozen=True)
class _Cohort:
    """Runs that trained together.

    Attributes:
        training: what their results say of it.
        runs: of each recipe.
    """

    training: Mapping[str, Any]
    runs: dict[str, list[dict[str, Any]]]

    @property
    def shared(self) -> dict[str, float]:
        """Seconds of the stages that were done once for all: those that all give alike."""
        if self.training["cohort"] == 1:
            return {}
        every = [run["seconds"] for runs in self.runs.values() for run in runs]
        return {
            name: taken
            for name, taken in every[0].items()
            if all(one.get(name) == taken for one in every)
        }


def _cohorts(sides: Sequence[_Side]) -> list[_Cohort]:
    """The runs' cohorts, told by the time that training took, which all runs of one give alike."""
    found: dict[tuple[int, float], _Cohort] = {}
    for side in sides:
        for run in side.runs:
            key = run["training"]["cohort"], run["seconds"]["training"]
            cohort = found.setdefault(key, _Cohort(run["training"], {}))
            cohort.runs.setdefault(side.name, []).append(run)
    return list(found.values())


@dataclass(frozen=True)
class _Cost:
    """Seconds of one recipe's runs: equal parts of what cohorts did once for all, and their own."""

    shared: float
    own: float

    @property
    def total(self) -> float:
        return self.shared + self.own

    @classmethod
    def of(cls, name: str, cohorts: Sequence[_Cohort]) -> _Cost:
        shared = own = 0.0
        for cohort in cohorts:
            common = cohort.shared
            for run in cohort.runs.get(name, []):
                shared += sum(common.values()) / cohort.training["cohort"]
                own += sum(taken for stage, taken in run["seconds"].items() if stage not in common)
        return cls(shared, own)
