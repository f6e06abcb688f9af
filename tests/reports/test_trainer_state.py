"""Curves of Hugging Face's Trainer, from files that transformers itself wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from budgerigar.errors import RunError
from budgerigar.reports.trainer_state import read_curves


def state(folder: Path, **changes: Any) -> Path:
    """The file of a run of three epochs with ten logged losses each."""
    from transformers.trainer_callback import TrainerState

    history: list[dict[str, float]] = []
    for step in range(10, 301, 10):
        common = {"epoch": step / 100, "step": step}
        history.append({"loss": 1 / step, "grad_norm": 1.0, "learning_rate": 1e-4, **common})
        if step % 100 == 0:
            scores = {"eval_loss": 0.5, "eval_accuracy": 0.8 + step / 10000}
            history.append({**scores, "eval_runtime": 1.0, **common})
    history.append({"train_loss": 0.4, "train_runtime": 3.0, "epoch": 3.0, "step": 300})
    given = {"log_history": history, "best_global_step": 200, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    TrainerState(epoch=3.0, global_step=300, **given).save_to_json(folder / "trainer_state.json")
    return folder / "trainer_state.json"


def test_losses_and_evaluations_are_read_with_the_best(tmp_path):
    (curve,) = read_curves([state(tmp_path / "bert" / "checkpoint-300")])
    assert curve.name == "bert"
    training = curve.points("training_loss")
    assert [point.epoch for point in training] == [step / 100 for step in range(10, 301, 10)]
    assert training[4].mean == 1 / 50
    assert [point.mean for point in curve.points("validation_loss")] == [0.5] * 3
    accuracy = curve.points("validation_accuracy")
    assert [point.mean for point in accuracy] == pytest.approx([0.81, 0.82, 0.83])
    best = [record for record in curve.runs[0] if record["best"]]
    assert {record["epoch"] for record in best} == {2.0}


def test_a_folder_stands_for_its_newest_checkpoint(tmp_path):
    state(tmp_path / "run" / "checkpoint-90", log_history=[{"loss": 9.0, "epoch": 1.0, "step": 1}])
    state(tmp_path / "run" / "checkpoint-300")
    (curve,) = read_curves([tmp_path / "run"])
    assert curve.name == "run"
    assert len(curve.points("training_loss")) == 30
    with pytest.raises(RunError, match=r"holds no trainer_state\.json"):
        read_curves([tmp_path])


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = [state(tmp_path / side / "out") for side in ("a", "b")]
    assert [curve.name for curve in read_curves(paths)] == [str(path) for path in paths]


def test_a_loss_that_is_no_number_is_left_out(tmp_path):
    history = [
        {"loss": float("nan"), "epoch": 0.5, "step": 1},
        {"loss": 0.5, "epoch": 1.0, "step": 2},
    ]
    (curve,) = read_curves([state(tmp_path / "run", log_history=history)])
    assert [point.epoch for point in curve.points("training_loss")] == [1.0]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("not json", "cannot be read"),
        ("[]", "has no log_history"),
        ('{"log_history": null}', "has no log_history"),
        ('{"log_history": [3]}', "record 1 of its log_history"),
        ('{"log_history": [{"loss": "low", "epoch": 1}]}', "record 1 of its log_history"),
        ('{"log_history": [{"loss": 0.5}]}', "record 1 of its log_history"),
        ('{"log_history": [{"train_loss": 0.5, "epoch": 1}]}', "holds nothing to draw"),
        ('{"log_history": [{"loss": NaN, "epoch": 1}]}', "holds nothing to draw"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, content, why):
    path = tmp_path / "trainer_state.json"
    path.write_text(content)
    with pytest.raises(RunError, match=why) as raised:
        read_curves([path])
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"gone\.json is missing"):
        read_curves([tmp_path / "gone.json"])


def test_what_is_shown_of_a_wrong_record_is_short(tmp_path):
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps({"log_history": [{"loss": "x" * 5000, "epoch": 1}]}))
    with pytest.raises(RunError) as raised:
        read_curves([path])
    assert len(str(raised.value)) < 400 + len(str(path))
