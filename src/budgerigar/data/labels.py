"""Labels as written -> class numbers; every doubt about them settled, with the rows named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from budgerigar.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

NAMED_ROWS = 5
"""Rows that a message names before it only counts."""

MOST_CLASSES = 1_000
"""Classes that integer labels may make where they are more than the rows."""

INTEGER = re.compile(r"\s*(-?[0-9]{1,18})(\.0*)?\s*", re.ASCII)
"""An integer as people and programs write it: `3`, ` 3`, `3.0`."""


@dataclass
class Rows:
    """Rows that have something in common: the first few, and how many there are."""

    first: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, places: np.ndarray, before: int = 0) -> None:
        """Adds places counted from 0, of a part that begins after `before` rows."""
        self.count += len(places)
        room = NAMED_ROWS - len(self.first)
        self.first.extend(int(place) + before + 1 for place in places[:room])

    def __str__(self) -> str:
        """`row 7`, `rows 1, 2, 3`, or the first few and how many more."""
        named = ", ".join(f"{row:,}" for row in self.first)
        more = self.count - len(self.first)
        plural = "row" if self.count == 1 else "rows"
        return f"{plural} {named} and {more:,} more" if more else f"{plural} {named}"


@dataclass(frozen=True)
class Written:
    """The labels of a source as it writes them.

    Attributes:
        values: the distinct labels.
        codes: which of them each row has, int32 `[N]`; -1 for a row without one.
    """

    values: tuple[str, ...]
    codes: np.ndarray

    def rows(self, value: str | None) -> Rows:
        """The rows with a label, or without any."""
        found = Rows()
        code = -1 if value is None else self.values.index(value)
        found.add(np.flatnonzero(self.codes == code))
        return found


class WrittenBuilder:
    """Collects labels part by part, four bytes a row."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._parts: list[np.ndarray] = []

    def add(self, labels: pa.Array) -> None:
        """Adds an Arrow array of strings; null stands for no label."""
        encoded = labels.dictionary_encode()
        known = [
            self._codes.setdefault(value, len(self._codes))
            for value in encoded.dictionary.to_pylist()
        ]
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        # The last entry is what a place of -1 finds.
        self._parts.append(np.array([*known, -1], dtype=np.int32)[places])

    def build(self) -> Written:
        """What was collected."""
        return Written(tuple(self._codes), np.concatenate([np.empty(0, np.int32), *self._parts]))


def renamed(source: str, written: Written, names: Sequence[str]) -> Written:
    """Integers of a `ClassLabel` column as the names that they stand for; -1 is no label.

    Raises:
        DataError: naming the rows of an integer that stands for none.
    """
    targets = []
    for value in written.values:
        number = _integer(value)
        if number is None or not -1 <= number < len(names):
            raise DataError(
                f"{source}: label {value!r} is none of its {len(names)} classes "
                f"({written.rows(value)})",
                remedy="correct the rows",
            )
        targets.append(number)
    codes = np.array([*targets, -1], dtype=np.int32)[written.codes]
    return Written(tuple(names), codes)


