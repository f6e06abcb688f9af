"""What several commands take, and how they show what they found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from budgerigar import console
from budgerigar.errors import RunError

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


def changes_of(settings: list[str] | None, columns: str | None) -> list[str]:
    """Overrides of a recipe's fields, those of `--columns` with them."""
    return [*(settings or []), *([f"data.columns={columns}"] if columns else [])]


def listed(names: str) -> list[str]:
    """Names that were given separated by commas."""
    return [name.strip() for name in names.split(",")]


def require_alone(resume: str, others: bool, takes_no: str, but: str, why: str) -> None:
    """Refuses what was given beside `--resume`.

    Args:
        resume: the command that goes on, to be told.
        others: whether something was.
        takes_no: what else the command takes.
        but: the one option that may be given.
        why: what decides instead.

    Raises:
        RunError: when something was.
    """
    if others:
        raise RunError(
            f"--resume takes no {takes_no} and no other option but {but}", why=why, remedy=resume
        )


def show(lines: Iterable[Any]) -> None:
    """Prints lines and tables."""
    for line in lines:
        if isinstance(line, str):
            console.result(line)
        else:
            console.table(line.columns, line.rows, line.title)
