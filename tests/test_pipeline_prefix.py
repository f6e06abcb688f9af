"""Runs and the cache of frozen layers: found again, done without, and the same either way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from budgerigar import adapters, pipeline
from budgerigar.conductor import Conductor
from budgerigar.encoder import frozen, hardware, prefix
from budgerigar.encoder.prefix import FOLDER_VARIABLE, LIMIT_VARIABLE, PrefixCache

WIDTH = 32
SETS = ("train", "validation")


@pytest.fixture(scope="module", autouse=True)
def on_the_disk():
    """A GPU would keep what frozen layers give in its own memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "KEEP", ())
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch) -> PrefixCache:
    """A cache of the test's own."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))
    return PrefixCache()


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The sets of texts whose entries were computed, as they are."""
    found: list[str] = []
    compute_rows = prefix.compute_rows

    def counted(part, layout, compute, label):
        found.append(label)
        return compute_rows(part, layout, compute, label)

    monkeypatch.setattr(prefix, "compute_rows", counted)
    return found


class Enough(Exception):
    """Stops a run after the stage that a test is about."""


def until(stage: str, recipe: Path, out: Path, **overrides) -> Path:
    """Runs a recipe until a stage begins; gives the run's folder."""

    def stop(*_):
        raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(Conductor, stage, stop)
        pipeline.train(recipe, out, **overrides)
    return out


def trained(recipe: Path, out: Path, **overrides) -> dict[str, torch.Tensor]:
    """The adapter that a run ends with, which is neither scored nor verified."""
    return adapters.read_tensors(until("_finish", recipe, out, **overrides) / "adapter")


def prepared(recipe: Path, out: Path, **overrides) -> None:
    """Does a run's work as far as the cache."""
    until("_train", recipe, out, **overrides)


