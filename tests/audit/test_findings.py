"""Findings: their order, their form in JSON and for people."""

from __future__ import annotations

import json

from budgerigar.audit.findings import Example, Finding, shortened, shown_rows, worst_first


def finding(code: str, severity: str, count: int) -> Finding:
    return Finding(code, severity, count, message="m", advice="a", rows=tuple(range(count)))


def test_the_worst_comes_first_and_among_equals_the_most_frequent():
    found = [finding("a", "note", 9), finding("b", "warning", 1), finding("c", "warning", 3)]
    found.append(finding("d", "error", 1))
    assert [one.code for one in worst_first(found)] == ["d", "c", "b", "a"]


def test_json_holds_every_row_and_a_shortened_example():
    example = Example(3, "long text " * 50, about="cut")
    found = Finding("x", "error", 2, "two", "drop them", (3, 5), "against", (example,), {"k": 1})
    content = json.loads(json.dumps(found.to_json()))
    assert content["rows"] == [3, 5]
    assert {"code", "severity", "count", "advice", "file", "details"} <= set(content)
    assert content["examples"][0]["row"] == 3
    assert len(content["examples"][0]["text"]) == 160


def test_people_see_few_rows_and_one_line_of_text():
    assert shown_rows([4]) == "row 4"
    assert shown_rows(list(range(12))) == "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert shortened("a\n  b") == "a b"
    assert shortened("abcdef", 4) == "abc…"
