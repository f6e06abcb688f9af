"""Curves of runs of Hugging Face's Trainer, from the `trainer_state.json` that each left.

The file's `log_history` holds records of training (`loss`) and of evaluation (`eval_loss`,
`eval_accuracy`), each with its `epoch` and `step` (transformers 5, `TrainerState`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from budgerigar.errors import RunError
from budgerigar.files import read_json
from budgerigar.reports.figures import Curve

FILE = "trainer_state.json"
FIELDS = {
    "loss": "training_loss",
    "eval_loss": "validation_loss",
    "eval_accuracy": "validation_accuracy",
}
"""Their names and ours."""


def read_curves(paths: Sequence[Path]) -> list[Curve]:
    """Reads the curves of any number of runs.

    Args:
        paths: files, or folders that hold one directly or in their newest checkpoint.

    Raises:
        RunError: when a file is missing, is none of Trainer's, or holds nothing to draw.
    """
    files = [_file_of(path) for path in paths]
    names = [_name_of(file) for file in files]
    return [
        Curve(name if names.count(name) == 1 else str(path), [_records(file)])
        for name, path, file in zip(names, paths, files, strict=True)
    ]


def _file_of(path: Path) -> Path:
    if not path.is_dir() or (path / FILE).exists():
        return path / FILE if path.is_dir() else path
    found = [file for file in path.glob(f"checkpoint-*/{FILE}") if _step_of(file) >= 0]
    if not found:
        raise RunError(
            f"{path} holds no {FILE}", remedy="name the file, or the folder of a run of Trainer"
        )
    return max(found, key=_step_of)


def _step_of(file: Path) -> int:
    number = file.parent.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def _name_of(file: Path) -> str:
    """The run's folder, in which checkpoints lie."""
    folder = file.absolute().parent
    return folder.parent.name if folder.name.startswith("checkpoint-") else folder.name


def _records(file: Path) -> list[dict[str, Any]]:
    """Records with our names, and the best evaluation marked where the file names it."""
    state = read_json(file)
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise RunError(
            f"{file} has no log_history",
            why="it is not what Trainer writes",
            remedy=f"name the {FILE} of a run",
        )
    records = []
    for place, logged in enumerate(history):
        if not isinstance(logged, dict):
            raise _not_a_record(file, place, logged)
        figures = {ours: logged[theirs] for theirs, ours in FIELDS.items() if theirs in logged}
        if not figures:
            continue
        record = {"epoch": logged.get("epoch"), **figures}
        if any(
            isinstance(value, bool) or not isinstance(value, int | float)
            for value in record.values()
        ):
            raise _not_a_record(file, place, logged)
        # Trainer logs a loss that is no number; there is nowhere to draw it.
        if all(abs(value) <= sys.float_info.max for value in record.values()):
            best = state.get("best_global_step")
            records.append({**record, "best": best is not None and logged.get("step") == best})
    if not records:
        raise RunError(
            f"{file} holds nothing to draw",
            why=f"its log_history has none of {', '.join(FIELDS)}",
            remedy="set logging_steps and eval_strategy, so that Trainer logs losses",
        )
    return records


def _not_a_record(file: Path, place: int, logged: Any) -> RunError:
    shown = repr(logged)
    return RunError(
        f"{file} cannot be drawn",
        why=f"record {place + 1} of its log_history is not one of numbers by epoch: {shown[:80]}",
        remedy="check the file against the one that Trainer wrote",
    )
