"""Training batches whose tensors keep their shapes and places, as CUDA graphs want them.

The runs' texts follow one another without gaps, and the rows of all together are rounded up, so
that batches of few shapes come out. All that depends on the texts is worked out on the device from
the numbers of the batch's texts, so that a replayed graph does it anew.

Shape letters: N runs, B texts of all runs, T rows of all runs, W tiles, D hidden width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.encoder.attention import Ragged
from budgerigar.encoder.device_shares import TILE, DeviceShares
from budgerigar.encoder.frozen import PrefixedTexts

ROWS = 128
"""One run has a multiple of so many rows; several have one that grows with their spread."""
SHORTEST = 64
"""The longest text has at most so many tokens, or twice as often as needed so many."""


@dataclass(frozen=True)
class Shape:
    """Of a batch: runs N, texts of each, rows T of all, tokens of the longest text or more."""

    runs: int
    texts: int
    rows: int
    longest: int


class DeviceTexts:
    """Texts whose frozen prefix's output the device keeps.

    Args:
        texts: the texts.
        rows: what is kept, `[T, D]`.

    Attributes:
        layers: of the prefix.
    """

    def __init__(self, texts: PrefixedTexts, rows: torch.Tensor) -> None:
        self.layers, self.rows = texts.layers, rows
        self.lengths = np.diff(np.asarray(texts.row_offsets))
        self.offsets_B = torch.from_numpy(np.asarray(texts.row_offsets, np.int64)).to(rows.device)

    def shape(self, rows_NB: np.ndarray) -> Shape:
        """The shape of the batch that texts go in."""
        lengths_NB = self.lengths[rows_NB]
        runs, texts = rows_NB.shape
        multiple = ROWS * math.isqrt(runs)
        rows = -(-int(lengths_NB.sum()) // multiple) * multiple
        longest = max(SHORTEST, 1 << (int(lengths_NB.max()) - 1).bit_length())
        return Shape(runs, texts, rows, longest)


class FixedBatch:
    """A batch of a shape; `rows_NB` holds the texts' numbers, and is to be filled anew.

    Args:
        texts: all texts.
        shape: the batch's.
    """

    def __init__(self, texts: DeviceTexts, shape: Shape) -> None:
        self.texts, self.shape = texts, shape
        self.rows_NB = torch.zeros(
            (shape.runs, shape.texts), dtype=torch.int64, device=texts.rows.device
        )

    def read(self) -> tuple[torch.Tensor, Ragged, DeviceShares]:
        """The prefix's output for the texts, `[T, D]` float32, where each text is, and each run.

        Rows after the last text hold some row's numbers, and are read by nobody.
        """
        shape, device, rows_B = self.shape, self.rows_NB.device, self.rows_NB.flatten()
        sources_B = self.texts.offsets_B.index_select(0, rows_B)
        lengths_B = self.texts.offsets_B.index_select(0, rows_B + 1) - sources_B
        ends_B = lengths_B.cumsum(0)
        starts_B = ends_B - lengths_B
        row_T = torch.arange(shape.rows, device=device)
        text_T = torch.searchsorted(ends_B, row_T, right=True).clamp_(max=len(ends_B) - 1)
        within_T = row_T - starts_B.index_select(0, text_T)
        inside_T = row_T < ends_B[-1]
        source_T = torch.where(inside_T, sources_B.index_select(0, text_T) + within_T, 0)
        hidden_TD = self.texts.rows.index_select(0, source_T).float()
        nowhere, nothing = np.empty(0, np.int64), row_T[:0]
        where = Ragged(
            starts_B=nowhere,
            lengths_B=nowhere,
            first_B=starts_B,
            text_T=nothing,
            within_T=nothing,
            token_P=nothing,
            place_T=nothing,
            idle=None,
            groups=(),
            ends_S=F.pad(ends_B, (1, 0)).int(),
            longest=shape.longest,
        )
        return hidden_TD, where, self._shares(ends_B)

    def _shares(self, ends_B: torch.Tensor) -> DeviceShares:
        """The runs' rows, of whom `ends_B` are the texts' ends."""
        shape, device = self.shape, ends_B.device
        ends_N = F.pad(ends_B[shape.texts - 1 :: shape.texts], (1, 0))
        tiles_N = (ends_N.diff() + TILE - 1) // TILE
        last_N = tiles_N.cumsum(0)
        # Each run may leave the last of its tiles half empty.
        tile_W = torch.arange(-(-shape.rows // TILE) + shape.runs, device=device)
        run_W = torch.searchsorted(last_N, tile_W, right=True)
        own_W = run_W.clamp(max=shape.runs - 1)
        first_W = ends_N[own_W] + (tile_W - (last_N - tiles_N)[own_W]) * TILE
        end_W = torch.minimum(first_W + TILE, ends_N[own_W + 1])
        run_W = torch.where(run_W < shape.runs, run_W, -1)
        tiles_W3 = torch.stack([run_W, first_W, end_W], 1).int()
        return DeviceShares(ends_N.int(), tiles_W3, TILE, 0, shape.runs)
