"""Models and adapters of others: nothing in them runs, and what does not fit is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from budgerigar.data.tokens import load_tokenizer
from budgerigar.errors import ModelError
from test_cli import budgie, refused


class Runs:
    """Pickles to a command that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("path", ["auto", "reference"])
def test_a_weights_file_that_is_a_program_never_runs(path, tiny, tiny_recipe, tmp_path):
    model, marker = shutil.copytree(tiny, tmp_path / "model"), tmp_path / "ran"
    (model / "model.safetensors").unlink()
    torch.save({"weight": Runs(marker)}, model / "pytorch_model.bin")
    settings = ("--set", f"model.name={model}", "--set", f"path={path}")
    line = refused(budgie("train", tiny_recipe, *settings, cwd=tmp_path))
    assert "asks for more than tensors need; nothing of it was run" in line
    assert not marker.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert marker.exists(), "the test above is worth something"


def test_an_adapter_file_that_is_a_program_never_runs(tiny_run, texts, tmp_path):
    adapter, marker = shutil.copytree(tiny_run.adapter, tmp_path / "adapter"), tmp_path / "ran"
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"weight": Runs(marker)}, adapter / "adapter_model.bin")
    refused(budgie("predict", adapter, texts / "test.csv", cwd=tmp_path))
    assert not marker.exists()


def test_code_in_a_models_folder_never_runs(tiny, tiny_recipe, tmp_path):
    model, marker = shutil.copytree(tiny, tmp_path / "model"), tmp_path / "ran"
    (model / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = model / "config.json"
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **own}))
    for command in ("plan", "train"):
        line = refused(budgie(command, tiny_recipe, "--set", f"model.name={model}", cwd=tmp_path))
        assert "wants to run code of its own" in line
        assert "never run" in line
    assert not marker.exists()


def test_code_beside_a_tokenizer_never_runs(tiny, tmp_path):
    model, marker = shutil.copytree(tiny, tmp_path / "model"), tmp_path / "ran"
    (model / "own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = model / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]},
           "tokenizer_class": "Tokenizer"}  # fmt: skip
    config.write_text(json.dumps({**json.loads(config.read_text()), **own}))
    try:
        load_tokenizer(model, "model")
    except ModelError as error:
        assert str(error).isprintable()
    assert not marker.exists()


def changed(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})

    return edit


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(tensors) if ".lora_B." in name)


def not_finite(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors)][0, 0] = value

    return change


def of_wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)] = tensors[first(tensors)][:-1].contiguous()


def of_wrong_type(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].to(torch.int8)


def of_wrong_name(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{first(tensors)}.more"] = tensors.pop(first(tensors))


def of_other_folders(folder: Path) -> None:
    config = folder / "adapter_config.json"
    content = {"peft_type": "XLORA", "adapters": {"0": "/elsewhere"}, "hidden_size": 32}
    config.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (changed(not_finite(float("nan"))), "no finite numbers"),
        (changed(not_finite(float("inf"))), "no finite numbers"),
        (changed(of_wrong_shape), "is not whole, or not what"),
        (changed(of_wrong_type), "other values than numbers with fractions"),
        (changed(of_wrong_name), "is not whole, or not what"),
        (of_other_folders, "reads other folders"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(damage, words, tiny_run, texts, tmp_path):
    adapter = shutil.copytree(tiny_run.adapter, tmp_path / "adapter")
    damage(adapter)
    assert words in refused(budgie("predict", adapter, texts / "test.csv", cwd=tmp_path))
