"""The verbs: plan, cost, train, resume, curves, report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from budgerigar import comparison, planning, predict, recipe_text, sources, tracking
from budgerigar.comparison import ComparisonFolder
from budgerigar.conductor import conduct
from budgerigar.console import note
from budgerigar.errors import RunError, told
from budgerigar.files import read_json
from budgerigar.planning import Plan
from budgerigar.recipe import Recipe
from budgerigar.reports import figures
from budgerigar.reports.comparison import curves_of, write_comparison_report
from budgerigar.reports.printing import print_page
from budgerigar.reports.run import write_run_report
from budgerigar.runs import RESULTS_SCHEMA, RunFolder
from budgerigar.tracking import Tool


class Run:
    """A finished run.

    Attributes:
        results: what `results.json` holds.
    """

    def __init__(self, folder: str | Path) -> None:
        self._files = RunFolder(Path(folder))
        self.results = self._files.read_results()

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._files.path

    @property
    def adapter(self) -> Path:
        """The adapter's folder."""
        return self._files.adapter

    def files(self) -> list[Path]:
        """What the run left, for people: report, curves, results, adapter, predictions."""
        figures = sorted(self.folder.glob("curves.*"))
        places = [
            self._files.report,
            *figures,
            self._files.results,
            self._files.adapter,
            *sorted(self._files.predictions.glob("*.parquet")),
            self._files.submission,
        ]
        return [path for path in places if path.exists()]

    def curves(self) -> Path:
        """Draws training loss, validation loss and accuracy by epoch; gives the PNG's path."""
        return draw_curves([self.folder], self.folder / "curves")[0]

    def submission(self, texts: str | Path, out: str | Path | None = None) -> Path:
        """Predicts every text of a file and writes the competition's CSV.

        Args:
            texts: file of unlabelled texts.
            out: the CSV; `submission.csv` in the run's folder where empty.
        """
        path = Path(out) if out else self.folder / "submission.csv"
        names = self.results["recipe"]["data"]["columns"]
        rows = sources.read_unlabelled(str(texts), names and ",".join(names))
        predict.write_submission(predict.load(self.adapter).predict_source(rows.texts), path)
        return path


def plan(recipe: str | Path | Recipe, **overrides: Any) -> Plan:
    """Plans a recipe without loading a weight or, where it names its classes, a text.

    Args:
        recipe: a recipe, a shipped one's name, or a YAML file.
        **overrides: fields to change: nested mappings, or `**{"adapter.rank": 4}`.

    Raises:
        BudgieError: see `planning.make_plan`.
    """
    resolved = recipe_text.resolve(recipe, overrides)
    return planning.make_plan(resolved, sources.class_names(resolved))


def cost(made: Plan) -> dict[str, Any]:
    """What a planned run will cost on this machine, with what the estimate was made from."""
    from budgerigar.encoder import hardware

    work = sources.workload(made.recipe, made.checkpoint, made.max_length)
    precision = hardware.resolve_precision(made.recipe.precision, hardware.device()).name
    return {**asdict(made.cost(work, precision)), **asdict(work), "precision": precision}


def train(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    track: Tool | None = None,
    **overrides: Any,
) -> Run:
    """Does the whole job of a recipe.

    Args:
        recipe: a recipe, a shipped one's name, or a YAML file.
        out: the run's folder; `runs/NAME` under the current one where empty.
        track: another tool that gets the run's records at the end, under its folder.
        **overrides: fields to change: nested mappings, or `**{"data.max_rows": 800}`.

    Raises:
        BudgieError: whatever stands in the way.
    """
    tracking.require(track)
    resolved = sources.absolute(recipe_text.resolve(recipe, overrides))
    files = RunFolder(Path(out) if out else Path("runs") / resolved.name)
    if not files.is_empty():
        raise RunError(
            f"{files.path} holds a run already",
            remedy=f"go on with it: budgie train --resume {files.path}; or choose another --out",
        )
    if others := files.left_by_others():
        raise RunError(
            f"{files.path} holds {others[0].name}, which a run would overwrite",
            remedy="choose another folder with --out",
        )
    ready = planning.make_plan(resolved, sources.class_names(resolved), weights=True)
    return _conduct(files, ready, track)


