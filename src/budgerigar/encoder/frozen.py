"""The frozen base over texts: its prefix computed once and kept, or computed as needed."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from budgerigar.console import Progress, note
from budgerigar.encoder.attention import Ragged, ragged, rows_of
from budgerigar.encoder.interface import Tokens
from budgerigar.encoder.model import Member, PackedEncoder
from budgerigar.encoder.prefix import PrefixCache
from budgerigar.encoder.rows import Layout

ROWS = 32
"""On the CPU a run has a multiple of so many rows; the last ones may be idle. oneDNN makes a
kernel for each new shape, of the products with low-rank updates too, and keeps it: 0.6 MB."""
PASS_TOKENS = {"cpu": 2_048, "cuda": 65_536}
"""Tokens that go through the layers together at most where nothing goes backwards, unless one text
has more: enough for products to run at their full rate. On the CPU twice as many would be a
hundredth faster, and take a fifth of a gigabyte more."""

KEEP = ("cuda",)
"""Devices that keep a prefix's output in their own memory where it has room: a GPU computes it
sooner than a disk gives it."""
FREE_SHARE = 0.5
"""All of it together may take this share of the memory that would be free without it."""


@dataclass(frozen=True)
class Packing:
    """Where the texts of some runs stand in a batch: run after run, text after text, and after
    each run's texts the idle rows that round their number up.

    Attributes:
        texts: each run's texts, in their order.
        rows: each run's rows, idle ones among them.
        starts_B, lengths_B: first row and number of rows of each text.
    """

    texts: tuple[np.ndarray, ...]
    rows: tuple[slice, ...]
    starts_B: np.ndarray
    lengths_B: np.ndarray

    @property
    def all_rows(self) -> int:
        """Of the batch, T."""
        return int(self.rows[-1].stop)

    def texts_rows(self) -> Iterator[tuple[np.ndarray, slice]]:
        """Each run's texts, and its rows without the idle ones."""
        first = 0
        for texts, rows in zip(self.texts, self.rows, strict=True):
            filled = int(self.lengths_B[first : first + len(texts)].sum())
            yield texts, slice(rows.start, rows.start + filled)
            first += len(texts)


def pack(texts: Sequence[np.ndarray], lengths: np.ndarray, multiple: int) -> Packing:
    """Plans a batch.

    Args:
        texts: each run's, in their order.
        lengths: rows of every text there is.
        multiple: a power of two; each run has a multiple of so many rows, or of a higher power
            where it has many.
    """
    lengths_B = lengths[np.concatenate(texts)]
    starts_B = np.cumsum(lengths_B) - lengths_B
    rows, first, row = [], 0, 0
    for own in texts:
        last = first + len(own)
        filled = int(lengths_B[first:last].sum())
        starts_B[first:last] += row - starts_B[first]
        rows.append(slice(row, row + _rounded(filled, multiple)))
        first, row = last, rows[-1].stop
    return Packing(tuple(texts), tuple(rows), starts_B, lengths_B)


