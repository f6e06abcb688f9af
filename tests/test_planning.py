"""The plan names the path that computes, and why."""

from __future__ import annotations

import pytest
import transformers
from typer.testing import CliRunner

from budgerigar import pipeline, recipe_text
from budgerigar.cli import app
from conftest import tiny_tokenizer

SIZES = {
    "vocab_size": 80,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
DISTILBERT_SIZES = {
    "vocab_size": 80,
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 64,
}
TOKENS = {"cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 2, "eos_token_id": 2}
MODELS = {
    "bert": (transformers.BertConfig, SIZES),
    "roberta": (transformers.RobertaConfig, SIZES),
    "xlm-roberta": (transformers.XLMRobertaConfig, SIZES),
    "camembert": (transformers.CamembertConfig, SIZES),
    "distilbert": (transformers.DistilBertConfig, DISTILBERT_SIZES),
    "modernbert": (transformers.ModernBertConfig, SIZES | TOKENS),
    "electra": (transformers.ElectraConfig, SIZES | {"embedding_size": 16}),
    "deberta-v2": (transformers.DebertaV2Config, SIZES | {"relative_attention": True}),
}
OWN_DROPOUT = "model.attention_dropout=null"
"""The checkpoint's own."""
REFERENCE = "computed by transformers + PEFT"
UNKNOWN = "the engine does not know"


def ropes(layers: str, **fields) -> dict:
    """Fields of a ModernBERT, one kind of whose layers has rotary positions of its own."""
    plain = {"rope_type": "default", "rope_theta": 10_000.0}
    kinds = {"full_attention": plain, "sliding_attention": plain}
    return {"rope_parameters": {**kinds, layers: plain | fields}}


@pytest.fixture
def planned(tiny_recipe, tmp_path):
    """Plans the tiny recipe for another model; gives the plan and the lines of `budgie plan`."""

    def plan(family: str, fields: dict, *settings: str):
        folder = tmp_path / "model"
        config, sizes = MODELS[family]
        config(**sizes | fields).save_pretrained(folder)
        tiny_tokenizer(folder)
        settings = (f"model.name={folder}", *settings)
        if family == "modernbert":
            settings = ("adapter.targets=[attn.Wqkv]", *settings)
        options = [part for setting in settings for part in ("--set", setting)]
        done = CliRunner().invoke(app, ["plan", str(tiny_recipe), *options])
        assert done.exit_code == 0, done.output
        return pipeline.plan(recipe_text.read(tiny_recipe, settings)), done.stdout.splitlines()

    return plan


@pytest.mark.parametrize(
    ("family", "fields", "setting"),
    [
        ("bert", {}, "adapter.layers=last:2"),
        ("bert", {"hidden_act": "relu"}, "adapter.targets=[intermediate, output]"),
        ("roberta", {}, "adapter.layers=all"),
        ("xlm-roberta", {}, "model.dropout=0.3"),
        ("camembert", {}, "model.prefix_dropout=true"),
        ("distilbert", {}, "model.attention_dropout=0"),
        ("distilbert", {"activation": "relu", "attention_dropout": 0.0}, OWN_DROPOUT),
        ("modernbert", {"classifier_pooling": "mean"}, "adapter.rank=2"),
    ],
)
def test_the_engine_computes_what_it_knows(planned, family, fields, setting):
    plan, printed = planned(family, fields, setting)
    assert plan.path == plan.to_json()["path"] == "engine"
    assert printed.count("computed by the engine") == 1
    assert not any(REFERENCE in line for line in (*plan.notes, *printed))


def require_reference(plan, printed: list[str], why: str) -> None:
    line = f"{REFERENCE}, which is slower: {why}"
    assert plan.path == plan.to_json()["path"] == "reference"
    assert plan.notes == (line,)
    assert printed.count(line) == 1
    assert "computed by the engine" not in printed


@pytest.mark.parametrize(
    ("family", "fields", "why"),
    [
        ("electra", {}, f"{UNKNOWN} electra"),
        ("deberta-v2", {}, f"{UNKNOWN} deberta-v2"),
        ("bert", {"hidden_act": "gelu_new"}, f"{UNKNOWN} the activation gelu_new"),
        ("roberta", {"hidden_act": "silu"}, f"{UNKNOWN} the activation silu"),
        ("distilbert", {"activation": "tanh"}, f"{UNKNOWN} the activation tanh"),
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            f"{UNKNOWN} relative_key positions",
        ),
        (
            "xlm-roberta",
            {"position_embedding_type": "relative_key_query"},
            f"{UNKNOWN} relative_key_query positions",
        ),
        ("bert", {"is_decoder": True}, "the model is a decoder"),
        ("roberta", {"is_decoder": True, "add_cross_attention": True}, "the model is a decoder"),
        ("modernbert", {"hidden_activation": "relu"}, f"{UNKNOWN} the activation relu"),
        ("modernbert", {"classifier_activation": "tanh"}, f"{UNKNOWN} the activation tanh"),
        (
            "modernbert",
            ropes("full_attention", rope_type="linear", factor=2.0),
            f"{UNKNOWN} linear positions",
        ),
        (
            "modernbert",
            ropes("sliding_attention", rope_type="dynamic", factor=2.0),
            f"{UNKNOWN} dynamic positions",
        ),
    ],
)
def test_transformers_computes_models_that_the_engine_does_not_know(planned, family, fields, why):
    require_reference(*planned(family, fields), why)


@pytest.mark.parametrize(
    ("family", "setting", "why"),
    [
        ("roberta", "adapter.bias=all", "biases are trained"),
        ("roberta", "model.attention_dropout=0.1", "attention probabilities drop out"),
        ("bert", OWN_DROPOUT, "attention probabilities drop out"),
        ("distilbert", OWN_DROPOUT, "attention probabilities drop out"),
        ("roberta", "path=reference", "the recipe asks for it"),
    ],
)
def test_transformers_computes_what_the_engine_does_not_do(planned, family, setting, why):
    require_reference(*planned(family, {}, setting), why)
