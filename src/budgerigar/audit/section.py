"""The shift section: what `inspect` prints and `results.json` holds about unlabelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from budgerigar.audit import populations, shift
from budgerigar.audit.findings import Example, Finding
from budgerigar.audit.head import Predicted
from budgerigar.audit.shift import FEWEST, Shift
from budgerigar.audit.vectors import TextEncoder
from budgerigar.data.texts import Texts
from budgerigar.evaluation.estimate import expected_accuracy

SERIOUS = 0.05
"""Share of texts of another kind from which on results are wrong for them as a whole."""
LOWER = 0.01
"""Accuracy expected below that on validation texts that is worth saying."""
TINY = 1e-12
"""A p value below which its digits mean nothing."""
SHOWN = 5
MOST_UNLIKE = 20
"""Texts most unlike training that are listed."""


@dataclass(frozen=True)
class Encoded:
    """Texts of one file with their vectors.

    Attributes:
        texts: the texts.
        vectors_BD: of the layers that are compared, side by side, `[B, D]`.
        width: of the last layer, which stands last.
    """

    texts: Sequence[str]
    vectors_BD: np.ndarray
    width: int

    @property
    def last_layer_BD(self) -> np.ndarray:
        """Vectors of the last layer."""
        return self.vectors_BD[:, -self.width :]


@dataclass(frozen=True)
class Section:
    """What is to be said of OTHER.

    Attributes:
        shift: the test and the groups; None where there are too few texts.
        findings: in no order.
        content: ready for JSON.
    """

    shift: Shift | None
    findings: list[Finding]
    content: dict[str, Any]


def layers(depth: int) -> tuple[int, ...]:
    """The encoder's layers that are compared: each third's last.

    Lower layers hold how a text is written, the last ones what it is about.
    """
    return tuple(sorted({max(0, -(-depth * part // 3) - 1) for part in (1, 2, 3)}))


def encode(
    encoder: TextEncoder, texts: Texts, label: str, generator: np.random.Generator | None = None
) -> Encoded:
    """Texts with the vectors that are compared, from the cache where it holds them.

    Args:
        encoder: reads them.
        texts: of one file.
        label: names them in the progress display.
        generator: draws as many as `shift` fits classifiers to; None encodes all.
    """
    if generator is not None:
        texts = texts.select(shift.sample(len(texts), generator))
    vectors = encoder.encode(texts, label, layers(encoder.depth))
    return Encoded(texts[: len(texts)], vectors.vectors_BD, encoder.width)


def shift_section(
    train: Encoded, other: Encoded, predicted: Predicted | None = None, seed: int = 0
) -> Section:
    """Compares unlabelled texts with the training texts.

    Args:
        train: training texts; a sample of them is used where they are many.
        other: all unlabelled texts.
        predicted: logits of validation texts with labels, and of `other` in its order.
        seed: of everything that is drawn; the same seed gives the same section.
    """
    if min(len(train.texts), len(other.texts)) < FEWEST:
        why = f"fewer than {FEWEST} texts of a file say nothing about a shift"
        content: dict[str, Any] = {"test": None, "why": why}
        content |= {"kinds": "unknown", "groups": ["like"] * len(other.texts), "clusters": []}
        return Section(None, [], content)
    found = shift.detect(train.texts, train.vectors_BD, other.texts, other.vectors_BD, seed)
    generator = np.random.default_rng(seed)
    sampled = shift.sample(len(train.texts), generator)
    train_texts = [train.texts[row] for row in sampled.tolist()]
    content = {
        "test": {
            "method": "classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545)",
            "auc": found.test.auc,
            "low": found.test.interval.low,
            "high": found.test.interval.high,
            "p_value": found.test.p_value,
            "sampled": {"train": found.sampled[0], "against": found.sampled[1]},
        },
        "kinds": found.kinds,
        "verdict": verdict(found),
        "groups": np.where(found.unlike_B, "unlike", "like").tolist(),
        "probability_unlike": found.probability_B.round(4).tolist(),
        "certainty": round(found.certainty, 4),
        "clusters": populations.clusters(
            found, train_texts, other.texts, other.last_layer_BD, seed
        ),
        "most_unlike": _most_unlike(found, other.texts),
        "differences": populations.differences(train_texts, other.texts, found.unlike_B),
    }
    section = Section(found, _about_shift(found, other.texts), content)
    return section if predicted is None else with_expected_accuracy(section, predicted, seed)


def with_expected_accuracy(section: Section, predicted: Predicted, seed: int = 0) -> Section:
    """A section with what a classifier's accuracy on the unlabelled texts may be.

    Args:
        section: of the same unlabelled texts.
        predicted: logits of validation texts with labels, and of the unlabelled ones in order.
        seed: of everything that is drawn.
    """
    if section.shift is None:
        return section
    unlike_B = section.shift.unlike_B
    groups = {"like": np.flatnonzero(~unlike_B), "unlike": np.flatnonzero(unlike_B)}
    found = _expected(predicted, groups, np.random.default_rng(seed))
    findings = [*section.findings, *_about_accuracy(found["expected_accuracy"])]
    return Section(section.shift, findings, {**section.content, **found})


def verdict(found: Shift) -> str:
    """One sentence on what OTHER holds."""
    texts, unlike = len(found.unlike_B), int(found.unlike_B.sum())
    test = found.test
    chance = f"p = {test.p_value:.2g}" if test.p_value > TINY else f"p < {TINY:g}"
    figures = (
        f"AUC {test.auc:.3f}, 95 % interval {test.interval.low:.3f} to {test.interval.high:.3f}, "
        f"{chance}"
    )
    sentences = {
        "none": f"no shift shown: all {texts:,} texts may be drawn as the training texts are",
        "gradual": f"the {texts:,} texts differ from the training texts, without a kind that "
        "stands apart",
        "two": f"two populations: {texts - unlike:,} texts are like the training texts, "
        f"{unlike:,} are of another kind",
        "all": f"{unlike:,} of {texts:,} texts are of another kind than the training texts",
    }
    return f"{sentences[found.kinds]} ({figures})"


def _most_unlike(found: Shift, texts: Sequence[str]) -> list[dict[str, Any]]:
    if found.kinds == "none":
        return []
    return [
        {**Example(row, texts[row]).to_json(), "probability": round(found.probability_B[row], 4)}
        for row in found.most_unlike[:MOST_UNLIKE].tolist()
    ]


def _about_shift(found: Shift, texts: Sequence[str]) -> list[Finding]:
    if found.kinds == "none":
        return []
    share = float(found.unlike_B.mean())
    rows = np.flatnonzero(found.unlike_B)
    examples = tuple(Example(row, texts[row]) for row in found.most_unlike[:SHOWN].tolist())
    if found.kinds == "gradual":
        advice = "Read the differences below, and expect the accuracy given there, not that of "
        advice += "validation."
        count, severity = len(texts), "warning"
    else:
        advice = "Validation does not speak for these rows: label a few hundred of them, train "
        advice += "and validate on both kinds, and report accuracy by kind."
        count, severity = len(rows), "error" if share >= SERIOUS else "warning"
    return [
        Finding(
            code="shift" if found.kinds == "gradual" else "unlike-training",
            severity=severity,  # type: ignore[arg-type]
            count=count,
            message=verdict(found),
            advice=advice,
            rows=tuple(rows.tolist()),
            file="against",
            examples=examples,
            details={"share": round(share, 4), "auc": found.test.auc},
        )
    ]


def _expected(
    predicted: Predicted, groups: dict[str, np.ndarray], generator: np.random.Generator
) -> dict[str, Any]:
    """Expected accuracy and predicted classes, as a whole and by group."""
    by_group = groups if all(len(rows) for rows in groups.values()) else {}
    estimates = expected_accuracy(
        predicted.validation_BC,
        predicted.labels_B,
        predicted.unlabelled_BC,
        generator,
        by_group,
    )
    right = predicted.validation_BC.argmax(axis=1) == predicted.labels_B
    found: dict[str, Any] = {
        "by": predicted.by,
        "validation": {"texts": len(right), "accuracy": float(right.mean())},
    }
    found |= {name: estimate.to_json() for name, estimate in estimates.items()}
    chosen = predicted.unlabelled_BC.argmax(axis=1)
    shares = {
        "train": _shares(predicted.labels_B, predicted.classes),
        "all": _shares(chosen, predicted.classes),
    }
    shares |= {name: _shares(chosen[rows], predicted.classes) for name, rows in by_group.items()}
    return {"expected_accuracy": found, "class_shares": shares}


def _shares(labels_B: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(labels_B, minlength=len(classes)) / max(1, len(labels_B))
    return dict(zip(classes, counts.round(4).tolist(), strict=True))


def _about_accuracy(expected: dict[str, Any]) -> list[Finding]:
    """A finding where unlabelled texts are expected to be harder than validation texts."""
    known, asked = expected["validation"]["accuracy"], expected["all"]
    if asked["high"] > known - LOWER:
        return []
    by_kind = "".join(
        f"; {expected[name]['accuracy']:.1%} on those that are {name} the training texts"
        for name in ("like", "unlike")
        if name in expected
    )
    return [
        Finding(
            code="lower-accuracy-expected",
            severity="warning",
            count=asked["texts"],
            message=f"{expected['by']} is right on {known:.1%} of held-out training texts and is "
            f"expected to be on {asked['accuracy']:.1%} ({asked['low']:.1%} to "
            f"{asked['high']:.1%}) of the others{by_kind}",
            advice="Do not promise the validation accuracy for these texts; estimates without "
            "labels can be too high, so label a sample to know.",
            file="against",
            details={"expected": asked["accuracy"], "validation": known},
        )
    ]
