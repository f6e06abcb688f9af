"""Records in other tools' stores: read back with those tools, they are those of the run's logs."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from budgerigar import pipeline, tracking
from budgerigar.errors import RunError
from budgerigar.files import read_lines
from budgerigar.runs import RunFolder
from test_cli import budgie

GROUP = "needs the track group: pip install .[track]"


@pytest.fixture
def run(tiny_run, tmp_path, monkeypatch) -> RunFolder:
    """A finished run, and no store of the user's own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    folder = tmp_path / "it's a run"
    shutil.copytree(tiny_run.folder, folder)
    return RunFolder(folder)


def logged(run: RunFolder) -> dict[str, dict[int, float]]:
    """Name -> step -> value, of all numbers that a run's logs hold."""
    found: dict[str, dict[int, float]] = {}
    for kind, log in (("step", run.steps), ("epoch", run.epochs)):
        for record in read_lines(log):
            for name, value in record.items():
                if name != "step":
                    found.setdefault(f"{kind}/{name}", {})[record["step"]] = float(value)
    return found


def in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar with its steps and values, repeated ones too."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=GROUP
    )
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {
        name: [(one.step, one.value) for one in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }


def in_mlflow(uri: str):
    """The active runs of a store, each with its metrics' histories."""
    mlflow = pytest.importorskip("mlflow", reason=GROUP)
    with tracking._environment(tracking.LOCAL):
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.search_runs([one.experiment_id for one in client.search_experiments()])
        return [
            (
                one,
                {
                    name: [
                        (metric.step, metric.value)
                        for metric in client.get_metric_history(one.info.run_id, name)
                    ]
                    for name in one.data.metrics
                },
            )
            for one in found
        ]


def assert_same(run: RunFolder, found: dict[str, list[tuple[int, float]]]) -> None:
    """Each record of the logs is there once, and the scores of the end."""
    for name, by_step in logged(run).items():
        steps = [step for step, _ in found[name]]
        assert sorted(steps) == sorted(by_step), name
        for step, value in found[name]:
            assert value == pytest.approx(by_step[step], rel=1e-6), (name, step)
    results = run.read_results()
    for name in ("validation", "test"):
        ((step, value),) = found[f"{name}/accuracy"]
        assert step == results["training"]["steps"]
        assert value == pytest.approx(results[name]["accuracy"], rel=1e-6)


def test_tensorboard_holds_each_record_once(run):
    pytest.importorskip("tensorboard", reason=GROUP)
    for _ in range(2):
        place = tracking.track("tensorboard", run, run.path)
        assert Path(place) == run.path / "tensorboard"
        assert_same(run, in_tensorboard(Path(place) / run.path.name))
    assert len(list((run.path / "tensorboard").rglob("events*"))) == 1


def test_mlflow_holds_each_record_once(run):
    pytest.importorskip("mlflow", reason=GROUP)
    before = dict(os.environ)
    for _ in range(2):
        uri = tracking.track("mlflow", run, run.path)
        assert uri == (run.path / "mlruns").as_uri()
        ((one, metrics),) = in_mlflow(uri)
        assert_same(run, metrics)
    assert dict(os.environ) == before
    assert one.info.status == "FINISHED"
    assert one.info.run_name == run.path.name
    assert one.info.end_time > one.info.start_time
    assert one.data.params["optimizer.name"] == "adamw"
    assert one.data.params["data.classes"] == '["World", "Sports", "Business", "Sci/Tech"]'
    trainable = run.read_results()["parameters"]["total"]
    assert one.data.params["trainable"] == str(trainable)


def test_mlflows_own_variables_come_first(run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason=GROUP)
    uri = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert tracking.track("mlflow", run, run.path) == uri
    assert not (run.path / "mlruns").exists()
    ((_, metrics),) = in_mlflow(uri)
    assert_same(run, metrics)


def test_a_store_that_takes_nothing_is_told_in_one_line(run, monkeypatch):
    pytest.importorskip("mlflow", reason=GROUP)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with pytest.raises(RunError, match="did not reach mlflow") as raised:
        tracking.track("mlflow", run, run.path)
    assert "the run itself is whole" in str(raised.value).lower()


@pytest.mark.parametrize("tool", ["tensorboard", "mlflow"])
def test_a_missing_package_is_told_before_anything_is_done(
    tool, tiny_recipe, tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == tool else find(name, *rest)
    )
    out = tmp_path / "out"
    for command in ("train", "compare"):
        done = budgie(command, tiny_recipe, "--out", out, "--track", tool, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "pip install 'budgerigar[track]'" in done.stderr
        assert not out.exists()


def test_a_finished_run_is_tracked_when_it_is_resumed(run, tmp_path):
    pytest.importorskip("tensorboard", reason=GROUP)
    done = budgie("train", "--resume", run.path, "--track", "tensorboard", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(run.path / "tensorboard") in done.stderr
    assert_same(run, in_tensorboard(run.path / "tensorboard" / run.path.name))


def test_a_run_is_tracked_at_its_end(tiny_recipe, tmp_path):
    pytest.importorskip("tensorboard", reason=GROUP)
    run = pipeline.train(tiny_recipe, tmp_path / "run", track="tensorboard", epochs=1)
    assert_same(RunFolder(run.folder), in_tensorboard(run.folder / "tensorboard" / "run"))


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"has no results\.json"):
        tracking.track("tensorboard", RunFolder(tmp_path), tmp_path)
