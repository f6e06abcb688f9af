"""Comparisons: runs that are whole each, a verdict over them, stops and failures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from budgerigar import adapters, comparison, conductor, pipeline, recipe_text
from budgerigar.errors import Interrupted, RecipeError, RunError, TrainingStopped
from budgerigar.reports import comparison as report
from budgerigar.runs import RunFolder
from recorded import comparison_of_recipes, keys_of

SEEDS = 2


def recipe(tiny_recipe: Path, name: str, **changes):
    return recipe_text.read(tiny_recipe, overrides={"name": name, "epochs": 2, **changes})


@pytest.fixture(scope="module")
def recipes(tiny_recipe):
    """Two recipes that differ in layers, rank, optimizer and batches."""
    return [
        recipe(tiny_recipe, "first"),
        recipe(
            tiny_recipe,
            "second",
            **{
                "adapter.layers": "1-3",
                "adapter.rank": 2,
                "optimizer": {"name": "rmsprop", "rate": 1e-3},
                "batch": 12,
            },
        ),
    ]


@pytest.fixture(scope="module")
def compared(recipes, tmp_path_factory):
    return comparison.compare(recipes, SEEDS, tmp_path_factory.mktemp("compared") / "both")


def folders(found) -> list[Path]:
    return sorted(path for path in found.folder.iterdir() if path.is_dir())


def test_every_run_is_whole_as_if_trained_alone(recipes, compared, tmp_path):
    assert [path.name for path in folders(compared)] == [
        f"{name}-seed-{seed}" for name in ("first", "second") for seed in (1, 2)
    ]
    for folder in folders(compared)[::3]:
        own = recipe_text.read(folder / "recipe.yaml")
        alone = pipeline.train(own, tmp_path / folder.name)
        there = pipeline.Run(folder)
        assert [path.name for path in there.files()] == [path.name for path in alone.files()]
        expected = adapters.read_tensors(alone.adapter)
        for name, tensor in adapters.read_tensors(there.adapter).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-4)
        assert there.results["training"]["cohort"] == 4
        assert there.results["test"]["texts"] == alone.results["test"]["texts"]
        for key in ("train", "validation", "test"):
            found, expected_data = there.results["data"][key], alone.results["data"][key]
            assert found["fingerprint"] == expected_data["fingerprint"]


def test_the_report_is_of_the_comparisons_own_content(compared, tmp_path):
    names = ["report.html", "curves.png", "curves.svg", "comparison.json"]
    assert [path.name for path in compared.files()] == names
    report.write_comparison_report(compared.results, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == compared.files()[0].read_bytes()
    made = comparison_of_recipes()
    assert keys_of(made).keys() == keys_of(compared.results).keys()
    assert keys_of(made["verdict"]) == keys_of(compared.results["verdict"])
    record, real = made["recipes"][0], compared.results["recipes"][0]
    assert record.keys() == real.keys()
    assert keys_of(record["reliability"]) == keys_of(real["reliability"])
    for one, other in zip(record["runs"], real["runs"], strict=False):
        assert one.keys() == other.keys()
        for name in ("epochs", "test", "training", "seconds", "model"):
            assert keys_of({name: one[name]}) == keys_of({name: other[name]}), name


def test_the_runs_records_stand_beside_each_other(compared, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the track group: pip install .[track]")
    copy = tmp_path / "copy"
    shutil.copytree(compared.folder, copy)
    again = comparison.resume(copy, track="tensorboard")
    assert again.results["verdict"] == compared.results["verdict"]
    tracked = sorted(path.name for path in (copy / "tensorboard").iterdir())
    assert tracked == [path.name for path in folders(compared)]
    assert all(list((copy / "tensorboard" / name).glob("events*")) for name in tracked)


def test_the_verdict_is_of_the_runs_predictions(compared):
    results = json.loads((compared.folder / "comparison.json").read_text())
    assert results == compared.results
    assert results["scored_on"] == "test"
    for one in results["verdict"]["recipes"]:
        for seed, accuracy in enumerate(one["accuracies"], start=1):
            run = RunFolder(compared.folder / f"{one['name']}-seed-{seed}")
            table = pyarrow.parquet.read_table(run.predictions / "test.parquet")
            right = np.array(table["label"].to_pylist()) == np.array(table["true"].to_pylist())
            assert accuracy == pytest.approx(right.mean())
            assert accuracy == pytest.approx(run.read_results()["test"]["accuracy"])
    (pair,) = results["verdict"]["pairs"]
    assert pair["words"] in compared.words
    for one in results["recipes"]:
        assert sum(bin["texts"] for bin in one["reliability"]) == SEEDS * results["texts"]
    for one in results["disagreements"]:
        assert all(sum(said.values()) == SEEDS for said in one["said"].values())


def test_seeds_share_texts_and_differ_in_weights(compared):
    first, second = (pipeline.Run(compared.folder / f"first-seed-{seed}") for seed in (1, 2))
    data = [run.results["data"]["train"]["fingerprint"] for run in (first, second)]
    assert data[0] == data[1]
    heads = [adapters.read_tensors(run.adapter) for run in (first, second)]
    assert any(not torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_other_lengths_form_a_cohort_of_their_own(tiny_recipe, tmp_path, capsys):
    pair = [
        recipe(tiny_recipe, "long", epochs=1),
        recipe(tiny_recipe, "short", epochs=1, **{"data.max_length": 8}),
    ]
    found = comparison.compare(pair, 1, tmp_path / "both")
    assert "cohort 2 of 2: 1 run\n" in capsys.readouterr().err
    cut = [one["runs"][0]["data"]["test"]["cut"] for one in found.results["recipes"]]
    assert cut[0] == 0 < cut[1]
    assert "cannot" in found.words[0]


def test_a_stopped_comparison_goes_on_to_the_same_bytes(recipes, compared, tmp_path, monkeypatch):
    out = tmp_path / "both"
    original = RunFolder.log_step

    def log_and_interrupt(self, record):
        original(self, record)
        if record["step"] == 11 and self.path.name == "second-seed-1":
            os.kill(os.getpid(), 2)

    monkeypatch.setattr(RunFolder, "log_step", log_and_interrupt)
    with pytest.raises(Interrupted, match=f"budgie compare --resume {out} goes on"):
        comparison.compare(recipes, SEEDS, out)
    monkeypatch.undo()
    found = comparison.resume(out)
    assert found.words == compared.words
    for folder, expected in zip(folders(found), folders(compared), strict=True):
        for path in (expected / "adapter").iterdir():
            assert (folder / "adapter" / path.name).read_bytes() == path.read_bytes()


def test_a_finished_comparison_is_drawn_up_again(compared, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(compared.folder, copy)
    (copy / "comparison.json").unlink()

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(conductor.Conductor, "run", never)
    assert comparison.resume(copy).results["verdict"] == compared.results["verdict"]


def test_a_run_that_fails_is_left_out_and_said(tiny_recipe, tmp_path):
    wild = recipe(tiny_recipe, "wild", clip=None, optimizer={"name": "sgd", "rate": 1e30})
    found = comparison.compare([recipe(tiny_recipe, "calm"), wild], 1, tmp_path / "both")
    assert [one["name"] for one in found.results["verdict"]["recipes"]] == ["calm"]
    failure = found.results["recipes"][1]["runs"][0]["failure"]
    assert "the loss is" in failure
    assert any("wild-seed-1 failed" in line for line in found.results["notes"])
    with pytest.raises(TrainingStopped, match="the loss is"):
        comparison.compare([wild], 1, tmp_path / "alone")


def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    tiny_recipe, texts, tmp_path
):
    out = tmp_path / "both"
    one = recipe(tiny_recipe, "one")
    with pytest.raises(RecipeError, match="two of the recipes have it"):
        comparison.compare([one, one], 1, out)
    elsewhere = recipe(tiny_recipe, "other", **{"data.test": str(texts / "train.csv")})
    with pytest.raises(RecipeError, match="scored on other texts"):
        comparison.compare([one, elsewhere], 1, out)
    with pytest.raises(RunError, match="0 seeds"):
        comparison.compare([one], 0, out)
    with pytest.raises(RunError, match="no recipe was given"):
        comparison.compare([], 1, out)
    with pytest.raises(RunError, match="holds no comparison"):
        comparison.resume(out)
    assert not out.exists()


def test_a_folder_that_holds_a_comparison_is_not_overwritten(recipes, compared):
    with pytest.raises(RunError, match="holds a comparison already"):
        comparison.compare(recipes, SEEDS, compared.folder)


def test_without_test_texts_the_verdict_says_what_it_is_of(tiny_recipe, tmp_path):
    one = recipe(tiny_recipe, "one", epochs=2, **{"data.test": None})
    found = comparison.compare([one], 2, tmp_path / "one")
    assert found.results["scored_on"] == "validation"
    assert any("each run's best epoch was chosen" in line for line in found.results["notes"])
    other = recipe(tiny_recipe, "other", epochs=2, keep="last", **{"data.test": None})
    found = comparison.compare([one, other], 1, tmp_path / "both")
    assert any("the best epochs of one were chosen" in line for line in found.results["notes"])
    found = comparison.compare([other], 1, tmp_path / "other")
    assert not any("chosen" in line for line in found.results["notes"])
