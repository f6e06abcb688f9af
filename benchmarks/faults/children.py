"""What the fault benchmarks share: runs in processes of their own, and what must be true of them.

Processes are forked from a server that has imported all they need, so that what is hit is the
run and not the start of Python.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from budgerigar.encoder import prefix
from budgerigar.files import RETIRED_PREFIX, TEMPORARY_PREFIX

HEAVY = ["budgerigar.pipeline", "budgerigar.training.loop", "budgerigar.encoder.reference"]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(HEAVY)


def nothing() -> None:
    """Lets the server of processes import what it must."""


def train(recipe: str, out: Path) -> None:
    """Trains a recipe from the start."""
    from budgerigar import pipeline

    pipeline.train(recipe, out)


def resume(out: Path) -> None:
    """Goes on with a run."""
    from budgerigar import pipeline

    pipeline.resume(out)


def start(log: Path, cache: Path, target: Callable[..., None], *args: Any) -> Any:
    """Starts a function in a process group of its own, with its own cache and temporary folder.

    Args:
        log: takes what it prints, after what is there; its temporary folder lies beside it.
        cache: the folder for `BUDGERIGAR_CACHE`.
        target: the function; of this folder, so that a fresh process finds it.
        *args: its arguments.

    Returns:
        The process; its exit code is that of the command line: 2 for a fault that it told.
    """
    child = _FORKS.Process(target=_in_child, args=(log, cache, target, *args))
    child.start()
    return child


def _in_child(log: Path, cache: Path, target: Callable[..., None], *args: Any) -> None:
    from budgerigar.errors import BudgieError

    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    for name in HEAVY:
        importlib.import_module(name)
    os.environ[prefix.FOLDER_VARIABLE] = str(cache)
    place = temporary_of(log)
    place.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(place)
    try:
        target(*args)
    except BudgieError as error:
        print(f"budgie: {error}", flush=True)
        sys.exit(error.exit_code)


def temporary_of(log: Path) -> Path:
    """The temporary folder of the processes that share a log."""
    return log.with_suffix(".tmp")


def adapter_bytes(run: Path) -> dict[str, bytes]:
    """The adapter's files by name."""
    return {path.name: path.read_bytes() for path in sorted((run / "adapter").iterdir())}


def litter(run: Path, cache: Path, log: Path) -> list[Path]:
    """Temporary files that are left over in a run's folder, the cache and the temporary folder."""
    found = [p for start in (TEMPORARY_PREFIX, RETIRED_PREFIX) for p in run.rglob(f"{start}*")]
    if cache.exists():
        ends = (prefix.PART, prefix.LOCK)
        found += [path for path in cache.rglob("*") if path.name.endswith(ends)]
        found += list(cache.rglob(f"{TEMPORARY_PREFIX}*"))
    return found + list(temporary_of(log).iterdir())
