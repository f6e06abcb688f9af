"""Commands that train, and that show what trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from budgerigar import console
from budgerigar.cli.options import (
    AsJson,
    ColumnNames,
    RecipeName,
    Settings,
    Track,
    changes_of,
    require_alone,
    show,
)
from budgerigar.errors import RunError


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A shipped recipe or a file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/NAME where not given.")
    ] = None,
    settings: Settings = None,
    columns: ColumnNames = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    track: Track = None,
) -> None:
    """Train a recipe: plan, data, training, test, adapter, report."""
    from budgerigar import pipeline, recipe_text, results

    if resume is not None:
        require_alone(
            f"budgie train --resume {resume}",
            bool(recipe or out or settings or columns),
            takes_no="recipe",
            but="--track",
            why="a run goes on with the recipe in its folder",
        )
        run = pipeline.resume(resume, track)
    elif recipe is None:
        raise RunError("no recipe was given", remedy="budgie recipes list shows what ships")
    else:
        chosen = recipe_text.read(recipe, changes_of(settings, columns))
        run = pipeline.train(chosen, out, track=track)
    for line in results.headline(run.results):
        console.result(line)
    for path in run.files():
        console.result(str(path))


def compare(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE...", help="Shipped recipes or files, two or more."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each recipe, with seeds from 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The comparison's folder; runs/compare where not given.")
    ] = None,
    settings: Settings = None,
    columns: ColumnNames = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="COMPARISON", help="Go on with a comparison that was stopped."),
    ] = None,
    track: Track = None,
    as_json: AsJson = False,
) -> None:
    """Train recipes with several seeds together, and say which is better, if one is."""
    from budgerigar import comparison, recipe_text

    if resume is not None:
        require_alone(
            f"budgie compare --resume {resume}",
            bool(recipes or out or settings or columns),
            takes_no="recipe",
            but="--track",
            why="a comparison goes on with the recipes in its folder",
        )
        found = comparison.resume(resume, track)
    else:
        changes = changes_of(settings, columns)
        chosen = [recipe_text.read(name, changes) for name in recipes or ()]
        found = comparison.compare(chosen, seeds, out, track=track)
    if as_json:
        console.result_json(found.results)
        return
    for line in found.words:
        console.result(line)
    console.table(*found.table())
    for line in found.results["notes"]:
        console.note(line)
    for path in found.files():
        console.result(str(path))


def search(
    space: Annotated[
        Path | None, typer.Argument(metavar="SPACE", help="A YAML file: a recipe and its ranges.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates to train.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The search's folder; runs/NAME where not given.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Fresh seeds with which the best recipe is trained anew; 0 for none."),
    ] = None,
    settings: Settings = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="SEARCH", help="Go on with a search that was stopped.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search for the best recipe under the budget, and train it anew with fresh seeds."""
    from budgerigar import search as searching

    if resume is not None:
        require_alone(
            f"budgie search --resume {resume}",
            bool(space or out or settings) or seeds is not None,
            takes_no="space",
            but="--trials",
            why="a search goes on with what its folder says",
        )
        found = searching.resume(resume, trials)
    elif space is None:
        raise RunError("no space was given", remedy="docs/search.md shows how to write one")
    else:
        changes = settings or ()
        found = searching.search(space, out, trials=trials, seeds=seeds, settings=changes)
    if as_json:
        console.result_json(found.to_json())
        return
    for line in found.words():
        console.result(line)
    console.result(str(searching.SearchFolder(found.folder).best))


def plan(
    recipe: RecipeName,
    settings: Settings = None,
    columns: ColumnNames = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Show the largest rank for each choice.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a recipe trains, what the budget leaves, and what it will cost."""
    from budgerigar import pipeline, planning, recipe_text

    made = pipeline.plan(recipe_text.read(recipe, changes_of(settings, columns)))
    content = {**made.to_json(), "cost": pipeline.cost(made)}
    if as_json:
        console.result_json(content)
        return
    show(planning.describe(content, fit=fit))


def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="Path of the figures without their endings.")] = Path(
        "curves"
    ),
) -> None:
    """Draw losses and accuracy by epoch of any number of runs, as PNG and SVG."""
    from budgerigar import pipeline

    stem = out.with_suffix("") if out.suffix in (".png", ".svg") else out
    for path in pipeline.draw_curves(runs, stem):
        console.result(str(path))


def report(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER_OR_FILE...",
            help="Folders of finished runs or comparisons, or their results.json or "
            "comparison.json.",
        ),
    ] = None,
    trainer_states: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="TRAINER_STATE",
            help="Draw the curves of runs of Hugging Face's Trainer instead: their "
            "trainer_state.json, or folders that hold one; more may follow.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write to; the results' own, with --from this one."),
    ] = None,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print report.pdf too; needs chromium or chrome.")
    ] = False,
) -> None:
    """Write the report of a run or comparison anew, or draw what Trainer logged."""
    from budgerigar import pipeline
    from budgerigar.reports import figures, trainer_state

    if trainer_states:
        if pdf:
            raise RunError("--pdf prints reports", remedy="--from draws curves: leave one out")
        curves = trainer_state.read_curves([*trainer_states, *(places or ())])
        written = figures.draw_curves(curves, (out or Path()) / "curves")
    elif not places:
        raise RunError("no folder was given", remedy="name those of runs or comparisons")
    elif out is not None and len(places) > 1:
        raise RunError(
            f"one --out for {len(places)} reports", remedy="leave it out, or name one folder"
        )
    else:
        written = [path for place in places for path in pipeline.report(place, out, pdf=pdf)]
    for path in written:
        console.result(str(path))
