"""Products in the way that the processor does them fastest give what plain ones give."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from budgerigar.encoder.products import Product, exact_products

matmul = torch.backends.mkldnn.matmul


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 4),
    number_type=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    turned=st.booleans(),
)
@settings(max_examples=60)
def test_batched_products_are_exact_to_float32(shape, number_type, turned):
    batch, rows, inputs, outputs = shape
    left = randn(batch, rows, inputs).to(number_type)
    right = randn(batch, inputs, outputs, seed=1).to(number_type)
    if turned:
        right = right.mT.contiguous().mT
    found = exact_products(left, right, 0.3)
    assert found.dtype == torch.promote_types(number_type, torch.float32)
    expected = 0.3 * torch.bmm(left.double(), right.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def settings_of_torch():
    """As they were, afterwards."""
    yield
    torch.backends.fp32_precision = matmul.fp32_precision = "none"


@pytest.mark.parametrize("before", ["none", "ieee", "bf16"])
def test_how_torch_multiplies_float32_elsewhere_stays_as_it_was(before, settings_of_torch):
    left = randn(2, 3, 4).bfloat16()
    matmul.fp32_precision = before
    exact_products(left, left.mT)
    assert matmul.fp32_precision == before
    with pytest.raises(RuntimeError):
        exact_products(left, left)
    assert matmul.fp32_precision == before


def test_a_wider_setting_goes_on_to_hold(settings_of_torch):
    left = randn(2, 3, 4).bfloat16()
    torch.backends.fp32_precision = "bf16"
    exact_products(left, left.mT)
    torch.backends.fp32_precision = "ieee"
    assert matmul.fp32_precision == "ieee"


def test_threads_leave_the_setting_as_it_was():
    left = randn(8, 16, 16).bfloat16()
    expected = exact_products(left, left.mT)

    def many(_: int) -> bool:
        return all(torch.equal(exact_products(left, left.mT), expected) for _ in range(400))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(many, range(4)))
    assert matmul.fp32_precision == "none"


@pytest.mark.parametrize("number_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_products_with_kept_weights_are_plain_ones(rows, number_type):
    weight, bias = randn(24, 40).to(number_type), randn(24, seed=1).to(number_type)
    x, dy = randn(rows, 40, seed=2).to(number_type), randn(rows, 24, seed=3).to(number_type)
    product = Product(weight, bias)
    exact = x.double() @ weight.double().T + bias.double()
    allowed = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[number_type]
    torch.testing.assert_close(product.forwards(x).double(), exact, rtol=allowed, atol=allowed)
    back = dy.double() @ weight.double()
    torch.testing.assert_close(product.backwards(dy).double(), back, rtol=allowed, atol=allowed)


@pytest.mark.parametrize("number_type", [torch.bfloat16, torch.float32])
def test_a_weight_comes_back_as_it_was_given(number_type):
    for outputs, inputs in ((96, 64), (35, 7), (1, 5)):
        weight_OI = randn(outputs, inputs).to(number_type)
        assert torch.equal(Product(weight_OI, None).weight_OI, weight_OI)


def test_a_weight_in_another_layout_is_not_kept_beside_it():
    weight_OI = randn(96, 64).bfloat16()
    given, expected = weakref.ref(weight_OI), weight_OI.float()
    product = Product(weight_OI, None)
    del weight_OI
    if product.weight_OI is product.weight_OI:
        pytest.skip("one layout serves here")
    assert given() is None
    dy_TO = randn(3, 96, seed=1).bfloat16()
    torch.testing.assert_close(
        product.backwards(dy_TO).float(), dy_TO.float() @ expected, rtol=0.02, atol=0.1
    )
