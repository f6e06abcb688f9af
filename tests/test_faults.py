"""Every fault that a user can make, tried on the commands: one line, exit code 2, nothing left."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import budgerigar
from budgerigar.errors import ModelError, RecipeError, TrainingStopped
from conftest import CLASSES
from test_cli import budgie, refused


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def rows_of(texts: Path) -> list[tuple[str, int]]:
    """Texts and labels of the tiny training file."""
    lines = (texts / "train.csv").read_text(encoding="utf-8").splitlines()[1:]
    return [(line.rsplit(",", 1)[0], int(line.rsplit(",", 1)[1])) for line in lines]


def as_csv(rows) -> bytes:
    return "".join(["text,label\n", *(f"{text},{label}\n" for text, label in rows)]).encode()


def named(rows) -> list[tuple[str, str]]:
    return [(text, CLASSES[label]) for text, label in rows]


TEXTS: dict[str, tuple[Callable[[list], bytes], list[str], str]] = {
    "latin": (
        lambda rows: as_csv(rows) + b"caf\xe9,1\n",
        [],
        "row 161: byte 0xe9 at offset ",
    ),
    "utf16": (
        lambda rows: as_csv(rows).decode().encode("utf-16"),
        [],
        "the first row: byte 0xff at offset 0 is not UTF-8. Convert it, for example: iconv -f "
        "UTF-16",
    ),
    "case": (
        lambda rows: as_csv([*named(rows), ("a", "world")]),
        [],
        "'World' (rows 1, 5, 9, 13, 17 and 35 more) and 'world' (row 161) differ only in case",
    ),
    "case, classes from the data": (
        lambda rows: as_csv([*named(rows), ("a", "World ")]),
        ["data.classes=null"],
        "and 'World ' (row 161) differ only in case or spaces",
    ),
    "misspelt": (
        lambda rows: as_csv([*named(rows), ("a", "Sprots")]),
        [],
        "label 'Sprots' is none of World, Sports, Business, Sci/Tech, did you mean 'Sports'? "
        "(row 161)",
    ),
    "from 1, test from 0": (
        lambda rows: as_csv([(text, label + 1) for text, label in rows]),
        [],
        "test.csv: label 0 is none of 4 classes counted from 1 (rows 1, 5,",
    ),
    "from 0 and to 4": (
        lambda rows: as_csv([*rows, ("a", 4)]),
        [],
        "to 4 (row 161), too many for 4 classes",
    ),
    "a class without rows": (
        lambda rows: as_csv([row for row in rows if row[1] != 3]),
        [],
        "the training rows hold no text of class Sci/Tech",
    ),
    "a class that cannot be split": (
        lambda rows: as_csv([row for row in rows if row[1] != 3] + [("chip  Robot", 3)] * 2),
        [],
        "class Sci/Tech has too few different texts to be split (rows 121, 122)",
    ),
    "unlabelled rows": (
        lambda rows: as_csv([*rows, ("a", ""), ("b", "  ")]),
        [],
        "2 rows have no label (rows 161, 162). Label them",
    ),
    "one class": (
        lambda rows: as_csv((text, "World") for text, _ in rows),
        ["data.classes=null"],
        "every row has the label 'World'. A classifier needs two classes",
    ),
    "no label column": (as_csv, ["data.label=lable"], "has no label column 'lable', did you mean"),
    "no text column": (as_csv, ["data.columns=label,txet"], "has no column 'txet', did you mean"),
    "no rows": (lambda _: b"text,label\n", [], "holds no rows"),
    "empty": (lambda _: b"", [], "is empty"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_cannot_be_trained_on(name, texts, tiny_recipe, tmp_path):
    content, settings, words = TEXTS[name]
    file = tmp_path / "texts.csv"
    file.write_bytes(content(rows_of(texts)))
    line = refused(
        budgie("train", tiny_recipe, *sets(f"data.train={file}", *settings), cwd=tmp_path)
    )
    assert words in line
    assert list(tmp_path.iterdir()) == [file]


class _Touches:
    """Pickles to a command."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self._marker}'",)


def test_a_hostile_pickle_never_runs(tiny_run, tiny_recipe, tmp_path):
    file, marker = tmp_path / "h.pkl", tmp_path / "ran"
    file.write_bytes(pickle.dumps({"text": ["a"], "label": _Touches(marker)}))
    for args in (
        ("train", tiny_recipe, *sets(f"data.train={file}")),
        ("submit", tiny_run.adapter, file),
        ("predict", tiny_run.adapter, file, "--out", "p.csv"),
    ):
        line = refused(budgie(*args, cwd=tmp_path))
        assert "wants to use posix.system: texts and numbers do not need it; nothing was" in line
        assert list(tmp_path.iterdir()) == [file]
    pickle.loads(file.read_bytes())
    assert marker.exists()


