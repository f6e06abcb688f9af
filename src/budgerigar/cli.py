"""The command line: thin commands over the same verbs that Python has.

Nothing heavy is imported before a command needs it, so that help is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from budgerigar import __version__, console
from budgerigar.errors import (
    BudgieError,
    DataError,
    Interrupted,
    OutOfMemory,
    RunError,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from budgerigar.encoder.prefix import Entry

app = typer.Typer(
    name="budgie",
    help="Fine-tune text classifiers on a budget of trainable parameters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes_app = typer.Typer(
    help="List, show, copy and check recipes.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(recipes_app, name="recipes")
cache_app = typer.Typer(
    help="List and clear what frozen layers gave for texts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(cache_app, name="cache")

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe or a file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a field, such as adapter.rank=4."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ColumnNames = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAMES",
        help="Columns that count, in order, such as label,title,text; text columns are joined.",
    ),
]
Track = Annotated[
    Literal["tensorboard", "mlflow"] | None,
    typer.Option(help="Write the records for this tool too; needs budgerigar[track]."),
]
AdapterFolder = Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter folder.")]
TextFile = Annotated[
    str, typer.Argument(metavar="FILE", help="Texts: a file, a hub data set, or - for stdin.")
]
BaseModel = Annotated[
    str | None, typer.Option("--model", help="Where the base model is now, if it was moved.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    if version:
        console.result(__version__)
        raise typer.Exit
    if debug:
        os.environ["BUDGIE_DEBUG"] = "1"


@app.command()
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
        if recipe or out or settings or columns:
            raise RunError(
                "--resume takes no recipe and no other option but --track",
                why="a run goes on with the recipe in its folder",
                remedy=f"budgie train --resume {resume}",
            )
        run = pipeline.resume(resume, track)
    elif recipe is None:
        raise RunError("no recipe was given", remedy="budgie recipes list shows what ships")
    else:
        chosen = recipe_text.read(recipe, _settings(settings, columns))
        run = pipeline.train(chosen, out, track=track)
    for line in results.headline(run.results):
        console.result(line)
    for path in run.files():
        console.result(str(path))


@app.command()
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
        if recipes or out or settings or columns:
            raise RunError(
                "--resume takes no recipe and no other option but --track",
                why="a comparison goes on with the recipes in its folder",
                remedy=f"budgie compare --resume {resume}",
            )
        found = comparison.resume(resume, track)
    else:
        changes = _settings(settings, columns)
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


@app.command()
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
        if space or out or settings or seeds is not None:
            raise RunError(
                "--resume takes no space and no other option but --trials",
                why="a search goes on with what its folder says",
                remedy=f"budgie search --resume {resume}",
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


@app.command()
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

    made = pipeline.plan(recipe_text.read(recipe, _settings(settings, columns)))
    content = {**made.to_json(), "cost": pipeline.cost(made)}
    if as_json:
        console.result_json(content)
        return
    _show(planning.describe(content, fit=fit))


@app.command()
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


@app.command()
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


@app.command()
def predict(
    adapter: AdapterFolder,
    file: TextFile,
    out: Annotated[
        Path | None,
        typer.Option(help="A .parquet, .csv or .jsonl file; JSON lines on stdout if not given."),
    ] = None,
    abstain: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Leave texts below this probability open.")
    ] = 0.0,
    columns: ColumnNames = None,
    model: BaseModel = None,
) -> None:
    """Predict the class and probabilities of every text in a file."""
    from budgerigar import predict as prediction

    if out is not None:
        prediction.check_format(out)
    predictions = _predict(adapter, file, columns, model, abstain)
    if out is None:
        for line in prediction.json_lines(predictions):
            console.result(line.rstrip("\n"))
        return
    prediction.write_predictions(predictions, out)
    console.result(f"{out}: {len(predictions):,} rows")


@app.command()
def submit(
    adapter: AdapterFolder,
    file: TextFile,
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("submission.csv"),
    header: Annotated[str, typer.Option(help="Names of the two columns.")] = "ID,Label",
    labels: Annotated[
        Literal["index", "name"], typer.Option(help="Class numbers from 0, or names.")
    ] = "index",
    columns: ColumnNames = None,
    model: BaseModel = None,
    as_json: AsJson = False,
) -> None:
    """Write a competition's submission: a row for each text, in order."""
    from budgerigar import predict as prediction
    from budgerigar.files import require_place

    names = tuple(name.strip() for name in header.split(","))
    if len(names) != 2 or not all(names):
        raise DataError(f"--header {header!r} is not two names", remedy="give two, as in ID,Label")
    require_place(out)
    predictions = _predict(adapter, file, columns, model, abstain=0.0)
    prediction.write_submission(predictions, out, (names[0], names[1]), labels)
    counts = predictions.distribution()
    if as_json:
        console.result_json({"file": str(out), "rows": len(predictions), "classes": counts})
        return
    console.result(f"{out}: {len(predictions):,} rows")
    console.table(
        ("class", "texts", "share"),
        [(name, f"{n:,}", f"{n / len(predictions):.1%}") for name, n in counts.items()],
    )


