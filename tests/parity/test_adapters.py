"""Adapters cross both ways: PEFT computes with what the engine wrote, and we with what PEFT,
or anything that writes its files, wrote.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from test_engine import ALL, CLASSES, texts_of
from torch.nn import functional as F

import budgerigar
from budgerigar import adapters, predict
from budgerigar.encoder import adapter_files, checkpoints, paths
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import read_shape
from budgerigar.errors import AdapterError
from conftest import tiny_tokenizer

TEXTS, ROWS = texts_of([1, 62, 7, 20, 33, 5, 19]), np.array([3, 0, 1, 2, 6, 5])
NO_DROPOUT = Dropouts(0.0, 0.0, prefix=False)
HEADS = {
    "roberta": ["classifier"],
    "xlm-roberta": ["classifier"],
    "camembert": ["classifier"],
    "bert": ["classifier"],
    "bert without pooler": ["pooler", "classifier"],
    "distilbert": ["classifier"],
    "modernbert": ["head", "classifier"],
    "modernbert with mean": ["head", "classifier"],
}
"""What has to be saved beside the updates for the logits to come back; PEFT takes
`pre_classifier` for a `classifier`."""


def base_on(folder: Path) -> paths.Base:
    checkpoint = checkpoints.locate(str(folder), None, weights=True)
    shape = read_shape(checkpoint, CLASSES)
    return paths.Base(checkpoint, shape, CLASSES, "float32", torch.device("cpu"), str(folder))


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """Makes a tiny random checkpoint of a family, once, and gives it as a frozen base."""
    made: dict[str, paths.Base] = {}

    def make(family: str) -> paths.Base:
        if family not in made:
            folder = tmp_path_factory.mktemp("family") / "model"
            model, config, sizes = ALL[family]
            torch.manual_seed(11)
            model(config(**sizes)).save_pretrained(folder)
            tiny_tokenizer(folder)
            made[family] = base_on(folder)
        return made[family]

    return make


def classifier(base):
    """transformers' classifier on a base, its new layers drawn from whatever the seed is."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        base.checkpoint.folder, num_labels=CLASSES
    )


def plain_logits(model) -> torch.Tensor:
    """transformers' logits of the rows, one text at a time, so that nothing is padded."""
    model.eval()
    found = []
    with torch.no_grad():
        for row in ROWS:
            ids_T, _ = TEXTS.batch(np.array([row]))
            ids_BL = torch.from_numpy(ids_T)[None]
            found.append(model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL)).logits)
    return torch.cat(found)


