"""transformers + PEFT behind the encoder's interface.

Runs every architecture that transformers can classify with, and is the oracle that
faster paths are held against. It pads each batch to its longest text.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from budgerigar.encoder.budget import Part, Selection, select
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.hardware import SIXTEEN_BITS
from budgerigar.encoder.interface import Trainable
from budgerigar.encoder.shape import Shape, classifier_config, layer_of
from budgerigar.errors import AdapterError, ModelError

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LowRank:
    """The numbers of a low-rank update beside its rank: scale, dropout, rank-stabilised or not."""

    alpha: float
    dropout: float
    rslora: bool


@dataclass(frozen=True)
class Dropouts:
    """Dropout of hidden states and of attention probabilities; None keeps the checkpoint's."""

    hidden: float | None
    attention: float | None


class ReferenceEncoder:
    """A frozen transformers classifier with PEFT's low-rank updates and a trained head."""

    def __init__(
        self, model: PeftModel, layers_path: str, precision: str, device: torch.device
    ) -> None:
        # transformers loads in evaluation mode, PEFT's wrapper says training: make them agree.
        self._model = model.to(device).eval()
        self._layers_path = layers_path
        self._pad = int(model.config.pad_token_id or 0)
        self.device = device
        self.precision = precision

    def trainables(self) -> list[Trainable]:
        """Every parameter that requires gradients, in the model's order."""
        return [
            Trainable(
                name=_file_name(name),
                tensor=parameter,
                part=_part(name),
                layer=layer_of(name, self._layers_path),
                factor="A" if ".lora_A." in name else "B" if ".lora_B." in name else "",
            )
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad
        ]

    def logits(self, ids_T: np.ndarray, offsets: np.ndarray, *, training: bool) -> torch.Tensor:
        """Logits `[B, C]`, float32, of packed tokens; see `interface.Encoder`."""
        ids_BL, mask_BL = _padded(ids_T, offsets, self._pad, self.device)
        if self._model.training != training:
            self._model.train(training)
        with self._autocast():
            output = self._model(input_ids=ids_BL, attention_mask=mask_BL)
        logits: torch.Tensor = output.logits.float()
        return logits

    def state(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors on the CPU, named as PEFT names them in its files."""
        state = get_peft_model_state_dict(self._model, save_embedding_layers=False)
        # With `bias: all` PEFT lists the head's biases again under its wrapper's names.
        return {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in state.items()
            if ".original_module." not in name and ".modules_to_save." not in name
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes up an adapter's tensors.

        Raises:
            AdapterError: when names or shapes differ from this encoder's own.
        """
        own = {name: tuple(tensor.shape) for name, tensor in self.state().items()}
        given = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if own != given:
            odd = sorted(set(own.items()) ^ set(given.items()))[0][0]
            raise AdapterError(
                f"adapter does not fit this model: {odd} is missing, unknown or of another shape",
                remedy="use the recipe and the model that it was trained with",
            )
        set_peft_model_state_dict(self._model, dict(state))

    def adapter_config(self) -> dict[str, object]:
        """PEFT's configuration of this adapter, ready for JSON."""
        config: dict[str, Any] = self._model.peft_config["default"].to_dict()
        config["inference_mode"] = True
        for name in ("target_modules", "modules_to_save"):
            config[name] = sorted(config[name])
        return config

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        number_type = SIXTEEN_BITS.get(self.precision)
        if number_type is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=number_type)


def fresh(
    checkpoint: Checkpoint,
    shape: Shape,
    classes: int,
    selection: Selection,
    low_rank: LowRank,
    dropouts: Dropouts,
    *,
    seed: int,
    precision: str,
    device: torch.device,
) -> ReferenceEncoder:
    """A pretrained encoder with a new adapter and a new head, both from `seed`.

    A head inside the checkpoint is never taken over.

    Raises:
        ModelError: when the checkpoint lacks weights of the encoder.
        SelectorError: when the selection matches nothing.
    """
    model = _load_classifier(checkpoint, classes, dropouts, set(shape.saved_modules))
    _renew_head(model, shape, torch.Generator().manual_seed(seed))
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=selection.rank,
        lora_alpha=low_rank.alpha,
        lora_dropout=low_rank.dropout,
        use_rslora=low_rank.rslora,
        bias=selection.bias,
        target_modules=[matrix.path for _, matrix in select(shape, selection)],
        rank_pattern={
            re.escape(matrix.path): selection.ranks[layer]
            for layer, matrix in select(shape, selection)
            if layer in selection.ranks
        },
        modules_to_save=list(shape.saved_modules),
    )
    config.base_model_name_or_path = checkpoint.name
    config.revision = checkpoint.revision
    with _seeded(seed), _quiet():
        wrapped = get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = checkpoint.name
    if selection.head == "output":
        _freeze_all_but_output(wrapped, shape)
    return ReferenceEncoder(wrapped, shape.layers_path, precision, device)


