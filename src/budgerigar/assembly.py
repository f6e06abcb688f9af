"""What encoder and training are asked for, from a recipe and its plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from budgerigar.planning import Plan
from budgerigar.recipe import (
    SHARED_OPTIMIZER_FIELDS,
    GeneralizedCrossEntropy,
    Recipe,
    SymmetricCrossEntropy,
)

if TYPE_CHECKING:
    import torch

    from budgerigar.encoder.interface import Encoder
    from budgerigar.encoder.paths import Start
    from budgerigar.training.losses import Loss
    from budgerigar.training.run import LoopSettings


def start_of(plan: Plan) -> Start:
    """How the encoder of a planned run begins."""
    from budgerigar.encoder.lora import LowRank
    from budgerigar.encoder.paths import Start

    adapter = plan.recipe.adapter
    low_rank = LowRank(adapter.alpha, adapter.dropout, adapter.rslora)
    return Start(plan.selection, low_rank, plan.recipe.seed)


def optimizer_of(plan: Plan, encoder: Encoder) -> torch.optim.Optimizer:
    """The recipe's optimizer over what trains."""
    from budgerigar.training import optimizer

    part = plan.recipe.optimizer
    return optimizer.build(
        encoder.trainables(),
        plan.rates,
        part.name,
        part.model_dump(exclude=SHARED_OPTIMIZER_FIELDS),
        part.weight_decay,
    )


def loop_settings(recipe: Recipe, class_weights: tuple[float, ...] | None = None) -> LoopSettings:
    """The training loop's numbers of a recipe; the classes' weights come from the data."""
    from budgerigar.training.run import LoopSettings

    return LoopSettings(
        epochs=recipe.epochs,
        steps=recipe.steps,
        batch=recipe.batch,
        accumulation=recipe.accumulation,
        clip=recipe.clip,
        averaging=recipe.averaging,
        loss=loss_of(recipe),
        class_weights=class_weights,
        keep=recipe.keep,
        early_stopping=recipe.early_stopping,
        checkpoint_seconds=recipe.checkpoint_seconds,
        checkpoint_steps=recipe.checkpoint_steps,
        schedule=recipe.schedule.name,
        warmup=recipe.schedule.warmup,
        seed=recipe.seed,
    )


def loss_of(recipe: Recipe) -> Loss:
    """The loss that a recipe asks for."""
    from budgerigar.training import losses

    match recipe.loss:
        case GeneralizedCrossEntropy(q=q):
            return losses.GeneralizedCrossEntropy(q)
        case SymmetricCrossEntropy(alpha=alpha, beta=beta):
            return losses.SymmetricCrossEntropy(alpha, beta)
    return losses.CrossEntropy(recipe.label_smoothing)


def class_weights(recipe: Recipe, labels: np.ndarray, classes: int) -> tuple[float, ...] | None:
    """The classes' weights in the loss, from the labels `[B]` of the training texts."""
    weights = recipe.class_weights
    if weights == "balanced":
        counts = np.bincount(labels, minlength=classes)
        return tuple((len(labels) / (len(counts) * counts)).tolist())
    return None if weights == "none" else weights
