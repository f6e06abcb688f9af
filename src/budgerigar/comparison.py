"""Many recipes, many seeds, one base: trained together, scored on the same texts, and what
may be said of them.

A comparison's folder holds a run's folder for each recipe and seed, `runs.json` with what was
asked for, and at the end `comparison.json`, of which the report is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from budgerigar import planning, recipe_text, runs, sources, tracking
from budgerigar.conductor import conduct
from budgerigar.console import note, warn
from budgerigar.errors import BudgieError, RecipeError, RunError
from budgerigar.evaluation import metrics, verdicts
from budgerigar.files import read_json, write_json
from budgerigar.planning import Plan
from budgerigar.recipe import SEEDS, Recipe
from budgerigar.reports.comparison import curves_of, write_comparison_report
from budgerigar.reports.figures import draw_curves
from budgerigar.runs import RunFolder
from budgerigar.tracking import Tool

SCHEMA = 2
"""Version of `runs.json` and `comparison.json`."""
SHOWN_TEXTS = 12
"""Texts on which the recipes' runs disagree most, that are kept with what each said."""


OF_EVERY_TEXT = ("groups", "probability_unlike")
"""Parts of a run's shift section that have an entry for each text."""


@dataclass(frozen=True)
class ComparisonFolder:
    """The places of a comparison's files."""

    path: Path

    @property
    def runs(self) -> Path:
        """Every run that was asked for; written first."""
        return self.path / "runs.json"

    @property
    def results(self) -> Path:
        """What came out; written last."""
        return self.path / "comparison.json"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.path / "report.html"

    def run(self, recipe: Recipe) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / f"{recipe.name}-seed-{recipe.seed}")


class Comparison:
    """A finished comparison.

    Attributes:
        folder: where its files are.
        results: what `comparison.json` holds.
    """

    def __init__(self, folder: str | Path) -> None:
        self._files = ComparisonFolder(Path(folder))
        self.folder = self._files.path
        if not self._files.results.exists():
            raise RunError(
                f"{self.folder} has no comparison.json",
                remedy="budgie compare --resume goes on with an unfinished comparison",
            )
        self.results: dict[str, Any] = read_json(self._files.results)
        schema = self.results.get("schema") if isinstance(self.results, dict) else None
        if schema != SCHEMA:
            raise RunError(
                f"{self._files.results} has schema {schema}",
                why=f"this version reads schema {SCHEMA}",
                remedy="use the version of budgerigar that wrote it",
            )
        try:
            self.table(), self.words
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise RunError(
                f"{self._files.results} is not what a finished comparison left",
                why=f"{type(error).__name__}: {error}",
                remedy="budgie compare --resume draws it up again",
            ) from error

    @property
    def words(self) -> list[str]:
        """The verdicts in words, one for each pair of recipes."""
        return [pair["words"] for pair in self.results["verdict"]["pairs"]]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns and rows: each recipe's accuracy over its seeds."""
        rows: list[tuple[str, ...]] = []
        for one in self.results["verdict"]["recipes"]:
            low, high = one["interval"]["low"], one["interval"]["high"]
            spread = one["standard_deviation"]
            rows.append(
                (
                    one["name"],
                    str(len(one["accuracies"])),
                    f"{one['mean']:.2%}",
                    f"{low:.2%} to {high:.2%}",
                    "" if spread is None else f"{100 * spread:.2f}",
                    f"{one['worst']:.2%}",
                )
            )
        scored_on = f"{self.results['scored_on']} accuracy"
        head = ("recipe", "seeds", scored_on, "95 % interval", "deviation, points", "worst seed")
        return head, rows

    def files(self) -> list[Path]:
        """What the comparison left, for people."""
        figures = sorted(self.folder.glob("curves.*"))
        places = [self._files.report, *figures, self._files.results]
        return [path for path in places if path.exists()]


