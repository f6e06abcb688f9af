"""Low-rank updates of frozen matrices, for one run or several (Hu et al. 2021,
arXiv:2106.09685, section 4.1): y = x W^T + b + s B A x.

Shape letters: T rows (tokens or texts), I inputs, O outputs, R rank, N runs side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from budgerigar.encoder.dropout import masked
from budgerigar.encoder.products import Product


@dataclass(frozen=True)
class LowRank:
    """The numbers of a low-rank update beside its rank: scale, dropout, rank-stabilised or not."""

    alpha: float
    dropout: float
    rslora: bool

    def scale(self, rank: int) -> float:
        """By which an update of some rank is multiplied (rank-stabilised: arXiv:2312.03732)."""
        return float(self.alpha / (rank**0.5 if self.rslora else rank))


@dataclass(frozen=True)
class Factors:
    """A trained update.

    Attributes:
        a_RI, b_OR: its halves, float32.
        scale: by which their product is multiplied.
        dropout: rate of dropout on its input.
    """

    a_RI: torch.nn.Parameter
    b_OR: torch.nn.Parameter
    scale: float
    dropout: float

    @property
    def alike(self) -> tuple[object, ...]:
        """What updates must share to be multiplied together."""
        return (*self.a_RI.shape, *self.b_OR.shape, self.scale, self.dropout)


@dataclass(frozen=True)
class Use:
    """Updates at work on a part of a product.

    Attributes:
        factors: the update; of several runs with the same shapes and numbers, which have equal
            shares of the rows, one after another, the update of each.
        rows: the runs' rows.
        columns: the outputs that belong to its matrix.
        keep_TI: dropout of its input; None keeps all.
        scale: the update's, and the dropout's.
    """

    factors: tuple[Factors, ...]
    rows: slice
    columns: slice
    keep_TI: torch.Tensor | None
    scale: float

    def input_of(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Its rows of a product's input, after dropout."""
        return masked(x_TI[self.rows], self.keep_TI)

    def halves(self) -> list[torch.Tensor]:
        """A and B of every run."""
        return [half for one in self.factors for half in (one.a_RI, one.b_OR)]


def adapted_product(x_TI: torch.Tensor, product: Product, uses: Sequence[Use]) -> torch.Tensor:
    """A frozen product and the updates on it, in the number type of `x_TI`."""
    halves = [half for use in uses for half in use.halves()]
    y_TO: torch.Tensor = _AdaptedProduct.apply(  # type: ignore[no-untyped-call]
        x_TI, product, uses, *halves
    )
    return y_TO


class _AdaptedProduct(torch.autograd.Function):
    """With x' the input after dropout and h = x' A^T: y = x W^T + b + s h B^T,
    dB = s dy^T h, dh = s dy B, dA = dh^T x', dx = dy W + keep * (dh A)."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: torch.Tensor,
        product: Product,
        uses: Sequence[Use],
        *halves: torch.Tensor,
    ) -> torch.Tensor:
        y_TO = product.forwards(x_TI)
        saved: list[torch.Tensor] = []
        given = iter(halves)
        for use in uses:
            own = [next(given) for _ in range(2 * len(use.factors))]
            inputs = use.input_of(x_TI)
            out_TO = y_TO[use.rows, use.columns]
            if len(use.factors) == 1:
                a_RI, b_OR = (half.to(x_TI.dtype) for half in own)
                low_TR = inputs @ a_RI.t()
                out_TO.addmm_(low_TR, b_OR.t(), alpha=use.scale)
            else:
                a_RI, b_OR = (torch.stack(part).to(x_TI.dtype) for part in (own[::2], own[1::2]))
                inputs, out_TO = by_run(inputs, len(a_RI)), by_run(out_TO, len(a_RI))
                low_TR = torch.bmm(inputs, a_RI.mT)
                out_TO.baddbmm_(low_TR, b_OR.mT, alpha=use.scale)
            saved += [inputs, low_TR, a_RI, b_OR]
        ctx.product, ctx.uses = product, uses
        ctx.save_for_backward(*saved)
        return y_TO

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy_TO,) = gradients
        saved = ctx.saved_tensors
        dx_TI = ctx.product.backwards(dy_TO) if ctx.needs_input_grad[0] else None
        halves: list[torch.Tensor] = []
        for number, use in enumerate(ctx.uses):
            inputs, low_TR, a_RI, b_OR = saved[4 * number : 4 * number + 4]
            own_TO = dy_TO[use.rows, use.columns]
            if len(use.factors) > 1:
                own_TO = by_run(own_TO, len(use.factors))
            dlow_TR = (own_TO @ b_OR).mul_(use.scale)
            da_RI = (dlow_TR.mT @ inputs).float()
            db_OR = (own_TO.mT @ low_TR).float().mul_(use.scale)
            if len(use.factors) == 1:
                halves += [da_RI, db_OR]
            else:
                halves += [half for pair in zip(da_RI, db_OR, strict=True) for half in pair]
            if dx_TI is not None:
                through = dlow_TR @ a_RI
                dx_TI[use.rows] += masked(through.view(-1, through.shape[-1]), use.keep_TI)
        return dx_TI, None, None, *halves


def by_run(x_TI: torch.Tensor, runs: int) -> torch.Tensor:
    """Equal shares of the rows, one after another -> `[N, T / N, I]`, without a copy."""
    return x_TI.view(runs, -1, x_TI.shape[1])
