"""Files and hub data sets -> texts, labels, class names.

Rows are counted from 1; headers, and empty lines of CSV and JSON files, are not among them.
Texts stay exactly as they are, in a memory-mapped Arrow file, so that memory does not grow
with their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from budgerigar.data.delimited import TEXT_COLUMNS
from budgerigar.data.labels import LabelDecoder, WrittenBuilder, as_label, decode, is_text
from budgerigar.data.tables import EXAMPLE, Table, open_table
from budgerigar.data.texts import Texts, all_numbers, fingerprint, load_texts, no_rows
from budgerigar.errors import DataError, nearest

__all__ = ["EXAMPLE", "Columns", "Corpus", "Texts", "check_classes", "class_names", "read"]


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


@dataclass(frozen=True)
class Corpus:
    """A set of texts.

    Attributes:
        texts: the texts.
        labels: class numbers from 0, int64 `[N]`; None where they were not asked for.
        classes: class names.
        source: as the user gave it.
        fingerprint: hex SHA-256 over texts and labels.
        label_base: what integer labels count from, 0 or 1; None for names.
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
        return replace(self, texts=texts, labels=labels, fingerprint=fingerprint(texts, labels))


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
    if labelled:
        _require_label(source, table, columns.label)
    text_columns = _choose(source, table, columns)
    texts, written, empty = load_texts(
        source, table, text_columns, columns.label if labelled else None
    )
    notes = list(table.notes)
    if empty.count:
        several = "s" * (empty.count > 1)
        notes.append(f"{empty.count:,} empty text{several} ({empty}, counted from 1)")
    labels, base, names = None, None, tuple(classes) if classes else None
    if written is not None:
        own = table.classes.get(columns.label)
        labels, base, names, said = decode(source, written, own, names, label_base)
        notes.extend(said)
    return Corpus(
        texts=texts,
        labels=labels,
        classes=names,
        source=source,
        fingerprint=fingerprint(texts, labels),
        label_base=base,
        notes=tuple(notes),
    )


def class_names(source: str, columns: Columns, label_base: int | None) -> tuple[str, ...]:
    """The class names that a labelled set of texts itself gives; its texts are not read.

    Raises:
        DataError: for labels that cannot be used, naming their rows.
    """
    table = open_table(source, columns.names, columns.label)
    _require_label(source, table, columns.label)
    names = table.classes.get(columns.label) or _written_names(source, table, columns, label_base)
    if len(names) < 2:
        raise DataError(
            f"{source}: every row has the label {names[0]!r}",
            remedy="a classifier needs two classes: check the label column, or name the classes "
            "in data.classes",
        )
    return names


def _written_names(
    source: str, table: Table, columns: Columns, label_base: int | None
) -> tuple[str, ...]:
    """The class names that the labels of a table make."""
    builder, rows = WrittenBuilder(), 0
    for batch in table.read([columns.label]):
        builder.add(as_label(source, batch.column(0), rows))
        rows += batch.num_rows
    if not rows:
        raise no_rows(source)
    return LabelDecoder(source, builder.build()).names(label_base)


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


def _require_label(source: str, table: Table, label: str) -> None:
    if label not in table.columns:
        raise DataError(
            f"{source} has no label column {label!r}{nearest(label, table.columns)}",
            why=f"its columns are {', '.join(table.columns)}",
            remedy="name it with data.label",
        )


def _choose(source: str, table: Table, columns: Columns) -> list[str]:
    """The text columns to join."""
    known, wanted = table.columns, columns.names
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
        others = [name for name in known if name != columns.label]
        texts = [name for name in others if name in TEXT_COLUMNS]
        if not texts and len(others) > 1:
            texts = _string_columns(table, others)
        texts = texts or others
        texts = texts if len(texts) == 1 else []
    if not texts:
        raise DataError(
            f"{source} does not tell which of its columns is the text",
            why=f"they are {', '.join(known)}",
            remedy="name them, such as --columns label,title,text",
        )
    return texts


def _string_columns(table: Table, names: list[str]) -> list[str]:
    """Those columns whose first rows are texts, not numbers."""
    found = []
    for name in names:
        try:
            batch = next(iter(table.read([name])), None)
        except DataError:
            # A column that nothing reads need not be readable.
            continue
        if batch is not None and is_text(batch.column(0).type):
            column = batch.column(0)
            if table.typed or not all_numbers(column):
                found.append(name)
    return found
