"""An inspection as lines and tables for people: findings first, then the kinds of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budgerigar.audit.findings import TEXTS_OF, Finding, shortened, shown_rows

EXAMPLES, MOST_UNLIKE = 2, 5


@dataclass(frozen=True)
class Table:
    """A table to print."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def describe(findings: Sequence[Finding], content: Mapping[str, Any]) -> Iterator[str | Table]:
    """Lines and tables of an inspection.

    Args:
        findings: the worst first.
        content: as `Inspection.content`.
    """
    if not findings:
        yield "no findings"
    for one in findings:
        yield from _finding(one)
    if "kinds" not in content:
        return
    yield ""
    yield f"shift: {content.get('verdict') or content['why']}"
    for kind in content["clusters"]:
        yield from _kind(kind)
    if content.get("most_unlike"):
        yield "texts most unlike the training texts:"
        for one in content["most_unlike"][:MOST_UNLIKE]:
            yield f"  row {one['row']}: {shortened(one['text'])}"
    if "differences" in content:
        yield _differences(content["differences"])
    if "expected_accuracy" in content:
        yield from _expected(content)


def _finding(one: Finding) -> Iterator[str]:
    yield f"{one.severity}: {one.code} ({one.count:,}), {TEXTS_OF[one.file]}: {one.message}"
    for example in one.examples[:EXAMPLES]:
        about = f" ({example.about})" if example.about else ""
        yield f"  row {example.row}{about}: {shortened(example.text)}"
    if one.rows:
        yield f"  {shown_rows(one.rows)}"
    yield f"  {one.advice}"


def _kind(kind: Mapping[str, Any]) -> Iterator[str]:
    words = f"; marked by the words {', '.join(kind['words'])}" if kind["words"] else ""
    yield (
        f"{kind['group']} the training texts: {kind['texts']:,} texts ({kind['share']:.1%}){words}"
    )
    for example in kind["examples"][:EXAMPLES]:
        yield f"  row {example['row']}: {example['text']}"
    for part in kind.get("parts", ()):
        example = part["examples"][0]
        yield f"  of these, {part['texts']:,} with {', '.join(part['words'][:6]) or 'no own words'}"
        yield f"    row {example['row']}: {example['text']}"


def _differences(found: Sequence[Mapping[str, Any]]) -> Table:
    names = [name for name in found[0] if name not in ("measure", "distance")]
    rows = [
        (
            str(one["measure"]),
            *(f"{one[name]:.2f}" for name in names),
            f"{one['distance']:+.2f}",
        )
        for one in found
    ]
    return Table(
        "how texts are written (means; the distance is in standard deviations)",
        ("measure", *names, "distance"),
        rows,
    )


def _expected(content: Mapping[str, Any]) -> Iterator[str | Table]:
    expected = content["expected_accuracy"]
    known = expected["validation"]
    yield f"accuracy of {expected['by']}: {known['accuracy']:.1%} on {known['texts']:,} texts"
    groups = [name for name in ("all", "like", "unlike") if name in expected]
    rows = []
    for name in groups:
        of_group = expected[name]
        each = [
            f"{one['accuracy']:.1%} ({one['low']:.1%} to {one['high']:.1%})"
            for one in of_group["methods"]
        ]
        rows.append((name, f"{of_group['texts']:,}", *each))
    methods = tuple(one["method"] for one in expected[groups[0]]["methods"])
    yield Table("accuracy to expect", ("texts", "count", *methods), rows)
    shares = content["class_shares"]
    yield Table(
        "share of classes: labels of the training texts, predictions for the others",
        ("class", *shares),
        [(name, *(f"{of[name]:.1%}" for of in shares.values())) for name in shares["all"]],
    )
