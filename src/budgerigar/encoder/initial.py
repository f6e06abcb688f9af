"""How new parameters are drawn: the same on every path, from one generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from budgerigar.encoder.budget import Selection, select
from budgerigar.encoder.shape import Shape

FILE_PREFIX = "base_model.model."
"""Before a module's path in PEFT's adapter files."""


def draw_head(
    parameters: Iterable[tuple[str, torch.Tensor]], spread: float, generator: torch.Generator
) -> None:
    """Fills a head's parameters as transformers does: matrices from a normal distribution,
    biases with zeros, other vectors with ones.

    Args:
        parameters: names and tensors, changed in place, in the order of the shape's head.
        spread: standard deviation, the configuration's `initializer_range`.
        generator: of the run's seed.
    """
    for name, parameter in parameters:
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.normal_(0.0, spread, generator=generator)
            else:
                parameter.fill_(0.0 if "bias" in name else 1.0)


def draw_updates(
    shape: Shape, selection: Selection, generator: torch.Generator
) -> Mapping[str, torch.Tensor]:
    """New low-rank updates under the names of PEFT's files.

    A is uniform within 1 / sqrt(inputs), which is what PEFT's Kaiming draw amounts to, and B
    is zero, so that training starts at the pretrained model.
    """
    drawn: dict[str, torch.Tensor] = {}
    for layer, matrix in select(shape, selection):
        rank, bound = selection.rank_of(layer), matrix.inputs**-0.5
        a_RI = torch.empty(rank, matrix.inputs).uniform_(-bound, bound, generator=generator)
        drawn[f"{FILE_PREFIX}{matrix.path}.lora_A.weight"] = a_RI
        drawn[f"{FILE_PREFIX}{matrix.path}.lora_B.weight"] = torch.zeros(matrix.outputs, rank)
    return drawn
