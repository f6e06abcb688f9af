"""transformers + PEFT, used as notebooks use them, and at their best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification
from transformers.trainer_pt_utils import get_length_grouped_indices

from budgerigar.encoder import hardware


@dataclass(frozen=True)
class Method:
    """How the peer computes.

    Attributes:
        autocast: whether products run in bfloat16.
        grouped: whether texts of like length go together, as the Trainer groups them.
        pad_to: tokens that every text is padded to; None pads to the longest of a batch.
        lean: frozen weights in bfloat16 too, and no dropout of attention's probabilities.
    """

    autocast: bool
    grouped: bool
    pad_to: int | None
    lean: bool = False


NOTEBOOK = Method(autocast=False, grouped=False, pad_to=256)
BEST = Method(autocast=True, grouped=True, pad_to=None)
LEAN = Method(autocast=True, grouped=True, pad_to=None, lean=True)


def classifier(
    folder: Path, classes: int, layers: Sequence[int], seed: int, *, lean: bool = False
) -> PeftModel:
    """The course project's model: LoRA r=8 on query and value of some layers, and the head."""
    torch.manual_seed(seed)
    changes = {"dtype": torch.bfloat16, "attention_probs_dropout_prob": 0.0} if lean else {}
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=classes, **changes
    )
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=8,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules=["query", "value"],
        layers_to_transform=list(layers),
        layers_pattern="layer",
    )
    wrapped = get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped.to(hardware.device())


def batches(
    texts: Sequence[Sequence[int]], method: Method, size: int, seed: int
) -> Iterator[list[int]]:
    """Rows of an epoch's batches."""
    generator = torch.Generator().manual_seed(seed)
    if method.grouped:
        lengths = [len(text) for text in texts]
        rows = get_length_grouped_indices(lengths, size, generator=generator)
    else:
        rows = torch.randperm(len(texts), generator=generator).tolist()
    for first in range(0, len(rows), size):
        yield list(rows[first : first + size])


def logits(
    model: PeftModel, texts: Sequence[Sequence[int]], method: Method, padding: int
) -> torch.Tensor:
    """Logits `[B, C]` of some texts."""
    longest = method.pad_to or max(len(text) for text in texts)
    ids_BL = np.full((len(texts), longest), padding, dtype=np.int64)
    mask_BL = np.zeros_like(ids_BL)
    for row, text in enumerate(texts):
        ids_BL[row, : len(text)] = text[:longest]
        mask_BL[row, : len(text)] = 1
    device = hardware.device()
    ids, mask = torch.from_numpy(ids_BL).to(device), torch.from_numpy(mask_BL).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=method.autocast):
        output = model(input_ids=ids, attention_mask=mask)
    return output.logits.float()


def train_step(
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    texts: Sequence[Sequence[int]],
    labels: Sequence[int],
    method: Method,
    padding: int,
) -> None:
    """One optimizer step, clipped."""
    optimizer.zero_grad()
    found = logits(model, texts, method, padding)
    truth = torch.tensor(labels, device=found.device)
    torch.nn.functional.cross_entropy(found, truth).backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
