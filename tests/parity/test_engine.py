"""The packed engine against transformers + PEFT: the same logits, the same gradients."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from budgerigar.data.tokens import PackedTexts, load_tokenizer
from budgerigar.encoder import checkpoints, cohort, frozen, hardware, paths
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.cohort import Batch
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import read_shape
from conftest import tiny_tokenizer

CLASSES = 5
VOCABULARY = 100
LIMIT = 62
"""Tokens that every tiny model below takes."""
NO_DROPOUT = Dropouts(0.0, 0.0, prefix=False)
SIX = ("query", "key", "value", "attention_output", "intermediate", "output")
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.12,
}
ROBERTA_SIZES = {**SIZES, "max_position_embeddings": 64, "type_vocab_size": 1, "pad_token_id": 1}
DISTILBERT_SIZES = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "n_layers": 4,
    "n_heads": 4,
    "hidden_dim": 64,
    "initializer_range": 0.12,
}
MODELS = {
    "roberta": (transformers.RobertaForMaskedLM, transformers.RobertaConfig, ROBERTA_SIZES),
    "xlm-roberta": (
        transformers.XLMRobertaForMaskedLM,
        transformers.XLMRobertaConfig,
        ROBERTA_SIZES,
    ),
    "camembert": (transformers.CamembertForMaskedLM, transformers.CamembertConfig, ROBERTA_SIZES),
    "bert": (transformers.BertModel, transformers.BertConfig, SIZES),
    "bert without pooler": (transformers.BertForMaskedLM, transformers.BertConfig, SIZES),
    "distilbert": (
        transformers.DistilBertForMaskedLM,
        transformers.DistilBertConfig,
        DISTILBERT_SIZES,
    ),
}


MODERNBERT_SIZES = {
    **{name: size for name, size in SIZES.items() if name != "initializer_range"},
    "pad_token_id": 1,
    "cls_token_id": 0,
    "bos_token_id": 0,
    "sep_token_id": 2,
    "eos_token_id": 2,
    "global_attn_every_n_layers": 2,
    "local_attention": 12,
    "initializer_range": 0.3,
}
POOLED = (transformers.ModernBertForMaskedLM, transformers.ModernBertConfig)
MODERN_MODELS = {
    "modernbert": (*POOLED, MODERNBERT_SIZES),
    "modernbert with mean": (*POOLED, {**MODERNBERT_SIZES, "classifier_pooling": "mean"}),
}
ALL = {**MODELS, **MODERN_MODELS}


def changed(family: str, **sizes):
    """A model of `ALL` with other sizes."""
    model, config, own = ALL[family]
    return model, config, {**own, **sizes}


BIASES = ("attention_bias", "mlp_bias", "norm_bias", "classifier_bias")
OTHERS = {
    "roberta with relu": changed("roberta", hidden_act="relu"),
    "bert with relu": changed("bert", hidden_act="relu"),
    "distilbert with relu": changed("distilbert", activation="relu"),
    # Of ModernBERT's larger weights above, roundings come near the bound.
    **{
        f"modernbert with {bias}": changed("modernbert", initializer_range=0.12, **{bias: True})
        for bias in BIASES
    },
}
"""What the engine computes too, beside what checkpoints mostly are."""


def write_model(made, folder, *, spread: float) -> None:
    """Writes a random checkpoint: model class, configuration class and sizes.

    New biases are 0 and new norms 1, which does not tell whether they are read: `spread` is that
    of what is added to them.
    """
    model, config, sizes = made
    torch.manual_seed(11)
    written = model(config(**sizes))
    with torch.no_grad():
        for parameter in written.parameters():
            if spread and parameter.dim() == 1:
                parameter += torch.randn(parameter.shape) * spread
    written.save_pretrained(folder)


def base_on(folder) -> paths.Base:
    checkpoint = checkpoints.locate(str(folder), None, weights=True)
    shape = read_shape(checkpoint, CLASSES)
    return paths.Base(checkpoint, shape, CLASSES, "float32", hardware.device(), str(folder))


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """Makes a tiny random checkpoint of a family, once, and gives it as a frozen base."""
    made: dict[str, paths.Base] = {}

    def make(family: str, precision: str = "float32") -> paths.Base:
        if family not in made:
            folder = tmp_path_factory.mktemp("family") / "model"
            spread = 0.1 if family in OTHERS else 0.0
            write_model({**ALL, **OTHERS}[family], folder, spread=spread)
            made[family] = base_on(folder)
        return replace(made[family], precision=precision)

    return make


def both(base, selection, dropouts=NO_DROPOUT, low_rank=None):
    """The engine's classifier and the reference's, with the same adapter, far from zero."""
    low_rank = low_rank or LowRank(alpha=16, dropout=0.0, rslora=False)
    engine, reference = (
        paths.fresh(base, selection, low_rank, dropouts, seed=3, force_reference=forced)
        for forced in (False, True)
    )
    assert (engine.path, reference.path) == ("engine", "reference")
    generator = torch.Generator().manual_seed(5)
    state = {
        name: tensor + torch.randn(tensor.shape, generator=generator) * 0.1
        if name.endswith("lora_B.weight") or tensor.dim() == 1
        else tensor
        for name, tensor in engine.state().items()
    }
    engine.load_state(state)
    reference.load_state(state)
    return engine, reference


def texts_of(lengths, seed=0) -> PackedTexts:
    """Random tokens; one of them is the padding token, inside a text."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids_T = np.random.default_rng(seed).integers(4, VOCABULARY, offsets[-1]).astype(np.int32)
    if len(ids_T) > 30:
        ids_T[30] = 1
    return PackedTexts(ids_T, offsets, cut=0)