def logits_of(encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder.logits(TEXTS, ROWS, None)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    assert float(second.abs().max()) > 0.01
    return float((first - second).abs().max())


def write_by_peft(base, folder: Path, config, *, safe: bool = True) -> torch.Tensor:
    """An adapter of random weights that PEFT alone wrote, and the logits that it gives."""
    torch.manual_seed(2)
    model = get_peft_model(classifier(base), config)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    expected = plain_logits(model)
    model.save_pretrained(folder)
    if not safe:
        tensors = load_file(folder / "adapter_model.safetensors")
        torch.save(tensors, folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    return expected


def lora(**given) -> LoraConfig:
    plain = {"target_modules": ["query", "value"], "r": 4, "lora_alpha": 16}
    return LoraConfig(**{"task_type": TaskType.SEQ_CLS, **plain, **given})


def write(base, encoder, folder: Path, probe=()) -> None:
    """The adapter folder of an encoder."""
    info = adapters.AdapterInfo(
        model=str(base.checkpoint.folder),
        revision=None,
        model_sha256=base.checkpoint.sha256(),
        classes=tuple("abcde"),
        max_length=62,
        precision="float32",
        trainable={"total": 1, "adapter": 1, "head": 0, "other": 0},
        probe=probe,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.checkpoint.folder)
    adapters.write_adapter(folder, encoder, tokenizer, info)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("head", "ranks"), [("full", {3: 6}), ("output", {}), ("output", {1: 2})])
@pytest.mark.parametrize("family", ALL)
def test_peft_computes_what_the_engine_trained(base_of, tmp_path, family, head, ranks, rslora):
    base = base_of(family)
    selection = Selection(("all",), (1, 3), 4, ranks, "none", head)
    engine = paths.fresh(
        base, selection, LowRank(16, 0.0, rslora), NO_DROPOUT, seed=3, force_reference=False
    )
    tensors = [one.tensor for one in engine.trainables()]
    optimizer = torch.optim.SGD(tensors, lr=0.1)
    labels_B = torch.arange(len(ROWS)) % CLASSES
    for step in range(4):
        optimizer.zero_grad()
        stream = np.random.default_rng(step)
        F.cross_entropy(engine.logits(TEXTS, ROWS, stream), labels_B).backward()
        optimizer.step()
    write(base, engine, tmp_path / "adapter")
    model = PeftModel.from_pretrained(classifier(base), tmp_path / "adapter")
    expected = logits_of(engine)
    untrained = paths.fresh(
        base, selection, LowRank(16, 0.0, rslora), NO_DROPOUT, seed=3, force_reference=False
    )
    assert difference(logits_of(untrained), expected) > 1e-3
    assert difference(plain_logits(model), expected) < 1e-5
    again = paths.from_adapter(base, tmp_path / "adapter")
    assert again.path == "engine"
    assert difference(logits_of(again), expected) < 1e-5
    assert again.adapter_config() == engine.adapter_config()


COMPUTED = {
    "plain": {},
    "rank and alpha patterns": {
        "rank_pattern": {"layer.3.attention.self.query": 7, "value": 2},
        "alpha_pattern": {r"layer\.[01]\.attention\.self\.value": 5, "query": 31},
    },
    "layers by number": {"layers_to_transform": [1, 3], "layers_pattern": "layer"},
    "one layer": {"layers_to_transform": 2},
    "rank-stabilised": {"use_rslora": True, "rank_pattern": {"key": 9}},
    "the head twice": {"modules_to_save": ["classifier", "classifier"]},
    "no task": {"task_type": None, "modules_to_save": ["classifier"]},
    "a pattern": {"target_modules": r".*layer\.[13]\.(attention\.self\.query|output\.dense)"},
    "a suffix of two matrices": {"target_modules": ["output.dense"]},
    "all linear": {"target_modules": "all-linear"},
    "all but some": {
        "target_modules": ["query", "value", "dense"],
        "exclude_modules": r".*layer\.[02]\..*",
    },
    "normal first weights": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("given", COMPUTED.values(), ids=COMPUTED)
def test_the_engine_computes_what_peft_wrote(base_of, tmp_path, given, safe):
    base = base_of("roberta")
    expected = write_by_peft(base, tmp_path, lora(**given), safe=safe)
    assert paths.adapter_obstacle(base, tmp_path) == ""
    read = paths.from_adapter(base, tmp_path)
    assert read.path == "engine"
    assert difference(logits_of(read), expected) < 1e-5
    json.dumps(read.adapter_config())


@pytest.mark.parametrize("family", ALL)
def test_every_family(base_of, tmp_path, family):
    base = base_of(family)
    config = lora(
        target_modules="all-linear",
        exclude_modules=r".*\.pooler\..*|pre_classifier",
        modules_to_save=HEADS[family],
    )
    expected = write_by_peft(base, tmp_path, config)
    read = paths.from_adapter(base, tmp_path)
    assert read.path == "engine"
    assert difference(logits_of(read), expected) < 1e-5


@pytest.mark.parametrize("number_type", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_types(base_of, tmp_path, number_type):
    base = base_of("roberta")
    write_by_peft(base, tmp_path, lora())
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor.to(number_type) for name, tensor in load_file(file).items()}, file)
    expected = plain_logits(PeftModel.from_pretrained(classifier(base), tmp_path))
    read = paths.from_adapter(base, tmp_path)
    assert read.path == "engine"
    assert difference(logits_of(read), expected) < 1e-5


LEFT = {
    "all biases": (lora(bias="all"), "biases are trained"),
    "biases beside updates": (lora(bias="lora_only"), "biases are trained"),
    "a norm saved too": (
        lora(modules_to_save=["classifier", "LayerNorm"]),
        "the adapter's file and the head differ in roberta.embeddings.LayerNorm.bias",
    ),
    "dora": (lora(use_dora=True), "the adapter asks for use_dora"),
    "updates with biases": (lora(lora_bias=True), "the adapter asks for lora_bias"),
    "an embedding": (
        lora(target_modules=["query", "word_embeddings"]),
        "the adapter's file and the head differ in roberta.embeddings.word_embeddings",
    ),
    "tokens": (
        lora(trainable_token_indices=[5, 6]),
        "the adapter asks for trainable_token_indices",
    ),
    "changed base": (lora(init_lora_weights="olora"), "the adapter begins with olora"),
    "another kind": (
        peft.IA3Config(
            task_type=TaskType.SEQ_CLS,
            target_modules=["key", "value", "intermediate.dense"],
            feedforward_modules=["intermediate.dense"],
        ),
        "the adapter is of PEFT's kind IA3, not LoRA",
    ),
}


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize(("config", "why"), LEFT.values(), ids=LEFT)
def test_the_reference_computes_the_rest(base_of, tmp_path, config, why, safe):
    base = base_of("roberta")
    expected = write_by_peft(base, tmp_path, replace(config), safe=safe)
    assert paths.adapter_obstacle(base, tmp_path).startswith(why)
    read = paths.from_adapter(base, tmp_path)
    assert read.path == "reference"
    assert difference(logits_of(read), expected) < 1e-5
    json.dumps(read.adapter_config())


def test_targets_that_are_left_to_peft(base_of, tmp_path):
    base = base_of("roberta")
    expected = write_by_peft(base, tmp_path, lora())
    change_config(target_modules=None)(tmp_path)
    assert paths.adapter_obstacle(base, tmp_path) == "the adapter leaves its targets to PEFT"
    read = paths.from_adapter(base, tmp_path)
    assert read.path == "reference"
    assert difference(logits_of(read), expected) < 1e-5


def test_a_pooler_with_an_update(base_of, tmp_path):
    base = base_of("bert")
    expected = write_by_peft(base, tmp_path, lora(target_modules="all-linear"))
    assert "the head differ in bert.pooler.dense.lora_A" in paths.adapter_obstacle(base, tmp_path)
    read = paths.from_adapter(base, tmp_path)
    assert read.path == "reference"
    assert difference(logits_of(read), expected) < 1e-5


def test_an_architecture_that_the_engine_does_not_know(base_of, tmp_path):
    torch.manual_seed(0)
    config = transformers.ElectraConfig(
        vocab_size=100,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.2,
    )
    transformers.ElectraModel(config).save_pretrained(tmp_path / "model")
    base = base_on(tmp_path / "model")
    expected = write_by_peft(base, tmp_path / "adapter", lora())
    assert paths.adapter_obstacle(base, tmp_path / "adapter") == "the engine does not know electra"
    read = paths.from_adapter(base, tmp_path / "adapter")
    assert read.path == "reference"
    assert difference(logits_of(read), expected) < 1e-5


def test_a_part_of_the_head_that_the_checkpoint_holds(base_of, tmp_path):
    """ModernBERT's masked-language checkpoints hold the head's first layer."""
    base = base_of("modernbert")
    expected = write_by_peft(base, tmp_path, lora(target_modules=["Wqkv"]))
    assert "the head differ in head." in paths.adapter_obstacle(base, tmp_path)
    read = paths.from_adapter(base, tmp_path)
    assert read.path == "reference"
    assert difference(logits_of(read), expected) < 1e-5


@pytest.mark.parametrize(
    ("family", "given", "lacks"),
    [
        ("bert without pooler", {}, "bert.pooler.dense."),
        ("roberta", {"task_type": None}, "classifier.dense."),
        ("roberta", {"task_type": None, "modules_to_save": ["out_proj"]}, "classifier.dense."),
    ],
)
def test_a_head_that_was_never_saved_is_not_made_up(base_of, tmp_path, family, given, lacks):
    write_by_peft(base_of(family), tmp_path, lora(**given))
    with pytest.raises(AdapterError, match="lacks a part of the head") as caught:
        paths.from_adapter(base_of(family), tmp_path)
    assert lacks in str(caught.value)


@pytest.mark.parametrize("force_reference", [False, True])
def test_peft_does_not_warn_of_our_own_names(base_of, tmp_path, force_reference):
    """The adapter names its base as the recipe does, wherever its folder is."""
    base = base_of("roberta")
    base = replace(base, checkpoint=replace(base.checkpoint, name="package:somewhere"))
    selection = Selection(("query",), (3,), 4, {}, "none", "full")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = paths.fresh(
            base,
            selection,
            LowRank(16, 0.0, False),
            NO_DROPOUT,
            seed=1,
            force_reference=force_reference,
        )
        assert made.adapter_config()["base_model_name_or_path"] == "package:somewhere"
        write(base, made, tmp_path)
        read = paths.from_adapter(base, tmp_path)
    assert read.adapter_config()["base_model_name_or_path"] == "package:somewhere"


# ---- tokenizers without a fast file ----


def slow_files(folder: Path) -> None:
    """A byte-level vocabulary as RoBERTa's oldest folders hold it: two files, no fast one."""
    from tokenizers import pre_tokenizers

    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += ["<mask>", "th", "the", "er", "in"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\ne r\ni n\n")


def test_a_tokenizer_without_a_fast_file_predicts(tmp_path):
    config = transformers.RobertaConfig(**{**ALL["roberta"][2], "vocab_size": 300})
    torch.manual_seed(3)
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path / "model")
    slow_files(tmp_path / "model")
    base = base_on(tmp_path / "model")
    encoder = paths.fresh(
        base,
        Selection(("query",), (3,), 4, {}, "none", "full"),
        LowRank(16, 0.0, False),
        NO_DROPOUT,
        seed=1,
        force_reference=False,
    )
    encoder.load_state({name: tensor + 0.02 for name, tensor in encoder.state().items()})
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.checkpoint.folder)
    texts = ["the striker scored", "shares in the bank", "", "the the the there in " * 30]
    rows = predict.logits_of(encoder, tokenizer, texts, 62)
    folder = tmp_path / "adapter"
    write(base, encoder, folder, tuple(zip(texts, map(tuple, rows.tolist()), strict=True)))
    # An adapter that another tool wrote holds the files that its checkpoint held.
    slow_files(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    read = budgerigar.load(folder)
    assert not (folder / "tokenizer.json").exists()
    assert read.verify() < 1e-5
    expected = predict.from_logits(read.classes, rows).probabilities
    assert np.abs(read.predict(texts).probabilities - expected).max() < 1e-6
    assert np.abs(expected[0] - expected[1]).max() > 1e-4


# ---- damaged folders ----

UPDATE = "base_model.model.roberta.encoder.layer.2.attention.self.query.lora_{}.weight"
OUTPUT = "base_model.model.classifier.out_proj.weight"
DENSE = "base_model.model.classifier.dense.bias"


def change_tensors(change):
    def damage(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


def change_config(**given):
    def damage(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **given}))

    return damage


