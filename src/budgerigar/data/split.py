"""Splits that are stratified by class and keep duplicates on one side.

Two texts are duplicates here when they agree after case folding and with every run of
white space as one space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from budgerigar.errors import DataError

BATCH = 10_000
NAMED_ROWS = 5


class Texts(Protocol):
    """Texts that are read in pieces."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[list[str]]: ...


def stratified(
    labels: np.ndarray, texts: Texts, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows in two, class by class, duplicates together.

    Args:
        labels: class of each row, `[N]`.
        texts: the rows' texts.
        share: of each class that is held out; at least one row of each is, and one is kept.
        seed: decides which, together with the texts.

    Returns:
        Kept rows and held-out rows, sorted.

    Raises:
        DataError: when a class has too few different texts for both sides.
    """
    groups = duplicate_groups(texts)
    first_rows = np.unique(groups, return_index=True)[1]
    sizes = np.bincount(groups)
    # A duplicate with another label goes with the label of its first row.
    group_labels = labels[first_rows]
    generator = np.random.default_rng([seed, len(labels)])
    held_groups: list[int] = []
    for label in np.unique(group_labels):
        members = generator.permutation(np.flatnonzero(group_labels == label))
        if len(members) < 2:
            rows = np.flatnonzero(labels == label)[:NAMED_ROWS] + 1
            raise DataError(
                f"class number {label} has one distinct text (row {', '.join(map(str, rows))})",
                why="training and validation need one each",
                remedy="add texts of that class, or give data.validation a file",
            )
        wanted = max(1.0, share * sizes[members].sum())
        before = np.concatenate([[0], np.cumsum(sizes[members])[:-1]])
        # Takes groups while the middle of the next one is still inside the wanted share.
        taken = int(np.count_nonzero(before + sizes[members] / 2 <= wanted))
        held_groups.extend(members[: min(max(taken, 1), len(members) - 1)])
    held = np.isin(groups, held_groups)
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


def overlap(first: Texts, second: Texts) -> np.ndarray:
    """Rows of the second set whose text stands in the first one too, sorted."""
    return np.flatnonzero(np.isin(_hashes(second), _hashes(first)))


def duplicate_groups(texts: Texts) -> np.ndarray:
    """A group number for each row, `[N]`; duplicates share one."""
    return np.unique(_hashes(texts), return_inverse=True)[1].ravel()


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