def compare(
    recipes: Sequence[str | Path | Recipe],
    seeds: int | None = None,
    out: str | Path | None = None,
    *,
    first_seed: int = 1,
    track: Tool | None = None,
    **overrides: Any,
) -> Comparison:
    """Trains every recipe with every seed, together where they can be, and compares them.

    All runs learn from the same texts: unless `data.seed` says otherwise, the first recipe's
    own seed splits them, so that seeds vary the fresh weights, the order of the texts and
    dropout. Recipes that differ in base, texts or length form cohorts of their own.

    Args:
        recipes: recipes, shipped ones' names or YAML files; each with a name of its own.
        seeds: how many; `recipe.SEEDS` where empty.
        out: the comparison's folder; `runs/compare` under the current one where empty.
        first_seed: the seeds are counted from here.
        track: another tool that gets every run's records at the end, under the folder.
        **overrides: fields to change in all of them.

    Raises:
        BudgieError: whatever stands in the way, before a weight is loaded where it can.
    """
    tracking.require(track)
    files = ComparisonFolder(Path(out) if out else Path("runs") / "compare")
    resolved = [sources.absolute(recipe_text.resolve(one, overrides)) for one in recipes]
    _require_comparable(resolved)
    seeds = SEEDS if seeds is None else seeds
    if seeds < 1:
        raise RunError(f"{seeds} seeds were asked for", remedy="ask for one or more")
    if files.runs.exists():
        raise RunError(
            f"{files.path} holds a comparison already",
            remedy=f"go on with it: {_resume_with(files)}; or choose another --out",
        )
    split_seed = resolved[0].split_seed
    wanted = [
        _seeded(recipe, first_seed + number, split_seed)
        for recipe in resolved
        for number in range(seeds)
    ]
    planned = _plans(wanted)
    for recipe in wanted:
        if (folder := files.run(recipe)).path.exists():
            raise RunError(
                f"{folder.path} is there already", remedy="choose another folder with --out"
            )
    listed = [recipe.model_dump(mode="json") for recipe in wanted]
    write_json(files.runs, {"schema": SCHEMA, "runs": listed})
    return _conduct(files, planned, track)


def resume(folder: str | Path, track: Tool | None = None) -> Comparison:
    """Goes on with a comparison that was stopped or killed, and draws up its results anew.

    Args:
        folder: the comparison's.
        track: see `compare`.

    Raises:
        RunError: when there is none, or another process has one of its runs.
    """
    tracking.require(track)
    files = ComparisonFolder(Path(folder))
    if not files.runs.exists():
        raise RunError(
            f"{files.path} holds no comparison", remedy="start one with budgie compare RECIPE ..."
        )
    return _conduct(files, _plans(read_runs(files)), track)


def read_runs(files: ComparisonFolder) -> list[Recipe]:
    """Every run that was asked for.

    Raises:
        RunError: when `runs.json` is not what `compare` wrote.
        RecipeError: when a recipe in it is none.
    """
    content = read_json(files.runs)
    listed = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed or content.get("schema") != SCHEMA:
        raise RunError(
            f"{files.runs} is not what a comparison began with",
            remedy="put a copy of the file back, or begin a new comparison",
        )
    return [recipe_text.from_tree(tree, str(files.runs)) for tree in listed]


def _require_comparable(recipes: Sequence[Recipe]) -> None:
    """Refuses recipes that have one name, or that would be scored on different texts."""
    names = [recipe.name for recipe in recipes]
    if not names:
        raise RunError("no recipe was given", remedy="budgie recipes list shows what ships")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(
            twice[0],
            ["name: two of the recipes have it; a comparison tells recipes apart by their names"],
        )
    first = recipes[0]
    for other in recipes[1:]:
        if other.data.test != first.data.test or (
            first.data.test is None and other.data != first.data
        ):
            raise RecipeError(
                other.name,
                [
                    f"data.test: {first.name} is scored on other texts, and only figures on the "
                    "same texts can be compared"
                ],
            )


