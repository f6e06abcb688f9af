"""Which rows of an inspected file go, and why.

It is read out of the findings of the inspection; nothing is looked for again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from budgerigar.audit.findings import Finding
from budgerigar.data import near_duplicates
from budgerigar.data.near_duplicates import Pairs

CAUSES = (
    "empty-texts", "duplicate-different-label", "leak", "near-leak", "label-suspect",
    "near-duplicate-different-label", "odd-characters", "texts-cut", "markup",
    "duplicate", "near-duplicate",
)  # fmt: skip
"""Codes of the findings whose rows can go, the most severe first; a row goes for the first that
holds. Copies stand last: the first copy that nothing else takes is kept."""
DROPPED = (
    "empty-texts", "duplicate-different-label", "leak", "near-leak", "duplicate", "near-duplicate",
)  # fmt: skip
"""Those that go where `--drop` names none."""
LEAKS = ("leak", "near-leak")
"""Of texts that stand in the other file, too."""
STAYS = -1


def of_rows(findings: Sequence[Finding], drop: frozenset[str], rows: int) -> np.ndarray:
    """Why each row goes, as its place in `CAUSES`, or `STAYS`; `[B]`.

    Args:
        findings: of the inspection.
        drop: codes whose rows go.
        rows: of the file, B.
    """
    by_code = {one.code: one for one in findings if one.file == "train" or one.code in LEAKS}
    first_B = np.arange(rows)
    if (copies := by_code.get("duplicate")) is not None:
        first_B[list(copies.rows)] = copies.details["first_rows"]
    near = by_code.get("near-duplicate")
    pairs_P2 = np.array(near.details["pairs"] if near is not None else [], np.int64).reshape(-1, 2)
    cause_B = np.full(rows, STAYS)
    for number, code in enumerate(CAUSES):
        if code not in drop:
            continue
        stays_B = cause_B == STAYS
        if code == "duplicate":
            goes_B = _later_copies(first_B, stays_B)
        elif code == "near-duplicate":
            goes_B = _near_copies(first_B, pairs_P2, stays_B)
        else:
            goes_B = stays_B & _named(code, by_code, first_B, pairs_P2)
        cause_B[goes_B] = number
    return cause_B


def _named(
    code: str, by_code: dict[str, Finding], first_B: np.ndarray, pairs_P2: np.ndarray
) -> np.ndarray:
    """The rows that a finding names, and where it speaks of pairs, their copies too; a mask."""
    finding = by_code.get(code)
    rows = [] if finding is None else list(finding.rows)
    if code in LEAKS:
        rows = [] if finding is None else list(finding.details["train_rows"])
    if code == "near-leak" and (leak := by_code.get("leak")) is not None:
        # What is nearly the same as a row that stands in the other file is so as that text, too.
        leaked_P2 = np.isin(pairs_P2, first_B[leak.details["train_rows"]])
        rows += pairs_P2[leaked_P2[:, ::-1]].tolist()
    named_B = np.isin(np.arange(len(first_B)), rows)
    if code in ("near-leak", "near-duplicate-different-label"):
        named_B = np.isin(first_B, first_B[named_B])
    return named_B


def _later_copies(first_B: np.ndarray, stays_B: np.ndarray) -> np.ndarray:
    """Of equal texts all that still stay but the first; a mask."""
    rows = np.flatnonzero(stays_B)
    firsts = np.unique(first_B[rows], return_index=True)[1]
    goes_B = stays_B.copy()
    goes_B[rows[firsts]] = False
    return goes_B


def _near_copies(first_B: np.ndarray, pairs_P2: np.ndarray, stays_B: np.ndarray) -> np.ndarray:
    """Rows that are nearly the same as an earlier one, and their copies; a mask.

    Where that and other causes would leave nothing of a group, its first text stays.
    """
    goes_B = stays_B & np.isin(first_B, pairs_P2[:, 1])
    pairs = Pairs(pairs_P2[:, 0], pairs_P2[:, 1], np.ones(len(pairs_P2)))
    group_B = near_duplicates.joined(first_B, pairs)
    lost = np.flatnonzero(goes_B & ~np.isin(group_B, group_B[stays_B & ~goes_B]))
    firsts = lost[np.unique(group_B[lost], return_index=True)[1]]
    return goes_B & ~np.isin(first_B, first_B[firsts])
