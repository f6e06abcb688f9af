"""Dropout masks, cheaply: on the CPU random bytes from one stream a run, compared with a
threshold; on a GPU one kernel draws each mask, and in rounds that are recorded kernels compare
bytes themselves.

A stream is made anew for every step from the run's seed and the step's number, so that a
run that goes on from a checkpoint needs no state of it, and runs of a cohort do not touch
each other's, but for those of a graph on a GPU, which share one. Drawing bytes makes every
rate a multiple of 1/256; what is kept is scaled by the rate that was really used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

VALUES = 256
"""Of a byte."""

Stream = np.random.Generator | torch.Generator
"""Draws the dropout of a step: a run's own, or on a GPU one for all runs of a batch of fixed
shapes, where the draws are part of a CUDA graph."""


@dataclass(frozen=True)
class Dropouts:
    """Rates asked for.

    Attributes:
        hidden: of hidden states and head; None keeps the checkpoint's.
        attention: of attention probabilities; None keeps the checkpoint's.
        prefix: whether frozen layers drop out in training too.
    """

    hidden: float | None
    attention: float | None
    prefix: bool


def stream(*numbers: int) -> np.random.Generator:
    """The generator of one forward pass, from numbers such as seed and step."""
    return np.random.Generator(np.random.SFC64(numbers))


def keep_scale(rate: float) -> float:
    """By which values that are kept must grow, so that their mean stays."""
    return VALUES / (VALUES - _dropped(rate))


def keep_mask(
    generator: Stream,
    rows: int,
    width: int,
    rate: float,
    device: torch.device,
    number_type: torch.dtype,
) -> torch.Tensor | None:
    """A mask `[rows, width]` for `masked`; None where every value is kept.

    On the CPU int8, all bits set where a value is kept and none where it is dropped; on a GPU of
    the products' number type, 1 where it is kept: one kernel draws it, and one of a single type
    applies it.
    """
    dropped = _dropped(rate)
    if dropped == 0:
        return None
    if isinstance(generator, np.random.Generator) and device.type == "cuda":
        generator = torch.Generator(device).manual_seed(int(generator.integers(2**63)))
    if isinstance(generator, torch.Generator):
        keep = torch.empty((rows, width), dtype=number_type, device=device)
        return keep.bernoulli_(1 - dropped / VALUES, generator=generator)
    words = generator.bit_generator.random_raw(-(-rows * width // 8))
    # numpy compares bytes ten times as fast as torch does.
    kept = words.view(np.uint8)[: rows * width] >= dropped
    return torch.from_numpy(kept).view(rows, width).view(torch.int8).neg_()


@dataclass(frozen=True)
class Drawn:
    """What kernels that apply dropout themselves read.

    Attributes:
        bytes_TD: random, uint8; those below `dropped` drop their values.
        dropped: one of `VALUES`.
    """

    bytes_TD: torch.Tensor
    dropped: int


def random_bytes(
    generator: torch.Generator, rows: int, width: int, device: torch.device
) -> torch.Tensor:
    """Random bytes for kernels, uint8 `[rows, width]`."""
    # Eight at once: a byte by itself costs a GPU as much as a word.
    words = torch.empty(-(-rows * width // 8), dtype=torch.int64, device=device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[: rows * width].view(rows, width)


def drawn_by(bytes_TD: torch.Tensor | None, rate: float) -> Drawn | None:
    """Dropout of a rate from random bytes; None where every value is kept."""
    dropped = _dropped(rate)
    return None if bytes_TD is None or dropped == 0 else Drawn(bytes_TD, dropped)


def all_kept(like: torch.Tensor, rows: int) -> torch.Tensor:
    """A mask of another height that keeps everything."""
    return like.new_full((rows, like.shape[1]), -1 if like.dtype == torch.int8 else 1)


def masked(x: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """`x` where it is kept, zero elsewhere; differentiable."""
    if keep is None:
        return x
    kept: torch.Tensor = _Masked.apply(x, keep)  # type: ignore[no-untyped-call]
    return kept


class _Masked(torch.autograd.Function):
    """Clears the bits of what is dropped: on the CPU several times as fast as a product with a
    mask."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(keep)
        return _cleared(x, keep)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (keep,) = ctx.saved_tensors
        return _cleared(gradients[0].contiguous(), keep), None


def _cleared(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    if keep.dtype != torch.int8:
        return x * keep
    number = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return keep.to(number).bitwise_and_(x.view(number)).view(x.dtype)


def _dropped(rate: float) -> int:
    """How many of `VALUES` are dropped: the nearest, but never none where some are asked for."""
    return 0 if rate == 0.0 else min(VALUES - 1, max(1, round(rate * VALUES)))
