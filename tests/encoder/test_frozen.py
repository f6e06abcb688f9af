"""Where the texts of a batch stand, and what is kept of a frozen base's output for them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RobertaConfig, RobertaModel

from budgerigar import console
from budgerigar.data.tokens import PackedTexts
from budgerigar.encoder import frozen, paths, prefix
from budgerigar.encoder.checkpoints import locate
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.frozen import FrozenBase, PrefixedTexts
from budgerigar.encoder.prefix import FOLDER_VARIABLE, PrefixCache
from budgerigar.encoder.shape import read_shape

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=12)
DEPTH, LAYERS = 4, 2
TEXTS = PackedTexts(
    np.random.default_rng(0).integers(4, 50, 60).astype(np.int32), np.array([0, 20, 26, 45, 60]), 0
)
ALLOWED = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
"""Difference of what is kept from what is computed anew, values being about 1."""


@given(
    runs=st.lists(LENGTHS, min_size=1, max_size=4),
    multiple=st.sampled_from([1, 8, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_run_has_whole_rows_of_its_own_and_its_texts_in_order(runs, multiple, seed):
    lengths = np.array([length for own in runs for length in own])
    numbers = np.random.default_rng(seed).permutation(len(lengths))
    ends = np.cumsum([len(own) for own in runs])[:-1]
    batch = frozen.pack(np.split(numbers, ends), lengths, multiple)
    first = row = 0
    for texts, rows, (same, filled) in zip(
        batch.texts, batch.rows, batch.texts_rows(), strict=True
    ):
        own = lengths[texts]
        assert same is texts
        assert rows.start == filled.start == row
        assert filled.stop == row + own.sum()
        assert rows.stop - filled.stop < max(multiple, own.sum() / 16 if multiple > 1 else 0)
        assert (rows.stop - rows.start) % multiple == 0
        last = first + len(texts)
        assert batch.lengths_B[first:last].tolist() == own.tolist()
        assert batch.starts_B[first:last].tolist() == (row + np.cumsum(own) - own).tolist()
        first, row = last, rows.stop
    assert batch.all_rows == row


@pytest.mark.parametrize(
    ("filled", "multiple", "rows"),
    [
        (1, 32, 32),
        (33, 32, 64),
        (1024, 32, 1024),
        (1025, 32, 1088),
        (1089, 32, 1152),
        (2048, 32, 2048),
        (2049, 32, 2176),
        (3969, 32, 4096),
        (2049, 1, 2049),
    ],
)
def test_runs_with_many_rows_have_few_different_numbers_of_them(filled, multiple, rows):
    batch = frozen.pack([np.array([0])], np.array([filled]), multiple)
    assert batch.rows == (slice(0, rows),)


# What is kept


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "cache"))


def written(folder: Path, seed: int = 0, **fields) -> Path:
    """Writes a random checkpoint; gives its folder."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "type_vocab_size": 1}
    config = RobertaConfig(
        **sizes, num_hidden_layers=DEPTH, num_attention_heads=4, initializer_range=0.2, **fields
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


def loaded(
    folder: Path,
    precision: str = "float32",
    classes: int = 4,
    dropouts: Dropouts = paths.KEPT_DROPOUTS,
) -> FrozenBase:
    """A base on the CPU."""
    checkpoint = locate(str(folder), None, weights=True)
    shape, device = read_shape(checkpoint, classes), torch.device("cpu")
    base = paths.Base(checkpoint, shape, classes, precision, device, checkpoint.sha256())
    return paths.load_base(base, dropouts).frozen


def states(base: FrozenBase, texts: PackedTexts = TEXTS) -> torch.Tensor:
    """What the cache gives for texts, `[T, D]`: it is what the base computes without."""
    prepared = base.prepare(texts, LAYERS, "texts")
    assert isinstance(prepared, PrefixedTexts)
    everyone, rows = [np.arange(len(texts))], int(texts.offsets[-1])
    kept, _ = base.stored(prepared, base.pack(prepared, everyone))
    computed, _ = base.compute(texts, base.pack(texts, everyone), LAYERS)
    allowed = ALLOWED[base.precision]
    torch.testing.assert_close(kept[:rows], computed[:rows], rtol=0, atol=allowed)
    return kept[:rows]


def compute_no_more(monkeypatch) -> None:
    """From here on an entry is found, or the test fails."""
    monkeypatch.setattr(prefix, "compute_rows", lambda *_: pytest.fail("computed"))


@pytest.mark.parametrize(
    "change", [{}, {"classes": 7}, {"dropouts": Dropouts(0.3, 0.2, prefix=False)}]
)
def test_what_a_base_does_not_compute_with_tells_no_entries_apart(change, tmp_path, monkeypatch):
    """Its folder, the number of classes and the rates of dropout."""
    first = states(loaded(written(tmp_path / "one")))
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    compute_no_more(monkeypatch)
    assert torch.equal(states(loaded(tmp_path / "other", **change)), first)


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ({"seed": 1}, "bfloat16"),
        ({"layer_norm_eps": 0.5}, "bfloat16"),
        ({}, "float16"),
        ({}, "float32"),
    ],
    ids=["weights", "configuration", "float16", "float32"],
)
def test_bases_that_compute_otherwise_have_entries_of_their_own(
    model, precision, tmp_path, monkeypatch
):
    """Those of bfloat16 and float16 have one size."""
    bases = [
        loaded(written(tmp_path / "one"), "bfloat16"),
        loaded(written(tmp_path / "other", **model), precision),
    ]
    first, other = (states(base) for base in bases)
    assert len(PrefixCache().entries()) == 2
    # Number types alone give nearly the same.
    assert bool((first - other).abs().max() > 2 * ALLOWED["bfloat16"]) == bool(model)
    compute_no_more(monkeypatch)
    assert torch.equal(states(bases[0]), first)
    assert torch.equal(states(bases[1]), other)


