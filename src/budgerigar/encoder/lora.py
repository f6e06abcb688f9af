"""Low-rank updates of frozen matrices, for one run or several (Hu et al. 2021,
arXiv:2106.09685, section 4.1): y = x W^T + b + s B A x.

Shape letters: T rows (tokens or texts), I inputs, O outputs, R rank, N runs side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
        dropout: rate of dropout on its input, one for all matrices of a run.
    """

    a_RI: torch.nn.Parameter
    b_OR: torch.nn.Parameter
    scale: float
    dropout: float

    @property
    def alike(self) -> tuple[object, ...]:
        """What updates of several runs must share to be multiplied together."""
        return (*self.a_RI.shape, *self.b_OR.shape, self.scale, self.dropout)


JOINED_RANK = 32
"""Updates of matrices side by side are joined up to this rank of all: a joined B is zero but for
its blocks, and above, its zeros cost more than fewer products save."""


@dataclass(frozen=True)
class Use:
    """Updates at work on a product, of its matrices side by side: they read one input, with one
    mask of dropout.

    Attributes:
        factors: updates by run and by matrix; more than one run where all have the same shapes
            and numbers, and equal shares of the rows, one after another.
        rows: the runs' rows.
        columns: the outputs that belong to each matrix.
        keep_TI: dropout of the input; None keeps all.
        growth: of what is kept.
    """

    factors: tuple[tuple[Factors, ...], ...]
    rows: slice
    columns: tuple[slice, ...]
    keep_TI: torch.Tensor | None
    growth: float

    @property
    def span(self) -> slice:
        """The outputs from the first matrix to the last."""
        return slice(self.columns[0].start, self.columns[-1].stop)

    @property
    def rank(self) -> int:
        """That of all matrices together, R."""
        return sum(one.a_RI.shape[0] for one in self.factors[0])

    def parts(self) -> list[Use]:
        """Itself, or one for each matrix where joining them would not pay."""
        if self.rank <= JOINED_RANK:
            return [self]
        return [
            replace(self, factors=tuple((run[at],) for run in self.factors), columns=(own,))
            for at, own in enumerate(self.columns)
        ]

    def input_of(self, x_TI: torch.Tensor) -> torch.Tensor:
        """Its rows of a product's input, after dropout."""
        return masked(x_TI[self.rows], self.keep_TI)

    def halves(self) -> list[torch.Tensor]:
        """A and B, run by run and matrix by matrix."""
        return [half for run in self.factors for one in run for half in (one.a_RI, one.b_OR)]

    def joined(
        self, halves: Sequence[torch.Tensor], number_type: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrices' updates as one: every A below the one before, every B, scaled, where its
        outputs and its ranks meet; differentiable.

        Args:
            halves: as `halves` gives them.
            number_type: of what comes out.

        Returns:
            `[N, R, I]` and, over `span`, `[N, O, R]`.
        """
        step = 2 * len(self.columns)
        by_half = [torch.stack(list(halves[place::step])) for place in range(step)]
        a_NRI = torch.cat(by_half[::2], 1).to(number_type)
        b_NOR = a_NRI.new_zeros((len(a_NRI), self.span.stop - self.span.start, self.rank))
        for own_NOR, (outputs, ranks, scale) in zip(by_half[1::2], self._blocks(), strict=True):
            b_NOR[:, outputs, ranks] = own_NOR * scale
        return a_NRI, b_NOR

    def apart(self, da_NRI: torch.Tensor, db_NOR: torch.Tensor) -> list[torch.Tensor]:
        """Gradients of what `joined` gave -> of the halves, in their order, float32."""
        # Laid out as the halves are, or autograd would copy each gradient.
        da_NRI, db_NOR = (
            gradient.to(torch.float32, memory_format=torch.contiguous_format)
            for gradient in (da_NRI, db_NOR)
        )
        by_half: list[torch.Tensor] = []
        for outputs, ranks, scale in self._blocks():
            by_half += [da_NRI[:, ranks], db_NOR[:, outputs, ranks] * scale]
        return [half for run in zip(*by_half, strict=True) for half in run]

    def _blocks(self) -> Iterator[tuple[slice, slice, float]]:
        """Where each matrix has its block of the joined B, outputs and ranks, and by which its
        update is multiplied."""
        first = 0
        for own, one in zip(self.columns, self.factors[0], strict=True):
            last = first + one.a_RI.shape[0]
            outputs = slice(own.start - self.span.start, own.stop - self.span.start)
            yield outputs, slice(first, last), one.scale * self.growth
            first = last


def adapted_product(x_TI: torch.Tensor, product: Product, uses: Sequence[Use]) -> torch.Tensor:
    """A frozen product and the updates on it, in the number type of `x_TI`."""
    uses = [part for use in uses for part in use.parts()]
    halves = [half for use in uses for half in use.halves()]
    y_TO: torch.Tensor = _AdaptedProduct.apply(  # type: ignore[no-untyped-call]
        x_TI, product, uses, *halves
    )
    return y_TO


class _AdaptedProduct(torch.autograd.Function):
    """With x' the input after dropout, h = x' A^T and B already scaled: y = x W^T + b + h B^T,
    dB = dy^T h, dh = dy B, dA = dh^T x', dx = dy W + keep * (dh A)."""

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
            own = list(itertools.islice(given, len(use.halves())))
            a_NRI, b_NOR = use.joined(own, x_TI.dtype)
            runs = len(a_NRI)
            inputs_NTI = by_run(use.input_of(x_TI), runs)
            low_NTR = torch.bmm(inputs_NTI, a_NRI.mT)
            by_run(y_TO[use.rows, use.span], runs).baddbmm_(low_NTR, b_NOR.mT)
            saved += [inputs_NTI, low_NTR, a_NRI, b_NOR]
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
            inputs_NTI, low_NTR, a_NRI, b_NOR = saved[4 * number : 4 * number + 4]
            dy_NTO = by_run(dy_TO[use.rows, use.span], len(a_NRI))
            dlow_NTR = torch.bmm(dy_NTO, b_NOR)
            # The other way round, dy^T h takes a third longer on the CPU.
            db_NRO = torch.bmm(low_NTR.mT, dy_NTO)
            halves += use.apart(torch.bmm(dlow_NTR.mT, inputs_NTI), db_NRO.mT)
            if dx_TI is None:
                continue
            own_TI = dx_TI[use.rows]
            if use.keep_TI is None:
                by_run(own_TI, len(a_NRI)).baddbmm_(dlow_NTR, a_NRI)
            else:
                own_TI += masked(torch.bmm(dlow_NTR, a_NRI).flatten(0, 1), use.keep_TI)
        return dx_TI, None, None, *halves


def by_run(x_TI: torch.Tensor, runs: int) -> torch.Tensor:
    """Equal shares of the rows, one after another -> `[N, T / N, I]`, without a copy."""
    return x_TI.view(runs, -1, x_TI.shape[1])