def gradients_of(encoder, texts, rows):
    """Logits and every trainable gradient of one training step's loss."""
    trainables = encoder.trainables()
    for one in trainables:
        one.tensor.grad = None
    logits_BC = encoder.logits(texts, rows, np.random.default_rng(0))
    labels_B = torch.arange(len(rows), device=logits_BC.device) % CLASSES
    F.cross_entropy(logits_BC, labels_B).backward()
    return logits_BC.detach(), {one.name: one.tensor.grad for one in trainables}


def along_a_direction(loss, tensors, step) -> tuple[float, float]:
    """The slope of a loss along a random direction, and its difference quotient."""
    gradients = torch.autograd.grad(loss(), tensors)
    generator = torch.Generator().manual_seed(9)
    direction = [torch.randn(g.shape, generator=generator).to(g.device) for g in gradients]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    ends = []
    with torch.no_grad():
        for sign in (1.0, -2.0):
            for one, d in zip(tensors, direction, strict=True):
                one.add_(d, alpha=sign * step)
            ends.append(loss().item())
    return slope, (ends[0] - ends[1]) / (2 * step)


def described(encoder):
    return {(one.name, one.part, one.layer, one.factor) for one in encoder.trainables()}


def largest_difference(first, second) -> float:
    """Not a number where any is not: Python's own `max` may pass over it."""
    return float(np.max([float((first[name] - second[name]).abs().max()) for name in first]))


def smallest_gradient(gradients) -> float:
    return float(np.min([float(gradient.abs().max()) for gradient in gradients.values()]))


def check_logits_and_gradients(engine, reference, texts, rows):
    """The engine's are the reference's; gives the engine's gradients."""
    logits, gradients = gradients_of(engine, texts, rows)
    expected, expected_gradients = gradients_of(reference, texts, rows)
    assert described(engine) == described(reference)
    assert set(gradients) == set(expected_gradients)
    assert float((logits - expected).abs().max()) < 1e-5
    assert largest_difference(gradients, expected_gradients) < 1e-5
    return gradients


RAGGED = [1, LIMIT, 7, 20, 33, 5, 19]
ROWS = np.array([3, 0, 1, 2, 6, 5])
CHOICES = [
    (("query", "value"), (2, 3), "full"),
    (("query", "value"), (2, 3), "output"),
    (("query", "key", "value"), (0, 1, 2, 3), "output"),
    (SIX, (0, 1, 2, 3), "full"),
    (SIX, (3,), "output"),
    (SIX, (0,), "full"),
    (SIX, (0,), "output"),
    (("query", "value"), (0,), "full"),
    (("query", "value"), (0,), "output"),
    (("query", "key", "value", "attention_output"), (1, 2, 3), "full"),
    (("query", "key", "value", "attention_output"), (2, 3), "output"),
    (("key",), (3,), "full"),
    (("value",), (0, 1), "output"),
    (("intermediate", "output"), (1, 2), "output"),
]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(("targets", "layers", "head"), CHOICES)
def test_logits_and_gradients(base_of, family, targets, layers, head):
    selection = Selection(targets, layers, 4, {layers[-1]: 6}, "none", head)
    engine, reference = both(base_of(family), selection)
    gradients = check_logits_and_gradients(engine, reference, texts_of(RAGGED), ROWS)
    assert smallest_gradient(gradients) > 1e-6