def configure(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def lacking_a_tensor(folder: Path) -> None:
    """Renames one tensor in the header, whose length stays the same."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    name = b"layer.3.output.dense.weight"
    assert header.count(name) == 1
    path.write_bytes(content[:8] + header.replace(name, name[:-1] + b"x") + content[8 + length :])


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights in"),
    "cut": (lambda f: cut(f / "model.safetensors"), "cannot be read: Error while deserializing"),
    "code of its own": (lambda f: configure(f, auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "unknown": (lambda f: configure(f, model_type="zebra"), "transformers does not know"),
    "no classifier": (lambda f: configure(f, model_type="vit"), "cannot become a text classifier"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no readable config.json"),
    "bad config": (lambda f: cut(f / "config.json"), "has no readable config.json"),
    "other depth": (
        lambda f: configure(f, num_hidden_layers=5),
        "of its encoder: encoder.layer.4.",
    ),
    "one tensor gone": (lacking_a_tensor, "layer.3.output.dense.weight"),
    "no tokenizer": (without_tokenizer, "has no tokenizer: its vocabulary file is missing"),
    "cut tokenizer": (lambda f: cut(f / "tokenizer.json"), "has no tokenizer that can be read"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_used(name, tiny, tiny_recipe, tmp_path):
    damage, words = MODELS[name]
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    damage(model)
    line = refused(budgie("train", tiny_recipe, *sets(f"model.name={model}"), cwd=tmp_path))
    assert words in line
    assert list(tmp_path.iterdir()) == [model]


def test_a_plan_needs_no_weights(tiny, tiny_recipe, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    done = budgie("plan", tiny_recipe, *sets("model.name=model"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            sets("adapter.rnk=3", "optimzer.name=sgd", "epochs=two"),
            "3 faults: adapter.rnk: unknown",
        ),
        (sets("adapter.rank"), "--set adapter.rank: is not NAME=VALUE"),
        (
            sets("adapter.layers=last:9"),
            "layers that the model does not have: it has layers 0 to 3",
        ),
        (sets("data.validation=none.csv"), "none.csv does not exist"),
        (sets("data.unlabelled=none.csv"), "none.csv does not exist"),
        (sets("adapter.start=nowhere"), "nowhere does not exist"),
        (["--out", "{file}"], "could not be written: File exists"),
        (["--out", "{file}/below/run"], "could not be written: Not a directory"),
        (["--out", "/proc/nowhere/run"], "could not be written"),
        (["--out", "x" * 300], "could not be written: File name too long"),
        (["--resume", "nowhere"], "--resume takes no recipe"),
        (["--epochs", "3"], "No such option: --epochs. "),
        (["--set"], "'--set' requires an argument. "),
    ],
)
def test_recipes_and_folders_that_cannot_be_trained(tiny_recipe, tmp_path, args, words):
    file = tmp_path / "file"
    file.write_text("")
    filled = [part.format(file=file) for part in args]
    assert words in refused(budgie("train", tiny_recipe, *filled, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == [file]


def edited(**values) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "budgerigar.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


def all_zero(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}
    save_file(zeros, path, {"format": "pt"})


ADAPTERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (shutil.rmtree, "does not exist"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    "no tensors": (lambda f: (f / "adapter_model.safetensors").unlink(), "not a whole adapter"),
    "no metadata": (lambda f: (f / "budgerigar.json").unlink(), "budgerigar.json is missing"),
    "no tokenizer": (without_tokenizer, "has no tokenizer"),
    "cut config": (lambda f: cut(f / "adapter_config.json"), "does not load"),
    "cut tensors": (lambda f: cut(f / "adapter_model.safetensors"), "cannot be read"),
    "cut metadata": (lambda f: cut(f / "budgerigar.json"), "budgerigar.json cannot be used"),
    "another base": (edited(model_sha256="0" * 64), "belongs to another base than"),
    "base gone": (edited(model="/gone/model"), "/gone/model does not exist. Say where the base"),
    "all zero": (all_zero, "changes nothing: all of its updates are zero"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_that_cannot_be_used(name, tiny_run, texts, tmp_path):
    damage, words = ADAPTERS[name]
    adapter = tmp_path / "adapter"
    shutil.copytree(tiny_run.adapter, adapter)
    damage(adapter)
    left = list(tmp_path.iterdir())
    args = ("predict", adapter, texts / "test.csv", "--out", "p.csv")
    assert words in refused(budgie(*args, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == left


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        (["predict", "{adapter}", "-"], "", "standard input holds no rows"),
        (["predict", "{adapter}", "-"], "a\nb\udcff\n", "row 2: byte 0xff at offset 3"),
        (["predict", "{adapter}", "{test}", "--abstain", "2"], "", "Invalid value for '--abstain'"),
        (["predict", "{adapter}", "{test}", "--out", "{test}/p.csv"], "", "Not a directory"),
        (["predict", "{adapter}", "{test}", "--model", "./no"], "", "with --model FOLDER"),
        (["submit", "{adapter}", "{test}", "--out", "{adapter}"], "", "Is a directory"),
        (["submit", "{adapter}", "{test}", "--header", "ID,"], "", "is not two names"),
        (["submit", "{adapter}", "{test}", "--labels", "nmae"], "", "Invalid value for '--labels'"),
    ],
)
def test_predictions_that_cannot_be_made(tiny_run, texts, tmp_path, args, stdin, words):
    filled = [part.format(adapter=tiny_run.adapter, test=texts / "test.csv") for part in args]
    done = budgie(*filled, cwd=tmp_path, stdin=stdin)
    assert words in refused(done)
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_the_help(tmp_path):
    done = budgie(cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: " in done.stderr
    assert "train" in done.stderr


def test_what_is_told_and_not_refused(texts, tiny_recipe, tmp_path):
    """Labels from 1, empty texts, a class that validation lacks, float16 on a CPU."""
    rows = [(text, label + 1) for text, label in rows_of(texts)]
    (tmp_path / "train.csv").write_bytes(as_csv([*rows[:100], ("", 1), ("  ", 2)]))
    (tmp_path / "validation.csv").write_bytes(as_csv(row for row in rows[100:] if row[1] < 4))
    settings = ("data.train=train.csv", "data.validation=validation.csv", "data.test=null",
                "precision=float16", "steps=3")  # fmt: skip
    done = budgie("train", tiny_recipe, *sets(*settings), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "train.csv: integer labels count from 1" in done.stderr
    assert "train.csv: 2 empty texts (rows 101, 102, counted from 1)" in done.stderr
    assert "the validation rows hold no text of class Sci/Tech" in done.stderr
    assert torch.cuda.is_available() or "instead of float16: float16 is for GPUs" in done.stderr


def test_numbers_that_run_away_keep_the_best_adapter(tiny_recipe, tmp_path):
    rates = ("optimizer.rate=1000", "optimizer.head=1000", "schedule.name=constant",
             "schedule.warmup=0.9", "clip=null", "epochs=6", "data.test=null")  # fmt: skip
    done = budgie("train", tiny_recipe, *sets(*rates), cwd=tmp_path)
    assert done.returncode == 2
    assert "epoch 1: " in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("budgie: ")
    assert "The best adapter is kept; lower the learning rates" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "results.json").exists()
    verified = budgie("verify", "runs/tiny/adapter", cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr


def test_a_checkpoint_with_a_head_of_other_classes(tiny_with_head, tiny_recipe, tmp_path, caplog):
    settings = sets(f"model.name={tiny_with_head}", "steps=3")
    done = budgie("train", tiny_recipe, *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "num_labels" not in caplog.text
    results = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())
    assert results["classes"] == list(CLASSES)
    assert results["verification"]["largest_difference"] < 1e-4


def test_tokens_that_the_model_does_not_know(tiny, tiny_recipe, tmp_path):
    """A tokenizer of another model: its numbers go beyond the embedding."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["goal"] = 4_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"gives token 4000 in text \d+ of train: .* 80 tokens"):
        budgerigar.train(tiny_recipe, tmp_path / "run", **{"model.name": str(folder)})


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"optimizer.rate": 0.0}, RecipeError, "every rate of the adapter is 0"),
        ({"steps": 1}, TrainingStopped, "a run of one step trains nothing with warm-up"),
    ],
)
def test_runs_that_would_train_nothing(tiny_recipe, tmp_path, changes, error, why):
    with pytest.raises(error, match=why):
        budgerigar.train(tiny_recipe, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "adapter").exists()