def _seeded(recipe: Recipe, seed: int, split_seed: int) -> Recipe:
    data = recipe.data
    if data.seed is None:
        data = data.model_copy(update={"seed": split_seed})
    return recipe.model_copy(update={"seed": seed, "data": data})


def _plans(wanted: Sequence[Recipe]) -> list[Plan]:
    """Every run's plan; one over its budget stops all, before a weight is loaded."""
    made: dict[str, Plan] = {}
    plans = []
    for recipe in wanted:
        if recipe.name not in made:
            made[recipe.name] = planning.make_plan(
                recipe, sources.class_names(recipe), weights=True
            )
        plans.append(planning.with_seed(made[recipe.name], recipe))
    classes = {plan.classes for plan in plans}
    if len(classes) > 1:
        raise RecipeError(
            wanted[-1].name,
            [f"data.classes: the recipes have other classes: {' / '.join(map(str, classes))}"],
        )
    return plans


def _resume_with(files: ComparisonFolder) -> str:
    return f"budgie compare --resume {shlex.quote(str(files.path))}"


def _conduct(files: ComparisonFolder, plans: Sequence[Plan], track: Tool | None) -> Comparison:
    planned = [(files.run(plan.recipe), plan) for plan in plans]
    errors = conduct(planned, _resume_with(files))
    for (folder, _), error in zip(planned, errors, strict=True):
        if error is not None:
            warn(f"{folder.path.name} failed: {error}")
    content = _content(files, planned, errors)
    draw_curves(curves_of(content), files.path / "curves")
    write_comparison_report(content, files.report)
    write_json(files.results, content)
    if track is not None:
        finished = [folder for (folder, _), e in zip(planned, errors, strict=True) if e is None]
        places = {tracking.track(track, folder, files.path) for folder in finished}
        note(f"the runs' records are in {', '.join(sorted(places))}")
    return Comparison(files.path)


def _content(
    files: ComparisonFolder,
    planned: Sequence[tuple[RunFolder, Plan]],
    errors: Sequence[BudgieError | None],
) -> dict[str, Any]:
    """What `comparison.json` holds."""
    first = planned[0][1].recipe
    scored_on = "validation" if first.data.test is None else "test"
    by_recipe: dict[str, list[tuple[RunFolder, Plan, BudgieError | None]]] = {}
    for (folder, plan), error in zip(planned, errors, strict=True):
        by_recipe.setdefault(plan.recipe.name, []).append((folder, plan, error))
    scored = {
        name: _Scored([folder for folder, _, error in of_recipe if error is None], scored_on)
        for name, of_recipe in by_recipe.items()
        if any(error is None for _, _, error in of_recipe)
    }
    if not scored:
        raise next(error for error in errors if error is not None)
    notes = [
        f"{folder.path.name} failed and is left out: {error}"
        for (folder, _), error in zip(planned, errors, strict=True)
        if error is not None
    ]
    choosing = {plan.recipe.name for _, plan in planned if _chooses(plan.recipe)}
    if scored_on == "validation" and choosing:
        said = "each run's best epoch was chosen: all figures are a little too high"
        if choosing != by_recipe.keys():
            names = " and ".join(sorted(choosing))
            said = f"the best epochs of {names} were chosen, which flatters them beside the others"
        notes.append(
            f"scored on the validation texts, on which {said}; name texts for the end with "
            "data.test"
        )
    verdict = verdicts.compare({name: one.right_SB for name, one in scored.items()})
    return {
        "schema": SCHEMA,
        "name": files.path.name,
        "scored_on": scored_on,
        "texts": verdict.texts,
        "classes": list(planned[0][1].classes),
        "recipes": [
            _recipe_record(name, of_recipe, scored.get(name))
            for name, of_recipe in by_recipe.items()
        ],
        "verdict": asdict(verdict),
        "disagreements": _disagreements(first, planned[0][1].classes, scored, scored_on),
        "notes": notes,
        "versions": runs.versions(),
    }


