"""`budgie` itself: its commands in order, and how a fault ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from budgerigar import __version__, console
from budgerigar.cli import cache, recipes, runs, texts
from budgerigar.errors import BudgieError, Interrupted, OutOfMemory, is_out_of_memory

app = typer.Typer(
    name="budgie",
    help="Fine-tune text classifiers on a budget of trainable parameters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


for _command in (
    runs.train, runs.compare, runs.search, runs.plan, runs.curves, runs.report,
    texts.predict, texts.submit, texts.inspect, texts.verify,
):  # fmt: skip
    app.command()(_command)
app.add_typer(recipes.app, name="recipes")
app.add_typer(cache.app, name="cache")


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
        # Help is printed by typer, past the console.
        if isinstance(error, OSError) and not console.takes_output():
            _fail(str(console.unwritten(error)), BudgieError.exit_code, error)
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
