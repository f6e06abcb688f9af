"""Attention over packed texts: one function, with the kernel that is fastest where it is called.

Linear layers never see where a text ends; attention alone does. Texts of like length go
into a padded view together, as few groups as padding pays for.

Shape letters: B texts, T packed tokens, P places of the padded view, G texts of a group,
L tokens of each with its padding, H heads, K width of a head, D = H * K, E features a token.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.encoder import fused
from budgerigar.encoder.products import exact_products


@dataclass(frozen=True)
class Grouping:
    """How texts are put together in a padded view.

    Attributes:
        multiple: to which lengths are rounded up.
        sizes: how many texts a group may have, 1 among them; None lets it have any number.
        waste: scores of a head that a group may compute in vain so that shorter texts join it,
            what rounding wastes not counted: about what another group costs.
    """

    multiple: int
    sizes: tuple[int, ...] | None
    waste: int


GROUPINGS = {
    "cpu": Grouping(16, (1, 2, 3, 4, 6, 8, 12, 16), 1 << 13),
    "cuda": Grouping(1, None, 1 << 20),
}
"""By device. On the CPU lengths and sizes are few, as oneDNN makes a kernel for every new shape,
and a group's scores stay in the caches."""
LARGEST_SCORES = 1 << 21
"""Attention scores of a head that a group may hold: longer texts go in smaller groups."""
LONG = 256
"""Longer texts are torch's own kernel's where nothing goes backwards, as it keeps no scores; where
products are float32 all are, as it is the faster one there."""


@dataclass(frozen=True)
class Group:
    """Texts that are padded to one length.

    Attributes:
        start: its first place in the padded view.
        size: texts G.
        longest: tokens L, padding included.
        shortest: tokens of its shortest text.
        texts: their numbers in the batch, `[G]`.
        padding_GL: True where there is no token; None where every text is of length L.
    """

    start: int
    size: int
    longest: int
    shortest: int
    texts: torch.Tensor
    padding_GL: torch.Tensor | None

    @property
    def places(self) -> slice:
        """Its part of the padded view."""
        return slice(self.start, self.start + self.size * self.longest)


@dataclass(frozen=True)
class Ragged:
    """Where the texts of a packed batch are, and how attention pads them.

    Rows that belong to no text are idle: they round their number up, so that products meet
    few different shapes, for each of which a library may have to make a kernel.

    Attributes:
        starts_B, lengths_B: first row and number of tokens of each text; empty where only the
            device knows them.
        first_B: the same first rows, to index with.
        text_T: the text of each row, B for an idle one.
        within_T: how far from its text's beginning each row stands, 0 for an idle one.
        token_P: the row at each place of the padded view; padding repeats a text's first.
        place_T: the place of each row, 0 for an idle one.
        idle: the idle rows; None where there are none, or none that anything would read.
        groups: the padded view's parts; none where kernels alone read the batch: for them there
            are `first_B`, `ends_S` and `longest`, and all else is empty.
        ends_S: where stretches of rows end that see one another, texts and between them idle
            rows, int32 after a 0; for kernels of GPUs, None elsewhere.
        longest: rows of the longest stretch, or more.
    """

    starts_B: np.ndarray
    lengths_B: np.ndarray
    first_B: torch.Tensor
    text_T: torch.Tensor
    within_T: torch.Tensor
    token_P: torch.Tensor
    place_T: torch.Tensor
    idle: torch.Tensor | None
    groups: tuple[Group, ...]
    ends_S: torch.Tensor | None = None
    longest: int = 0


def ragged(starts_B: np.ndarray, lengths_B: np.ndarray, rows: int, device: torch.device) -> Ragged:
    """Plans the padded view of packed texts.

    Args:
        starts_B, lengths_B: first row and number of tokens of each text, at least one.
        rows: of the packed tensors, T.
        device: where the tensors will be.
    """
    texts = len(lengths_B)
    text_T = np.full(rows, texts, dtype=np.int64)
    within_T = np.zeros(rows, dtype=np.int64)
    token_T = rows_of(starts_B, lengths_B)
    text_T[token_T] = np.repeat(np.arange(texts), lengths_B)
    within_T[token_T] = token_T - np.repeat(starts_B, lengths_B)
    groups, token_P, place_T = _padded_view(starts_B, lengths_B, rows, device)
    idle = np.flatnonzero(text_T == texts)
    ends_S = np.unique(np.concatenate([starts_B, starts_B + lengths_B, [0, rows]])).astype(np.int32)
    return Ragged(
        starts_B=starts_B,
        lengths_B=lengths_B,
        first_B=_tensor(starts_B, device),
        text_T=_tensor(text_T, device),
        within_T=_tensor(within_T, device),
        token_P=_tensor(token_P, device),
        place_T=_tensor(place_T, device),
        idle=_tensor(idle, device) if len(idle) else None,
        groups=groups,
        ends_S=torch.from_numpy(ends_S).to(device) if device.type == "cuda" else None,
        longest=int(np.diff(ends_S).max()),
    )