class LabelDecoder:
    """Turns labels as written into class numbers, or says which rows cannot be.

    Raises:
        DataError: naming the rows without a label.
    """

    def __init__(self, source: str, written: Written) -> None:
        self._source = source
        self._written = written
        counts = np.bincount(written.codes[written.codes >= 0], minlength=len(written.values))
        if missing := len(written.codes) - int(counts.sum()):
            rows = written.rows(None)
            raise DataError(
                f"{source}: {missing:,} {'row has' if missing == 1 else 'rows have'} no label "
                f"({rows})",
                remedy="label them, or put them into a file of their own as data.unlabelled",
            )
        used = zip(written.values, counts, strict=True)
        self._values = sorted(value for value, count in used if count)
        numbers = [_integer(value) for value in self._values]
        self._numbers = (
            {v: n for v, n in zip(self._values, numbers, strict=True) if n is not None}
            if None not in numbers
            else None
        )

    def names(self, label_base: int | None) -> tuple[str, ...]:
        """Class names where neither recipe nor source has any: the labels themselves.

        Names come sorted; integers give every number from 0, or from 1 where 0 is not among
        them, to the last.

        Raises:
            DataError: for names that differ only in case or spaces, or integers too large.
        """
        if self._numbers is None:
            self._refuse_lookalikes(self._values)
            return tuple(self._values)
        first, last = min(self._numbers.values()), max(self._numbers.values())
        base = label_base if label_base is not None else min(max(first, 0), 1)
        if last < base:
            raise DataError(
                f"{self._source}: every label is below {base}, where integers begin "
                f"({self._rows(self._values[0])})",
                remedy="check the labels and data.label_base, or name the classes in data.classes",
            )
        if last - base >= max(MOST_CLASSES, len(self._written.codes)):
            largest = next(value for value in self._values if self._numbers[value] == last)
            raise DataError(
                f"{self._source}: label {largest} ({self._rows(largest)}) would make "
                f"{last - base + 1:,} classes",
                remedy="check the name of the label column, or name the classes in data.classes",
            )
        return tuple(str(number) for number in range(base, last + 1))

    def numbers(
        self, classes: tuple[str, ...], label_base: int | None
    ) -> tuple[np.ndarray, int | None]:
        """Class numbers, int64 `[N]`, and what integer labels count from (None for names).

        Labels that are class names stand for those classes; other integers count from
        `label_base`.

        Raises:
            DataError: naming the rows of labels that are none of the classes.
        """
        base: int | None = None
        if set(self._values) <= set(classes) or self._numbers is None:
            self._refuse_unknown(classes)
            table = {name: number for number, name in enumerate(classes)}
            if self._numbers is not None:
                base = self._named_base(classes, label_base)
        else:
            base = self._named_base(classes, label_base)
            if base is None:
                base = self._base(len(classes), label_base)
            table = {value: number - base for value, number in self._numbers.items()}
            for value, number in table.items():
                if not 0 <= number < len(classes):
                    raise DataError(
                        f"{self._source}: label {value} is none of {len(classes)} classes "
                        f"counted from {base} ({self._rows(value)})",
                        remedy="check data.classes and data.label_base",
                    )
        numbers = np.array([table.get(value, -1) for value in self._written.values], np.int64)
        return numbers[self._written.codes], base

    def _refuse_unknown(self, classes: Sequence[str]) -> None:
        unknown = [value for value in self._values if value not in set(classes)]
        if not unknown:
            return
        self._refuse_lookalikes([*classes, *unknown])
        raise DataError(
            f"{self._source}: label {unknown[0]!r} is none of {', '.join(classes)}"
            f"{nearest(unknown[0], classes)} ({self._rows(unknown[0])})",
            remedy="correct the rows, or name every class in data.classes",
        )

    def _named_base(self, classes: Sequence[str], label_base: int | None) -> int | None:
        """What class names that are themselves integers count from; None for other names."""
        base = next((b for b in (0, 1) if classes[0] == str(b)), None)
        if base is None or list(classes) != [str(base + n) for n in range(len(classes))]:
            return None
        if label_base not in (None, base):
            raise DataError(
                f"{self._source}: labels are to count from {label_base}, but the classes are "
                f"called {classes[0]} to {classes[-1]}",
                remedy="correct data.label_base or data.classes",
            )
        return base

    def _base(self, number_of_classes: int, label_base: int | None) -> int:
        if label_base is not None:
            return label_base
        assert self._numbers is not None
        values = {number: value for value, number in self._numbers.items()}
        zero, last = 0 in values, number_of_classes in values
        if zero and last:
            raise DataError(
                f"{self._source}: labels run from 0 ({self._rows(values[0])}) to "
                f"{number_of_classes} ({self._rows(values[number_of_classes])}), "
                f"too many for {number_of_classes} classes",
                remedy="correct the rows or data.classes",
            )
        if not zero and not last:
            some = ", ".join(map(str, sorted(values)[:10]))
            raise DataError(
                f"{self._source}: labels {some} could count from 0 or from 1",
                remedy="say which with data.label_base",
            )
        return 0 if zero else 1

    def _refuse_lookalikes(self, names: Sequence[str]) -> None:
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(" ".join(name.split()).casefold(), name)
            if other != name:
                # One of the two may be a class that no row has.
                both = [
                    f"{one!r} ({self._rows(one)})" if one in self._values else repr(one)
                    for one in (other, name)
                ]
                raise DataError(
                    f"{self._source}: labels {both[0]} and {both[1]} differ only in case or spaces",
                    remedy="write one of them everywhere",
                )

    def _rows(self, value: str) -> Rows:
        return self._written.rows(value)


def _integer(label: str) -> int | None:
    found = INTEGER.fullmatch(label)
    return int(found[1]) if found else None


def decode(
    source: str,
    written: Written,
    own: tuple[str, ...] | None,
    names: tuple[str, ...] | None,
    label_base: int | None,
) -> tuple[np.ndarray, int | None, tuple[str, ...], list[str]]:
    """Class numbers, what integers count from, class names, and what to say about it.

    `own` are the names that the source gives its integers. Where the user's are the same in
    another order, names decide; where they are others, as many, they take the place of its own.

    Raises:
        DataError: naming the rows of labels that cannot be used.
    """
    if own is None:
        decoder = LabelDecoder(source, written)
        names = names or decoder.names(label_base)
        labels, base = decoder.numbers(names, label_base)
        return labels, base, names, ["integer labels count from 1"] if base == 1 else []
    names, said = names or own, []
    if set(names) != set(own):
        if len(names) != len(own):
            raise DataError(
                f"{source} has {len(own)} classes, {', '.join(own)}, not {len(names)}",
                remedy="correct data.classes, or leave it out",
            )
        said.append(f"its classes {', '.join(own)} are called {', '.join(names)}")
        own = names
    labels, _ = LabelDecoder(source, renamed(source, written, own)).numbers(names, None)
    return labels, 0 if own == names else None, names, said


def as_label(source: str, column: pa.Array, rows_before: int) -> pa.Array:
    """Labels as strings: `3` for 3 and 3.0, null for an empty one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column.cast(pa.float64()))
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 1e15))
        odd = true_places(pc.invert(whole))
        if len(odd):
            raise DataError(
                f"{source}, row {rows_before + int(odd[0]) + 1:,}: label "
                f"{column[int(odd[0])].as_py()} is not a whole number",
                remedy="labels are whole numbers or names",
            )
        column = column.cast(pa.int64())
    elif not (
        is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        raise DataError(
            f"{source}: the label column holds {kind}", remedy="labels are numbers or names"
        )
    strings = column.cast(pa.string())
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(strings), ""), None, strings)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of texts."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def true_places(mask: pa.Array) -> np.ndarray:
    """Places where an Arrow mask holds; null does not."""
    places: np.ndarray = np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False))
    return places
