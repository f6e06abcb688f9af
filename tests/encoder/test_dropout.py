"""Dropout masks: the right share, its inverse as scale, the same from the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from budgerigar.encoder.dropout import VALUES, all_kept, keep_mask, keep_scale, masked, stream

CPU = torch.device("cpu")
RATES = [0.05, 0.1, 0.25, 0.5, 0.9]


def mask(*numbers: int, rows: int = 40, width: int = 30, rate: float = 0.3) -> torch.Tensor:
    return keep_mask(stream(*numbers), rows, width, rate, CPU, torch.float32).bool()


@pytest.mark.parametrize("rate", RATES)
def test_the_share_that_is_kept_is_the_inverse_of_the_scale(rate):
    drawn = mask(1, 2, rows=2_000, width=100, rate=rate)
    found = stats.binomtest(int(drawn.sum()), drawn.numel(), 1 / keep_scale(rate))
    assert found.pvalue > 1e-4


@pytest.mark.parametrize("number_type", [torch.bfloat16, torch.float32])
def test_one_stream_of_all_runs_keeps_the_same_share(number_type):
    torchs = torch.Generator().manual_seed(5)
    keep = keep_mask(torchs, 300, 200, 0.1, CPU, number_type)
    x = torch.randn(300, 200).to(number_type)
    assert keep.dtype == number_type
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    share = float(keep.float().mean())
    assert share == pytest.approx(1 / keep_scale(0.1), abs=4 * 0.3 / 60_000**0.5)
    assert torch.equal(masked(x, keep), torch.where(keep.bool(), x, torch.zeros_like(x)))


@pytest.mark.parametrize("is_torchs", [False, True])
def test_a_mask_that_keeps_everything(is_torchs):
    one = torch.Generator() if is_torchs else stream(1)
    like = keep_mask(one, 5, 7, 0.3, CPU, torch.float32)
    x = torch.randn(9, 7)
    assert torch.equal(masked(x, all_kept(like, 9)), x)


@pytest.mark.parametrize("rate", [*RATES, 1e-9, 1 / 3, 0.999])
def test_the_rate_used_is_the_nearest_multiple_of_a_bytes_share(rate):
    used = 1 - 1 / keep_scale(rate)
    nearest = min((step / VALUES for step in range(1, VALUES)), key=lambda x: abs(x - rate))
    assert used == pytest.approx(nearest, abs=1e-12)


def test_rows_columns_and_draws_are_independent():
    drawn = mask(3, rows=1_000, width=64, rate=0.5).double()
    allowed = stats.norm.ppf(1 - 1e-4 / 64**2) / np.sqrt(1_000)
    between = torch.corrcoef(drawn.t()) - torch.eye(64)
    assert between.abs().max() < allowed
    rows = torch.corrcoef(mask(3, rows=64, width=1_000, rate=0.5).double()) - torch.eye(64)
    assert rows.abs().max() < allowed


def test_the_same_numbers_give_the_same_masks():
    one, two = stream(17, 4), stream(17, 4)
    for rows, width in ((3, 5), (7, 11), (40, 30)):
        first = keep_mask(one, rows, width, 0.3, CPU, torch.float32)
        assert torch.equal(first, keep_mask(two, rows, width, 0.3, CPU, torch.float32))
        assert (first.shape, first.dtype) == ((rows, width), torch.int8)


@pytest.mark.parametrize("numbers", [(17, 5), (18, 4), (4, 17), (17,), (17, 4, 0, 1)])
def test_other_numbers_and_later_draws_give_other_masks(numbers):
    drawn = mask(17, 4)
    assert not torch.equal(drawn, mask(*numbers))
    once = stream(17, 4)
    keep_mask(once, 40, 30, 0.3, CPU, torch.float32)
    assert not torch.equal(drawn, keep_mask(once, 40, 30, 0.3, CPU, torch.float32).bool())


def test_a_stream_does_not_touch_another():
    one, two = stream(1), stream(2)
    alone = [keep_mask(one, 9, 9, 0.5, CPU, torch.float32) for _ in range(3)]
    one = stream(1)
    for expected in alone:
        assert torch.equal(keep_mask(one, 9, 9, 0.5, CPU, torch.float32), expected)
        keep_mask(two, 5, 3, 0.1, CPU, torch.float32)


def test_a_rate_of_nothing_draws_nothing():
    generator = stream(1)
    before = generator.bit_generator.state
    assert keep_mask(generator, 5, 5, 0.0, CPU, torch.float32) is None
    assert keep_scale(0.0) == 1.0
    np.testing.assert_equal(generator.bit_generator.state, before)


@pytest.mark.parametrize("rate", [1e-12, 0.001, 1 / (2 * VALUES)])
def test_a_tiny_rate_drops_something(rate):
    drawn = mask(5, rows=1_000, width=100, rate=rate)
    assert 0 < (~drawn).float().mean() < 2 / VALUES
    assert keep_scale(rate) > 1.0


def test_a_rate_near_one_keeps_something():
    assert mask(5, rows=1_000, width=100, rate=0.9999).any()
    assert keep_scale(0.9999) == VALUES


@pytest.mark.parametrize("rate", RATES)
def test_the_mean_stays(rate):
    values = torch.rand(500, 200, dtype=torch.float64) + 1
    kept = values * mask(8, rows=500, width=200, rate=rate) * keep_scale(rate)
    share = 1 / keep_scale(rate)
    deviation = float((values**2).mean() * (1 - share) / share) ** 0.5
    assert abs(float((kept - values).mean())) < 4 * deviation / values.numel() ** 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 3), (8, 8)])
def test_any_shape_can_be_drawn(size):
    kept = (
        sum(
            float(mask(seed, rows=size[0], width=size[1], rate=0.5).float().mean())
            for seed in range(300)
        )
        / 300
    )
    assert abs(kept - 0.5) < 4 * 0.5 / (300 * size[0] * size[1]) ** 0.5


@pytest.mark.parametrize("number_type", [torch.bfloat16, torch.float16, torch.float32])
def test_masked_is_a_product_with_the_mask_in_both_directions(number_type):
    x = torch.randn(40, 30).to(number_type).requires_grad_()
    keep = keep_mask(stream(8), 40, 30, 0.3, CPU, torch.float32)
    toward = torch.randn(40, 30).to(number_type)
    result = masked(x, keep)
    result.backward(toward)
    kept = keep.bool()
    assert torch.equal(result, torch.where(kept, x, torch.zeros_like(x)))
    assert torch.equal(x.grad, torch.where(kept, toward, torch.zeros_like(toward)))
    assert masked(x, None) is x
