"""What every packed encoder is: frozen layers over tokens without padding, shared by all runs
over it; each run brings updates, a head and a stream of dropout of its own.

Shape letters: B texts, T packed tokens of all runs, D hidden width, I inputs, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.encoder.attention import Ragged
from budgerigar.encoder.dropout import keep_mask, keep_scale, masked
from budgerigar.encoder.lora import Factors, Use

Head = Mapping[str, torch.Tensor]
"""Tensors of a head, float32, by module path and part, such as `classifier.dense.weight`."""


@dataclass(frozen=True, eq=False)
class Member:
    """A run's part of a batch.

    Attributes:
        updates: its low-rank updates by layer and matrix.
        tokens, texts: its rows among tokens and texts.
        stream: draws its dropout; None computes without.
        lowest: layer from which hidden states drop out, -1 for the embeddings too: below, a
            cohort's other runs may train, but for this one the layers are a frozen prefix.
    """

    updates: Mapping[tuple[int, str], Factors]
    tokens: slice
    texts: slice
    stream: np.random.Generator | None
    lowest: int

    def rows(self, of_texts: bool) -> slice:
        """Its rows of a tensor that has a row for each text, or for each token."""
        return self.texts if of_texts else self.tokens


class PackedEncoder(ABC):
    """A frozen encoder, shared by all runs over it.

    Attributes:
        depth: number of layers.
        width: D.
        number_type: of the products.
        device: where it computes.
        hidden_dropout: rate of dropout of hidden states in training.
        padding: id of the padding token.
    """

    depth: int
    width: int
    number_type: torch.dtype
    device: torch.device
    hidden_dropout: float
    padding: int

    @abstractmethod
    def embed(
        self, ids_T: np.ndarray, where: Ragged, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """What enters layer 0, `[T, D]` float32.

        Args:
            ids_T: token ids, `padding` in idle rows.
            where: the texts.
            members: the runs, in the order of their rows; none computes without updates and
                dropout.
        """

    @abstractmethod
    def run_layers(
        self, hidden_TD: torch.Tensor, where: Ragged, layers: range, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """Goes through some layers with every token, `[T, D]`."""

    @abstractmethod
    def run_last_layer(
        self, hidden_TD: torch.Tensor, where: Ragged, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """What the head reads of each text, after the last layer, `[B, D]` float32."""

    @abstractmethod
    def logits(
        self, pooled_BD: torch.Tensor, head: Head, stream: np.random.Generator | None
    ) -> torch.Tensor:
        """The head on a run's texts, `[B, C]`."""

    def uses(
        self, number: int, names: Sequence[str], members: Sequence[Member], of_texts: bool
    ) -> list[Use]:
        """The updates at work on one product, whose outputs are those of `names` in order."""
        uses = []
        for member in members:
            for place, name in enumerate(names):
                if (factors := member.updates.get((number, name))) is None:
                    continue
                rows = member.rows(of_texts)
                (outputs, _), inputs = factors.b_OR.shape, factors.a_RI.shape[1]
                keep_TI, scale = None, factors.scale
                if member.stream is not None and factors.dropout:
                    scale *= keep_scale(factors.dropout)
                    keep_TI = keep_mask(
                        member.stream,
                        rows.stop - rows.start,
                        inputs,
                        factors.dropout,
                        self.device,
                    )
                columns = slice(place * outputs, (place + 1) * outputs)
                uses.append(Use(factors, rows, columns, keep_TI, scale))
        return uses

    def keep(
        self, number: int, members: Sequence[Member], rows: int, width: int, of_texts: bool
    ) -> tuple[torch.Tensor | None, float | torch.Tensor]:
        """The mask of a layer's hidden states, each run drawing its own rows, and by which
        what is kept must grow: a number, or one for each row where only some runs drop out.

        The rate is the base's, and so one for all runs. Idle rows keep everything.
        """
        masks: dict[Member, torch.Tensor] = {}
        for member in members:
            own = member.rows(of_texts)
            if member.stream is not None and number >= member.lowest:
                size = own.stop - own.start
                mask = keep_mask(member.stream, size, width, self.hidden_dropout, self.device)
                if mask is not None:
                    masks[member] = mask
        scale = keep_scale(self.hidden_dropout)
        if not masks:
            return None, 1.0
        if len(members) == 1 and len(first := next(iter(masks.values()))) == rows:
            return first, scale
        keep = torch.full((rows, width), -1, dtype=torch.int8, device=self.device)
        scales = torch.ones((rows, 1), device=self.device)
        for member, mask in masks.items():
            keep[member.rows(of_texts)] = mask
            scales[member.rows(of_texts)] = scale
        return keep, scale if len(masks) == len(members) else scales

    def drop(
        self, x: torch.Tensor, rate: float, stream: np.random.Generator | None
    ) -> torch.Tensor:
        """Dropout of one run's rows; as they are without a stream."""
        keep = None if stream is None else keep_mask(stream, len(x), x.shape[1], rate, self.device)
        return x if keep is None else masked(x, keep) * keep_scale(rate)


def linear(x: torch.Tensor, head: Head, path: str) -> torch.Tensor:
    """A layer of a head."""
    return F.linear(x, head[f"{path}.weight"], head.get(f"{path}.bias"))


def on_device(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """Token numbers as a tensor to index with."""
    return torch.from_numpy(numbers.astype(np.int64)).to(device, non_blocking=True)
