"""Hugging Face checkpoints -> the packed encoder's own tensors.

Shape letters: V tokens of the vocabulary, D hidden width, F width inside the feed-forward
part.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.families import Family
from budgerigar.encoder.products import Product
from budgerigar.errors import ModelError, told


@dataclass(frozen=True)
class Norm:
    """A LayerNorm's tensors `[D]`, float32; some have no bias."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Layer:
    """A layer; `qkv` is query, key and value one below another, `[3D, D]`, with biases."""

    qkv: Product
    attention_output: Product
    attention_norm: Norm
    intermediate: Product
    output: Product
    output_norm: Norm


@dataclass(frozen=True)
class Weights:
    """A frozen encoder.

    Attributes:
        word_VD, position_PD: embeddings, in the number type of products.
        type_D: the embedding of token type 0, zeros where the family has none.
        norm: of the embeddings.
        layers: from the embeddings up.
        pooler: the head's first layer by path and part, float32, where the checkpoint holds it.
    """

    word_VD: torch.Tensor
    position_PD: torch.Tensor
    type_D: torch.Tensor
    norm: Norm
    layers: tuple[Layer, ...]
    pooler: Mapping[str, torch.Tensor]


def load(
    checkpoint: Checkpoint,
    family: Family,
    depth: int,
    number_type: torch.dtype,
    device: torch.device,
    shapes: Mapping[str, torch.Size],
) -> Weights:
    """Reads an encoder, tensor by tensor, each converted before the next is read.

    Args:
        checkpoint: its files.
        family: how they name what they hold.
        depth: layers.
        number_type: of the products.
        device: where the tensors will be.
        shapes: of the tensors that the configuration promises, by path below the encoder.

    Raises:
        ModelError: when a tensor is missing or of another shape, or the files cannot be read.
    """
    with open_tensors(checkpoint, family.base, shapes) as read:

        def product(*paths: str) -> Product:
            weights = [read(f"{path}.weight").to(number_type) for path in paths]
            biases = [read(f"{path}.bias").to(number_type) for path in paths]
            return Product(torch.cat(weights).to(device), torch.cat(biases).to(device))

        def norm(path: str) -> Norm:
            weight, bias = (read(f"{path}.{part}").float().to(device) for part in _NORM_PARTS)
            return Norm(weight, bias)

        def embedding(name: str) -> torch.Tensor:
            table: torch.Tensor = read(f"{family.embeddings[name]}.weight")
            return table.to(number_type).to(device)

        def layer(number: int) -> Layer:
            paths = {
                name: f"{family.layers}.{number}.{path}" for name, path in family.layer.items()
            }
            return Layer(
                qkv=product(paths["query"], paths["key"], paths["value"]),
                attention_output=product(paths["attention_output"]),
                attention_norm=norm(paths["attention_norm"]),
                intermediate=product(paths["intermediate"]),
                output=product(paths["output"]),
                output_norm=norm(paths["output_norm"]),
            )

        word_VD = embedding("word")
        return Weights(
            word_VD=word_VD,
            position_PD=embedding("position"),
            type_D=embedding("type")[0]
            if "type" in family.embeddings
            else word_VD.new_zeros(word_VD.shape[1]),
            norm=norm(family.embeddings["norm"]),
            layers=tuple(layer(number) for number in range(depth)),
            pooler=_pooler(family, read, device),
        )


_NORM_PARTS = ("weight", "bias")
_OLD_PARTS = {"weight": "gamma", "bias": "beta"}
"""Names of LayerNorm's tensors in checkpoints that were converted from TensorFlow."""


def _pooler(family: Family, read: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """The part of the head that lies inside the encoder, where the checkpoint has it."""
    path = family.dense.removeprefix(f"{family.base}.")
    if path == family.dense:
        return {}
    try:
        return {
            f"{family.dense}.{part}": read(f"{path}.{part}").float().to(device)
            for part in _NORM_PARTS
        }
    except ModelError:
        return {}


@contextmanager
def loading(checkpoint: Checkpoint) -> Iterator[None]:
    """Tells whatever falls over weights files, and nothing of them runs.

    Raises:
        ModelError: in the place of what a library raised.
    """

    def unreadable(why: str) -> ModelError:
        return ModelError(
            f"weights of model {checkpoint.name} cannot be loaded",
            why=why,
            remedy="fetch the checkpoint again, or choose another",
        )

    try:
        with told(unreadable):
            yield
    except ModelError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        # torch's own words would advise to load it all the same.
        raise ModelError(
            f"weights of model {checkpoint.name} cannot be loaded",
            why="its pytorch_model.bin asks for more than tensors need; nothing of it was run",
            remedy="choose a checkpoint with safetensors",
        ) from error


@contextmanager
def open_tensors(
    checkpoint: Checkpoint, base: str, shapes: Mapping[str, torch.Size]
) -> Iterator[Any]:
    """Gives a function from a path below the encoder to a tensor on the CPU.

    Args:
        checkpoint: whose files are read.
        base: prefix of the encoder's names, which a checkpoint may leave out.
        shapes: of the tensors that the configuration promises, by path below the encoder.

    Raises:
        ModelError: when the files cannot be read; the function, when it has no such tensor, or
            one of another shape.
    """
    from safetensors import safe_open

    with ExitStack() as files:
        places: dict[str, Any] = {}
        with loading(checkpoint):
            for path in checkpoint.weights():
                if path.suffix == ".safetensors":
                    opened = files.enter_context(safe_open(path, framework="pt"))
                    places.update(dict.fromkeys(opened.keys(), opened.get_tensor))
                else:
                    stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                    if not all(isinstance(one, torch.Tensor) for one in dict(stored).values()):
                        raise ValueError(f"{path.name} holds more than tensors")
                    places.update(dict.fromkeys(stored, stored.__getitem__))

        def read(path: str) -> torch.Tensor:
            module, _, part = path.rpartition(".")
            old = f"{module}.{_OLD_PARTS[part]}"
            for name in (f"{base}.{path}", path, f"{base}.{old}", old):
                if name in places:
                    tensor: torch.Tensor = places[name](name)
                    if tensor.shape == shapes[path]:
                        return tensor
                    raise ModelError(
                        f"weights of model {checkpoint.name} do not fit its config.json",
                        why=f"{name} is {list(tensor.shape)} instead of {list(shapes[path])}",
                        remedy="fetch the checkpoint again, or choose another",
                    )
            raise ModelError(
                f"model {checkpoint.name} lacks a tensor of its encoder: {path}",
                why="its weights are not those of the architecture in config.json",
                remedy="fetch the checkpoint again, or choose another",
            )

        yield read
