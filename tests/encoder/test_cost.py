"""What a run is estimated to cost, held against sums done by hand."""

from __future__ import annotations

import pytest

from budgerigar.encoder import budget
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.cost import Workload, estimate
from budgerigar.encoder.shape import HeadLayer, Matrix, Shape

WIDTH, DEPTH, LOWEST, TOKENS, EPOCHS = 8, 4, 2, 10.0, 3
TRAINING, EVALUATION = 100, 20
WORK = Workload(TRAINING, EVALUATION, TOKENS, EPOCHS, batch=4, measured=True)
SHAPE = Shape(
    family="bert",
    width=WIDTH,
    heads=2,
    positions=64,
    vocabulary=50,
    layers_path="layers",
    layers=tuple(
        (Matrix("query", f"layers.{layer}.query", WIDTH, WIDTH, WIDTH),) for layer in range(DEPTH)
    ),
    layer_parameters=(WIDTH * WIDTH + WIDTH,) * DEPTH,
    biases=dict.fromkeys(range(DEPTH), WIDTH),
    head=(HeadLayer("classifier", 2 * WIDTH, output=True),),
    saved_modules=("classifier",),
    frozen=1_000,
)
GROUPS = budget.count(
    SHAPE, Selection(("query",), tuple(range(LOWEST, DEPTH)), 2, {}, "none", "full")
)
TEXT = TOKENS * (2 * WIDTH * WIDTH + 4 * TOKENS * WIDTH)
"""Operations of a text in a layer: its one matrix, and attention of all tokens to all tokens."""
ONE = 2 * WIDTH * WIDTH + 4 * TOKENS * WIDTH * SHAPE.heads
"""The same for one token, whose heads read all tokens at full width."""
ONCE = TRAINING + EVALUATION
OFTEN = EPOCHS * (2 * TRAINING + EVALUATION)
"""Texts that go through a layer above the prefix, counted twice where backwards too."""


@pytest.mark.parametrize(
    ("prefix_once", "one_query", "arithmetic"),
    [
        (True, True, ONCE * 2 * TEXT + OFTEN * (TEXT + ONE)),
        (True, False, ONCE * 2 * TEXT + OFTEN * 2 * TEXT),
        (False, False, EPOCHS * ONCE * 2 * TEXT + OFTEN * 2 * TEXT),
    ],
)
def test_arithmetic(prefix_once, one_query, arithmetic):
    found = estimate(SHAPE, GROUPS, WORK, rate=1e6, prefix_once=prefix_once, one_query=one_query)
    assert found.arithmetic == pytest.approx(arithmetic)
    assert found.seconds == pytest.approx(found.arithmetic / 1e6)
    assert found.cache_bytes == ONCE * TOKENS * WIDTH * 2
