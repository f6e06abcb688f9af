"""Labels as written -> class numbers; every doubt about them settled, with the rows named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from budgerigar.errors import DataError, nearest

NAMED_ROWS = 5
"""Rows that a message names before it only counts."""


class LabelDecoder:
    """Turns labels as written into class numbers, or says which rows cannot be."""

    def __init__(self, source: str, written: Sequence[str | None]) -> None:
        self._source = source
        self._written = written
        self._counts = Counter(label for label in written if label is not None)
        if missing := len(written) - self._counts.total():
            raise DataError(
                f"{source}: {missing:,} rows have no label ({self._rows(None)})",
                remedy="label them, or put them into a file of their own as data.unlabelled",
            )
        self._integers = all(_is_integer(label) for label in self._counts)

    def names(self, label_base: int | None) -> tuple[str, ...]:
        """Class names where neither recipe nor source has any: the labels themselves."""
        if not self._integers:
            self._refuse_lookalikes(sorted(self._counts))
            return tuple(sorted(self._counts))
        values = sorted({int(float(label)) for label in self._counts})
        base = label_base if label_base is not None else min(values[0], 1)
        return tuple(str(number) for number in range(max(base, 0), values[-1] + 1))

    def numbers(
        self, classes: tuple[str, ...], label_base: int | None
    ) -> tuple[np.ndarray, int | None]:
        """Class numbers `[N]`, and what integer labels count from (None for names)."""
        base: int | None = None
        if set(self._counts) <= set(classes):
            table = {name: number for number, name in enumerate(classes)}
        elif self._integers:
            base = self._base(len(classes), label_base)
            table = {label: int(float(label)) - base for label in self._counts}
            for label, number in table.items():
                if not 0 <= number < len(classes):
                    raise DataError(
                        f"{self._source}: label {label} is none of {len(classes)} classes "
                        f"counted from {base} ({self._rows(label)})",
                        remedy="check data.classes and data.label_base",
                    )
        else:
            self._refuse_lookalikes([*classes, *sorted(set(self._counts) - set(classes))])
            unknown = sorted(set(self._counts) - set(classes))[0]
            raise DataError(
                f"{self._source}: label {unknown!r} is none of {', '.join(classes)}"
                f"{nearest(unknown, classes)} ({self._rows(unknown)})",
                remedy="correct the rows, or name every class in data.classes",
            )
        numbers = np.fromiter((table[str(label)] for label in self._written), dtype=np.int64)
        return numbers, base

    def _base(self, number_of_classes: int, label_base: int | None) -> int:
        if label_base is not None:
            return label_base
        values = {int(float(label)): label for label in self._counts}
        zero, last = 0 in values, number_of_classes in values
        if zero and last:
            raise DataError(
                f"{self._source}: labels run from 0 ({self._rows(values[0])}) to "
                f"{number_of_classes} ({self._rows(values[number_of_classes])}), "
                f"too many for {number_of_classes} classes",
                remedy="correct the rows or data.classes",
            )
        if not zero and not last:
            raise DataError(
                f"{self._source}: labels {sorted(values)} could count from 0 or from 1",
                remedy="say which with data.label_base",
            )
        return 0 if zero else 1

    def _refuse_lookalikes(self, names: Sequence[str]) -> None:
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(name.strip().casefold(), name)
            if other != name:
                rows = self._rows(name)
                raise DataError(
                    f"{self._source}: labels {other!r} and {name!r} differ only in case or "
                    f"spaces ({rows})",
                    remedy="write one of them everywhere",
                )

    def _rows(self, label: str | None) -> str:
        rows = [row for row, written in enumerate(self._written, 1) if written == label]
        return name_rows(rows)


def _is_integer(label: str) -> bool:
    whole = label.strip().removesuffix(".0").lstrip("-")
    return whole.isascii() and whole.isdigit()


def name_rows(rows: Sequence[int]) -> str:
    """`row 7`, `rows 1, 2, 3`, or the first few and how many more."""
    named = ", ".join(f"{row:,}" for row in rows[:NAMED_ROWS])
    more = f" and {len(rows) - NAMED_ROWS:,} more" if len(rows) > NAMED_ROWS else ""
    return f"row {named}" if len(rows) == 1 else f"rows {named}{more}"
