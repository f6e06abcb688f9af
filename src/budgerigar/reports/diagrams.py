"""Figures of a comparison beside its curves: accuracies of seeds, calibration, the legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from budgerigar.reports.figures import inline, look_of, plain_axes, set_plain, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RARE = 0.01
"""Share of the texts under which a bin's accuracy is mostly chance."""
RARE_LOOK = {"label": "of under 1 % of texts", "markerfacecolor": "white", "linestyle": "none"}


def accuracy_drawing(recipes: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> str:
    """Accuracies of each recipe's seeds, with mean and interval, as SVG to stand in a page.

    Args:
        recipes: `verdict.recipes` of `comparison.json`.
        numbers: their places among the comparison's recipes, which give them their colours.
    """
    return inline(_accuracy_figure, "seeds-", recipes, numbers)


def reliability_drawing(bins: Sequence[Mapping[str, Any]], number: int, name: str) -> str:
    """A reliability diagram, as SVG to stand in a page.

    Args:
        bins: `confidence`, `accuracy` and `texts` of each, by rising confidence.
        number: the recipe's place, which gives it its colour.
        name: stands above it.
    """
    return inline(_reliability_figure, f"reliability{number}-", bins, number, name)


def sample_drawing(number: int) -> str:
    """The line and marker of a comparison's recipe, as SVG to stand in a page's legend."""
    return inline(_sample_figure, f"sample{number}-", number)


def _accuracy_figure(recipes: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> Figure:
    """A row for each recipe: its seeds as hollow marks, mean and interval above them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 0.7 + 0.75 * len(recipes)), layout="constrained")
    axes = figure.subplots()
    for row, (one, number) in enumerate(zip(recipes, numbers, strict=True)):
        look = look_of(number)
        low, high = 100 * one["interval"]["low"], 100 * one["interval"]["high"]
        axes.plot([low, high], [row - 0.1] * 2, color=look["color"], linewidth=2.2, zorder=2)
        axes.plot(
            [100 * one["mean"]],
            [row - 0.1],
            color=look["color"],
            marker=look["marker"],
            markersize=7,
            zorder=3,
        )
        axes.plot(
            [100 * accuracy for accuracy in one["accuracies"]],
            [row + 0.2] * len(one["accuracies"]),
            linestyle="none",
            marker=look["marker"],
            markersize=5.5,
            markerfacecolor="none",
            markeredgecolor=look["color"],
            markeredgewidth=1.2,
            clip_on=False,
            zorder=3,
        )
        name = axes.text(0.0, row - 0.36, "", fontsize=9, transform=axes.get_yaxis_transform())
        set_plain(name, f" {short_name(one['name'])}")
    axes.set_ylim(len(recipes) - 0.5, -0.6)
    axes.set_yticks([])
    axes.set_xlabel("accuracy (%): mean and 95 % interval, below each seed", fontsize=9)
    plain_axes(axes)
    return figure


def _reliability_figure(bins: Sequence[Mapping[str, Any]], number: int, name: str) -> Figure:
    """Accuracy against confidence, the diagonal, and each bin's share of the texts below."""
    from matplotlib.figure import Figure

    look, total = look_of(number), sum(one["texts"] for one in bins)
    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    axes = figure.subplots()
    confidences = [one["confidence"] for one in bins]
    axes.bar(
        confidences,
        [one["texts"] / max(total, 1) for one in bins],
        width=0.03,
        color="#b9c0c6",
        label="share of texts",
    )
    axes.plot([0, 1], [0, 1], color="#5b5b5b", linewidth=1, label="as sure as right")
    usual = [one for one in bins if one["texts"] >= RARE * total]
    rare = [one for one in bins if one["texts"] < RARE * total]
    for some, how in ((usual, {"label": "accuracy"}), (rare, RARE_LOOK)):
        axes.plot(
            [one["confidence"] for one in some],
            [one["accuracy"] for one in some],
            **{**look, "markersize": 4.5, "linewidth": 1.6, "clip_on": False, **how},
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    set_plain(axes.set_title("", fontsize=11, loc="left"), short_name(name))
    axes.set_xlabel("confidence", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    plain_axes(axes)
    return figure


def _sample_figure(number: int) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5, 0.16))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.plot([0, 1, 2], [0, 0, 0], **look_of(number), markevery=[1], markersize=5, linewidth=1.8)
    axes.axis("off")
    return figure
