"""Layer-wise parameter groups, optimizers, schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from budgerigar.encoder.interface import Trainable

CLASSES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adagrad": torch.optim.Adagrad,
    "adafactor": torch.optim.Adafactor,
}


FUSED = ("adamw", "adam")
"""Optimizers that can take the step of all tensors of a group at once."""
CAPTURABLE = ("adamw", "adam", "rmsprop")
"""Optimizers whose step a CUDA graph can hold: with rates and counts of steps on the device,
where a replayed graph finds new ones."""


@dataclass(frozen=True)
class Rates:
    """Peak learning rates by place.

    Attributes:
        base: where no other is given.
        head: of the head.
        layers: layer -> rate, in place of `base`.
        decay: each layer's rate is its upper neighbour's times this.
        lora_plus: rate of LoRA's B over that of A.
        depth: layers of the encoder.
    """

    base: float
    head: float
    layers: Mapping[int, float]
    decay: float
    lora_plus: float
    depth: int

    def of(self, part: str, layer: int | None, factor: str = "") -> float:
        """The peak rate of a parameter; `layer` None stands below layer 0, at the embeddings."""
        if part == "head":
            return self.head
        below_top = self.depth - (0 if layer is None else layer + 1)
        rate = self.base if layer is None else self.layers.get(layer, self.base)
        return rate * self.decay**below_top * (self.lora_plus if factor == "B" else 1.0)


def build(
    trainables: Sequence[Trainable],
    rates: Rates,
    name: str,
    options: Mapping[str, Any],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """An optimizer whose groups hold each trainable parameter exactly once.

    Each group keeps its peak rate under `peak`; `set_rates` scales from there.

    Args:
        trainables: all that trains.
        rates: their peak rates.
        name: a key of `CLASSES`.
        options: the optimizer's own options, by torch's names.
        weight_decay: of every group.
    """
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for one in trainables:
        groups.setdefault(rates.of(one.part, one.layer, one.factor), []).append(one.tensor)
    device = trainables[0].tensor.device
    capturable = device.type == "cuda" and name in CAPTURABLE

    def rate(peak: float) -> float | torch.Tensor:
        return torch.tensor(peak, device=device) if capturable else peak

    return CLASSES[name](
        [{"params": tensors, "lr": rate(peak), "peak": peak} for peak, tensors in groups.items()],
        weight_decay=weight_decay,
        **({"fused": True} if name in FUSED else {}),
        **({"capturable": True} if capturable else {}),
        **options,
    )


class Together:
    """Takes the steps of several optimizers of one class at once, over their states.

    Groups that are alike, of whichever optimizer, are one for it, with the rate of the first:
    rates of groups with the same peak must be the same in every step.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        groups: dict[str, dict[str, Any]] = {}
        self._firsts: list[dict[str, Any]] = []
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                named = sorted(set(group) - {"params", "lr"})
                alike = repr([(name, group[name]) for name in named])
                if alike not in groups:
                    groups[alike] = {**group, "params": []}
                    self._firsts.append(group)
                groups[alike]["params"].extend(group["params"])
        self._one = CLASSES[name_of(optimizers[0])](list(groups.values()))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                # The very same: a first step fills them.
                states = {tensor: optimizer.state[tensor] for tensor in group["params"]}
                self._one.state.update(states)

    def step(self) -> None:
        """Every optimizer's step, with the rates that are set now."""
        for group, first in zip(self._one.param_groups, self._firsts, strict=True):
            group["lr"] = first["lr"]
        self._one.step()


def name_of(optimizer: torch.optim.Optimizer) -> str:
    """Its key in `CLASSES`."""
    return next(name for name, made in CLASSES.items() if type(optimizer) is made)


def schedule(name: str, step: int, total: int, warmup: float) -> float:
    """The share of the peak rate at a step.

    Args:
        name: `linear`, `cosine` or `constant` after the warm-up.
        step: optimizer steps already taken, from 0.
        total: steps of the whole run.
        warmup: share of `total` during which the rate grows in a line from 0.
    """
    rising = math.ceil(total * warmup)
    if step < rising:
        return step / rising
    if name == "constant":
        return 1.0
    done = (step - rising) / max(1, total - rising)
    return 1.0 - done if name == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Sets every group's rate to a share of its peak, and gives the highest."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(group["peak"] * share)
        else:
            group["lr"] = group["peak"] * share
    return max(float(group["peak"]) for group in optimizer.param_groups) * share
