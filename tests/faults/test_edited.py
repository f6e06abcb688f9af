"""Files of a stopped run that somebody edits: told in one line, or without effect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from budgerigar import conductor, pipeline, search
from budgerigar.errors import BudgieError, RunError
from budgerigar.files import LOCK
from recorded import comparison_of_recipes


@pytest.fixture
def stopped(tiny_run, tmp_path, monkeypatch) -> Path:
    """A run that was killed after training; a fresh process verifies adapters in other tests."""
    monkeypatch.setattr(conductor, "verify", lambda *_: None)
    run = shutil.copytree(tiny_run.folder, tmp_path / "run")
    (run / "results.json").unlink()
    return run


def edit(run: Path, field: str, value: object) -> None:
    """Changes a field of the run's recipe."""
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    *parts, last = field.split(".")
    place = tree
    for part in parts:
        place = place[part]
    assert place[last] != value
    place[last] = value
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree))


def content(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name != LOCK)
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("optimizer.rate", 0.5, "optimizer.rate was 0.005 and is 0.5"),
        ("epochs", 9, "epochs was 3 and is 9"),
        ("seed", 5, "seed was 42 and is 5"),
        ("adapter.layers", "2-3", "adapter.layers was 'last:2' and is '2-3'"),
        ("adapter.targets", ["query"], "adapter.targets was"),
        ("adapter.rank", "many", "adapter.rank"),
        ("data.validation", 0.3, "the texts of "),
    ],
)
def test_a_recipe_that_was_edited_is_told(field, value, words, stopped):
    edit(stopped, field, value)
    before = content(stopped)
    with pytest.raises(BudgieError) as caught:
        pipeline.resume(stopped)
    assert words in str(caught.value)
    assert content(stopped) == before


def test_comments_and_places_of_the_same_files_change_nothing(stopped, tiny, texts, tiny_run):
    moved = shutil.copytree(texts, stopped.parent / "moved")
    edit(stopped, "data.train", str(moved / "train.csv"))
    edit(stopped, "model.name", str(shutil.copytree(tiny, stopped.parent / "model")))
    recipe = stopped / "recipe.yaml"
    recipe.write_text("# Moved to another disk.\n" + recipe.read_text())
    run = pipeline.resume(stopped)
    names = ("adapter_model.safetensors", "budgerigar.json")
    for name in names:
        assert (run.adapter / name).read_bytes() == (tiny_run.adapter / name).read_bytes()


def test_other_weights_in_the_place_of_the_models_are_told(stopped, tiny):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tiny, stopped.parent / "model")
    tensors = load_file(model / "model.safetensors")
    save_file({name: 2 * one for name, one in tensors.items()}, model / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    edit(stopped, "model.name", str(model))
    with pytest.raises(RunError, match=r"the weights of .* have changed since the run began"):
        pipeline.resume(stopped)


@pytest.mark.parametrize(
    "spoilt", ["[]", "{}", '{"began_with": 3}', '{"began_with": {"texts": {}, "weights": ""}}', "{"]
)
def test_a_plan_that_was_edited_is_told(spoilt, stopped):
    (stopped / "plan.json").write_text(spoilt)
    with pytest.raises(RunError, match=r"plan\.json (is not what|cannot be read)"):
        pipeline.resume(stopped)


def test_a_recipe_in_the_plan_that_is_none_is_told(stopped):
    plan = stopped / "plan.json"
    recorded = json.loads(plan.read_text())
    recorded["began_with"]["recipe"] = {"name": 3}
    plan.write_text(json.dumps(recorded))
    with pytest.raises(BudgieError, match=r"recipe .*plan\.json has \d+ faults: "):
        pipeline.resume(stopped)


@pytest.mark.parametrize(
    "spoilt", ["[]", "{}", '{"space": {}}', '{"space": {"space": 3}, "recipe": {}}', "{"]
)
def test_a_space_of_a_search_that_was_edited_is_told(spoilt, tmp_path):
    (tmp_path / "search.json").write_text(spoilt)
    with pytest.raises(RunError, match=r"search\.json (is not what|cannot be read)"):
        search.resume(tmp_path, trials=3)
    assert (tmp_path / "search.json").read_text() == spoilt


@pytest.mark.parametrize("texts", [10**400, "many", None])
def test_results_with_odd_numbers_make_no_report(texts, tmp_path):
    content = comparison_of_recipes()
    content["recipes"][0]["reliability"][0]["texts"] = texts
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="is not what a finished run or comparison left"):
        pipeline.report(tmp_path)
