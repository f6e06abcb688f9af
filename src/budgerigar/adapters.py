"""The adapter folder: PEFT's files, and what makes it predict alone.

Beside `adapter_config.json` and `adapter_model.safetensors` it holds the tokenizer, a
model card, and `budgerigar.json`: classes, maximum length, the base and its hash, and
a probe, a few texts with the logits that the adapter must give for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from budgerigar.errors import AdapterError
from budgerigar.files import whole_folder, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from budgerigar.encoder.interface import Encoder

METADATA = "budgerigar.json"
SCHEMA = 1
PROBE_TEXTS = (
    "Parliament votes tonight on the peace treaty, and nobody dares to count.",
    "Two goals in stoppage time sent the visitors home with nothing.",
    "Shares fell 3 percent after the bank warned of weaker profits.",
    "A telescope the size of a bus has seen water on a planet far away.",
    "ok",
)
"""Texts of the probe in adapters written now; each folder carries its own."""


@dataclass(frozen=True)
class AdapterInfo:
    """What `budgerigar.json` says.

    Attributes:
        model, revision, model_sha256: the base that the adapter belongs to.
        classes: class names in the order of the logits.
        max_length: texts are cut at so many tokens, as in training.
        precision: number type that the frozen products were computed in.
        trainable: counts of trained parameters: total, adapter, head, other.
        probe: texts with their logits.
    """

    # Read from folders that others may have written: pydantic holds them to it.
    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    revision: str | None
    model_sha256: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    max_length: Annotated[int, Field(ge=1)]
    precision: Annotated[str, Field(pattern="^(float32|bfloat16|float16)$")]
    trainable: dict[str, int]
    probe: tuple[tuple[str, tuple[float, ...]], ...]


def write_adapter(
    folder: Path,
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase,
    info: AdapterInfo,
    results: Sequence[str] = (),
) -> None:
    """Writes the adapter folder, in place of the one before, whole or not at all.

    Args:
        folder: where.
        encoder: gives tensors and configuration.
        tokenizer: the checkpoint's.
        info: the rest.
        results: lines for the model card.
    """
    from safetensors.torch import save

    with whole_folder(folder) as temporary:
        tensors = save(encoder.state(), {"format": "pt"})
        (temporary / "adapter_model.safetensors").write_bytes(tensors)
        write_json(temporary / "adapter_config.json", encoder.adapter_config())
        tokenizer.save_pretrained(temporary)
        write_json(temporary / METADATA, {"schema": SCHEMA, **asdict(info)})
        (temporary / "README.md").write_text(model_card(info, results), encoding="utf-8")


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter's tensors by PEFT's names.

    Raises:
        AdapterError: when the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(folder / "adapter_model.safetensors")
        return tensors
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"the tensors in {folder} cannot be read",
            why=str(error),
            remedy="copy or train the adapter again",
        ) from error


def read_info(folder: Path) -> AdapterInfo:
    """Reads `budgerigar.json`.

    Raises:
        AdapterError: when the folder is not an adapter that `budgie` wrote, is damaged, or holds
            links to files elsewhere.
    """
    if not folder.is_dir():
        raise AdapterError(f"adapter folder {folder} does not exist", remedy="check its name")
    if not (folder / METADATA).is_file() and (folder / "adapter" / METADATA).is_file():
        raise AdapterError(
            f"{folder} is a run's folder", remedy=f"name its adapter: {folder / 'adapter'}"
        )
    _require_own_files(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors", METADATA):
        if not (folder / name).is_file():
            raise AdapterError(
                f"{folder} is not a whole adapter folder",
                why=f"{name} is missing",
                remedy="name the adapter/ folder of a run, with all of its files",
            )
    try:
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise ValueError("it was written by another version of budgerigar")
        # Strict JSON: a number is no text, and nothing is unknown.
        info = TypeAdapter(AdapterInfo).validate_json(json.dumps(content), strict=True)
        if not info.probe or {len(row) for _, row in info.probe} != {len(info.classes)}:
            raise ValueError("its probe does not have a logit for each class")
    except ValidationError as error:
        fault = error.errors()[0]
        why = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        raise _unusable(folder / METADATA, why) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(folder / METADATA, str(error)) from error
    return info


def _require_own_files(folder: Path) -> None:
    """Refuses links that lead out of the folder, but into the store of the hub's cache."""
    home = Path(os.path.realpath(folder))
    for path in folder.iterdir():
        # Not Path.resolve, which raises for a link to itself.
        place = Path(os.path.realpath(path))
        if not place.is_relative_to(home) and place.parent != home.parent.parent / "blobs":
            raise _unusable(path, f"it is a link to {place}, outside the adapter's folder")


def _unusable(path: Path, why: str) -> AdapterError:
    return AdapterError(f"{path} cannot be used", why=why, remedy="train the adapter again")


def model_card(info: AdapterInfo, results: Sequence[str]) -> str:
    """The folder's README: what the adapter is, what it was measured at, how to use it."""
    counts = info.trainable
    lines = [
        "---",
        f"base_model: {json.dumps(info.model)}",
        "library_name: peft",
        "pipeline_tag: text-classification",
        "---",
        "",
        "# Text classifier",
        "",
        f"A low-rank adapter and classification head for `{info.model}`"
        + (f" at revision `{info.revision}`" if info.revision else "")
        + f" (weights' SHA-256 `{info.model_sha256}`), trained with budgerigar.",
        "",
        f"- Classes, in the order of the logits: {', '.join(info.classes)}",
        f"- Texts are cut at {info.max_length} tokens, in training and prediction alike.",
        f"- {counts['total']:,} trained parameters: adapter {counts['adapter']:,}, "
        f"head {counts['head']:,}, other {counts['other']:,}.",
        *(f"- {line}" for line in results),
        "",
        "`budgie predict FOLDER texts.csv` predicts with it, and `budgie verify FOLDER` checks",
        "that it gives the logits that it gave when it was written.",
        "`peft.PeftModel.from_pretrained` loads it onto the base model with "
        f"`num_labels={len(info.classes)}`.",
        "",
    ]
    return "\n".join(lines)
