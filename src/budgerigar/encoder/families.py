"""The architectures that the packed engine knows: one table each, from transformers' names and
fields to ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budgerigar.encoder.budget import Selection
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.shape import ATTENTION_DROPOUTS, Shape, classifier_config

if TYPE_CHECKING:
    from budgerigar.encoder.checkpoints import Checkpoint

MODERNBERT = "modernbert"
"""A family of its own; see `modernbert`."""
ACTIVATIONS = ("gelu", "relu")
"""Feed-forward activations that the engine computes, by transformers' names."""


@dataclass(frozen=True)
class Family:
    """How an architecture with post-norm layers names its tensors and numbers.

    Attributes:
        base: prefix of the encoder inside the classifier; checkpoints may leave it out.
        embeddings: our name -> theirs, below the base.
        layer: our name -> theirs, below `base.layer.N`.
        layers: path of the layers below the base.
        dense, output: modules of the head, from the classifier's root.
        activation: between them.
        drop_input: whether the head drops out its input too, as RoBERTa's does.
        drop_attention_output: whether dropout follows the attention's output.
        hidden_dropout, head_dropout: fields of the configuration; of the second, the first
            that is set.
        hidden_activation: the field that names the feed-forward activation.
        epsilon: the field of LayerNorm's epsilon, or its value.
        positions_after_padding: whether positions count from `pad_token_id + 1`, and only
            tokens that are not padding.
    """

    base: str
    embeddings: Mapping[str, str]
    layer: Mapping[str, str]
    layers: str
    dense: str
    output: str
    activation: str
    drop_input: bool
    drop_attention_output: bool
    hidden_dropout: str
    head_dropout: tuple[str, ...]
    hidden_activation: str
    epsilon: str | float
    positions_after_padding: bool


_BERT_EMBEDDINGS = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "type": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}

BERT = Family(
    base="bert",
    embeddings=_BERT_EMBEDDINGS,
    layer=_BERT_LAYER,
    layers="encoder.layer",
    dense="bert.pooler.dense",
    output="classifier",
    activation="tanh",
    drop_input=False,
    drop_attention_output=True,
    hidden_dropout="hidden_dropout_prob",
    head_dropout=("classifier_dropout", "hidden_dropout_prob"),
    hidden_activation="hidden_act",
    epsilon="layer_norm_eps",
    positions_after_padding=False,
)
ROBERTA = Family(
    base="roberta",
    embeddings=_BERT_EMBEDDINGS,
    layer=_BERT_LAYER,
    layers="encoder.layer",
    dense="classifier.dense",
    output="classifier.out_proj",
    activation="tanh",
    drop_input=True,
    drop_attention_output=True,
    hidden_dropout="hidden_dropout_prob",
    head_dropout=("classifier_dropout", "hidden_dropout_prob"),
    hidden_activation="hidden_act",
    epsilon="layer_norm_eps",
    positions_after_padding=True,
)
DISTILBERT = Family(
    base="distilbert",
    embeddings={name: path for name, path in _BERT_EMBEDDINGS.items() if name != "type"},
    layer={
        "query": "attention.q_lin",
        "key": "attention.k_lin",
        "value": "attention.v_lin",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "intermediate": "ffn.lin1",
        "output": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    layers="transformer.layer",
    dense="pre_classifier",
    output="classifier",
    activation="relu",
    drop_input=False,
    drop_attention_output=False,
    hidden_dropout="dropout",
    head_dropout=("seq_classif_dropout",),
    hidden_activation="activation",
    epsilon=1e-12,
    positions_after_padding=False,
)
FAMILIES = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
}
"""transformers' `model_type` -> family."""


def obstacle(checkpoint: Checkpoint, shape: Shape, selection: Selection, dropouts: Dropouts) -> str:
    """Why the engine cannot train a selection; an empty string where it can.

    Args:
        checkpoint: what it trains on.
        shape: of the classifier.
        selection: what trains.
        dropouts: rates asked for.
    """
    if why := unknown_architecture(checkpoint, shape):
        return why
    if selection.bias != "none":
        return "biases are trained"
    rate = dropouts.attention
    if rate is None:
        rate = _attention_dropout(classifier_config(checkpoint, len(shape.head)))
    if rate:
        return "attention probabilities drop out"
    return ""


def unknown_architecture(checkpoint: Checkpoint, shape: Shape) -> str:
    """What the engine does not know of a model; an empty string where it knows all."""
    config = classifier_config(checkpoint, len(shape.head))
    if shape.family == MODERNBERT:
        return _unknown_in_modernbert(config)
    if shape.family not in FAMILIES:
        return f"the engine does not know {shape.family}"
    activation = getattr(config, FAMILIES[shape.family].hidden_activation)
    if activation not in ACTIVATIONS:
        return f"the engine does not know the activation {activation}"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return f"the engine does not know {config.position_embedding_type} positions"
    if getattr(config, "is_decoder", False):
        return "the model is a decoder"
    return ""


def _unknown_in_modernbert(config: Any) -> str:
    for activation in (config.hidden_activation, config.classifier_activation):
        if activation != "gelu":
            return f"the engine does not know the activation {activation}"
    for rope in config.rope_parameters.values():
        if rope["rope_type"] != "default":
            return f"the engine does not know {rope['rope_type']} positions"
    return ""


def _attention_dropout(config: Any) -> float:
    return max(float(getattr(config, name, 0.0)) for name in ATTENTION_DROPOUTS)
