"""Models, tokenizers and adapters that name files elsewhere: not one of those is opened."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from budgerigar import adapters
from budgerigar.data.tokens import load_tokenizer
from budgerigar.encoder import checkpoints, paths, shape
from budgerigar.errors import AdapterError, BudgieError, ModelError
from test_cli import budgie, refused

LONG_AGO = 10**18


@pytest.fixture
def outside(tiny: Path, tmp_path: Path) -> Path:
    """Files that would do in the place of a model's own."""
    folder = tmp_path / "outside"
    folder.mkdir()
    words = json.loads((tiny / "tokenizer.json").read_text())["model"]["vocab"]
    shutil.copy(tiny / "tokenizer.json", folder / "tokenizer.4.0.0.json")
    shutil.copy(tiny / "model.safetensors", folder)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "any.gguf").write_text("GGUF")
    return folder


@pytest.fixture
def unread(outside: Path) -> Iterator[None]:
    """Fails where one of these files was read, by Python or by Rust: their times of access tell."""
    for path in outside.iterdir():
        os.utime(path, ns=(LONG_AGO, time.time_ns()))
    (outside / "vocab.txt").read_text()
    if (outside / "vocab.txt").stat().st_atime_ns == LONG_AGO:
        pytest.skip("the file system notes no times of access")
    os.utime(outside / "vocab.txt", ns=(LONG_AGO, time.time_ns()))
    yield
    assert [path for path in outside.iterdir() if path.stat().st_atime_ns != LONG_AGO] == []


def configure(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


CLASSES = ("TokenizersBackend", "RobertaTokenizer", "BertTokenizer", "XLMRobertaTokenizer")


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("tokenizer_class", CLASSES)
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(
    "named",
    [
        {"fast_tokenizer_files": ["{outside}/tokenizer.4.0.0.json"]},
        {"fast_tokenizer_files": ["../outside/tokenizer.4.0.0.json"]},
        {"gguf_file": "{outside}/any.gguf"},
        {"vocab": "{outside}/vocab.json", "merges": "{outside}/merges.txt"},
        {"vocab": "{outside}/vocab.txt"},
        {"init_inputs": ["{outside}/vocab.json", "{outside}/merges.txt"]},
        {"vocab_file": "{outside}/vocab.txt", "tokenizer_file": "{outside}/tokenizer.4.0.0.json"},
        {"added_tokens_file": "{outside}/vocab.json", "name_or_path": "{outside}"},
        {"special_tokens_map_file": "{outside}/vocab.json"},
    ],
    ids=lambda named: next(iter(named)),
)
def test_a_tokenizer_reads_its_own_folder_only(
    named, is_whole, tokenizer_class, tiny, outside, tmp_path
):
    model = shutil.copytree(tiny, tmp_path / "model")
    if not is_whole:
        (model / "tokenizer.json").unlink()
    filled = json.loads(json.dumps(named).replace("{outside}", str(outside)))
    configure(model / "tokenizer_config.json", tokenizer_class=tokenizer_class, **filled)
    try:
        load_tokenizer(model, "model")
    except ModelError as error:
        assert str(error).isprintable()


def test_a_tokenizer_of_several_files_of_its_own_loads(tiny, tmp_path):
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "tokenizer.json").rename(model / "tokenizer.4.0.0.json")
    files = ["tokenizer.4.0.0.json"]
    configure(
        model / "tokenizer_config.json", fast_tokenizer_files=files, special_tokens_map_file="/x"
    )
    assert load_tokenizer(model, "model").tokenize("goal") == ["goal"]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("path", ["auto", "reference"])
def test_an_index_of_weights_names_no_file_elsewhere(path, tiny, tiny_recipe, outside, tmp_path):
    model = shutil.copytree(tiny, tmp_path / "model")
    (model / "model.safetensors").rename(model / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"roberta.x": "../outside/model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = ("--set", f"model.name={model}", "--set", f"path={path}")
    line = refused(budgie("train", tiny_recipe, *settings, cwd=tmp_path))
    assert "model.safetensors.index.json names files outside the folder" in line


def test_a_model_that_carries_an_adapter_is_refused(tiny, tiny_run, tiny_recipe, tmp_path):
    model = shutil.copytree(tiny, tmp_path / "model")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tiny_run.adapter / name, model)
    settings = ("--set", f"model.name={model}", "--set", "path=reference")
    line = refused(budgie("train", tiny_recipe, *settings, cwd=tmp_path))
    assert "adapter_config.json beside config.json would change its weights" in line


@pytest.mark.parametrize(
    "named",
    [
        {"attn_implementation": "somebody/kernels"},
        {"text_config": {"_attn_implementation": {"": "somebody/kernels"}}},
    ],
)
def test_a_model_that_wants_a_kernel_of_the_hub_is_refused(named, tiny, tiny_recipe, tmp_path):
    model = shutil.copytree(tiny, tmp_path / "model")
    configure(model / "config.json", **named)
    line = refused(budgie("plan", tiny_recipe, "--set", f"model.name={model}", cwd=tmp_path))
    assert "attn_implementation in its config.json names code on the hub" in line


