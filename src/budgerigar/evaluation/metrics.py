"""Accuracy, F1, loss, calibration: arrays in, numbers out.

Shape letters: B texts, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of one class, and how many texts are of it."""

    precision: float
    recall: float
    f1: float
    texts: int


@dataclass(frozen=True)
class Scores:
    """How predictions stand against labels.

    Attributes:
        texts: how many were scored.
        correct: how many predictions were right.
        loss: mean negative log-likelihood of the labels, natural logarithm.
        macro_f1: mean of the classes' F1, 0 for a class never met nor predicted.
        classes: by class.
        confusion: `[C][C]` counts, a row for each true class.
        calibration_error: see `expected_calibration_error`.
    """

    texts: int
    correct: int
    loss: float
    macro_f1: float
    classes: tuple[ClassScores, ...]
    confusion: list[list[int]]
    calibration_error: float

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return self.correct / self.texts


def score(logits_BC: np.ndarray, labels_B: np.ndarray) -> Scores:
    """Scores logits `[B, C]` against labels `[B]`, B > 0."""
    number_of_classes = logits_BC.shape[1]
    logits_BC = logits_BC.astype(np.float64)
    predicted_B = logits_BC.argmax(axis=1)
    every = np.arange(number_of_classes)
    precision, recall, f1, texts = precision_recall_fscore_support(
        labels_B, predicted_B, labels=every, zero_division=0.0
    )
    log_likelihood_B = log_softmax(logits_BC, axis=1)[np.arange(len(labels_B)), labels_B]
    return Scores(
        texts=len(labels_B),
        correct=int((predicted_B == labels_B).sum()),
        loss=float(-log_likelihood_B.mean()),
        macro_f1=float(f1.mean()),
        classes=tuple(
            ClassScores(float(precision[c]), float(recall[c]), float(f1[c]), int(texts[c]))
            for c in every
        ),
        confusion=confusion_matrix(labels_B, predicted_B, labels=every).tolist(),
        calibration_error=expected_calibration_error(softmax(logits_BC, axis=1), labels_B),
    )


@dataclass(frozen=True)
class Bin:
    """Predictions of like confidence: mean confidence, accuracy, how many."""

    confidence: float
    accuracy: float
    texts: int


def reliability(probabilities_BC: np.ndarray, labels_B: np.ndarray) -> tuple[Bin, ...]:
    """Confidence against accuracy in equally wide bins of confidence, empty ones left out.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2, with
    `CALIBRATION_BINS` bins, the upper edge belonging to its bin.
    """
    confidence_B = probabilities_BC.max(axis=1)
    right_B = probabilities_BC.argmax(axis=1) == labels_B
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)[1:-1]
    bin_B = np.digitize(confidence_B, edges, right=True)
    return tuple(
        Bin(float(confidence_B[inside].mean()), float(right_B[inside].mean()), int(inside.sum()))
        for number in np.unique(bin_B)
        for inside in [bin_B == number]
    )


def expected_calibration_error(probabilities_BC: np.ndarray, labels_B: np.ndarray) -> float:
    """Mean gap between confidence and accuracy, weighted by texts, over `reliability`'s bins."""
    bins = reliability(probabilities_BC, labels_B)
    return sum(one.texts * abs(one.confidence - one.accuracy) for one in bins) / len(labels_B)
