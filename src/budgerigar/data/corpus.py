"""Files and hub data sets -> texts, labels, class names; every doubt about labels settled here.

Rows are counted from 1, a header not among them. Texts stay exactly as they are, in a
memory-mapped Arrow file, so that memory does not grow with their number.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, overload

import numpy as np

from budgerigar.console import note
from budgerigar.data.labels import LabelDecoder, name_rows
from budgerigar.data.tables import EXAMPLE, TEXT_COLUMNS, Table, open_table
from budgerigar.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EXAMPLE", "Columns", "Corpus", "Texts", "check_classes", "class_names", "read"]

PROGRESS_ROWS = 1_000_000


@dataclass(frozen=True)
class Columns:
    """How to find texts and labels in a table.

    Attributes:
        names: columns that count, in order; the one named `label` holds the class, the
            others are joined by a space. In a file without a header, all its columns.
        label: name of the label column.
    """

    names: tuple[str, ...] | None
    label: str


class Texts(Sequence[str]):
    """Texts in Arrow memory, or rows of it."""

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
            yield self.take(np.arange(first, min(first + size, len(self))))

    def select(self, rows: np.ndarray) -> Texts:
        """A view on some rows."""
        return Texts(self._column, rows if self._rows is None else self._rows[rows])


@dataclass(frozen=True)
class Corpus:
    """A set of texts.

    Attributes:
        texts: the texts.
        labels: class numbers from 0, int64 `[N]`; None where they were not asked for.
        classes: class names.
        source: as the user gave it.
        fingerprint: SHA-256 over texts and labels.
        label_base: what integer labels count from; None for names.
        notes: what the user should be told.
    """

    texts: Texts
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    source: str
    fingerprint: str
    label_base: int | None
    notes: tuple[str, ...]

    def select(self, rows: np.ndarray) -> Corpus:
        """A corpus of some rows, with a fingerprint of its own."""
        texts = self.texts.select(rows)
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, texts=texts, labels=labels, fingerprint=_fingerprint(texts, labels))


def read(
    source: str,
    columns: Columns,
    *,
    classes: Sequence[str] | None,
    label_base: int | None,
    labelled: bool,
) -> Corpus:
    """Reads a set of texts.

    Args:
        source: see `tables.open_table`.
        columns: how to find texts and labels.
        classes: class names in the order of their numbers; None takes those of the data.
        label_base: what integer labels count from; None looks.
        labelled: whether every row must have a label; without, labels are left aside.

    Raises:
        DataError: for what cannot be used, naming its rows.
    """
    table = open_table(source, columns.names, columns.label)
    text_columns, label_column = _choose(source, table, columns, labelled)
    texts, raw_labels = _load(source, table, text_columns, label_column if labelled else None)
    notes = [*table.notes, *_empty_texts(texts)]
    labels, base, names = None, None, tuple(classes) if classes else None
    if raw_labels is not None:
        decoder = LabelDecoder(source, raw_labels)
        names = names or table.class_names or decoder.names(label_base)
        labels, base = decoder.numbers(names, label_base)
        if base == 1:
            notes.append("integer labels count from 1")
    return Corpus(
        texts=texts,
        labels=labels,
        classes=names,
        source=source,
        fingerprint=_fingerprint(texts, labels),
        label_base=base,
        notes=tuple(notes),
    )


def class_names(source: str, columns: Columns, label_base: int | None) -> tuple[str, ...]:
    """The class names that a labelled set of texts itself gives.

    Raises:
        DataError: as `read`.
    """
    found = read(source, columns, classes=None, label_base=label_base, labelled=True)
    assert found.classes is not None
    return found.classes


def check_classes(
    training: np.ndarray, validation: np.ndarray, classes: Sequence[str]
) -> list[str]:
    """A line for each class that validation lacks.

    Raises:
        DataError: when the training rows lack a class.
    """
    number_of_classes = len(classes)
    trained = np.bincount(training, minlength=number_of_classes)
    if missing := [name for name, count in zip(classes, trained, strict=True) if not count]:
        raise DataError(
            f"the training rows hold no text of class {', '.join(missing)}",
            remedy="add some, or leave the class out of data.classes",
        )
    validated = np.bincount(validation, minlength=number_of_classes)
    return [
        f"the validation rows hold no text of class {name}: its scores cannot be seen"
        for name, count in zip(classes, validated, strict=True)
        if not count
    ]


def _choose(
    source: str, table: Table, columns: Columns, labelled: bool
) -> tuple[list[str], str | None]:
    """The text columns to join, and the label column."""
    known = table.columns
    wanted = columns.names
    if wanted is not None:
        if unknown := [name for name in wanted if name not in known]:
            raise DataError(
                f"{source} has no column {unknown[0]!r}{nearest(unknown[0], known)}",
                remedy=f"its columns are {', '.join(known)}",
            )
        texts = [name for name in wanted if name != columns.label]
    elif "text" in known:
        texts = ["text"]
    elif {"title", "description"} <= set(known):
        texts = ["title", "description"]
    else:
        texts = [name for name in known if name in TEXT_COLUMNS] or [
            name for name in known if name != columns.label
        ]
        texts = texts if len(texts) == 1 else []
    if not texts:
        raise DataError(
            f"{source} does not tell which of its columns is the text",
            why=f"they are {', '.join(known)}",
            remedy="name them, such as --columns label,title,text",
        )
    if labelled and columns.label not in known:
        raise DataError(
            f"{source} has no label column {columns.label!r}{nearest(columns.label, known)}",
            why=f"its columns are {', '.join(known)}",
            remedy="name it with data.label",
        )
    return texts, columns.label if columns.label in known else None


def _load(
    source: str, table: Table, text_columns: list[str], label_column: str | None
) -> tuple[Texts, list[str | None] | None]:
    """Copies texts into a memory-mapped file that vanishes with the process."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels: list[pa.Array] = []
    rows = 0
    with tempfile.NamedTemporaryFile(prefix="budgie-", suffix=".arrow") as file:
        schema = pa.schema({"text": pa.large_string()})
        with pa.ipc.new_file(file.name, schema) as writer:
            for batch in table.batches:
                columns = [
                    _as_text(source, batch.column(batch.schema.names.index(name)), name)
                    for name in text_columns
                ]
                filled = [pc.fill_null(column, "") for column in columns]
                joined = (
                    pc.binary_join_element_wise(*filled, pa.scalar(" ", pa.large_string()))
                    if len(filled) > 1
                    else filled[0]
                )
                writer.write_batch(pa.record_batch([joined], schema=schema))
                if label_column is not None:
                    column = batch.column(batch.schema.names.index(label_column))
                    labels.append(_as_label(source, column, rows))
                rows += batch.num_rows
                if rows // PROGRESS_ROWS > (rows - batch.num_rows) // PROGRESS_ROWS:
                    note(f"{source}: {rows:,} rows read")
        if rows == 0:
            raise DataError(f"{source} holds no rows", remedy="check the file")
        # The mapping keeps the file's blocks alive after its name is gone.
        mapped = pa.ipc.open_file(pa.memory_map(file.name)).read_all()
    found = pa.chunked_array(labels).to_pylist() if label_column is not None else None
    return Texts(mapped.column("text")), found


