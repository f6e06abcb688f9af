"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): pre-norm layers, rotary positions,
attention that alternates between the whole text and a window, a gated feed-forward part.

x1 = x + W_o attention(norm(x)); x2 = x1 + W_o' (gelu(u) * g) with (u, g) = W_i norm(x1).

Shape letters: B texts, T packed tokens of all runs, D hidden width, H heads, K width of a
head, F width inside the feed-forward part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.encoder.attention import Ragged, attend
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.dropout import Stream, masked
from budgerigar.encoder.lora import adapted_product
from budgerigar.encoder.model import Head, Member, PackedEncoder, linear, on_device
from budgerigar.encoder.products import Product
from budgerigar.encoder.weights import Norm, open_tensors

QKV, ATTENTION_OUTPUT, GATED, OUTPUT = "attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"
"""The matrices by the names that selectors use."""


@dataclass(frozen=True)
class Layer:
    """A layer.

    Attributes:
        products: its matrices by name.
        attention_norm: None in layer 0, which reads the embeddings' own norm.
        feed_forward_norm: before the feed-forward part.
        window: how far a token sees on either side; None sees the whole text.
        theta: base of the rotary angles.
    """

    products: dict[str, Product]
    attention_norm: Norm | None
    feed_forward_norm: Norm
    window: int | None
    theta: float


