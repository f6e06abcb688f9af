"""The accuracy to expect on texts without labels: arrays in, numbers out.

Each method learns from labelled validation texts how a classifier's confidence goes with its
being right, and reads the confidence of the unlabelled texts. All of them assume that this
relation holds there too; where texts are of another kind it may not, and no method without
labels can tell (Garg et al. 2022, section 3). The intervals count the chance of drawing the
validation texts and of single texts being right, not that assumption.

Shape letters: V validation texts, U unlabelled texts, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from budgerigar.evaluation.statistics import Interval

RESAMPLES = 400
LARGEST_TEMPERATURE = 100.0
THRESHOLD, DIFFERENCE = "average thresholded confidence", "difference of confidences"
SOURCES = {
    THRESHOLD: "Garg et al. 2022, arXiv:2201.04234",
    DIFFERENCE: "Guillory et al. 2021, arXiv:2107.03315, "
    "on temperature-scaled confidence (Guo et al. 2017, arXiv:1706.04599)",
}


@dataclass(frozen=True)
class Estimate:
    """What one method expects.

    Attributes:
        method: a key of `SOURCES`.
        accuracy: expected share of right predictions.
        interval: 95 %, of the accuracy on these very texts.
    """

    method: str
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Expectation:
    """What all methods expect of one set of texts.

    Attributes:
        texts: how many they are.
        methods: one estimate each.
    """

    texts: int
    methods: tuple[Estimate, ...]

    @property
    def accuracy(self) -> float:
        """The mean of the methods."""
        return float(np.mean([one.accuracy for one in self.methods]))

    @property
    def interval(self) -> Interval:
        """From the lowest to the highest end of the methods' intervals."""
        return Interval(
            min(one.interval.low for one in self.methods),
            max(one.interval.high for one in self.methods),
        )

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON, with the methods' sources."""
        return {
            "texts": self.texts,
            "accuracy": self.accuracy,
            "low": self.interval.low,
            "high": self.interval.high,
            "methods": [
                {
                    "method": one.method,
                    "source": SOURCES[one.method],
                    "accuracy": one.accuracy,
                    "low": one.interval.low,
                    "high": one.interval.high,
                }
                for one in self.methods
            ],
        }


def expected_accuracy(
    validation_VC: np.ndarray,
    labels_V: np.ndarray,
    unlabelled_UC: np.ndarray,
    generator: np.random.Generator,
    groups: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Expectation]:
    """The accuracy to expect on unlabelled texts, as a whole (`all`) and by group.

    Args:
        validation_VC: logits of texts that the classifier was not trained on, V > 0.
        labels_V: their classes.
        unlabelled_UC: logits of the texts in question, U > 0.
        generator: draws the resamples.
        groups: rows of the unlabelled texts by name; empty groups are left out.
    """
    temperature = fit_temperature(validation_VC, labels_V)
    known = _Confidence(validation_VC, temperature)
    right_V = (validation_VC.argmax(axis=1) == labels_V).astype(np.float64)
    chosen: dict[str, np.ndarray] = {"all": np.arange(len(unlabelled_UC)), **(groups or {})}
    found = {}
    for name, rows in chosen.items():
        if len(rows):
            asked = _Confidence(unlabelled_UC[rows], temperature)
            found[name] = Expectation(
                len(rows),
                (
                    _estimate(THRESHOLD, _thresholded, known.entropy, right_V, asked.entropy,
                              generator),
                    _estimate(DIFFERENCE, _difference, known.highest, right_V, asked.highest,
                              generator),
                ),
            )  # fmt: skip
    return found


def fit_temperature(logits_BC: np.ndarray, labels_B: np.ndarray) -> float:
    """The number by which logits are divided to fit the labels best.

    Minimises the negative log-likelihood (Guo et al. 2017, arXiv:1706.04599, section 4.2). The
    labels give way by one text in all, as in Platt 1999, section 2.2: a few texts that are all
    right would ask for no doubt at all.
    """
    logits_BC = logits_BC.astype(np.float64)
    every, slack = np.arange(len(labels_B)), 1 / (len(labels_B) + 2)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits_BC / np.exp(log_temperature), axis=1)
        given, others = scaled[every, labels_B].mean(), scaled.mean()
        return -float((1 - slack) * given + slack * others)

    bound = float(np.log(LARGEST_TEMPERATURE))
    fitted = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")
    return float(np.exp(fitted.x))


class _Confidence:
    """Negative entropy and highest probability of each text, `[B]`."""

    def __init__(self, logits_BC: np.ndarray, temperature: float) -> None:
        scaled = logits_BC.astype(np.float64) / temperature
        probabilities = softmax(scaled, axis=1)
        self.entropy: np.ndarray = (probabilities * log_softmax(scaled, axis=1)).sum(axis=1)
        self.highest: np.ndarray = probabilities.max(axis=1)


def _thresholded(known_V: np.ndarray, right_V: np.ndarray, asked_U: np.ndarray) -> float:
    """The share of texts above the confidence that as many validation texts reach as are right.

    Garg et al. 2022, section 4, equations 2 and 3.
    """
    wrong = len(right_V) - round(float(right_V.sum()))
    if wrong == 0:
        return float((asked_U >= known_V.min()).mean())
    # Between the last that must fall below and the first that must not.
    ordered = np.sort(known_V)
    above = ordered[wrong] if wrong < len(ordered) else np.inf
    return float((asked_U > (ordered[wrong - 1] + above) / 2).mean())


def _difference(known_V: np.ndarray, right_V: np.ndarray, asked_U: np.ndarray) -> float:
    """The validation accuracy, less what confidence lost (Guillory et al. 2021, section 3)."""
    return float(np.clip(right_V.mean() - known_V.mean() + asked_U.mean(), 0.0, 1.0))


def _estimate(
    method: str,
    compute: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
    known_V: np.ndarray,
    right_V: np.ndarray,
    asked_U: np.ndarray,
    generator: np.random.Generator,
) -> Estimate:
    """A method's estimate and the interval of the accuracy on these very texts.

    Validation texts are resampled, and whether each unlabelled text is right is drawn.
    """
    texts = len(asked_U)
    drawn = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, len(known_V), len(known_V))
        share = compute(known_V[rows], right_V[rows], asked_U)
        # Half a text on either side, as a few texts that are all sure prove little.
        drawn.append(generator.binomial(texts, (share * texts + 0.5) / (texts + 1)) / texts)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(method, compute(known_V, right_V, asked_U), Interval(float(low), float(high)))
