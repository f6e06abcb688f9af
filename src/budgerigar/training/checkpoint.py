"""Saves the state of a run, finds the newest whole one again.

A checkpoint is two files: `step-N.safetensors` with every tensor, and
`step-N.json`, written after it, with the numbers, the tensors' SHA-256 and one of its own
content. One that was cut short or has flipped bits does not match its hashes, and the one before
is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from budgerigar.console import warn
from budgerigar.errors import RunError
from budgerigar.files import sha256_of_file, whole_file, write_json

KEPT = 2
OWN_HASH = "sha256_of_the_rest"
FORMAT = 3


@dataclass(frozen=True)
class Position:
    """Where a run stands, and what it must remember to go on as if never stopped.

    Attributes:
        step: optimizer steps taken.
        epoch: epoch in progress, from 0.
        step_in_epoch: optimizer steps taken in it.
        loss_sum: training losses of this epoch's steps, added up.
        best_epoch: epoch of the best validation so far, None before the first.
        best_accuracy, best_loss: its validation accuracy and loss.
        ended: whether nothing is left to train.
        failure: why it ended badly; empty where it did not.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    best_epoch: int | None = None
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    ended: bool = False
    failure: str = ""


def save(
    folder: Path,
    position: Position,
    trainable_names: list[str],
    tensors: dict[str, torch.Tensor],
    averages: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Writes a checkpoint and removes all but the newest `KEPT`.

    Args:
        folder: of the run's checkpoints.
        position: where the run stands.
        trainable_names: of the parameters that the optimizer holds, in its order.
        tensors: the adapter's, as `Encoder.state` gives them.
        averages: of the trainable parameters, by name; none where the run keeps none.
        optimizer: with its state.
        scaler: the loss scaler; disabled where the precision needs none.

    Raises:
        RunError: when the disk is full or the folder cannot be written.
    """
    named = {f"adapter/{name}": tensor for name, tensor in tensors.items()}
    named |= {f"average/{name}": tensor.cpu().contiguous() for name, tensor in averages.items()}
    scalars: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                named[f"optimizer/{index}/{key}"] = value.detach().cpu().contiguous()
            else:
                scalars[f"{index}/{key}"] = value
    named["generator/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        named["generator/cuda"] = torch.cuda.get_rng_state()
    path = folder / f"step-{position.step:08d}.safetensors"
    with whole_file(path) as temporary:
        temporary.write_bytes(save_tensors(named))
        digest = sha256_of_file(temporary)
    numbers = {
        "format": FORMAT,
        "sha256": digest,
        "position": {k: v for k, v in asdict(position).items() if v != float("inf")},
        "trainable": trainable_names,
        "optimizer": scalars,
        "scaler": scaler.state_dict(),
    }
    write_json(path.with_suffix(".json"), {**numbers, OWN_HASH: _hash_of(numbers)})
    for old in sorted(folder.glob("step-*.json"))[:-KEPT]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that was read whole: position, numbers and tensors by name."""

    position: Position
    numbers: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors, for `Encoder.load_state`."""
        return self._below("adapter/")

    def _below(self, folder: str) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(folder): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(folder)
        }

    def restore(
        self,
        trainable_names: list[str],
        averages: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Puts averages, optimizer, scaler and generators back as they were.

        Raises:
            RunError: when the checkpoint is of other trainable parameters.
        """
        kept = self._below("average/")
        if self.numbers["trainable"] != trainable_names or kept.keys() != averages.keys():
            raise RunError(
                "the checkpoint trains or averages other parameters than the recipe",
                remedy="resume with the recipe in the run's folder, or begin a new run",
            )
        for name, average in averages.items():
            average.copy_(kept[name])
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in self.tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                index, _, key = rest.partition("/")
                state.setdefault(int(index), {})[key] = tensor
        for name, value in self.numbers["optimizer"].items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        scaler.load_state_dict(self.numbers["scaler"])
        torch.set_rng_state(self.tensors["generator/cpu"])
        if "generator/cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["generator/cuda"])


def newest_common(folders: Sequence[Path]) -> list[Loaded | None]:
    """Where the runs of a cohort can go on together; says which checkpoints were passed over.

    Args:
        folders: of each run's checkpoints.

    Returns:
        A checkpoint of each run, all of the latest moment that every run has kept whole or
        has ended before; None for every run where there is no such moment.
    """
    whole = [list(_whole(folder)) for folder in folders]
    for moment in sorted({one.position.step for of_run in whole for one in of_run}, reverse=True):
        found = [_at(of_run, moment) for of_run in whole]
        if all(found):
            return found
    return [None] * len(folders)


def _at(whole: Sequence[Loaded], moment: int) -> Loaded | None:
    """A run's checkpoint of a cohort's moment, or the one with which it ended before."""
    for one in whole:
        step = one.position.step
        if step == moment or (step < moment and one.position.ended):
            return one
    return None


def _whole(folder: Path) -> Iterator[Loaded]:
    """The checkpoints that are whole, newest first."""
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            numbers = dict(json.loads(path.read_text(encoding="utf-8")))
            tensors_path = path.with_suffix(".safetensors")
            own = numbers.pop(OWN_HASH)
            if (
                numbers["format"] != FORMAT
                or _hash_of(numbers) != own
                or sha256_of_file(tensors_path) != numbers["sha256"]
            ):
                raise ValueError("its content does not match its hash")
            yield Loaded(Position(**numbers["position"]), numbers, load_file(tensors_path))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            warn(f"checkpoint {path.stem} is damaged ({error}); using the one before it")


def _hash_of(numbers: dict[str, Any]) -> str:
    """Hex SHA-256 of a checkpoint's numbers."""
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()
