"""Lets a real disk run full, then turn read-only, under every command that writes.

    python benchmarks/faults/full_disk.py [--sizes 12] [--only NAME] [--json FILE]

The disk is a tmpfs, which only root may mount. It takes many sizes, and many limits on its number
of files, so that the fault falls into different writes. Each time the command must end with exit
code 2 and one line that says why, and leave nothing half-written. Then the disk has room but is
read-only, and the command must be refused with nothing changed. Then it may be written, and what
the command, or its `--resume`, ends with must be what it gives on a disk that never was full. A
cache without room is given up: there the run itself goes on.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from children import command, different, nothing, outcome, start, temporary_of, tiny_recipe
from safetensors.torch import load

from budgerigar import adapters
from budgerigar.encoder.prefix import LOCK, PART
from budgerigar.files import RETIRED_PREFIX, TEMPORARY_PREFIX, read_lines
from budgerigar.predict import FORMATS

sys.path.append(str(Path(__file__).resolve().parents[1]))
from measure import write

PAGE = 4096
ROOM = 256 * 2**20
FILES = 10_000
OLD = '{"what": "stood there before"}\n'
GIVEN_UP = "the frozen layers' output is not kept"
REFUSED = 2


@dataclass(frozen=True)
class Job:
    """A command, and what of it lies on the disk.

    Attributes:
        name: for people.
        args: of the command.
        result: the run's folder, or the file, that it writes.
        again: of the command that goes on with it, where it can.
        begun: a file in `result` that tells whether there is anything to go on with.
        place: where the disk is mounted.
        needs_disk: whether the command is refused without room there; else it ends well.
    """

    name: str
    args: tuple[str, ...]
    result: Path
    place: Path
    again: tuple[str, ...] = ()
    begun: str = ""
    needs_disk: bool = True

    def next(self) -> tuple[str, ...]:
        """What to call after a failure."""
        return self.again if self.begun and (self.result / self.begun).exists() else self.args

    def content(self) -> dict[str, Any]:
        """What it ends with: of a run what must be equal, or the file."""
        if self.result.is_dir():
            return outcome(self.result)
        return {self.result.name: self.result.read_bytes()}

    def clear(self) -> None:
        """Removes what it wrote beside the disk."""
        if not self.result.is_relative_to(self.place):
            shutil.rmtree(self.result, ignore_errors=True)


class Work:
    """A folder with a tiny adapter and texts, in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "run.log"
        start(self.log, folder / "cache", nothing).join()
        self.recipe = tiny_recipe(folder / "made")
        self.texts = folder / "made" / "texts.csv"
        lines = (folder / "made" / "test.csv").read_text().splitlines(keepends=True)
        self.texts.write_text("".join([lines[0], *lines[1:] * 40]))
        code, said = self.run(("train", str(self.recipe), "--out", str(folder / "trained")))
        if code:
            sys.exit(said[-1])
        self.adapter = folder / "trained" / "adapter"

    def run(self, args: tuple[str, ...]) -> tuple[int, list[str]]:
        """Runs a command; gives its exit code and the lines that it printed."""
        before = self.log.stat().st_size if self.log.exists() else 0
        child = start(self.log, self.folder / "cache", command, *args)
        child.join()
        return child.exitcode, self.log.read_bytes()[before:].decode().splitlines()