MODERN = ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")


@pytest.mark.parametrize("family", ["modernbert", "modernbert with mean"])
@pytest.mark.parametrize(
    ("targets", "layers", "head"),
    [
        (("attn.Wqkv",), (2, 3), "full"),
        (MODERN, (0, 1, 2, 3), "full"),
        (MODERN, (3,), "output"),
        (MODERN, (0,), "full"),
        (MODERN, (0,), "output"),
        (("attn.Wqkv",), (0,), "full"),
        (("attn.Wqkv",), (0,), "output"),
        (("attn.Wqkv", "attn.Wo"), (1, 2, 3), "full"),
        (("mlp.Wi",), (0, 2), "output"),
    ],
)
def test_modernbert(base_of, family, targets, layers, head):
    selection = Selection(targets, layers, 4, {layers[-1]: 6}, "none", head)
    engine, reference = both(base_of(family), selection)
    gradients = check_logits_and_gradients(engine, reference, texts_of(RAGGED), ROWS)
    assert smallest_gradient(gradients) > 1e-6


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize(("layers", "head"), [((0, 1, 2, 3), "full"), ((2,), "output")])
def test_other_configurations(base_of, family, layers, head):
    engine, reference = both(base_of(family), Selection(("all",), layers, 4, {}, "none", head))
    gradients = check_logits_and_gradients(engine, reference, texts_of(RAGGED), ROWS)
    assert smallest_gradient(gradients) > 1e-6


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [2], [1, 0, 2]], ids=str)
def test_an_empty_text_and_one_of_a_single_token(base_of, tmp_path, family, rows):
    tiny_tokenizer(tmp_path)
    ids = load_tokenizer(tmp_path, "tiny")(["", "goal match coach season"])["input_ids"]
    assert ids[0] == [0, 2]
    ids.append([0])
    offsets = np.cumsum([0, *map(len, ids)])
    texts = PackedTexts(np.concatenate(ids).astype(np.int32), offsets, cut=0)
    engine, reference = both(base_of(family), Selection(("all",), (1, 3), 4, {}, "none", "full"))
    gradients = check_logits_and_gradients(engine, reference, texts, np.array(rows))
    # A token alone attends to itself, whatever its query and its key are.
    without = ("query", "key", "q_lin", "k_lin") if rows == [2] else ()
    others = {n: g for n, g in gradients.items() if not any(part in n for part in without)}
    assert smallest_gradient(others) > 1e-6


@pytest.mark.parametrize("family", ALL)
def test_both_paths_begin_with_the_same_numbers(base_of, family):
    selection = Selection(("all",), (1, 3), 4, {}, "none", "full")
    low_rank = LowRank(16, 0.0, False)
    states = [
        paths.fresh(
            base_of(family), selection, low_rank, NO_DROPOUT, seed=3, force_reference=forced
        ).state()
        for forced in (False, True)
    ]
    assert set(states[0]) == set(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, LIMIT), min_size=1, max_size=9),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_packed_equals_padded_equals_one_at_a_time(base_of, lengths, seed, data):
    family = data.draw(st.sampled_from(list(ALL)))
    engine, reference = both(base_of(family), Selection(("all",), (1, 3), 3, {}, "none", "full"))
    texts = texts_of(lengths, seed)
    rows = np.array(data.draw(st.permutations(range(len(lengths)))))
    with torch.no_grad():
        packed = engine.logits(texts, rows, None)
        padded = reference.logits(texts, rows, None)
        alone = torch.cat([engine.logits(texts, rows[i : i + 1], None) for i in range(len(rows))])
    # Of random weights logits come out larger than 1, and so do their float32 roundings.
    tolerance = 1e-5 * max(1.0, float(padded.abs().max()))
    assert float((packed - padded).abs().max()) < tolerance
    assert float((packed - alone).abs().max()) < tolerance


SIZE_NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
DISTILBERT_SIZE_NAMES = ("dim", "n_layers", "n_heads", "hidden_dim")


