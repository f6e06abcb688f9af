"""Duplicates in a file of texts, and texts of other files that stand in it.

Findings name rows as their files number them, from 0, also where only some rows are in use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from budgerigar.audit.findings import TEXTS_OF, Example, Finding
from budgerigar.data import near_duplicates
from budgerigar.data.near_duplicates import SIMILAR, Pairs
from budgerigar.data.split import duplicate_groups

SHOWN_EXAMPLES = 5
JUDGED_BY_OTHERS = "Judge predictions by the other texts: what these are labelled is known."


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


@dataclass(frozen=True)
class _Set:
    """A file's texts among the texts of all files.

    Attributes:
        name: which file it is.
        texts: its own.
        exact_B: of its rows, the number that equal texts of all files share.
    """

    name: str
    texts: Texts
    exact_B: np.ndarray


def findings(
    train: Texts,
    labels: np.ndarray | None,
    others: Mapping[str, Texts] | None = None,
    classes: Sequence[str] | None = None,
) -> list[Finding]:
    """Says what stands twice in a file, under which labels, and what other files share with it
    and with each other.

    Args:
        train: the file's texts.
        labels: class of each, `[B]`, or None.
        others: texts of other files by their names, such as those of the test file.
        classes: names of the classes.
    """
    named: dict[str, Texts] = {"train": train, **(others or {})}
    every = groups(_Joined(list(named.values())))
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
    bounds = np.cumsum([0, *map(len, named.values())])
    sets = [
        _Set(name, texts, every.exact_B[first:last])
        for (name, texts), first, last in zip(named.items(), bounds, bounds[1:], strict=False)
    ]
    for place, other in enumerate(sets):
        for known in sets[:place]:
            found += [_leaks(known, other), _near_leaks(known, other, every)]
    return [one for one in found if one is not None]


def _copies(texts: Texts, own: Groups) -> Finding | None:
    """Rows whose text stands in an earlier row."""
    first_B, row_B = _first_rows(own.exact_B), _file_rows(texts)
    rows = np.flatnonzero(first_B != np.arange(len(first_B)))
    if not len(rows):
        return None
    firsts = row_B[first_B[rows]].tolist()
    return Finding(
        code="duplicate",
        severity="warning",
        count=len(rows),
        message=f"{_texts(len(rows))} {_stand(len(rows))} in an earlier row already, "
        f"{len(set(firsts)):,} different ones",
        advice="Remove these rows: they count twice in training; a split keeps them on one side.",
        rows=tuple(row_B[rows].tolist()),
        examples=_examples(texts, rows, [f"same as row {row}" for row in firsts]),
        details={"first_rows": firsts},
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
    rows, row_B = np.array(list(earlier), dtype=np.int64), _file_rows(texts)
    return Finding(
        code="near-duplicate",
        severity="warning",
        count=len(rows),
        message=f"{_texts(len(rows))} {_are(len(rows))} nearly the same as an earlier one "
        f"(at least {SIMILAR:.0%} of all runs of five words shared)",
        advice="Look at the pairs, and keep one text of each; a split keeps them on one side.",
        rows=tuple(sorted(row_B[rows].tolist())),
        examples=_examples(
            texts,
            rows,
            [f"{index:.0%} like row {row_B[first]}" for first, index in earlier.values()],
        ),
        details={"pairs": _pairs(own.near, row_B)},
    )


def _contradictions(
    texts: Texts, exact_B: np.ndarray, labels: np.ndarray, classes: Sequence[str] | None
) -> Finding | None:
    """Rows of equal texts that have different labels."""
    first_B, row_B = _first_rows(exact_B), _file_rows(texts)
    differing = np.unique(exact_B[labels != labels[first_B]])
    rows = np.flatnonzero(np.isin(exact_B, differing))
    if not len(rows):
        return None
    abouts = [
        f"labelled {_name(labels[row], classes)}"
        + ("" if row == first_B[row] else f"; row {row_B[first_B[row]]} has the same text")
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
        rows=tuple(row_B[rows].tolist()),
        examples=_examples(texts, rows[order], [abouts[place] for place in order]),
    )


def _near_contradictions(
    texts: Texts, own: Groups, labels: np.ndarray, classes: Sequence[str] | None
) -> Finding | None:
    """Pairs of near duplicates that have different labels."""
    pairs = _within(own.near, labels[own.near.first] != labels[own.near.second])
    if not len(pairs.first):
        return None
    rows, row_B = np.unique(np.concatenate([pairs.first, pairs.second])), _file_rows(texts)
    abouts = [
        f"labelled {_name(labels[second], classes)}; {index:.0%} like row {row_B[first]}, "
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
        rows=tuple(row_B[rows].tolist()),
        examples=_examples(texts, pairs.second, abouts),
        details={"pairs": _pairs(pairs, row_B)},
    )


def _leaks(known: _Set, other: _Set) -> Finding | None:
    """Rows of a file whose text stands in another one, too."""
    shared, in_known, _ = np.intersect1d(known.exact_B, other.exact_B, return_indices=True)
    rows = np.flatnonzero(np.isin(other.exact_B, shared))
    if not len(rows):
        return None
    firsts = _file_rows(known.texts)[in_known[np.searchsorted(shared, other.exact_B[rows])]]
    to_predict = other.name == "unlabelled"
    return Finding(
        code="leak",
        severity="warning" if to_predict else "error",
        count=len(rows),
        message=f"{len(rows):,} of {len(other.texts):,} {TEXTS_OF[other.name]} "
        f"{_stand(len(rows))} in the {_row_of(known)}s" + ", with their labels" * to_predict,
        advice=JUDGED_BY_OTHERS
        if to_predict
        else f"Remove them from the {_row_of(known)}s: results on them show memory, not skill.",
        rows=tuple(_file_rows(other.texts)[rows].tolist()),
        file=other.name,
        examples=_examples(
            other.texts, rows, [f"same as {_row_of(known)} {row}" for row in firsts]
        ),
        details=_leaked(known, shared),
    )


def _near_leaks(known: _Set, other: _Set, every: Groups) -> Finding | None:
    """Rows of a file that are nearly the same as a text of another one, and stand in it not."""
    # Only the first of equal texts is in a pair, and speaks for all of them.
    first, second = every.exact_B[every.near.first], every.exact_B[every.near.second]
    in_known, in_other = np.append(first, second), np.append(second, first)
    crossing = (
        np.isin(in_known, known.exact_B)
        & np.isin(in_other, other.exact_B)
        & ~np.isin(in_other, known.exact_B)
    )
    best: dict[int, tuple[float, int]] = {}
    for there, here, index in zip(
        in_known[crossing].tolist(),
        in_other[crossing].tolist(),
        np.tile(every.near.similarity, 2)[crossing].tolist(),
        strict=True,
    ):
        best[here] = max(best.get(here, (0.0, 0)), (index, -there))
    if not best:
        return None
    rows = np.flatnonzero(np.isin(other.exact_B, list(best)))
    likeness = [best[number] for number in other.exact_B[rows].tolist()]
    clearest = sorted(range(len(rows)), key=lambda place: (-likeness[place][0], rows[place]))
    ids, firsts = np.unique(known.exact_B, return_index=True)
    partners = _file_rows(known.texts)[
        firsts[np.searchsorted(ids, [-number for _, number in likeness])]
    ]
    return Finding(
        code="near-leak",
        severity="warning",
        count=len(rows),
        message=f"{len(rows):,} of {len(other.texts):,} {TEXTS_OF[other.name]} {_are(len(rows))} "
        f"nearly the same as a {TEXTS_OF[known.name].removesuffix('s')}",
        advice=JUDGED_BY_OTHERS
        if other.name == "unlabelled"
        else f"Remove the {_row_of(known)}s that they resemble, and compare results with and "
        "without them.",
        rows=tuple(_file_rows(other.texts)[rows].tolist()),
        file=other.name,
        examples=_examples(
            other.texts,
            rows[clearest],
            [
                f"{likeness[place][0]:.0%} like {_row_of(known)} {partners[place]}"
                for place in clearest
            ],
        ),
        details=_leaked(known, np.unique(in_known[crossing])),
    )


def _leaked(known: _Set, shared: np.ndarray) -> dict[str, Any]:
    """The known file's part of a leak."""
    rows = np.flatnonzero(np.isin(known.exact_B, shared))
    return {"known": known.name, f"{known.name}_rows": _file_rows(known.texts)[rows].tolist()}


