"""Runs that compute together: packed ones over one frozen base in one pass, others by turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from budgerigar.encoder import engine
from budgerigar.encoder.engine import PackedClassifier, Share
from budgerigar.encoder.interface import Encoder, Tokens

JOINED_TOKENS = {"cpu": 4_096, "cuda": 65_536}
"""Tokens of several runs' batches that go through the layers together at most; one run's may have
more. On the CPU few enough for what stands between two products to stay in its caches."""


@dataclass(frozen=True)
class Batch:
    """A run's next texts.

    Attributes:
        encoder: the run's.
        rows: which texts, in their order.
        dropout: draws the dropout of a training step; None computes without.
    """

    encoder: Encoder
    rows: np.ndarray
    dropout: np.random.Generator | None


def prepare(encoders: Sequence[Encoder], texts: Tokens, label: str) -> Tokens:
    """Texts that all runs will read again and again, with what can be computed once for all.

    Args:
        encoders: the runs', of one base.
        texts: the texts.
        label: names them in the progress display.
    """
    packed = [one for one in encoders if isinstance(one, PackedClassifier)]
    if len(packed) == len(encoders):
        return engine.prepare(packed, texts, label)
    return encoders[0].prepare(texts, label)


def passes(texts: Tokens, batches: Sequence[Batch]) -> Iterator[slice]:
    """Which batches go through the layers together, one slice after another."""
    lengths, first, tokens = np.diff(texts.offsets), 0, 0
    for number, batch in enumerate(batches):
        more = int(lengths[batch.rows].sum())
        if number > first and not _fit(batches[first], batch, tokens + more):
            yield slice(first, number)
            first, tokens = number, 0
        tokens += more
    yield slice(first, len(batches))


def logits(texts: Tokens, batches: Sequence[Batch]) -> list[torch.Tensor]:
    """Logits `[B, C]`, float32, of each batch of one of the slices that `passes` gave."""
    shares = [
        Share(batch.encoder, batch.rows, batch.dropout)
        for batch in batches
        if isinstance(batch.encoder, PackedClassifier)
    ]
    if len(shares) == len(batches):
        return engine.logits(texts, shares)
    return [batch.encoder.logits(texts, batch.rows, batch.dropout) for batch in batches]


def _fit(one: Batch, other: Batch, tokens: int) -> bool:
    """Whether two batches can share a pass of so many tokens."""
    if not isinstance(one.encoder, PackedClassifier):
        return False
    if not isinstance(other.encoder, PackedClassifier):
        return False
    return one.encoder.base is other.encoder.base and (
        tokens <= JOINED_TOKENS[one.encoder.device.type]
    )