@settings(max_examples=25)
@given(
    family=st.sampled_from(["roberta", "bert", "distilbert", "modernbert"]),
    heads=st.integers(1, 4),
    head_width=st.sampled_from([8, 12, 16]),
    depth=st.integers(1, 4),
    inner=st.integers(1, 96),
    ranks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    head=st.sampled_from(["full", "output"]),
    lengths=st.lists(st.integers(1, LIMIT), min_size=1, max_size=6),
    data=st.data(),
)
def test_logits_and_gradients_of_any_shape(
    tmp_path_factory, family, heads, head_width, depth, inner, ranks, head, lengths, data
):
    names = DISTILBERT_SIZE_NAMES if family == "distilbert" else SIZE_NAMES
    width = heads * head_width
    sizes = dict(zip(names, (width, depth, heads, inner), strict=True))
    # Norms over four numbers make much of roundings where weights or updates are larger.
    made = changed(family, **sizes, initializer_range=0.4 * width**-0.5)
    folder = tmp_path_factory.mktemp("shape") / "model"
    write_model(made, folder, spread=0.1)
    targets = st.sets(st.sampled_from(MODERN if family == "modernbert" else SIX), min_size=1)
    layers = st.sets(st.integers(0, depth - 1), min_size=1).map(sorted).map(tuple)
    chosen, trained = tuple(sorted(data.draw(targets))), data.draw(layers)
    selection = Selection(chosen, trained, ranks[0], {trained[-1]: ranks[1]}, "none", head)
    low_rank = LowRank(alpha=4, dropout=0.0, rslora=False)
    engine, reference = both(base_on(folder), selection, low_rank=low_rank)
    rows = np.array(data.draw(st.permutations(range(len(lengths)))))
    check_logits_and_gradients(engine, reference, texts_of(lengths), rows)


def test_modernbert_where_padding_sees_no_token(base_of):
    engine, reference = both(
        base_of("modernbert"), Selection(("all",), (0, 1, 2, 3), 3, {}, "none", "full")
    )
    texts, rows = texts_of([LIMIT, 48]), np.arange(2)
    _, gradients = gradients_of(engine, texts, rows)
    _, expected = gradients_of(reference, texts, rows)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest_difference(gradients, expected) < 1e-5 * max(1.0, largest)


@pytest.mark.parametrize(
    ("family", "some", "one"),
    [("roberta", ("query", "value"), "key"), ("modernbert", ("attn.Wqkv",), "mlp.Wo")],
)
@pytest.mark.parametrize("prefixed", [False, True])
def test_runs_of_a_cohort_compute_as_each_alone(base_of, family, some, one, prefixed):
    """Runs with other layers, ranks and streams over one base, in one batch and apart: for
    the one that trains layer 3 alone, layer 2 is a frozen prefix, without dropout."""
    starts = [
        paths.Start(Selection(targets, layers, rank, {}, "none", "full"), LowRank(16, p, False), 3)
        for targets, layers, rank, p in (
            (some, (3,), 4, 0.05),
            (("all",), (2, 3), 2, 0.3),
            ((one,), (3,), 1, 0.0),
        )
    ]
    dropouts = Dropouts(0.1, 0.0, prefix=False)
    runs = paths.fresh_cohort(base_of(family), starts, dropouts, force_reference=False)
    texts = texts_of([20, 7, 33, 5, 40, 9])
    rows = [np.array([0, 3]), np.array([1, 2, 4]), np.array([5])]
    prepared = cohort.prepare(runs, texts, "texts") if prefixed else texts
    batches = [
        Batch(run, own, np.random.default_rng(number))
        for number, (run, own) in enumerate(zip(runs, rows, strict=True))
    ]
    assert list(cohort.passes(prepared, batches)) == [slice(0, 3)]
    together = cohort.logits(prepared, batches)
    torch.autograd.backward([(found**2).sum() for found in together])
    for number, (run, own, found) in enumerate(zip(runs, rows, together, strict=True)):
        gradients = {one.name: one.tensor.grad.clone() for one in run.trainables()}
        for one in run.trainables():
            one.tensor.grad = None
        alone = run.logits(texts, own, np.random.default_rng(number))
        (alone**2).sum().backward()
        expected = {one.name: one.tensor.grad for one in run.trainables()}
        assert float((found - alone).detach().abs().max()) < 1e-5
        largest = max(float(gradient.abs().max()) for gradient in expected.values())
        assert largest_difference(gradients, expected) < 1e-5 * max(1.0, largest)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "modernbert"])
