"""CSV and TSV files -> named columns in batches.

Python's own reader and not Arrow's: it knows the number of a ragged row, and does not take
everything behind a quote that is never closed for one long text.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from budgerigar.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 4 << 20
ROWS = 10_000
"""Rows of a batch."""

LONGEST_FIELD = 64 << 20
"""Characters of a text beyond which its quote is taken to be open by mistake."""

TEXT_COLUMNS = ("text", "title", "description", "sentence", "content", "headline", "body", "review")
OFFICIAL_LAYOUT = ("label", "title", "description")
"""The columns of AG News' own CSV files, which have no header."""


class Delimited:
    """A file of rows whose fields are separated by a character.

    UTF-8 with or without a byte order mark; a quoted field may hold separators, line ends and
    doubled quotes; a backslash is a character like any other. Rows are counted from 1, the
    header and empty lines not among them; in a single column an empty line is an empty text.

    Args:
        path: the file.
        delimiter: the character.
        names: columns by position, for a file without a header.
        label: name of the label column, which tells a header from a row.

    Attributes:
        columns: their names.
        notes: what the user should be told.

    Raises:
        DataError: when the file is empty, or nothing tells its columns.
    """

    def __init__(
        self, path: Path, delimiter: str, names: tuple[str, ...] | None, label: str
    ) -> None:
        self._path, self._delimiter = path, delimiter
        self._header = False
        self.columns: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        # Undecoded bytes are let through here: the decoder reads ahead of the row it is asked for.
        with self._fields(errors="surrogateescape") as rows:
            try:
                first = next(filter(None, rows), None)
            except csv.Error as error:
                raise self._bad_quotes("row 1", error) from error
        if first is None:
            raise DataError(f"{path} is empty", remedy="check the file")
        if _undecoded(first):
            raise self._bad_byte("the first row")
        self._name_columns([cell.strip() for cell in first], names, label)

    def read(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Batches of some columns, as strings.

        Raises:
            DataError: for a ragged row, an open quote or a byte that is not UTF-8; naming the row.
        """
        import pyarrow as pa

        places = [self.columns.index(name) for name in wanted]
        with self._fields() as rows:
            good = self._rows(rows)
            while chunk := list(itertools.islice(good, ROWS)):
                yield pa.record_batch(
                    [pa.array([row[place] for row in chunk], pa.string()) for place in places],
                    names=list(wanted),
                )

    def _rows(self, rows: Iterator[list[str]]) -> Iterator[list[str]]:
        """The rows below the header, all of one width."""
        width, number, header = len(self.columns), 0, self._header
        try:
            for row in rows:
                if not row and (header or width > 1):
                    continue
                if header:
                    header = False
                    continue
                number += 1
                if len(row) != width and (row or width > 1):
                    if _undecoded(row):
                        raise self._bad_byte(f"row {number:,}")
                    raise DataError(
                        f"{self._path}, row {number:,}: {len(row)} columns instead of {width}",
                        why=f"it reads {self._delimiter.join(row)[:60]!r}",
                        remedy="quote texts that contain the separator",
                    )
                yield row or [""]
        except UnicodeDecodeError as error:
            raise self._bad_byte(f"row {self._undecoded_row():,}") from error
        except csv.Error as error:
            raise self._bad_quotes(f"row {number + 1:,}", error) from error

    def _undecoded_row(self) -> int:
        """The first row with a byte that is not UTF-8."""
        with self._fields(errors="surrogateescape") as rows:
            bad = (number for number, row in enumerate(self._rows(rows), 1) if _undecoded(row))
            return next(bad, 1)

    def _bad_byte(self, where: str) -> DataError:
        offset, byte = first_bad_byte(self._path) or (0, 0)
        return not_utf8(f"{self._path}, {where}", byte, offset, self._path.name)

    def _bad_quotes(self, where: str, error: csv.Error) -> DataError:
        open_quote = "end of data" in str(error) or "field limit" in str(error)
        why = "a quote opens here that is never closed" if open_quote else str(error)
        return DataError(
            f"{self._path}, {where}: its quotes cannot be read",
            why=why,
            remedy="close every quote, and double those inside a quoted text",
        )

    @contextlib.contextmanager
    def _fields(self, errors: str = "strict") -> Iterator[Iterator[list[str]]]:
        with self._path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            # The limit is the process's; it is read when a field grows.
            if csv.field_size_limit() < LONGEST_FIELD:
                csv.field_size_limit(LONGEST_FIELD)
            yield csv.reader(file, delimiter=self._delimiter, strict=True)

    def _name_columns(self, cells: list[str], names: tuple[str, ...] | None, label: str) -> None:
        if {label, *TEXT_COLUMNS, *(names or ())} & set(cells):
            self.columns, self._header = tuple(cells), True
        elif names is not None:
            if len(names) != len(cells):
                raise DataError(
                    f"{self._path} has {len(cells)} columns and no header, but {len(names)} "
                    "names were given",
                    remedy="name every column in order with --columns",
                )
            self.columns = names
        elif len(cells) == 3 and cells[0].isdecimal():
            self.columns = (label, *OFFICIAL_LAYOUT[1:])
            self.notes = (
                "no header: read as AG News' own layout, class from 1, title, description",
            )
        else:
            raise DataError(
                f"{self._path} has no header that names a text column",
                why=f"its first row is {', '.join(cells)[:80]!r}",
                remedy="name the columns in order, such as --columns label,title,text",
            )


def _undecoded(row: list[str]) -> bool:
    """Whether a row holds bytes that `surrogateescape` let through."""
    return any("\udc80" <= mark <= "\udcff" for cell in row for mark in cell)


def first_bad_byte(path: Path) -> tuple[int, int] | None:
    """Offset and value of a file's first byte that is not UTF-8; None where all is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return offset - held + error.start, error.object[error.start]
            if not block:
                return None
            offset += len(block)


def not_utf8(where: str, byte: int, offset: int, file: str) -> DataError:
    """The one way to say that a byte is not UTF-8."""
    # UTF-16 files begin with a mark whose bytes UTF-8 never has.
    encoding = "UTF-16" if offset == 0 and byte in (0xFE, 0xFF) else "LATIN1"
    return DataError(
        f"{where}: byte 0x{byte:02x} at offset {offset} is not UTF-8",
        remedy=f"convert it, for example: iconv -f {encoding} -t UTF-8 {file}",
    )
