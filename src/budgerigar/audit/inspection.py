"""`budgie inspect`: all audits of a file of texts, and of a second one against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from budgerigar.audit import duplicates, section, shift
from budgerigar.audit import labels as label_audit
from budgerigar.audit import texts as text_audit
from budgerigar.audit.findings import Finding, worst_first
from budgerigar.audit.head import Predicted, predicted_by_head
from budgerigar.audit.section import Encoded, Section, shift_section
from budgerigar.audit.vectors import TextEncoder, Vectors, default_model
from budgerigar.console import note
from budgerigar.data import corpus
from budgerigar.data.corpus import Columns, Corpus
from budgerigar.data.tables import open_table
from budgerigar.errors import DataError
from budgerigar.recipe import Data

STDIN = "-"


@dataclass(frozen=True)
class Inspection:
    """What was found about texts.

    Attributes:
        findings: the worst first.
        content: everything else, ready for JSON.
        train: the texts and labels that were inspected.
    """

    findings: tuple[Finding, ...]
    content: dict[str, Any]
    train: Corpus

    def to_json(self) -> dict[str, Any]:
        """Findings, then the rest."""
        return {"findings": [one.to_json() for one in self.findings], **self.content}


def inspect(
    train: str,
    against: str | None = None,
    model: str | None = None,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> Inspection:
    """Audits a file of texts, and compares another file with it.

    Args:
        train: a file or hub data set; labels are used where it has them.
        against: texts that are to be predicted.
        model: an encoder's folder, `package:NAME` or hub name; the demo group's if None.
        columns: names as `--columns` gives them.
        seed: of all samples and folds; the same seed gives the same result.

    Raises:
        DataError, ModelError: for what cannot be read.
    """
    if train == against == STDIN:
        raise DataError("standard input cannot be both files", remedy="name one of them")
    own = _read(train, columns, use_labels=True)
    other = None if against is None else _read(against, columns, use_labels=False)
    texts = own.texts[: len(own.texts)]
    others = other.texts[: len(other.texts)] if other is not None else []
    content: dict[str, Any] = {"train": _described(own), "groups": [], "clusters": []}
    if other is not None:
        content["against"] = _described(other)
    vectors, findings = _Encodings(), []
    wanted = own.labels is not None or other is not None
    if wanted and (name := model or default_model()):
        vectors = _encode(name, own, other)
        content["model"] = name
    elif wanted:
        findings.append(_without_model(len(texts)))
    findings += duplicates.findings(
        own.texts, own.labels, {} if other is None else {"against": other.texts}, own.classes
    )
    findings += text_audit.findings(texts, "train", vectors.train)
    if other is not None:
        findings += text_audit.findings(others, "against", vectors.other)
        findings += text_audit.length_findings(texts, others)
    if own.labels is not None and own.classes is not None:
        findings += text_audit.class_findings(texts, own.labels, own.classes)
        if vectors.train is not None:
            findings += _label_findings(own, texts, vectors, seed)
    if vectors.train is not None and vectors.other is not None:
        compared = _compared(own, texts, others, vectors, seed)
        findings += compared.findings
        content |= compared.content
    return Inspection(tuple(worst_first(findings)), content, own)


@dataclass(frozen=True)
class _Encodings:
    """Vectors of both files, and the layers they hold.

    Attributes:
        train, other: None where there is no encoder or no such file.
        layers: of the training texts' vectors, in order.
        compared: those that both files' vectors hold.
        judged: those that labels are judged by.
        width: of one layer.
    """

    train: Vectors | None = None
    other: Vectors | None = None
    layers: tuple[int, ...] = ()
    compared: tuple[int, ...] = ()
    judged: tuple[int, ...] = ()
    width: int = 0

    def of_train(self, layers: Sequence[int]) -> np.ndarray:
        """The training texts' vectors of some layers, side by side."""
        assert self.train is not None
        if tuple(layers) == self.layers:
            return self.train.vectors_BD
        parts = [
            self.train.vectors_BD[:, place * self.width : (place + 1) * self.width]
            for place in (self.layers.index(layer) for layer in layers)
        ]
        return np.concatenate(parts, axis=1)


def _encode(name: str, own: Corpus, other: Corpus | None) -> _Encodings:
    encoder = TextEncoder(name)
    compared = section.layers(encoder.depth)
    judged = label_audit.layers(encoder.depth) if own.labels is not None else ()
    chosen = tuple(sorted({*judged, *(compared if other is not None else ())}))
    return _Encodings(
        train=encoder.encode(own.texts, own.source, chosen),
        other=None if other is None else encoder.encode(other.texts, other.source, compared),
        layers=chosen,
        compared=compared,
        judged=judged,
        width=encoder.width,
    )


def _label_findings(
    own: Corpus, texts: Sequence[str], vectors: _Encodings, seed: int
) -> list[Finding]:
    assert own.labels is not None
    assert own.classes is not None
    suspicion = label_audit.suspects(
        vectors.of_train(vectors.judged),
        vectors.width,
        own.labels,
        len(own.classes),
        texts=texts,
        seed=seed,
    )
    return label_audit.findings(suspicion, own.labels, texts, own.classes)


def _compared(
    own: Corpus, texts: Sequence[str], others: Sequence[str], vectors: _Encodings, seed: int
) -> Section:
    assert vectors.other is not None
    encoded = Encoded(texts, vectors.of_train(vectors.compared), vectors.width)
    other = Encoded(others, vectors.other.vectors_BD, vectors.width)
    predicted: Predicted | None = None
    if own.labels is not None and own.classes is not None:
        rows = shift.sample(len(texts), np.random.default_rng(seed))
        if len(rows) < len(texts):
            note(f"the shift is measured on {len(rows):,} of {len(texts):,} training texts")
        predicted = predicted_by_head(
            [texts[row] for row in rows.tolist()],
            encoded.last_layer_BD[rows],
            own.labels[rows],
            own.classes,
            other.last_layer_BD,
            seed,
        )
    return shift_section(encoded, other, predicted, seed)


def _read(source: str, columns: Sequence[str] | None, *, use_labels: bool) -> Corpus:
    """Reads texts, and their labels where they are wanted and there."""
    names = tuple(columns) if columns else None
    label = Data.model_fields["label"].default
    labelled = False
    if source != STDIN:
        known = open_table(source, names, label).columns
        labelled = use_labels and label in known
        if names and label not in known:
            names = tuple(name for name in names if name != label)
    found = corpus.read(
        source, Columns(names, label), classes=None, label_base=None, labelled=labelled
    )
    for line in found.notes:
        note(f"{source}: {line}")
    return found


def _described(texts: Corpus) -> dict[str, Any]:
    found: dict[str, Any] = {
        "source": texts.source,
        "texts": len(texts.texts),
        "fingerprint": texts.fingerprint,
    }
    if texts.labels is not None and texts.classes is not None:
        counts = np.bincount(texts.labels, minlength=len(texts.classes)).tolist()
        found["classes"] = dict(zip(texts.classes, counts, strict=True))
    return found


def _without_model(texts: int) -> Finding:
    return Finding(
        code="no-model",
        severity="note",
        count=texts,
        message="wrong labels and shift were not looked for, as there is no encoder",
        advice="Install one with pip install 'budgerigar[demo]', or name one with --model.",
    )
