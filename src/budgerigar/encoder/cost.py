"""What a run will cost, estimated from the shape before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from budgerigar.encoder.budget import Group, totals
from budgerigar.encoder.shape import Shape

OPTIMIZER_COPIES = 4
"""Weight, gradient and two moments of each trained parameter, float32."""
KEPT_WIDTHS = 34
"""Hidden-sized float32 vectors that a trained layer keeps for its backward pass, per token:
Korthikanti et al. 2022 (arXiv:2205.05198, section 4.1) count 34 bytes a value in 16 bits."""


@dataclass(frozen=True)
class Workload:
    """How much text a run sees.

    Attributes:
        training_texts, evaluation_texts: texts trained on; texts scored each epoch.
        tokens: mean tokens of a text, after cutting.
        epochs: times that they are seen.
        batch: texts in a forward pass.
        measured: whether the numbers come from the recipe's own file or are assumed.
    """

    training_texts: int
    evaluation_texts: int
    tokens: float
    epochs: float
    batch: int
    measured: bool


@dataclass(frozen=True)
class Cost:
    """An estimate.

    Attributes:
        arithmetic: floating-point operations of the whole run.
        cache_bytes: size of the frozen layers' output in 16 bits, were it kept.
        memory_bytes: weights, optimizer and activations.
        seconds: the arithmetic at the measured rate: not less than this.
    """

    arithmetic: float
    cache_bytes: int
    memory_bytes: int
    seconds: float


def estimate(
    shape: Shape,
    groups: list[Group],
    work: Workload,
    rate: float,
    *,
    prefix_once: bool,
    one_query: bool,
) -> Cost:
    """Estimates a run.

    Each epoch computes the layers from the lowest trained one up, forwards for all texts and
    backwards for those trained on: frozen weights need no gradient. The layers below are
    computed once, or anew in every epoch.

    Args:
        shape: of the classifier.
        groups: what trains.
        work: how much text.
        rate: floating-point operations a second that this machine was measured at.
        prefix_once: whether the output of the frozen layers is kept.
        one_query: whether the last layer computes one token of each text.
    """
    trained = [
        -1 if group.layer is None else group.layer for group in groups if group.part != "head"
    ]
    lowest = max(0, min(trained, default=shape.depth))
    every = [_layer_flop(shape, layer, work.tokens) for layer in range(shape.depth)]
    if one_query:
        every[-1] = _one_query_flop(shape, work.tokens)
    below, above = sum(every[:lowest]), sum(every[lowest:])
    texts = work.training_texts + work.evaluation_texts
    arithmetic = work.epochs * (texts * above + work.training_texts * above)
    arithmetic += texts * below * (1.0 if prefix_once else work.epochs)
    trained_layers = shape.depth - lowest
    activations = work.batch * work.tokens * shape.width * KEPT_WIDTHS * 4 * trained_layers
    weights = (shape.frozen + OPTIMIZER_COPIES * totals(groups)["total"]) * 4
    return Cost(
        arithmetic=arithmetic,
        cache_bytes=int(texts * work.tokens * shape.width * 2),
        memory_bytes=int(weights + activations),
        seconds=arithmetic / rate,
    )


def _layer_flop(shape: Shape, layer: int, tokens: float) -> float:
    """Forward operations of one text through one layer: its matrices, and attention."""
    return tokens * (_matrices_flop(shape, layer) + 4 * tokens * shape.width)


def _one_query_flop(shape: Shape, tokens: float) -> float:
    """The same of the last layer for one token: keys and values are folded into each head's query
    and its mixed tokens, so that every head reads the tokens at full width."""
    return _matrices_flop(shape, shape.depth - 1) + 4 * tokens * shape.width * shape.heads


def _matrices_flop(shape: Shape, layer: int) -> float:
    """Forward operations of one token in a layer's matrices."""
    return 2.0 * sum(m.inputs * m.outputs for m in shape.layers[layer])
