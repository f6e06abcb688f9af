"""Texts that are nearly the same: most of their runs of five words agree.

Words are letters and digits, without regard to case and punctuation. MinHash signatures
(Broder 1997, "On the resemblance and containment of documents") cut into bands name the
candidates; each candidate's Jaccard index is then computed exactly from the runs themselves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

WORDS = 5
"""Words of a run; a shorter text is one run."""
SIMILAR = 0.8
"""Jaccard index from which two texts are near duplicates."""
BANDS, DEPTH = 16, 4
"""A pair is a candidate when all `DEPTH` values of a band agree: at an index of 0.8 that
misses 2 pairs in 10,000."""
NEIGHBOURS = 20
"""A text is compared with so many others of its bucket, so that a file of thousands of
variants of one text takes no quadratic time."""
SEED = 1
BATCH = 10_000
WORD = re.compile(r"\w+")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Texts(Protocol):
    """Texts that are read in pieces."""

    def __len__(self) -> int: ...

    def batches(self, size: int) -> Iterator[list[str]]: ...


@dataclass(frozen=True)
class Pairs:
    """Pairs of near duplicates.

    Attributes:
        first, second: rows, `[P]`; `first` is the smaller.
        similarity: Jaccard index, `[P]`, at least `SIMILAR`.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Runs:
    """The different runs of words of each text, as 64-bit hashes in rising order.

    Attributes:
        hashes: of all texts, one after another.
        offsets: first of each text, `[B + 1]`.
    """

    hashes: np.ndarray
    offsets: np.ndarray

    def of(self, row: int) -> np.ndarray:
        """One text's."""
        return self.hashes[self.offsets[row] : self.offsets[row + 1]]


def pairs(texts: Texts, exact_B: np.ndarray) -> Pairs:
    """Near duplicates among different texts.

    Args:
        texts: B of them.
        exact_B: the same number for texts that are the same; of those only the first is
            compared.
    """
    firsts = np.unique(exact_B, return_index=True)[1]
    firsts.sort()
    runs = _runs(texts, firsts)
    found: list[tuple[int, int, float]] = []
    for one, other in _candidates(runs).tolist():
        first_runs, second_runs = runs.of(one), runs.of(other)
        smaller, larger = sorted((len(first_runs), len(second_runs)))
        if smaller < SIMILAR * larger:
            continue
        shared = len(np.intersect1d(first_runs, second_runs, assume_unique=True))
        similarity = shared / (smaller + larger - shared)
        if similarity >= SIMILAR:
            found.append((one, other, similarity))
    table = np.array(found, dtype=np.float64).reshape(-1, 3)
    return Pairs(
        firsts[table[:, 0].astype(np.int64)], firsts[table[:, 1].astype(np.int64)], table[:, 2]
    )


def joined(exact_B: np.ndarray, near: Pairs) -> np.ndarray:
    """A group number for each row: duplicates, near ones too, and theirs, share one.

    Args:
        exact_B: the same number for texts that are the same.
        near: pairs of near duplicates.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = int(exact_B.max()) + 1 if len(exact_B) else 0
    edges = (np.ones(len(near.first)), (exact_B[near.first], exact_B[near.second]))
    merged = connected_components(coo_array(edges, shape=(count, count)), directed=False)[1]
    return np.asarray(merged[exact_B], dtype=np.int64)


def _runs(texts: Texts, wanted: np.ndarray) -> Runs:
    """Runs of words of some rows, in their order."""
    numbers: dict[str, int] = {}
    is_wanted = np.zeros(len(texts), bool)
    is_wanted[wanted] = True
    found, counts, row = [], [], 0
    for batch in texts.batches(BATCH):
        for text in batch:
            if is_wanted[row]:
                folded = text.casefold()
                hashes = [
                    # A word is hashed once; runs are then made of numbers, not of text.
                    numbers.get(word) or numbers.setdefault(word, _hash(word))
                    for word in WORD.findall(folded) or [folded]
                ]
                own = _run_hashes(np.array(hashes, dtype=np.uint64))
                found.append(own)
                counts.append(len(own))
            row += 1
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return Runs(np.concatenate([np.empty(0, np.uint64), *found]), offsets)


def _hash(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _run_hashes(words: np.ndarray) -> np.ndarray:
    """Different runs of a text's words: a polynomial in the words' hashes, modulo 2^64."""
    length = min(WORDS, len(words))
    runs = np.zeros(len(words) - length + 1, dtype=np.uint64)
    for place in range(length):
        runs = runs * MULTIPLIER + words[place : len(words) - length + 1 + place]
    return np.unique(runs)


def _candidates(runs: Runs) -> np.ndarray:
    """Pairs that share a band of their signatures, `[P, 2]`, each once."""
    from rensa import RMinHash

    rows = len(runs.offsets) - 1
    signatures = np.empty((rows, BANDS * DEPTH), dtype=np.uint32)
    for first in range(0, rows, BATCH):
        last = min(rows, first + BATCH)
        offsets = runs.offsets[first : last + 1]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            runs.hashes[offsets[0] : offsets[-1]],
            (offsets - offsets[0]).astype(np.uint64),
            BANDS * DEPTH,
            SEED,
        )
        signatures[first:last] = matrix.to_rows()
    keys = [
        _paired(np.ascontiguousarray(signatures[:, first : first + DEPTH]).view("V16").ravel())
        for first in range(0, BANDS * DEPTH, DEPTH)
    ]
    merged = np.unique(np.concatenate(keys)) if keys else np.empty(0, np.int64)
    return np.stack([merged // max(rows, 1), merged % max(rows, 1)], axis=1)


def _paired(band: np.ndarray) -> np.ndarray:
    """Pairs of rows with equal bands, each as one number: smaller row times rows plus larger."""
    rows = len(band)
    buckets = np.unique(band, return_inverse=True)[1].ravel()
    order = np.argsort(buckets, kind="stable")
    ordered = buckets[order]
    found = [np.empty(0, np.int64)]
    for distance in range(1, min(NEIGHBOURS + 1, rows)):
        same = np.flatnonzero(ordered[distance:] == ordered[:-distance])
        if not len(same):
            break
        found.append(order[same].astype(np.int64) * rows + order[same + distance])
    return np.concatenate(found)
