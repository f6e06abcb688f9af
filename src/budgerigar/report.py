"""Records -> figures and one HTML file.

The report is a pure function of `results.json`; the curves come from logged epochs.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgerigar.errors import RunError
from budgerigar.files import whole_file, write_text

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """A run's epochs, as its log holds them.

    Attributes:
        name: stands in the legend.
        epochs: records of `epochs.jsonl`.
    """

    name: str
    epochs: list[dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """What a panel shows: a field of the epochs' records, and the factor to its unit."""

    title: str
    field: str
    factor: float = 1.0


PANELS = (
    Panel("training loss", "training_loss"),
    Panel("validation loss", "validation_loss"),
    Panel("validation accuracy (%)", "validation_accuracy", 100.0),
)
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5b5b5b", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which people with any colour vision tell apart; grey for black."""
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")
SMALLEST_SPAN = 4.0
"""Percentage points that an accuracy panel covers at least, so that noise looks like noise."""
LEGEND_CHARACTERS = 110
"""Characters that fit in a row of the legend, with the room that each entry's line takes."""
LONGEST_NAME = 44
"""Characters of a run's name in the legend."""
LONGEST_TEXT = 300
"""Characters of a text that the report shows."""
NO_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}
"""What matplotlib would write by itself: dates and versions, by which equal runs differ."""


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
    _require_epochs(curves)
    paths = []
    with _plain_matplotlib():
        figure = _figure(curves, PANELS, legend=True)
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

    Raises:
        RunError: when no epoch was finished, or the file cannot be written.
    """
    page = (
        _environment()
        .get_template("report.html")
        .render(
            r=results,
            scored=[(name, results[name]) for name in ("test", "validation") if results[name]],
            drawings=_drawings(Curve(results["name"], results["epochs"])),
        )
    )
    # A text may hold half of a surrogate pair, which no encoding can write.
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("budgerigar", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}\N{NO-BREAK SPACE}%"
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["figure"] = lambda number: f"{number:.4f}"
    environment.filters["shortened"] = _shortened
    return environment


def _drawings(curve: Curve) -> list[tuple[str, str]]:
    """Each panel's title with its drawing, SVG to stand in a page."""
    _require_epochs([curve])
    drawings = []
    with _plain_matplotlib():
        for number, panel in enumerate(PANELS):
            buffer = io.BytesIO()
            _save(_figure([curve], [panel], legend=False), buffer, "svg")
            drawings.append((panel.title, _inline(buffer.getvalue().decode(), f"panel{number}-")))
    return drawings


def _inline(drawing: str, prefix: str) -> str:
    """An SVG file's element, its identifiers made its own among a page's others."""
    element = drawing[drawing.index("<svg") :]
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", element)
    return element.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _require_epochs(curves: Sequence[Curve]) -> None:
    if not curves:
        raise RunError("there are no curves to draw", remedy="name the folder of a run")
    for curve in curves:
        if not curve.epochs:
            raise RunError(
                f"run {curve.name} has no curves yet",
                why="none of its epochs is finished",
                remedy="wait for the first one",
            )


@contextmanager
def _plain_matplotlib() -> Iterator[None]:
    """matplotlib without the user's own settings, and identifiers that are no accident."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "budgerigar", "svg.fonttype": "path"})
        yield


def _figure(curves: Sequence[Curve], panels: Sequence[Panel], *, legend: bool) -> Figure:
    """A row of panels; their legend stands below them and adds to the height."""
    from matplotlib.figure import Figure

    names = [_short_name(curve.name) for curve in curves]
    columns = max(1, LEGEND_CHARACTERS // (max(map(len, names)) + 10))
    columns = min(columns, len(names), 4)
    rows = -(-len(names) // columns) if legend else 0
    figure = Figure(figsize=(3.6 * len(panels), 3.2 + 0.24 * rows), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(axes_row, panels, strict=True):
        for number, curve in enumerate(curves):
            _draw_line(axes, panel, curve, number)
        _finish_panel(axes, panel, curves)
    if legend:
        handles = axes_row[0].get_lines()[: len(names)]
        below = figure.legend(
            handles,
            [str(number) for number in range(len(names))],
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
            handlelength=3,
        )
        # Set afterwards: as a label, `_name` would be left out and `$name$` read as a formula.
        for text, name in zip(below.get_texts(), names, strict=True):
            text.set_parse_math(False)
            text.set_text(name)
    return figure


def _draw_line(axes: Axes, panel: Panel, curve: Curve, number: int) -> None:
    """One run's line, whose ring is drawn later, above all lines."""
    axes.plot(
        [record["epoch"] for record in curve.epochs],
        [panel.factor * record[panel.field] for record in curve.epochs],
        color=PALETTE[number % len(PALETTE)],
        linestyle=LINE_STYLES[number % len(LINE_STYLES)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4.5,
        linewidth=1.6,
    )


def _finish_panel(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    """Rings around the best epochs, limits, ticks, title."""
    from matplotlib.ticker import MaxNLocator

    records = [record for curve in curves for record in curve.epochs]
    for number, curve in enumerate(curves):
        # Each record says whether it was the best so far: the last of these is the best.
        best = [record for record in curve.epochs if record["best"]][-1:]
        if not best:
            continue
        axes.plot(
            [record["epoch"] for record in best],
            [panel.factor * record[panel.field] for record in best],
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=PALETTE[number % len(PALETTE)],
            markeredgewidth=1.4,
            clip_on=False,
        )
    epochs = [record["epoch"] for record in records]
    first, last = min(epochs), max(epochs)
    # Less than an epoch, so that no tick stands where there was none.
    pad = 0.5 if first == last else min(0.25 + 0.02 * (last - first), 0.9)
    axes.set_xlim(first - pad, last + pad)
    axes.set_ylim(*_limits(panel, [panel.factor * record[panel.field] for record in records]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_xlabel("epoch (ring: the best)", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(panel: Panel, values: Sequence[float]) -> tuple[float, float]:
    """Losses stand on zero; accuracies get their own range, of a least size, inside 0 to 100."""
    low, high = min(values), max(values)
    if panel.factor == 1.0:
        return 0.0, 1.1 * high if high > 0 else 1.0
    middle, half = (low + high) / 2, max(0.6 * (high - low), SMALLEST_SPAN / 2)
    # A whole ring stands above a run without errors.
    return max(-0.5, middle - half), min(100.5, middle + half)


def _short_name(name: str) -> str:
    """The name on one line, its middle left out where it is long: runs differ at their ends."""
    name = " ".join(name.split())
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _save(figure: Figure, target: Path | io.BytesIO, ending: str) -> None:
    figure.savefig(target, format=ending, dpi=150, facecolor="white", metadata=NO_METADATA[ending])


def _shortened(text: str, length: int = LONGEST_TEXT) -> str:
    """The text, or its beginning up to the end of a word, where there is one near, and `…`."""
    if len(text) <= length:
        return text
    start = text[: length - 1]
    words = start.rsplit(None, 1)[0]
    return (words if len(words) > 0.9 * length else start).rstrip() + "…"