def from_adapter(
    checkpoint: Checkpoint,
    shape: Shape,
    classes: int,
    adapter: Path,
    *,
    precision: str,
    device: torch.device,
) -> ReferenceEncoder:
    """A pretrained encoder with an adapter from a folder, as `PeftModel.from_pretrained` reads it.

    Raises:
        AdapterError: when the folder's files do not fit the model.
        ModelError: when the checkpoint lacks weights of the encoder.
    """
    no_change = Dropouts(None, None)
    model = _load_classifier(checkpoint, classes, no_change, set(shape.saved_modules))
    try:
        with _quiet():
            config = PeftConfig.from_pretrained(str(adapter))
            wrapped = PeftModel.from_pretrained(model, str(adapter), config=config)
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise AdapterError(
            f"adapter {adapter} does not load",
            why=" ".join(str(error).split())[:200],
            remedy="check that the folder is complete and belongs to this model",
        ) from error
    return ReferenceEncoder(wrapped, shape.layers_path, precision, device)


def _load_classifier(
    checkpoint: Checkpoint, classes: int, dropouts: Dropouts, saved_modules: set[str]
) -> Any:
    config = classifier_config(checkpoint, classes, dropouts.hidden, dropouts.attention)
    with _quiet():
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"weights of model {checkpoint.name} cannot be loaded",
                why=" ".join(str(error).split())[:200],
                remedy="fetch the checkpoint again, or choose another",
            ) from error
    mismatched = [entry[0] for entry in report["mismatched_keys"]]
    lacking = [
        name
        for name in (*report["missing_keys"], *mismatched)
        if not saved_modules & set(name.split("."))
    ]
    if lacking:
        raise ModelError(
            f"model {checkpoint.name} lacks {len(lacking)} tensors of its encoder: {lacking[0]}",
            why="its weights are not those of the architecture in config.json",
            remedy="fetch the checkpoint again, or choose another",
        )
    return model


def _renew_head(model: Any, shape: Shape, generator: torch.Generator) -> None:
    """New weights for every layer of the head, as transformers draws them, from one generator."""
    spread = float(getattr(model.config, "initializer_range", 0.02))
    for layer in shape.head:
        module = model.get_submodule(layer.path)
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, spread, generator=generator)
                else:
                    parameter.fill_(0.0 if "bias" in name else 1.0)


def _freeze_all_but_output(model: PeftModel, shape: Shape) -> None:
    output = next(layer.path for layer in shape.head if layer.output)
    for name, parameter in model.named_parameters():
        if _part(name) == "head" and not _plain_name(name).startswith(f"{output}."):
            parameter.requires_grad_(False)


def _padded(
    ids_T: np.ndarray, offsets: np.ndarray, pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed tokens -> ids and mask `[B, L]`."""
    lengths_B = np.diff(offsets)
    mask_BL = np.arange(lengths_B.max())[None, :] < lengths_B[:, None]
    ids_BL = np.full(mask_BL.shape, pad, dtype=np.int64)
    ids_BL[mask_BL] = ids_T
    return (
        torch.from_numpy(ids_BL).to(device, non_blocking=True),
        torch.from_numpy(mask_BL.astype(np.int64)).to(device, non_blocking=True),
    )


def _part(name: str) -> Part:
    if ".lora_A." in name or ".lora_B." in name:
        return "adapter"
    return "head" if ".modules_to_save." in name else "other"


def _plain_name(name: str) -> str:
    """The parameter's name in the plain transformers classifier."""
    name = name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
    return name.replace(".modules_to_save.default.", ".")


def _file_name(name: str) -> str:
    """The parameter's name in PEFT's file: without the adapter's own name."""
    for marker in (".lora_A.default.", ".lora_B.default.", ".modules_to_save.default."):
        kept = "." if "modules" in marker else marker.removesuffix("default.")
        name = name.replace(marker, kept)
    return name


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PEFT draws from the global generator; it is put back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' loading report off the screen: a new head is what we ask for."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT still uses names that transformers 5 renames.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(before)
