"""Low-rank updates of runs whose rows the device alone knows, in kernels that go by tiles of one
run's rows.

Shape letters: T rows, N runs, W tiles, R rank, I inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from budgerigar.encoder.dropout import Drawn
from budgerigar.encoder.fused import CHUNK, drawn_arguments, factors, power_of_two

TILE = 32
"""Rows of one run that a kernel takes together."""
SUMMED_ROWS = 128
"""Rows of one run that are summed over together."""


@dataclass(frozen=True)
class DeviceShares:
    """Which rows of a batch each run has: known to the device alone, not to the host.

    Attributes:
        ends: where the runs' rows end, one run after another from row 0, int32 `[N + 1]` after a
            0. Rows after the last belong to nobody.
        tiles_W3: stretches of rows of one run: run, first row, end, int32; -1 for the run where
            there is none.
        tile: rows that each of them has at most.
        first, runs: the runs that are meant, from the first.
    """

    ends: torch.Tensor
    tiles_W3: torch.Tensor
    tile: int
    first: int
    runs: int

    def of(self, first: int, runs: int) -> DeviceShares:
        """Some of the runs."""
        return replace(self, first=first, runs=runs)

    def inputs(
        self, x_TI: torch.Tensor, keep_TI: Drawn | None
    ) -> tuple[torch.Tensor, Drawn | None]:
        """See `lora.Shares`: as they are, kernels drop out."""
        return x_TI, keep_TI

    def down(
        self, x_TI: torch.Tensor, keep_TI: Drawn | None, weight_NRI: torch.Tensor
    ) -> torch.Tensor:
        """See `lora.Shares`; zero in rows of other runs."""
        from budgerigar.encoder import kernels

        assert x_TI.stride(1) == 1
        rank, inputs = weight_NRI.shape[1:]
        low_TR = x_TI.new_zeros((len(x_TI), rank))
        kernels.down[(len(self.tiles_W3),)](
            x_TI,
            *drawn_arguments(keep_TI),
            weight_NRI,
            low_TR,
            self.tiles_W3,
            self.first,
            self.runs,
            inputs,
            rank,
            x_TI.stride(0),
            *weight_NRI.stride(),
            **self._blocks(keep_TI, rank, self.tile),
        )
        return low_TR

    def features(
        self, x_TI: torch.Tensor, keep_TI: Drawn | None, a_NRI: torch.Tensor
    ) -> torch.Tensor:
        """See `lora.Shares`; zero in rows of other runs."""
        low_TR: torch.Tensor = _Features.apply(  # type: ignore[no-untyped-call]
            x_TI, keep_TI, a_NRI, self
        )
        return low_TR

    def up(
        self,
        low_TR: torch.Tensor,
        weight_NRO: torch.Tensor,
        into_TO: torch.Tensor,
        keep_TO: Drawn | None = None,
    ) -> None:
        """See `lora.Shares`."""
        from budgerigar.encoder import kernels

        assert into_TO.stride(1) == 1
        rank, outputs = weight_NRO.shape[1:]
        kernels.up[(len(self.tiles_W3), -(-outputs // CHUNK))](
            low_TR,
            weight_NRO,
            *drawn_arguments(keep_TO),
            into_TO,
            self.tiles_W3,
            self.first,
            self.runs,
            outputs,
            rank,
            into_TO.stride(0),
            *weight_NRO.stride(),
            **self._blocks(keep_TO, rank, self.tile),
        )

    def outer(
        self, low_TR: torch.Tensor, x_TI: torch.Tensor, keep_TI: Drawn | None
    ) -> torch.Tensor:
        """See `lora.Shares`; float32."""
        from budgerigar.encoder import kernels

        assert x_TI.stride(1) == 1
        rank, inputs = low_TR.shape[1], x_TI.shape[1]
        gradient_NRI = x_TI.new_empty((self.runs, rank, inputs), dtype=torch.float32)
        kernels.outer[(self.runs, -(-inputs // CHUNK))](
            low_TR,
            x_TI,
            *drawn_arguments(keep_TI),
            gradient_NRI,
            self.ends,
            self.first,
            inputs,
            rank,
            x_TI.stride(0),
            **self._blocks(keep_TI, rank, SUMMED_ROWS),
        )
        return gradient_NRI

    def _blocks(self, keep: Drawn | None, rank: int, rows: int) -> dict[str, Any]:
        sizes = {"RANK": power_of_two(rank), "BLOCK": rows, "CHUNK": CHUNK}
        return {"DRAWS": keep is not None, **sizes, "FACTORS": factors()}


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TI: torch.Tensor,
        keep_TI: Drawn | None,
        a_NRI: torch.Tensor,
        shares: DeviceShares,
    ) -> torch.Tensor:
        ctx.keep_TI, ctx.shares = keep_TI, shares
        ctx.save_for_backward(x_TI, a_NRI)
        return shares.down(x_TI, keep_TI, a_NRI)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x_TI, a_NRI = ctx.saved_tensors
        to_low_TR = gradients[0].contiguous()
        to_x_TI = None
        if ctx.needs_input_grad[0]:
            to_x_TI = torch.zeros_like(x_TI)
            ctx.shares.up(to_low_TR, a_NRI, to_x_TI, ctx.keep_TI)
        to_a_NRI = ctx.shares.outer(to_low_TR, x_TI, ctx.keep_TI).to(a_NRI.dtype)
        return to_x_TI, None, to_a_NRI, None
