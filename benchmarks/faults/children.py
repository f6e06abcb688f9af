"""What the fault benchmarks share: runs in processes of their own, and what must be true of them.

Processes are forked from a server that has imported all they need, so that what is hit is the
run and not the start of Python.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from budgerigar.comparison import ComparisonFolder
from budgerigar.encoder import prefix
from budgerigar.files import RETIRED_PREFIX, TEMPORARY_PREFIX

HEAVY = ["budgerigar.pipeline", "budgerigar.training.loop", "budgerigar.encoder.reference"]
TIMES = ("seconds", "cohort")
"""What a comparison says of how it was computed: a resumed cohort has only the runs that were not
finished, and scores them in other batches, hence the rounding."""
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


def compare(recipe: str, out: Path) -> None:
    """Compares a recipe and the same with rank 2, two seeds each."""
    from budgerigar import comparison, recipe_text

    one = recipe_text.resolve(recipe, {})
    other = recipe_text.resolve(recipe, {"name": f"{one.name}-rank-2", "adapter.rank": 2})
    comparison.compare([one, other], 2, out)


def resume_comparison(out: Path) -> None:
    """Goes on with a comparison."""
    from budgerigar import comparison

    comparison.resume(out)


def command(*args: str) -> None:
    """Does what the command line does with these arguments."""
    from budgerigar import cli

    sys.argv = ["budgie", *args]
    cli.main()


def tiny_recipe(folder: Path) -> Path:
    """A recipe that trains a random four-layer RoBERTa on 160 made-up sentences in seconds."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
    from conftest import CLASSES, tiny_roberta, write_texts

    folder.mkdir()
    recipe = folder / "tiny.yaml"
    model = tiny_roberta(folder / "model")
    train, test = write_texts(folder / "train.csv", 160, 1), write_texts(folder / "test.csv", 80, 2)
    recipe.write_text(
        f"name: tiny\nmodel: {{name: {model}}}\ndata: {{train: {train}, test: {test}, "
        f"classes: {list(CLASSES)}, max_length: 32}}\nadapter: {{layers: last:2, rank: 4}}\n"
        "epochs: 3\nbatch: 8\nprecision: float32\ncheckpoint_steps: 5\n"
    )
    return recipe


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


def outcome(run: Path) -> dict[str, Any]:
    """What must be equal: adapters, a run's predictions, and a comparison but for its times."""
    kinds = ("adapter/*", "predictions/*", "*/adapter/*")
    found: dict[str, Any] = {
        str(path.relative_to(run)): path.read_bytes() for kind in kinds for path in run.glob(kind)
    }
    comparison = ComparisonFolder(run).results
    if comparison.exists():
        found[comparison.name] = _without_times(json.loads(comparison.read_text()))
    return found


def different(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """The names in two outcomes whose content differs."""
    names = sorted({*found, *expected})
    return [name for name in names if not _is_same(found.get(name), expected.get(name))]


def _without_times(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_times(one) for key, one in tree.items() if key not in TIMES}
    return [_without_times(one) for one in tree] if isinstance(tree, list) else tree


def _is_same(one: Any, other: Any) -> bool:
    """Whether two trees are equal, their fractions up to rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)
    return bool(one == other)


def litter(run: Path, cache: Path, log: Path) -> list[Path]:
    """Temporary files that are left over in a run's folder, the cache and the temporary folder."""
    found = [p for start in (TEMPORARY_PREFIX, RETIRED_PREFIX) for p in run.rglob(f"{start}*")]
    if cache.exists():
        ends = (prefix.PART, prefix.LOCK)
        found += [path for path in cache.rglob("*") if path.name.endswith(ends)]
        found += list(cache.rglob(f"{TEMPORARY_PREFIX}*"))
    return found + list(temporary_of(log).iterdir())
