"""Whole rounds of a cohort as CUDA graphs: a step of small batches is hundreds of kernels of a
few microseconds, and starting them one by one takes many times longer than their work.

A round of a shape is computed as usual when it first comes up, recorded when it does so again,
and replayed from then on. What changes from round to round lies where the graph finds it: the
numbers of the texts, the rates, and the seed of the dropout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from budgerigar.encoder import engine
from budgerigar.encoder.engine import PackedClassifier
from budgerigar.encoder.fixed import DeviceTexts, FixedBatch, Shape
from budgerigar.encoder.interface import Encoder, Tokens
from budgerigar.training.optimizer import CAPTURABLE, Together, name_of

CLIP_EPSILON = 1e-6
"""Added to a norm that divides, as `torch.nn.utils.clip_grad_norm_` does."""


@dataclass(frozen=True)
class Step:
    """A run's part of a round.

    Attributes:
        encoder: the run's.
        optimizer: over what trains.
        tensors: what trains.
        loss: mean loss from logits `[B, C]` and labels `[B]`, weighted by class.
        clip: the largest norm of the gradients; infinite where they are not clipped.
        pace: runs with equal ones have the same share of their peak rates in every round.
    """

    encoder: Encoder
    optimizer: torch.optim.Optimizer
    tensors: Sequence[torch.nn.Parameter]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    clip: float
    pace: Hashable


@dataclass
class _Recorded:
    """A round of a shape: its batch; once recorded, its graph and where that puts its figures."""

    batch: FixedBatch
    graph: torch.cuda.CUDAGraph | None = None
    figures_2N: torch.Tensor | None = None


class Figures:
    """Each run's mean loss in a round, and the norm of its gradients before clipping.

    Args:
        figures_2N: where the GPU puts all losses, then all norms; the next round may put others
            there.
    """

    def __init__(self, figures_2N: torch.Tensor) -> None:
        self._is_there: torch.cuda.Event | None = None
        if figures_2N.is_cuda:
            # Only from pinned memory do they come without a wait for what is asked after them.
            self._figures_2N = torch.empty(figures_2N.shape, pin_memory=True)
            self._figures_2N.copy_(figures_2N, non_blocking=True)
            self._is_there = torch.cuda.Event()
            self._is_there.record()
        else:
            self._figures_2N = figures_2N.clone()

    def read(self) -> list[tuple[float, float]]:
        """Waits for them."""
        if self._is_there is not None:
            self._is_there.synchronize()
        losses_N, norms_N = self._figures_2N.chunk(2)
        return list(zip(losses_N.tolist(), norms_N.tolist(), strict=True))


class GraphedRounds:
    """Rounds of runs over one base, each with a batch of its own.

    Args:
        steps: the runs.
        texts: as `texts_for` gives them.
        labels: class of each text, int64 `[B]`.
    """

    def __init__(self, steps: Sequence[Step], texts: DeviceTexts, labels: np.ndarray) -> None:
        self._steps, self._texts = steps, texts
        self._encoders = [one.encoder for one in steps if isinstance(one.encoder, PackedClassifier)]
        device = texts.rows.device
        self._labels_B = torch.from_numpy(labels).to(device)
        self._clips_N = torch.tensor([one.clip for one in steps], device=device)
        alike: dict[Hashable, list[torch.optim.Optimizer]] = {}
        for one in steps:
            alike.setdefault((type(one.optimizer), one.pace), []).append(one.optimizer)
        self._optimizers = [Together(some) for some in alike.values()]
        self._stream = torch.Generator(device)
        self._pool: Any = None
        self._recorded: dict[Shape, _Recorded] = {}

    def step(self, rows_NB: np.ndarray, seed: int) -> Figures:
        """Has the GPU take a step of every run, after those before; does not wait for it.

        Args:
            rows_NB: numbers of each run's texts, int64.
            seed: of the round's dropout.
        """
        shape = self._texts.shape(rows_NB)
        is_new = shape not in self._recorded
        if is_new:
            self._recorded[shape] = _Recorded(FixedBatch(self._texts, shape))
        found = self._recorded[shape]
        found.batch.rows_NB.copy_(torch.from_numpy(rows_NB), non_blocking=True)
        self._stream.manual_seed(seed)
        if is_new:
            # A recording runs nothing, and must not meet what happens once only.
            return Figures(self._compute(found.batch))
        if found.graph is None or found.figures_2N is None:
            found.graph, found.figures_2N = self._record(found.batch)
        found.graph.replay()
        return Figures(found.figures_2N)

    def _record(self, batch: FixedBatch) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._stream)
        # One pool for all: they are replayed one after another, and nothing outlives a round.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            figures_2N = self._compute(batch)
        return graph, figures_2N

    def _compute(self, batch: FixedBatch) -> torch.Tensor:
        """A round: every run's loss, then every run's norm of gradients, `[2 * N]`."""
        labels_NB = self._labels_B[batch.rows_NB]
        for one in self._steps:
            one.optimizer.zero_grad(set_to_none=True)
        with _tensor_cores():
            logits = engine.fixed_logits(batch, self._encoders, self._stream)
            losses = [
                one.loss(logits_BC, labels_B)
                for one, logits_BC, labels_B in zip(self._steps, logits, labels_NB, strict=True)
            ]
            torch.autograd.backward(losses)
        norms_N = self._clip()
        for optimizer in self._optimizers:
            optimizer.step()
        return torch.cat([torch.stack([loss.detach() for loss in losses]), norms_N])

    def _clip(self) -> torch.Tensor:
        """Clips every run's gradients to its largest norm, as torch does for one (Pascanu et al.
        2013, arXiv:1211.5063, section 3.2); gives the norms before, `[N]`."""
        gradients = [
            [tensor.grad for tensor in one.tensors if tensor.grad is not None]
            for one in self._steps
        ]
        norms = torch.stack(torch._foreach_norm([one for own in gradients for one in own]))
        parts = norms.split([len(own) for own in gradients])
        norms_N = torch.stack([torch.linalg.vector_norm(part) for part in parts])
        shares_N = (self._clips_N / (norms_N + CLIP_EPSILON)).clamp(max=1.0)
        for own, share in zip(gradients, shares_N, strict=True):
            torch._foreach_mul_(own, share)
        return norms_N


@contextlib.contextmanager
def _tensor_cores() -> Iterator[None]:
    """Within, products of float32 round their factors to 10 bits and run on the tensor cores:
    what they work on comes from products of 16 bits, which have fewer."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def texts_for(steps: Sequence[Step], examples: Tokens) -> DeviceTexts | str:
    """The training texts as `GraphedRounds` takes them.

    Args:
        steps: every run that will train.
        examples: the training texts, prepared.

    Returns:
        Why rounds of these runs cannot be graphs, in words, where they cannot.
    """
    encoders = [one.encoder for one in steps if isinstance(one.encoder, PackedClassifier)]
    if len(encoders) < len(steps):
        return "transformers + PEFT computes"
    if len({id(encoder.base) for encoder in encoders}) > 1:
        return "the runs have different bases"
    if others := {name_of(one.optimizer) for one in steps} - set(CAPTURABLE):
        return f"the step of {', '.join(sorted(others))} cannot be recorded"
    return engine.texts_on_device(examples, encoders[0].base.encoder)
