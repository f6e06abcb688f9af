"""What the conductor refuses before or while it trains."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from budgerigar import pipeline, run_stages
from budgerigar.audit import screening
from budgerigar.errors import AdapterError, DataError, ModelError, RunError, TrainingStopped


def test_a_folder_with_files_of_a_runs_names_is_left_alone(tiny_recipe, tmp_path):
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(RunError, match=r"holds results\.json, which a run would overwrite"):
        pipeline.train(tiny_recipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "mine"


def test_an_adapter_of_another_base_is_no_start(tiny_run, tiny_recipe, tiny_with_head, tmp_path):
    other = {"model.name": str(tiny_with_head), "adapter.start": str(tiny_run.adapter)}
    with pytest.raises(AdapterError, match="belongs to another base"):
        pipeline.train(tiny_recipe, tmp_path / "run", **other)
    own = {"adapter.start": str(tiny_run.adapter), "epochs": 1}
    assert pipeline.train(tiny_recipe, tmp_path / "run", **own).results["training"]["steps"] == 16


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size"])
def test_weights_that_do_not_fit_their_configuration(field, tiny, tiny_recipe, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: 2 * config[field]}))
    with pytest.raises(ModelError, match=r"do not fit its config\.json"):
        pipeline.train(tiny_recipe, tmp_path / "run", **{"model.name": str(folder)})
    assert not (tmp_path / "run").exists()


def test_a_validation_loss_that_is_no_number_stops_the_run(tiny_recipe, tmp_path, monkeypatch):
    score = run_stages.metrics.score

    def scored(logits_BC, labels_B):
        # The dry evaluation, of fewer texts than a batch, comes first.
        return score(logits_BC * (float("nan") if scored.calls else 1.0), labels_B)

    scored.calls = 0

    def counted(logits_BC, labels_B):
        found = scored(logits_BC, labels_B)
        scored.calls += 1
        return found

    monkeypatch.setattr(run_stages.metrics, "score", counted)
    with pytest.raises(TrainingStopped, match="the validation loss is nan after epoch 1"):
        pipeline.train(tiny_recipe, tmp_path / "run")


def test_unlabelled_texts_with_known_labels_are_counted(tiny_recipe, texts, tmp_path, capsys):
    lines = (texts / "test.csv").read_text().splitlines()[1:6]
    known = [line.rsplit(",", 1)[0] for line in lines]
    unlabelled = tmp_path / "unlabelled.txt"
    unlabelled.write_text("\n".join([*known, *(f"the army said {n}" for n in range(20))]))
    changes = {"data.unlabelled": str(unlabelled), "epochs": 1}
    run = pipeline.train(tiny_recipe, tmp_path / "run", **changes)
    (leak,) = [one for one in run.results["findings"] if one["code"] == "leak"]
    assert leak["message"] == "5 of 25 unlabelled texts stand in the test rows, with their labels"
    assert (leak["severity"], leak["rows"]) == ("warning", [0, 1, 2, 3, 4])
    assert leak["examples"][0]["about"] == "same as test row 0"
    assert f"{leak['message']} (rows 0, 1, 2, 3, 4, counted from 0)" in capsys.readouterr().err
    shift = run.results["unlabelled"]["shift"]
    assert len(shift["groups"]) == 25
    assert shift["expected_accuracy"]["by"] == "this run"
    assert 0 <= shift["expected_accuracy"]["all"]["accuracy"] <= 1
    assert "stand in the test rows" in run.files()[0].read_text()


def test_suspected_rows_are_left_out_of_training_alone(tiny_recipe, tmp_path, monkeypatch):
    asked = []

    def suspects(texts, encoder, seed):
        asked.append((texts, encoder.depth, seed))
        return np.array([3, 5, 90])

    whole = pipeline.train(tiny_recipe, tmp_path / "whole", epochs=1).results
    monkeypatch.setattr(screening, "suspects", suspects)
    changes = {"epochs": 1, "data.drop_suspects": True}
    dropped = pipeline.train(tiny_recipe, tmp_path / "run", **changes).results
    ((texts, depth, seed),) = asked
    assert (len(texts.texts), depth, seed) == (whole["data"]["train"]["texts"], 4, whole["seed"])
    assert dropped["data"]["train"]["texts"] == whole["data"]["train"]["texts"] - 3
    for name in ("validation", "test"):
        assert dropped["data"][name] == whole["data"][name]
    line = f"3 of {len(texts.texts)} training texts are left out, as their labels are suspected"
    assert any(one.startswith(line) for one in dropped["notes"])


def test_rows_that_were_left_out_are_left_out_again(tiny_recipe, tmp_path, monkeypatch):
    """Also where what is suspected now is another row: a last bit of the vectors may decide."""
    found = iter([np.array([3, 5]), np.array([7])])
    monkeypatch.setattr(screening, "suspects", lambda *asked: next(found))
    changes = {"epochs": 1, "data.drop_suspects": True}
    whole = pipeline.train(tiny_recipe, tmp_path / "run", **changes)
    tensors = (whole.adapter / "adapter_model.safetensors").read_bytes()
    (tmp_path / "run" / "results.json").unlink()
    again = pipeline.resume(tmp_path / "run")
    assert again.results["data"] == whole.results["data"]
    assert (again.adapter / "adapter_model.safetensors").read_bytes() == tensors


def test_too_few_rows_to_judge_are_all_kept(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(screening, "suspects", lambda *asked: None)
    run = pipeline.train(tiny_recipe, tmp_path / "run", **{"epochs": 1, "data.drop_suspects": True})
    rows = run.results["data"]["train"]["texts"]
    line = f"data.drop_suspects: {rows} training texts are too few to judge, and all are kept"
    assert line in run.results["notes"]


def test_a_class_that_loses_all_its_rows_to_suspicion_stops_the_run(
    tiny_recipe, tmp_path, monkeypatch
):
    def suspects(texts, encoder, seed):
        return np.flatnonzero(texts.labels == 2)

    monkeypatch.setattr(screening, "suspects", suspects)
    with pytest.raises(DataError, match="every training text of class Business has a label"):
        pipeline.train(tiny_recipe, tmp_path / "run", **{"data.drop_suspects": True})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("loss", "begins"),
    [
        ("generalized_cross_entropy", (1 - 0.25**0.7) / 0.7),
        ({"name": "symmetric_cross_entropy", "beta": 0.5}, 0.1 * np.log(4) + 0.5 * 4 * 0.75),
    ],
)
def test_the_loss_of_the_recipe_trains(loss, begins, tiny_recipe, tmp_path):
    """It begins where every one of four classes is as likely."""
    run = pipeline.train(tiny_recipe, tmp_path / "run", loss=loss, epochs=1).results
    assert run["epochs"][0]["training_loss"] == pytest.approx(begins, rel=0.1)