def _row_of(known: _Set) -> str:
    """What people call a row of a file, such as `training row`."""
    return TEXTS_OF[known.name].replace("texts", "row")


def _file_rows(texts: Texts) -> np.ndarray:
    """The number that each text's row has in its file, from 0."""
    return texts.numbers(np.arange(len(texts))) - 1


class _Joined:
    """Several files as one."""

    def __init__(self, parts: Sequence[Texts]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> str:
        place = int(np.searchsorted(self._ends, row, side="right"))
        part = self._parts[place]
        return part[row - int(self._ends[place]) + len(part)]

    def batches(self, size: int) -> Iterator[list[str]]:
        for part in self._parts:
            yield from part.batches(size)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        return rows + 1


def _first_rows(groups_B: np.ndarray) -> np.ndarray:
    """For each row the first row of its group."""
    _, first, place = np.unique(groups_B, return_index=True, return_inverse=True)
    return np.asarray(first[place.ravel()])


def _within(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    return Pairs(pairs.first[chosen], pairs.second[chosen], pairs.similarity[chosen])


def _pairs(pairs: Pairs, row_B: np.ndarray) -> list[list[int]]:
    return np.stack([row_B[pairs.first], row_B[pairs.second]], axis=1).tolist()  # type: ignore[no-any-return]


def _examples(texts: Texts, rows: np.ndarray, abouts: Sequence[str]) -> tuple[Example, ...]:
    shown = rows[:SHOWN_EXAMPLES]
    return tuple(
        Example(int(number), texts[int(row)], about)
        for number, row, about in zip(texts.numbers(shown) - 1, shown, abouts, strict=False)
    )


def _name(label: int, classes: Sequence[str] | None) -> str:
    return f"class {label}" if classes is None else classes[label]


def _texts(number: int) -> str:
    return "1 text" if number == 1 else f"{number:,} texts"


def _stand(number: int) -> str:
    return "stands" if number == 1 else "stand"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
