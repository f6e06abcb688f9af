"""How texts are scored: in batches of like length, in their own order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from budgerigar import predict
from budgerigar.data.tokens import PackedTexts
from budgerigar.encoder import frozen, hardware


class Recorder:
    """An encoder whose logits are each text's number; it notes what is asked of it."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def logits(self, texts: PackedTexts, rows: np.ndarray, dropout: None) -> torch.Tensor:
        self.asked.append(rows.tolist())
        return torch.from_numpy(rows)[:, None].float()


def of_lengths(*lengths: int) -> PackedTexts:
    return PackedTexts(
        np.zeros(sum(lengths), np.int32), np.cumsum([0, *lengths], dtype=np.int64), 0
    )


def test_a_batch_holds_so_many_texts_and_so_many_tokens_at_most(monkeypatch):
    monkeypatch.setitem(frozen.PASS_TOKENS, "cpu", 20)
    encoder = Recorder()
    found = predict.packed_logits(encoder, of_lengths(3, 50, 9, 0, 8, 1, 2), 4, "texts")
    assert encoder.asked == [[1], [2, 4], [0, 6, 5, 3]]
    assert found.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_batches_of_long_texts_are_halved_until_they_fit(monkeypatch):
    monkeypatch.setitem(frozen.PASS_TOKENS, "cpu", 20)
    encoder = Recorder()
    predict.packed_logits(encoder, of_lengths(*[4] * 5, *[1] * 7), 6, "texts")
    assert [len(rows) for rows in encoder.asked] == [3, 3, 6]


def test_only_the_first_texts_where_that_is_asked():
    encoder = Recorder()
    assert len(predict.packed_logits(encoder, of_lengths(3, 5, 9, 1), 64, "texts", 2)) == 2
    assert encoder.asked == [[1, 0]]


def test_memory_that_others_left_is_given_back_before_and_after(monkeypatch):
    order = []
    encoder = SimpleNamespace(device=torch.device("cpu"))
    encoder.logits = lambda *_, **__: order.append("logits") or torch.zeros(1, 2)
    monkeypatch.setattr(hardware, "give_back_freed_memory", lambda: order.append("given back"))
    predict.packed_logits(encoder, of_lengths(3), 64, "texts")
    assert order == ["given back", "logits", "given back"]
