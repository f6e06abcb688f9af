"""Low-rank updates of matrices side by side, against each by itself."""

from __future__ import annotations

import pytest
import torch

from budgerigar.encoder import lora
from budgerigar.encoder.lora import EqualShares, Factors, Use, adapted_product
from budgerigar.encoder.products import Product

ROWS, INPUTS, OUTPUTS = 12, 6, 4


def factors(rank: int, scale: float, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    a_RI, b_OR = (
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in ((rank, INPUTS), (OUTPUTS, rank))
    )
    return Factors(a_RI, b_OR, scale, dropout=0.5)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("places", [(0,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("joined", [True, False])
def test_matrices_side_by_side_are_updated_as_each_alone(runs, places, joined, monkeypatch):
    """Other ranks and scales, a matrix between them without an update, a mask on the input."""
    monkeypatch.setattr(lora, "JOINED_RANK", 32 if joined else 1)
    generator = torch.Generator().manual_seed(5)
    x_TI = torch.randn(ROWS, INPUTS, generator=generator, dtype=torch.float64).requires_grad_()
    weight_OI = torch.randn(3 * OUTPUTS, INPUTS, generator=generator, dtype=torch.float64)
    keep_TI = torch.where(torch.rand(ROWS, INPUTS, generator=generator) < 0.5, -1, 0)
    updates = tuple(
        tuple(factors(2 + place, 0.5 + place, 10 * run + place) for place in places)
        for run in range(runs)
    )
    use = Use(
        factors=updates,
        first=0,
        rows=slice(0, ROWS),
        shares=EqualShares(runs),
        columns=tuple(slice(place * OUTPUTS, (place + 1) * OUTPUTS) for place in places),
        keep_TI=keep_TI.to(torch.int8),
        growth=2.0,
    )
    assert len(use.parts()) == (1 if joined else len(places))
    toward_TO = torch.randn(ROWS, 3 * OUTPUTS, generator=generator, dtype=torch.float64)
    wanted = [x_TI, *use.halves()]

    found_TO = adapted_product(x_TI, Product(weight_OI, None), [use])
    found = torch.autograd.grad(found_TO, wanted, toward_TO)

    expected_TO = x_TI @ weight_OI.t()
    kept_TI = x_TI * (keep_TI != 0)
    share = ROWS // runs
    for run, of_run in enumerate(updates):
        rows = slice(run * share, (run + 1) * share)
        for place, one in zip(places, of_run, strict=True):
            change_TO = torch.zeros_like(expected_TO)
            columns = slice(place * OUTPUTS, (place + 1) * OUTPUTS)
            low_TR = kept_TI[rows] @ one.a_RI.t()
            change_TO[rows, columns] = 2.0 * one.scale * (low_TR @ one.b_OR.t())
            expected_TO = expected_TO + change_TO
    expected = torch.autograd.grad(expected_TO, wanted, toward_TO)

    assert torch.allclose(found_TO, expected_TO, atol=1e-5)
    for own, other in zip(found, expected, strict=True):
        assert own.stride() == other.stride()
        assert own.shape == other.shape
        assert torch.allclose(own.double(), other, atol=1e-5)