@app.command()
def inspect(
    train: Annotated[str, typer.Argument(metavar="TRAIN", help="Training texts, labelled or not.")],
    against: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Texts to predict, compared with the training texts."),
    ] = None,
    columns: ColumnNames = None,
    model: Annotated[
        str | None,
        typer.Option(help="The encoder that reads the texts; all-MiniLM-L6-v2 if not given."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="CLEAN.parquet",
            help="Write the rows that survive, and CLEAN.removed.parquet with those that do not.",
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="CODES",
            help="Findings whose rows do not survive, by code; docs/inspect.md has the default.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with texts and labels, and what other texts have that these lack."""
    from budgerigar.audit import cleaning, inspection, wording

    if drop is not None and write is None:
        raise RunError(
            "--drop is of use with --write alone", remedy="add --write clean.parquet, or leave it"
        )
    names = _listed(columns) if columns else None
    codes = None if drop is None else _listed(drop)
    cleaner = write and cleaning.prepare(train, write, codes, against=against, columns=names)
    found = inspection.inspect(train, against, model, names)
    if as_json:
        cleaned = {"cleaning": cleaner.write(found).to_json()} if cleaner else {}
        console.result_json({**found.to_json(), **cleaned})
        return
    _show(wording.describe(found.findings, found.content))
    if cleaner:
        _show(cleaner.write(found).describe())


@app.command()
def verify(
    adapters: Annotated[
        list[Path], typer.Argument(metavar="ADAPTER...", help="Adapter folders, one or more.")
    ],
    model: BaseModel = None,
    as_json: AsJson = False,
) -> None:
    """Check that adapters give the logits that they gave when they were written."""
    from budgerigar import predict as prediction

    found: list[dict[str, object]] = []
    errors: list[BudgieError] = []
    for adapter in adapters:
        try:
            difference = prediction.load(adapter, model).verify()
        except BudgieError as error:
            errors.append(error)
            found.append({"adapter": str(adapter), "error": str(error)})
            continue
        found.append({"adapter": str(adapter), "error": "", "largest_difference": difference})
        if not as_json:
            said = f"logits agree, the largest difference is {difference:.2g}"
            console.result(f"{adapter}: {said}")
    if as_json:
        console.result_json({"adapters": found})
    for further in errors[1:]:
        console.note(f"budgie: {further}")
    if errors:
        raise errors[0]


@recipes_app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that ship."""
    from budgerigar import recipe_text

    found = {name: recipe_text.summary(text) for name, text in recipe_text.shipped().items()}
    if as_json:
        console.result_json(found)
    else:
        console.table(("recipe", "what it is"), list(found.items()))


@recipes_app.command("show")
def show_recipe(
    recipe: RecipeName,
    settings: Settings = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Show every field, defaults included.")
    ] = False,
) -> None:
    """Print a recipe: as it is written, or with every field."""
    from budgerigar import recipe_text

    if resolved or settings:
        console.result(recipe_text.to_yaml(recipe_text.read(recipe, settings or [])).rstrip())
    else:
        console.result(recipe_text.text_of(recipe).rstrip())


@recipes_app.command("copy")
def copy_recipe(
    recipe: RecipeName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")],
) -> None:
    """Copy a recipe into a file of your own, named as the file is, comments included."""
    from budgerigar import recipe_text
    from budgerigar.files import write_text

    if file.exists():
        raise RunError(f"{file} exists already", remedy="choose another name")
    write_text(file, recipe_text.renamed(recipe_text.text_of(recipe), file.stem))
    console.result(str(file))


@recipes_app.command("check")
def check_recipe(recipe: RecipeName, settings: Settings = None) -> None:
    """Check a recipe's fields; budgie plan checks it against the model too."""
    from budgerigar import recipe_text

    recipe_text.read(recipe, settings or [])
    console.result(f"{recipe}: no faults")


@recipes_app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from budgerigar import recipe_text

    console.result(recipe_text.json_schema())


@cache_app.command("list")
def list_cache(as_json: AsJson = False) -> None:
    """List what the cache holds, the most recently used first."""
    from dataclasses import asdict

    from budgerigar.encoder.prefix import PrefixCache, human_size

    cache = PrefixCache()
    entries = cache.entries()
    if as_json:
        console.result_json([asdict(entry) for entry in entries])
        return
    columns = ("base", "layers", "precision", "texts", "tokens", "size", "last used")
    console.table(columns, [_cache_row(entry) for entry in entries])
    taken = sum(entry.size for entry in entries)
    count = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    console.note(f"{cache.folder}: {count}, {human_size(taken)} of {human_size(cache.limit)}")


@cache_app.command("clear")
def clear_cache(as_json: AsJson = False) -> None:
    """Remove what the cache holds, but for what a running process uses."""
    from budgerigar.encoder.prefix import PrefixCache, human_size

    cache = PrefixCache()
    freed, in_use = cache.clear()
    if as_json:
        console.result_json({"freed": freed, "in_use": in_use})
        return
    console.result(f"{cache.folder}: freed {human_size(freed)}")
    if in_use:
        what = "1 entry is in use and stays" if in_use == 1 else f"{in_use} are in use and stay"
        console.note(what)


def main() -> NoReturn:
    """Runs a command; a fault is one line on stderr and exit code 2, without a traceback."""
    try:
        # typer gives the status of --help and --version back, and that of Ctrl-C.
        if app(standalone_mode=False) == Interrupted.exit_code:
            raise KeyboardInterrupt
    except BudgieError as error:
        _fail(str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        _fail("stopped", Interrupted.exit_code, error)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if hasattr(error, "format_message"):
            _fail_usage(error)
        if is_out_of_memory(error):
            told = OutOfMemory("out of memory", remedy="free memory, or split the file of texts")
            _fail(str(told), told.exit_code, error)
        what = f"internal error: {type(error).__name__}: {error}"
        _fail(f"{what}. This is a fault of budgie; budgie --debug shows where it arose", 1, error)
    sys.exit(0)


def _fail(message: str, status: int, error: BaseException) -> NoReturn:
    if os.environ.get("BUDGIE_DEBUG"):
        raise error
    console.note(f"budgie: {' '.join(message.split())}")
    sys.exit(status)


def _fail_usage(error: Any) -> NoReturn:
    """Tells a wrong option or value in one line; where no command was given, shows the help.

    Some versions of typer raise click's exceptions, others their own.
    """
    message, context = str(error.format_message()), error.ctx
    if "\n" in message:
        console.note(message)
        sys.exit(BudgieError.exit_code)
    command = context.command_path if context is not None else "budgie"
    told = BudgieError(message, remedy=f"{command} --help shows what there is")
    _fail(str(told), told.exit_code, error)


def _cache_row(entry: Entry) -> tuple[str, ...]:
    """What an entry is of, its size and when it was last used; `?` where its record is lost."""
    from datetime import datetime

    from budgerigar.encoder.prefix import human_size

    shown = []
    for name in ("base", "layers", "precision", "texts", "tokens"):
        value = entry.about.get(name, "?")
        shown.append(f"{value:,}" if isinstance(value, int) else str(value)[:12])
    size = human_size(entry.size)
    if not entry.whole:
        size += f" of {human_size(entry.claimed)}, unfinished"
    used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
    return *shown, size, used


def _show(lines: Iterable[Any]) -> None:
    """Prints lines and tables."""
    for line in lines:
        if isinstance(line, str):
            console.result(line)
        else:
            console.table(line.columns, line.rows, line.title)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


def _settings(settings: list[str] | None, columns: str | None) -> list[str]:
    return [*(settings or []), *([f"data.columns={columns}"] if columns else [])]


def _predict(
    adapter: Path, file: str, columns: str | None, model: str | None, abstain: float
) -> Any:
    from budgerigar import predict as prediction
    from budgerigar import sources

    texts = sources.read_unlabelled(file, columns)
    for line in texts.notes:
        console.note(f"{file}: {line}")
    return prediction.load(adapter, model).predict_source(texts.texts, abstain=abstain)
