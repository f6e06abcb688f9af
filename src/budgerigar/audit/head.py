"""A linear head on frozen features: what a quick classifier says of texts, before training.

Shape letters: B texts, D width of features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from budgerigar.audit.shift import FOLDS, folds_of

STRENGTH = 0.02
"""Inverse of the penalty on a head over standardised features."""


@dataclass(frozen=True)
class Predicted:
    """A classifier's logits where labels are known and where they are not.

    Attributes:
        classes: names.
        validation_BC: logits of texts that it was not trained on.
        labels_B: their classes.
        unlabelled_BC: logits of the texts in question.
        by: the classifier in words.
    """

    classes: tuple[str, ...]
    validation_BC: np.ndarray
    labels_B: np.ndarray
    unlabelled_BC: np.ndarray
    by: str


def predicted_by_head(
    texts: Sequence[str],
    vectors_BD: np.ndarray,
    labels_B: np.ndarray,
    classes: Sequence[str],
    unlabelled_BD: np.ndarray,
    seed: int,
) -> Predicted | None:
    """Cross-validated logits of labelled texts, and those of unlabelled ones.

    Args:
        texts: of the labelled rows; equal ones share a fold.
        vectors_BD: theirs.
        labels_B: their classes.
        classes: names.
        unlabelled_BD: vectors of the other texts.
        seed: of the folds.

    Returns:
        None where there are too few rows of a class to hold some out.
    """
    present, counts = np.unique(labels_B, return_counts=True)
    if len(present) < 2 or counts.min() < 2 * FOLDS:
        return None
    mean, spread = vectors_BD.mean(axis=0), vectors_BD.std(axis=0)
    spread = np.where(spread > 1e-3 * spread.max(), spread, np.inf)
    known, asked = (vectors_BD - mean) / spread, (unlabelled_BD - mean) / spread
    folds_B = folds_of(texts, len(texts), np.random.default_rng(seed))
    logits_BC = np.zeros((len(texts), len(classes)))
    for fold in range(FOLDS):
        inside = folds_B == fold
        if len(np.unique(labels_B[~inside])) < len(present):
            return None
        logits_BC[inside] = _logits(known[~inside], labels_B[~inside], known[inside], len(classes))
    unlabelled_BC = _logits(known, labels_B, asked, len(classes))
    by = "a linear head on the frozen encoder, cross-validated"
    return Predicted(tuple(classes), logits_BC, labels_B, unlabelled_BC, by)


def _logits(inputs: np.ndarray, labels: np.ndarray, asked: np.ndarray, classes: int) -> np.ndarray:
    """Log-probabilities, `[B, C]`; classes that no row has are all but impossible."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=STRENGTH, max_iter=300).fit(inputs, labels)
    logits_BC = np.full((len(asked), classes), -50.0)
    logits_BC[:, fitted.classes_] = fitted.predict_log_proba(asked)
    return logits_BC