def test_gradients_under_dropout_are_those_of_the_function_computed(base_of, family):
    """Along a random direction, against a difference quotient with the same masks."""
    engine, _ = both(
        base_of(family),
        Selection(("all",), (1, 2, 3), 3, {}, "none", "full"),
        Dropouts(0.2, 0.0, prefix=False),
        LowRank(16, 0.2, False),
    )
    texts, rows = texts_of([20, 7, 33, 12]), np.arange(4)
    labels = torch.arange(4, device=engine.device)

    apart = []
    for seed in range(5):

        def loss(seed: int = seed) -> torch.Tensor:
            logits = engine.logits(texts, rows, np.random.default_rng(seed))
            return F.cross_entropy(logits, labels)

        trained = [one.tensor for one in engine.trainables()]
        slope, quotient = along_a_direction(loss, trained, 4e-5)
        apart.append(abs(quotient - slope) / abs(slope))
    # Now and then a step meets a corner of DistilBERT's head.
    assert np.median(apart) < 0.02


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("roberta", ("query",)),
        ("bert", ("all",)),
        ("distilbert", ("all",)),
        ("modernbert", ("all",)),
        ("modernbert with mean", ("all",)),
    ],
)
@pytest.mark.parametrize("layers", [(2, 3), (3,), (1,)])
def test_cached_prefix_equals_computed_prefix(base_of, family, targets, layers):
    engine, _ = both(base_of(family), Selection(targets, layers, 4, {}, "none", "full"))
    texts, rows = texts_of(RAGGED), np.array([6, 1, 0, 4])
    prepared = engine.prepare(texts, "texts")
    assert type(prepared) is not type(texts)
    logits, gradients = gradients_of(engine, prepared, rows)
    expected, expected_gradients = gradients_of(engine, texts, rows)
    assert float((logits - expected).abs().max()) < 1e-5
    assert largest_difference(gradients, expected_gradients) < 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layers", [(2, 3), ()])
def test_a_prefix_kept_where_it_is_computed_is_the_one_on_the_disk(
    base_of, precision, layers, monkeypatch
):
    selection = Selection(("query",), layers, 4, {}, "none", "full")
    low_rank = LowRank(16, 0.0, False)
    engine = paths.fresh(
        base_of("roberta", precision),
        selection,
        low_rank,
        NO_DROPOUT,
        seed=3,
        force_reference=False,
    )
    texts, rows = texts_of(RAGGED), np.array([6, 1, 0, 4])
    monkeypatch.setattr(frozen, "has_room", lambda kept, size: True)
    found = []
    for devices in ((), (engine.device.type,)):
        monkeypatch.setattr(frozen, "KEEP", devices)
        prepared = engine.prepare(texts, "texts")
        found.append((type(prepared.rows), *gradients_of(engine, prepared, rows)))
    (on_disk, logits, gradients), (kept, others, other_gradients) = found
    assert issubclass(on_disk, np.ndarray)
    assert issubclass(kept, torch.Tensor)
    # These few texts are one pass for both.
    assert torch.equal(logits, others)
    assert largest_difference(gradients, other_gradients) == 0


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("head", ["full", "output"])
def test_where_only_the_head_trains_one_vector_a_text_is_kept(base_of, family, head):
    """PEFT knows no adapter without updates; fresh updates, which are zero, stand in for it."""
    low_rank, texts, rows = LowRank(16, 0.0, False), texts_of(RAGGED), np.array([3, 0, 1, 6])
    engine, reference = (
        paths.fresh(
            base_of(family),
            Selection(("all",), layers, 4, {}, "none", head),
            low_rank,
            NO_DROPOUT,
            seed=3,
            force_reference=forced,
        )
        for layers, forced in (((), False), ((3,), True))
    )
    prepared = engine.prepare(texts, "texts")
    assert prepared.rows.shape == (len(texts), 32)
    expected, expected_gradients = gradients_of(reference, texts, rows)
    names = {one.name for one in engine.trainables()}
    assert names == {one.name for one in reference.trainables() if one.part == "head"}
    for source in (prepared, texts):
        logits, gradients = gradients_of(engine, source, rows)
        assert float((logits - expected).abs().max()) < 1e-5
        assert set(gradients) == names
        assert largest_difference(gradients, expected_gradients) < 1e-5


def test_the_cache_tells_configurations_apart_that_share_their_weights(base_of, tmp_path):
    """Other numbers in config.json make other hidden states of the same weights."""
    base = base_of("roberta")
    folder = tmp_path / "model"
    shutil.copytree(base.checkpoint.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 2}))
    checkpoint = checkpoints.locate(str(folder), None, weights=True)
    other = replace(base, checkpoint=checkpoint, shape=read_shape(checkpoint, CLASSES))
    selection = Selection(("query",), (2, 3), 4, {}, "none", "full")
    texts, rows = texts_of(RAGGED), np.arange(len(RAGGED))
    for one in (base, other):
        engine, _ = both(one, selection)
        with torch.no_grad():
            cached = engine.logits(engine.prepare(texts, "texts"), rows, None)
            computed = engine.logits(texts, rows, None)
        assert float((cached - computed).abs().max()) < 1e-5