def main() -> None:
    """Runs all jobs on all disks; fails at the first fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, default=12, help="sizes, and limits of files, a job")
    parser.add_argument("--only", help="one job")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    figures: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        with _mounted(Path(folder) / "disk", f"size={ROOM}"):
            pass
        work = Work(Path(folder))
        for job in _jobs(work):
            if asked.only in (None, job.name):
                hit = _try_all(job, work, asked.sizes)
                print(f"{job.name}: {hit.total()} disks full")
                for name, count in hit.most_common():
                    print(f"  {count:3} {name}", flush=True)
                figures[job.name] = hit.total()
    print(f"{sum(figures.values())} disks full: one line each, nothing half-written, same end")
    write(asked.json, {}, figures)


def _jobs(work: Work) -> list[Job]:
    recipe, adapter, texts = str(work.recipe), str(work.adapter), str(work.texts)
    disk, beside = work.folder / "disk", work.folder / "run"

    def run_in(name: str, place: Path, run: Path, **kinds: Any) -> Job:
        args = ("train", recipe, "--out", str(run))
        again = ("train", "--resume", str(run))
        return Job(name, args, run, place, again, "recipe.yaml", **kinds)

    jobs = [run_in("train", disk, disk / "run")]
    out = disk / "comparison"
    args = ("compare", recipe, "--seeds", "2", "--out", str(out))
    jobs.append(Job("compare", args, out, disk, ("compare", "--resume", str(out)), "runs.json"))
    jobs.append(run_in("cache", work.folder / "cache", beside, needs_disk=False))
    jobs.append(run_in("temporary folder", temporary_of(work.log), beside))
    for verb, name in (("submit", "s.csv"), *(("predict", f"p{end}") for end in FORMATS)):
        args = (verb, adapter, texts, "--out", str(disk / name))
        jobs.append(Job(f"{verb} to {name}", args, disk / name, disk))
    return jobs


def _try_all(job: Job, work: Work, sizes: int) -> Counter[str]:
    """Runs a job on disks that become larger; counts what could not be written."""
    with _mounted(job.place, f"size={ROOM}"):
        expected = _end(job, work, job.args)
        status = os.statvfs(job.place)
        needs = {
            "room": (status.f_blocks - status.f_bfree) * status.f_frsize // PAGE,
            "number of files": status.f_files - status.f_ffree,
        }
    hit: Counter[str] = Counter()
    for kind, most in needs.items():
        for limit in sorted({2 + max(0, most - 2) * number // sizes for number in range(sizes)}):
            options = f"size={limit * PAGE}" if kind == "room" else f"size={ROOM},nr_inodes={limit}"
            job.clear()
            with _mounted(job.place, options):
                failed = (_refused if job.needs_disk else _given_up)(job, work, expected)
            if failed:
                hit[f"{failed} ({kind})"] += 1
    job.clear()
    return hit


def _refused(job: Job, work: Work, expected: dict[str, Any]) -> str:
    """A command that is refused on a full disk and on a read-only one, and then ends well.

    Returns:
        What could not be written; empty where all of it could.
    """
    is_file = job.result.suffix != ""
    if is_file:
        job.result.write_text(OLD)
    code, said = work.run(job.args)
    if code == 0:
        _require(not different(job.content(), expected), "it ends differently", said)
        return ""
    failed = _told(said, errno.ENOSPC)
    _require(code == REFUSED and failed != "", f"exit code {code}", said)
    _require_whole(job, said)
    _require(not is_file or job.result.read_text() == OLD, "the file has changed", said)
    kept = _files(job.place)
    _remount(job.place, f"ro,size={ROOM},nr_inodes={FILES}")
    code, said = work.run(job.next())
    is_told = _told(said, errno.EROFS) != ""
    _require(code == REFUSED and is_told, f"exit code {code} on a read-only disk", said)
    _require(_files(job.place) == kept, "the read-only disk has changed", said)
    _remount(job.place, "rw")
    _require(not different(_end(job, work, job.next()), expected), "it ends differently", [])
    return failed


def _given_up(job: Job, work: Work, expected: dict[str, Any]) -> str:
    """A command that does without a disk which is full or read-only.

    Returns:
        What was given up at first; empty where nothing was.
    """
    found = []
    for options in ("", f"ro,size={ROOM},nr_inodes={FILES}", "rw"):
        if options:
            _remount(job.place, options)
        job.clear()
        kept = _files(job.place)
        code, said = work.run(job.args)
        _require(code == 0, f"exit code {code}", said)
        _require_whole(job, said)
        _require("ro" not in options or _files(job.place) == kept, "the disk has changed", said)
        found.append(any(line.startswith(GIVEN_UP) for line in said))
        _require(_is_near(job.content(), expected, exactly=not found[-1]), "another end", said)
    _require(found[1:] == [True, False], "the cache is not used once it can be", said)
    return "entries" if found[0] else ""


def _is_near(found: dict[str, Any], expected: dict[str, Any], *, exactly: bool) -> bool:
    """Whether an end is the expected one; up to rounding where the cache was given up, as frozen
    layers are then computed in other batches."""
    if exactly:
        return not different(found, expected)
    tensors, others = (load(one["adapter/adapter_model.safetensors"]) for one in (found, expected))
    return tensors.keys() == others.keys() and all(
        torch.allclose(tensors[name], others[name], rtol=1e-3, atol=1e-4) for name in tensors
    )


def _end(job: Job, work: Work, args: tuple[str, ...]) -> dict[str, Any]:
    code, said = work.run(args)
    _require(code == 0, f"exit code {code}", said)
    _require_whole(job, said)
    return job.content()


def _told(said: list[str], code: int) -> str:
    """What could not be written by the one line of a refusal; empty where it is not one."""
    faults = [line for line in said if line.startswith("budgie: ")]
    if len(faults) != 1 or said[-1] != faults[0] or os.strerror(code) not in faults[0]:
        return ""
    what = faults[0].removeprefix("budgie: ")
    path, found, _ = what.partition(" could not be written")
    return re.sub(r"\d+", "N", Path(path).name) if found else re.sub(r"\S*/", "", what)[:21]


def _require_whole(job: Job, said: list[str]) -> None:
    """Nothing half-written: no temporary files, JSON that parses, adapters that load."""
    left = [
        path
        for path in job.place.rglob("*")
        if path.name.startswith((TEMPORARY_PREFIX, RETIRED_PREFIX))
        or path.name.endswith((PART, LOCK) if not job.needs_disk else PART)
    ]
    _require(not left, f"left over: {left}", said)
    for path in job.place.rglob("*.json"):
        json.loads(path.read_text())
    for path in job.place.rglob("*.jsonl"):
        read_lines(path)
    for path in job.place.rglob("adapter"):
        adapters.read_tensors(path)


def _files(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def _require(holds: bool, what: str, said: list[str]) -> None:
    if not holds:
        sys.exit("\n".join([*said[-20:], f"fault: {what}"]))


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs, gone at the end."""
    place.mkdir(exist_ok=True)
    _mount(place, options)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _remount(place: Path, options: str) -> None:
    _mount(place, f"remount,{options}")


def _mount(place: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "budgie-full-disk", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"a tmpfs cannot be mounted here: {done.stderr.strip()}; root may do it")


if __name__ == "__main__":
    main()
