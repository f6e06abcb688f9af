"""Encoders with post-norm layers: BERT, RoBERTa and their kin.

Layers as in Devlin et al. 2019 (arXiv:1810.04805, appendix A) and Vaswani et al. 2017:
x1 = norm(x + drop(W_o attention(x))), x2 = norm(x1 + drop(W_2 gelu(W_1 x1))). The stream
between layers is float32; the inputs of products are of the products' number type.

Shape letters: B texts, T packed tokens of all runs, D hidden width, H heads, K width of a
head, R rank, N runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.encoder import fused
from budgerigar.encoder.attention import Ragged, attend, attend_first
from budgerigar.encoder.dropout import Stream, masked
from budgerigar.encoder.families import Family
from budgerigar.encoder.lora import adapted_product
from budgerigar.encoder.model import Head, Member, PackedEncoder, linear, on_device
from budgerigar.encoder.products import Product
from budgerigar.encoder.weights import Layer, Norm, Weights

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class Numbers:
    """What a configuration says beside the shapes.

    Attributes:
        heads: H.
        epsilon: of every LayerNorm.
        activation: of the feed-forward part, a key of `ACTIVATIONS`.
        padding: id of the padding token.
        hidden_dropout, head_dropout: rates in training.
    """

    heads: int
    epsilon: float
    activation: str
    padding: int
    hidden_dropout: float
    head_dropout: float


class PostNormEncoder(PackedEncoder):
    """BERT, RoBERTa, DistilBERT and those that share their tensors."""

    takes_fixed_shapes = True

    def __init__(self, weights: Weights, family: Family, numbers: Numbers) -> None:
        self.weights, self.family, self.numbers = weights, family, numbers
        self.depth, self.width = len(weights.layers), weights.word_VD.shape[1]
        self.device, self.number_type = weights.word_VD.device, weights.word_VD.dtype
        last = weights.layers[-1].qkv
        assert last.bias_O is not None
        query, self._last_keys, self._last_values = last.weight_OI.split(self.width)
        self._last_query = Product(query, last.bias_O[: self.width])
        self.hidden_dropout, self.padding = numbers.hidden_dropout, numbers.padding

    def embed(
        self, ids_T: np.ndarray, where: Ragged, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """What enters layer 0, `[T, D]` float32."""
        weights, ids = self.weights, on_device(ids_T, self.device)
        summed_TD = weights.word_VD.index_select(0, ids).float()
        summed_TD += weights.position_PD.index_select(0, self._positions(ids, where))
        summed_TD += weights.type_D
        hidden_TD = F.layer_norm(
            summed_TD, (self.width,), weights.norm.weight, weights.norm.bias, self.numbers.epsilon
        )
        keep_TD, scale = self.keep(-1, members, len(hidden_TD), self.width, of_texts=False)
        return hidden_TD if keep_TD is None else masked(hidden_TD, keep_TD) * scale

    def run_layers(
        self,
        hidden_TD: torch.Tensor,
        where: Ragged,
        layers: range,
        members: Sequence[Member] = (),
    ) -> torch.Tensor:
        """Goes through some layers with every token, `[T, D]`."""
        hidden = _Hidden(hidden_TD)
        for number in layers:
            layer = self.weights.layers[number]
            uses = self.uses(number, ("query", "key", "value"), members, of_texts=False)
            qkv_T3D = adapted_product(hidden.as_inputs(self.number_type), layer.qkv, uses)
            context_TD = attend(qkv_T3D, where, self.numbers.heads)
            hidden = self._after_attention(number, hidden, context_TD, members, of_texts=False)
        return hidden.exact

    def run_last_layer(
        self, hidden_TD: torch.Tensor, where: Ragged, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """Token 0 of each text after the last layer, `[B, D]`."""
        number = self.depth - 1
        context_BD = self._first_context(number, hidden_TD, where, members)
        first = _Hidden(hidden_TD.index_select(0, where.first_B))
        return self._after_attention(number, first, context_BD, members, of_texts=True).exact

    def logits(self, pooled_BD: torch.Tensor, head: Head, stream: Stream | None) -> torch.Tensor:
        """The head on a run's texts, `[B, C]`."""
        rate = self.numbers.head_dropout
        if self.family.drop_input:
            pooled_BD = self.drop(pooled_BD, rate, stream)
        between_BD = ACTIVATIONS[self.family.activation](linear(pooled_BD, head, self.family.dense))
        return linear(self.drop(between_BD, rate, stream), head, self.family.output)

    def _positions(self, ids_T: torch.Tensor, where: Ragged) -> torch.Tensor:
        if not self.family.positions_after_padding:
            return where.within_T
        # transformers passes over padding ids even where they stand inside a text.
        counts_T = ids_T != self.padding
        counted_T = counts_T.cumsum(0)
        before_B = (counted_T - counts_T.long()).index_select(0, where.first_B)
        before_T = F.pad(before_B, (0, 1)).index_select(0, where.text_T)
        return torch.where(counts_T, counted_T - before_T, 0) + self.padding

    def _after_attention(
        self,
        number: int,
        hidden: _Hidden,
        context: torch.Tensor,
        members: Sequence[Member],
        *,
        of_texts: bool,
    ) -> _Hidden:
        """The rest of a layer, for rows of tokens or of texts."""
        layer: Layer = self.weights.layers[number]

        def product(inputs: torch.Tensor, name: str, frozen: Product) -> torch.Tensor:
            uses = self.uses(number, (name,), members, of_texts)
            return adapted_product(inputs, frozen, uses)

        def add(hidden: _Hidden, change: torch.Tensor, drop: bool, norm: Norm) -> _Hidden:
            dropping = members if drop else ()
            rows, numbers = len(change), (norm, self.numbers.epsilon)
            if members and members[0].shares is not None:
                drawn = self.drawn(number, dropping, rows, self.width, of_texts)
                return _Hidden(*fused.add_norm(hidden.exact, change, *drawn, *numbers))
            kept = self.keep(number, dropping, rows, self.width, of_texts)
            added = _DropAddNorm.apply(hidden.exact, change, *kept, *numbers)  # type: ignore[no-untyped-call]
            return _Hidden(added)

        attended = product(context, "attention_output", layer.attention_output)
        hidden = add(hidden, attended, self.family.drop_attention_output, layer.attention_norm)
        inner = product(hidden.as_inputs(self.number_type), "intermediate", layer.intermediate)
        inner = ACTIVATIONS[self.numbers.activation](inner)
        return add(hidden, product(inner, "output", layer.output), True, layer.output_norm)

    def _first_context(
        self, number: int, x_TD: torch.Tensor, where: Ragged, members: Sequence[Member]
    ) -> torch.Tensor:
        """Attention of token 0 alone, without a key or a value for every token.

        scores_h = X (W_k,h^T q_h): the keys' bias is the same for all tokens and drops out of
        the softmax. context_h = W_v,h (sum_i a_i x_i) + b_v,h. Low-rank updates of W_k and W_v add
        R features to each token, of its state after their dropout, and fit the same form.
        """
        layer, heads, width = self.weights.layers[number], self.numbers.heads, self.width
        key, value = self._last_keys, self._last_values
        assert layer.qkv.bias_O is not None
        value_bias = layer.qkv.bias_O[2 * width :]
        uses = self.uses(number, ("query",), members, of_texts=True)
        first_BD = x_TD.index_select(0, where.first_B).to(self.number_type)
        query_BD = adapted_product(first_BD, self._last_query, uses).float()
        query_HBK = query_BD.unflatten(1, (heads, -1)).transpose(0, 1)
        queries = [torch.bmm(query_HBK, key.float().unflatten(0, (heads, -1)))]
        features = [x_TD]
        if added := self._low_rank(number, x_TD, members):
            features.append(added.low_TR)
            queries.append(added.of_keys(query_HBK))
        mixed_HBE = attend_first(
            torch.cat(features, 1),
            torch.cat(queries, 2).transpose(0, 1).contiguous(),
            where,
            (width // heads) ** -0.5,
        ).transpose(0, 1)
        value_HDK = value.float().unflatten(0, (heads, -1)).transpose(1, 2)
        context_HBK = torch.bmm(mixed_HBE[:, :, :width], value_HDK)
        if added:
            context_HBK = context_HBK + added.of_values(mixed_HBE[:, :, width:])
        context_BD = context_HBK.transpose(0, 1).flatten(1) + value_bias
        narrowed: torch.Tensor = context_BD.to(self.number_type)
        return narrowed

    def _low_rank(
        self, number: int, x_TD: torch.Tensor, members: Sequence[Member]
    ) -> _ByHead | None:
        """Updates of the last layer's keys and values, as features of the tokens."""
        uses = {
            use.first: use for use in self.uses(number, ("key", "value"), members, of_texts=False)
        }
        if not uses:
            return None
        rank = max(use.rank for use in uses.values())
        heads, width = self.numbers.heads, self.width
        low: list[torch.Tensor] = []
        b_halves: list[tuple[slice, torch.Tensor]] = []
        place = 0
        while place < len(members):
            member, use = members[place], uses.get(place)
            if use is None:
                if member.shares is None:
                    tokens = member.tokens.stop - member.tokens.start
                    low.append(x_TD.new_zeros((tokens, rank)))
                nothing = x_TD.new_zeros((1, 2, heads, width // heads, rank))
                b_halves.append((member.texts, nothing))
                place += 1
                continue
            place += len(use.factors)
            a_NRI, b_NOR = use.joined(use.halves(), x_TD.dtype)
            low_TR = use.shares.features(x_TD[use.rows], use.keep_TI, a_NRI)
            low.append(_widened(low_TR, 0, rank - use.rank))
            b_NOR = _widened(b_NOR, 0, rank - use.rank, use.span.start, 2 * width - use.span.stop)
            texts = slice(member.texts.start, members[place - 1].texts.stop)
            b_halves.append((texts, b_NOR.unflatten(1, (2, heads, -1))))
        if members[0].shares is None:
            return _ByHead(torch.cat(low), b_halves)
        # Each has all rows, with zeros where they are other runs'.
        return _ByHead(functools.reduce(torch.add, low), b_halves)


def _widened(x: torch.Tensor, *sides: int) -> torch.Tensor:
    """With zeros at its sides; the same tensor where there are none to add."""
    return F.pad(x, sides) if any(sides) else x


@dataclass(frozen=True)
class _ByHead:
    """Low-rank updates of keys and values, as features of the tokens.

    Attributes:
        low_TR: the features.
        b_halves: for the texts of a run, or of runs with equal shares, their B by head,
            `[N, 2, H, K, R]`, of keys and of values; zero where there is no update.
    """

    low_TR: torch.Tensor
    b_halves: list[tuple[slice, torch.Tensor]]

    def of_keys(self, query_HBK: torch.Tensor) -> torch.Tensor:
        """What each text's query asks of the features, `[H, B, R]`."""
        return self._times(query_HBK, [half[:, 0] for _, half in self.b_halves])

    def of_values(self, mixed_HBR: torch.Tensor) -> torch.Tensor:
        """What mixed features add to the contexts, `[H, B, K]`."""
        return self._times(mixed_HBR, [half[:, 1].mT for _, half in self.b_halves])

    def _times(self, x_HBX: torch.Tensor, halves: Sequence[torch.Tensor]) -> torch.Tensor:
        """Each run's texts times its half, `[N, H, X, Y]`, head by head: `[H, B, Y]`."""
        parts = []
        for (texts, _), half_NHXY in zip(self.b_halves, halves, strict=True):
            own_NHBX = x_HBX[:, texts].unflatten(1, (len(half_NHXY), -1)).transpose(0, 1)
            parts.append(torch.matmul(own_NHBX, half_NHXY).transpose(0, 1).flatten(1, 2))
        return torch.cat(parts, 1)


@dataclass(frozen=True)
class _Hidden:
    """Rows between layers.

    Attributes:
        exact: float32.
        narrowed: the same in the products' number type, where a kernel gave that too.
    """

    exact: torch.Tensor
    narrowed: torch.Tensor | None = None

    def as_inputs(self, number_type: torch.dtype) -> torch.Tensor:
        """What the products of a number type read."""
        return self.exact.to(number_type) if self.narrowed is None else self.narrowed


class _DropAddNorm(torch.autograd.Function):
    """norm(hidden + scale * keep * change), with a norm that does not train."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        change: torch.Tensor,
        keep: torch.Tensor | None,
        scale: float | torch.Tensor,
        norm: Norm,
        epsilon: float,
    ) -> torch.Tensor:
        added = masked(change, keep).float()
        if isinstance(scale, torch.Tensor):
            added = hidden + added * scale
        else:
            added = torch.add(hidden, added, alpha=scale)
        result, mean, deviation = torch.native_layer_norm(
            added, added.shape[-1:], norm.weight, norm.bias, epsilon
        )
        ctx.keep, ctx.scale, ctx.norm, ctx.number_type = keep, scale, norm, change.dtype
        ctx.save_for_backward(added, mean, deviation)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        added, mean, deviation = ctx.saved_tensors
        norm: Norm = ctx.norm
        to_hidden, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradients[0],
            added,
            added.shape[-1:],
            mean,
            deviation,
            norm.weight,
            norm.bias,
            [True, False, False],
        )
        to_change = masked((to_hidden * ctx.scale).to(ctx.number_type), ctx.keep)
        return to_hidden, to_change, None, None, None, None