def resume(folder: str | Path, track: Tool | None = None) -> Run:
    """Goes on with a run that was stopped or killed.

    Args:
        folder: the run's.
        track: see `train`.

    Raises:
        RunError: when there is no run, or another process has it.
    """
    tracking.require(track)
    files = RunFolder(Path(folder))
    if files.is_empty():
        raise RunError(f"{files.path} holds no run", remedy="start one with budgie train RECIPE")
    if files.is_finished():
        note(f"{files.path} is finished already")
        return _tracked(files, track)
    recipe = recipe_text.read(files.recipe)
    ready = planning.make_plan(recipe, sources.class_names(recipe), weights=True)
    return _conduct(files, ready, track)


def _conduct(files: RunFolder, ready: Plan, track: Tool | None) -> Run:
    again = f"budgie train --resume {shlex.quote(str(files.path))}"
    (error,) = conduct([(files, ready)], again)
    if error is not None:
        raise error
    return _tracked(files, track)


def _tracked(files: RunFolder, track: Tool | None) -> Run:
    """A finished run, its records written for another tool too if one is named."""
    if track is not None:
        note(f"the run's records are in {tracking.track(track, files, files.path)}")
    return Run(files.path)


def draw_curves(folders: Sequence[str | Path], stem: Path) -> list[Path]:
    """Draws the curves of any number of runs, finished or not, into one figure.

    Args:
        folders: the runs' folders.
        stem: the figures' path without its ending.

    Raises:
        RunError: when a folder holds no run, or none of its epochs is finished.
    """
    curves = []
    for folder in folders:
        files = RunFolder(Path(folder))
        if files.is_empty():
            raise RunError(f"{files.path} holds no run", remedy="name the folder of a run")
        curves.append(figures.Curve(files.path.name, [files.read_epochs()]))
    return figures.draw_curves(curves, stem)


def report(place: str | Path, out: str | Path | None = None, *, pdf: bool = False) -> list[Path]:
    """Writes the report of a finished run or comparison anew, with its curves.

    Args:
        place: a run's or a comparison's folder, or its results.json or comparison.json.
        out: the folder to write to; the one of the results where empty.
        pdf: whether to print the report too; needs a browser.

    Returns:
        The report, its PDF if asked for, and the curves.

    Raises:
        RunError: when there are no results, they are not whole, or nothing can print.
    """
    file = _recorded(Path(place))
    folder = file.parent if out is None else Path(out)
    page = folder / "report.html"
    content = read_json(file)

    def unfit(why: str) -> RunError:
        return RunError(
            f"{file} is not what a finished run or comparison left",
            why=why,
            remedy="name its folder",
        )

    with told(unfit):
        is_comparison = "verdict" in content
        known = comparison.SCHEMA if is_comparison else RESULTS_SCHEMA
        if content["schema"] != known:
            raise RunError(
                f"{file} has schema {content['schema']}",
                why=f"this version reads schema {known}",
                remedy="use the version of budgerigar that wrote it",
            )
        if is_comparison:
            curves = curves_of(content)
            write_comparison_report(content, page)
        else:
            curves = [figures.Curve(content["name"], [content["epochs"]])]
            write_run_report(content, page)
        drawn = figures.draw_curves(curves, folder / "curves")
    if pdf:
        print_page(page, page.with_suffix(".pdf"))
    return [page, *([page.with_suffix(".pdf")] if pdf else []), *drawn]


def _recorded(place: Path) -> Path:
    """The file of results that a place names."""
    if not place.is_dir():
        return place
    files = ComparisonFolder(place), RunFolder(place)
    for folder in files:
        if folder.results.exists():
            return folder.results
    raise RunError(
        f"{place} holds no results",
        why="there is neither results.json nor comparison.json",
        remedy="name the folder of a finished run or comparison",
    )
