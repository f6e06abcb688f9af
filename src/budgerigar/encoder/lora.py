"""Low-rank updates of frozen matrices, for one run or several (Hu et al. 2021,
arXiv:2106.09685, section 4.1): y = x W^T + b + s B A x.

Shape letters: T rows (tokens or texts), I inputs, O outputs, R rank.
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


@dataclass(frozen=True)
class Use:
    """An update at work on a part of a product.

    Attributes:
        factors: the update.
        rows: its run's rows.
        columns: the outputs that belong to its matrix.
        keep_TI: dropout of its input; None keeps all.
        scale: the update's, and the dropout's.
    """

    factors: Factors
    rows: slice
    columns: slice
    keep_TI: torch.Tensor | None
    scale: float

    def input_of(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Its rows of a product's input, after dropout."""
        return masked(x_TI[self.rows], self.keep_TI)


def adapted_product(x_TI: torch.Tensor, product: Product, uses: Sequence[Use]) -> torch.Tensor:
    """A frozen product and the updates on it, in the number type of `x_TI`."""
    halves = [half for use in uses for half in (use.factors.a_RI, use.factors.b_OR)]
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
        for use, a_RI, b_OR in zip(uses, halves[::2], halves[1::2], strict=True):
            a_RI, b_OR = a_RI.to(x_TI.dtype), b_OR.to(x_TI.dtype)
            inputs = use.input_of(x_TI)
            low_TR = inputs @ a_RI.t()
            y_TO[use.rows, use.columns].addmm_(low_TR, b_OR.t(), alpha=use.scale)
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
            dlow_TR = (own_TO @ b_OR).mul_(use.scale)
            halves += [
                (dlow_TR.t() @ inputs).float(),
                (own_TO.t() @ low_TR).float().mul_(use.scale),
            ]
            if dx_TI is not None:
                through = dlow_TR @ a_RI
                dx_TI[use.rows] += masked(through, use.keep_TI)
        return dx_TI, None, None, *halves
