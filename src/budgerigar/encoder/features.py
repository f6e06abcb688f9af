"""Features of texts from a frozen encoder, without any adapter or head.

A text's vector is the mean of its tokens' hidden states, special tokens included, as
sentence encoders pool them (Reimers and Gurevych 2019, arXiv:1908.10084, section 3).

Shape letters: B texts, T packed tokens, D hidden width, S layers whose states are taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.console import Progress
from budgerigar.encoder import hardware, paths, weights
from budgerigar.encoder.attention import Ragged
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.families import unknown_architecture
from budgerigar.encoder.frozen import PASS_TOKENS, content_hash, pack, rows_multiple, tokens_of
from budgerigar.encoder.hardware import SIXTEEN_BITS
from budgerigar.encoder.interface import Tokens
from budgerigar.encoder.model import PackedEncoder
from budgerigar.encoder.modernbert import ModernBertEncoder
from budgerigar.encoder.prefix import PrefixCache
from budgerigar.encoder.rows import Layout
from budgerigar.encoder.shape import read_shape
from budgerigar.errors import ModelError

LAST = (-1,)
"""The last layer alone."""


class FeatureExtractor:
    """A frozen encoder that gives texts their vectors; nothing is loaded before it is needed.

    Args:
        checkpoint: with its weights.
        precision: of the products; `auto` is what the device does natively.

    Attributes:
        positions: longest text in tokens that the encoder can take.
        depth: its layers.
        width: D.

    Raises:
        ModelError: when transformers has no classifier of that architecture.
    """

    def __init__(self, checkpoint: Checkpoint, precision: str = "auto") -> None:
        self._checkpoint, self._where = checkpoint, hardware.device()
        self._precision = hardware.resolve_precision(precision, self._where).name
        self._shape = read_shape(checkpoint, 2)
        self.positions, self.depth = self._shape.positions, self._shape.depth
        self.width = self._shape.width
        self._encoder: _Pooling | None = None

    def features(self, texts: Tokens, label: str, layers: Sequence[int] = LAST) -> np.ndarray:
        """Mean-pooled hidden states `[B, S * D]`, float32, in the order of the texts.

        They are kept in the cache of frozen layers, where there is room.

        Args:
            texts: the texts.
            label: names them in the progress display.
            layers: whose states stand beside each other; from 0, or from the end below 0.

        Raises:
            ModelError: when the checkpoint lacks weights of the encoder, or a layer.
        """
        chosen = [self._layer(layer) for layer in layers]
        width = len(chosen) * self.width
        layout = Layout(np.arange(len(texts) + 1), width, "float32")
        about = {
            "base": self._checkpoint.sha256(),
            "config": json.dumps(self._checkpoint.config(), sort_keys=True),
            "pooled": "mean",
            "layers": " ".join(map(str, chosen)),
            "precision": self._precision,
            "device": self._where.type,
            "texts": len(texts),
            "tokens": int(texts.offsets[-1]),
            "content": content_hash(texts),
        }

        tokens = PASS_TOKENS[self._where.type]

        def compute(first: int, last: int) -> np.ndarray:
            self._encoder = self._encoder or self._load()
            found = np.empty((last - first, width), np.float32)
            with Progress(f"vectors of {label}", last - first) as bar:
                done = 0
                for rows in _passes(np.diff(texts.offsets)[first:last], tokens):
                    found[rows] = self._encoder.pooled(texts, rows + first, chosen)
                    bar.update(done := done + len(rows))
            return found

        if len(texts) == 0:
            return np.empty((0, width), np.float32)
        kept = PrefixCache().open(about, layout, compute, label)
        return compute(0, len(texts)) if kept is None else np.array(kept)

    def _layer(self, number: int) -> int:
        if not -self.depth <= number < self.depth:
            raise ModelError(
                f"model {self._checkpoint.name} has no layer {number}",
                why=f"it has {self.depth}",
                remedy=f"name layers from 0 to {self.depth - 1}",
            )
        return number % self.depth

    def _load(self) -> _Pooling:
        if unknown_architecture(self._checkpoint, self._shape):
            return _Reference(self._checkpoint, self._precision, self._where)
        base = paths.Base(
            checkpoint=self._checkpoint,
            shape=self._shape,
            classes=2,
            precision=self._precision,
            device=self._where,
            sha256=self._checkpoint.sha256(),
        )
        loaded = paths.load_base(base)
        return _Packed(loaded.frozen.encoder, getattr(loaded.config, "norm_eps", 0.0))


class _Pooling(Protocol):
    """An encoder that pools the texts of a batch, `[B, S * D]` float32."""

    def pooled(self, texts: Tokens, rows: np.ndarray, layers: Sequence[int]) -> np.ndarray: ...


class _Packed:
    """The packed encoder, every layer with every token."""

    def __init__(self, encoder: PackedEncoder, epsilon: float) -> None:
        self._encoder, self._epsilon = encoder, epsilon

    @torch.inference_mode()
    def pooled(self, texts: Tokens, rows: np.ndarray, layers: Sequence[int]) -> np.ndarray:
        encoder = self._encoder
        batch = pack([rows], np.diff(texts.offsets), rows_multiple(encoder.device))
        ids_T, where = tokens_of(encoder, texts, batch)
        hidden_TD = encoder.embed(ids_T, where)
        means: dict[int, torch.Tensor] = {}
        for layer in range(max(layers) + 1):
            hidden_TD = encoder.run_layers(hidden_TD, where, range(layer, layer + 1))
            if layer in layers:
                means[layer] = _mean(self._normed(hidden_TD, layer), where)
        return torch.cat([means[layer] for layer in layers], 1).cpu().numpy()

    def _normed(self, hidden_TD: torch.Tensor, layer: int) -> torch.Tensor:
        """Pre-norm layers leave their last norm to what stands above them."""
        encoder = self._encoder
        if not isinstance(encoder, ModernBertEncoder) or layer < encoder.depth - 1:
            return hidden_TD
        norm = encoder.final_norm
        return F.layer_norm(hidden_TD, (encoder.width,), norm.weight, norm.bias, self._epsilon)


class _Reference:
    """Any encoder of transformers, on padded batches."""

    def __init__(self, checkpoint: Checkpoint, precision: str, device: torch.device) -> None:
        from transformers import AutoModel

        with weights.loading(checkpoint):
            model: Any = AutoModel.from_pretrained(
                checkpoint.folder, trust_remote_code=False, weights_only=True
            )
        self._model = model.to(device).eval()
        self._device, self._number_type = device, SIXTEEN_BITS.get(precision)
        self._padding = int(model.config.pad_token_id or 0)

    @torch.inference_mode()
    def pooled(self, texts: Tokens, rows: np.ndarray, layers: Sequence[int]) -> np.ndarray:
        ids_T, offsets = texts.batch(rows)
        lengths_B = np.diff(offsets)
        mask_BL = np.arange(lengths_B.max())[None] < lengths_B[:, None]
        ids_BL = np.full(mask_BL.shape, self._padding, np.int64)
        ids_BL[mask_BL] = ids_T
        mask = torch.from_numpy(mask_BL).to(self._device)
        with torch.autocast(
            self._device.type, self._number_type, enabled=self._number_type is not None
        ):
            states = self._model(
                input_ids=torch.from_numpy(ids_BL).to(self._device),
                attention_mask=mask.long(),
                output_hidden_states=True,
            ).hidden_states
        weights_BL1 = mask.float()[:, :, None]
        means = [
            # The first of the states is what enters layer 0.
            (states[layer + 1].float() * weights_BL1).sum(1) / weights_BL1.sum(1)
            for layer in layers
        ]
        return torch.cat(means, 1).cpu().numpy()


def _mean(hidden_TD: torch.Tensor, where: Ragged) -> torch.Tensor:
    """The mean of each text's rows, `[B, D]` float32."""
    lengths_B = torch.from_numpy(where.lengths_B).to(hidden_TD.device)
    # One row more for what belongs to no text.
    summed_BD = hidden_TD.new_zeros((len(lengths_B) + 1, hidden_TD.shape[1]), dtype=torch.float32)
    summed_BD = summed_BD.index_add(0, where.text_T, hidden_TD.float())
    return summed_BD[:-1] / lengths_B[:, None]


def _passes(lengths_B: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Texts of like length that go through together, the longest first."""
    order = np.argsort(-lengths_B, kind="stable")
    first = 0
    while first < len(order):
        # Padded batches are as wide as their longest text.
        count = max(1, tokens // int(lengths_B[order[first]]))
        yield order[first : first + count]
        first += count
