"""What an audit finds: one form for duplicates, leaks, wrong labels, shift and odd texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""
TEXTS_OF = {
    "train": "training texts",
    "against": "other texts",
    "validation": "validation texts",
    "test": "test texts",
    "unlabelled": "unlabelled texts",
}
"""What people call the texts of each file that findings are about."""
SHOWN_CHARACTERS = 160
"""Characters of an example's text that people see."""
SHOWN_ROWS = 10
"""Rows of a finding that people see; JSON holds all."""


@dataclass(frozen=True)
class Example:
    """A text that shows a finding.

    Attributes:
        row: of the finding's file, from 0.
        text: the whole text.
        about: what is to be seen in it, such as `labelled Sports, looks like World`.
    """

    row: int
    text: str
    about: str = ""

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON; the text is shortened."""
        found: dict[str, Any] = {"row": self.row, "text": shortened(self.text)}
        return {**found, "about": self.about} if self.about else found


@dataclass(frozen=True)
class Finding:
    """Something about texts or labels that the user should know.

    Attributes:
        code: its kind, for programs, such as `near-duplicate`.
        severity: `error` makes results wrong, `warning` may, `note` is for information.
        count: how many texts (or pairs, or classes: the message says) it is about.
        message: what was found, one sentence with its numbers.
        advice: what to do, one sentence.
        rows: of the file, numbered from 0; empty where it is about the whole file.
        file: whose rows they are, a key of `TEXTS_OF`.
        examples: a few, the clearest first.
        details: more for programs, ready for JSON.
    """

    code: str
    severity: Severity
    count: int
    message: str
    advice: str
    rows: tuple[int, ...] = ()
    file: str = "train"
    examples: tuple[Example, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON, with every row."""
        return {**self.to_short_json(), "rows": list(self.rows), "details": dict(self.details)}

    def to_short_json(self) -> dict[str, Any]:
        """The same with the first rows alone, for a run's results."""
        return {
            "code": self.code,
            "severity": self.severity,
            "count": self.count,
            "message": self.message,
            "advice": self.advice,
            "file": self.file,
            "rows": list(self.rows[:SHOWN_ROWS]),
            "examples": [example.to_json() for example in self.examples],
        }


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by severity, then by count; equal ones by code and file."""
    return sorted(
        findings,
        key=lambda one: (SEVERITIES.index(one.severity), -one.count, one.code, one.file),
    )


def shown_rows(rows: Sequence[int]) -> str:
    """Rows for people: `rows 0, 4, 7 and 12 more`."""
    listed = ", ".join(str(row) for row in rows[:SHOWN_ROWS])
    more = len(rows) - SHOWN_ROWS
    name = "row" if len(rows) == 1 else "rows"
    return f"{name} {listed}" + (f" and {more:,} more" if more > 0 else "")


def shortened(text: str, length: int = SHOWN_CHARACTERS) -> str:
    """A text on one line, its end left out where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
