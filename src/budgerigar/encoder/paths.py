"""Which path computes a classifier, and why: the packed engine where it knows the
architecture and all that the adapter asks for, else transformers + PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from budgerigar.encoder import adapter_files, hardware, reference, weights
from budgerigar.encoder.adapter_files import Obstacle
from budgerigar.encoder.budget import Selection, select
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.engine import Adapter, PackedClassifier
from budgerigar.encoder.families import FAMILIES, Family, obstacle, unknown_architecture
from budgerigar.encoder.initial import FILE_PREFIX, draw_head, draw_updates
from budgerigar.encoder.interface import Encoder
from budgerigar.encoder.lora import Factors, LowRank
from budgerigar.encoder.model import Head, Numbers, PackedEncoder
from budgerigar.encoder.shape import Shape, classifier_config
from budgerigar.encoder.weights import Linear
from budgerigar.errors import ModelError

HEAD_PARTS = ("weight", "bias")


@dataclass(frozen=True)
class Base:
    """A frozen base to be: what it is, where and how it computes.

    Attributes:
        checkpoint: its files.
        shape: of the classifier on it.
        classes: outputs C.
        precision: number type of the frozen products.
        device: where it computes.
        sha256: of its weights.
    """

    checkpoint: Checkpoint
    shape: Shape
    classes: int
    precision: str
    device: torch.device
    sha256: str


def fresh(
    base: Base,
    selection: Selection,
    low_rank: LowRank,
    dropouts: Dropouts,
    *,
    seed: int,
    force_reference: bool,
) -> Encoder:
    """A pretrained encoder with a new adapter and a new head, both from `seed`.

    Args:
        base: what is frozen.
        selection: what trains.
        low_rank: the updates' numbers.
        dropouts: rates asked for.
        seed: of everything that is drawn.
        force_reference: whether the engine stands aside.

    Raises:
        ModelError: when the checkpoint lacks weights of the encoder.
        SelectorError: when the selection matches nothing.
    """
    shape = base.shape
    config = classifier_config(base.checkpoint, base.classes, dropouts.hidden, dropouts.attention)
    if force_reference or obstacle(base.checkpoint, shape, selection, dropouts):
        return reference.fresh(
            base.checkpoint,
            shape,
            base.classes,
            selection,
            low_rank,
            dropouts,
            seed=seed,
            precision=base.precision,
            device=base.device,
        )
    generator = torch.Generator().manual_seed(seed)
    family = FAMILIES[shape.family]
    head = _empty_head(shape, family, base.classes)
    draw_head(head.items(), config.initializer_range, generator)
    drawn = draw_updates(shape, selection, generator)
    trained_head = {
        f"{layer.path}.{part}"
        for layer in shape.head
        if selection.head == "full" or layer.output
        for part in HEAD_PARTS
    }
    updates = {
        (layer, matrix.name): Factors(
            _parameter(drawn[f"{FILE_PREFIX}{matrix.path}.lora_A.weight"], base.device),
            _parameter(drawn[f"{FILE_PREFIX}{matrix.path}.lora_B.weight"], base.device),
            low_rank.scale(selection.rank_of(layer)),
            low_rank.dropout,
        )
        for layer, matrix in select(shape, selection)
    }
    head = {
        name: _parameter(tensor, base.device) if name in trained_head else tensor.to(base.device)
        for name, tensor in head.items()
    }
    peft_config = adapter_files.peft_config(base.checkpoint, shape, selection, low_rank)
    return _packed(
        base, config, updates, head, adapter_files.config_to_json(peft_config), dropouts.prefix
    )


def from_adapter(base: Base, folder: Path) -> Encoder:
    """A pretrained encoder with an adapter from a folder, by whichever path can compute it.

    Raises:
        AdapterError: when the folder's files do not fit the model.
        ModelError: when the checkpoint lacks weights of the encoder.
    """
    config = classifier_config(base.checkpoint, base.classes)
    try:
        if why := unknown_architecture(base.checkpoint, base.shape):
            raise Obstacle(why)
        read = adapter_files.read_adapter(folder, base.shape)
    except Obstacle:
        return reference.from_adapter(
            base.checkpoint,
            base.shape,
            base.classes,
            folder,
            precision=base.precision,
            device=base.device,
        )
    updates = {
        place: Factors(
            _parameter(one.a_RI, base.device), _parameter(one.b_OR, base.device), one.scale, 0.0
        )
        for place, one in read.updates.items()
    }
    head = {name: _parameter(tensor, base.device) for name, tensor in read.head.items()}
    return _packed(base, config, updates, head, read.config, prefix_dropout=False)


def _packed(
    base: Base,
    config: Any,
    updates: Mapping[tuple[int, str], Factors],
    head: Mapping[str, torch.Tensor],
    peft_config: Mapping[str, object],
    prefix_dropout: bool,
) -> PackedClassifier:
    family = FAMILIES[base.shape.family]
    number_type = hardware.SIXTEEN_BITS.get(base.precision, torch.float32)
    loaded = weights.load(base.checkpoint, family, base.shape.depth, number_type, base.device)
    frozen = PackedEncoder(loaded, family, _numbers(family, config))

    def linear(path: str) -> Linear:
        if f"{path}.weight" in head:
            return Linear(head[f"{path}.weight"], head[f"{path}.bias"])
        if loaded.pooler is None:
            raise ModelError(
                f"model {base.checkpoint.name} lacks {path}",
                remedy="fetch the checkpoint again, or choose another",
            )
        return loaded.pooler

    paths = {
        (layer, matrix.name): f"{FILE_PREFIX}{matrix.path}"
        for layer, of_layer in enumerate(base.shape.layers)
        for matrix in of_layer
    }
    named: dict[str, torch.Tensor] = {}
    for place, factors in sorted(updates.items(), key=lambda item: paths[item[0]]):
        named[f"{paths[place]}.lora_A.weight"] = factors.a_RI
        named[f"{paths[place]}.lora_B.weight"] = factors.b_OR
    named.update({f"{FILE_PREFIX}{name}": tensor for name, tensor in head.items()})
    return PackedClassifier(
        frozen,
        Adapter(updates, Head(linear(family.dense), linear(family.output)), named, peft_config),
        base.precision,
        base.sha256,
        prefix_dropout=prefix_dropout,
    )


def _numbers(family: Family, config: Any) -> Numbers:
    epsilon = family.epsilon
    set_rates = [getattr(config, name, None) for name in family.head_dropout]
    return Numbers(
        heads=config.num_attention_heads,
        epsilon=float(getattr(config, epsilon) if isinstance(epsilon, str) else epsilon),
        activation=getattr(config, family.hidden_activation),
        padding=int(config.pad_token_id or 0),
        hidden_dropout=float(getattr(config, family.hidden_dropout)),
        head_dropout=float(next(rate for rate in set_rates if rate is not None)),
    )


def _empty_head(shape: Shape, family: Family, classes: int) -> dict[str, torch.Tensor]:
    """Tensors of the head's layers, in the shape's order."""
    outputs = {family.dense: shape.width, family.output: classes}
    found: dict[str, torch.Tensor] = {}
    for layer in shape.head:
        found[f"{layer.path}.weight"] = torch.empty(outputs[layer.path], shape.width)
        found[f"{layer.path}.bias"] = torch.empty(outputs[layer.path])
    return found


def _parameter(tensor: torch.Tensor, device: torch.device) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.to(device))
