"""Duplicates in a file of texts, and texts of another file that stand in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from budgerigar.audit.findings import Example, Finding
from budgerigar.data import near_duplicates
from budgerigar.data.near_duplicates import SIMILAR, Pairs
from budgerigar.data.split import duplicate_groups

SHOWN_EXAMPLES = 5


class Texts(Protocol):
    """Texts by their rows, and in pieces."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> str: ...

    def batches(self, size: int) -> Iterator[list[str]]: ...

    def numbers(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Groups:
    """Which texts are the same.

    Attributes:
        exact_B: one number for texts that differ in case and white space at most.
        joined_B: one number for these and for near duplicates, and theirs in turn.
        near: the pairs of near duplicates.
    """

    exact_B: np.ndarray
    joined_B: np.ndarray
    near: Pairs


def groups(texts: Texts) -> Groups:
    """Finds duplicates and near duplicates.

    Args:
        texts: B of them.
    """
    exact_B = duplicate_groups(texts)
    near = near_duplicates.pairs(texts, exact_B)
    return Groups(exact_B, near_duplicates.joined(exact_B, near), near)


def findings(
    train: Texts,
    labels: np.ndarray | None,
    other: Texts | None = None,
    classes: Sequence[str] | None = None,
) -> list[Finding]:
    """Says what stands twice in a file, under which labels, and what another file shares with it.

    Args:
        train: the file's texts.
        labels: class of each, `[B]`, or None.
        other: texts of another file, such as the test file.
        classes: names of the classes.
    """
    both = train if other is None else _Both(train, other)
    every = groups(both)
    count = len(train)
    own = Groups(
        every.exact_B[:count],
        every.joined_B[:count],
        _within(every.near, every.near.second < count),
    )
    found = [_copies(train, own), _near(train, own)]
    if labels is not None:
        found += [
            _contradictions(train, own.exact_B, labels, classes),
            _near_contradictions(train, own, labels, classes),
        ]
    if other is not None:
        found += _leaks(train, other, every)
    return [one for one in found if one is not None]


def _copies(texts: Texts, own: Groups) -> Finding | None:
    """Rows whose text stands in an earlier row."""
    first_B = _first_rows(own.exact_B)
    rows = np.flatnonzero(first_B != np.arange(len(first_B)))
    if not len(rows):
        return None
    return Finding(
        code="duplicate",
        severity="warning",
        count=len(rows),
        message=f"{_texts(len(rows))} {_stand(len(rows))} in an earlier row already, "
        f"{len(np.unique(first_B[rows])):,} different ones",
        advice="Remove these rows: they count twice in training; a split keeps them on one side.",
        rows=tuple(rows.tolist()),
        examples=_examples(texts, rows, [f"same as row {first_B[row]}" for row in rows]),
        details={"first_rows": first_B[rows].tolist()},
    )


def _near(texts: Texts, own: Groups) -> Finding | None:
    """Rows that are nearly the same as an earlier one."""
    if not len(own.near.first):
        return None
    order = np.argsort(-own.near.similarity, kind="stable")
    earlier: dict[int, tuple[int, float]] = {}
    for place in order.tolist():
        row = int(own.near.second[place])
        earlier.setdefault(row, (int(own.near.first[place]), float(own.near.similarity[place])))
    rows = np.array(list(earlier), dtype=np.int64)
    return Finding(
        code="near-duplicate",
        severity="warning",
        count=len(rows),
        message=f"{_texts(len(rows))} {_are(len(rows))} nearly the same as an earlier one "
        f"(at least {SIMILAR:.0%} of all runs of five words shared)",
        advice="Look at the pairs, and keep one text of each; a split keeps them on one side.",
        rows=tuple(sorted(earlier)),
        examples=_examples(
            texts, rows, [f"{index:.0%} like row {first}" for first, index in earlier.values()]
        ),
        details={"pairs": _pairs(own.near)},
    )


def _contradictions(
    texts: Texts, exact_B: np.ndarray, labels: np.ndarray, classes: Sequence[str] | None
) -> Finding | None:
    """Rows of equal texts that have different labels."""
    first_B = _first_rows(exact_B)
    differing = np.unique(exact_B[labels != labels[first_B]])
    rows = np.flatnonzero(np.isin(exact_B, differing))
    if not len(rows):
        return None
    abouts = [
        f"labelled {_name(labels[row], classes)}"
        + ("" if row == first_B[row] else f"; row {first_B[row]} has the same text")
        for row in rows
    ]
    order = np.argsort(first_B[rows], kind="stable")
    return Finding(
        code="duplicate-different-label",
        severity="error",
        count=len(differing),
        message=f"{_texts(len(differing))} {_stand(len(differing))} under different labels, "
        f"in {len(rows):,} rows",
        advice="Decide for one label and remove the other rows: no classifier can be right on all.",
        rows=tuple(rows.tolist()),
        examples=_examples(texts, rows[order], [abouts[place] for place in order]),
    )


def _near_contradictions(
    texts: Texts, own: Groups, labels: np.ndarray, classes: Sequence[str] | None
) -> Finding | None:
    """Pairs of near duplicates that have different labels."""
    pairs = _within(own.near, labels[own.near.first] != labels[own.near.second])
    if not len(pairs.first):
        return None
    rows = np.unique(np.concatenate([pairs.first, pairs.second]))
    abouts = [
        f"labelled {_name(labels[second], classes)}; {index:.0%} like row {first}, "
        f"labelled {_name(labels[first], classes)}"
        for first, second, index in zip(
            pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True
        )
    ]
    number = len(pairs.first)
    return Finding(
        code="near-duplicate-different-label",
        severity="warning",
        count=number,
        message=f"{number:,} {'pair' if number == 1 else 'pairs'} of texts that are nearly the "
        f"same {'has' if number == 1 else 'have'} different labels",
        advice="Look at both texts of each pair: one of the two labels is probably wrong.",
        rows=tuple(rows.tolist()),
        examples=_examples(texts, pairs.second, abouts),
        details={"pairs": _pairs(pairs)},
    )


def _leaks(train: Texts, other: Texts, every: Groups) -> list[Finding | None]:
    """Rows of the other file that stand in the training rows, exactly or nearly."""
    count = len(train)
    first_B = _first_rows(every.exact_B)
    exact = np.flatnonzero(first_B[count:] < count)
    leaked = None
    if len(exact):
        leaked = Finding(
            code="leak",
            severity="error",
            count=len(exact),
            message=f"{len(exact):,} of {len(other):,} texts of the other file "
            f"{_stand(len(exact))} in the training rows",
            advice="Remove them from the training rows: results on them show memory, not skill.",
            rows=tuple(exact.tolist()),
            file="against",
            examples=_examples(
                other, exact, [f"same as training row {first_B[count + row]}" for row in exact]
            ),
            details={
                "train_rows": np.flatnonzero(
                    np.isin(every.exact_B[:count], every.exact_B[count:])
                ).tolist()
            },
        )
    # Only the first of equal texts is in a pair; it speaks for its copies in the other file.
    crossing = _within(every.near, (every.near.first < count) != (every.near.second < count))
    partners: dict[int, tuple[int, float]] = {}
    for first, second, index in zip(
        crossing.first.tolist(), crossing.second.tolist(), crossing.similarity.tolist(), strict=True
    ):
        for row in np.flatnonzero(every.exact_B[count:] == every.exact_B[second]).tolist():
            if index > partners.get(row, (0, 0.0))[1]:
                partners[row] = (first, index)
    if not partners:
        return [leaked]
    rows = np.array(sorted(partners, key=lambda row: (-partners[row][1], row)), dtype=np.int64)
    near = Finding(
        code="near-leak",
        severity="warning",
        count=len(rows),
        message=f"{len(rows):,} of {len(other):,} texts of the other file {_are(len(rows))} "
        "nearly the same as a training text",
        advice="Remove the training rows that they resemble, and compare results with and "
        "without them.",
        rows=tuple(sorted(rows.tolist())),
        file="against",
        examples=_examples(
            other, rows, [f"{partners[r][1]:.0%} like training row {partners[r][0]}" for r in rows]
        ),
        details={"train_rows": np.unique(crossing.first).tolist()},
    )
    return [leaked, near]


class _Both:
    """Two files as one."""

    def __init__(self, first: Texts, second: Texts) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __getitem__(self, row: int) -> str:
        count = len(self._first)
        return self._first[row] if row < count else self._second[row - count]

    def batches(self, size: int) -> Iterator[list[str]]:
        yield from self._first.batches(size)
        yield from self._second.batches(size)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        return rows


def _first_rows(groups_B: np.ndarray) -> np.ndarray:
    """For each row the first row of its group."""
    _, first, place = np.unique(groups_B, return_index=True, return_inverse=True)
    return np.asarray(first[place.ravel()])


def _within(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    return Pairs(pairs.first[chosen], pairs.second[chosen], pairs.similarity[chosen])


def _pairs(pairs: Pairs) -> list[list[int]]:
    return np.stack([pairs.first, pairs.second], axis=1).tolist()  # type: ignore[no-any-return]


def _examples(texts: Texts, rows: np.ndarray, abouts: Sequence[str]) -> tuple[Example, ...]:
    return tuple(
        Example(int(row), texts[int(row)], about)
        for row, about in zip(rows[:SHOWN_EXAMPLES], abouts, strict=False)
    )


def _name(label: int, classes: Sequence[str] | None) -> str:
    return f"class {label}" if classes is None else classes[label]


def _texts(number: int) -> str:
    return "1 text" if number == 1 else f"{number:,} texts"


def _stand(number: int) -> str:
    return "stands" if number == 1 else "stand"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