def rows_of(starts_B: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
    """The numbers of all rows of some texts, one text after another.

    Args:
        starts_B, lengths_B: first row and number of rows of each.
    """
    before_B = np.cumsum(lengths_B) - lengths_B
    rows: np.ndarray = np.repeat(starts_B - before_B, lengths_B) + np.arange(lengths_B.sum())
    return rows


def _padded_view(
    starts_B: np.ndarray, lengths_B: np.ndarray, rows: int, device: torch.device
) -> tuple[tuple[Group, ...], np.ndarray, np.ndarray]:
    """Groups of texts of like length, the row at each place, and the place of each row."""
    grouping = GROUPINGS[device.type]
    order = np.argsort(-lengths_B, kind="stable")
    rounded = -(-lengths_B[order] // grouping.multiple) * grouping.multiple
    groups: list[Group] = []
    tokens: list[np.ndarray] = []
    place_T = np.zeros(rows, dtype=np.int64)
    start = first = 0
    while first < len(order):
        longest = int(rounded[first])
        waste = np.cumsum(longest**2 - rounded[first:] ** 2)
        fitting = int(np.searchsorted(waste, grouping.waste, side="right"))
        fitting = min(fitting, max(1, LARGEST_SCORES // longest**2))
        if grouping.sizes:
            fitting = max(size for size in grouping.sizes if size <= fitting)
        texts = order[first : first + fitting]
        within_L = np.arange(longest)
        inside_GL = within_L < lengths_B[texts, None]
        token_GL = starts_B[texts, None] + np.where(inside_GL, within_L, 0)
        place_T[token_GL[inside_GL]] = start + np.flatnonzero(inside_GL)
        padding_GL = None if inside_GL.all() else torch.from_numpy(~inside_GL).to(device)
        shortest = int(lengths_B[texts[-1]])
        groups.append(
            Group(start, len(texts), longest, shortest, _tensor(texts, device), padding_GL)
        )
        tokens.append(token_GL.ravel())
        start += token_GL.size
        first += len(texts)
    return tuple(groups), np.concatenate(tokens), place_T


def _tensor(numbers: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.asarray(numbers, dtype=np.int64)).to(device, non_blocking=True)


def attend(
    qkv_T3D: torch.Tensor, where: Ragged, heads: int, window: int | None = None
) -> torch.Tensor:
    """Self-attention of every token over its own text (Vaswani et al. 2017, section 3.2.1).

    Args:
        qkv_T3D: queries, keys and values, side by side.
        where: the texts.
        heads: H.
        window: how many tokens on either side a token sees; None sees the whole text.

    Returns:
        The heads' contexts, side by side, `[T, D]`.
    """
    if not where.groups:
        assert where.ends_S is not None
        assert window is None
        return fused.attend(qkv_T3D, where.ends_S, heads, where.longest)
    if qkv_T3D.is_cuda and qkv_T3D.dtype != torch.float32:
        return _varlen(qkv_T3D, where, heads, window)
    goes_back = torch.is_grad_enabled() and qkv_T3D.requires_grad
    short = qkv_T3D.dtype == torch.bfloat16 and where.lengths_B.max() <= LONG
    if not (qkv_T3D.is_cuda or goes_back or window is not None or short):
        return _forwards(qkv_T3D, where, heads)
    context_TD: torch.Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        qkv_T3D, where, heads, window
    )
    return context_TD


def attend_first(
    features_TE: torch.Tensor, queries_BHE: torch.Tensor, where: Ragged, scale: float
) -> torch.Tensor:
    """Each head's mean of a text's features, weighted by one query a text.

    Args:
        features_TE: what stands for keys and values both, float32.
        queries_BHE: a query for each text and head, float32.
        where: the texts.
        scale: of the scores before the softmax.

    Returns:
        `[B, H, E]`.
    """
    if not where.groups:
        assert where.ends_S is not None
        return fused.attend_first(features_TE, queries_BHE, where.ends_S, where.longest, scale)
    mixed_BHE: torch.Tensor = _FirstAttention.apply(  # type: ignore[no-untyped-call]
        features_TE, queries_BHE, where, scale
    )
    return mixed_BHE


def _varlen(qkv_T3D: torch.Tensor, where: Ragged, heads: int, window: int | None) -> torch.Tensor:
    """PyTorch's variable-length kernel: CUDA, 16 bits."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv_T3D.view(qkv_T3D.shape[0], 3, heads, -1).unbind(1)
    ends_S, longest = where.ends_S, where.longest
    assert ends_S is not None
    sides = (-1, -1) if window is None else (window, window)
    context: Any = varlen_attn(
        query, key, value, ends_S, ends_S, longest, longest, window_size=sides
    )
    return context.reshape(qkv_T3D.shape[0], -1)  # type: ignore[no-any-return]


def _forwards(qkv_T3D: torch.Tensor, where: Ragged, heads: int) -> torch.Tensor:
    """PyTorch's kernel where nothing goes backwards: without a mask it is the faster one, so that
    texts of exactly one length go together, float32 inside."""
    exact = torch.promote_types(qkv_T3D.dtype, torch.float32)
    context_TD = qkv_T3D.new_zeros((len(qkv_T3D), qkv_T3D.shape[1] // 3))
    order_B = np.argsort(where.lengths_B, kind="stable")
    bounds = np.flatnonzero(np.diff(where.lengths_B[order_B], prepend=0, append=0))
    for first, last in itertools.pairwise(bounds.tolist()):
        texts_G = order_B[first:last]
        length, starts_G = int(where.lengths_B[texts_G[0]]), where.starts_B[texts_G]
        rows: slice | torch.Tensor = slice(starts_G[0], starts_G[0] + length * len(texts_G))
        if (np.diff(starts_G) != length).any():
            rows = _tensor(rows_of(starts_G, where.lengths_B[texts_G]), qkv_T3D.device)
        apart = qkv_T3D[rows].view(len(texts_G), length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = apart.to(exact).unbind(0)
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        context_TD[rows] = context.flatten(2).flatten(0, 1).to(context_TD.dtype)
    return context_TD


class _Attention(torch.autograd.Function):
    """Plain batched products in a padded view, in both directions. Scores and their gradients are
    float32 at least; where they are multiplied with queries, keys or values, they take the number
    type of these.

    With P = softmax(s Q K^T) and O = P V: dV = P^T dO, dP = dO V^T,
    dS = P * (dP - rowsum(dP * P)), dQ = s dS K, dK = s dS^T Q.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv_T3D: torch.Tensor, where: Ragged, heads: int, window: int | None
    ) -> torch.Tensor:
        qkv_P3D = qkv_T3D.index_select(0, where.token_P)
        context_PD = qkv_P3D.new_empty((len(where.token_P), qkv_T3D.shape[1] // 3))
        saved: list[torch.Tensor] = []
        for group in where.groups:
            query, key, value = _split_heads(qkv_P3D[group.places], group.size, 3, heads)
            scores = exact_products(query, key.mT, _scale(query))
            _hide(scores, group, heads, window)
            probabilities = scores.softmax(-1)
            del scores
            context = torch.bmm(probabilities.to(value.dtype), value)
            _merge_heads(context, group.size, heads, context_PD[group.places])
            if ctx.needs_input_grad[0]:
                saved += [query, key, value, probabilities]
        ctx.where, ctx.heads = where, heads
        ctx.save_for_backward(*saved)
        return _packed(context_PD, where)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        where: Ragged = ctx.where
        (context_TD,) = gradients
        context_PD = context_TD.index_select(0, where.token_P)
        width = context_TD.shape[1]
        qkv_P3D = context_PD.new_empty((len(where.token_P), 3 * width))
        saved = iter(ctx.saved_tensors)
        for group in where.groups:
            query, key, value, probabilities = (next(saved) for _ in range(4))
            if group.padding_GL is not None:
                context_PD[group.places].masked_fill_(group.padding_GL.reshape(-1, 1), 0.0)
            (context,) = _split_heads(context_PD[group.places], group.size, 1, ctx.heads)
            toward = exact_products(context, value.mT)
            scores = _softmax_backward(toward, probabilities).mul_(_scale(query)).to(query.dtype)
            parts = (
                torch.bmm(scores, key),
                torch.bmm(scores.mT, query),
                torch.bmm(probabilities.to(value.dtype).mT, context),
            )
            for part, columns in zip(parts, qkv_P3D[group.places].split(width, 1), strict=True):
                _merge_heads(part, group.size, ctx.heads, columns)
        return _packed(qkv_P3D, where), None, None, None


class _FirstAttention(torch.autograd.Function):
    """As `_Attention`, with one query a text and the features for keys and values."""

    @staticmethod
    def forward(
        ctx: Any, features_TE: torch.Tensor, queries_BHE: torch.Tensor, where: Ragged, scale: float
    ) -> torch.Tensor:
        features_PE = features_TE.index_select(0, where.token_P)
        mixed_BHE = torch.empty_like(queries_BHE)
        saved: list[torch.Tensor] = []
        for group in where.groups:
            features = features_PE[group.places].view(group.size, group.longest, -1)
            queries = queries_BHE.index_select(0, group.texts)
            scores = exact_products(queries, features.mT, scale)
            if group.padding_GL is not None:
                scores.masked_fill_(group.padding_GL[:, None, :], float("-inf"))
            probabilities = scores.softmax(-1)
            mixed_BHE.index_copy_(0, group.texts, torch.bmm(probabilities, features))
            saved.append(probabilities)
        ctx.where, ctx.scale = where, scale
        ctx.save_for_backward(features_PE, queries_BHE, *saved)
        return mixed_BHE

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        where: Ragged = ctx.where
        (mixed_BHE,) = gradients
        features_PE, queries_BHE, *saved = ctx.saved_tensors
        to_features_PE = torch.empty_like(features_PE) if ctx.needs_input_grad[0] else None
        to_queries_BHE = torch.empty_like(queries_BHE)
        for group, probabilities in zip(where.groups, saved, strict=True):
            features = features_PE[group.places].view(group.size, group.longest, -1)
            mixed = mixed_BHE.index_select(0, group.texts)
            toward = torch.bmm(mixed, features.transpose(1, 2))
            scores = _softmax_backward(toward, probabilities).mul_(ctx.scale)
            to_queries_BHE.index_copy_(0, group.texts, torch.bmm(scores, features))
            if to_features_PE is not None:
                queries = queries_BHE.index_select(0, group.texts)
                place = to_features_PE[group.places].view(features.shape)
                torch.bmm(probabilities.transpose(1, 2), mixed, out=place)
                place.baddbmm_(scores.transpose(1, 2), queries)
        if to_features_PE is None:
            return None, to_queries_BHE, None, None
        return _packed(to_features_PE, where), to_queries_BHE, None, None


def _packed(padded: torch.Tensor, where: Ragged) -> torch.Tensor:
    """Rows of the padded view -> rows of the packed batch, idle ones zero."""
    rows = padded.index_select(0, where.place_T)
    return rows if where.idle is None else rows.index_fill_(0, where.idle, 0.0)


def _scale(query: torch.Tensor) -> float:
    """By which scores are multiplied before the softmax."""
    return float(query.shape[-1] ** -0.5)


def _softmax_backward(toward: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    return torch._softmax_backward_data(toward, probabilities, -1, toward.dtype)


def _hide(scores: torch.Tensor, group: Group, heads: int, window: int | None) -> None:
    """Scores `[G * H, L, L]` of keys that are padding, or out of sight, become minus infinity."""
    by_text = scores.view(group.size, heads, group.longest, group.longest)
    if window is None or group.longest <= window:
        if group.padding_GL is not None:
            # Every text has tokens up to the shortest: nothing is hidden there.
            some = slice(group.shortest, None)
            by_text[..., some].masked_fill_(group.padding_GL[:, None, None, some], float("-inf"))
        return
    place_L = torch.arange(group.longest, device=scores.device)
    hidden_GLL = ((place_L[:, None] - place_L).abs() > window).repeat(group.size, 1, 1)
    if group.padding_GL is not None:
        hidden_GLL |= group.padding_GL[:, None, :]
        # A place of padding far from every token must see itself: over nothing a softmax is
        # no number, and its gradient would spread to all keys.
        hidden_GLL.diagonal(dim1=1, dim2=2).fill_(False)
    by_text.masked_fill_(hidden_GLL[:, None], float("-inf"))


def _split_heads(rows: torch.Tensor, size: int, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """Rows `[G * L, parts * H * K]` of G texts -> so many tensors `[G * H, L, K]`."""
    apart = rows.view(size, -1, parts, heads, rows.shape[1] // (parts * heads))
    together = apart.permute(2, 0, 3, 1, 4).contiguous()
    return together.flatten(1, 2).unbind(0)


def _merge_heads(by_head: torch.Tensor, size: int, heads: int, into: torch.Tensor) -> None:
    """`[G * H, L, K]` -> rows `[G * L, H * K]` of G texts, written into a part of a larger
    tensor."""
    apart = by_head.unflatten(0, (size, heads)).transpose(1, 2)
    into.unflatten(0, (size, -1)).unflatten(2, (heads, -1)).copy_(apart)
