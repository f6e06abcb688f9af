"""What batches of fixed shapes on a GPU do between their products, each in a kernel or two of
`kernels`: dropout with addition and norm, and attention. `device_shares` has the low-rank updates.

Shape letters: T rows, D width, H heads, B texts, E features a token.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import TYPE_CHECKING, Any

import torch

from budgerigar.encoder.dropout import Drawn

if TYPE_CHECKING:
    from budgerigar.encoder.weights import Norm

NORM_ROWS = 4
"""Rows that a kernel norms together."""
BLOCK = 64
"""Tokens of a text that attention takes together."""
CHUNK = 64
"""Columns that kernels take together where they take some."""
ONE_STAGE = {"num_stages": 1}
"""For loops that most often go round once: nothing is fetched ahead."""


@functools.cache
def obstacle(device: str) -> str | None:
    """Why kernels cannot run on a kind of device, in words; None where one that is tried can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device != "cuda":
        # Triton's own interpreter, for tests.
        return None if os.environ.get("TRITON_INTERPRET") == "1" else "kernels are for GPUs"
    try:
        x = torch.zeros((2, 2, 16), device=device)
        ends = torch.tensor([0, 1, 2], dtype=torch.int32, device=device)
        attend_first(x.flatten(0, 1), x, ends, 1, 1.0)
    except Exception as failure:
        # Whatever a compiler or a driver may lack; told, and the run goes on without.
        return f"Triton cannot build kernels here ({_first_line(failure)})"
    return None


def _first_line(failure: Exception) -> str:
    return next(iter(str(failure).splitlines()), type(failure).__name__)


