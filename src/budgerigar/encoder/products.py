"""Products in the way that the processor does them fastest.

Weights that never change are kept in the layout that it wants: in bfloat16 on the CPU oneDNN
would bring a weight into its own blocked layout at every product; done once, both directions run
about a tenth faster, with the same bits.

Shape letters: T rows, I inputs, O outputs; of batched products X of them, L rows, K inputs, M
outputs.
"""

from __future__ import annotations

import contextlib
import threading

import torch
from torch.nn import functional as F

from budgerigar.encoder.hardware import onednn_keeps_float32

EXPECTED_ROWS = 864
"""Rows that the layout is chosen for, about 16 texts of AG News; others run as fast."""


class Product:
    """y = x W^T + b.

    Attributes:
        bias_O: as it was given.
    """

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> None:
        self.bias_O = bias_O
        # One layout is kept: two of every matrix would be a seventh of what training holds.
        self._forwards = _blocked(weight_OI)
        self._plain_OI = weight_OI if self._forwards is None else None
        self._backwards: torch.Tensor | None = None

    @property
    def weight_OI(self) -> torch.Tensor:
        """The weight as it was given, or made anew from oneDNN's layout."""
        if self._plain_OI is not None:
            return self._plain_OI
        assert self._forwards is not None
        return self._forwards.to_dense()

    def forwards(self, x_TI: torch.Tensor) -> torch.Tensor:
        """`[T, O]`."""
        if self._forwards is None:
            return F.linear(x_TI, self.weight_OI, self.bias_O)
        return _blocked_product(x_TI, self._forwards, self.bias_O)

    def backwards(self, dy_TO: torch.Tensor) -> torch.Tensor:
        """The gradient of the input, dy W, `[T, I]`."""
        if self._forwards is None:
            return dy_TO @ self.weight_OI
        if self._backwards is None:
            # Only layers that train, or have a trained one below, come here.
            self._backwards = _blocked(self.weight_OI.t().contiguous())
        assert self._backwards is not None
        return _blocked_product(dy_TO, self._backwards, None)


def exact_products(
    left_XLK: torch.Tensor, right_XKM: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Batched products, times a number, of float32 at least, `[X, L, M]`.

    Operands of bfloat16 are widened first, as products of bfloat16 round what comes out. On the
    CPU they go to oneDNN then where it multiplies float32 as such: MKL, torch's choice, takes
    twice as long on AMD's processors.
    """
    exact = torch.promote_types(left_XLK.dtype, torch.float32)
    out_XLM = left_XLK.new_empty((*left_XLK.shape[:2], right_XKM.shape[2]), dtype=exact)
    operands = left_XLK.to(exact), right_XKM.to(exact)
    on_cpu = left_XLK.device.type == "cpu" and left_XLK.dtype == torch.bfloat16
    with _ONEDNN if on_cpu and onednn_keeps_float32() else contextlib.nullcontext():
        return out_XLM.baddbmm_(*operands, beta=0.0, alpha=scale)


class _ByOneDNN:
    """Within, batched products of float32 on the CPU are oneDNN's. Torch gives them only where it
    may round them to bfloat16, a setting of the whole process: products of other threads meet it
    too, so it is there only where oneDNN does not make use of it. It is left as it was found."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before = "none"

    def __enter__(self) -> None:
        self._lock.acquire()
        found = torch.backends.mkldnn
        # What is read may come from a wider setting, which must go on to hold.
        own = found.matmul.fp32_precision  # type: ignore[attr-defined]
        self._before = "none" if own == found.fp32_precision else own
        found.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]

    def __exit__(self, *failure: object) -> None:
        torch.backends.mkldnn.matmul.fp32_precision = self._before  # type: ignore[attr-defined]
        self._lock.release()


_ONEDNN = _ByOneDNN()


def _blocked(weight_OI: torch.Tensor) -> torch.Tensor | None:
    """The weight in oneDNN's layout; None where plain products are as good."""
    if weight_OI.device.type != "cpu" or weight_OI.dtype != torch.bfloat16:
        return None
    try:
        # Not public, but what torch.compile itself calls; without it plain products serve.
        blocked: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI, EXPECTED_ROWS)
        _blocked_product(weight_OI.new_zeros((1, weight_OI.shape[1])), blocked, None)
        blocked.to_dense()
    except (AttributeError, RuntimeError):
        return None
    return blocked


def _blocked_product(
    x_TI: torch.Tensor, blocked: torch.Tensor, bias_O: torch.Tensor | None
) -> torch.Tensor:
    y_TO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_TI, blocked, bias_O, "none", [], "")
    return y_TO
