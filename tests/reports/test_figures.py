"""Figures: equal records give equal bytes; names, ticks, rings and bands are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from matplotlib import image

from budgerigar.errors import RunError
from budgerigar.reports import figures
from budgerigar.reports.figures import Curve
from recorded import epochs


def test_figures_are_whole_and_the_same_each_time(tmp_path):
    first = figures.draw_curves([Curve("one", [epochs(3)])], tmp_path / "a")
    second = figures.draw_curves([Curve("one", [epochs(3)])], tmp_path / "b")
    assert [path.name for path in first] == ["a.png", "a.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.svg", "b.png", "b.svg"}
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")
    assert "dc:date" not in first[1].read_text()


@pytest.mark.parametrize("runs", [1, 2, 10])
def test_any_number_of_runs(tmp_path, runs):
    curves = [Curve(f"a run of number {n}", [epochs(1 + n, seed=n)]) for n in range(runs)]
    png, svg = figures.draw_curves(curves, tmp_path / "curves.of.runs")
    assert png.name == "curves.of.runs.png"
    pixels = image.imread(png)[:, :, :3]
    assert pixels.std() > 0.05
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() > 0.99, "something is cut at the figure's edge"
    assert len(list(ElementTree.parse(svg).getroot().iter())) > 100


@pytest.mark.parametrize("name", ["_hidden", r"cost $\nothing$ here", "new\nline", "n" * 300, "--"])
def test_a_name_stands_in_the_legend_as_it_is(tmp_path, name):
    with figures._plain_matplotlib():
        figure = figures._figure([Curve(name, [epochs(2)])] * 10, figures.PANELS, legend=True)
        shown = [text.get_text() for text in figure.legends[0].get_texts()]
        assert shown == [figures.short_name(name)] * 10
        assert len(shown[0]) <= figures.LONGEST_NAME
        figures._save(figure, tmp_path / "curves.svg", "svg")
    ElementTree.parse(tmp_path / "curves.svg")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_epochs_are_whole_numbers_and_losses_stand_on_zero(count):
    with figures._plain_matplotlib():
        figure = figures._figure([Curve("one", [epochs(count)])], figures.PANELS, legend=True)
        figure.draw_without_rendering()
        for axes in figure.axes:
            low, high = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
            assert ticks
            assert all(tick == int(tick) and 1 <= tick <= count for tick in ticks)
            assert axes.get_lines()[0].get_marker() == "o"
        training, validation, accuracy = figure.axes
    assert training.get_ylim()[0] == validation.get_ylim()[0] == 0
    low, high = accuracy.get_ylim()
    assert high - low >= figures.SMALLEST_SPAN
    assert low >= -0.5
    assert high <= 100.5


def test_the_ring_is_around_the_last_epoch_that_was_best():
    records = epochs(4)
    for record, best in zip(records, (True, False, True, False), strict=True):
        record["best"] = best
    with figures._plain_matplotlib():
        figure = figures._figure([Curve("one", [records])], figures.PANELS, legend=False)
        ring = figure.axes[2].get_lines()[1]
    assert ring.get_xdata().tolist() == [3]
    assert ring.get_ydata().tolist() == [100 * records[2]["validation_accuracy"]]


@pytest.mark.filterwarnings("error")
def test_losses_of_zero_and_an_accuracy_of_one(tmp_path):
    record = {**epochs(1)[0], "training_loss": 0.0, "validation_accuracy": 1.0, "best": False}
    figures.draw_curves([Curve("one", [[record]])], tmp_path / "curves")


def test_a_run_without_epochs_has_no_curves(tmp_path):
    with pytest.raises(RunError, match="run new has no curves yet: none of its epochs is finished"):
        figures.draw_curves([Curve("old", [epochs(2)]), Curve("new", [[]])], tmp_path / "curves")
    with pytest.raises(RunError, match="no curves to draw"):
        figures.draw_curves([], tmp_path / "curves")
    assert list(tmp_path.iterdir()) == []


def test_curves_are_drawn_without_pyplot_whatever_the_users_settings_are(tmp_path):
    plain = figures.draw_curves([Curve("one", [epochs(3)])], tmp_path / "plain")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\naxes.facecolor: red\n")
    code = (
        "import json, sys; from pathlib import Path; from budgerigar.reports import figures;"
        "assert 'matplotlib' not in sys.modules;"
        "figures.draw_curves([figures.Curve('one', [json.loads(sys.argv[1])])], Path(sys.argv[2]));"
        "assert 'matplotlib.pyplot' not in sys.modules;"
        "import matplotlib; assert matplotlib.rcParams['lines.linewidth'] == 9"
    )
    own = tmp_path / "own"
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(epochs(3)), str(own)],
        env={**os.environ, "MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "tkagg"},
        check=True,
    )
    for path in plain:
        assert path.read_bytes() == own.with_suffix(path.suffix).read_bytes()


def test_several_runs_are_a_mean_in_a_band(tmp_path):
    runs = [epochs(4, seed=seed) for seed in range(3)]
    runs[2] = runs[2][:2]
    with figures._plain_matplotlib():
        figure = figures._figure([Curve("seeds", runs)], figures.PANELS, legend=True)
    losses = figure.axes[0]
    (line,) = losses.get_lines()
    at = [[run[place]["training_loss"] for run in runs if place < len(run)] for place in range(4)]
    assert line.get_ydata().tolist() == pytest.approx([sum(each) / len(each) for each in at])
    (band,) = losses.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    for epoch, each in enumerate(at, start=1):
        assert {(epoch, min(each)), (epoch, max(each))} <= corners
    assert "lowest to highest seed" in losses.get_xlabel()


def test_panels_without_records_are_left_out(tmp_path):
    records = [{"epoch": 0.5, "training_loss": 1.0}, {"epoch": 1.0, "training_loss": 0.5}]
    assert [title for title, _ in figures.curve_drawings([Curve("one", [records])])] == [
        "training loss"
    ]
    records.append({"epoch": 1.0, "validation_accuracy": 0.9})
    titles = [title for title, _ in figures.curve_drawings([Curve("one", [records])])]
    assert titles == ["training loss", "validation accuracy (%)"]
