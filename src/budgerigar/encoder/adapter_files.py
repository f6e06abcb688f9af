"""PEFT's adapter files: the configuration that goes out, updates and head that come in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftType, TaskType
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from budgerigar.encoder.budget import Selection, select
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.initial import FILE_PREFIX
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import Matrix, Shape
from budgerigar.errors import AdapterError

CONFIGURATION = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
OLD_TENSORS = "adapter_model.bin"
UNDERSTOOD = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha",
    "lora_dropout", "use_rslora", "modules_to_save", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "megatron_core", "init_lora_weights", "bias",
    "qalora_group_size", "runtime_config",
}  # fmt: skip
"""Fields of a LoRA configuration that the engine reads, or that change nothing it computes."""

READ_OTHERS = ("XLORA", "SHADOW")
"""Kinds of adapters for which PEFT loads further models or adapters by name."""
NAME_OTHERS = ("megatron_config", "prompt_tuning_init_state_dict_path", "tokenizer_name_or_path")
"""Fields from which PEFT imports a module or reads files elsewhere."""


@dataclass(frozen=True)
class Stored:
    """An adapter folder's content, whoever wrote it, readable but not yet understood.

    Attributes:
        folder: where it is, for messages.
        config: PEFT's configuration.
        tensors: by their names in the file; finite numbers with fractions.
    """

    folder: Path
    config: Any
    tensors: Mapping[str, torch.Tensor]


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
        config: PEFT's configuration, ready for JSON.
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
    for name, value in content.items():
        if isinstance(value, set) or (name == "modules_to_save" and value):
            content[name] = sorted(set(value))
    return content


def read_files(folder: Path) -> Stored:
    """Reads an adapter folder.

    Raises:
        AdapterError: when its files are missing or damaged.
    """
    from safetensors.torch import load_file

    # PEFT would ask the hub for a file that is not there.
    if not (folder / CONFIGURATION).is_file():
        raise _damaged(folder, f"{CONFIGURATION} is missing")
    # What the files hold decides what PEFT and torch fall over: any exception of theirs.
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:
        raise _damaged(folder, f"{CONFIGURATION}: {_one_line(error)}") from error
    if config.peft_type is None:
        raise _damaged(folder, f"{CONFIGURATION} says no peft_type")
    if config.peft_type in READ_OTHERS:
        raise _damaged(folder, f"an adapter of kind {config.peft_type.value} reads other folders")
    for field in NAME_OTHERS:
        if getattr(config, field, None) is not None:
            raise _damaged(folder, f"{field} in {CONFIGURATION} names what is not in the folder")
    try:
        if (folder / TENSORS).is_file():
            tensors: dict[str, torch.Tensor] = load_file(folder / TENSORS)
        elif (folder / OLD_TENSORS).is_file():
            tensors = torch.load(folder / OLD_TENSORS, map_location="cpu", weights_only=True)
        else:
            raise FileNotFoundError(f"{TENSORS} is missing")
    except Exception as error:
        raise _damaged(folder, _one_line(error)) from error
    if not isinstance(tensors, dict) or not tensors:
        raise _damaged(folder, "it holds no tensors")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise _damaged(folder, f"{name} holds other values than numbers with fractions")
        if not bool(tensor.isfinite().all()):
            raise _damaged(folder, f"{name} holds values that are no finite numbers")
    return Stored(folder, config, tensors)


def interpret(
    stored: Stored, shape: Shape, head_shapes: Mapping[str, tuple[int, ...]]
) -> ReadAdapter:
    """Makes out of a folder's content what the engine computes with.

    Args:
        stored: the content.
        shape: of the classifier.
        head_shapes: shapes of the head's tensors, by module path and part.

    Raises:
        Obstacle: when it asks for something that the engine does not compute.
        AdapterError: when it does not fit itself or the model.
    """
    config = stored.config
    _require_understood(config)
    rest = {name.removeprefix(FILE_PREFIX): tensor for name, tensor in stored.tensors.items()}
    updates: dict[tuple[int, str], ReadUpdate] = {}
    for layer, of_layer in enumerate(shape.layers):
        for matrix in of_layer:
            halves = [rest.pop(f"{matrix.path}.lora_{half}.weight", None) for half in "AB"]
            try:
                update = _read_update(config, matrix, *halves)
            except (re.error, TypeError, AttributeError, ValueError, ArithmeticError) as error:
                raise _damaged(stored.folder, f"{CONFIGURATION}: {_one_line(error)}") from error
            if update is not None:
                updates[layer, matrix.name] = update
    if odd := sorted(set(rest) ^ set(head_shapes)):
        raise Obstacle(f"the adapter's file and the head differ in {odd[0]}")
    for name, tensor in rest.items():
        if tensor.shape != head_shapes[name]:
            raise AdapterError(
                f"{name} has the shape {tuple(tensor.shape)} in adapter {stored.folder}, "
                f"and {head_shapes[name]} in the model",
                remedy="use the model and the number of classes that it was trained with",
            )
    head = {name: rest[name].float() for name in head_shapes}
    try:
        return ReadAdapter(updates, head, config_to_json(config))
    except (TypeError, ValueError) as error:
        raise _damaged(stored.folder, f"{CONFIGURATION}: {_one_line(error)}") from error


def _read_update(
    config: Any, matrix: Matrix, a_RI: torch.Tensor | None, b_OR: torch.Tensor | None
) -> ReadUpdate | None:
    """The update of a matrix, which must be there if and only if the configuration names it."""
    if a_RI is None and b_OR is None and not check_target_module_exists(config, matrix.path):
        return None
    rank = config.rank_pattern.get(_pattern(config.rank_pattern, matrix), config.r)
    alpha = config.alpha_pattern.get(_pattern(config.alpha_pattern, matrix), config.lora_alpha)
    if (
        a_RI is None
        or b_OR is None
        or a_RI.shape != (rank, matrix.inputs)
        or b_OR.shape != (matrix.outputs, rank)
        or not check_target_module_exists(config, matrix.path)
    ):
        raise AdapterError(
            f"the update of {matrix.path} is not whole, or not what {CONFIGURATION} or the "
            "model asks for",
            remedy="use the adapter's own files and the model that it was trained with",
        )
    scale = LowRank(alpha, 0.0, config.use_rslora).scale(rank)
    if not abs(scale) < torch.finfo(torch.float32).max:
        raise ValueError(f"updates are multiplied by {scale}")
    return ReadUpdate(a_RI.float(), b_OR.float(), scale)


def _pattern(patterns: Mapping[str, object], matrix: Matrix) -> str:
    key: str = get_pattern_key(patterns.keys(), matrix.path)
    return key


def _damaged(folder: Path, why: str) -> AdapterError:
    return AdapterError(
        f"adapter {folder} does not load",
        why=why,
        remedy="check that the folder is complete and belongs to this model",
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _require_understood(config: PeftConfig) -> None:
    if not isinstance(config, LoraConfig):
        kind = PeftType(config.peft_type).value
        raise Obstacle(f"the adapter is of PEFT's kind {kind}, not LoRA")
    if config.bias != "none":
        raise Obstacle("biases are trained")
    if config.init_lora_weights not in (True, False, "gaussian"):
        raise Obstacle(f"the adapter begins with {config.init_lora_weights}")
    plain, given = LoraConfig().to_dict(), config.to_dict()
    if config.target_modules is None:
        raise Obstacle("the adapter leaves its targets to PEFT")
    for field, value in given.items():
        if field not in UNDERSTOOD and value != plain.get(field):
            raise Obstacle(f"the adapter asks for {field}")