def load(
    checkpoint: Checkpoint,
    config: Any,
    number_type: torch.dtype,
    device: torch.device,
    shapes: Mapping[str, torch.Size],
) -> ModernBertEncoder:
    """Reads an encoder; see `weights.load`."""
    with open_tensors(checkpoint, "model", shapes) as read:

        def pair(
            path: str, has_bias: bool, kind: torch.dtype
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            weight = read(f"{path}.weight").to(kind).to(device)
            return weight, read(f"{path}.bias").to(kind).to(device) if has_bias else None

        def norm(path: str) -> Norm:
            return Norm(*pair(path, config.norm_bias, torch.float32))

        def layer(number: int) -> Layer:
            path, kind = f"layers.{number}", config.layer_types[number]
            biases = {
                QKV: config.attention_bias,
                ATTENTION_OUTPUT: config.attention_bias,
                GATED: config.mlp_bias,
                OUTPUT: config.mlp_bias,
            }
            return Layer(
                products={
                    name: Product(*pair(f"{path}.{name}", has_bias, number_type))
                    for name, has_bias in biases.items()
                },
                attention_norm=norm(f"{path}.attn_norm") if number else None,
                feed_forward_norm=norm(f"{path}.mlp_norm"),
                window=config.sliding_window if kind == "sliding_attention" else None,
                theta=float(config.rope_parameters[kind]["rope_theta"]),
            )

        return ModernBertEncoder(
            config,
            word_VD=read("embeddings.tok_embeddings.weight").to(number_type).to(device),
            norm=norm("embeddings.norm"),
            layers=[layer(number) for number in range(config.num_hidden_layers)],
            final_norm=norm("final_norm"),
        )


class ModernBertEncoder(PackedEncoder):
    """A frozen ModernBERT."""

    def __init__(
        self,
        config: Any,
        word_VD: torch.Tensor,
        norm: Norm,
        layers: Sequence[Layer],
        final_norm: Norm,
    ) -> None:
        self.word_VD, self.norm, self.layers, self.final_norm = word_VD, norm, layers, final_norm
        self.depth, self.width = len(layers), word_VD.shape[1]
        self.device, self.number_type = word_VD.device, word_VD.dtype
        self.hidden_dropout = float(config.mlp_dropout)
        self._embedding_dropout = float(config.embedding_dropout)
        self._head_dropout = float(config.classifier_dropout)
        self._heads, self._epsilon = int(config.num_attention_heads), float(config.norm_eps)
        self.padding = int(config.pad_token_id or 0)
        self._mean = config.classifier_pooling == "mean"

    def embed(
        self, ids_T: np.ndarray, where: Ragged, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """What enters layer 0, `[T, D]` float32."""
        words_TD = self.word_VD.index_select(0, on_device(ids_T, self.device)).float()
        hidden_TD = self._normed(words_TD, self.norm)
        for member in members:
            if member.lowest < 0:
                rows = hidden_TD[member.tokens]
                rows.copy_(self.drop(rows, self._embedding_dropout, member.stream))
        return hidden_TD

    def run_layers(
        self, hidden_TD: torch.Tensor, where: Ragged, layers: range, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """Goes through some layers with every token, `[T, D]`."""
        for number in layers:
            context_TD = self._context(number, hidden_TD, where, members)
            hidden_TD = self._after_attention(
                number, hidden_TD, context_TD, members, of_texts=False
            )
        return hidden_TD

    def run_last_layer(
        self, hidden_TD: torch.Tensor, where: Ragged, members: Sequence[Member] = ()
    ) -> torch.Tensor:
        """Token 0 of each text after the last layer and its norm, or the mean of all tokens.

        Rotary positions turn every key by its own angle, so that keys cannot be folded into
        the query as in `postnorm`; what follows attention runs on token 0 alone.
        """
        number = self.depth - 1
        context_TD = self._context(number, hidden_TD, where, members)
        if not self._mean:
            first_BD = hidden_TD.index_select(0, where.first_B)
            context_BD = context_TD.index_select(0, where.first_B)
            hidden_BD = self._after_attention(number, first_BD, context_BD, members, of_texts=True)
            return self._normed(hidden_BD, self.final_norm)
        hidden_TD = self._after_attention(number, hidden_TD, context_TD, members, of_texts=False)
        lengths_B = torch.from_numpy(where.lengths_B).to(self.device)
        # One row more for what belongs to no text.
        summed_BD = hidden_TD.new_zeros((len(lengths_B) + 1, self.width))
        summed_BD = summed_BD.index_add(0, where.text_T, self._normed(hidden_TD, self.final_norm))
        return summed_BD[:-1] / lengths_B[:, None]

    def logits(self, pooled_BD: torch.Tensor, head: Head, stream: Stream | None) -> torch.Tensor:
        """The head on a run's texts, `[B, C]`."""
        between_BD = F.gelu(linear(pooled_BD, head, "head.dense"))
        between_BD = F.layer_norm(
            between_BD,
            (self.width,),
            head["head.norm.weight"],
            head.get("head.norm.bias"),
            self._epsilon,
        )
        return linear(self.drop(between_BD, self._head_dropout, stream), head, "classifier")

    def _normed(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        return F.layer_norm(x, (self.width,), norm.weight, norm.bias, self._epsilon)

    def _product(
        self,
        x: torch.Tensor,
        number: int,
        name: str,
        members: Sequence[Member],
        *,
        of_texts: bool,
    ) -> torch.Tensor:
        product = self.layers[number].products[name]
        uses = self.uses(number, (name,), members, of_texts)
        return adapted_product(x, product, uses)

    def _context(
        self, number: int, hidden_TD: torch.Tensor, where: Ragged, members: Sequence[Member]
    ) -> torch.Tensor:
        """Attention's output for every token, before its last product."""
        layer = self.layers[number]
        if layer.attention_norm is not None:
            hidden_TD = self._normed(hidden_TD, layer.attention_norm)
        x_TD = hidden_TD.to(self.number_type)
        qkv_T3D = self._product(x_TD, number, QKV, members, of_texts=False)
        return attend(self._turned(qkv_T3D, where, layer.theta), where, self._heads, layer.window)

    def _turned(self, qkv_T3D: torch.Tensor, where: Ragged, theta: float) -> torch.Tensor:
        """Queries and keys turned by their token's angle (Su et al. 2021, arXiv:2104.09864,
        section 3.4.2), in halves as transformers pairs them."""
        query, key, value = qkv_T3D.unflatten(1, (3, self._heads, -1)).unbind(1)
        width = query.shape[2]
        exponents = torch.arange(0, width, 2, device=self.device, dtype=torch.float32) / width
        angles = where.within_T[:, None].float() * theta**-exponents
        cosine_T1K = torch.cat((angles, angles), 1).cos()[:, None]
        sine_T1K = torch.cat((angles, angles), 1).sin()[:, None]

        def turn(x_THK: torch.Tensor) -> torch.Tensor:
            x_THK = x_THK.float()
            first, second = x_THK.chunk(2, 2)
            turned = x_THK * cosine_T1K + torch.cat((-second, first), 2) * sine_T1K
            return turned.to(qkv_T3D.dtype)

        return torch.stack((turn(query), turn(key), value), 1).flatten(1)

    def _after_attention(
        self,
        number: int,
        hidden: torch.Tensor,
        context: torch.Tensor,
        members: Sequence[Member],
        *,
        of_texts: bool,
    ) -> torch.Tensor:
        """The rest of a layer, for rows of tokens or of texts."""
        layer = self.layers[number]
        attended = self._product(context, number, ATTENTION_OUTPUT, members, of_texts=of_texts)
        hidden = hidden + attended
        x = self._normed(hidden, layer.feed_forward_norm).to(self.number_type)
        inner, gate = self._product(x, number, GATED, members, of_texts=of_texts).chunk(2, 1)
        inner = F.gelu(inner) * gate
        keep, scale = self.keep(number, members, len(inner), inner.shape[1], of_texts)
        if keep is not None:
            inner = (masked(inner, keep) * scale).to(inner.dtype)
        return hidden + self._product(inner, number, OUTPUT, members, of_texts=of_texts)
