"""Hidden states in one flat file: written chunk by chunk, checked, mapped into memory.

Every chunk has a check sum; those of an unfinished file are in a log beside it, so that
another process can go on with it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from budgerigar.console import Progress
from budgerigar.errors import RunError
from budgerigar.files import append_line, read_lines, write_lines

DATA, CHUNKS = "rows.bin", "chunks.jsonl"
CHUNK_ROWS = 16_384
"""Rows that a chunk has at least: it is what a stopped build loses at most."""


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


def compute_rows(
    part: Path, layout: Layout, compute: Callable[[int, int], np.ndarray], label: str
) -> list[int]:
    """Fills an unfinished entry's rows; gives the check sum of each chunk.

    Chunks that an earlier process wrote stay, up to the first that is not as it wrote it.

    Args:
        part: the entry's folder.
        layout: the rows' form.
        compute: gives the rows of a range of texts.
        label: names the texts in the progress display.

    Raises:
        OSError, RunError: when the disk is full.
    """
    chunks, log = layout.chunks(), part / CHUNKS
    with (part / DATA).open("a+b") as file:
        file.truncate(layout.size)
    with (part / DATA).open("r+b") as file:
        logged = _logged_sums(log)
        found = check_sums(map_rows(part / DATA, layout), layout, len(logged))
        same = [one == other for one, other in zip(found, logged, strict=False)]
        sums = found[: [*same, False].index(False)]
        write_lines(log, [{"sum": one} for one in sums])
        done = chunks[len(sums) - 1][1] if sums else 0
        with Progress(f"frozen layers of {label}", len(layout.offsets) - 1, done) as bar:
            for first, last in chunks[len(sums) :]:
                content = np.ascontiguousarray(compute(first, last)).data
                file.seek(layout.size // int(layout.offsets[-1]) * int(layout.offsets[first]))
                file.write(content)
                file.flush()
                sums.append(zlib.crc32(content))
                append_line(log, {"sum": sums[-1]})
                bar.update(last)
        os.fsync(file.fileno())
    return sums


def check_sums(rows: np.ndarray, layout: Layout, count: int | None = None) -> list[int]:
    """Check sums of the first chunks, or of all."""
    return [
        zlib.crc32(rows[layout.offsets[first] : layout.offsets[last]].data)
        for first, last in layout.chunks()[:count]
    ]


def map_rows(path: Path, layout: Layout) -> np.ndarray:
    """Rows as they are on the disk, with a shared lock on them.

    The mapping keeps a duplicate of the file's descriptor, and with it the lock.
    """
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        shape = (int(layout.offsets[-1]), layout.width)
        return np.memmap(file, layout.number_type, mode="r", shape=shape)


def _logged_sums(log: Path) -> list[int]:
    try:
        return [int(line["sum"]) for line in read_lines(log)]
    except (RunError, ValueError, KeyError, TypeError):
        return []
