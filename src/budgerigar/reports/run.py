"""A run's report: a pure function of `results.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from budgerigar.reports.figures import Curve, curve_drawings
from budgerigar.reports.page import write_page


def write_run_report(results: dict[str, Any], path: Path) -> None:
    """Writes the report of `results.json` as one HTML file that needs no network.

    Args:
        results: the content of `results.json`.
        path: the file.

    Raises:
        RunError: when no epoch was finished, or the file cannot be written.
    """
    write_page(
        "run.html",
        path,
        r=results,
        scored=[(name, results[name]) for name in ("test", "validation") if results[name]],
        drawings=curve_drawings([Curve(results["name"], [results["epochs"]])]),
    )