def not_a_number(name: str, value: float = float("nan")):
    def change(tensors) -> None:
        tensors[name].view(-1)[0] = value

    return change_tensors(change)


def put(name: str, tensor: torch.Tensor):
    return change_tensors(lambda tensors: tensors.update({name: tensor}))


def leave_out(*names: str):
    return change_tensors(lambda tensors: [tensors.pop(name) for name in names])


def rename(old: str, new: str):
    return change_tensors(lambda tensors: tensors.update({new: tensors.pop(old)}))


def shorten(name: str, size: int):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def overwrite(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def remove(name: str):
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "not a number": not_a_number(UPDATE.format("A")),
    "infinite": not_a_number(OUTPUT, float("inf")),
    "whole numbers": put(UPDATE.format("B"), torch.ones(32, 4, dtype=torch.int64)),
    "truth values": put(DENSE, torch.ones(32, dtype=torch.bool)),
    "another width": put(UPDATE.format("A"), torch.ones(4, 31)),
    "another rank": change_tensors(
        lambda tensors: tensors.update(
            {UPDATE.format("A"): torch.ones(3, 32), UPDATE.format("B"): torch.ones(32, 3)}
        )
    ),
    "halves that do not fit": put(UPDATE.format("B"), torch.ones(32, 3)),
    "transposed": put(UPDATE.format("A"), torch.ones(32, 4)),
    "a single number": put(UPDATE.format("A"), torch.tensor(1.0)),
    "no A": leave_out(UPDATE.format("A")),
    "no B": leave_out(UPDATE.format("B")),
    "no update": leave_out(UPDATE.format("A"), UPDATE.format("B")),
    "an update that was not asked for": change_tensors(
        lambda tensors: tensors.update(
            {
                UPDATE.format("A").replace("query", "key"): torch.ones(4, 32),
                UPDATE.format("B").replace("query", "key"): torch.ones(32, 4),
            }
        )
    ),
    "a layer that is not there": rename(
        UPDATE.format("A"), UPDATE.format("A").replace(".2.", ".7.")
    ),
    "another name": rename(DENSE, "base_model.model.score.bias"),
    "other classes": put(OUTPUT, torch.ones(7, 32)),
    "another head": put("base_model.model.classifier.dense.weight", torch.ones(16, 32)),
    "no head": leave_out(OUTPUT, DENSE),
    "no tensors": change_tensors(lambda tensors: tensors.clear()),
    "an empty file": shorten("adapter_model.safetensors", 0),
    "a short file": shorten("adapter_model.safetensors", 5000),
    "a short header": shorten("adapter_model.safetensors", 60),
    "not tensors": overwrite("adapter_model.safetensors", "these are no tensors"),
    "no file": remove("adapter_model.safetensors"),
    "no configuration": remove("adapter_config.json"),
    "not JSON": overwrite("adapter_config.json", "{"),
    "a list": overwrite("adapter_config.json", "[]"),
    "an empty configuration": overwrite("adapter_config.json", "{}"),
    "an unknown kind": change_config(peft_type="LORAX"),
    "an unknown task": change_config(task_type="SEQ"),
    "rank in words": change_config(r="four"),
    "no rank": change_config(r=0),
    "another rank in the configuration": change_config(r=5),
    "no scale": change_config(lora_alpha=None),
    "a broken pattern": change_config(rank_pattern={"(": 4}),
    "a broken target": change_config(target_modules="("),
    "targets by number": change_config(target_modules=3),
    "patterns in a list": change_config(alpha_pattern=["query"]),
    "a bias that there is not": change_config(bias="some"),
}


