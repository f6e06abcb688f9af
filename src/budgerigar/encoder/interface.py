"""What training and prediction ask of an encoder, whichever path computes it.

Shape letters: B texts, T packed tokens, C classes. The tokens of a batch stand one
after another without padding: `ids_T` with `offsets` `[B + 1]`, text b being
`ids_T[offsets[b]:offsets[b + 1]]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from budgerigar.encoder.budget import Part
from budgerigar.errors import AdapterError


class Tokens(Protocol):
    """Tokenized texts.

    Attributes:
        ids_T: token ids of all texts, int32 `[T]`.
        offsets: int64 `[B + 1]`.
    """

    @property
    def ids_T(self) -> np.ndarray: ...

    @property
    def offsets(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts of some rows, packed in the order given: ids int64 `[T]`, offsets."""
        ...


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
    """A classifier over packed tokens.

    Attributes:
        path: `engine` or `reference`.
        device: where it computes.
        precision: number type of the frozen products.
    """

    path: str
    device: torch.device
    precision: str

    def trainables(self) -> list[Trainable]:
        """Every parameter that requires gradients, in a fixed order."""
        ...

    def prepare(self, texts: Tokens, label: str) -> Tokens:
        """Texts that will be read again and again, with what can be computed once.

        Args:
            texts: the texts.
            label: names them in the progress display.
        """
        ...

    def logits(
        self, texts: Tokens, rows: np.ndarray, dropout: np.random.Generator | None
    ) -> torch.Tensor:
        """Logits `[B, C]`, float32, of some rows of the texts, in their order.

        Args:
            texts: prepared or not.
            rows: which, `[B]`.
            dropout: draws the dropout of a training step; None computes without.
        """
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


def require_same(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    """Refuses an adapter's tensors unless names and shapes are this encoder's own.

    Raises:
        AdapterError: naming the first that differs.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in given.items()}
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise AdapterError(
            f"adapter does not fit this model: {odd} is missing, unknown or of another shape",
            remedy="use the recipe and the model that it was trained with",
        )
