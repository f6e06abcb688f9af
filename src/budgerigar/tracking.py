"""A run's records in the stores of other tools: TensorBoard and MLflow.

What is written follows from the run's folder alone, once the run is finished: a run that was
stopped and resumed writes each record once, and writing again replaces what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from budgerigar.errors import RunError
from budgerigar.files import read_lines, whole_folder
from budgerigar.runs import RunFolder

Tool = Literal["tensorboard", "mlflow"]
FOLDER_TAG, KEY_TAG = "budgerigar.folder", "budgerigar.key"
"""Tags of an MLflow run: the run's folder, and a hash of it, which a search can hold."""
METRICS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100
"""Limits of MLflow's `log_batch`."""
LONGEST_PARAMETER = 500
"""Characters of a parameter's value that every MLflow server takes."""
LOCAL = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""MLflow refuses to write a folder, unless told that one is wanted."""


@dataclass(frozen=True)
class Scalar:
    """A figure at a step.

    Attributes:
        name: such as `step/loss`, `epoch/validation_accuracy` or `test/accuracy`.
        step: the optimizer's, counted from 1; of a whole epoch, its last.
        value: the figure.
        seconds: when, on the system's clock.
    """

    name: str
    step: int
    value: float
    seconds: float


def require(tool: Tool | None) -> None:
    """Refuses a tool that is not installed, before anything is trained.

    Raises:
        RunError: when its package is missing.
    """
    if tool is not None and importlib.util.find_spec(tool) is None:
        raise RunError(
            f"--track {tool} needs a package that is not installed",
            remedy="pip install 'budgerigar[track]'",
        )


def track(tool: Tool, run: RunFolder, store: Path) -> str:
    """Writes a finished run's records.

    Args:
        tool: which one; see `require`.
        run: the run's folder.
        store: the folder that is to hold `tensorboard/` or `mlruns/`. MLflow's own
            `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` come first.

    Returns:
        Where they are, for the tool's own viewer.

    Raises:
        RunError: when the run is not finished, or the store takes nothing.
    """
    results = run.read_results()
    try:
        if tool == "tensorboard":
            return _to_tensorboard(run, results, store / "tensorboard")
        return _to_mlflow(run, results, store / "mlruns")
    except RunError:
        raise
    except Exception as error:
        # Each version of these tools raises its own.
        raise RunError(
            f"the records of {run.path} did not reach {tool}",
            why=f"{type(error).__name__}: {error}",
            remedy="the run itself is whole; --resume with --track writes its records again",
        ) from error


def scalars(run: RunFolder, results: Mapping[str, Any]) -> list[Scalar]:
    """Every number of steps.jsonl and epochs.jsonl, and the scores at the end.

    The clock begins when the plan was written, and goes on by the steps' own seconds.
    """
    found: list[Scalar] = []
    clock = run.plan.stat().st_mtime
    after = {0: clock}
    for record in read_lines(run.steps):
        clock += record["seconds"]
        after[record["step"]] = clock
        found += _numbers("step", record, record["step"], clock)
    for record in run.read_epochs():
        found += _numbers("epoch", record, record["step"], after.get(record["step"], clock))
    for name in ("validation", "test"):
        if (scores := results[name]) is not None:
            step = results["training"]["steps"]
            found += _numbers(name, scores, step, clock)
    return found


def parameters(recipe: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Every field of a recipe, such as `optimizer.rate`, as text."""
    found: dict[str, str] = {}
    for name, value in recipe.items():
        if isinstance(value, dict):
            found |= parameters(value, f"{path}{name}.")
        else:
            plain = isinstance(value, str)
            found[f"{path}{name}"] = value if plain else json.dumps(value, ensure_ascii=False)
    return found


def _numbers(kind: str, record: Mapping[str, Any], step: int, clock: float) -> Iterator[Scalar]:
    for name, value in record.items():
        if name != "step" and isinstance(value, int | float):
            yield Scalar(f"{kind}/{name}", step, float(value), clock)


def _to_tensorboard(run: RunFolder, results: Mapping[str, Any], folder: Path) -> str:
    from torch.utils.tensorboard import SummaryWriter

    place = folder / run.path.absolute().name
    with whole_folder(place) as temporary, SummaryWriter(str(temporary)) as writer:
        lines = [f"    {name}: {value}" for name, value in _described(results).items()]
        writer.add_text("recipe", "\n".join(lines), walltime=run.plan.stat().st_mtime)
        for one in scalars(run, results):
            writer.add_scalar(one.name, one.value, one.step, walltime=one.seconds)
    return str(folder)


def _to_mlflow(run: RunFolder, results: Mapping[str, Any], folder: Path) -> str:
    with _environment(LOCAL):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        uri = os.environ.get("MLFLOW_TRACKING_URI") or folder.absolute().as_uri()
        client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "budgerigar"
        known = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if known is None else known.experiment_id
        place = str(run.path.absolute())
        key = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
        for old in client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'"):
            client.delete_run(old.info.run_id)
        every = scalars(run, results)
        created = client.create_run(
            experiment,
            start_time=_milliseconds(run.plan.stat().st_mtime),
            tags={FOLDER_TAG: place, KEY_TAG: key},
            run_name=run.path.absolute().name,
        )
        identity = created.info.run_id
        params = [
            Param(key, value[:LONGEST_PARAMETER]) for key, value in _described(results).items()
        ]
        for start in range(0, len(params), PARAMETERS_AT_ONCE):
            client.log_batch(identity, params=params[start : start + PARAMETERS_AT_ONCE])
        metrics = [
            Metric(one.name, one.value, _milliseconds(one.seconds), one.step) for one in every
        ]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            client.log_batch(identity, metrics=metrics[start : start + METRICS_AT_ONCE])
        end = max((one.seconds for one in every), default=run.plan.stat().st_mtime)
        client.set_terminated(identity, end_time=_milliseconds(end))
    return uri


def _described(results: Mapping[str, Any]) -> dict[str, str]:
    return {**parameters(results["recipe"]), "trainable": str(results["parameters"]["total"])}


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that are not set, and takes them back."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
