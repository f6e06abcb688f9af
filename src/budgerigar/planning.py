"""Recipe -> plan: what trains at which rate, what the budget leaves, what it will cost.

Needs the checkpoint's configuration only: nothing is loaded before the plan is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from budgerigar.encoder import budget, checkpoints
from budgerigar.encoder.budget import Group, Selection
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.cost import Cost, Workload, estimate
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.families import FAMILIES, obstacle
from budgerigar.encoder.shape import Shape, read_shape
from budgerigar.errors import RecipeError
from budgerigar.recipe import Recipe, layer_numbers
from budgerigar.training.optimizer import Rates

ASSUMED_TEXTS = 120_000
ASSUMED_TOKENS = 50.0
"""AG News' training set, where the recipe's own texts are not at hand."""


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Attributes:
        recipe: what was planned.
        checkpoint: where its model is.
        classes: class names.
        shape: of the classifier.
        selection: what trains.
        groups: every group of trainable parameters.
        rates: peak learning rates.
        notes: rates without effect, and which path computes.
        max_length: longest text in tokens: the recipe's, or the model's where that is less.
        dropouts: rates asked for.
        path: which path computes, `engine` or `reference`.
    """

    recipe: Recipe
    checkpoint: Checkpoint
    classes: tuple[str, ...]
    shape: Shape
    selection: Selection
    groups: list[Group]
    rates: Rates
    notes: tuple[str, ...]
    max_length: int
    dropouts: Dropouts
    path: str

    @property
    def trainable(self) -> dict[str, int]:
        """Trainable parameters: total, adapter, head, other."""
        return budget.totals(self.groups)

    def fits(self) -> list[budget.Fit]:
        """The largest rank for each choice of targets and head inside the budget."""
        return budget.fits(self.shape, self.selection, self.recipe.budget.max_trainable)

    def cost(self, work: Workload, precision: str) -> Cost:
        """Estimates the run, timing a product of the model's own width on this machine."""
        from budgerigar.encoder import hardware

        widest = max(m.outputs for m in self.shape.layers[-1])
        rate = hardware.product_rate(self.shape.width, widest, precision, hardware.device())
        packed = self.path == "engine"
        return estimate(
            self.shape,
            self.groups,
            work,
            rate,
            prefix_once=packed and not self.dropouts.prefix,
            one_query=packed and self.shape.family in FAMILIES,
        )

    def to_json(self) -> dict[str, Any]:
        """The plan for programs, and for the run's folder."""
        limit = self.recipe.budget.max_trainable
        return {
            "recipe": self.recipe.name,
            "model": self.recipe.model.name,
            "classes": list(self.classes),
            "max_length": self.max_length,
            "layers": self.recipe.adapter.layers,
            "path": self.path,
            "trainable": self.trainable,
            "budget": {"max_trainable": limit, "left": limit - self.trainable["total"]},
            "groups": [
                {**asdict(group), "rate": self.rates.of(group.part, group.layer)}
                for group in self.groups
            ],
            "notes": list(self.notes),
            "fit": [asdict(fit) for fit in self.fits()],
        }


def make_plan(recipe: Recipe, classes: Sequence[str], *, weights: bool = False) -> Plan:
    """Plans a recipe and enforces its budget.

    Args:
        recipe: what to plan.
        classes: class names, from the recipe or from the data.
        weights: whether the checkpoint's weights will be needed too.

    Raises:
        BudgetError: over the budget.
        SelectorError: a selector matches nothing or overlaps the head.
        RecipeError: every learning rate of the adapter is 0.
        ModelError: the checkpoint's configuration cannot be had.
    """
    checkpoint = checkpoints.locate(recipe.model.name, recipe.model.revision, weights=weights)
    shape = read_shape(checkpoint, len(classes))
    adapter = recipe.adapter
    ranks = {
        layer: rank
        for spec, rank in adapter.ranks.items()
        for layer in layer_numbers(spec, shape.depth)
    }
    selection = Selection(
        targets=adapter.targets,
        layers=tuple(layer_numbers(adapter.layers, shape.depth)),
        rank=adapter.rank,
        ranks=ranks,
        bias=adapter.bias,
        head=adapter.head,
    )
    groups = budget.count(shape, selection)
    rates = rates_of(recipe, shape.depth)
    if not any(rates.of(group.part, group.layer) for group in groups if group.part == "adapter"):
        raise RecipeError(
            recipe.name, ["optimizer.rate: every rate of the adapter is 0, so that it cannot train"]
        )
    budget.require(groups, recipe.budget.max_trainable)
    length = min(recipe.data.max_length, shape.positions)
    notes = idle_rates(recipe, shape.depth, groups)
    if length < recipe.data.max_length:
        notes.append(f"texts are cut at {length} tokens: the model takes no more")
    dropouts = Dropouts(
        recipe.model.dropout, recipe.model.attention_dropout, recipe.model.prefix_dropout
    )
    why = obstacle(checkpoint, shape, selection, dropouts)
    if recipe.path == "reference":
        why = "the recipe asks for it"
    if why:
        notes.append(f"computed by transformers + PEFT, which is slower: {why}")
    return Plan(
        recipe=recipe,
        checkpoint=checkpoint,
        classes=tuple(classes),
        shape=shape,
        selection=selection,
        groups=groups,
        rates=rates,
        notes=tuple(notes),
        max_length=length,
        dropouts=dropouts,
        path="reference" if why else "engine",
    )


