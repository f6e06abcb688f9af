"""Features of texts: equal to transformers' mean-pooled states, kept, in the texts' order."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    DebertaV2Config,
    DebertaV2Model,
    ModernBertConfig,
    ModernBertModel,
)

from budgerigar.data.tokens import PackedTexts
from budgerigar.encoder.checkpoints import locate
from budgerigar.encoder.features import FeatureExtractor
from budgerigar.encoder.prefix import PrefixCache
from budgerigar.errors import ModelError
from conftest import tiny_tokenizer


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUDGERIGAR_CACHE", str(tmp_path / "cache"))


def some_texts(seed: int = 0, texts: int = 23) -> PackedTexts:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 30, texts)
    ids_T = draw.integers(5, 40, lengths.sum()).astype(np.int32)
    return PackedTexts(ids_T, np.concatenate([[0], np.cumsum(lengths)]), 0)


def expected(folder: Path, texts: PackedTexts, layers: tuple[int, ...]) -> np.ndarray:
    """One text at a time through transformers, nothing padded."""
    model = AutoModel.from_pretrained(folder).eval()
    rows = []
    for row in range(len(texts)):
        ids, _ = texts.batch(np.array([row]))
        with torch.no_grad():
            states = model(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states
        rows.append(np.concatenate([states[layer + 1][0].mean(0).numpy() for layer in layers]))
    return np.stack(rows)


@pytest.fixture(scope="session")
def modernbert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("modernbert")
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = ModernBertConfig(
        vocab_size=64, intermediate_size=48, pad_token_id=1, initializer_range=0.2, **sizes
    )
    ModernBertModel(config).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def deberta(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deberta")
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = DebertaV2Config(
        vocab_size=64, intermediate_size=48, pad_token_id=1, initializer_range=0.2, **sizes
    )
    DebertaV2Model(config).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.mark.parametrize("name", ["tiny", "modernbert", "deberta"])
def test_features_are_the_mean_of_each_texts_states(name, request):
    folder, texts = request.getfixturevalue(name), some_texts()
    extractor = FeatureExtractor(locate(str(folder), None, weights=True), "float32")
    layers = (0, extractor.depth - 1)
    found = extractor.features(texts, "texts", layers)
    assert found.dtype == np.float32
    assert found.shape == (23, 2 * extractor.width)
    np.testing.assert_allclose(found, expected(folder, texts, layers), atol=2e-5)


def test_features_come_from_the_cache_the_second_time(tiny, monkeypatch):
    texts, checkpoint = some_texts(), locate(str(tiny), None, weights=True)
    first = FeatureExtractor(checkpoint, "float32").features(texts, "texts")
    again = FeatureExtractor(checkpoint, "float32")
    monkeypatch.setattr(again, "_load", lambda: pytest.fail("computed again"))
    np.testing.assert_array_equal(again.features(texts, "texts"), first)
    assert (
        again.features(PackedTexts(np.empty(0, np.int32), np.zeros(1, int), 0), "no").shape[0] == 0
    )


def test_features_are_there_where_the_cache_has_no_room(tiny, monkeypatch, capsys):
    texts, checkpoint = some_texts(), locate(str(tiny), None, weights=True)
    first = FeatureExtractor(checkpoint, "float32").features(texts, "texts")
    monkeypatch.setenv("BUDGERIGAR_CACHE_BYTES", "10")
    other = some_texts(seed=1)
    found = FeatureExtractor(checkpoint, "float32").features(other, "texts")
    assert found.shape == first.shape
    assert "not kept" in capsys.readouterr().err


def test_a_layer_that_is_not_there_is_refused(tiny):
    extractor = FeatureExtractor(locate(str(tiny), None, weights=True), "float32")
    with pytest.raises(ModelError, match="no layer 4"):
        extractor.features(some_texts(), "texts", (4,))


def larger(folder: Path) -> None:
    """Other weights of the same shapes."""
    path = folder / "model.safetensors"
    save_file({name: 1.1 * x for name, x in load_file(path).items()}, path, {"format": "pt"})


def configured(folder: Path) -> None:
    """The same weights under another configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 0.5}))


@pytest.mark.parametrize("change", [larger, configured])
def test_another_model_of_the_same_shape_has_features_of_its_own(tiny, tmp_path, change):
    texts = some_texts()
    folder = shutil.copytree(tiny, tmp_path / "model")
    for _ in range(2):
        extractor = FeatureExtractor(locate(str(folder), None, weights=True), "float32")
        found = extractor.features(texts, "texts")
        np.testing.assert_allclose(
            found, expected(folder, texts, (extractor.depth - 1,)), atol=2e-5
        )
        change(folder)


@pytest.mark.parametrize(
    ("precision", "texts", "layers"),
    [
        ("bfloat16", some_texts(), (-1,)),
        ("float32", some_texts(seed=1), (-1,)),
        ("float32", replace(some_texts(), ids_T=44 - some_texts().ids_T), (-1,)),
        ("float32", some_texts(), (0,)),
    ],
    ids=["number type", "texts", "as many tokens", "layers"],
)
def test_features_of_anything_else_are_computed(tiny, precision, texts, layers):
    checkpoint = locate(str(tiny), None, weights=True)
    first = FeatureExtractor(checkpoint, "float32").features(some_texts(), "texts")
    other = FeatureExtractor(checkpoint, precision).features(texts, "texts", layers)
    assert np.abs(first - other).max() > 1e-4
    assert len(PrefixCache().entries()) == 2