@dataclass(frozen=True)
class PrefixedTexts:
    """Texts with the frozen prefix's output for them.

    Attributes:
        texts: the texts themselves.
        layers: how many layers the prefix has.
        rows: `[T, D]`, or `[B, D]` where nothing above the prefix reads more than token 0: a
            mapped file, 16 bits as `uint16`, or a tensor of the products' number type on the
            device that computes.
        row_offsets: first row of each text, `[B + 1]`.
    """

    texts: Tokens
    layers: int
    rows: np.ndarray | torch.Tensor
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

    def read(self, texts: np.ndarray) -> torch.Tensor:
        """The prefix's output for some texts, as it is kept, packed in the order given."""
        starts, ends = self.row_offsets[texts], self.row_offsets[texts + 1]
        if isinstance(self.rows, torch.Tensor):
            numbers = torch.from_numpy(rows_of(starts, ends - starts))
            return self.rows.index_select(0, numbers.to(self.rows.device))
        pieces = [self.rows[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        return torch.from_numpy(np.concatenate(pieces))


class FrozenBase:
    """A frozen encoder with what it gave for texts; shared by all runs over it.

    Args:
        encoder: computes.
        precision: name of the products' number type.
        identity: what tells this base from others, for the cache's names.

    Raises:
        BudgieError: when the cache's settings cannot be used.
    """

    def __init__(self, encoder: PackedEncoder, precision: str, identity: str) -> None:
        self.encoder, self.precision = encoder, precision
        self._identity = identity
        self._cache = PrefixCache()
        self._kept: list[weakref.ref[torch.Tensor]] = []

    def prepare(self, texts: Tokens, layers: int, label: str) -> Tokens:
        """Texts with the output of the lowest layers, from the cache or computed now.

        Args:
            texts: the texts.
            layers: how many; all of them keep what the head reads of each text.
            label: names the texts in the progress display.

        Returns:
            The texts as they came where there are no layers, or no room to keep their output.
        """
        encoder = self.encoder
        if layers == 0:
            return texts
        offsets = np.asarray(texts.offsets)
        if layers == encoder.depth:
            offsets = np.arange(len(texts) + 1)
        sixteen = encoder.number_type != torch.float32
        layout = Layout(offsets, encoder.width, "uint16" if sixteen else "float32")
        if encoder.device.type in KEEP:
            kept = [alive for one in self._kept if (alive := one()) is not None]
            if has_room(sum(one.nbytes for one in kept), layout.size):
                found = self._on_device(texts, layers, layout, label)
                self._kept = [weakref.ref(one) for one in (*kept, found)]
                return PrefixedTexts(texts, layers, found, offsets)
        about = {
            "base": self._identity,
            "layers": layers,
            "precision": self.precision,
            "device": encoder.device.type,
            "texts": len(texts),
            "tokens": int(texts.offsets[-1]),
            "content": content_hash(texts),
        }

        def compute(first: int, last: int) -> np.ndarray:
            content = np.empty(
                (int(offsets[last] - offsets[first]), layout.width), layout.number_type
            )
            bounds = offsets[first : last + 1] - offsets[first]
            for places, computed in self._passes(texts, layers, np.arange(first, last), bounds):
                stored = computed.cpu()
                content[places] = (stored.view(torch.uint16) if sixteen else stored).numpy()
            return content

        rows = self._cache.open(about, layout, compute, label)
        if rows is not None:
            return PrefixedTexts(texts, layers, rows, offsets)
        # A frozen layer is computed forwards, a trained one backwards too.
        trained = 2 * max(1, encoder.depth - layers)
        note(f"an epoch takes about {1 + layers / trained:.1f} times as long for that")
        return texts

    def pack(self, texts: Tokens, runs: Sequence[np.ndarray]) -> Packing:
        """Where some runs' texts stand in a batch, with as many rows as `stored` or `compute`
        gives of each."""
        if isinstance(texts, PrefixedTexts):
            of_texts = texts.layers == self.encoder.depth
            multiple = 1 if of_texts else rows_multiple(self.encoder.device)
            return pack(runs, np.diff(texts.row_offsets), multiple)
        return pack(runs, np.diff(texts.offsets), rows_multiple(self.encoder.device))

    def stored(self, texts: PrefixedTexts, batch: Packing) -> tuple[torch.Tensor, Ragged]:
        """The prefix's output for a batch from what is kept, float32, idle rows zero."""
        encoder = self.encoder
        hidden = torch.zeros((batch.all_rows, encoder.width), device=encoder.device)
        for own, rows in batch.texts_rows():
            # A GPU gets 16 bits a value.
            hidden[rows] = texts.read(own).view(encoder.number_type).to(encoder.device)
        return hidden, ragged(batch.starts_B, batch.lengths_B, batch.all_rows, encoder.device)

    @torch.no_grad()
    def compute(
        self, texts: Tokens, batch: Packing, layers: int, members: Sequence[Member] = ()
    ) -> tuple[torch.Tensor, Ragged]:
        """The prefix's output for a batch, rounded as the cache rounds it.

        Args:
            texts: the texts.
            batch: which of them, and where.
            layers: how many layers.
            members: runs that drop out in frozen layers too.
        """
        encoder = self.encoder
        ids_T, where = tokens_of(encoder, texts, batch)
        hidden = encoder.embed(ids_T, where, members)
        hidden = encoder.run_layers(hidden, where, range(min(layers, encoder.depth - 1)), members)
        if layers == encoder.depth:
            hidden = encoder.run_last_layer(hidden, where, members)
        return hidden.to(encoder.number_type).float(), where

    def _on_device(self, texts: Tokens, layers: int, layout: Layout, label: str) -> torch.Tensor:
        """The prefix's output for all texts, in their order, where it is computed."""
        encoder, done = self.encoder, 0
        size = (int(layout.offsets[-1]), layout.width)
        found = torch.empty(size, dtype=encoder.number_type, device=encoder.device)
        with Progress(f"frozen layers of {label}", len(texts)) as bar:
            for rows, content in self._passes(texts, layers, np.arange(len(texts)), layout.offsets):
                found.index_copy_(0, torch.from_numpy(rows).to(encoder.device), content)
                done += len(content)
                bar.update(done * len(texts) // len(found))
        return found

    def _passes(
        self, texts: Tokens, layers: int, numbers: np.ndarray, offsets: np.ndarray
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """The prefix's output for some texts, of the products' number type, pass by pass, with
        each row's place where they stand in their own order.

        Texts of like length go through together.

        Args:
            texts: all texts.
            layers: how many.
            numbers: which texts, `[B]`.
            offsets: the place of each one's first row, and the end, `[B + 1]`.
        """
        encoder = self.encoder
        lengths = np.diff(np.asarray(texts.offsets))[numbers]
        order = np.argsort(-lengths, kind="stable")
        ends = np.cumsum(lengths[order])
        first, tokens = 0, PASS_TOKENS[encoder.device.type]
        while first < len(order):
            before = ends[first - 1] if first else 0
            fitting = int(np.searchsorted(ends, before + tokens, side="right"))
            chosen = order[first : max(first + 1, fitting)]
            hidden, _ = self.compute(texts, self.pack(texts, [numbers[chosen]]), layers)
            rows = rows_of(offsets[chosen], offsets[chosen + 1] - offsets[chosen])
            yield rows, hidden[: len(rows)].to(encoder.number_type)
            first += len(chosen)


def has_room(kept: int, size: int) -> bool:
    """Whether the current CUDA device has room for more of a prefix's output.

    Args:
        kept: bytes of it that are there.
        size: bytes of what is to come.
    """
    free, _ = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return bool(kept + size <= FREE_SHARE * (free + kept))


def tokens_of(encoder: PackedEncoder, texts: Tokens, batch: Packing) -> tuple[np.ndarray, Ragged]:
    """A batch's token ids `[T]`, padding in idle rows, and where its texts are."""
    ids_T = np.full(batch.all_rows, encoder.padding, np.int64)
    for own, rows in batch.texts_rows():
        ids_T[rows], _ = texts.batch(own)
    return ids_T, ragged(batch.starts_B, batch.lengths_B, batch.all_rows, encoder.device)


def _rounded(filled: int, multiple: int) -> int:
    """A multiple of `multiple`, but never more than 32 different ones from a power of two to the
    next: a run with many rows has coarser ones."""
    if multiple > 1:
        multiple = max(multiple, (1 << (filled - 1).bit_length()) // 32)
    return -(-filled // multiple) * multiple


def rows_multiple(device: torch.device) -> int:
    """A run has a multiple of so many rows."""
    return ROWS if device.type == "cpu" else 1


def content_hash(texts: Tokens) -> str:
    """Of token ids and text bounds: vocabulary and cutting length are in them."""
    digest = hashlib.sha256()
    for numbers in (texts.ids_T, texts.offsets):
        digest.update(np.ascontiguousarray(numbers, dtype=np.int64).tobytes())
    return digest.hexdigest()
