"""The run folder: its files, its logs, its results, and where they came from."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from budgerigar.errors import RunError
from budgerigar.files import append_line, damaged_log, read_json, read_lines, write_lines

RESULTS_SCHEMA = 2
"""Version of `results.json`; grows when a reader of the old one would be wrong."""

PACKAGES = (
    "budgerigar",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "datasets",
    "pyarrow",
    "numpy",
)


@dataclass(frozen=True)
class RunFolder:
    """The places of a run's files."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        """The plan as it was checked before training."""
        return self.path / "plan.json"

    @property
    def steps(self) -> Path:
        """One JSON line for each optimizer step."""
        return self.path / "steps.jsonl"

    @property
    def epochs(self) -> Path:
        """One JSON line for each epoch."""
        return self.path / "epochs.jsonl"

    @property
    def results(self) -> Path:
        """Everything that came out; written last, so that it marks a finished run."""
        return self.path / "results.json"

    @property
    def adapter(self) -> Path:
        """The adapter that is kept: the best so far, or the last, as the recipe says."""
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        """The newest checkpoints."""
        return self.path / "checkpoints"

    @property
    def predictions(self) -> Path:
        """Parquet files of predictions, one for each set of texts."""
        return self.path / "predictions"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.path / "report.html"

    @property
    def submission(self) -> Path:
        """The submission for the recipe's unlabelled texts."""
        return self.path / "submission.csv"

    def remove_if_never_begun(self) -> None:
        """Leaves no folder behind when a run was refused before it began."""
        # Not where it holds anything, such as the lock of another process.
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def left_by_others(self) -> list[Path]:
        """Files of a run's names in a folder that holds no run."""
        names = (self.results, self.steps, self.epochs, self.adapter, self.report)
        return [path for path in names if self.is_empty() and os.path.lexists(path)]

    def is_empty(self) -> bool:
        """Whether no run has begun here."""
        # Not Path.exists, which raises for a name that is too long.
        return not os.path.exists(self.recipe)  # noqa: PTH110

    def is_finished(self) -> bool:
        """Whether a run has ended well here."""
        return os.path.exists(self.results)  # noqa: PTH110

    def read_results(self) -> dict[str, Any]:
        """The results of a finished run.

        Raises:
            RunError: when there are none yet, or a newer version wrote them.
        """
        if not self.results.exists():
            why = "there is no run" if self.is_empty() else "the run is not finished"
            raise RunError(
                f"{self.path} has no results.json",
                why=why,
                remedy="name a run's folder; budgie train --resume goes on with an unfinished one",
            )
        results: dict[str, Any] = read_json(self.results)
        schema = results.get("schema") if isinstance(results, dict) else None
        if schema != RESULTS_SCHEMA:
            raise RunError(
                f"{self.results} has schema {schema}",
                why=f"this version reads schema {RESULTS_SCHEMA}",
                remedy="use the version of budgerigar that wrote it",
            )
        return results

    def log_step(self, record: Mapping[str, Any]) -> None:
        """Adds a step to its log."""
        append_line(self.steps, record)

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Adds an epoch to its log."""
        append_line(self.epochs, record)

    def read_epochs(self) -> list[dict[str, Any]]:
        """The epochs logged so far."""
        return read_lines(self.epochs)

    def rewind(self, step: int, finished_epochs: int) -> None:
        """Takes back what was logged after a checkpoint, before going on from it."""
        _keep(self.steps, "step", step)
        _keep(self.epochs, "epoch", finished_epochs)


def versions() -> dict[str, str]:
    """Versions of this program, Python and the libraries that numbers depend on."""
    found = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def _keep(log: Path, key: str, limit: int) -> None:
    records = read_lines(log)
    if odd := [place for place, one in enumerate(records, 1) if type(one.get(key)) is not int]:
        raise damaged_log(log, f"line {odd[0]:,} has no {key}")
    write_lines(log, [record for record in records if record[key] <= limit])
