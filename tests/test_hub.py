"""Models and data sets from the hub: plan, training and prediction against a hub of our own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import CLASSES
from hub_server import Hub, Repository, serving

MAIN, TAGGED = "a" * 40, "b" * 40
WEIGHTS = {"model.safetensors", "pytorch_model.bin"}
SHORT = ("--set", "steps=4", "--set", "data.max_rows=60")


def news(folder: Path, texts: Path) -> Path:
    """A repository of a data set: a Parquet file for each split, with the classes' names."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        with (texts / f"{split}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = {"text": [r["text"] for r in rows], "label": [int(r["label"]) for r in rows]}
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture
def hub(tiny: Path, texts: Path, tmp_path: Path) -> Iterator[Hub]:
    """A hub with the tiny checkpoint and a data set."""
    repositories = {
        "models/someone/six-layer": Repository(tiny, {"main": MAIN, "v1": TAGGED}),
        "datasets/someone/news": Repository(news(tmp_path / "news", texts), {"main": MAIN}),
    }
    with serving(repositories) as started:
        yield started


def budgie(endpoint: str, folder: Path, *args) -> subprocess.CompletedProcess:
    """Runs `budgie` in a process of its own, whose hub and hub cache are those of the test."""
    home = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hub-cache")}
    return subprocess.run(
        [sys.executable, "-m", "budgerigar", *map(str, args)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, **home, "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "0"},
    )


def test_a_model_and_texts_from_the_hub(hub, tiny_recipe, tmp_path):
    name = ("--set", "model.name=someone/six-layer")
    planned = budgie(hub.endpoint, tmp_path, "plan", tiny_recipe, *name, "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["trainable"]["total"] == 2212
    assert "config.json" in hub.fetched()
    assert not hub.fetched() & WEIGHTS

    sets = ("--set", "data.train=someone/news:train", "--set", "data.test=someone/news:test")
    trained = budgie(hub.endpoint, tmp_path, "train", tiny_recipe, *name, *sets, *SHORT)
    assert trained.returncode == 0, trained.stderr
    assert "model.safetensors" in hub.fetched()
    assert "data/train-00000-of-00001.parquet" in hub.fetched()
    results = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())
    assert results["test"]["texts"] == 80
    assert set(results["data"]["train"]["classes"]) == set(CLASSES)

    # Without the hub, prediction finds the base in the hub's local cache.
    (tmp_path / "some.txt").write_text("goal league\nbank oil\n")
    predicted = budgie("http://127.0.0.1:9", tmp_path, "predict", "runs/tiny/adapter", "some.txt")
    assert predicted.returncode == 0, predicted.stderr
    assert len(predicted.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.name=someone/six-layer", "model.revision=v2"], "Revision Not Found"),
        (["model.name=someone/nothing"], "Repository Not Found"),
        (["data.train=someone/news:trian"], 'Unknown split "trian"'),
    ],
)
def test_what_the_hub_does_not_have(hub, tiny_recipe, tmp_path, settings, words):
    sets = [part for setting in settings for part in ("--set", setting)]
    done = budgie(hub.endpoint, tmp_path, "train", tiny_recipe, *sets)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert "pass a local" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_revision_of_the_six_layer_roberta(shared, minilm, tiny_recipe, tmp_path):
    """A real pretrained checkpoint, without a head, through the hub's paths."""
    del minilm  # the tool below needs its package
    folder = tmp_path / "six-layer"
    tool = shared / "tools" / "roberta_from_minilm.py"
    subprocess.run([sys.executable, tool, folder], check=True, capture_output=True, timeout=240)
    repository = Repository(folder, {"main": MAIN, "v1": TAGGED})
    with serving({"models/someone/six-layer": repository}) as hub:
        pinned = ("model.name=someone/six-layer", "model.revision=v1")
        sets = [part for setting in pinned for part in ("--set", setting)]
        planned = budgie(hub.endpoint, tmp_path, "plan", tiny_recipe, *sets)
        assert planned.returncode == 0, planned.stderr
        assert not hub.fetched() & WEIGHTS
        trained = budgie(hub.endpoint, tmp_path, "train", tiny_recipe, *sets, *SHORT)
        assert trained.returncode == 0, trained.stderr
        assert "model.safetensors" in hub.fetched()
        files = [path for _, path in hub.asked if "/resolve/" in path]
        assert files
        assert all(f"/resolve/{TAGGED}/" in path for path in files)
    info = json.loads((tmp_path / "runs" / "tiny" / "adapter" / "budgerigar.json").read_text())
    assert (info["model"], info["revision"]) == ("someone/six-layer", "v1")
