"""What is looked over before a run trains: its texts and splits, without an encoder, in seconds;
and, where the recipe asks for it, its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from budgerigar.audit import duplicates
from budgerigar.audit import labels as label_audit
from budgerigar.audit import texts as text_audit
from budgerigar.audit.findings import TEXTS_OF, Finding, shown_rows, worst_first
from budgerigar.audit.vectors import TextEncoder
from budgerigar.data.corpus import Corpus


def screen(named: Mapping[str, Corpus], classes: Sequence[str]) -> list[Finding]:
    """What is wrong with the texts of a run, the worst first.

    Duplicates and contradictions among the training texts, texts that stand in two sets, exactly
    or nearly, odd texts, and classes.

    Args:
        named: the sets of a run by name, with `train` among them.
        classes: names of the classes.
    """
    train = named["train"]
    others = {name: one.texts for name, one in named.items() if name != "train"}
    found = duplicates.findings(train.texts, train.labels, others, classes)
    for name, one in named.items():
        texts = one.texts[: len(one.texts)]
        found += [_as_in_file(each, one) for each in text_audit.findings(texts, name, None)]
    if train.labels is not None:
        texts = train.texts[: len(train.texts)]
        found += text_audit.class_findings(texts, train.labels, classes)
    return worst_first(found)


def line_of(finding: Finding) -> str:
    """A finding in one line."""
    rows = f" ({shown_rows(finding.rows)}, counted from 0)" if finding.rows else ""
    return (
        f"{finding.severity}: {finding.code} in the {TEXTS_OF[finding.file]}: "
        f"{finding.message}{rows}. {finding.advice}"
    )


def suspects(texts: Corpus, encoder: TextEncoder, seed: int) -> np.ndarray | None:
    """Rows of a labelled set whose label is suspected wrong, sorted; None where they are too few
    to judge. The rule is that of `budgie inspect`, whose encoder and rows may be others.

    Args:
        texts: with labels and class names.
        encoder: whose frozen states tell texts apart.
        seed: of projections and folds.
    """
    assert texts.labels is not None
    assert texts.classes is not None
    vectors = encoder.encode(texts.texts, texts.source, label_audit.layers(encoder.depth))
    suspicion = label_audit.suspects(
        vectors.vectors_BD,
        encoder.width,
        texts.labels,
        len(texts.classes),
        texts=texts.texts[: len(texts.texts)],
        seed=seed,
    )
    return np.sort(suspicion.rows) if suspicion.judged else None


def _as_in_file(finding: Finding, texts: Corpus) -> Finding:
    """The same with rows as the file numbers them."""

    def number(row: int) -> int:
        return int(texts.texts.numbers(np.array([row]))[0]) - 1

    return replace(
        finding,
        rows=tuple((texts.texts.numbers(np.array(finding.rows, np.int64)) - 1).tolist()),
        examples=tuple(replace(one, row=number(one.row)) for one in finding.examples),
    )