@pytest.fixture(scope="module")
def with_cache(tiny_recipe, tmp_path_factory) -> dict[str, torch.Tensor]:
    return trained(tiny_recipe, tmp_path_factory.mktemp("with_cache") / "run")


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_the_second_run_finds_what_the_first_computed(
    tiny_recipe, with_cache, cache, computed, tmp_path
):
    first = trained(tiny_recipe, tmp_path / "first")
    assert computed == [*SETS]
    entries = cache.entries()
    assert sorted(entry.about["texts"] for entry in entries) == [32, 128]
    assert all(entry.about["layers"] == 2 for entry in entries)
    assert all(entry.size == entry.about["tokens"] * WIDTH * 4 for entry in entries)
    second = trained(tiny_recipe, tmp_path / "second")
    prepared(tiny_recipe, tmp_path / "third", **{"adapter.rank": 2, "optimizer.rate": 1e-4})
    assert computed == [*SETS]
    for found in (first, second):
        assert all(torch.equal(tensor, with_cache[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    "change",
    [
        {"adapter.layers": "last:1"},
        {"data.max_length": 6},
        {"data.max_rows": 100},
        {"precision": "bfloat16"},
    ],
)
def test_another_depth_length_number_type_or_other_texts_are_computed(
    tiny_recipe, cache, computed, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(hardware, "native_bfloat16", lambda: True)
    prepared(tiny_recipe, tmp_path / "first")
    prepared(tiny_recipe, tmp_path / "second", **change)
    assert computed == [*SETS, *SETS]
    assert len(cache.entries()) == 4
    prepared(tiny_recipe, tmp_path / "third")
    prepared(tiny_recipe, tmp_path / "fourth", **change)
    assert computed == [*SETS, *SETS]


def other_weights(model: Path) -> None:
    """Of the same shapes."""
    path = model / "model.safetensors"
    tensors = {name: 2 * tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def other_order_of_words(model: Path) -> None:
    """Each text has as many tokens as before."""
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    numbers = content["model"]["vocab"]
    words = [word for word in numbers if not word.startswith("<")]
    numbers.update(zip(words, [numbers[word] for word in reversed(words)], strict=True))
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("change", [other_weights, other_order_of_words])
def test_another_model_under_the_same_name_is_computed(
    tiny, tiny_recipe, cache, computed, tmp_path, change
):
    """What an equal one gave is found."""
    prepared(tiny_recipe, tmp_path / "first")
    model = shutil.copytree(tiny, tmp_path / "model")
    prepared(tiny_recipe, tmp_path / "second", **{"model.name": str(model)})
    assert computed == [*SETS]
    change(model)
    prepared(tiny_recipe, tmp_path / "third", **{"model.name": str(model)})
    assert computed == [*SETS, *SETS]
    about = [(entry.about["texts"], entry.about["tokens"]) for entry in cache.entries()]
    assert len(about) == 4
    assert len(set(about)) == 2


def test_with_every_layer_adapted_there_is_nothing_to_keep(tiny_recipe, cache, tmp_path):
    prepared(tiny_recipe, tmp_path / "run", **{"adapter.layers": "all"})
    assert not cache.folder.exists()


def no_folder(tmp_path: Path, monkeypatch) -> str:
    (tmp_path / "cache").write_text("")
    return "cannot hold it"


def no_permission(tmp_path: Path, monkeypatch) -> str:
    (tmp_path / "cache").mkdir(mode=0o500)
    if os.access(tmp_path / "cache", os.W_OK):
        pytest.skip("this user may write everywhere")
    return "Permission denied"


def no_room(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setenv(LIMIT_VARIABLE, "1000")
    return "the limit is 1000 bytes"


@pytest.mark.parametrize("hinder", [no_folder, no_permission, no_room])
def test_a_run_that_cannot_keep_them_goes_on_and_ends_the_same(
    tiny_recipe, with_cache, cache, tmp_path, monkeypatch, capfd, hinder
):
    said = hinder(tmp_path, monkeypatch)
    found = trained(tiny_recipe, tmp_path / "run")
    noted = [line for line in capfd.readouterr().err.splitlines() if "is not kept" in line]
    assert len(noted) == len(SETS)
    assert all(said in line for line in noted)
    assert cache.entries() == []
    require_equal(found, with_cache)


def test_a_run_that_can_keep_one_of_two_sets_ends_the_same(
    tiny_recipe, with_cache, cache, tmp_path, monkeypatch, capfd
):
    prepared(tiny_recipe, tmp_path / "first")
    largest = max(entry.size for entry in cache.entries())
    cache.clear()
    monkeypatch.setenv(LIMIT_VARIABLE, str(largest))
    found = trained(tiny_recipe, tmp_path / "second")
    (noted,) = [line for line in capfd.readouterr().err.splitlines() if "is not kept" in line]
    assert "what is in use takes" in noted
    assert [entry.size for entry in cache.entries()] == [largest]
    require_equal(found, with_cache)


def test_a_run_without_a_cache_is_finished_whole(tiny_recipe, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    run = pipeline.train(tiny_recipe, tmp_path / "run")
    for one in (run, tiny_run):
        assert one.results["training"]["path"] == "engine"
    assert run.results["test"]["accuracy"] == tiny_run.results["test"]["accuracy"]


def test_a_damaged_entry_changes_no_adapter(tiny_recipe, with_cache, cache, tmp_path, capfd):
    prepared(tiny_recipe, tmp_path / "first")
    for rows in cache.folder.glob("*/rows.bin"):
        content = np.fromfile(rows, np.uint8)
        content[len(content) // 2] ^= 1
        content.tofile(rows)
    found = trained(tiny_recipe, tmp_path / "second")
    assert capfd.readouterr().err.count("are damaged: ") == len(SETS)
    assert all(torch.equal(tensor, with_cache[name]) for name, tensor in found.items())


def test_dropout_in_frozen_layers_does_not_touch_the_cache(
    tiny_recipe, with_cache, cache, tmp_path
):
    found = trained(tiny_recipe, tmp_path / "run", **{"model.prefix_dropout": True})
    assert not cache.folder.exists()
    assert any(not torch.equal(tensor, with_cache[name]) for name, tensor in found.items())
