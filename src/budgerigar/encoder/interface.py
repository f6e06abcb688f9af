"""What training and prediction ask of an encoder, whichever path computes it.

Shape letters: B texts, T packed tokens, C classes. The tokens of a batch stand one
after another without padding: `ids_T` with `offsets` `[B + 1]`, text b being
`ids_T[offsets[b]:offsets[b + 1]]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from budgerigar.encoder.budget import Part


@dataclass(frozen=True)
class Trainable:
    """One parameter that requires gradients.

    Attributes:
        name: as in the adapter's file, so that checkpoints and adapters agree.
        tensor: the parameter itself, float32.
        part: `adapter`, `head` or `other`.
        layer: its layer, None outside the layers.
        factor: `A` or `B` for the halves of a low-rank update, else an empty string.
    """

    name: str
    tensor: torch.nn.Parameter
    part: Part
    layer: int | None
    factor: str


class Encoder(Protocol):
    """A classifier over packed tokens."""

    device: torch.device
    precision: str

    def trainables(self) -> list[Trainable]:
        """Every parameter that requires gradients, in a fixed order."""
        ...

    def logits(self, ids_T: np.ndarray, offsets: np.ndarray, *, training: bool) -> torch.Tensor:
        """Logits `[B, C]`, float32; with dropout where `training`."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors on the CPU, under the names that PEFT's files use.

        Holds what trains, and newly made layers that stay frozen.
        """
        ...

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up tensors that `state` gave.

        Raises:
            AdapterError: when names or shapes differ from this encoder's own.
        """
        ...

    def adapter_config(self) -> dict[str, object]:
        """PEFT's `adapter_config.json` for what `state` holds."""
        ...
