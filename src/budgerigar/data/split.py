"""Splits that are stratified by class and keep duplicates, near ones too, on one side.

Two texts are duplicates here when they agree after case folding and with every run of
white space as one space; `near_duplicates` says which are nearly the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from budgerigar.data import near_duplicates
from budgerigar.data.labels import Rows
from budgerigar.errors import DataError

BATCH = 10_000


class Texts(Protocol):
    """Texts that are read in pieces, and know the numbers of their rows."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[list[str]]: ...

    def numbers(self, rows: np.ndarray) -> np.ndarray: ...


def stratified(
    labels: np.ndarray,
    texts: Texts,
    fraction: float,
    seed: int,
    classes: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows in two, class by class, duplicates and near duplicates together.

    Args:
        labels: class of each row, `[N]`.
        texts: the rows' texts.
        fraction: of each class that is held out; at least one row of each is, and one is kept.
        seed: decides which, together with the texts.
        classes: class names, for what is told of a class.

    Returns:
        Kept rows and held-out rows, sorted.

    Raises:
        DataError: when a class has too few different texts for both sides.
    """
    exact = duplicate_groups(texts)
    groups = near_duplicates.joined(exact, near_duplicates.pairs(texts, exact))
    first_rows = np.unique(groups, return_index=True)[1]
    sizes = np.bincount(groups)
    # A duplicate with another label goes with the label of its first row.
    group_labels = labels[first_rows]
    generator = np.random.default_rng([seed, len(labels)])
    held_groups = np.zeros(len(sizes), dtype=bool)
    for label in np.unique(group_labels):
        members = generator.permutation(np.flatnonzero(group_labels == label))
        held_groups[_held_out(members, sizes[members], fraction)] = True
    _serve_every_class(labels, groups, held_groups, texts, classes)
    held = held_groups[groups]
    return np.flatnonzero(~held), np.flatnonzero(held)


def stratified_sample(labels: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """Draws rows so that each class keeps its share, to within one row.

    Args:
        labels: class of each row, `[N]`.
        rows: how many to draw; at most N.
        seed: decides which.

    Returns:
        Sorted row numbers, `[rows]`.
    """
    generator = np.random.default_rng([seed, len(labels)])
    classes, counts = np.unique(labels, return_counts=True)
    exact = rows * counts / len(labels)
    take = np.floor(exact).astype(int)
    # The largest remainders get what rounding down left over.
    for index in np.argsort(-(exact - take), kind="stable")[: rows - take.sum()]:
        take[index] += 1
    drawn = [
        generator.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def duplicate_groups(texts: Texts) -> np.ndarray:
    """A group number for each row, `[N]`; duplicates share one."""
    return np.unique(_hashes(texts), return_inverse=True)[1].ravel()


def _held_out(members: np.ndarray, sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Those of a class's groups, in drawn order, that come nearest to the fraction of its rows."""
    wanted = max(1.0, fraction * sizes.sum())
    taken: list[int] = []
    rows = 0
    for group, size in zip(members, sizes, strict=True):
        # A group is taken while its middle is inside the wanted share, and passed over where
        # it is too large for what is left.
        if rows + size / 2 <= wanted and len(taken) < len(members) - 1:
            taken.append(group)
            rows += size
    if not taken and len(members) > 1:
        taken.append(members[np.argmin(sizes)])
    return np.array(taken, dtype=np.int64)


def _serve_every_class(
    labels: np.ndarray,
    groups: np.ndarray,
    held_groups: np.ndarray,
    texts: Texts,
    classes: Sequence[str] | None,
) -> None:
    """Moves a group where a class is missing on one side; changes `held_groups`.

    Only where the same text stands under several labels, or a class has one text, is there
    anything to do.
    """
    for label in np.unique(labels):
        own = np.unique(groups[labels == label])
        held = held_groups[own]
        if 0 < np.count_nonzero(held) < len(own):
            continue
        movable = [
            group
            for group in own
            if len(own) > 1 and _not_the_last(labels, groups, held_groups, group, label)
        ]
        if not movable:
            found = Rows()
            found.add(texts.numbers(np.flatnonzero(labels == label)) - 1)
            name = f"class {label}" if classes is None else f"class {classes[label]}"
            raise DataError(
                f"{name} has too few different texts to be split ({found})",
                why="training and validation need one each",
                remedy="add texts of that class, or give data.validation a file",
            )
        held_groups[movable[0]] = not held_groups[movable[0]]


def _not_the_last(
    labels: np.ndarray, groups: np.ndarray, held_groups: np.ndarray, group: int, label: int
) -> bool:
    """Whether every other class of a group has one more on the group's side."""
    side = held_groups[groups] == held_groups[group]
    others = np.setdiff1d(labels[groups == group], [label])
    return bool(np.isin(others, labels[side & (groups != group)]).all())


def _hashes(texts: Texts) -> np.ndarray:
    """A 16-byte hash of each normalised text."""
    found = np.empty(len(texts), dtype="S16")
    row = 0
    for batch in texts.batches(BATCH):
        for text in batch:
            normal = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
            # numpy drops trailing zero bytes of an S16; hex digits have none.
            found[row] = hashlib.blake2b(normal, digest_size=8).hexdigest()
            row += 1
    return found