def add_norm(
    hidden: torch.Tensor,
    change: torch.Tensor,
    keep: Drawn | None,
    scale: float | torch.Tensor,
    norm: Norm,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """norm(hidden + scale * keep * change), `[T, D]` float32 and in the number type of `change`.

    Args:
        hidden: float32.
        change: what is added, after dropout.
        keep: dropout of what is added; None keeps all.
        scale: of what is kept, a number or one for each row, `[T, 1]`.
        norm: does not train.
        epsilon: of the norm.
    """
    results: tuple[torch.Tensor, ...] = _AddNorm.apply(  # type: ignore[no-untyped-call]
        hidden, change, keep, scale, norm, epsilon
    )
    return results[0], results[-1]


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        change: torch.Tensor,
        keep: Drawn | None,
        scale: float | torch.Tensor,
        norm: Norm,
        epsilon: float,
    ) -> tuple[torch.Tensor, ...]:
        from budgerigar.encoder import kernels

        assert norm.bias is not None
        hidden, change = hidden.contiguous(), change.contiguous()
        rows, width = hidden.shape
        result = torch.empty_like(hidden)
        narrows = change.dtype != hidden.dtype
        narrowed = torch.empty_like(change) if narrows else result
        kernels.add_norm_forward[(-(-rows // NORM_ROWS),)](
            hidden,
            change,
            *drawn_arguments(keep),
            scale,
            norm.weight,
            norm.bias,
            result,
            narrowed,
            rows,
            width,
            epsilon,
            DRAWS=keep is not None,
            SCALES=isinstance(scale, torch.Tensor),
            NARROWS=narrows,
            ROWS=NORM_ROWS,
            BLOCK=power_of_two(width),
        )
        ctx.keep, ctx.scale, ctx.norm, ctx.epsilon = keep, scale, norm, epsilon
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, change)
        return (result, narrowed) if narrows else (result,)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        from budgerigar.encoder import kernels

        hidden, change = ctx.saved_tensors
        to_result, *rest = (one if one is None else one.contiguous() for one in gradients)
        to_narrowed = rest[0] if rest else None
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_change = torch.empty_like(change)
        rows, width = hidden.shape
        kernels.add_norm_backward[(-(-rows // NORM_ROWS),)](
            to_result,
            to_narrowed,
            hidden,
            change,
            *drawn_arguments(ctx.keep),
            ctx.scale,
            ctx.norm.weight,
            to_hidden,
            to_change,
            rows,
            width,
            ctx.epsilon,
            DRAWS=ctx.keep is not None,
            SCALES=isinstance(ctx.scale, torch.Tensor),
            RESULT=to_result is not None,
            NARROWS=to_narrowed is not None,
            HIDDEN=to_hidden is not None,
            ROWS=NORM_ROWS,
            BLOCK=power_of_two(width),
        )
        return to_hidden, to_change, None, None, None, None


def attend(qkv_T3D: torch.Tensor, ends: torch.Tensor, heads: int, longest: int) -> torch.Tensor:
    """Self-attention of every token over its own text, `[T, D]`.

    Args:
        qkv_T3D: queries, keys and values, side by side.
        ends: where texts end, one after another from row 0, int32 after a 0. Rows after the last
            belong to nobody; what comes out for them is anything.
        heads: H.
        longest: tokens of the longest text, or more.
    """
    context_TD: torch.Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
        qkv_T3D, ends, heads, longest
    )
    return context_TD


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_T3D: torch.Tensor, ends: torch.Tensor, heads: int, longest: int
    ) -> torch.Tensor:
        from budgerigar.encoder import kernels

        width = qkv_T3D.shape[1] // 3
        context_TD = qkv_T3D.new_empty((len(qkv_T3D), width))
        spread_TH = qkv_T3D.new_empty((len(qkv_T3D), heads), dtype=torch.float32)
        ctx.ends, ctx.grid = ends, (len(ends) - 1, heads, -(-longest // BLOCK))
        kernels.attend_forward[ctx.grid](
            qkv_T3D, context_TD, spread_TH, ends, width, **_of_heads(width, heads)
        )
        ctx.save_for_backward(qkv_T3D, context_TD, spread_TH)
        return context_TD

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        from budgerigar.encoder import kernels

        qkv_T3D, context_TD, spread_TH = ctx.saved_tensors
        to_qkv_T3D = torch.empty_like(qkv_T3D)
        width = context_TD.shape[1]
        kernels.attend_backward[ctx.grid](
            gradients[0].contiguous(),
            qkv_T3D,
            context_TD,
            spread_TH,
            ctx.ends,
            to_qkv_T3D,
            width,
            **_of_heads(width, ctx.grid[1]),
        )
        return to_qkv_T3D, None, None, None


def _of_heads(width: int, heads: int) -> dict[str, Any]:
    each = width // heads
    sizes = {"K": each, "BLOCK_K": power_of_two(each), "BLOCK": BLOCK}
    return {"scale": each**-0.5, **sizes, "FACTORS": factors(), **ONE_STAGE}


def attend_first(
    features_TE: torch.Tensor,
    queries_BHE: torch.Tensor,
    ends: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """Each head's mean of a text's features, weighted by one query a text, `[B, H, E]`.

    Args:
        features_TE: what stands for keys and values both, float32.
        queries_BHE: a query for each text and head, float32.
        ends: as `attend` has them.
        longest: tokens of the longest text, or more.
        scale: of the scores before the softmax.
    """
    mixed_BHE: torch.Tensor = _AttendFirst.apply(  # type: ignore[no-untyped-call]
        features_TE, queries_BHE, ends, longest, scale
    )
    return mixed_BHE


class _AttendFirst(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features_TE: torch.Tensor,
        queries_BHE: torch.Tensor,
        ends: torch.Tensor,
        longest: int,
        scale: float,
    ) -> torch.Tensor:
        from budgerigar.encoder import kernels

        features_TE, queries_BHE = features_TE.contiguous(), queries_BHE.contiguous()
        texts, heads, width = queries_BHE.shape
        weights_TH = features_TE.new_empty((len(features_TE), heads))
        ctx.ends, ctx.longest, ctx.scale = ends, longest, scale
        _AttendFirst._scores(ctx, features_TE, queries_BHE, weights_TH)
        sizes = _sizes(heads)
        kernels.first_softmax[(texts,)](weights_TH, ends, heads, scale, **sizes)
        mixed_BHE = torch.empty_like(queries_BHE)
        kernels.first_forward[(texts, -(-width // CHUNK))](
            features_TE, weights_TH, mixed_BHE, ends, heads, width, **sizes, **_products()
        )
        ctx.save_for_backward(features_TE, queries_BHE, weights_TH)
        return mixed_BHE

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        from budgerigar.encoder import kernels

        features_TE, queries_BHE, weights_TH = ctx.saved_tensors
        texts, heads, width = queries_BHE.shape
        to_mixed_BHE = gradients[0].contiguous()
        to_scores_TH = torch.empty_like(weights_TH)
        _AttendFirst._scores(ctx, features_TE, to_mixed_BHE, to_scores_TH)
        sizes = _sizes(heads)
        kernels.first_softmax_backward[(texts,)](
            to_scores_TH, weights_TH, ctx.ends, heads, ctx.scale, **sizes
        )
        to_features_TE = torch.empty_like(features_TE) if ctx.needs_input_grad[0] else None
        to_queries_BHE = torch.empty_like(queries_BHE)
        kernels.first_backward[(texts, -(-width // CHUNK))](
            to_mixed_BHE,
            features_TE,
            queries_BHE,
            weights_TH,
            to_scores_TH,
            ctx.ends,
            to_features_TE,
            to_queries_BHE,
            heads,
            width,
            FEATURES=to_features_TE is not None,
            **sizes,
            **_products(),
        )
        return to_features_TE, to_queries_BHE, None, None, None

    @staticmethod
    def _scores(
        ctx: Any, features_TE: torch.Tensor, queries_BHE: torch.Tensor, into_TH: torch.Tensor
    ) -> None:
        """Products of each text's features and queries."""
        from budgerigar.encoder import kernels

        texts, heads, width = queries_BHE.shape
        grid = (texts, -(-ctx.longest // BLOCK))
        kernels.first_scores[grid](
            features_TE,
            queries_BHE,
            into_TH,
            ctx.ends,
            heads,
            width,
            **_sizes(heads),
            CHUNK=CHUNK,
            FACTORS=factors(),
        )


def _sizes(heads: int) -> dict[str, int]:
    return {"HEADS": power_of_two(heads), "BLOCK": BLOCK}


def _products() -> dict[str, Any]:
    return {"CHUNK": CHUNK, "FACTORS": factors(), **ONE_STAGE}


def factors() -> str:
    """To what factors of float32 are rounded: as torch does in its own products."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def drawn_arguments(keep: Drawn | None) -> tuple[torch.Tensor | None, int]:
    """Dropout as kernels take it."""
    return (None, 0) if keep is None else (keep.bytes_TD, keep.dropped)


def power_of_two(size: int) -> int:
    """The power of 2 that holds so many values, and that tensor cores take."""
    return max(16, 1 << (size - 1).bit_length())