@pytest.mark.parametrize(
    "texts",
    [
        replace(TEXTS, ids_T=53 - TEXTS.ids_T),
        replace(TEXTS, offsets=np.array([0, 6, 26, 45, 60])),
    ],
    ids=["ids", "bounds"],
)
def test_as_many_other_texts_have_an_entry_of_their_own(texts, tmp_path, monkeypatch):
    base = loaded(written(tmp_path / "model"))
    first, other = states(base), states(base, texts)
    assert len(PrefixCache().entries()) == 2
    compute_no_more(monkeypatch)
    assert torch.equal(states(base), first)
    assert torch.equal(states(base, texts), other)


def test_another_device_does_not_read_what_this_one_computed(tmp_path, monkeypatch):
    base = loaded(written(tmp_path / "model"))
    states(base)
    monkeypatch.setattr(frozen, "KEEP", ())
    compute_no_more(monkeypatch)
    base.prepare(TEXTS, LAYERS, "texts")
    base.encoder.device = torch.device("cuda")
    with pytest.raises(pytest.fail.Exception, match="computed"):
        base.prepare(TEXTS, LAYERS, "texts")


@pytest.mark.parametrize("keep", [(), ("cpu",)], ids=["on the disk", "on the device"])
def test_computing_frozen_layers_shows_progress(keep, tmp_path, monkeypatch, capfd):
    base = loaded(written(tmp_path / "model"))
    monkeypatch.setattr(frozen, "KEEP", keep)
    monkeypatch.setattr(frozen, "has_room", lambda *_: True)
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    base.prepare(TEXTS, LAYERS, "the texts")
    assert "frozen layers of the texts 4/4    0 s left\n" in capfd.readouterr().err


@pytest.mark.parametrize(("layers", "times"), [(1, "1.2"), (2, "1.5"), (3, "2.5")])
def test_without_room_on_the_disk_it_is_said_how_long_an_epoch_takes(
    layers, times, tmp_path, monkeypatch, capfd
):
    """A frozen layer goes forwards, a trained one backwards too."""
    base = loaded(written(tmp_path / "model"))
    monkeypatch.setattr(prefix.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    capfd.readouterr()
    assert base.prepare(TEXTS, layers, "texts") is TEXTS
    why, times_as_long = capfd.readouterr().err.splitlines()
    assert "has 0 bytes free; every epoch computes it again" in why
    assert times_as_long == f"an epoch takes about {times} times as long for that"
