"""The frozen prefix, computed once and kept: one flat file of hidden states a set of texts.

An entry is named by the hash of all that decides its content. It is built chunk by chunk
under another name, goes on where an earlier process stopped, and gets its name only when
it is whole, so that a reader never meets a part.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from budgerigar.console import note, warn
from budgerigar.encoder.rows import CHUNKS, DATA, Layout, check_sums, compute_rows, map_rows
from budgerigar.errors import BudgieError, RunError
from budgerigar.files import recover, write_json

FOLDER_VARIABLE = "BUDGERIGAR_CACHE"
LIMIT_VARIABLE = "BUDGERIGAR_CACHE_BYTES"
LIMIT = 50 * 2**30
"""Bytes that all entries together may take where `LIMIT_VARIABLE` says nothing else."""
SPARE = 1.05
"""Free disk that an entry needs, over its own size."""
FORMAT = 2
"""Part of every name: another number for another form or computation of the rows."""
META, PART, LOCK = "meta.json", ".part", ".lock"
NAME = re.compile(rf"([0-9a-f]{{32}})({re.escape(PART)})?")
"""Folders that are entries: nothing else in the cache's folder is ever removed."""


@dataclass(frozen=True)
class Entry:
    """An entry as `budgie cache list` shows it.

    Attributes:
        name: hash of what it is computed from.
        about: what it is computed from; empty where its record is damaged.
        whole: False where its computation was stopped, or is going on.
        size: bytes of rows on the disk.
        claimed: bytes of rows when it is whole.
        used: when it was last opened or added to, seconds since 1970.
    """

    name: str
    about: dict[str, Any]
    whole: bool
    size: int
    claimed: int
    used: float