ELSEWHERE = {
    "a shadow": {"peft_type": "SHADOW", "shadow_model": "{outside}"},
    "a state": {
        "peft_type": "MULTITASK_PROMPT_TUNING",
        "num_virtual_tokens": 2,
        "prompt_tuning_init": "EXACT_SOURCE_TASK",
        "prompt_tuning_init_state_dict_path": "{outside}/model.safetensors",
    },
    "a tokenizer": {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": 2,
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "goal",
        "tokenizer_name_or_path": "{outside}",
        "tokenizer_kwargs": {"trust_remote_code": True},
    },
    "a module": {"megatron_config": {"a": 1}, "megatron_core": "own"},
}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_adapter_reads_its_own_folder_only(name, tiny_run, texts, outside, tmp_path):
    adapter = shutil.copytree(tiny_run.adapter, tmp_path / "adapter")
    filled = json.loads(json.dumps(ELSEWHERE[name]).replace("{outside}", str(outside)))
    file = adapter / "adapter_config.json"
    plain = {"task_type": "SEQ_CLS", "base_model_name_or_path": str(outside)}
    kept = json.loads(file.read_text()) if name == "a module" else {}
    file.write_text(json.dumps({**kept, **plain, **filled}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    line = refused(budgie("predict", adapter, texts / "test.csv", cwd=tmp_path))
    assert "other folders" in line or "names what is not in the folder" in line
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("unread")
def test_the_base_that_peft_names_is_not_opened(tiny_run, texts, outside, tmp_path):
    adapter = shutil.copytree(tiny_run.adapter, tmp_path / "adapter")
    configure(adapter / "adapter_config.json", base_model_name_or_path=str(outside))
    done = budgie("predict", adapter, texts / "test.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "tokenizer.json", "more.txt"])
def test_links_that_lead_out_of_an_adapter_are_refused(file, tiny_run, tmp_path):
    adapter = shutil.copytree(tiny_run.adapter, tmp_path / "adapter")
    (adapter / file).unlink(missing_ok=True)
    (adapter / file).symlink_to(tiny_run.adapter / "tokenizer.json")
    with pytest.raises(AdapterError, match="outside the adapter's folder"):
        adapters.read_info(adapter)


def test_a_link_to_itself_is_refused(tiny_run, tmp_path):
    adapter = shutil.copytree(tiny_run.adapter, tmp_path / "adapter")
    (adapter / "budgerigar.json").unlink()
    (adapter / "budgerigar.json").symlink_to("budgerigar.json")
    with pytest.raises(AdapterError, match=r"budgerigar\.json is missing"):
        adapters.read_info(adapter)


def test_adapters_in_the_hubs_cache_and_linked_folders_are_read(tiny_run, tmp_path):
    blobs = shutil.copytree(tiny_run.adapter, tmp_path / "models--a--b" / "blobs")
    snapshot = blobs.parent / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    (tmp_path / "linked").symlink_to(snapshot)
    assert adapters.read_info(snapshot) == adapters.read_info(tmp_path / "linked")


def of_sizes(**values: object):
    return lambda folder: configure(folder / "config.json", **values)


def of_lists(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def without_tokens_of_its_template(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"]["special_tokens"] = {}
    file.write_text(json.dumps(content))


def of_a_number(folder: Path) -> None:
    configure(folder / "tokenizer_config.json", tokenizer_class=1e308)


def of_deep_lists(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("[" * 30_000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (of_sizes(num_hidden_layers=2**31), "2,147,483,648 layers"),
        (of_sizes(pad_token_id=99), "Padding_idx must be within"),
        (of_sizes(dtype=False), "has a configuration that|cannot become"),
        (of_sizes(use_cache=1.5), "expected bool, got float"),
        (of_sizes(hidden_size=-1), "cannot become a text classifier"),
        (of_lists, "it holds no fields"),
        (without_tokens_of_its_template, "tokenizer"),
        (of_a_number, "no tokenizer that can be read"),
        (of_deep_lists, "no tokenizer that can be read"),
    ],
)
def test_what_spoilt_models_found(spoil, words, tiny, tmp_path):
    from budgerigar.data.tokens import tokenize
    from budgerigar.predict import _ListOfTexts

    model = shutil.copytree(tiny, tmp_path / "model")
    spoil(model)
    with pytest.raises(ModelError, match=words) as caught:
        checkpoint = checkpoints.locate(str(model), None, weights=True)
        paths.unknown_architecture(checkpoint, shape.read_shape(checkpoint, 4))
        tokenizer = load_tokenizer(model, "model")
        tokenize(_ListOfTexts(["goal"]), tokenizer, 16, "texts", 80)
    assert isinstance(caught.value, BudgieError)
