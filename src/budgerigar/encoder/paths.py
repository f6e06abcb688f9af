"""Which path computes a classifier, and why: the packed engine where it knows the
architecture and all that the adapter asks for, else transformers + PEFT.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from budgerigar.encoder import adapter_files, hardware, modernbert, reference, weights
from budgerigar.encoder.adapter_files import Obstacle, ReadAdapter, Stored
from budgerigar.encoder.budget import Selection, select
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.engine import Adapter, PackedClassifier
from budgerigar.encoder.families import (
    FAMILIES,
    MODERNBERT,
    Family,
    obstacle,
    unknown_architecture,
)
from budgerigar.encoder.frozen import FrozenBase
from budgerigar.encoder.initial import FILE_PREFIX, draw_head, draw_updates
from budgerigar.encoder.interface import Encoder
from budgerigar.encoder.lora import Factors, LowRank
from budgerigar.encoder.model import PackedEncoder
from budgerigar.encoder.postnorm import Numbers, PostNormEncoder
from budgerigar.encoder.shape import Shape, classifier_config, meta_classifier
from budgerigar.errors import ModelError

KEPT_DROPOUTS = Dropouts(hidden=None, attention=None, prefix=False)
"""The checkpoint's own."""


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


@dataclass(frozen=True)
class Start:
    """How a run begins.

    Attributes:
        selection: what trains.
        low_rank: the updates' numbers.
        seed: of everything that is drawn.
    """

    selection: Selection
    low_rank: LowRank
    seed: int


def fresh(
    base: Base,
    selection: Selection,
    low_rank: LowRank,
    dropouts: Dropouts,
    *,
    seed: int,
    force_reference: bool,
) -> Encoder:
    """A pretrained encoder with a new adapter and a new head; see `fresh_cohort`."""
    start = Start(selection, low_rank, seed)
    return fresh_cohort(base, [start], dropouts, force_reference=force_reference)[0]


def fresh_cohort(
    base: Base, starts: Sequence[Start], dropouts: Dropouts, *, force_reference: bool
) -> list[Encoder]:
    """Encoders with new adapters and new heads; those that the engine computes share a base.

    Args:
        base: what is frozen.
        starts: one for each run.
        dropouts: rates asked for.
        force_reference: whether the engine stands aside.

    Raises:
        ModelError: when the checkpoint lacks weights of the encoder.
        SelectorError: when a selection matches nothing.
    """
    shape = base.shape
    encoders: list[Encoder] = []
    loaded: LoadedBase | None = None
    for start in starts:
        if force_reference or obstacle(base.checkpoint, shape, start.selection, dropouts):
            encoders.append(
                reference.fresh(
                    base.checkpoint,
                    shape,
                    base.classes,
                    start.selection,
                    start.low_rank,
                    dropouts,
                    seed=start.seed,
                    precision=base.precision,
                    device=base.device,
                )
            )
        else:
            loaded = loaded or load_base(base, dropouts)
            encoders.append(_fresh_on(loaded, base, start, prefix_dropout=dropouts.prefix))
    return encoders


def _fresh_on(
    loaded: LoadedBase, base: Base, start: Start, *, prefix_dropout: bool
) -> PackedClassifier:
    shape, selection, low_rank = base.shape, start.selection, start.low_rank
    generator = torch.Generator().manual_seed(start.seed)
    head = _head_of(base.checkpoint, shape, base.classes)
    draw_head(head.items(), loaded.config.initializer_range, generator)
    drawn = draw_updates(shape, selection, generator)
    trained = {layer.path for layer in shape.head if selection.head == "full" or layer.output}
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
        name: _parameter(tensor, base.device)
        if name.rpartition(".")[0] in trained
        else tensor.to(base.device)
        for name, tensor in head.items()
    }
    peft_config = adapter_files.peft_config(base.checkpoint, shape, selection, low_rank)
    config = adapter_files.config_to_json(peft_config)
    adapter = _adapter(loaded, base, updates, head, config)
    return PackedClassifier(loaded.frozen, adapter, prefix_dropout=prefix_dropout)


