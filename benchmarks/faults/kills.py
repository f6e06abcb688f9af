"""Kills runs at random moments, resumes them, and compares what they end with.

    python benchmarks/faults/kills.py [--recipe quickstart] [--compare] [--kills 50] [--each 2]
                                      [--seed 1] [--json FILE]

A run is killed several times before it may end: `--each` times in every stage, stage by stage, so
that short ones are hit too, each time so long after the stage began as a draw over the time that
it took in an unbroken run says. In between it is resumed, or begins anew in the same folder where
it had not written its recipe yet. Every run begins with an empty cache. At its end its adapter and
predictions must be the unbroken run's, byte for byte, and no temporary file may be left over.

With `--compare` what is killed is a comparison of the recipe and of the same with rank 2, two seeds
each: every adapter must be the unbroken one's, byte for byte, and `comparison.json` up to rounding
and but for the times in it. The recipe `tiny` is a random model on made-up sentences.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
from children import different, litter, outcome, start

from budgerigar.comparison import ComparisonFolder
from budgerigar.encoder.prefix import PART
from budgerigar.files import TEMPORARY_PREFIX
from budgerigar.runs import RunFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import write

SECONDS = 3600
"""After which a process counts as hung."""
POLL = 0.002


@dataclass(frozen=True)
class Stage:
    """A stage of a run, and the files whose writing shows that it has begun."""

    name: str
    signs: tuple[str, ...]
    goes_on: bool
    """Whether a resumed run goes on within it; else the stage begins anew."""


STAGES = (
    Stage("reading texts and weights", (), goes_on=False),
    Stage("cache build", (f"cache/*{PART}/*",), goes_on=True),
    Stage("training and validation", ("run/steps.jsonl", "run/*/steps.jsonl"), goes_on=True),
    Stage("evaluation and verification",
          ("run/predictions/*", "run/*/predictions/*"), goes_on=False),
    Stage("curves, report and results", ("run/curves.*", "run/*/curves.*"), goes_on=False),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is killed: how it begins, how it goes on, and what it ends with."""

    recipe: str
    begin: Callable[..., None]
    go_on: Callable[..., None]
    has_begun: Callable[[Path], bool]


TRAIN = (children.train, children.resume, lambda out: not RunFolder(out).is_empty())
COMPARE = (children.compare, children.resume_comparison,
           lambda out: ComparisonFolder(out).runs.exists())  # fmt: skip


def main() -> None:
    """Kills and resumes, prints what was hit, fails at the first run that ends otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="quickstart", help="a shipped recipe, a file, or tiny")
    parser.add_argument("--compare", action="store_true", help="kill a comparison, not a run")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--each", type=int, default=2, help="kills of one run in every stage")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    hit: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        _join(start(Path(folder) / "run.log", Path(folder) / "cache", children.nothing), folder)
        recipe = asked.recipe
        if recipe == "tiny":
            recipe = str(children.tiny_recipe(Path(folder) / "made"))
        job = Job(recipe, *(COMPARE if asked.compare else TRAIN))
        work = Path(folder) / "work"
        began = time.monotonic()
        seconds, expected = _unbroken(job, work)
        print("unbroken: " + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()))
        runs = 0
        while hit.total() < asked.kills:
            kills = min(asked.each * len(STAGES), asked.kills - hit.total())
            aims = [number * len(STAGES) // kills for number in range(kills)]
            for found in _killed_again_and_again(job, work, aims, asked.each, seconds, draw):
                hit[found] += 1
                print(f"{hit.total()}: {found}", flush=True)
            runs += 1
            if other := different(outcome(work / "run"), expected):
                sys.exit(f"different: {other}")
            if left := litter(work / "run", work / "cache", work / "run.log"):
                sys.exit(f"left over: {left}")
        took = time.monotonic() - began
    print(f"{hit.total()} kills of {runs} runs in {took / 60:.0f} minutes: every end as unbroken,")
    print("nothing left over; hit were")
    for stage, count in hit.most_common():
        print(f"  {count:3} {stage}")
    figures = {f"kills, {stage}": count for stage, count in hit.items()}
    write(asked.json, {}, {**figures, "runs": runs})


def _begun(work: Path, since: int) -> int:
    """The number of the newest stage that has begun since a moment."""
    found = 0
    for number, stage in enumerate(STAGES):
        for path in (path for sign in stage.signs for path in work.glob(sign)):
            with contextlib.suppress(OSError):  # It may be gone again.
                if path.stat().st_mtime_ns > since:
                    found = number
    return found


def _unbroken(job: Job, work: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each stage of a run that nobody kills, and what it ends with."""
    child, since = _start(job, work)
    begun = {0: time.monotonic()}
    while child.is_alive():
        begun.setdefault(_begun(work, since), time.monotonic())
        time.sleep(POLL)
    _join(child, work)
    ends = [*sorted(begun.values())[1:], time.monotonic()]
    took = {
        STAGES[n].name: end - begin for (n, begin), end in zip(begun.items(), ends, strict=True)
    }
    return took, outcome(work / "run")


def _killed_again_and_again(
    job: Job, work: Path, aims: list[int], each: int, seconds: dict[str, float], draw: random.Random
) -> list[str]:
    """Carries a run to its end, killing it on the way.

    Returns:
        What it was doing at each kill, by the files that it was writing.
    """
    shutil.rmtree(work)
    found = []
    for aim in aims:
        took = seconds.get(STAGES[aim].name, 0.0)
        moment = draw.uniform(0, took / each if STAGES[aim].goes_on else took)
        child, since = _start(job, work)
        while child.is_alive() and _begun(work, since) < aim:
            time.sleep(POLL)
        child.join(moment)
        if child.exitcode is None:
            _kill(child)
        child.join()
        if child.exitcode != -signal.SIGKILL:
            # It was quicker: nothing is left to kill, or it failed.
            _join(child, work)
            return found
        writing = [*work.glob(f"run/**/{TEMPORARY_PREFIX}*")]
        found.append(
            STAGES[_begun(work, since)].name + (", while a file was written" if writing else "")
        )
    child, _ = _start(job, work)
    _join(child, work)
    return found


def _start(job: Job, work: Path) -> tuple[Any, int]:
    """Starts or resumes; gives the process and the moment before it, as files are dated."""
    work.mkdir(exist_ok=True)
    mark = work / "mark"
    mark.write_text("")
    out = work / "run"
    steps = (job.go_on, out) if job.has_begun(out) else (job.begin, job.recipe, out)
    return start(work / "run.log", work / "cache", *steps), mark.stat().st_mtime_ns


def _kill(child: Any) -> None:
    """Kills a process with all that it has started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:  # It has no group of its own yet.
        child.kill()


def _join(child: Any, work: str | Path) -> None:
    child.join(SECONDS)
    if child.exitcode != 0:
        sys.exit(f"exit code {child.exitcode}:\n{(Path(work) / 'run.log').read_text()}")


if __name__ == "__main__":
    main()
