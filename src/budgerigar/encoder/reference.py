"""transformers + PEFT behind the encoder's interface.

Runs every architecture that transformers can classify with, and is the oracle that
faster paths are held against. It pads each batch to its longest text.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from budgerigar.encoder import weights
from budgerigar.encoder.adapter_files import Stored, config_to_json, peft_config
from budgerigar.encoder.budget import Part, Selection
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.hardware import SIXTEEN_BITS
from budgerigar.encoder.initial import FILE_PREFIX, draw_head, draw_updates
from budgerigar.encoder.interface import Tokens, Trainable, require_same
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import Shape, classifier_config, layer_of
from budgerigar.errors import AdapterError, ModelError


class ReferenceEncoder:
    """A frozen transformers classifier with PEFT's low-rank updates and a trained head."""

    path = "reference"

    def __init__(
        self,
        model: PeftModel,
        layers_path: str,
        precision: str,
        device: torch.device,
        without_dropout: Sequence[torch.nn.Module] = (),
    ) -> None:
        self._without_dropout = without_dropout
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

    def prepare(self, texts: Tokens, label: str) -> Tokens:
        """The texts as they are: every layer is computed anew each time."""
        return texts

    def logits(
        self, texts: Tokens, rows: np.ndarray, dropout: np.random.Generator | None
    ) -> torch.Tensor:
        """Logits `[B, C]`, float32, of some rows; see `interface.Encoder`.

        Dropout itself is drawn from torch's global generator, as transformers does.
        """
        training = dropout is not None
        ids_BL, mask_BL = _padded(*texts.batch(rows), self._pad, self.device)
        if self._model.training != training:
            self._model.train(training)
            for module in self._without_dropout:
                module.eval()
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
        require_same(self.state(), state)
        set_peft_model_state_dict(self._model, dict(state))

    def adapter_config(self) -> dict[str, object]:
        """PEFT's configuration of this adapter, ready for JSON."""
        return config_to_json(self._model.peft_config["default"])

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
    model, _ = _load_classifier(checkpoint, classes, dropouts, set(shape.saved_modules))
    generator = torch.Generator().manual_seed(seed)
    head = (
        (name, parameter)
        for layer in shape.head
        for name, parameter in model.get_submodule(layer.path).named_parameters(recurse=False)
    )
    draw_head(head, float(getattr(model.config, "initializer_range", 0.02)), generator)
    config = peft_config(checkpoint, shape, selection, low_rank)
    # PEFT puts the folder in the name's place, and warns where one was given.
    config.base_model_name_or_path = None
    with _quiet():
        wrapped = get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = checkpoint.name
    drawn = draw_updates(shape, selection, generator)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if (own := _file_name(name)) in drawn:
                parameter.copy_(drawn[own])
    if selection.head == "output":
        _freeze_all_but_output(wrapped, shape)
    frozen = [] if dropouts.prefix else _frozen_modules(model, shape, selection)
    return ReferenceEncoder(wrapped, shape.layers_path, precision, device, frozen)


def from_adapter(
    checkpoint: Checkpoint,
    shape: Shape,
    classes: int,
    stored: Stored,
    *,
    precision: str,
    device: torch.device,
) -> ReferenceEncoder:
    """A pretrained encoder with an adapter from a folder, as `PeftModel.from_pretrained` reads it.

    Raises:
        AdapterError: when the folder's files do not fit the model, or lack a layer of the head
            that the checkpoint lacks too.
        ModelError: when the checkpoint lacks weights of the encoder.
    """
    no_change = Dropouts(None, None, prefix=True)
    model, made = _load_classifier(checkpoint, classes, no_change, set(shape.saved_modules))
    for name in made:
        if not any(f".{given}".endswith(f".{name}") for given in stored.tensors):
            raise AdapterError(
                f"adapter {stored.folder} lacks a part of the head: {name}",
                why="the base model lacks it too, so that it would be drawn at random",
                remedy="save the adapter with every layer of the head among modules_to_save",
            )
    config = stored.config
    config.inference_mode, config.base_model_name_or_path = True, None
    folder = str(stored.folder)
    try:
        with _quiet():
            wrapped = get_peft_model(model, config)
            report = wrapped.load_adapter(folder, "default", torch_device="cpu")
        if odd := [*report.missing_keys, *report.unexpected_keys]:
            raise ValueError(f"{odd[0]} is missing, or unknown")
    # What the folder holds decides which of PEFT's checks falls over it.
    except Exception as error:
        raise AdapterError(
            f"adapter {folder} does not load",
            why=" ".join(str(error).split())[:200],
            remedy="check that the folder is complete and belongs to this model",
        ) from error
    return ReferenceEncoder(wrapped, shape.layers_path, precision, device)


def _load_classifier(
    checkpoint: Checkpoint, classes: int, dropouts: Dropouts, saved_modules: set[str]
) -> tuple[Any, list[str]]:
    """The classifier, and the names of its tensors that the checkpoint does not hold."""
    config = classifier_config(checkpoint, classes, dropouts.hidden, dropouts.attention)
    with _quiet(), weights.loading(checkpoint):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            weights_only=True,
        )
    mismatched = [entry[0] for entry in report["mismatched_keys"]]
    made = sorted({*report["missing_keys"], *mismatched})
    lacking = [name for name in made if not saved_modules & set(name.split("."))]
    if lacking:
        raise ModelError(
            f"model {checkpoint.name} lacks {len(lacking)} tensors of its encoder: {lacking[0]}",
            why="its weights are not those of the architecture in config.json",
            remedy="fetch the checkpoint again, or choose another",
        )
    return model, made


def _frozen_modules(model: Any, shape: Shape, selection: Selection) -> list[torch.nn.Module]:
    """Embeddings and layers below everything that trains."""
    lowest = -1 if selection.bias == "all" else min(selection.layers)
    layers = [model.get_submodule(f"{shape.layers_path}.{n}") for n in range(max(0, lowest))]
    embeddings = getattr(model.base_model, "embeddings", None)
    return layers + ([embeddings] if lowest >= 0 and embeddings is not None else [])


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
    name = name.removeprefix(FILE_PREFIX).replace(".base_layer.", ".")
    return name.replace(".modules_to_save.default.", ".")


def _file_name(name: str) -> str:
    """The parameter's name in PEFT's file: without the adapter's own name."""
    for marker in (".lora_A.default.", ".lora_B.default.", ".modules_to_save.default."):
        kept = "." if "modules" in marker else marker.removesuffix("default.")
        name = name.replace(marker, kept)
    return name


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
