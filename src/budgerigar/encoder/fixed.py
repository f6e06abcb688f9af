"""Training batches whose tensors keep their shapes and places, as CUDA graphs want them.

Each run gets as many rows as the longest run's texts fill, rounded up: batches of few shapes
come out, and the runs have equal shares. All that depends on the texts is worked out on the
device from the numbers of the batch's texts, so that a replayed graph does it anew.

Shape letters: N runs, B texts of a run, T rows of all runs, L places of a text in the padded
view, D hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from budgerigar.encoder.attention import Group, Ragged
from budgerigar.encoder.frozen import PrefixedTexts

ROWS = 128
"""A run has a multiple of so many rows."""
SHORTEST = 64
"""Places of a text in the padded view are so many, or twice as often as needed so many."""


@dataclass(frozen=True)
class Shape:
    """Of a batch: runs N, texts of each B, rows of each, places of a text L."""

    runs: int
    texts: int
    rows: int
    places: int


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
        # At least one row of a run stays idle, and one place of every text.
        rows, longest = int(lengths_NB.sum(1).max()) + 1, int(lengths_NB.max()) + 1
        places = max(SHORTEST, 1 << (longest - 1).bit_length())
        return Shape(len(rows_NB), rows_NB.shape[1], -(-rows // ROWS) * ROWS, places)


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

    def read(self) -> tuple[torch.Tensor, Ragged]:
        """The prefix's output for the texts, `[T, D]` float32, and where each of them is.

        A run's idle rows hold some row's numbers, see one another alone, and are read by nobody.
        """
        shape, device, rows_B = self.shape, self.rows_NB.device, self.rows_NB.flatten()
        sources_B = self.texts.offsets_B.index_select(0, rows_B)
        lengths_B = self.texts.offsets_B.index_select(0, rows_B + 1) - sources_B
        ends_NB = lengths_B.view(shape.runs, shape.texts).cumsum(1)
        all_rows = shape.runs * shape.rows
        ends_NB += torch.arange(0, all_rows, shape.rows, device=device)[:, None]
        starts_B = ends_NB.flatten() - lengths_B
        row_T = torch.arange(all_rows, device=device)
        text_T = torch.searchsorted(starts_B, row_T, right=True) - 1
        within_T = row_T - starts_B.index_select(0, text_T)
        inside_T = within_T < lengths_B.index_select(0, text_T)
        source_T = torch.where(inside_T, sources_B.index_select(0, text_T) + within_T, 0)
        hidden_TD = self.texts.rows.index_select(0, source_T).float()
        place_L = torch.arange(shape.places, device=device)
        inside_BL = place_L < lengths_B[:, None]
        token_BL = starts_B[:, None] + torch.where(inside_BL, place_L, 0)
        # Idle rows see one another in stretches no longer than a text's places: a kernel of
        # GPUs takes as many steps as the longest stretch needs.
        idle_I = torch.arange(0, shape.rows - shape.texts, shape.places, device=device)
        run_ends_N = torch.arange(shape.rows, all_rows + 1, shape.rows, device=device)
        idle_NI = torch.minimum(ends_NB[:, -1:] + idle_I, run_ends_N[:, None])
        starts_NS = torch.cat([starts_B.view(shape.runs, -1), idle_NI], 1)
        ends_S = torch.cat([starts_NS.flatten(), row_T[-1:] + 1]).int()
        texts = shape.runs * shape.texts
        numbers_B = torch.arange(texts, device=device)
        # The device alone knows how short the shortest is.
        view = Group(0, texts, shape.places, 0, numbers_B, padding_GL=~inside_BL)
        nowhere = np.empty(0, np.int64)
        where = Ragged(
            starts_B=nowhere,
            lengths_B=nowhere,
            first_B=starts_B,
            text_T=text_T,
            within_T=torch.where(inside_T, within_T, 0),
            token_P=token_BL.flatten(),
            # An idle row takes the padding of its run's last text: no run's numbers reach others.
            place_T=text_T * shape.places + torch.where(inside_T, within_T, shape.places - 1),
            idle=None,
            groups=(view,),
            ends_S=ends_S,
            longest=shape.places,
        )
        return hidden_TD, where
