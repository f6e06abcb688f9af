"""The packed encoder behind the encoder's interface: runs over one frozen base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from budgerigar.encoder import fused
from budgerigar.encoder.attention import Ragged
from budgerigar.encoder.fixed import DeviceTexts, FixedBatch
from budgerigar.encoder.frozen import FrozenBase, Packing, PrefixedTexts
from budgerigar.encoder.interface import Tokens, Trainable, require_same
from budgerigar.encoder.lora import Factors
from budgerigar.encoder.model import Head, Member, PackedEncoder


@dataclass(frozen=True)
class Adapter:
    """What a run adds to the frozen base.

    Attributes:
        updates: low-rank updates by layer and matrix.
        head: the head's layers.
        named: every tensor of the adapter's file by its name there, in a fixed order.
        config: PEFT's configuration of it.
    """

    updates: Mapping[tuple[int, str], Factors]
    head: Head
    named: Mapping[str, torch.Tensor]
    config: Mapping[str, object]


class PackedClassifier:
    """One run on the packed encoder; see `interface.Encoder`.

    Args:
        base: what is frozen.
        adapter: the run's own tensors.
        prefix_dropout: whether training drops out in frozen layers too, which gives up the
            cache.

    Attributes:
        lowest: lowest layer that trains; the encoder's depth where the head alone does.
    """

    path = "engine"

    def __init__(self, base: FrozenBase, adapter: Adapter, *, prefix_dropout: bool) -> None:
        self.base, self.adapter, self.prefix_dropout = base, adapter, prefix_dropout
        self.lowest = min((layer for layer, _ in adapter.updates), default=base.encoder.depth)
        self.precision = base.precision
        self.device = base.encoder.device

    def trainables(self) -> list[Trainable]:
        """Every parameter that requires gradients: updates from the lowest layer up, the head."""
        layers = {
            id(half): (layer, name)
            for (layer, _), factors in self.adapter.updates.items()
            for name, half in (("A", factors.a_RI), ("B", factors.b_OR))
        }
        found = []
        for name, tensor in self.adapter.named.items():
            if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad:
                layer, factor = layers.get(id(tensor), (None, ""))
                part = "adapter" if factor else "head"
                found.append(Trainable(name, tensor, part, layer, factor))  # type: ignore[arg-type]
        return found

    def prepare(self, texts: Tokens, label: str) -> Tokens:
        """Computes the frozen prefix for the texts, or finds it in the cache."""
        return prepare([self], texts, label)

    def logits(
        self, texts: Tokens, rows: np.ndarray, dropout: np.random.Generator | None
    ) -> torch.Tensor:
        """Logits `[B, C]`, float32, of some rows; see `interface.Encoder`."""
        return logits(texts, [Share(self, rows, dropout)])[0]

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors on the CPU, named as PEFT names them in its files."""
        return {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in self.adapter.named.items()
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up an adapter's tensors.

        Raises:
            AdapterError: when names or shapes differ from this encoder's own.
        """
        require_same(self.adapter.named, state)
        with torch.no_grad():
            for name, tensor in self.adapter.named.items():
                tensor.copy_(state[name])

    def adapter_config(self) -> dict[str, object]:
        """PEFT's configuration of this adapter, ready for JSON."""
        return dict(self.adapter.config)


@dataclass(frozen=True)
class Share:
    """A run's texts in a pass.

    Attributes:
        run: over the base that all shares of the pass have.
        rows: its texts, in their order.
        dropout: draws the dropout of a training step; None computes without.
    """

    run: PackedClassifier
    rows: np.ndarray
    dropout: np.random.Generator | None


def prepare(runs: Sequence[PackedClassifier], texts: Tokens, label: str) -> Tokens:
    """Texts with the output of the layers that are frozen for all runs over one base."""
    if any(run.prefix_dropout for run in runs):
        return texts
    return runs[0].base.prepare(texts, min(run.lowest for run in runs), label)


def logits(texts: Tokens, shares: Sequence[Share]) -> list[torch.Tensor]:
    """Logits `[B, C]`, float32, of each run's texts, computed in one pass.

    Args:
        texts: prepared or not.
        shares: of runs over one base.
    """
    base = shares[0].run.base
    batch = base.pack(texts, [share.rows for share in shares])
    members = _members(shares, batch)
    if isinstance(texts, PrefixedTexts):
        start = texts.layers
        hidden, where = base.stored(texts, batch)
    else:
        start = min(share.run.lowest for share in shares)
        hidden, where = base.compute(texts, batch, start, members)
    return _above(hidden, where, start, [share.run for share in shares], members)


def texts_on_device(texts: Tokens, encoder: PackedEncoder) -> DeviceTexts | str:
    """Texts whose frozen prefix the device keeps, for `fixed_logits`.

    Returns:
        Why that cannot be, in words, where it cannot.
    """
    if not encoder.takes_fixed_shapes:
        return "layers of this architecture take no batches of fixed shapes"
    if encoder.number_type == torch.float32 and encoder.device.type == "cuda":
        return "kernels of GPUs round float32 to fewer bits"
    if not isinstance(texts, PrefixedTexts):
        return "no layer is frozen, or the cache has no room for what they give"
    if texts.layers == encoder.depth:
        return "only the head trains"
    if not isinstance(texts.rows, torch.Tensor):
        return "the GPU has no room for what the frozen layers give"
    if obstacle := fused.obstacle(encoder.device.type):
        return obstacle
    return DeviceTexts(texts, texts.rows)


def fixed_logits(
    batch: FixedBatch, runs: Sequence[PackedClassifier], stream: torch.Generator
) -> list[torch.Tensor]:
    """Logits `[B, C]` of each run's texts in a batch of fixed shapes; nothing waits for the GPU.

    Args:
        batch: the texts, all runs' equally many.
        runs: over one base, in the batch's order.
        stream: draws the dropout of all runs.
    """
    hidden, where, shares = batch.read()
    texts = batch.shape.texts
    members = [
        Member(
            updates=run.adapter.updates,
            tokens=slice(0, batch.shape.rows),
            texts=slice(place * texts, (place + 1) * texts),
            stream=stream,
            lowest=run.lowest,
            shares=shares,
        )
        for place, run in enumerate(runs)
    ]
    return _above(hidden, where, batch.texts.layers, runs, members)


def _above(
    hidden: torch.Tensor,
    where: Ragged,
    start: int,
    runs: Sequence[PackedClassifier],
    members: Sequence[Member],
) -> list[torch.Tensor]:
    """Logits of each run's texts from what enters a layer."""
    encoder = runs[0].base.encoder
    if start < encoder.depth:
        hidden = encoder.run_layers(hidden, where, range(start, encoder.depth - 1), members)
        hidden = encoder.run_last_layer(hidden, where, members)
    heads = [run.adapter.head for run in runs]
    if len(runs) > 1 and members[0].stream is members[1].stream is not None and _alike(heads):
        # One stream draws for all: they have equally many texts.
        together = {path: torch.stack([head[path] for head in heads]) for path in heads[0]}
        by_run = hidden.unflatten(0, (len(runs), -1))
        return list(encoder.logits(by_run, together, members[0].stream).unbind())
    return [
        encoder.logits(hidden[member.texts], head, member.stream)
        for head, member in zip(heads, members, strict=True)
    ]


def _alike(heads: Sequence[Head]) -> bool:
    """Whether heads have the same tensors, but for their values."""
    shapes = [{path: tensor.shape for path, tensor in head.items()} for head in heads]
    return all(one == shapes[0] for one in shapes)


def _members(shares: Sequence[Share], batch: Packing) -> list[Member]:
    """The shares' places in a batch."""
    members, text = [], 0
    for share, tokens in zip(shares, batch.rows, strict=True):
        members.append(
            Member(
                updates=share.run.adapter.updates,
                tokens=tokens,
                texts=slice(text, text + len(share.rows)),
                stream=share.dropout,
                lowest=-1 if share.run.prefix_dropout else share.run.lowest,
            )
        )
        text += len(share.rows)
    return members
