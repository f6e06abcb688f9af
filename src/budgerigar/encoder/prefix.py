"""The frozen prefix, computed once and kept: one flat file of hidden states a set of texts.

An entry is named by the hash of all that decides its content. It is built chunk by chunk
under another name, goes on where an earlier process stopped, and gets its name only when
it is whole, so that a reader never meets a part. Every chunk has a check sum, compared
when the entry is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from budgerigar.console import Progress, note, warn
from budgerigar.errors import BudgieError
from budgerigar.files import append_line, read_lines, write_json

FOLDER_VARIABLE = "BUDGERIGAR_CACHE"
LIMIT_VARIABLE = "BUDGERIGAR_CACHE_BYTES"
LIMIT = 50 * 2**30
"""Bytes that all entries together may take where `LIMIT_VARIABLE` says nothing else."""
SPARE = 1.05
"""Free disk that an entry needs, over its own size."""
CHUNK_ROWS = 16_384
"""Rows that a chunk has at least: it is what a stopped build loses at most."""
DATA, META, CHUNKS, PART, LOCK = "rows.bin", "meta.json", "chunks.jsonl", ".part", ".lock"


@dataclass(frozen=True)
class Layout:
    """The form of an entry.

    Attributes:
        offsets: first row of each text, and the end, `[B + 1]`.
        width: values of a row.
        number_type: numpy's name of a value; 16-bit floats are kept as `uint16`.
    """

    offsets: np.ndarray
    width: int
    number_type: str

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return int(self.offsets[-1]) * self.width * np.dtype(self.number_type).itemsize

    def chunks(self) -> list[tuple[int, int]]:
        """Ranges of texts that are computed and checked together."""
        bounds = [0]
        for text in range(1, len(self.offsets)):
            rows = self.offsets[text] - self.offsets[bounds[-1]]
            if rows >= CHUNK_ROWS or text == len(self.offsets) - 1:
                bounds.append(text)
        return list(itertools.pairwise(bounds))


@dataclass(frozen=True)
class Entry:
    """A finished entry, as `budgie cache list` shows it.

    Attributes:
        name: hash of what it was computed from.
        about: what it was computed from.
        size: bytes.
        used: when it was last opened, seconds since 1970.
    """

    name: str
    about: dict[str, Any]
    size: int
    used: float


class PrefixCache:
    """A folder of entries with a limit in bytes.

    Args:
        folder: where; `~/.cache/budgerigar`, or what `BUDGERIGAR_CACHE` says, where None.
        limit: bytes; the least recently used entries make room for new ones.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        named = os.environ.get(FOLDER_VARIABLE)
        home = Path(named).expanduser() if named else Path("~/.cache/budgerigar").expanduser()
        self.folder = folder or home
        self.limit = limit if limit is not None else _limit_from_environment()

    def open(
        self,
        about: Mapping[str, Any],
        layout: Layout,
        compute: Callable[[int, int], np.ndarray],
        label: str,
    ) -> np.ndarray | None:
        """An entry's rows, mapped into memory, computed where they are not there yet.

        Args:
            about: all that decides the content, ready for JSON.
            layout: its form.
            compute: gives the rows of a range of texts.
            label: names the texts in the progress display.

        Returns:
            `[rows, width]`, or None where the disk or the limit has no room, which is said.
        """
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(name):
                if not self._is_whole(name, layout):
                    if not self._make_room(layout.size):
                        return None
                    self._build(name, about, layout, compute, label)
                os.utime(self.folder / name / META)
                return self._map(self.folder / name / DATA, layout)
        except OSError as error:
            shutil.rmtree(self.folder / f"{name}{PART}", ignore_errors=True)
            self._without(f"{self.folder} cannot hold it ({error.strerror or error})")
            return None

    def entries(self) -> list[Entry]:
        """The finished entries, the most recently used first."""
        found = []
        for meta in self.folder.glob(f"*/{META}"):
            if meta.parent.suffix == PART:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError):
                about = json.loads(meta.read_text(encoding="utf-8"))["about"]
                size = sum(file.stat().st_size for file in meta.parent.iterdir())
                found.append(Entry(meta.parent.name, about, size, meta.stat().st_mtime))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Removes every entry, finished or not; gives the bytes that it freed."""
        freed = 0
        for path in self.folder.glob("*"):
            if path.is_dir() and ((path / DATA).exists() or (path / META).exists()):
                freed += sum(file.stat().st_size for file in path.iterdir())
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix == LOCK:
                path.unlink(missing_ok=True)
        return freed

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Holds an entry's lock; the kernel lets go of it when the process dies."""
        with (self.folder / f"{name}{LOCK}").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note("waiting for another process that computes the same frozen layers")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _is_whole(self, name: str, layout: Layout) -> bool:
        """Whether an entry is there with the content that was written; a damaged one goes."""
        folder = self.folder / name
        if not folder.exists():
            return False
        try:
            sums = json.loads((folder / META).read_text(encoding="utf-8"))["sums"]
            rows = self._map(folder / DATA, layout)
            if _sums(rows, layout, len(sums)) == sums and len(sums) == len(layout.chunks()):
                return True
            why = "its content does not match its check sum"
        except (OSError, ValueError, KeyError) as error:
            why = str(error)
        warn(f"the cached frozen layers in {folder} are damaged ({why}); computing them again")
        shutil.rmtree(folder)
        return False

    def _make_room(self, size: int) -> bool:
        """Evicts least recently used entries; whether `size` bytes then fit."""
        if size > self.limit:
            self._without(f"it takes {_gigabytes(size)}, the limit is {_gigabytes(self.limit)}")
            return False
        kept = self.entries()
        while kept and sum(entry.size for entry in kept) + size > self.limit:
            shutil.rmtree(self.folder / kept.pop().name, ignore_errors=True)
        free = shutil.disk_usage(self.folder).free
        if free < size * SPARE:
            self._without(f"it takes {_gigabytes(size)}, {self.folder} has {_gigabytes(free)} free")
            return False
        return True

    def _build(
        self,
        name: str,
        about: Mapping[str, Any],
        layout: Layout,
        compute: Callable[[int, int], np.ndarray],
        label: str,
    ) -> None:
        part, start = self.folder / f"{name}{PART}", time.monotonic()
        part.mkdir(exist_ok=True)
        chunks = layout.chunks()
        data, log = part / DATA, part / CHUNKS
        recorded = [int(line["sum"]) for line in read_lines(log)]
        with data.open("r+b" if data.exists() else "w+b") as file:
            file.truncate(layout.size)
            rows = self._map(data, layout)
            found = _sums(rows, layout, min(len(recorded), len(chunks)))
            sums: list[int] = []
            for one, expected in zip(found, recorded, strict=False):
                if one != expected:
                    break
                sums.append(one)
            if len(sums) < len(recorded):
                log.unlink()
                for one in sums:
                    append_line(log, {"sum": one})
            before = chunks[len(sums)][0] if len(sums) < len(chunks) else 0
            with Progress(f"frozen layers of {label}", len(layout.offsets) - 1, before) as bar:
                for first, last in chunks[len(sums) :]:
                    content = np.ascontiguousarray(compute(first, last)).tobytes()
                    file.seek(int(layout.offsets[first]) * rows.strides[0])
                    file.write(content)
                    file.flush()
                    sums.append(zlib.crc32(content))
                    append_line(log, {"sum": sums[-1]})
                    bar.update(last)
            os.fsync(file.fileno())
        seconds = round(time.monotonic() - start, 3)
        write_json(part / META, {"about": dict(about), "sums": sums, "seconds": seconds})
        log.unlink(missing_ok=True)
        part.replace(self.folder / name)

    def _map(self, path: Path, layout: Layout) -> np.ndarray:
        if path.stat().st_size != layout.size:
            raise ValueError(f"it has {path.stat().st_size} bytes instead of {layout.size}")
        shape = (int(layout.offsets[-1]), layout.width)
        return np.memmap(path, layout.number_type, mode="r", shape=shape)

    def _without(self, why: str) -> None:
        note(
            f"the frozen layers' output is not kept: {why}; every epoch computes it again. "
            f"{FOLDER_VARIABLE} names another folder, {LIMIT_VARIABLE} another limit"
        )


def _sums(rows: np.ndarray, layout: Layout, count: int) -> list[int]:
    """Check sums of the first chunks."""
    return [
        zlib.crc32(rows[layout.offsets[first] : layout.offsets[last]].data)
        for first, last in layout.chunks()[:count]
    ]


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _limit_from_environment() -> int:
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return LIMIT
    if not text.isdigit():
        raise BudgieError(
            f"{LIMIT_VARIABLE} is {text!r}",
            why="it is a number of bytes",
            remedy="such as 20000000000",
        )
    return int(text)


def to_json(entries: list[Entry]) -> list[dict[str, Any]]:
    """Entries for programs."""
    return [asdict(entry) for entry in entries]
