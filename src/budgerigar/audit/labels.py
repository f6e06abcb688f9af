"""Suspected wrong labels: which rows, how many, and the class that each looks like.

How likely each class is comes from `label_noise`. Rows are flagged where that promises the
highest F1 (Lipton, Elkan and Naryanaswamy 2014, arXiv:1402.1892): the most doubtful ones, as
many as maximise the expected value. `docs/label-noise.md` says what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from budgerigar.audit.findings import Example, Finding
from budgerigar.audit.label_noise import believe

LEAST_ROWS = 25
"""Rows a class, on average, below which nothing can be said."""
LAYERS = 6
"""Layers of the encoder that are read at most."""
CLEAN, NOISY = 0.15, 0.21
"""Evidence of noise (see `_trust`) below which labels are believed, above which they are not."""
SHOWN_EXAMPLES = 5


@dataclass(frozen=True)
class Suspicion:
    """What is suspected of a file's labels.

    Attributes:
        rows: flagged, the most suspect first.
        suggested_B: for every row the likeliest class other than the given one.
        doubt_B: for every row the probability that its label is wrong.
        probabilities_BC: of each class, text and label considered.
        estimated_rate: share of wrong labels in the file, by the model's own account.
        judged: whether the file is large enough; where not, nothing is flagged.
    """

    rows: np.ndarray
    suggested_B: np.ndarray
    doubt_B: np.ndarray
    probabilities_BC: np.ndarray
    estimated_rate: float
    judged: bool


def layers(depth: int) -> tuple[int, ...]:
    """The encoder's layers whose vectors `suspects` wants: evenly spread, up to the last.

    Args:
        depth: layers that the encoder has.
    """
    wanted = min(depth, LAYERS)
    return tuple(-(-depth * number // wanted) - 1 for number in range(1, wanted + 1))


def suspects(
    vectors_BD: np.ndarray,
    width: int,
    labels_B: np.ndarray,
    classes: int,
    *,
    texts: Sequence[str] | None = None,
    seed: int = 0,
) -> Suspicion:
    """Flags rows whose label is probably wrong, from this file and a frozen encoder alone.

    Args:
        vectors_BD: mean-pooled states of the layers that `layers` names, side by side.
        width: of one layer; divides D.
        labels_B: class of each row, `[B]`.
        classes: C.
        texts: the texts; with them their words count too.
        seed: of projections and folds; the same seed flags the same rows.
    """
    given_B = np.asarray(labels_B, dtype=np.int64)
    present = np.unique(given_B)
    if len(present) < 2 or len(given_B) < LEAST_ROWS * len(present):
        return _nothing(given_B, classes)
    place_B = np.searchsorted(present, given_B)
    belief = believe(vectors_BD, width, place_B, len(present), texts, seed)
    trust = _trust(belief.probabilities_BC, place_B)
    found_BC = belief.probabilities_BC * belief.confusion_CC[:, place_B].T ** trust
    found_BC /= found_BC.sum(1, keepdims=True)
    probabilities_BC = np.zeros((len(given_B), classes))
    probabilities_BC[:, present] = found_BC
    doubt_B = 1 - probabilities_BC[np.arange(len(given_B)), given_B]
    return Suspicion(
        rows=highest_expected_f1(doubt_B),
        suggested_B=_likeliest_other(probabilities_BC, given_B),
        doubt_B=doubt_B,
        probabilities_BC=probabilities_BC,
        estimated_rate=float(doubt_B.mean()),
        judged=True,
    )


def highest_expected_f1(doubt_B: np.ndarray) -> np.ndarray:
    """Rows to flag so that the expected F1 is highest, the most doubtful first.

    Flagging the k most doubtful rows has an expected F1 of about twice the sum of their
    doubts over k plus the sum of all.
    """
    order = np.argsort(-doubt_B, kind="stable")
    counts = np.arange(1, len(order) + 1)
    expected = 2 * np.cumsum(doubt_B[order]) / (counts + doubt_B.sum())
    return np.asarray(order[: int(expected.argmax()) + 1] if doubt_B.any() else order[:0])


def findings(
    suspicion: Suspicion, labels_B: np.ndarray, texts: Sequence[str], classes: Sequence[str]
) -> list[Finding]:
    """Puts a suspicion into words.

    Args:
        suspicion: of these rows.
        labels_B: class of each row, `[B]`.
        texts: the rows' texts.
        classes: names of the classes.
    """
    if not suspicion.judged:
        return [
            Finding(
                code="labels-not-judged",
                severity="note",
                count=len(labels_B),
                message=f"{len(labels_B):,} rows are too few to look for wrong labels",
                advice=f"Judge them by eye, or add texts: at least {LEAST_ROWS} a class, and two "
                "classes, are needed.",
            )
        ]
    if not len(suspicion.rows):
        return []
    rows = suspicion.rows.tolist()
    pairs: dict[str, int] = {}
    for row in rows:
        pair = f"{classes[labels_B[row]]} -> {classes[suspicion.suggested_B[row]]}"
        pairs[pair] = pairs.get(pair, 0) + 1
    examples = tuple(
        Example(
            row,
            texts[row],
            f"labelled {classes[labels_B[row]]}, looks like {classes[suspicion.suggested_B[row]]}",
        )
        for row in rows[:SHOWN_EXAMPLES]
    )
    share = len(rows) / len(labels_B)
    return [
        Finding(
            code="label-suspect",
            severity="warning",
            count=len(rows),
            message=f"{len(rows):,} of {len(labels_B):,} labels ({share:.1%}) are suspected wrong",
            advice="Check these rows by eye, the first ones first: where classes overlap, right "
            "labels are among them.",
            rows=tuple(rows),
            examples=examples,
            details={
                "estimated_rate": round(suspicion.estimated_rate, 4),
                "doubt": [round(float(suspicion.doubt_B[row]), 4) for row in rows],
                "suggested": [classes[suspicion.suggested_B[row]] for row in rows],
                "pairs": dict(sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))),
            },
        )
    ]


def _trust(probabilities_BC: np.ndarray, labels_B: np.ndarray) -> float:
    """How far the labels themselves count as evidence, from 0 to 1.

    Right labels disagree with the texts' own classes too, where classes overlap, but about as
    often one way as the other. Evidence of noise is therefore the expected share of
    disagreements, and how far the labels' counts are from the counts of the texts' classes.
    """
    rows, classes = probabilities_BC.shape
    disagreement = 1 - probabilities_BC[np.arange(rows), labels_B].mean()
    counts_C = np.bincount(labels_B, minlength=classes) / rows
    imbalance = np.abs(probabilities_BC.mean(0) - counts_C).sum() / 2
    return float(np.clip((NOISY - disagreement - imbalance) / (NOISY - CLEAN), 0, 1))


def _likeliest_other(probabilities_BC: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    others_BC = probabilities_BC.copy()
    others_BC[np.arange(len(labels_B)), labels_B] = -1
    return np.asarray(others_BC.argmax(1))


def _nothing(labels_B: np.ndarray, classes: int) -> Suspicion:
    return Suspicion(
        rows=np.empty(0, np.int64),
        suggested_B=labels_B,
        doubt_B=np.zeros(len(labels_B)),
        probabilities_BC=np.eye(classes)[labels_B],
        estimated_rate=0.0,
        judged=False,
    )
