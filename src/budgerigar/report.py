"""Records -> figures and one HTML file.

The report is a pure function of `results.json`; the curves come from logged epochs.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgerigar.errors import RunError
from budgerigar.files import whole_file, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5b5b5b")
"""Okabe and Ito's colours, which people with any colour vision tell apart."""
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PANELS = (
    ("training loss", "training_loss", 1.0),
    ("validation loss", "validation_loss", 1.0),
    ("validation accuracy (%)", "validation_accuracy", 100.0),
)
LONGEST_TEXT = 300
"""Characters of a text that the report shows."""


@dataclass(frozen=True)
class Curve:
    """A run's epochs, as its log holds them."""

    name: str
    epochs: list[dict[str, Any]]


def draw_curves(curves: Sequence[Curve], stem: Path) -> list[Path]:
    """Writes training loss, validation loss and accuracy by epoch, as PNG and SVG.

    Args:
        curves: one for each run, any number.
        stem: path of the figures without their endings.

    Returns:
        The two paths, the PNG first.

    Raises:
        RunError: when a run has no finished epoch, or the files cannot be written.
    """
    figure = _figure(curves)
    paths = []
    for ending in ("png", "svg"):
        path = stem.with_name(f"{stem.name}.{ending}")
        with whole_file(path) as temporary:
            _save(figure, temporary, ending)
        paths.append(path)
    return paths


def write_report(results: dict[str, Any], path: Path) -> None:
    """Writes the report of `results.json` as one HTML file that needs no network.

    Args:
        results: the content of `results.json`.
        path: the file.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("budgerigar", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.2f} %"
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["shortened"] = _shortened
    buffer = io.BytesIO()
    _save(_figure([Curve(results["name"], results["epochs"])], legend=False), buffer, "svg")
    drawing = buffer.getvalue().decode()
    page = environment.get_template("report.html").render(
        r=results,
        scored=[(name, results[name]) for name in ("test", "validation") if results[name]],
        curves=drawing[drawing.index("<svg") :],
    )
    write_text(path, page)


def _figure(curves: Sequence[Curve], *, legend: bool = True) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    for curve in curves:
        if not curve.epochs:
            raise RunError(
                f"run {curve.name} has no curves yet",
                why="none of its epochs is finished",
                remedy="wait for the first one",
            )
    # A row of the legend holds three names.
    legend_rows = -(-len(curves) // 3) if legend else 0
    figure = Figure(figsize=(10.5, 3.4 + 0.25 * legend_rows), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for panel, (title, key, scale) in zip(panels, PANELS, strict=True):
        for number, curve in enumerate(curves):
            epochs = [record["epoch"] for record in curve.epochs]
            values = [scale * record[key] for record in curve.epochs]
            colour = PALETTE[number % len(PALETTE)]
            panel.plot(
                epochs,
                values,
                color=colour,
                linestyle=LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=4,
                label=curve.name,
            )
            best = max(index for index, record in enumerate(curve.epochs) if record["best"])
            panel.plot(epochs[best], values[best], "o", ms=11, mfc="none", mec=colour)
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("epoch (ring: best)")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.margins(x=0.08, y=0.12)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    if legend:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _save(figure: Figure, target: Any, ending: str) -> None:
    """Saves without dates or random identifiers, so that equal runs give equal bytes."""
    from matplotlib import rc_context

    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "budgerigar", "svg.fonttype": "path"}):
        figure.savefig(target, format=ending, dpi=150, facecolor="white", metadata=metadata)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
