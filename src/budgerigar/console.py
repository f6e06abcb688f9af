"""The one place that prints: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from budgerigar.errors import BudgieError

LINE_SECONDS = 10.0
"""Without a terminal, at most one progress line in this many seconds."""

_seen: set[str] = set()


def result(text: str) -> None:
    """Prints a line of the command's result on stdout.

    Raises:
        BudgieError: when stdout cannot be written, such as a file on a full disk.
        BrokenPipeError: when who reads it has left, as `head` does.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer would be tried again at the end of Python.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise unwritten(error) from error


def unwritten(error: OSError) -> BudgieError:
    """What is told where stdout cannot be written."""
    return BudgieError(
        "standard output could not be written",
        why=error.strerror or str(error),
        remedy="the result is not whole: free the disk, or name another place",
    )


def takes_output() -> bool:
    """Whether stdout can be written: ends a line there to find out."""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return False
    return True


def result_json(value: Any) -> None:
    """Prints `value` as JSON on stdout, for programs."""
    result(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Prints a line about what is being done on stderr."""
    # Nothing that is computed depends on it: a log on a full disk must not end a run.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Prints a warning on stderr, once in a process for each text."""
    note_once(f"warning: {text}")


def note_once(text: str) -> None:
    """Prints a line on stderr, once in a process for each text."""
    if text not in _seen:
        _seen.add(text)
        note(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints a table on stdout: drawn on a terminal, tab-separated plain lines elsewhere."""
    from rich.console import Console
    from rich.table import Table

    if title:
        result(title)
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            result("\t".join(row))
        return
    drawn = Table(*columns)
    for row in rows:
        drawn.add_row(*row)
    Console().print(drawn)


class Progress:
    """How far a stage has come: a live bar on a terminal, plain lines elsewhere.

    `with Progress("training", 225) as bar: bar.update(step, "loss 0.31")`. Stages nest: the
    inner one's bar stands below the outer one's. A stage that ends within `LINE_SECONDS`
    leaves no plain line. A stage that goes on from earlier work begins with what was `done`.
    """

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        self._label, self._total, self._first = label, total, done
        self._start = self._last = time.monotonic()
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            _open_bars.append(self)
            self._task = _bars().add_task(self._label, total=self._total, figures="")
            _bars().start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            _open_bars.remove(self)
            _bars().remove_task(self._task)
            if not _open_bars:
                _bars().stop()

    def update(self, done: int, figures: str = "") -> None:
        """Shows that `done` of the total are finished, with the figures of the moment."""
        if self._task is not None:
            _bars().update(self._task, completed=done, figures=figures)
            return
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        pace = (now - self._start) / max(1, done - self._first)
        left = pace * (self._total - done)
        note(f"{self._label} {done}/{self._total}  {figures}  {left:.0f} s left".rstrip())


_open_bars: list[Progress] = []


@functools.cache
def _bars() -> Any:
    """The one live display: a terminal has room for no second."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
