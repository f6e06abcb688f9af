"""PEFT's adapter files: the configuration that goes out, updates and head that come in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TaskType
from peft.utils.other import get_pattern_key

from budgerigar.encoder.budget import Selection, select
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.initial import FILE_PREFIX
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import Matrix, Shape
from budgerigar.errors import AdapterError

TENSORS = "adapter_model.safetensors"
UNDERSTOOD = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha",
    "lora_dropout", "use_rslora", "modules_to_save", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "megatron_core", "init_lora_weights", "bias",
    "qalora_group_size", "runtime_config",
}  # fmt: skip
"""Fields of a LoRA configuration that the engine reads, or that change nothing it computes."""


@dataclass(frozen=True)
class ReadUpdate:
    """A low-rank update from a file: its halves and its scale."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor
    scale: float


@dataclass(frozen=True)
class ReadAdapter:
    """An adapter that the engine can compute.

    Attributes:
        updates: by layer and matrix.
        head: the head's tensors by their module path and part, such as `classifier.weight`.
        config: PEFT's configuration.
    """

    updates: Mapping[tuple[int, str], ReadUpdate]
    head: Mapping[str, torch.Tensor]
    config: dict[str, object]


class Obstacle(Exception):
    """Why the engine leaves an adapter to the reference path."""


def peft_config(
    checkpoint: Checkpoint, shape: Shape, selection: Selection, low_rank: LowRank
) -> LoraConfig:
    """PEFT's configuration of a selection; every matrix is named by its full path."""
    chosen = select(shape, selection)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=selection.rank,
        lora_alpha=low_rank.alpha,
        lora_dropout=low_rank.dropout,
        use_rslora=low_rank.rslora,
        bias=selection.bias,
        target_modules=[matrix.path for _, matrix in chosen],
        rank_pattern={
            re.escape(matrix.path): selection.ranks[layer]
            for layer, matrix in chosen
            if layer in selection.ranks
        },
        modules_to_save=list(shape.saved_modules),
    )
    config.base_model_name_or_path = checkpoint.name
    config.revision = checkpoint.revision
    return config


def config_to_json(config: PeftConfig) -> dict[str, object]:
    """A configuration as PEFT's `adapter_config.json` holds it."""
    content: dict[str, Any] = config.to_dict()
    content["inference_mode"] = True
    for name in ("target_modules", "modules_to_save"):
        content[name] = sorted(content[name])
    return content


def read_adapter(folder: Path, shape: Shape) -> ReadAdapter:
    """Reads an adapter folder, whoever wrote it.

    Raises:
        Obstacle: when it asks for something that the engine does not compute.
        AdapterError: when its files cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / TENSORS).is_file():
        raise Obstacle(f"the adapter has no {TENSORS}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        tensors: dict[str, torch.Tensor] = load_file(folder / TENSORS)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise AdapterError(
            f"adapter {folder} does not load",
            why=" ".join(str(error).split())[:200],
            remedy="check that the folder is complete and belongs to this model",
        ) from error
    _require_understood(config)
    matrices = {
        f"{FILE_PREFIX}{matrix.path}": (layer, matrix)
        for layer, of_layer in enumerate(shape.layers)
        for matrix in of_layer
    }
    updates: dict[tuple[int, str], ReadUpdate] = {}
    head: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        module, half, _ = name.partition(".lora_A.weight")
        if half and module in matrices:
            layer, matrix = matrices[module]
            updates[layer, matrix.name] = _read_update(config, module, matrix, tensors)
        elif name.endswith(".lora_B.weight") and name.rpartition(".lora_B")[0] in matrices:
            continue
        else:
            head[name.removeprefix(FILE_PREFIX)] = tensor.float()
    modules = {name.rpartition(".")[0] for name in head}
    if odd := sorted(modules ^ {layer.path for layer in shape.head}):
        raise Obstacle(f"the adapter's file holds other modules than the head: {odd[0]}")
    return ReadAdapter(updates, head, config_to_json(config))


def _read_update(
    config: Any, module: str, matrix: Matrix, tensors: Mapping[str, torch.Tensor]
) -> ReadUpdate:
    a_RI = tensors[f"{module}.lora_A.weight"].float()
    b_OR = tensors.get(f"{module}.lora_B.weight")
    if (
        b_OR is None
        or a_RI.shape[1:] != (matrix.inputs,)
        or b_OR.shape != (matrix.outputs, a_RI.shape[0])
    ):
        raise AdapterError(
            f"the update of {matrix.path} is not whole, or of another shape",
            remedy="use the model that the adapter was trained with",
        )
    pattern = get_pattern_key(config.alpha_pattern.keys(), matrix.path)
    alpha = config.alpha_pattern.get(pattern, config.lora_alpha)
    scale = LowRank(alpha, 0.0, config.use_rslora).scale(a_RI.shape[0])
    return ReadUpdate(a_RI, b_OR.float(), scale)


def _require_understood(config: PeftConfig) -> None:
    if not isinstance(config, LoraConfig):
        raise Obstacle(f"the adapter is of PEFT's kind {config.peft_type}, not LoRA")
    if config.bias != "none":
        raise Obstacle("biases are trained")
    if config.init_lora_weights not in (True, False, "gaussian"):
        raise Obstacle(f"the adapter begins with {config.init_lora_weights}")
    plain, given = LoraConfig().to_dict(), config.to_dict()
    for field, value in given.items():
        if field not in UNDERSTOOD and value != plain.get(field):
            raise Obstacle(f"the adapter asks for {field}")
