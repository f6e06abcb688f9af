"""The packed engine against transformers + PEFT on a real pretrained encoder and real texts."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from budgerigar.data.tokens import PackedTexts
from budgerigar.encoder import checkpoints, hardware, paths
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import read_shape

CLASSES = 4
TEXTS = 24
SIX = ("query", "key", "value", "attention_output", "intermediate", "output")


@pytest.fixture(scope="module")
def base(shared, minilm, tmp_path_factory) -> paths.Base:
    """The six-layer RoBERTa that is made of the encoder from PyPI."""
    script = shared / "tools" / "roberta_from_minilm.py"
    if not script.is_file():
        pytest.skip(f"needs {script}, which is not here")
    folder = tmp_path_factory.mktemp("real") / "model"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    checkpoint = checkpoints.locate(str(folder), None, weights=True)
    shape = read_shape(checkpoint, CLASSES)
    return paths.Base(checkpoint, shape, CLASSES, "float32", hardware.device(), checkpoint.sha256())


@pytest.fixture(scope="module")
def packed(shared, base) -> PackedTexts:
    """News as they are."""
    with (shared / "data" / "agnews_train.csv").open(encoding="utf-8", newline="") as file:
        rows = [text for text, _ in islice(csv.reader(file), 1, TEXTS + 1)]
    tokenizer = AutoTokenizer.from_pretrained(base.checkpoint.folder)
    ids = [np.array(row, np.int32) for row in tokenizer(rows)["input_ids"]]
    lengths = [len(row) for row in ids]
    assert len(set(lengths)) > TEXTS // 3
    return PackedTexts(np.concatenate(ids), np.cumsum([0, *lengths]), cut=0)


def classifier(base, selection, *, reference: bool):
    """A classifier whose adapter is far from zero, the same on both paths."""
    encoder = paths.fresh(
        base,
        selection,
        LowRank(16, 0.0, False),
        Dropouts(0.0, 0.0, prefix=False),
        seed=3,
        force_reference=reference,
    )
    assert encoder.path == ("reference" if reference else "engine")
    generator = torch.Generator().manual_seed(5)
    encoder.load_state(
        {
            name: torch.randn(tensor.shape, generator=generator) * 0.02
            if name.endswith("lora_B.weight")
            else tensor
            for name, tensor in sorted(encoder.state().items())
        }
    )
    return encoder


def gradients_of(encoder, texts, rows):
    """Logits and every trainable gradient of one training step's loss."""
    logits_BC = encoder.logits(texts, rows, np.random.default_rng(0))
    labels_B = torch.arange(len(rows), device=logits_BC.device) % CLASSES
    F.cross_entropy(logits_BC, labels_B).backward()
    return logits_BC.detach(), {one.name: one.tensor.grad for one in encoder.trainables()}


def require_equal(found, expected) -> None:
    """Logits within 1e-5, gradients within 1e-5 of the largest gradient."""
    (logits, gradients), (expected_logits, expected_gradients) = found, expected
    assert float((logits - expected_logits).abs().max()) < 1e-5
    assert set(gradients) == set(expected_gradients)
    largest = max(float(one.abs().max()) for one in expected_gradients.values())
    assert largest > 1e-3
    for name, expected_gradient in expected_gradients.items():
        assert float((gradients[name] - expected_gradient).abs().max()) < 1e-5 * largest, name


@pytest.mark.parametrize(
    ("targets", "layers", "head"),
    [
        (("query", "value"), (4, 5), "full"),
        (SIX, (0, 1, 2, 3, 4, 5), "output"),
        (("key", "intermediate"), (5,), "full"),
    ],
)
def test_logits_and_gradients(base, packed, targets, layers, head):
    selection = Selection(targets, layers, 8, {layers[0]: 5}, "none", head)
    rows = np.random.default_rng(1).permutation(TEXTS)
    require_equal(
        gradients_of(classifier(base, selection, reference=False), packed, rows),
        gradients_of(classifier(base, selection, reference=True), packed, rows),
    )


@pytest.mark.parametrize("layers", [(4, 5), (5,)])
def test_cached_prefix_equals_computed_prefix(base, packed, layers):
    selection = Selection(("query", "value"), layers, 8, {}, "none", "full")
    rows = np.random.default_rng(2).permutation(TEXTS)
    cached, computed = (classifier(base, selection, reference=False) for _ in range(2))
    prepared = cached.prepare(packed, "texts")
    assert type(prepared) is not type(packed)
    require_equal(gradients_of(cached, prepared, rows), gradients_of(computed, packed, rows))


@pytest.mark.parametrize("layers", [(4, 5), (0, 1, 2, 3, 4, 5)])
def test_bfloat16_is_no_further_from_float32_than_transformers_is(base, packed, layers):
    """Where the processor has no bfloat16 too: it computes the same, only slowly."""
    selection = Selection(("query", "value"), layers, 8, {}, "none", "full")
    rows = np.arange(TEXTS // 2)
    sixteen = replace(base, precision="bfloat16")
    with torch.no_grad():
        exact = classifier(base, selection, reference=True).logits(packed, rows, None)
        engine, reference = (
            classifier(sixteen, selection, reference=forced).logits(packed, rows, None)
            for forced in (False, True)
        )
    errors = [float((found - exact).square().mean().sqrt()) for found in (engine, reference)]
    assert 0 < errors[0] <= errors[1], errors
