"""Losses against their formulas, their limits and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from budgerigar.training.losses import (
    CrossEntropy,
    GeneralizedCrossEntropy,
    SymmetricCrossEntropy,
)

EVERY = (
    CrossEntropy(),
    CrossEntropy(0.2),
    GeneralizedCrossEntropy(0.7),
    GeneralizedCrossEntropy(1.0),
    SymmetricCrossEntropy(0.1, 1.0),
    SymmetricCrossEntropy(6.0, 0.1),
)


def batch(seed: int = 0, rows: int = 6, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=draw, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(0, classes, (rows,), generator=draw)


def chosen(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Probability of each text's given class."""
    return logits.softmax(1)[torch.arange(len(labels)), labels]


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
@settings(max_examples=50)
def test_generalized_cross_entropy_is_its_formula(seed, q):
    logits, labels = batch(seed)
    expected = ((1 - chosen(logits, labels) ** q) / q).sum()
    found = GeneralizedCrossEntropy(q).total(logits, labels, None)
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_generalized_cross_entropy_lies_between_cross_entropy_and_absolute_error():
    logits, labels = batch()
    nearly = GeneralizedCrossEntropy(1e-7).total(logits, labels, None)
    assert float(nearly) == pytest.approx(
        float(CrossEntropy().total(logits, labels, None)), rel=1e-5
    )
    most = GeneralizedCrossEntropy(1.0).total(logits, labels, None)
    assert float(most) == pytest.approx(float((1 - chosen(logits, labels)).sum()))


@given(st.integers(0, 10_000), st.floats(0.0, 6.0), st.floats(0.0, 2.0))
@settings(max_examples=50)
def test_symmetric_cross_entropy_is_its_formula(seed, alpha, beta):
    """The reverse part as the paper writes it: log 0 of the other classes' labels is -4."""
    logits, labels = batch(seed)
    targets = F.one_hot(labels, 4).double()
    logs = torch.where(targets > 0, 0.0, -4.0)
    reverse = -(logits.softmax(1) * logs).sum()
    forward = -(targets * logits.log_softmax(1)).sum()
    found = SymmetricCrossEntropy(alpha, beta).total(logits, labels, None)
    assert float(found) == pytest.approx(float(alpha * forward + beta * reverse), rel=1e-9)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_gradients_are_those_of_the_value(loss):
    logits, labels = batch()
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss.total(x, labels, weights), logits)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_weights_and_cuts_into_batches_add_up(loss):
    logits, labels = batch(rows=9)
    weights = torch.tensor([0.3, 1.0, 2.0, 0.7], dtype=torch.float64)
    whole = loss.total(logits, labels, weights)
    halves = [loss.total(logits[part], labels[part], weights) for part in (slice(4), slice(4, 9))]
    assert float(whole) == pytest.approx(float(sum(halves)))
    even = loss.total(logits, labels, torch.ones(4, dtype=torch.float64))
    assert float(even) == pytest.approx(float(loss.total(logits, labels, None)))


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_the_surest_texts_leave_numbers(loss):
    """In float32, where a probability has gone to 0 or 1."""
    logits = torch.tensor([[300.0, -300.0], [300.0, -300.0]], requires_grad=True)
    loss.total(logits, torch.tensor([0, 1]), None).backward()
    assert np.isfinite(logits.grad.numpy()).all()


def pull(loss, margin: float) -> float:
    """How strongly a text pulls whose given class lies so far behind the other one."""
    logits = torch.tensor([[margin, 0.0]], dtype=torch.float64, requires_grad=True)
    loss.total(logits, torch.tensor([1]), None).backward()
    return float(logits.grad.abs().max())


def test_a_text_that_contradicts_the_model_pulls_less_than_in_cross_entropy():
    plain = [pull(CrossEntropy(), margin) for margin in (0.0, 2.0, 6.0)]
    assert plain == sorted(plain)
    for robust in (GeneralizedCrossEntropy(0.7), SymmetricCrossEntropy(0.0, 1.0)):
        assert pull(robust, 6.0) < 0.1 * pull(robust, 0.0)
