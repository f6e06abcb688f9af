"""Texts as an encoder sees them: their order, their lengths, which of them are cut."""

from __future__ import annotations

import numpy as np
import pytest

from budgerigar.audit import section
from budgerigar.audit.vectors import TextEncoder
from budgerigar.data import corpus
from budgerigar.data.corpus import Columns
from conftest import OTHER_WORDS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUDGERIGAR_CACHE", str(tmp_path / "cache"))


def read(path, texts):
    path.write_text("\n".join(["text", *texts]) + "\n", encoding="utf-8")
    columns = Columns(None, "label")
    return corpus.read(str(path), columns, classes=None, label_base=None, labelled=False).texts


def test_only_texts_above_the_limit_are_cut(tiny, tmp_path):
    word = OTHER_WORDS[0]
    encoder = TextEncoder(str(tiny), max_length=10)
    of_eight = " ".join([word] * 8)  # Two special tokens more.
    assert len(encoder._tokenizer(of_eight)["input_ids"]) == 10
    texts = read(tmp_path / "t.csv", [word, of_eight, f"{of_eight} {word}", word, of_eight * 9])
    found = encoder.encode(texts, "texts")
    assert found.lengths_B.tolist() == [3, 10, 10, 3, 10]
    assert found.cut.tolist() == [2, 4]
    np.testing.assert_allclose(found.vectors_BD[0], found.vectors_BD[3], atol=1e-5)
    assert found.vectors_BD.shape == (5, encoder.width)


def test_a_sample_of_the_training_texts_is_encoded_where_it_is_asked_for(
    tiny, tmp_path, monkeypatch
):
    from budgerigar.audit import shift

    monkeypatch.setattr(shift, "LARGEST_SAMPLE", 3)
    texts = read(tmp_path / "t.csv", [f"{word} {word}" for word in OTHER_WORDS[:6]])
    encoder = TextEncoder(str(tiny))
    every = section.encode(encoder, texts, "texts")
    some = section.encode(encoder, texts, "texts", np.random.default_rng(0))
    assert (len(every.texts), len(some.texts)) == (6, 3)
    assert every.last_layer_BD.shape == (6, encoder.width)
    places = [every.texts.index(text) for text in some.texts]
    np.testing.assert_allclose(some.vectors_BD, every.vectors_BD[places], atol=1e-2)
