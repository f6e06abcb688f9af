"""Kills a run at random moments, resumes it, and compares its adapter with the unbroken run's.

    python benchmarks/faults/kills.py [--recipe quickstart] [--kills 50] [--seed 1] [--json FILE]

Stages take turns, so that short ones are hit too; the moment is drawn evenly over the time that
the stage took in an unbroken run. Where the cache is built, the run begins with an empty one. A
run that was killed before it had written its recipe begins anew in the same folder.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from children import adapter_bytes, litter, nothing, resume, start, train

from budgerigar.encoder.prefix import PART
from budgerigar.files import TEMPORARY_PREFIX
from budgerigar.runs import RunFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

SECONDS = 3600
"""After which a process counts as hung."""
POLL = 0.002


def _is_built(out: Path, cache: Path) -> bool:
    return cache.exists() and any(path.suffix == PART for path in cache.iterdir())


STAGES: dict[str, Callable[[Path, Path], bool]] = {
    "reading texts and weights": lambda out, cache: True,
    "cache build": _is_built,
    "training and validation": lambda out, cache: (out / "steps.jsonl").exists(),
    "evaluation and verification": lambda out, cache: (out / "predictions").exists(),
    "curves, report and results": lambda out, cache: (out / "curves.png").exists(),
}
"""Stages in their order, and how their beginning shows in the run's folder and the cache."""


def main() -> None:
    """Kills and resumes, prints what was hit, fails at the first run that ends otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="quickstart", help="a shipped recipe or a file")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    hit: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        _finish(start(work / "run.log", work / "cache", nothing), work)
        seconds = _unbroken(asked.recipe, work)
        expected = adapter_bytes(work / "unbroken")
        print("unbroken: " + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()))
        aims = itertools.cycle(seconds)
        while hit.total() < asked.kills:
            aim = next(aims)
            moment = draw.uniform(0, seconds[aim])
            fresh = aim == "cache build" or draw.random() < 0.5
            found = _kill_once(asked.recipe, work, aim, moment, fresh=fresh)
            if found is None:
                print(f"{aim}: the run was finished before it could be killed")
                continue
            hit[found] += 1
            different = adapter_bytes(work / "run") != expected
            left = litter(work / "run", _cache(work, fresh=fresh), work / "run.log")
            print(f"{hit.total()}: {found}, {moment:.2f} s after {aim} began", flush=True)
            if different or left:
                sys.exit(f"the adapter differs: {different}; left over: {left}")
    print(f"{hit.total()} kills, every adapter equal byte for byte, nothing left over")
    for stage, count in hit.most_common():
        print(f"  {count:3} {stage}")
    write(asked.json, {}, {f"kills, {stage}": count for stage, count in hit.items()})


def _cache(work: Path, *, fresh: bool) -> Path:
    return work / ("fresh-cache" if fresh else "cache")


def _unbroken(recipe: str, work: Path) -> dict[str, float]:
    """Seconds of each stage of a run that nobody kills; it fills the shared cache."""
    out, cache = work / "unbroken", work / "cache"
    child = start(work / "run.log", cache, train, recipe, out)
    begun: dict[str, float] = {}
    while child.is_alive():
        for name, has_begun in STAGES.items():
            if name not in begun and has_begun(out, cache):
                begun[name] = time.monotonic()
        time.sleep(POLL)
    _finish(child, work)
    ends = [*sorted(begun.values())[1:], time.monotonic()]
    return {name: end - begin for (name, begin), end in zip(begun.items(), ends, strict=True)}


def _kill_once(recipe: str, work: Path, aim: str, moment: float, *, fresh: bool) -> str | None:
    """Kills a run so long after a stage began and resumes it.

    Returns:
        What the run was doing by what it left, None if it was finished already.
    """
    out, cache = work / "run", _cache(work, fresh=fresh)
    shutil.rmtree(out, ignore_errors=True)
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    child = start(work / "run.log", cache, train, recipe, out)
    while child.is_alive() and not STAGES[aim](out, cache):
        time.sleep(POLL)
    child.join(moment)
    if child.exitcode is None:
        _kill(child)
    child.join()
    if child.exitcode == 0:
        return None
    if child.exitcode != -signal.SIGKILL:
        sys.exit((work / "run.log").read_text())
    begun = [name for name, has_begun in STAGES.items() if has_begun(out, cache)]
    writing = ", while a file was written" if list(out.rglob(f"{TEMPORARY_PREFIX}*")) else ""
    again = (train, recipe) if RunFolder(out).is_empty() else (resume,)
    _finish(start(work / "run.log", cache, *again, out), work)
    return begun[-1] + writing


def _kill(child: Any) -> None:
    """Kills a process with all that it has started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:  # It has no group of its own yet.
        child.kill()


def _finish(child: Any, work: Path) -> None:
    child.join(SECONDS)
    if child.exitcode != 0:
        sys.exit(f"exit code {child.exitcode}:\n{(work / 'run.log').read_text()}")


if __name__ == "__main__":
    main()
