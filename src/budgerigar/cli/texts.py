"""Commands on texts and trained adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from budgerigar import console
from budgerigar.cli.options import (
    AdapterFolder,
    AsJson,
    BaseModel,
    ColumnNames,
    TextFile,
    listed,
    show,
)
from budgerigar.errors import BudgieError, DataError, RunError


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
    names = listed(columns) if columns else None
    codes = None if drop is None else listed(drop)
    cleaner = write and cleaning.prepare(train, write, codes, against=against, columns=names)
    found = inspection.inspect(train, against, model, names)
    if as_json:
        cleaned = {"cleaning": cleaner.write(found).to_json()} if cleaner else {}
        console.result_json({**found.to_json(), **cleaned})
        return
    show(wording.describe(found.findings, found.content))
    if cleaner:
        show(cleaner.write(found).describe())


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


def _predict(
    adapter: Path, file: str, columns: str | None, model: str | None, abstain: float
) -> Any:
    from budgerigar import predict as prediction
    from budgerigar import sources

    texts = sources.read_unlabelled(file, columns)
    for line in texts.notes:
        console.note(f"{file}: {line}")
    return prediction.load(adapter, model).predict_source(texts.texts, abstain=abstain)
