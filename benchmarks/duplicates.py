"""How long it takes to find duplicates and near duplicates, and how many are found.

    python benchmarks/duplicates.py [--texts 120000] [--rounds 3] [--json FILE]

Texts are generated: words by a Zipf law, 20 to 60 a text. A twentieth are copies of others in
another case; a tenth are copies with one word put in, replaced or left out at a random place.
Found pairs are compared with the planted ones whose Jaccard index over runs of five words is
at least the threshold.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from budgerigar.audit import duplicates
from budgerigar.data.near_duplicates import SIMILAR, WORDS
from budgerigar.data.texts import Texts
from measure import seconds, spread, write

VOCABULARY = 50_000


def main() -> None:
    """Times the search, counts what it found, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=120_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    strings, copies, near = generated(asked.texts)
    texts = Texts(pa.chunked_array([pa.array(strings, pa.large_string())]))
    start = time.process_time()
    times = [seconds(lambda: duplicates.groups(texts)) for _ in range(asked.rounds)]
    processor = (time.process_time() - start) / asked.rounds
    found = duplicates.groups(texts)
    exact = sum(int(found.exact_B[a] == found.exact_B[b]) for a, b in copies)
    joined = sum(int(found.joined_B[a] == found.joined_B[b]) for a, b in near)
    took = spread(times)
    print(f"{asked.texts:,} texts: {took} seconds, {processor:.1f} of processor time")
    print(f"copies found: {exact:,} of {len(copies):,}")
    print(f"near duplicates found: {joined:,} of {len(near):,}")
    made_from = {
        "texts": asked.texts,
        "processor_seconds": processor,
        "copies": [exact, len(copies)],
        "near_duplicates": [joined, len(near)],
        "pairs": len(found.near.first),
    }
    write(asked.json, {"seconds": took}, made_from)


def generated(count: int) -> tuple[list[str], list[tuple[int, int]], list[tuple[int, int]]]:
    """Texts, pairs of copies, and pairs of near copies above the threshold."""
    draws = np.random.default_rng(0)
    chances = 1 / np.arange(1, VOCABULARY + 1)
    ranks = np.arange(VOCABULARY)
    lengths = draws.integers(20, 61, size=count)
    words = draws.choice(ranks, size=int(lengths.sum()), p=chances / chances.sum())
    texts = [part.tolist() for part in np.split(words, np.cumsum(lengths)[:-1])]
    copies, near = [], []
    changed = draws.permutation(count)
    own = changed[count * 3 // 20 :]
    for row in changed[: count // 10].tolist():
        source = int(draws.choice(own))
        texts[row] = altered(texts[source], draws)
        if similarity(texts[row], texts[source]) >= SIMILAR:
            near.append((source, row))
    strings = [" ".join(f"word{number}" for number in text) for text in texts]
    for row in changed[count // 10 : count * 3 // 20].tolist():
        source = int(draws.choice(own))
        strings[row] = strings[source].upper()
        copies.append((source, row))
    return strings, copies, near


def altered(text: list[int], draws: np.random.Generator) -> list[int]:
    """A copy with one word more, less, or other."""
    at = int(draws.integers(len(text)))
    kind = draws.integers(3)
    middle = [] if kind == 0 else [int(draws.integers(VOCABULARY))]
    return [*text[:at], *middle, *text[at + (kind < 2) :]]


def similarity(first: list[int], second: list[int]) -> float:
    """Jaccard index of the runs of words."""
    one, other = (
        {tuple(text[at : at + WORDS]) for at in range(len(text) - WORDS + 1)}
        for text in (first, second)
    )
    return len(one & other) / len(one | other)


if __name__ == "__main__":
    main()