def with_seed(plan: Plan, recipe: Recipe) -> Plan:
    """The plan of a recipe that differs from a planned one in its seed alone."""
    return replace(plan, recipe=recipe)


def rates_of(recipe: Recipe, depth: int) -> Rates:
    """The recipe's peak learning rates for a model of some depth."""
    optimizer = recipe.optimizer
    return Rates(
        base=optimizer.rate,
        head=optimizer.rate if optimizer.head is None else optimizer.head,
        layers={
            layer: entry.rate
            for entry in optimizer.layers
            for layer in layer_numbers(entry.layers, depth)
        },
        decay=optimizer.decay,
        lora_plus=optimizer.lora_plus,
        depth=depth,
    )


def idle_rates(recipe: Recipe, depth: int, groups: Sequence[Group]) -> list[str]:
    """A line for each learning rate that touches nothing."""
    trained = {group.layer for group in groups if group.layer is not None}
    lines = []
    for entry in recipe.optimizer.layers:
        layers = layer_numbers(entry.layers, depth)
        if trained & set(layers):
            continue
        inside = any(0 <= layer < depth for layer in layers)
        why = "nothing is trained there" if inside else f"the model has layers 0-{depth - 1}"
        lines.append(f"learning rate {entry.rate:g} of layers {entry.layers} has no effect: {why}")
    return lines


@dataclass(frozen=True)
class Table:
    """A table to print."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def describe(content: dict[str, Any], *, fit: bool) -> list[str | Table]:
    """A plan's JSON, with its `cost`, as lines and tables to print.

    Args:
        content: `Plan.to_json` and `cost`.
        fit: whether to show the largest rank for each choice of targets and head.
    """
    counts, limit, cost = content["trainable"], content["budget"], content["cost"]
    groups = Table(
        f"{content['recipe']} on {content['model']}, classes {', '.join(content['classes'])}",
        ("part", "layer", "matrix", "rank", "parameters", "rate"),
        [
            (
                group["part"],
                "" if group["layer"] is None else str(group["layer"]),
                group["matrix"],
                "" if group["rank"] is None else str(group["rank"]),
                f"{group['parameters']:,}",
                f"{group['rate']:g}",
            )
            for group in content["groups"]
        ],
    )
    assumed = "" if cost["measured"] else ", assumed"
    lines: list[str | Table] = [
        groups,
        f"trainable {counts['total']:,} = adapter {counts['adapter']:,} + head {counts['head']:,} "
        f"+ other {counts['other']:,}; budget {limit['max_trainable']:,}, left {limit['left']:,}",
        *(["computed by the engine"] if content["path"] == "engine" else []),
        *content["notes"],
        f"cost of {cost['training_texts']:,} texts of {cost['tokens']:.0f} tokens{assumed}: "
        f"{cost['arithmetic'] / 1e12:,.1f} Tflop, not less than {_duration(cost['seconds'])} here "
        f"in {cost['precision']}, about {cost['memory_bytes'] / 2**30:.1f} GiB of memory; "
        f"the frozen layers' output would fill {cost['cache_bytes'] / 2**30:.2f} GiB",
    ]
    if fit:
        rows = [
            (", ".join(one["targets"]), one["head"], str(one["rank"]), f"{one['trainable']:,}")
            for one in content["fit"]
        ]
        title = f"largest rank inside the budget, layers {content['layers']}"
        lines.append(Table(title, ("targets", "head", "rank", "trainable"), rows))
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
