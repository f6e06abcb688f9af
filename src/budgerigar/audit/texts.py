"""Findings that the texts themselves show: empty, cut, odd characters, markup, classes, lengths."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from budgerigar.audit.findings import Example, Finding, Severity
from budgerigar.audit.vectors import Vectors

SHOWN = 3
MARKUP = re.compile(
    r"&(?:#\d+|#x[0-9a-f]+|[a-z]{2,8});|\b(?:quot|amp|lt|gt|nbsp);|#\d{2,4};|<[a-z/][^<>]*>",
    re.IGNORECASE,
)
"""Entities, whole or with their ampersand lost, and tags."""
ODD = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff]|[\u00c2\u00c3]["
                 r"\u0080-\u00bf]|\u00e2\u20ac|[\ud800-\udfff]")  # fmt: skip
"""Control and replacement characters, private ones, and UTF-8 that was read as Latin-1."""
FEW_CUT = 0.01
RARE_CLASS, SMALL_CLASS = 5.0, 20
"""A class is rare where the largest has so many times its texts; small below so many texts."""
LONGER = 1.5
"""Ratio of median lengths that is worth saying."""


def findings(texts: Sequence[str], file: str, vectors: Vectors | None) -> list[Finding]:
    """What is odd about single texts.

    Args:
        texts: of the file.
        file: which.
        vectors: with the tokens of each text, where an encoder read them.
    """
    empty, markup, odd = [], [], []
    for row, text in enumerate(texts):
        if not text.strip():
            empty.append(row)
        if MARKUP.search(text):
            markup.append(row)
        if ODD.search(text):
            odd.append(row)
    found = [
        _of_rows(
            ("empty-texts", "error"), texts, file, empty,
            ("has no text", "have no text"), "Leave them out, or fill them in.",
        ),
        _of_rows(
            ("odd-characters", "warning"), texts, file, odd,
            _holds("control, replacement or wrongly decoded characters"),
            "Find out where the encoding was lost, and read the source again.",
        ),
        _of_rows(
            ("markup", "note"), texts, file, markup,
            _holds("markup or its remains, such as &lt;b&gt; or #39;"),
            "Clean both training texts and those to predict in the same way, or neither.",
        ),
    ]  # fmt: skip
    if vectors is not None and len(vectors.cut):
        cut = vectors.cut.tolist()
        share = len(cut) / len(texts)
        found.append(
            Finding(
                code="texts-cut",
                severity="warning" if share >= FEW_CUT else "note",
                count=len(cut),
                message=f"{len(cut):,} of {len(texts):,} texts "
                f"{'is' if len(cut) == 1 else 'are'} longer than {vectors.max_length} tokens",
                advice="Their end is not seen: raise data.max_length if what matters stands there.",
                rows=tuple(cut),
                file=file,
                examples=tuple(Example(row, texts[row]) for row in cut[:SHOWN]),
            )
        )
    return [one for one in found if one is not None]


def class_findings(
    texts: Sequence[str], labels_B: np.ndarray, classes: Sequence[str]
) -> list[Finding]:
    """Classes that are rare, and classes whose texts are longer than others'."""
    counts = np.bincount(labels_B, minlength=len(classes))
    found = []
    sizes = {name: int(count) for name, count in zip(classes, counts, strict=True)}
    rare = [n for n, c in sizes.items() if c < SMALL_CLASS or c * RARE_CLASS < counts.max()]
    if rare:
        names = ", ".join(f"{name} ({sizes[name]:,})" for name in rare)
        is_rarer = counts.max() >= SMALL_CLASS
        found.append(
            Finding(
                code="class-imbalance",
                severity="warning",
                count=len(rare),
                message=f"few texts of {names}"
                + (f", against {counts.max():,} of the largest class" if is_rarer else ""),
                advice="Add texts of these classes or weigh them, and look at macro F1 beside "
                "accuracy."
                if is_rarer
                else "Add texts: from so few little can be learned, and little can be said.",
                details={"classes": sizes},
            )
        )
    lengths_B = np.array([len(text) for text in texts])
    medians = {
        name: float(np.median(lengths_B[labels_B == number]))
        for number, name in enumerate(classes)
        if counts[number] >= SMALL_CLASS
    }
    if medians and max(medians.values()) > LONGER * max(1.0, min(medians.values())):
        longest, shortest = (
            max(medians, key=medians.__getitem__),
            min(medians, key=medians.__getitem__),
        )
        found.append(
            Finding(
                code="length-by-class",
                severity="note",
                count=2,
                message=f"texts of {longest} have a median of {medians[longest]:.0f} characters, "
                f"those of {shortest} {medians[shortest]:.0f}",
                advice="A classifier may learn the length: check its errors on texts of unusual "
                "length.",
                details={"median_characters": medians},
            )
        )
    return found


def length_findings(train: Sequence[str], other: Sequence[str]) -> list[Finding]:
    """Whether the texts to predict are much longer or shorter than the training texts."""
    of_train = float(np.median([len(text) for text in train]))
    of_other = float(np.median([len(text) for text in other]))
    low, high = sorted((max(1.0, of_train), max(1.0, of_other)))
    if high < LONGER * low:
        return []
    return [
        Finding(
            code="length-differs",
            severity="warning",
            count=len(other),
            message=f"the texts have a median of {of_other:.0f} characters, the training texts "
            f"{of_train:.0f}",
            advice="Check that both files hold the same parts of a text, such as title and body.",
            file="against",
            details={"train": of_train, "against": of_other},
        )
    ]


def _holds(what: str) -> tuple[str, str]:
    return f"holds {what}", f"hold {what}"


def _of_rows(
    kind: tuple[str, Severity],
    texts: Sequence[str],
    file: str,
    rows: Sequence[int],
    what: tuple[str, str],
    advice: str,
) -> Finding | None:
    """A finding about some rows; None where there are none. What is said of one, and of several."""
    if not rows:
        return None
    code, severity = kind
    return Finding(
        code=code,
        severity=severity,
        count=len(rows),
        message=f"{len(rows):,} of {len(texts):,} texts {what[len(rows) > 1]}",
        advice=advice,
        rows=tuple(rows),
        file=file,
        examples=tuple(Example(row, texts[row]) for row in rows[:SHOWN]),
    )
