"""Counting trainable parameters: against FIELD's figures and against PEFT itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import (
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
)

from budgerigar.encoder import budget, checkpoints, reference
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import read_shape
from budgerigar.errors import BudgetError, SelectorError

SIX = ("query", "key", "value", "attention_output", "intermediate", "output")
TOP_THIRD = Selection(("query", "value"), (8, 9, 10, 11), 8, {}, "none", "full")
EVERY_LAYER = replace(TOP_THIRD, layers=tuple(range(12)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """roberta-base's configuration alone: no weights."""
    folder = tmp_path_factory.mktemp("roberta-base")
    RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1).save_pretrained(
        folder
    )
    return checkpoints.locate(str(folder), None, weights=False)


@pytest.fixture(scope="module")
def shape(base):
    return read_shape(base, 4)


def test_the_original_recipe_counts_691972(shape):
    assert budget.totals(budget.count(shape, TOP_THIRD)) == {
        "total": 691_972,
        "adapter": 98_304,
        "head": 593_668,
        "other": 0,
    }


def test_two_classes_count_690434(base):
    assert budget.totals(budget.count(read_shape(base, 2), TOP_THIRD))["total"] == 690_434


def test_all_biases_add_102144(shape):
    groups = budget.count(shape, replace(TOP_THIRD, bias="all"))
    assert budget.totals(groups)["other"] == 102_144


@pytest.mark.parametrize(
    ("targets", "head", "rank", "trainable"),
    [
        (("query", "value"), "full", 11, 999_172),
        (("query", "key", "value"), "full", 7, 980_740),
        (("query", "key", "value", "attention_output"), "full", 5, 962_308),
        (SIX, "full", 2, 925_444),
        (("query", "value"), "output", 27, 998_404),
        (("query", "key", "value"), "output", 18, 998_404),
        (("query", "key", "value", "attention_output"), "output", 13, 961_540),
        (SIX, "output", 6, 998_404),
    ],
)
def test_largest_ranks(shape, targets, head, rank, trainable):
    found = {(fit.targets, fit.head): fit for fit in budget.fits(shape, EVERY_LAYER, 999_999)}
    assert (found[targets, head].rank, found[targets, head].trainable) == (rank, trainable)


def test_no_rank_fits_a_budget_below_the_head(shape):
    full = [f for f in budget.fits(shape, EVERY_LAYER, 500_000) if f.head == "full"]
    assert full
    assert {f.rank for f in full} == {0}


SMALL = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 90}
FAMILIES = {
    "roberta": RobertaConfig(**SMALL, intermediate_size=96, max_position_embeddings=40),
    "bert": BertConfig(**SMALL, intermediate_size=96),
    "distilbert": DistilBertConfig(dim=48, n_layers=4, n_heads=4, hidden_dim=96, vocab_size=90),
    "modernbert": ModernBertConfig(
        **SMALL, intermediate_size=96, pad_token_id=0, cls_token_id=1, sep_token_id=2
    ),
}
CHOICES = [
    ("roberta", Selection(("query", "value"), (2, 3), 8, {}, "none", "full")),
    ("roberta", Selection(("q", "v"), (0, 3), 3, {3: 5}, "none", "output")),
    ("roberta", Selection(("all",), (0, 1, 2, 3), 2, {}, "lora_only", "full")),
    ("roberta", Selection(SIX, (1,), 1, {}, "all", "output")),
    ("roberta", Selection(("output",), (2,), 4, {}, "none", "full")),
    ("bert", Selection(("query", "key", "value"), (1, 2), 6, {1: 2}, "none", "full")),
    ("bert", Selection(("attention_output", "output"), (3,), 4, {}, "all", "full")),
    ("distilbert", Selection(("query", "intermediate"), (0, 2), 4, {}, "none", "full")),
    ("distilbert", Selection(("all",), (3,), 4, {}, "all", "output")),
    ("modernbert", Selection(("attn.Wqkv", "mlp.Wo"), (1, 3), 4, {}, "none", "full")),
    ("modernbert", Selection(("all",), (0, 3), 2, {}, "none", "output")),
]


@pytest.mark.parametrize(("family", "selection"), CHOICES)
def test_the_count_is_what_peft_trains(family, selection, tmp_path):
    import torch
    from transformers import AutoModel

    torch.manual_seed(0)
    AutoModel.from_config(FAMILIES[family]).save_pretrained(tmp_path)
    checkpoint = checkpoints.locate(str(tmp_path), None, weights=True)
    shape = read_shape(checkpoint, 4)
    encoder = reference.fresh(
        checkpoint,
        shape,
        4,
        selection,
        LowRank(16, 0.0, False),
        Dropouts(None, None, prefix=True),
        seed=0,
        precision="float32",
        device=torch.device("cpu"),
    )
    parts = {"adapter": 0, "head": 0, "other": 0}
    for one in encoder.trainables():
        parts[one.part] += one.tensor.numel()
    counted = budget.totals(budget.count(shape, selection))
    assert {"total": sum(parts.values()), **parts} == counted
    in_layers = {g.layer for g in budget.count(shape, selection) if g.part == "adapter"}
    assert {t.layer for t in encoder.trainables() if t.part == "adapter"} == in_layers
    assert {t.name for t in encoder.trainables()} <= set(encoder.state())


def test_a_pooler_that_the_checkpoint_lacks_belongs_to_the_head(tmp_path):
    from transformers import BertModel

    BertModel(FAMILIES["bert"]).save_pretrained(tmp_path / "with")
    BertModel(FAMILIES["bert"], add_pooling_layer=False).save_pretrained(tmp_path / "without")
    heads = {}
    for name in ("with", "without"):
        shape = read_shape(checkpoints.locate(str(tmp_path / name), None, weights=True), 4)
        heads[name] = [layer.path for layer in shape.head]
    assert heads == {"with": ["classifier"], "without": ["bert.pooler.dense", "classifier"]}


def test_over_the_budget_is_refused_with_the_numbers(shape):
    groups = budget.count(shape, replace(EVERY_LAYER, rank=12))
    with pytest.raises(BudgetError, match=r"1,036,036 .* 36,037 over the budget of 999,999"):
        budget.require(groups, 999_999)
    budget.require(groups, 1_036_036)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("query", "valeu")}, "'valeu' matches no matrix .* did you mean 'value'"),
        ({"targets": ("dense",)}, "'dense' is part of the head"),
        ({"targets": ("classifier.out_proj",)}, "part of the head"),
        ({"targets": ("all-linear",)}, "matches no matrix"),
        ({"layers": (10, 11, 12)}, "does not have: 12: it has layers 0 to 11"),
        ({"layers": (-2, 0)}, "does not have: it has layers 0 to 11"),
        ({"ranks": {3: 4}}, "adapter.ranks names layers that adapter.layers does not"),
    ],
)
def test_selectors_that_match_nothing_or_the_head(shape, change, message):
    with pytest.raises(SelectorError, match=message):
        budget.count(shape, replace(TOP_THIRD, **change))


def test_positions_leave_out_what_roberta_reserves(shape):
    assert shape.positions == 512
