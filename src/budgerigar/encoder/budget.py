"""Counts and plans trainable parameters from a shape alone.

A low-rank update of a matrix with I inputs and O outputs at rank R holds
R * (I + O) parameters (Hu et al. 2021, arXiv:2106.09685, section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from budgerigar.encoder.shape import MATRIX_NAMES, Matrix, Shape
from budgerigar.errors import BudgetError, SelectorError, nearest

Part = Literal["adapter", "head", "other"]
SHORT_NAMES = {"q": "query", "k": "key", "v": "value", "o": "attention_output", **MATRIX_NAMES}
TARGET_CHOICES = (
    ("query", "value"),
    ("query", "key", "value"),
    ("query", "key", "value", "attention_output"),
    ("all",),
)
"""The choices of targets that `fits` compares."""


@dataclass(frozen=True)
class Selection:
    """What trains: which matrices at which ranks, which biases, how much of the head.

    Attributes:
        targets: names of matrices, or `all`.
        layers: layer numbers, counted from 0 at the embeddings.
        rank: rank of every update that `ranks` does not name.
        ranks: layer -> rank.
        bias: `none`, `all` or `lora_only`.
        head: `full` or `output`.
    """

    targets: tuple[str, ...]
    layers: tuple[int, ...]
    rank: int
    ranks: Mapping[int, int]
    bias: str
    head: str

    def rank_of(self, layer: int) -> int:
        """The rank of the updates in a layer."""
        return self.ranks.get(layer, self.rank)


@dataclass(frozen=True)
class Group:
    """Parameters that train together.

    Attributes:
        part: `adapter`, `head` or `other` (biases).
        layer: layer number, None outside the layers.
        matrix: the matrix's name, the head module's path, or `bias`.
        rank: rank of a low-rank update, else None.
        parameters: how many there are.
    """

    part: Part
    layer: int | None
    matrix: str
    rank: int | None
    parameters: int


@dataclass(frozen=True)
class Fit:
    """The largest rank inside the budget for a choice of targets and head; 0 if none is."""

    targets: tuple[str, ...]
    head: str
    rank: int
    trainable: int


def select(shape: Shape, selection: Selection) -> list[tuple[int, Matrix]]:
    """The matrices that get a low-rank update, with their layers.

    Raises:
        SelectorError: when a target or a layer matches nothing, or a target lies in the head.
    """
    missing = {n for n in (*selection.layers, *selection.ranks) if not 0 <= n < shape.depth}
    if missing:
        # `last:9` of four layers counts down below the first one.
        numbers = ", ".join(str(n) for n in sorted(missing) if n >= 0)
        raise SelectorError(
            "adapter.layers names layers that the model does not have"
            + (f": {numbers}" if numbers else ""),
            why=f"it has layers 0 to {shape.depth - 1}",
            remedy=f"its top third is adapter.layers=last:{-(-shape.depth // 3)}",
        )
    if idle := sorted(set(selection.ranks) - set(selection.layers)):
        raise SelectorError(
            f"adapter.ranks names layers that adapter.layers does not: {idle}",
            remedy="add them to adapter.layers or remove their ranks",
        )
    names = {SHORT_NAMES.get(target, target) for target in selection.targets}
    available = {matrix.name for layer in shape.layers for matrix in layer}
    for name in sorted(names - available - {"all"}):
        _refuse_target(name, available, shape)
    return [
        (number, matrix)
        for number in sorted(set(selection.layers))
        for matrix in shape.layers[number]
        if "all" in names or matrix.name in names
    ]


def _refuse_target(name: str, available: set[str], shape: Shape) -> None:
    overlap = [
        part.path
        for part in shape.head
        if part.path == name or f".{part.path}".endswith(f".{name}")
    ]
    if overlap:
        raise SelectorError(
            f"adapter.targets: {name!r} is part of the head ({', '.join(overlap)})",
            why="the head is trained itself and cannot carry a low-rank update too",
            remedy=f"choose among {', '.join(sorted(available))}",
        )
    raise SelectorError(
        f"adapter.targets: {name!r} matches no matrix of the model{nearest(name, available)}",
        remedy=f"choose among {', '.join(sorted(available))}, or all",
    )


def count(shape: Shape, selection: Selection) -> list[Group]:
    """Every group of trainable parameters, from the embeddings to the head."""
    chosen = select(shape, selection)
    groups = [
        Group("adapter", layer, m.name, rank, rank * (m.inputs + m.outputs))
        for layer, m in chosen
        for rank in (selection.rank_of(layer),)
    ]
    if selection.bias == "all":
        groups += [
            Group("other", layer, "bias", None, number)
            for layer, number in sorted(
                shape.biases.items(), key=lambda item: -1 if item[0] is None else item[0]
            )
        ]
    elif selection.bias == "lora_only":
        groups += [
            Group("other", layer, f"{m.name} bias", None, m.bias) for layer, m in chosen if m.bias
        ]
    groups += [
        Group("head", None, layer.path, None, layer.parameters)
        for layer in shape.head
        if selection.head == "full" or layer.output
    ]
    return groups


def totals(groups: Sequence[Group]) -> dict[str, int]:
    """`total`, `adapter`, `head` and `other` parameters."""
    parts = {"adapter": 0, "head": 0, "other": 0}
    for group in groups:
        parts[group.part] += group.parameters
    return {"total": sum(parts.values()), **parts}


def require(groups: Sequence[Group], max_trainable: int) -> None:
    """Refuses a plan over the budget.

    Raises:
        BudgetError: with the numbers.
    """
    sums = totals(groups)
    if sums["total"] > max_trainable:
        raise BudgetError(
            f"{sums['total']:,} trainable parameters are {sums['total'] - max_trainable:,} over "
            f"the budget of {max_trainable:,}",
            why=f"adapter {sums['adapter']:,}, head {sums['head']:,}, other {sums['other']:,}",
            remedy="lower adapter.rank, take fewer adapter.layers or adapter.targets, or set "
            "adapter.head=output; budgie plan --fit shows what fits",
        )


def fits(shape: Shape, selection: Selection, max_trainable: int) -> list[Fit]:
    """The largest rank inside the budget for each choice of targets and head.

    Layers and biases are the selection's; the recipe's own targets come first.
    """
    own = tuple(SHORT_NAMES.get(target, target) for target in selection.targets)
    available = {matrix.name for layer in shape.layers for matrix in layer}
    found: dict[tuple[tuple[str, ...], str], Fit] = {}
    for targets in (own, *TARGET_CHOICES):
        if not set(targets) <= available | {"all"}:
            continue  # an architecture without these names
        for head in ("full", "output"):
            one = replace(selection, targets=targets, head=head, rank=1, ranks={})
            chosen = [matrix for _, matrix in select(shape, one)]
            named = tuple(dict.fromkeys(matrix.name for matrix in chosen))
            sums = totals(count(shape, one))
            rest = sums["total"] - sums["adapter"]
            full_rank = min(min(matrix.inputs, matrix.outputs) for matrix in chosen)
            rank = max(0, min(full_rank, (max_trainable - rest) // sums["adapter"]))
            found[named, head] = Fit(named, head, rank, rest + rank * sums["adapter"])
    return list(found.values())
