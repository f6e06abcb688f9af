"""Spoilt inputs for every reader: read, or refused in one line, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inputs import Target, spoil, targets

from budgerigar import adapters, recipe_text
from budgerigar.comparison import Comparison
from budgerigar.data import corpus
from budgerigar.encoder import checkpoints, hardware, paths, shape
from budgerigar.errors import AdapterError, BudgieError, DataError, RecipeError, RunError
from budgerigar.runs import RunFolder
from budgerigar.training import checkpoint
from conftest import CLASSES

NAMES = (
    "pickle", "csv", "tsv", "txt", "jsonl", "json", "parquet", "arrow", "feather", "recipe",
    "space", "adapter configuration", "adapter tensors", "adapter metadata",
    "model configuration", "model weights", "tokenizer", "tokenizer configuration", "checkpoint",
    "log of steps", "results", "plan of a run", "runs of a comparison", "comparison",
    "state of Trainer",
)  # fmt: skip
"""All but the reports themselves, which take a second each."""


@pytest.fixture(scope="module")
def readers(tiny_run, tiny_recipe) -> dict[str, Target]:
    info = adapters.read_info(tiny_run.adapter)
    found = checkpoints.locate(info.model, None, weights=True)
    base = paths.Base(
        checkpoint=found,
        shape=shape.read_shape(found, len(CLASSES)),
        classes=len(CLASSES),
        precision="float32",
        device=hardware.device(),
        sha256=info.model_sha256,
    )
    return targets(tiny_run.folder, base, tiny_recipe)


@pytest.mark.parametrize("name", NAMES)
def test_spoilt_inputs_are_read_or_refused(name, readers, tmp_path_factory):
    target = readers[name]
    folder = tmp_path_factory.mktemp("input")
    target.prepare(folder)
    for whole in target.whole:
        (folder / target.file).write_bytes(whole)
        target.read(folder / target.file)

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def read_spoilt(draw: Random) -> None:
        (folder / target.file).write_bytes(spoil(draw, target))
        try:
            target.read(folder / target.file)
        except BudgieError as error:
            assert str(error).isprintable()

    read_spoilt()


def labels_below_the_base(folder: Path) -> None:
    file = folder / "a.jsonl"
    file.write_text('{"text": "a", "label": -1}\n')
    how = corpus.Columns(None, "label")
    corpus.read(str(file), how, classes=None, label_base=None, labelled=True)


def free_names_of_a_space(folder: Path) -> None:
    file = folder / "space.yaml"
    file.write_text("recipe: x\nspace: {a.b: {low: 1, high: 2, hgih: 3}}\n")
    recipe_text.read_space(file, {})


def a_field_like_a_branch(folder: Path) -> None:
    file = folder / "recipe.yaml"
    file.write_text("name: x\nc['false']: 3\n")
    recipe_text.read(file)


def ends_of_any_size(folder: Path) -> None:
    file = folder / "space.yaml"
    file.write_text(f"recipe: x\nspace: {{a.b: {{low: 1{'0' * 400}, high: 2}}}}\n")
    recipe_text.read_space(file, {})


def a_damaged_line(folder: Path) -> None:
    (folder / "steps.jsonl").write_text('{"step": 1}\n{"step" 2}\n{"step": 3}\n')
    RunFolder(folder).rewind(2, 1)


def a_line_without_a_step(folder: Path) -> None:
    (folder / "steps.jsonl").write_text('{"step": 1}\n{"stop": 2}\n')
    RunFolder(folder).rewind(2, 1)


def a_comparison_without_a_verdict(folder: Path) -> None:
    (folder / "comparison.json").write_text('{"schema": 2, "verdict": 3}')
    Comparison(folder)


def results_that_are_a_list(folder: Path) -> None:
    (folder / "results.json").write_text("[]")
    RunFolder(folder).read_results()


@pytest.mark.parametrize(
    ("read", "error", "words"),
    [
        (labels_below_the_base, DataError, r"every label is below 0, .*\(row 1\)"),
        (free_names_of_a_space, RecipeError, "hgih: "),
        (a_field_like_a_branch, RecipeError, "unknown field"),
        (ends_of_any_size, RecipeError, "is not below high 2"),
        (a_damaged_line, RunError, "steps.jsonl is damaged: line 2: "),
        (a_line_without_a_step, RunError, "line 2 has no step"),
        (a_comparison_without_a_verdict, RunError, "not what a finished comparison left"),
        (results_that_are_a_list, RunError, "has schema None"),
    ],
)
def test_what_spoilt_inputs_found(read: Callable[[Path], None], error, words, tmp_path):
    with pytest.raises(error, match=words):
        read(tmp_path)


@pytest.mark.parametrize("field", ["best_accuracy", "loss_sum", "step"])
def test_a_changed_number_in_a_checkpoint_is_noticed(field, tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder / "checkpoints", tmp_path / "checkpoints")
    newest = sorted((tmp_path / "checkpoints").glob("*.json"))[-1]
    content = json.loads(newest.read_text())
    content["position"][field] += 1
    newest.write_text(json.dumps(content))
    (found,) = checkpoint.newest_common([tmp_path / "checkpoints"])
    assert found is not None
    assert found.position.step < content["position"]["step"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 3),
        ("classes", "World"),
        ("classes", ["World"]),
        ("max_length", 0),
        ("max_length", "32"),
        ("precision", "int4"),
        ("probe", []),
        ("probe", [["a", [1.0]]]),
        ("more", 1),
    ],
)
def test_metadata_of_a_wrong_form_is_refused(field, value, tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run.adapter, tmp_path / "adapter")
    file = folder / adapters.METADATA
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(AdapterError, match=r"budgerigar\.json cannot be used"):
        adapters.read_info(folder)


def test_no_name_out_of_a_file_steers_a_terminal():
    assert str(BudgieError("a\x1b[2J\nb\ud800")) == "a\\x1b[2J b\\ud800."
