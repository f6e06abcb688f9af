"""Records -> curves by epoch: a line for each run, or a mean and a band over seeds."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgerigar.errors import RunError
from budgerigar.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """What an entry of the legend stands for: one run, or the seeds of one recipe.

    Attributes:
        name: stands in the legend.
        runs: for each run its records, as `epochs.jsonl` holds them. A record without a panel's
            field is left out of that panel.
    """

    name: str
    runs: Sequence[Sequence[Record]]

    def points(self, field: str) -> list[Point]:
        """The field by epoch, over all runs that have it there."""
        found: dict[float, list[float]] = {}
        for record in (record for run in self.runs for record in run if field in record):
            found.setdefault(record["epoch"], []).append(record[field])
        return [
            Point(epoch, sum(values) / len(values), min(values), max(values), len(values))
            for epoch, values in sorted(found.items())
        ]


@dataclass(frozen=True)
class Point:
    """A figure after an epoch: mean, lowest and highest over `runs` runs."""

    epoch: float
    mean: float
    low: float
    high: float
    runs: int


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
MOST_MARKERS = 60
"""A line with more points than this has none marked."""
LEGEND_CHARACTERS = 110
"""Characters that fit in a row of the legend, with the room that each entry's line takes."""
LONGEST_NAME = 44
"""Characters of a run's name in the legend."""
NO_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}
"""What matplotlib would write by itself: dates and versions, by which equal runs differ."""


def draw_curves(curves: Sequence[Curve], stem: Path) -> list[Path]:
    """Writes training loss, validation loss and accuracy by epoch, as PNG and SVG.

    Args:
        curves: one for each run or recipe, any number.
        stem: path of the figures without their endings.

    Returns:
        The two paths, the PNG first.

    Raises:
        RunError: when a run has no finished epoch, or the files cannot be written.
    """
    _require_epochs(curves)
    paths = []
    with _plain_matplotlib():
        figure = _figure(curves, _panels_of(curves), legend=True)
        for ending in ("png", "svg"):
            path = stem.with_name(f"{stem.name}.{ending}")
            with whole_file(path) as temporary:
                _save(figure, temporary, ending)
            paths.append(path)
    return paths


def curve_drawings(curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """Each panel's title with its drawing, SVG to stand in a page that has the legend.

    Raises:
        RunError: when a run has no finished epoch.
    """
    _require_epochs(curves)
    return [
        (panel.title, inline(_figure, f"panel{number}-", curves, [panel], legend=False))
        for number, panel in enumerate(_panels_of(curves))
    ]


def look_of(number: int) -> dict[str, Any]:
    """Colour, line and marker of a comparison's recipe or a figure's run, by its place."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def inline(draw: Callable[..., Figure], prefix: str, *args: Any, **options: Any) -> str:
    """What `draw` draws as an SVG element, its identifiers made its own among a page's others."""
    buffer = io.BytesIO()
    with _plain_matplotlib():
        _save(draw(*args, **options), buffer, "svg")
    drawing = buffer.getvalue().decode()
    element = drawing[drawing.index("<svg") :]
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", element)
    return element.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _require_epochs(curves: Sequence[Curve]) -> None:
    if not curves:
        raise RunError("there are no curves to draw", remedy="name the folder of a run")
    for curve in curves:
        if not any(curve.runs):
            raise RunError(
                f"run {curve.name} has no curves yet",
                why="none of its epochs is finished",
                remedy="wait for the first one",
            )


def _panels_of(curves: Sequence[Curve]) -> list[Panel]:
    """The panels that there is something for."""
    return [panel for panel in PANELS if any(curve.points(panel.field) for curve in curves)]


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

    names = [short_name(curve.name) for curve in curves]
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
        for text, name in zip(below.get_texts(), names, strict=True):
            set_plain(text, name)
    return figure


def _draw_line(axes: Axes, panel: Panel, curve: Curve, number: int) -> None:
    """One curve, with its band under it; the ring is drawn later, above all lines."""
    points, look = curve.points(panel.field), look_of(number)
    epochs = [point.epoch for point in points]
    axes.plot(
        epochs,
        [panel.factor * point.mean for point in points],
        **look | ({"marker": "none"} if len(points) > MOST_MARKERS else {}),
        markersize=4.5,
        linewidth=1.6,
    )
    if len(curve.runs) > 1:
        axes.fill_between(
            epochs,
            [panel.factor * point.low for point in points],
            [panel.factor * point.high for point in points],
            color=look["color"],
            alpha=0.18,
            linewidth=0,
        )


def _finish_panel(axes: Axes, panel: Panel, curves: Sequence[Curve]) -> None:
    """Rings around the best epochs, limits, ticks, title."""
    from matplotlib.ticker import MaxNLocator

    several = any(len(curve.runs) > 1 for curve in curves)
    ringed = False
    for number, curve in enumerate(curves):
        # Each record says whether it was the best so far: the last of these is the best.
        best = [
            one for one in curve.runs[0] if one.get("best") and panel.field in one and not several
        ][-1:]
        if not best:
            continue
        ringed = True
        axes.plot(
            [record["epoch"] for record in best],
            [panel.factor * record[panel.field] for record in best],
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=look_of(number)["color"],
            markeredgewidth=1.4,
            clip_on=False,
        )
    points = [point for curve in curves for point in curve.points(panel.field)]
    epochs = [point.epoch for point in points]
    first, last = min(epochs), max(epochs)
    # Less than an epoch, so that no tick stands where there was none.
    pad = 0.5 if first == last else min(0.25 + 0.02 * (last - first), 0.9)
    axes.set_xlim(first - pad, last + pad)
    axes.set_ylim(
        *_limits(panel, [panel.factor * p for one in points for p in (one.low, one.high)])
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_title(panel.title, fontsize=11, loc="left")
    meaning = " (band: lowest to highest seed)" if several else " (ring: the best)"
    axes.set_xlabel("epoch" + (meaning if several or ringed else ""), fontsize=9)
    plain_axes(axes)


def plain_axes(axes: Axes) -> None:
    """Small ticks, a pale grid under everything, no frame."""
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


def set_plain(text: Any, name: str) -> None:
    """Sets a name as it is: as a label, `_name` would be left out and `$name$` be a formula."""
    text.set_parse_math(False)
    text.set_text(name)


def short_name(name: str) -> str:
    """The name on one line, its middle left out where it is long: runs differ at their ends."""
    name = " ".join(name.split())
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _save(figure: Figure, target: Path | io.BytesIO, ending: str) -> None:
    figure.savefig(target, format=ending, dpi=150, facecolor="white", metadata=NO_METADATA[ending])
