"""The kinds of texts in a file, for people: sizes, words that mark them, examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from budgerigar.audit.findings import shortened
from budgerigar.audit.shift import Shift
from budgerigar.audit.style import MEASURES, WORD, measures

EXAMPLES, WORDS_SHOWN, MEASURES_SHOWN = 5, 12, 8
WIDEST = 10.0
"""Standard deviations that are told apart."""
PRIOR_WORDS = 1000
"""Words that the prior of marking words weighs at most."""
PARTS = range(2, 7)
"""Numbers of parts that are tried within a kind."""
CLUSTERED = 3_000
"""Texts that parts are looked for in; the others join the nearest."""
DIMENSIONS = 16
"""Principal components of the vectors that parts are looked for in."""
SILHOUETTE = 0.1
"""Mean silhouette (Rousseeuw 1987) below which a kind has no parts."""


def clusters(
    shift: Shift,
    train: Sequence[str],
    other: Sequence[str],
    other_vectors: np.ndarray,
    seed: int,
) -> list[dict[str, Any]]:
    """The kinds of texts in OTHER, each with its size, words, examples, and a guess at parts.

    Args:
        shift: of the texts.
        train: training texts to compare words with.
        other: all texts of OTHER.
        other_vectors: of the encoder's last layer, `[B, D]`.
        seed: of the parts.
    """
    found = []
    reference = word_counts(train)
    for name, member_B in (("unlike", shift.unlike_B), ("like", ~shift.unlike_B)):
        rows = np.flatnonzero(member_B)
        if not len(rows):
            continue
        order = shift.score_B[rows] * (-1 if name == "unlike" else 1)
        clear = rows[np.argsort(order, kind="stable")]
        kind: dict[str, Any] = {
            "group": name,
            "texts": len(rows),
            "share": round(len(rows) / len(other), 4),
            "words": marking_words(word_counts([other[row] for row in rows.tolist()]), reference),
            "examples": _examples(other, clear),
        }
        if name == "unlike":
            kind["parts"] = _parts(other, rows, clear, other_vectors, seed)
        found.append(kind)
    return found


def _examples(texts: Sequence[str], rows: np.ndarray) -> list[dict[str, Any]]:
    """Texts from the clearest tenth, evenly spread: the very first are often odd ones."""
    tenth = rows[: max(EXAMPLES, len(rows) // 10)]
    chosen = tenth[:: max(1, len(tenth) // EXAMPLES)][:EXAMPLES].tolist()
    return [{"row": row, "text": shortened(texts[row])} for row in chosen]


def _parts(
    texts: Sequence[str], rows: np.ndarray, clear: np.ndarray, vectors: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """A guess at parts of a kind: k-means on an encoder's vectors, by the best silhouette."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    if len(rows) < 10 * PARTS.start:
        return []
    generator = np.random.default_rng(seed)
    scaled = vectors[rows] / (np.linalg.norm(vectors[rows], axis=1, keepdims=True) + 1e-9)
    wide = min(DIMENSIONS, *scaled.shape)
    inside = PCA(wide, svd_solver="randomized", random_state=seed).fit_transform(scaled)
    seen = np.sort(generator.permutation(len(rows))[:CLUSTERED])
    best, chosen = SILHOUETTE, None
    for count in PARTS:
        fitted = KMeans(count, n_init=3, random_state=seed).fit(inside[seen])
        score = float(silhouette_score(inside[seen], fitted.labels_))
        if score > best:
            best, chosen = score, fitted
    if chosen is None:
        return []
    part_of = dict(zip(rows.tolist(), chosen.predict(inside).tolist(), strict=True))
    every = word_counts([texts[row] for row in rows.tolist()])
    found = []
    for number in range(chosen.n_clusters):
        members = np.array([row for row in clear.tolist() if part_of[row] == number], int)
        if len(members):
            words = word_counts([texts[row] for row in members.tolist()])
            found.append(
                {
                    "texts": len(members),
                    "words": marking_words(words, every),
                    "examples": _examples(texts, members),
                    "rows": sorted(members.tolist()),
                }
            )
    return sorted(found, key=lambda part: -int(part["texts"]))


def word_counts(texts: Sequence[str]) -> Counter[str]:
    """How often each word occurs, case aside."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text.casefold()))
    return counts


def marking_words(counts: Counter[str], reference: Counter[str]) -> list[str]:
    """Words that are more frequent than in the reference, the surest first.

    Log-odds with a Dirichlet prior of both sets' words (Monroe, Colaresi and Quinn 2008,
    Political Analysis 16:372-403, section 3.5.1).
    """
    every = counts + reference
    total, of_counts, of_reference = every.total(), counts.total(), reference.total()
    strength = min(PRIOR_WORDS, total / 10)
    scored = []
    for word, prior in every.items():
        if prior < 5:
            continue
        expected = strength * prior / total
        here, there = counts[word] + expected, reference[word] + expected
        odds = np.log(here / (of_counts + strength - here)) - np.log(
            there / (of_reference + strength - there)
        )
        scored.append((float(odds / np.sqrt(1 / here + 1 / there)), word))
    scored.sort(key=lambda one: (-one[0], one[1]))
    return [word for sure, word in scored[:WORDS_SHOWN] if sure > 3]


def differences(
    train: Sequence[str], other: Sequence[str], unlike_B: np.ndarray
) -> list[dict[str, Any]]:
    """Surface measures that differ most between TRAIN and OTHER, as a whole and by kind.

    `distance` is the difference of means of the kind that differs most, in standard deviations
    (Cohen's d, with the mean of both variances).
    """
    of_train, of_other = measures(train), measures(other)
    kinds = {"against": of_other}
    if 0 < unlike_B.sum() < len(unlike_B):
        kinds |= {"like": of_other[~unlike_B], "unlike": of_other[unlike_B]}
    distances = {name: _distances(of_train, of_kind) for name, of_kind in kinds.items()}
    means = {name: of.mean(axis=0) for name, of in {"train": of_train, **kinds}.items()}
    found: list[tuple[float, dict[str, Any]]] = []
    for number, name in enumerate(MEASURES):
        record: dict[str, Any] = {key: round(float(mean[number]), 3) for key, mean in means.items()}
        widest = max((float(of[number]) for of in distances.values()), key=abs)
        found.append((widest, {"measure": name, **record, "distance": round(widest, 2)}))
    found.sort(key=lambda one: -abs(one[0]))
    return [record for _, record in found[:MEASURES_SHOWN]]


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cohen's d of each column, at most `WIDEST` on either side."""
    spread = np.sqrt((first.var(axis=0) + second.var(axis=0)) / 2)
    apart = second.mean(axis=0) - first.mean(axis=0)
    found: np.ndarray = np.clip(apart / np.maximum(spread, 1e-9), -WIDEST, WIDEST)
    return found
