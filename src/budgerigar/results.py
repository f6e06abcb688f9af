"""What `results.json` says of scores: with intervals, class names and the surest errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from budgerigar.evaluation import metrics, statistics
from budgerigar.predict import Predictions

SHOWN_ERRORS = 12
"""Most confident errors that are kept with their texts."""


class Texts(Protocol):
    """Texts by row."""

    def __getitem__(self, row: int) -> str: ...


def scores_record(scores: metrics.Scores, classes: Sequence[str]) -> dict[str, Any]:
    """Scores with their interval and class names, for results.json."""
    record = asdict(scores)
    record["accuracy"] = scores.accuracy
    record["interval"] = asdict(statistics.wilson_interval(scores.correct, scores.texts))
    for name, one in zip(classes, record["classes"], strict=True):
        one["name"] = name
    return record


def confident_errors(
    predictions: Predictions, labels: np.ndarray, texts: Texts
) -> list[dict[str, Any]]:
    """The wrong predictions of highest probability, surest first, with their texts."""
    wrong = np.flatnonzero(predictions.indices != labels)
    surest = wrong[np.argsort(-predictions.probabilities[wrong].max(axis=1), kind="stable")]
    return [
        {
            "row": int(row),
            "text": texts[int(row)],
            "label": predictions.classes[labels[row]],
            "predicted": predictions[int(row)].label,
            "probability": round(predictions[int(row)].probability, 4),
        }
        for row in surest[:SHOWN_ERRORS]
    ]


def headline(content: dict[str, Any]) -> list[str]:
    """The main figures of `results.json`, a line for each set that was scored."""
    lines = []
    was_chosen = content["training"]["keep"] == "best" and len(content["epochs"]) > 1
    for name in ("validation", "test"):
        if (scores := content.get(name)) is None:
            continue
        interval = scores["interval"]
        is_flattered = was_chosen and name == "validation"
        chosen = ", on which the best epoch was chosen" if is_flattered else ""
        lines.append(
            f"{name} accuracy {scores['accuracy']:.2%} (95 % interval {interval['low']:.2%} to "
            f"{interval['high']:.2%}, {scores['texts']:,} texts{chosen})"
        )
    return lines
