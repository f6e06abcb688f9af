"""Kernels of GPUs against plain operations of torch; without a GPU in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from budgerigar.encoder import dropout, fused
from budgerigar.encoder.device_shares import TILE, DeviceShares
from budgerigar.encoder.dropout import Drawn
from budgerigar.encoder.weights import Norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if obstacle := fused.obstacle(DEVICE):
    pytest.skip(obstacle, allow_module_level=True)
LENGTHS = (5, 64, 65, 130, 1)
NOBODYS = 7
"""Rows after the last text."""
CLOSE = 1e-5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE).requires_grad_()


def drawn(rows: int, width: int) -> Drawn:
    generator = torch.Generator(DEVICE).manual_seed(1)
    bytes_TD = dropout.random_bytes(generator, rows, width, torch.device(DEVICE))
    found = dropout.drawn_by(bytes_TD, 0.3)
    assert found is not None
    return found


def kept(x: torch.Tensor, keep: Drawn | None) -> torch.Tensor:
    return x if keep is None else x * (keep.bytes_TD >= keep.dropped)


def ends() -> torch.Tensor:
    return torch.tensor([0, *LENGTHS]).cumsum(0).int().to(DEVICE)


def texts(x: torch.Tensor) -> list[torch.Tensor]:
    return list(x[: sum(LENGTHS)].split(LENGTHS))


def check(
    found: torch.Tensor,
    expected: torch.Tensor,
    inputs: list[torch.Tensor],
    rows: slice = slice(None),
) -> None:
    """Results, and the gradients of the same random combination of them; of some rows."""
    assert largest(found - expected) < CLOSE
    toward = random(*found.shape, seed=9)
    for own, other in zip(
        torch.autograd.grad(found, inputs, toward),
        torch.autograd.grad(expected, inputs, toward),
        strict=True,
    ):
        assert largest((own - other)[rows]) < CLOSE * max(1.0, largest(other))


def largest(x: torch.Tensor) -> float:
    return float(x.detach().abs().max())


@pytest.mark.parametrize("width", [40, 128])
@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("by_row", [True, False])
def test_add_norm(width, drops, by_row):
    hidden, change = random(70, width), random(70, width, seed=1)
    keep = drawn(70, width) if drops else None
    scale = random(70, 1, seed=2).detach().abs() if by_row else 1.4
    norm = Norm(random(width, seed=3).detach(), random(width, seed=4).detach())
    found, narrowed = fused.add_norm(hidden, change, keep, scale, norm, 1e-5)
    assert narrowed is found
    added = hidden + kept(change, keep) * scale
    expected = F.layer_norm(added, (width,), norm.weight, norm.bias, 1e-5)
    check(found, expected, [hidden, change])


def test_add_norm_gives_what_products_read():
    """The same in 16 bits; the gradients of both outputs add up."""
    hidden, change = random(70, 40), random(70, 40, seed=1).detach().half().requires_grad_()
    norm = Norm(random(40, seed=3).detach(), random(40, seed=4).detach())
    found, narrowed = fused.add_norm(hidden, change, None, 1.0, norm, 1e-5)
    assert narrowed.dtype == torch.float16
    assert largest(narrowed - found.half()) == 0
    expected = F.layer_norm(hidden + change.float(), (40,), norm.weight, norm.bias, 1e-5)
    toward, other = random(70, 40, seed=5).detach(), random(70, 40, seed=6).detach().half()
    own = torch.autograd.grad([found, narrowed], [hidden, change], [toward, other])
    plain = torch.autograd.grad(expected, [hidden, change], toward + other.float())
    assert largest(own[0] - plain[0]) < CLOSE
    assert largest((own[1] - plain[1]).float()) < 2e-3


def test_a_residual_that_needs_no_gradient_gets_none():
    hidden, change = random(3, 40).detach(), random(3, 40, seed=1)
    norm = Norm(torch.ones(40, device=DEVICE), torch.zeros(40, device=DEVICE))
    found, _ = fused.add_norm(hidden, change, None, 1.0, norm, 1e-5)
    check(found, F.layer_norm(hidden + change, (40,), eps=1e-5), [change])


@pytest.mark.parametrize("head", [10, 16, 64])
def test_attend(head):
    heads, rows = 3, sum(LENGTHS) + NOBODYS
    qkv = random(rows, 3 * heads * head)
    found = fused.attend(qkv, ends(), heads, max(LENGTHS))
    expected = []
    for own in texts(qkv):
        query, key, value = own.view(len(own), 3, heads, head).permute(1, 2, 0, 3)
        context = (query @ key.mT * head**-0.5).softmax(-1) @ value
        expected.append(context.transpose(0, 1).flatten(1))
    check(found[:-NOBODYS], torch.cat(expected), [qkv], slice(-NOBODYS))


def test_attend_in_16_bits():
    qkv = random(sum(LENGTHS), 3 * 32).detach().half().requires_grad_()
    toward = random(sum(LENGTHS), 32, seed=1).detach().half()
    exact = qkv.detach().float().requires_grad_()
    results = [fused.attend(one, ends(), 2, max(LENGTHS)) for one in (qkv, exact)]
    own, other = (
        torch.autograd.grad(result, one, toward.to(one.dtype))[0]
        for result, one in zip(results, (qkv, exact), strict=True)
    )
    assert largest(results[0].float() - results[1]) < 5e-3
    assert largest(own.float() - other) < 2e-2


@pytest.mark.parametrize("heads", [1, 3, 17])
@pytest.mark.parametrize("width", [40, 83])
def test_attend_first(heads, width):
    features, queries = (
        random(sum(LENGTHS) + NOBODYS, width),
        random(len(LENGTHS), heads, width, seed=1),
    )
    found = fused.attend_first(features, queries, ends(), max(LENGTHS), 0.2)
    expected = [
        (asked @ own.mT * 0.2).softmax(-1) @ own
        for own, asked in zip(texts(features), queries, strict=True)
    ]
    toward = random(*found.shape, seed=2)
    assert largest(found - torch.stack(expected)) < CLOSE
    own = torch.autograd.grad(found, [features, queries], toward)
    other = torch.autograd.grad(torch.stack(expected), [features, queries], toward)
    assert largest((own[0] - other[0])[:-NOBODYS]) < CLOSE
    assert largest(own[1] - other[1]) < CLOSE


def shares_of(ends_of_runs: list[int], first: int, runs: int) -> DeviceShares:
    tiles = [
        [run, row, min(row + TILE, stop)]
        for run, (start, stop) in enumerate(zip([0, *ends_of_runs], ends_of_runs, strict=False))
        for row in range(start, stop, TILE)
    ]
    numbers = [torch.tensor(one, dtype=torch.int32) for one in ([0, *ends_of_runs], tiles)]
    tiles_W3 = torch.cat([numbers[1], torch.tensor([[-1, 0, 0]], dtype=torch.int32)])
    return DeviceShares(numbers[0].to(DEVICE), tiles_W3.to(DEVICE), TILE, first, runs)


@pytest.mark.parametrize("rank", [5, 16, 40])
@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize(("first", "runs"), [(0, 3), (1, 2), (1, 1)])
def test_shares(rank, drops, first, runs):
    """Products of low rank for some runs; the rows of others are left alone."""
    stops, width, rows = [69, 102, 265], 72, 271
    shares, keep = shares_of(stops, first, runs), drawn(rows, width) if drops else None
    x, a = random(rows, width).detach(), random(runs, rank, width, seed=1).detach()
    b, into = random(runs, width, rank, seed=2).detach().mT, random(rows, width, seed=3).detach()
    before = into.clone()
    low = shares.down(x, keep, a)
    shares.up(low, b, into, keep)
    gradients = shares.outer(low, x, keep)
    others = torch.ones(rows, dtype=torch.bool)
    for run in range(runs):
        own = slice([0, *stops][first + run], stops[first + run])
        others[own] = False
        inputs = kept(x, keep)[own]
        assert largest(low[own] - inputs @ a[run].mT) < 1e-4
        change = torch.zeros(rows, width, device=DEVICE)
        change[own] = low[own] @ b[run]
        assert largest((into - before - kept(change, keep))[own]) < 1e-3
        assert largest(gradients[run] - low[own].mT @ inputs) < 1e-2
    assert largest(low[others.to(DEVICE)]) == 0
    assert largest((into - before)[others.to(DEVICE)]) == 0


def test_shares_in_16_bits_and_some_columns():
    """Of a wider product's columns, as a use's are; what stands beside them is left alone."""
    shares, keep, rows = shares_of([69, 265], 0, 2), drawn(271, 72), 271
    x, a = random(rows, 72).detach().half(), random(2, 5, 72, seed=1).detach().half()
    b, whole = random(2, 40, 5, seed=2).detach().half(), random(rows, 120, seed=3).detach().half()
    before, into = whole.clone(), whole[:, 40:80]
    low = shares.down(x, keep, a)
    shares.up(low, b.mT, into, None)
    gradients = shares.outer(low, before[:, 40:80], None)
    for run, own in enumerate((slice(0, 69), slice(69, 265))):
        exact = kept(x, keep)[own].float() @ a[run].float().mT
        assert largest(low[own].float() - exact) < 2e-3 * largest(exact)
        change = low[own].float() @ b[run].float().mT
        expected = before[own, 40:80].float() + change
        assert largest(into[own].float() - expected) < 2e-3 * largest(expected)
        exact = low[own].float().mT @ before[own, 40:80].float()
        assert gradients.dtype == torch.float32
        assert largest(gradients[run] - exact) < 2e-3 * largest(exact)
    assert largest((whole - before)[:, :40]) == largest((whole - before)[:, 80:]) == 0


@pytest.mark.parametrize("drops", [True, False])
def test_features(drops):
    shares, keep = shares_of([69, 265], 0, 2), drawn(271, 72) if drops else None
    x, a = random(271, 72), random(2, 5, 72, seed=1)
    found = shares.features(x, keep, a)
    run = torch.tensor([0] * 69 + [1] * 196, device=DEVICE)
    expected = torch.einsum("ti,tri->tr", kept(x, keep)[:265], a[run])
    assert largest(found[:265] - expected) < CLOSE * 10
    toward = random(271, 5, seed=2).detach()
    own = torch.autograd.grad(found, [x, a], toward)
    other = torch.autograd.grad(expected, [x, a], toward[:265])
    assert largest(own[0] - other[0]) < CLOSE * 10
    assert largest(own[1] - other[1]) < CLOSE * largest(other[1])


def test_what_has_no_kernels_is_said(monkeypatch):
    fused.obstacle.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert fused.obstacle(DEVICE) == "Triton is not installed"
    monkeypatch.undo()
    monkeypatch.setattr(fused, "attend_first", lambda *given: 1 / 0)
    fused.obstacle.cache_clear()
    if DEVICE == "cuda":
        assert "Triton cannot build kernels here (division by zero)" in fused.obstacle(DEVICE)
    else:
        monkeypatch.delenv("TRITON_INTERPRET")
        assert fused.obstacle(DEVICE) == "kernels are for GPUs"
    fused.obstacle.cache_clear()


def test_drawn_bytes_drop_what_is_asked():
    found = drawn(100, 37)
    dropped = (found.bytes_TD < found.dropped).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.03)
    assert found.dropped / dropout.VALUES == pytest.approx(0.3, abs=0.002)
    assert dropout.drawn_by(found.bytes_TD, 0.0) is None
