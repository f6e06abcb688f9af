"""Low-rank updates of frozen matrices, for one run or several (Hu et al. 2021,
arXiv:2106.09685, section 4.1): y = x W^T + b + s B A x.

Shape letters: T rows (tokens or texts), I inputs, O outputs, R rank, N runs side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

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


Kept = Any
"""A mask of dropout, in the form that a kind of `Shares` takes, or None where all is kept."""


class Shares(Protocol):
    """Which of some rows each of several runs has, and the products of low rank with them.

    Every row belongs to one run or to nobody; N runs, one after another.
    """

    def inputs(self, x_TI: torch.Tensor, keep_TI: Kept) -> tuple[torch.Tensor, Kept]:
        """Rows and their dropout as `down` and `outer` take them, made once for both."""

    def down(self, x_TI: torch.Tensor, keep_TI: Kept, weight_NRI: torch.Tensor) -> torch.Tensor:
        """Each run's (keep * x) W^T, `[T, R]`."""

    def features(self, x_TI: torch.Tensor, keep_TI: Kept, a_NRI: torch.Tensor) -> torch.Tensor:
        """The same, differentiable."""

    def up(
        self,
        low_TR: torch.Tensor,
        weight_NRO: torch.Tensor,
        into_TO: torch.Tensor,
        keep_TO: Kept = None,
    ) -> None:
        """Adds keep * (low W) to each run's rows, in place."""

    def outer(self, low_TR: torch.Tensor, x_TI: torch.Tensor, keep_TI: Kept) -> torch.Tensor:
        """Each run's low^T (keep * x), over its rows, `[N, R, I]`."""


@dataclass(frozen=True)
class Use:
    """Updates at work on a product, of its matrices side by side: they read one input, with one
    mask of dropout.

    Attributes:
        factors: updates by run and by matrix; more than one run where all have the same shapes
            and numbers, one after another.
        first: place of the first of the runs among all.
        rows: the runs' rows; all where they are known to the device alone.
        shares: which of the rows each run has.
        columns: the outputs that belong to each matrix.
        keep_TI: dropout of the input, as `shares` takes it; None keeps all.
        growth: of what is kept.
    """

    factors: tuple[tuple[Factors, ...], ...]
    first: int
    rows: slice
    shares: Shares
    columns: tuple[slice, ...]
    keep_TI: Kept
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
        # Float32, and laid out as the halves are, or autograd would copy each gradient.
        da_NRI, db_NOR = da_NRI.float(), db_NOR.float()
        by_half: list[torch.Tensor] = []
        for outputs, ranks, scale in self._blocks():
            own_NOR = db_NOR[:, outputs, ranks]
            scaled_NOR = own_NOR.new_empty(own_NOR.shape)
            by_half += [da_NRI[:, ranks], torch.mul(own_NOR, scale, out=scaled_NOR)]
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
        ctx.keeps = []
        for use in uses:
            own = list(itertools.islice(given, len(use.halves())))
            a_NRI, b_NOR = use.joined(own, x_TI.dtype)
            inputs_TI, keep_TI = use.shares.inputs(x_TI[use.rows], use.keep_TI)
            low_TR = use.shares.down(inputs_TI, keep_TI, a_NRI)
            use.shares.up(low_TR, b_NOR.mT, y_TO[use.rows, use.span])
            saved += [inputs_TI, low_TR, a_NRI, b_NOR]
            ctx.keeps.append(keep_TI)
        ctx.product, ctx.uses = product, uses
        ctx.save_for_backward(*saved)
        return y_TO

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (dy_TO,) = gradients
        saved = ctx.saved_tensors
        dx_TI = ctx.product.backwards(dy_TO) if ctx.needs_input_grad[0] else None
        halves: list[torch.Tensor] = []
        for number, (use, keep_TI) in enumerate(zip(ctx.uses, ctx.keeps, strict=True)):
            inputs_TI, low_TR, a_NRI, b_NOR = saved[4 * number : 4 * number + 4]
            own_TO, shares = dy_TO[use.rows, use.span], use.shares
            dlow_TR = shares.down(own_TO, None, b_NOR.mT)
            db_NRO = shares.outer(low_TR, own_TO, None)
            halves += use.apart(shares.outer(dlow_TR, inputs_TI, keep_TI), db_NRO.mT)
            if dx_TI is not None:
                shares.up(dlow_TR, a_NRI, dx_TI[use.rows], use.keep_TI)
        return dx_TI, None, None, *halves


@dataclass(frozen=True)
class EqualShares:
    """Runs that have equally many of some rows, one after another."""

    runs: int

    def inputs(
        self, x_TI: torch.Tensor, keep_TI: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Rows after their dropout, and none that is still to do."""
        return masked(x_TI, keep_TI), None

    def down(
        self, x_TI: torch.Tensor, keep_TI: torch.Tensor | None, weight_NRI: torch.Tensor
    ) -> torch.Tensor:
        """See `Shares`."""
        return torch.bmm(self._apart(masked(x_TI, keep_TI)), weight_NRI.mT).flatten(0, 1)

    features = down

    def up(
        self,
        low_TR: torch.Tensor,
        weight_NRO: torch.Tensor,
        into_TO: torch.Tensor,
        keep_TO: torch.Tensor | None = None,
    ) -> None:
        """See `Shares`."""
        if keep_TO is None:
            self._apart(into_TO).baddbmm_(self._apart(low_TR), weight_NRO)
        else:
            into_TO += masked(torch.bmm(self._apart(low_TR), weight_NRO).flatten(0, 1), keep_TO)

    def outer(
        self, low_TR: torch.Tensor, x_TI: torch.Tensor, keep_TI: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Shares`."""
        # The other way round, x^T low takes a third longer on the CPU.
        return torch.bmm(self._apart(low_TR).mT, self._apart(masked(x_TI, keep_TI)))

    def _apart(self, x_TI: torch.Tensor) -> torch.Tensor:
        """`[N, T / N, I]`, without a copy."""
        return x_TI.view(self.runs, -1, x_TI.shape[1])