class PrefixCache:
    """A folder of entries with a limit in bytes.

    Args:
        folder: where; what `BUDGERIGAR_CACHE` says, else `~/.cache/budgerigar`, where None.
        limit: bytes; the least recently used entries make room for new ones.

    Raises:
        BudgieError: when `BUDGERIGAR_CACHE_BYTES` is not a number.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        named = os.environ.get(FOLDER_VARIABLE) or "~/.cache/budgerigar"
        self.folder = folder or Path(named).expanduser()
        self.limit = limit if limit is not None else _limit_from_environment()

    def open(
        self,
        about: Mapping[str, Any],
        layout: Layout,
        compute: Callable[[int, int], np.ndarray],
        label: str,
    ) -> np.ndarray | None:
        """An entry's rows, mapped into memory, computed where they are not there yet.

        As long as the array lives, the entry makes room for no other.

        Args:
            about: all that decides the content, ready for JSON.
            layout: its form.
            compute: gives the rows of a range of texts.
            label: names the texts in the progress display.

        Returns:
            `[rows, width]`, or None where the disk or the limit has no room, which is said.
        """
        key = json.dumps({"format": FORMAT, "about": about}, sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(name):
                if not self._is_whole(name, layout):
                    if lacking := self._make_room(name, layout.size):
                        self._without(lacking)
                        return None
                    self._build(name, about, layout, compute, label)
                with contextlib.suppress(OSError):  # It may belong to another user.
                    os.utime(self.folder / name / META)
                return map_rows(self.folder / name / DATA, layout)
        except (OSError, RunError) as error:
            why = error.why if isinstance(error, RunError) else error.strerror
            self._without(f"{self.folder} cannot hold it ({why or error})")
            return None

    def entries(self) -> list[Entry]:
        """All entries, finished or not, the most recently used first."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            with contextlib.suppress(OSError):  # Another process may be removing it.
                if (match := NAME.fullmatch(path.name)) and path.is_dir():
                    found.append(_entry(path, name=match[1], whole=match[2] is None))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> tuple[int, int]:
        """Removes every entry, finished or not, that no process computes or reads.

        Returns:
            Bytes that it freed, and how many entries are in use and stay.

        Raises:
            BudgieError: when the folder's content cannot be removed.
        """
        freed = staying = 0
        try:
            for entry in self.entries():
                removed = self._remove(entry)
                freed += entry.size if removed else 0
                staying += not removed
            for path in self.folder.glob(f"*{LOCK}"):
                if NAME.fullmatch(path.stem):
                    with self._locked(path.stem, wait=False):
                        pass  # Letting go of a lock removes its file.
        except OSError as error:
            raise BudgieError(
                f"{self.folder} could not be cleared",
                why=error.strerror or str(error),
                remedy="it may belong to another user",
            ) from error
        return freed, staying

    @contextlib.contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Holds an entry's lock, if need be after a wait; gives whether it does.

        The kernel lets go of it when the process dies; else its file goes with it.
        """
        path = self.folder / f"{name}{LOCK}"
        with contextlib.ExitStack() as handles:
            while True:
                handle = handles.enter_context(path.open("a"))
                if not _lock(handle, wait):
                    yield False
                    return
                # Whoever held it before removed its file: a lock on that one is worth nothing.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                        break
            try:
                yield True
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _is_whole(self, name: str, layout: Layout) -> bool:
        """Whether an entry is there with the content that was written; a damaged one goes."""
        folder = self.folder / name
        if not folder.exists():
            return False
        try:
            sums = json.loads((folder / META).read_text(encoding="utf-8"))["sums"]
            size = (folder / DATA).stat().st_size
            if size != layout.size:
                why = f"{size} bytes instead of {layout.size}"
            elif sums == check_sums(map_rows(folder / DATA, layout), layout):
                return True
            else:
                why = "their content does not match its check sums"
        except OSError as error:
            why = str(error)
        except (ValueError, KeyError, TypeError):
            why = f"{META} is not what was written there"
        warn(f"the cached frozen layers in {folder} are damaged: {why}; computing them again")
        shutil.rmtree(folder)
        return False

    def _make_room(self, name: str, size: int) -> str:
        """Removes least recently used entries until a new one fits; why it cannot, else empty."""
        found = self.entries()
        kept = [entry for entry in found if entry.name != name]
        need = size * SPARE - sum(entry.size for entry in found if entry.name == name)
        free = shutil.disk_usage(self.folder).free
        room_at_best = free + sum(entry.size for entry in kept)
        if size <= self.limit and need <= room_at_best:
            for entry in reversed(kept.copy()):
                taken = sum(one.claimed for one in kept)
                if taken + size <= self.limit and need <= free:
                    break
                with contextlib.suppress(OSError):  # It may belong to another user.
                    if self._remove(entry):
                        kept.remove(entry)
                        free = shutil.disk_usage(self.folder).free
        taken = sum(entry.claimed for entry in kept)
        if size > self.limit:
            return f"it takes {human_size(size)}, the limit is {human_size(self.limit)}"
        if need > free:
            return f"it takes {human_size(size)}, {self.folder} has {human_size(free)} free"
        if taken + size > self.limit:
            return (
                f"it takes {human_size(size)}, and what is in use takes {human_size(taken)} "
                f"of the limit, {human_size(self.limit)}"
            )
        return ""

    def _remove(self, entry: Entry) -> bool:
        """Removes an entry, unless a process computes or reads it; gives whether it did."""
        folder = self.folder / (entry.name if entry.whole else f"{entry.name}{PART}")
        with self._locked(entry.name, wait=False) as ours:
            if not ours:
                return False
            with contextlib.suppress(FileNotFoundError), (folder / DATA).open("r+b") as rows:
                if not _lock(rows, wait=False):
                    return False
            shutil.rmtree(folder)
            return True

    def _build(
        self,
        name: str,
        about: Mapping[str, Any],
        layout: Layout,
        compute: Callable[[int, int], np.ndarray],
        label: str,
    ) -> None:
        """Computes an entry, or what a stopped process left to compute; then names it."""
        part = self.folder / f"{name}{PART}"
        try:
            part.mkdir(exist_ok=True)
            recover(part)
            write_json(part / META, {"about": dict(about)})
            sums = compute_rows(part, layout, compute, label)
            write_json(part / META, {"about": dict(about), "sums": sums})
            part.replace(self.folder / name)
            (self.folder / name / CHUNKS).unlink()
        except (OSError, RunError):
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _without(self, why: str) -> None:
        note(
            f"the frozen layers' output is not kept: {why}; every epoch computes it again. "
            f"{FOLDER_VARIABLE} names another folder, {LIMIT_VARIABLE} another limit"
        )


def human_size(size: float) -> str:
    """Bytes for people: `1.50 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def _lock(handle: IO[Any], wait: bool) -> bool:
    """Takes a file for this process alone, if need be after a wait; gives whether it did."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            return False
        note("waiting for another process that computes or checks the same frozen layers")
        fcntl.flock(handle, fcntl.LOCK_EX)
    return True


def _entry(path: Path, name: str, whole: bool) -> Entry:
    try:
        about = dict(json.loads((path / META).read_text(encoding="utf-8"))["about"])
    except (OSError, ValueError, KeyError, TypeError):
        about = {}
    status = {file.name: file.stat() for file in path.iterdir()}
    rows = status.get(DATA)
    claimed = rows.st_size if rows else 0
    # An unfinished file has its full length from the start; what is not written takes no disk.
    size = min(claimed, rows.st_blocks * 512) if rows and not whole else claimed
    used = max(one.st_mtime for one in (path.stat(), *status.values()))
    return Entry(name, about, whole, size, claimed, used)


def _limit_from_environment() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return LIMIT
    if not (text.isascii() and text.isdigit()):
        raise BudgieError(
            f"{LIMIT_VARIABLE} is {text!r}",
            why="it is a number of bytes",
            remedy="give one such as 20000000000",
        )
    return int(text)