@pytest.mark.parametrize("family", ALL)
def test_bfloat16_is_no_further_from_float32_than_transformers_is(base_of, family):
    # All layers: where a prefix is frozen, the cache rounds the stream once more.
    selection = Selection(("all",), (0, 1, 2, 3), 4, {}, "none", "full")
    exact, _ = both(base_of(family), selection)
    engine, reference = both(base_of(family, "bfloat16"), selection)
    more = []
    for seed in range(8):
        texts = texts_of([20, 33, 5, 19, 40, 62, 11, 27] * 8, seed)
        rows = np.arange(len(texts))
        logits, _ = gradients_of(exact, texts, rows)
        own, other = (
            float((gradients_of(one, texts, rows)[0] - logits).square().mean().sqrt())
            for one in (engine, reference)
        )
        assert own > 0
        more.append(own / other - 1)
    # With ModernBERT it is chance which of the two is nearer on a batch.
    by_chance = min(0.1, 2 * np.std(more, ddof=1) / len(more) ** 0.5)
    assert np.mean(more) <= (by_chance if family in MODERN_MODELS else 0.0), more


def test_dropout_keeps_the_mean_and_differs_by_stream(base_of):
    selection = Selection(("query", "value"), (2, 3), 4, {}, "none", "full")
    engine, _ = both(
        base_of("roberta"), selection, Dropouts(0.1, 0.0, prefix=False), LowRank(16, 0.05, False)
    )
    texts, rows = texts_of([12] * 6), np.arange(6)
    with torch.no_grad():
        plain = engine.logits(texts, rows, None)
        drawn = torch.stack(
            [engine.logits(texts, rows, np.random.default_rng(seed)) for seed in range(300)]
        )
        again = engine.logits(texts, rows, np.random.default_rng(7))
    assert torch.equal(drawn[7], again)
    assert float((drawn[7] - drawn[8]).abs().max()) > 1e-3
    spread = drawn.std(0) / len(drawn) ** 0.5
    assert float(((drawn.mean(0) - plain).abs() / spread).median()) < 6


def test_without_prefix_dropout_only_trained_layers_drop_out(base_of):
    """The top layer alone trains: its dropout leaves what stands below as it is."""
    selection = Selection(("query",), (3,), 4, {}, "none", "full")
    texts, rows = texts_of([12] * 6), np.arange(6)
    seen = []

    def layer_outputs(dropouts) -> list[torch.Tensor]:
        _, reference = both(base_of("roberta"), selection, dropouts)
        layers = reference._model.get_submodule("base_model.model.roberta.encoder.layer")
        hooks = [layer.register_forward_hook(lambda *a: seen.append(a[2])) for layer in layers]
        with torch.no_grad():
            reference.logits(texts, rows, np.random.default_rng(0))
            reference.logits(texts, rows, None)
        for hook in hooks:
            hook.remove()
        found, seen[:] = list(seen), []
        return [(a - b).abs().max() for a, b in zip(found[:4], found[4:], strict=True)]

    textbook = layer_outputs(Dropouts(0.1, 0.0, prefix=True))
    frozen_dry = layer_outputs(Dropouts(0.1, 0.0, prefix=False))
    assert min(textbook) > 1e-3
    assert max(frozen_dry[:3]) == 0.0 < frozen_dry[3]


@pytest.mark.parametrize(
    ("change", "dropouts", "why"),
    [
        ({"bias": "all"}, NO_DROPOUT, "biases are trained"),
        ({}, Dropouts(0.0, 0.1, prefix=False), "attention probabilities drop out"),
        ({}, Dropouts(0.0, None, prefix=False), "attention probabilities drop out"),
    ],
)
def test_what_the_engine_leaves_to_the_reference(base_of, change, dropouts, why):
    from budgerigar.encoder.families import obstacle

    base = base_of("roberta")
    selection = replace(Selection(("query",), (2, 3), 4, {}, "none", "full"), **change)
    assert obstacle(base.checkpoint, base.shape, selection, dropouts) == why
    low_rank = LowRank(16, 0.0, False)
    made = paths.fresh(base, selection, low_rank, dropouts, seed=1, force_reference=False)
    assert made.path == "reference"
