"""No memory left: one line, exit code 2, and the smallest change that takes less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from budgerigar import comparison, predict, recipe_text
from budgerigar.encoder import cohort
from budgerigar.errors import OutOfMemory
from budgerigar.training import loop
from test_cli import budgie

ERRORS = {
    "torch on the CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 99999999999999 bytes."
    ),
    "torch on a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "Python": MemoryError(),
}


def raising(error: Exception):
    def fail(*_, **__):
        raise error

    return fail


def told(done) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ERRORS)
def test_training_names_half_the_batch(name, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", raising(ERRORS[name]))
    line = told(budgie("train", tiny_recipe, cwd=tmp_path))
    assert "out of memory in the stage training. Begin anew with --set batch=4" in line
    assert "--set accumulation=2 --set evaluation_batch=32; checkpoints" in line


@pytest.mark.parametrize(
    ("place", "settings", "words"),
    [
        ((cohort, "prepare"), [], "the stage prefix. Begin anew with --set data.max_length=16"),
        ((loop, "train"), ["--set", "batch=1"], "training. Begin anew with --set data.max_length"),
        ((predict, "write_predictions"), [], "evaluation. Begin anew with --set evaluation_batch="),
    ],
)
def test_other_stages_name_what_they_need(
    place, settings, words, tiny_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(*place, raising(MemoryError()))
    short = ["--set", "epochs=1", "--set", "steps=2"] if place[0] is predict else []
    assert words in told(budgie("train", tiny_recipe, *settings, *short, cwd=tmp_path))


def test_a_comparison_may_train_fewer(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", raising(MemoryError()))
    recipe = recipe_text.read(tiny_recipe)
    with pytest.raises(OutOfMemory, match=r"of 2 runs at once.*, or with fewer recipes or seeds"):
        comparison.compare([recipe], 2, tmp_path / "compared")


def test_predicting_says_so(tiny_run, texts: Path, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "packed_logits", raising(MemoryError()))
    line = told(budgie("predict", tiny_run.adapter, texts / "test.csv", cwd=tmp_path))
    assert line == "budgie: out of memory. Free memory, or split the file of texts."


def test_a_fault_of_the_program_stays_one(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", raising(RuntimeError("shapes differ")))
    done = budgie("train", tiny_recipe, cwd=tmp_path)
    assert done.returncode == 1
    assert "internal error: RuntimeError: shapes differ" in done.stderr
