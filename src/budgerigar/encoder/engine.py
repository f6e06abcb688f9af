"""The packed encoder behind the encoder's interface: one run over one frozen base."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.console import note
from budgerigar.encoder.attention import Ragged, ragged
from budgerigar.encoder.interface import Tokens, Trainable, require_same
from budgerigar.encoder.lora import Factors
from budgerigar.encoder.model import Head, Member, PackedEncoder
from budgerigar.encoder.prefix import PrefixCache
from budgerigar.encoder.rows import Layout

ROWS = 32
"""On the CPU a batch has a multiple of so many rows; the last ones may be idle."""
PASS_TOKENS = 4_096
"""Tokens that go through the frozen prefix together: enough for products to run at their
full rate, few enough for the results to stay in the processor's caches."""


@dataclass(frozen=True)
class PrefixedTexts:
    """Texts with the frozen prefix's output for them.

    Attributes:
        texts: the texts themselves.
        rows: `[T, D]`, or `[B, D]` where nothing above the prefix reads more than token 0.
        row_offsets: first row of each text, `[B + 1]`.
    """

    texts: Tokens
    rows: np.ndarray
    row_offsets: np.ndarray

    @property
    def ids_T(self) -> np.ndarray:
        """Token ids."""
        return self.texts.ids_T

    @property
    def offsets(self) -> np.ndarray:
        """First token of each text, `[B + 1]`."""
        return self.texts.offsets

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and offsets of some texts."""
        return self.texts.batch(rows)

    def read(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The prefix's output for some texts, packed in the order given, and its offsets."""
        starts, ends = self.row_offsets[texts], self.row_offsets[texts + 1]
        pieces = [self.rows[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        return np.concatenate(pieces), np.concatenate([[0], np.cumsum(ends - starts)])


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
        frozen: the base.
        adapter: the run's own tensors.
        precision: name of the products' number type.
        identity: what tells this base from others, for the cache's names.
        prefix_dropout: whether training drops out in frozen layers too, which gives up the
            cache.

    Raises:
        BudgieError: when the cache's settings cannot be used.
    """

    path = "engine"

    def __init__(
        self,
        frozen: PackedEncoder,
        adapter: Adapter,
        precision: str,
        identity: str,
        *,
        prefix_dropout: bool,
    ) -> None:
        self._frozen, self._adapter = frozen, adapter
        self._identity, self._prefix_dropout = identity, prefix_dropout
        self._cache = PrefixCache()
        self._lowest = min((layer for layer, _ in adapter.updates), default=frozen.depth)
        self.precision = precision
        self.device = frozen.device

    def trainables(self) -> list[Trainable]:
        """Every parameter that requires gradients: updates from the lowest layer up, the head."""
        layers = {
            id(half): (layer, name)
            for (layer, _), factors in self._adapter.updates.items()
            for name, half in (("A", factors.a_RI), ("B", factors.b_OR))
        }
        found = []
        for name, tensor in self._adapter.named.items():
            if isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad:
                layer, factor = layers.get(id(tensor), (None, ""))
                part = "adapter" if factor else "head"
                found.append(Trainable(name, tensor, part, layer, factor))  # type: ignore[arg-type]
        return found

    def prepare(self, texts: Tokens, label: str) -> Tokens:
        """Computes the frozen prefix for the texts, or finds it in the cache."""
        if self._lowest == 0 or self._prefix_dropout:
            return texts
        pooled = self._lowest == self._frozen.depth
        offsets = np.arange(len(texts) + 1) if pooled else np.asarray(texts.offsets)
        sixteen = self._frozen.number_type != torch.float32
        layout = Layout(offsets, self._frozen.width, "uint16" if sixteen else "float32")
        about = {
            "base": self._identity,
            "layers": self._lowest,
            "precision": self.precision,
            "device": self.device.type,
            "texts": len(texts),
            "tokens": int(texts.offsets[-1]),
            "content": _content_hash(texts),
        }

        def compute(first: int, last: int) -> np.ndarray:
            return self._prefix_rows(texts, np.arange(first, last), offsets[first : last + 1])

        rows = self._cache.open(about, layout, compute, label)
        if rows is not None:
            return PrefixedTexts(texts, rows, offsets)
        # A frozen layer is computed forwards, a trained one backwards too.
        trained = 2 * max(1, self._frozen.depth - self._lowest)
        note(f"an epoch takes about {1 + self._lowest / trained:.1f} times as long for that")
        return texts

    def logits(
        self, texts: Tokens, rows: np.ndarray, dropout: np.random.Generator | None
    ) -> torch.Tensor:
        """Logits `[B, C]`, float32, of some rows; see `interface.Encoder`."""
        frozen = self._frozen
        if self._lowest == frozen.depth:
            return frozen.logits(self._pooled(texts, rows, dropout), self._adapter.head, dropout)
        if isinstance(texts, PrefixedTexts):
            stored, offsets = self._stored(texts, rows)
            total = self._rows(len(stored))
            hidden = F.pad(stored, (0, 0, 0, total - len(stored)))
            where = ragged(offsets[:-1], np.diff(offsets), total, self.device)
        else:
            hidden, where = self._prefix(*texts.batch(rows), dropout)
        member = Member(
            updates=self._adapter.updates,
            tokens=slice(0, len(hidden)),
            texts=slice(0, len(rows)),
            stream=dropout,
            lowest=self._lowest,
        )
        hidden = frozen.run_layers(hidden, where, range(self._lowest, frozen.depth - 1), [member])
        hidden = frozen.run_last_layer(hidden, where, [member])
        return frozen.logits(hidden, self._adapter.head, dropout)

    def _pooled(
        self, texts: Tokens, rows: np.ndarray, dropout: np.random.Generator | None
    ) -> torch.Tensor:
        """What the head reads of some texts, where it alone trains, `[B, D]`."""
        if isinstance(texts, PrefixedTexts):
            return self._stored(texts, rows)[0]
        return self._prefix(*texts.batch(rows), dropout)[0]

    def _stored(self, texts: PrefixedTexts, rows: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """The prefix's output for some texts from the cache, float32, and its offsets."""
        content, offsets = texts.read(rows)
        stored = torch.from_numpy(content).view(self._frozen.number_type)
        return stored.to(self.device).float(), offsets

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors on the CPU, named as PEFT names them in its files."""
        return {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in self._adapter.named.items()
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up an adapter's tensors.

        Raises:
            AdapterError: when names or shapes differ from this encoder's own.
        """
        require_same(self._adapter.named, state)
        with torch.no_grad():
            for name, tensor in self._adapter.named.items():
                tensor.copy_(state[name])

    def adapter_config(self) -> dict[str, object]:
        """PEFT's configuration of this adapter, ready for JSON."""
        return dict(self._adapter.config)

    @torch.no_grad()
    def _prefix(
        self, ids_T: np.ndarray, offsets: np.ndarray, dropout: np.random.Generator | None
    ) -> tuple[torch.Tensor, Ragged]:
        """The frozen layers' output, rounded as the cache rounds it."""
        frozen, lengths_B = self._frozen, np.diff(offsets)
        ids_T = np.pad(
            ids_T, (0, self._rows(len(ids_T)) - len(ids_T)), constant_values=frozen.padding
        )
        where = ragged(offsets[:-1], lengths_B, len(ids_T), self.device)
        members: list[Member] = []
        if self._prefix_dropout and dropout is not None:
            members.append(Member({}, slice(0, len(ids_T)), slice(0, len(lengths_B)), dropout, -1))
        hidden = frozen.embed(ids_T, where, members)
        if self._lowest < frozen.depth:
            hidden = frozen.run_layers(hidden, where, range(self._lowest), members)
        else:
            hidden = frozen.run_layers(hidden, where, range(frozen.depth - 1), members)
            hidden = frozen.run_last_layer(hidden, where, members)
        return hidden.to(frozen.number_type).float(), where

    def _rows(self, tokens: int) -> int:
        """Rows of a batch: on the CPU rounded up, as oneDNN makes a kernel for each shape."""
        return -(-tokens // ROWS) * ROWS if self.device.type == "cpu" else tokens

    def _prefix_rows(self, texts: Tokens, numbers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The prefix's output for some texts, in their order, as the cache keeps it.

        Texts of like length go through together; the order in the file is the texts' own.
        """
        frozen = self._frozen
        lengths = np.diff(np.asarray(texts.offsets))[numbers]
        order = np.argsort(-lengths, kind="stable")
        ends = np.cumsum(lengths[order])
        starts = offsets[:-1] - offsets[0]
        found: np.ndarray | None = None
        first = 0
        while first < len(order):
            before = ends[first - 1] if first else 0
            fitting = int(np.searchsorted(ends, before + PASS_TOKENS, side="right"))
            chosen = order[first : max(first + 1, fitting)]
            hidden, _ = self._prefix(*texts.batch(numbers[chosen]), None)
            stored = hidden[: np.diff(offsets)[chosen].sum()].to(frozen.number_type).cpu()
            if frozen.number_type != torch.float32:
                stored = stored.view(torch.uint16)
            content = stored.numpy()
            if found is None:
                found = np.empty((int(offsets[-1] - offsets[0]), hidden.shape[1]), content.dtype)
            counts = np.diff(offsets)[chosen]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            found[np.repeat(starts[chosen], counts) + within] = content
            first += len(chosen)
        assert found is not None
        return found


def _content_hash(texts: Tokens) -> str:
    """Of token ids and text bounds: vocabulary and cutting length are in them."""
    digest = hashlib.sha256()
    for numbers in (texts.ids_T, texts.offsets):
        digest.update(np.ascontiguousarray(numbers, dtype=np.int64).tobytes())
    return digest.hexdigest()