class _Scored:
    """What the finished runs of one recipe said of the texts.

    Attributes:
        truth_B, said_SB: class numbers.
        probabilities_SBC: of the classes.
        right_SB: where said and true agree.
    """

    def __init__(self, folders: Sequence[RunFolder], scored_on: str) -> None:
        tables = [
            pyarrow.parquet.read_table(folder.predictions / f"{scored_on}.parquet")
            for folder in folders
        ]
        columns = [name for name in tables[0].column_names if name.startswith("p_")]
        self.classes = [name.removeprefix("p_") for name in columns]
        self.probabilities_SBC = np.stack(
            [np.column_stack([table[name].to_numpy() for name in columns]) for table in tables]
        )
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.truth_B = np.array([numbers[name] for name in tables[0]["true"].to_pylist()])
        self.said_SB = self.probabilities_SBC.argmax(axis=2)
        self.right_SB = self.said_SB == self.truth_B


def _chooses(recipe: Recipe) -> bool:
    """Whether validation accuracy chooses a run's epoch."""
    return recipe.keep == "best" and recipe.epochs > 1


def _recipe_record(
    name: str,
    of_recipe: Sequence[tuple[RunFolder, Plan, BudgieError | None]],
    scored: _Scored | None,
) -> dict[str, Any]:
    plan = of_recipe[0][1]
    record: dict[str, Any] = {
        "name": name,
        "recipe": plan.recipe.model_dump(mode="json"),
        "trainable": plan.trainable,
        "path": plan.path,
        "runs": [_run_record(*one) for one in of_recipe],
        "reliability": [],
    }
    if scored is not None:
        seeds = len(scored.said_SB)
        bins = metrics.reliability(
            np.concatenate(list(scored.probabilities_SBC)), np.tile(scored.truth_B, seeds)
        )
        record["reliability"] = [asdict(one) for one in bins]
    return record


def _run_record(folder: RunFolder, plan: Plan, error: BudgieError | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "folder": folder.path.name,
        "seed": plan.recipe.seed,
        "failure": None if error is None else str(error),
    }
    if error is None:
        results = folder.read_results()
        kept = (
            *("epochs", "validation", "test", "unlabelled", "training", "seconds"),
            *("data", "model", "hardware"),
        )
        record.update({name: results[name] for name in kept})
        if record["unlabelled"]:
            # What is said of every single text stays in the run's own results.
            shift = record["unlabelled"]["shift"]
            few = {name: value for name, value in shift.items() if name not in OF_EVERY_TEXT}
            record["unlabelled"] = {**record["unlabelled"], "shift": few}
    return record


def _disagreements(
    recipe: Recipe, classes: Sequence[str], scored: Mapping[str, _Scored], scored_on: str
) -> list[dict[str, Any]]:
    """The texts on which the recipes' shares of right seeds lie furthest apart; of one recipe,
    those on which its seeds are most divided."""
    one = next(iter(scored.values()))
    shares = np.stack([each.right_SB.mean(axis=0) for each in scored.values()])
    apart_B = np.ptp(shares, axis=0) if len(scored) > 1 else 0.5 - np.abs(shares[0] - 0.5)
    most = [int(row) for row in np.argsort(-apart_B, kind="stable")[:SHOWN_TEXTS]]
    texts = sources.read_splits(recipe, classes).named()[scored_on].texts
    return [
        {
            "row": row,
            "text": texts[row],
            "label": one.classes[one.truth_B[row]],
            "said": {name: _counted(each, row) for name, each in scored.items()},
        }
        for row in most
        if apart_B[row] > 0
    ]


def _counted(scored: _Scored, row: int) -> dict[str, int]:
    """How many seeds gave a text which class."""
    counts = np.bincount(scored.said_SB[:, row], minlength=len(scored.classes))
    return {scored.classes[c]: int(count) for c, count in enumerate(counts) if count}