def _as_text(source: str, column: pa.Array, name: str) -> pa.Array:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"{source}: column {name!r} holds {column.type}, not texts",
            remedy="name the text column with --columns",
        )
    return column.cast(pa.large_string())


def _as_label(source: str, column: pa.Array, rows_before: int) -> pa.Array:
    """Labels as strings: `3` for 3 and 3.0, null for an empty one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        odd = pc.and_(pc.is_valid(column), pc.not_equal(column, pc.floor(column)))
        if pc.any(odd).as_py():
            row = rows_before + pc.index(odd, True).as_py() + 1
            raise DataError(
                f"{source}, row {row}: label {column[row - rows_before - 1]} is not a whole number",
                remedy="labels are whole numbers or names",
            )
        column = column.cast(pa.int64())
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise DataError(
            f"{source}: the label column holds {column.type}", remedy="labels are numbers or names"
        )
    strings = column.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(strings), ""), None, strings)


def _empty_texts(texts: Texts) -> list[str]:
    rows: list[int] = []
    done = 0
    for batch in texts.batches(PROGRESS_ROWS // 100):
        rows.extend(done + number for number, text in enumerate(batch, 1) if not text.strip())
        done += len(batch)
    if not rows:
        return []
    return [f"{len(rows):,} empty text{'s' if len(rows) > 1 else ''} ({name_rows(rows)})"]


def _fingerprint(texts: Texts, labels: np.ndarray | None) -> str:
    digest = hashlib.sha256()
    for batch in texts.batches(PROGRESS_ROWS // 100):
        for text in batch:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
