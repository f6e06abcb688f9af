"""What the benchmarks share: timed stretches in turn, ratios round by round, JSON."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """A figure measured in several rounds: median, lowest, highest."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:,.3g} ({self.low:,.3g} to {self.high:,.3g})"


def spread(figures: Sequence[float]) -> Spread:
    """Median and range of a figure's rounds."""
    return Spread(statistics.median(figures), min(figures), max(figures))


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratio round by round: what slows the machine slows both sides of a round."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes, to its end on the GPU where there is one."""
    _wait()
    start = time.perf_counter()
    action()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turn(
    sides: Mapping[str, Callable[[int], float]], rounds: int, say: Callable[[str], None] = print
) -> dict[str, list[float]]:
    """Runs every side once a round, after one round that does not count.

    Args:
        sides: name -> a function of the round's number that gives a figure.
        rounds: how many count.
        say: takes a line for each round.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, rounds):
        figures = {name: side(number + 1) for name, side in sides.items()}
        if number >= 0:
            for name, figure in figures.items():
                found[name].append(figure)
        shown = "  ".join(f"{name} {figure:.4g}" for name, figure in figures.items())
        say(f"round {number + 1} of {rounds}: {shown}" + ("" if number >= 0 else " (warm-up)"))
    return found


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for what a benchmark makes, with a cache of its own in it; gone at the end."""
    with tempfile.TemporaryDirectory(
        prefix="budgie-benchmark-", ignore_cleanup_errors=True
    ) as folder:
        os.environ["BUDGERIGAR_CACHE"] = str(Path(folder) / "cache")
        yield Path(folder)


def as_record(figure: Spread) -> dict[str, float]:
    """A figure ready for JSON."""
    return asdict(figure)


def write(path: Path | None, figures: Mapping[str, Spread], made_from: Mapping[str, Any]) -> None:
    """Writes figures and what they were made from as JSON, where a path is given."""
    if path is not None:
        content = {name: as_record(figure) for name, figure in figures.items()}
        path.write_text(json.dumps({**content, **made_from}, indent=2) + "\n", encoding="utf-8")
