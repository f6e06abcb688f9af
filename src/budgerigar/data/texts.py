"""Texts in a memory-mapped Arrow file: joined, checked, and never all in memory."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from budgerigar.console import note
from budgerigar.data.delimited import ROWS
from budgerigar.data.labels import Rows, Written, WrittenBuilder, as_label, is_text, true_places
from budgerigar.data.tables import Table
from budgerigar.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

PROGRESS_ROWS = 1_000_000
NUMBER = r"^\s*[-+]?[0-9]+([.,][0-9]+)*\s*$"
"""What a column of numbers looks like in a file that does not tell texts from numbers."""


class Texts(Sequence[str]):
    """Texts in Arrow memory, or rows of it.

    Args:
        column: a chunked array of large strings.
        rows: those that are meant, int64 `[N]`; None means all.
    """

    def __init__(self, column: pa.ChunkedArray, rows: np.ndarray | None = None) -> None:
        self._column, self._rows = column, rows

    def __len__(self) -> int:
        return len(self._column) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return self.take(np.arange(*row.indices(len(self))))
        place = range(len(self))[row] if self._rows is None else int(self._rows[row])
        text: str = self._column[place].as_py()
        return text

    def take(self, rows: np.ndarray) -> list[str]:
        """The texts of some rows, in their order."""
        places = rows if self._rows is None else self._rows[rows]
        texts: list[str] = self._column.take(np.asarray(places, dtype=np.int64)).to_pylist()
        return texts

    def batches(self, size: int) -> Iterator[list[str]]:
        """All texts, in lists of `size`."""
        for first in range(0, len(self), size):
            if self._rows is None:
                yield self._column.slice(first, size).to_pylist()
            else:
                yield self.take(np.arange(first, min(first + size, len(self))))

    def select(self, rows: np.ndarray) -> Texts:
        """A view on some rows."""
        return Texts(self._column, rows if self._rows is None else self._rows[rows])

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The numbers that some rows have in their source, counted from 1."""
        places: np.ndarray = rows if self._rows is None else self._rows[rows]
        return places + 1


def load_texts(
    source: str, table: Table, text_columns: list[str], label_column: str | None
) -> tuple[Texts, Written | None, Rows]:
    """Copies texts into a memory-mapped file that vanishes with the process.

    Returns:
        The texts, the labels where they are asked for, and the rows whose text is empty.
    """
    import pyarrow as pa

    builder, checks = WrittenBuilder(), _TextChecks(source, table, text_columns)
    wanted = text_columns + ([label_column] if label_column is not None else [])
    # What fails while reading is told by the table, so this is the temporary file.
    try:
        # A file without a name leaves nothing behind when the process is killed.
        with tempfile.TemporaryFile() as file:
            schema = pa.schema({"text": pa.large_string()})
            with pa.ipc.new_file(file, schema) as writer:
                for whole in table.read(wanted):
                    for first in range(0, whole.num_rows, ROWS):
                        batch = whole.slice(first, ROWS)
                        rows_before = checks.rows
                        joined = checks.join(batch)
                        writer.write_batch(pa.record_batch([joined], schema=schema))
                        if label_column is not None:
                            labels = batch.column(batch.schema.names.index(label_column))
                            builder.add(as_label(source, labels, rows_before))
            checks.finish()
            file.flush()
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            mapped = pa.ipc.open_file(pa.py_buffer(content)).read_all()
    except OSError as error:
        raise DataError(
            f"the texts of {source} cannot be kept in {tempfile.gettempdir()}",
            why=error.strerror or str(error),
            remedy="free that disk, or name another folder in the variable TMPDIR",
        ) from error
    written = builder.build() if label_column is not None else None
    return Texts(mapped.column("text")), written, checks.empty


class _TextChecks:
    """Joins text columns batch by batch, and collects what is wrong with them."""

    def __init__(self, source: str, table: Table, columns: list[str]) -> None:
        self._source, self._columns = source, columns
        self._missing = {name: Rows() for name in columns}
        self._numeric = set() if table.typed else set(columns)
        self.rows = 0
        self.empty = Rows()

    def join(self, batch: pa.RecordBatch) -> pa.Array:
        """The joined texts of a batch, as large strings."""
        import pyarrow as pa
        import pyarrow.compute as pc

        filled = []
        for name in self._columns:
            column = batch.column(batch.schema.names.index(name))
            if column.null_count == len(column):
                column = pa.nulls(len(column), pa.large_string())
            if not is_text(column.type):
                raise DataError(
                    f"{self._source}: column {name!r} holds {column.type}, not texts",
                    remedy="name the text column with --columns",
                )
            column = column.cast(pa.large_string())
            self._missing[name].add(true_places(pc.is_null(column)), self.rows)
            if name in self._numeric and not all_numbers(column):
                self._numeric.remove(name)
            filled.append(column)
        joined = (
            pc.binary_join_element_wise(*filled, pa.scalar(" ", pa.large_string()))
            if len(filled) > 1
            else filled[0]
        )
        self.empty.add(true_places(pc.equal(pc.utf8_trim_whitespace(joined), "")), self.rows)
        before, self.rows = self.rows, self.rows + batch.num_rows
        if self.rows // PROGRESS_ROWS > before // PROGRESS_ROWS:
            note(f"{self._source}: {self.rows:,} rows read")
        return joined

    def finish(self) -> None:
        """Tells what was wrong.

        Raises:
            DataError: for no rows at all, rows without a text, or a column of numbers.
        """
        if not self.rows:
            raise no_rows(self._source)
        for name, rows in self._missing.items():
            if rows.count:
                raise DataError(
                    f"{self._source}: column {name!r} holds no text in {rows}",
                    why="a missing value is not an empty text",
                    remedy="write texts there, or leave the rows out",
                )
        if self._numeric:
            raise DataError(
                f"{self._source}: column {min(self._numeric)!r} holds numbers, not texts",
                remedy="name the text column with --columns",
            )


def all_numbers(column: pa.Array) -> bool:
    """Whether every text that is not empty is a number; not where all are empty."""
    import pyarrow.compute as pc

    column = column.drop_null()
    filled = column.filter(pc.not_equal(column, ""))
    return len(filled) > 0 and pc.all(pc.match_substring_regex(filled, NUMBER)).as_py() is True


def no_rows(source: str) -> DataError:
    """The one way to say that a source is empty."""
    if source == "-":
        return DataError("standard input holds no rows", remedy="write one text a line")
    return DataError(f"{source} holds no rows", remedy="check the file")


def fingerprint(texts: Texts, labels: np.ndarray | None) -> str:
    """Hex SHA-256 over texts, each with its length, and labels."""
    digest = hashlib.sha256()
    for batch in texts.batches(ROWS):
        for text in batch:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