def from_adapter(base: Base, folder: Path) -> Encoder:
    """A pretrained encoder with an adapter from a folder, by whichever path can compute it.

    Raises:
        AdapterError: when the folder's files do not fit the model.
        ModelError: when the checkpoint lacks weights of the encoder.
    """
    stored = adapter_files.read_files(folder)
    try:
        read = _interpret(base, stored)
    except Obstacle:
        return reference.from_adapter(
            base.checkpoint,
            base.shape,
            base.classes,
            stored,
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
    loaded = load_base(base)
    adapter = _adapter(loaded, base, updates, head, read.config)
    return PackedClassifier(loaded.frozen, adapter, prefix_dropout=False)


def adapter_obstacle(base: Base, folder: Path) -> str:
    """Why the engine leaves an adapter to the reference path; empty where it does not.

    Raises:
        AdapterError: when the folder's files do not fit the model.
    """
    try:
        _interpret(base, adapter_files.read_files(folder))
    except Obstacle as obstacle:
        return str(obstacle)
    return ""


def _interpret(base: Base, stored: Stored) -> ReadAdapter:
    if why := unknown_architecture(base.checkpoint, base.shape):
        raise Obstacle(why)
    head = _head_of(base.checkpoint, base.shape, base.classes)
    shapes = {name: tuple(tensor.shape) for name, tensor in head.items()}
    return adapter_files.interpret(stored, base.shape, shapes)


@dataclass(frozen=True)
class LoadedBase:
    """A frozen base with its weights.

    Attributes:
        frozen: computes.
        kept: tensors of the checkpoint's own that a head reads, such as a frozen pooler.
        config: the classifier's configuration.
    """

    frozen: FrozenBase
    kept: Mapping[str, torch.Tensor]
    config: Any


def load_base(base: Base, dropouts: Dropouts = KEPT_DROPOUTS) -> LoadedBase:
    """Loads the weights of a base that the engine computes.

    Raises:
        ModelError: when the checkpoint lacks weights of the encoder.
    """
    if base.device.type == "cpu":
        hardware.keep_freed_memory()
    config = classifier_config(base.checkpoint, base.classes, dropouts.hidden, dropouts.attention)
    number_type = hardware.SIXTEEN_BITS.get(base.precision, torch.float32)
    promised = meta_classifier(base.checkpoint, base.classes).base_model.state_dict()
    shapes = {name: tensor.shape for name, tensor in promised.items()}
    encoder: PackedEncoder
    kept: Mapping[str, torch.Tensor] = {}
    if base.shape.family == MODERNBERT:
        encoder = modernbert.load(base.checkpoint, config, number_type, base.device, shapes)
    else:
        family = FAMILIES[base.shape.family]
        depth = base.shape.depth
        loaded = weights.load(base.checkpoint, family, depth, number_type, base.device, shapes)
        encoder = PostNormEncoder(loaded, family, _numbers(family, config))
        kept = loaded.pooler
    frozen = FrozenBase(encoder, base.precision, _identity(base, config))
    return LoadedBase(frozen, kept, config)


def _adapter(
    loaded: LoadedBase,
    base: Base,
    updates: Mapping[tuple[int, str], Factors],
    head: Mapping[str, torch.Tensor],
    peft_config: Mapping[str, object],
) -> Adapter:
    kept = loaded.kept
    if base.shape.family in FAMILIES:
        dense = FAMILIES[base.shape.family].dense
        if f"{dense}.weight" not in {**kept, **head}:
            raise ModelError(
                f"model {base.checkpoint.name} lacks {dense}",
                why="its weights file holds no pooler, and only safetensors files tell so early",
                remedy="convert the checkpoint to safetensors: load and save it with transformers",
            )
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
    return Adapter(updates, {**kept, **head}, named, peft_config)


def _identity(base: Base, config: Any) -> str:
    """Of all that a frozen encoder computes: its weights and its configuration's numbers."""
    numbers = {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("id2label", "label2id", "transformers_version", "_name_or_path")
        and "dropout" not in name
    }
    text = json.dumps([base.sha256, numbers], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


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


def _head_of(checkpoint: Checkpoint, shape: Shape, classes: int) -> dict[str, torch.Tensor]:
    """Empty tensors of the head's layers, in the shape's order."""
    model = meta_classifier(checkpoint, classes)
    return {
        f"{layer.path}.{name}": torch.empty(parameter.shape)
        for layer in shape.head
        for name, parameter in model.get_submodule(layer.path).named_parameters(recurse=False)
    }


def _parameter(tensor: torch.Tensor, device: torch.device) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.to(device))