@pytest.fixture(scope="module")
def whole(base_of, tmp_path_factory):
    """Adapters to damage: one for each path."""
    folders = {}
    for path, dora in (("engine", False), ("reference", True)):
        folders[path] = tmp_path_factory.mktemp("whole") / path
        write_by_peft(base_of("roberta"), folders[path], lora(use_dora=dora))
        assert paths.from_adapter(base_of("roberta"), folders[path]).path == path
    return folders


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ["engine", "reference"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_adapters_are_refused_in_a_line(base_of, whole, tmp_path, damage, path):
    folder = tmp_path / "adapter"
    shutil.copytree(whole[path], folder)
    damage(folder)
    with pytest.raises(AdapterError) as caught:
        paths.from_adapter(base_of("roberta"), folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("content", ["no pickle", "a list", "a module"])
def test_damaged_old_files_are_refused_in_a_line(base_of, whole, tmp_path, content):
    folder = tmp_path / "adapter"
    shutil.copytree(whole["engine"], folder)
    (folder / "adapter_model.safetensors").unlink()
    file = folder / "adapter_model.bin"
    if content == "no pickle":
        file.write_bytes(b"these are no tensors")
    else:
        torch.save([1, 2] if content == "a list" else torch.nn.Linear(2, 2), file)
    with pytest.raises(AdapterError) as caught:
        paths.from_adapter(base_of("roberta"), folder)
    assert "\n" not in str(caught.value)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(0, 9), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(-2, 9), max_size=2),
)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_configuration_crashes(base_of, whole, tmp_path, data):
    """Whatever stands in a field: the adapter is read, or refused."""
    folder = tmp_path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole[data.draw(st.sampled_from(sorted(whole)))], folder)
    fields = sorted(json.loads((folder / "adapter_config.json").read_text()))
    change_config(**{data.draw(st.sampled_from(fields)): data.draw(JUNK)})(folder)
    try:
        logits = logits_of(paths.from_adapter(base_of("roberta"), folder))
        assert logits.shape == (len(ROWS), CLASSES)
    except AdapterError as error:
        assert "\n" not in str(error)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(places=st.lists(st.integers(0, 2000), min_size=1, max_size=3), bit=st.integers(0, 7))
def test_no_flipped_bit_in_the_header_crashes(base_of, whole, tmp_path, places, bit):
    folder = tmp_path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole["engine"], folder)
    content = bytearray((folder / "adapter_model.safetensors").read_bytes())
    for place in places:
        content[place] ^= 1 << bit
    (folder / "adapter_model.safetensors").write_bytes(content)
    try:
        adapter_files.read_files(folder)
    except AdapterError as error:
        assert "\n" not in str(error)
