"""What every packed encoder is: frozen layers over tokens without padding, shared by all runs
over it; each run brings updates, a head and a stream of dropout of its own.

Shape letters: B texts, T packed tokens of all runs, D hidden width, I inputs, C classes.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.encoder.attention import Ragged
from budgerigar.encoder.device_shares import DeviceShares
from budgerigar.encoder.dropout import (
    VALUES,
    Drawn,
    Stream,
    all_kept,
    drawn_by,
    keep_mask,
    keep_scale,
    masked,
    random_bytes,
)
from budgerigar.encoder.lora import EqualShares, Factors, Kept, Shares, Use

Head = Mapping[str, torch.Tensor]
"""Tensors of a head, float32, by module path and part, such as `classifier.dense.weight`."""


@dataclass(frozen=True)
class Member:
    """A run's part of a batch. All members together, in their order, have all of its rows.

    Attributes:
        updates: its low-rank updates by layer and matrix.
        tokens, texts: its rows among tokens, idle ones among them, and among texts.
        shares: where the device alone knows which tokens are whose, those of all members, each of
            whom has all rows for its `tokens` then.
        stream: draws its dropout, of all members where it is torch's; None computes without.
        lowest: layer from which hidden states drop out, -1 for the embeddings too: below, a
            cohort's other runs may train, but for this one the layers are a frozen prefix.
    """

    updates: Mapping[tuple[int, str], Factors]
    tokens: slice
    texts: slice
    stream: Stream | None
    lowest: int
    shares: DeviceShares | None = None

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
        takes_fixed_shapes: whether it computes batches that `fixed` made.
    """

    takes_fixed_shapes = False
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
    def logits(self, pooled_BD: torch.Tensor, head: Head, stream: Stream | None) -> torch.Tensor:
        """The head on a run's texts, `[B, C]`. Where fixed shapes are taken, also the heads of
        several runs that are alike, stacked, on their texts `[N, B, D]`."""

    def uses(
        self, number: int, names: Sequence[str], members: Sequence[Member], of_texts: bool
    ) -> list[Use]:
        """The updates at work on one product, whose outputs are those of `names` in order."""
        uses, first = [], 0
        drawn: dict[int, torch.Tensor] = {}
        for some in _side_by_side(members):
            # Runs side by side whose updates are alike are multiplied together.
            for _, runs in itertools.groupby(some, lambda one: _kind(one, number, names)):
                own = list(runs)
                places = [at for at, name in enumerate(names) if (number, name) in own[0].updates]
                if places:
                    matrices = [(number, names[at]) for at in places]
                    uses.append(self._use(own, first, matrices, places, of_texts, drawn))
                first += len(own)
        return uses

    def _use(
        self,
        runs: Sequence[Member],
        first: int,
        matrices: Sequence[tuple[int, str]],
        places: Sequence[int],
        of_texts: bool,
        drawn: dict[int, torch.Tensor],
    ) -> Use:
        """Updates of runs side by side, on the matrices at some places of a product; kernels read
        random bytes that are drawn once for all runs, by their width."""
        one, rows = runs[0].updates[matrices[0]], runs[0].rows(of_texts)
        (outputs, _), inputs = one.b_OR.shape, one.a_RI.shape[1]
        rows = slice(rows.start, runs[-1].rows(of_texts).stop)
        stream, height = runs[0].stream, rows.stop - rows.start
        shares: Shares = EqualShares(len(runs))
        keep_TI: Kept = None
        if runs[0].shares is not None and not of_texts:
            assert isinstance(stream, torch.Generator)
            shares = runs[0].shares.of(first, len(runs))
            if one.dropout and inputs not in drawn:
                drawn[inputs] = random_bytes(stream, height, inputs, self.device)
            keep_TI = drawn_by(drawn.get(inputs), one.dropout)
        elif stream is not None:
            keep_TI = self._mask(stream, height, inputs, one.dropout)
        return Use(
            factors=tuple(tuple(run.updates[matrix] for matrix in matrices) for run in runs),
            first=first,
            rows=rows,
            shares=shares,
            columns=tuple(slice(at * outputs, (at + 1) * outputs) for at in places),
            keep_TI=keep_TI,
            growth=1.0 if keep_TI is None else keep_scale(one.dropout),
        )

    def keep(
        self, number: int, members: Sequence[Member], rows: int, width: int, of_texts: bool
    ) -> tuple[torch.Tensor | None, float | torch.Tensor]:
        """The mask of a layer's hidden states, each run drawing its own rows, and by which
        what is kept must grow: a number, or one for each row where only some runs drop out.

        The rate is the base's, and so one for all runs.
        """
        places, masks = [], []
        for member in members:
            place = member.rows(of_texts)
            if member.stream is None or number < member.lowest:
                continue
            own = place.stop - place.start
            mask = self._mask(member.stream, own, width, self.hidden_dropout)
            if mask is not None:
                places.append(place)
                masks.append(mask)
        scale = keep_scale(self.hidden_dropout)
        if not masks:
            return None, 1.0
        if len(masks) == len(members):
            return masks[0] if len(masks) == 1 else torch.cat(masks), scale
        keep = all_kept(masks[0], rows)
        scales = torch.ones((rows, 1), device=self.device)
        for place, mask in zip(places, masks, strict=True):
            keep[place], scales[place] = mask, scale
        return keep, scales

    def drawn(
        self, number: int, members: Sequence[Member], rows: int, width: int, of_texts: bool
    ) -> tuple[Drawn | None, float | torch.Tensor]:
        """As `keep`, for kernels: one stream draws for all members, and what only some of them
        drop is kept in the rows of the others.

        Returns:
            The bytes, None where all is kept; a number, or one for each row, `[T, 1]`.
        """
        drops = [number >= member.lowest for member in members]
        if not any(drops) or not self.hidden_dropout:
            return None, 1.0
        stream, shares = members[0].stream, members[0].shares
        assert isinstance(stream, torch.Generator)
        assert shares is not None
        bytes_TD = random_bytes(stream, rows, width, self.device)
        scale = keep_scale(self.hidden_dropout)
        if all(drops):
            return drawn_by(bytes_TD, self.hidden_dropout), scale
        # One place more, for rows that belong to nobody.
        drops_N = torch.zeros(len(members) + 1, dtype=torch.bool, device=self.device)
        for place, drop in enumerate(drops):
            # An assignment would wait for the host, which a graph that is recorded cannot.
            drops_N[place].fill_(drop)
        row_T = torch.arange(rows, device=self.device)
        run_T = row_T // members[0].texts.stop
        if not of_texts:
            run_T = torch.searchsorted(shares.ends[1:], row_T, right=True)
        drops_T1 = drops_N[run_T][:, None]
        bytes_TD = torch.where(drops_T1, bytes_TD, VALUES - 1)
        return drawn_by(bytes_TD, self.hidden_dropout), torch.where(drops_T1, scale, 1.0)

    def drop(self, x: torch.Tensor, rate: float, stream: Stream | None) -> torch.Tensor:
        """Dropout of rows `[..., D]`, of one run or of several with one stream; as they are
        without a stream."""
        if stream is None:
            return x
        rows, width = x.numel() // x.shape[-1], x.shape[-1]
        keep = self._mask(stream, rows, width, rate)
        return x if keep is None else masked(x, keep.view(x.shape)) * keep_scale(rate)

    def _mask(self, stream: Stream, rows: int, width: int, rate: float) -> torch.Tensor | None:
        return keep_mask(stream, rows, width, rate, self.device, self.number_type)


def _side_by_side(members: Sequence[Member]) -> list[Sequence[Member]]:
    """Members whose dropout one stream draws have equally many texts, and go together."""
    if members and isinstance(members[0].stream, torch.Generator):
        return [members]
    return [[member] for member in members]


def _kind(member: Member, number: int, names: Sequence[str]) -> list[object]:
    """What runs must have in common to be multiplied together on one product."""
    updates = [member.updates.get((number, name)) for name in names]
    return [update and update.alike for update in updates]


def linear(x: torch.Tensor, head: Head, path: str) -> torch.Tensor:
    """A layer of a head, or of several that are stacked."""
    weight, bias = head[f"{path}.weight"], head.get(f"{path}.bias")
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    y = torch.bmm(x, weight.mT)
    return y if bias is None else y + bias[:, None]


def on_device(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    """Token numbers as a tensor to index with."""
    return torch.from_numpy(numbers.astype(np.int64)).to(device, non_blocking=True)
