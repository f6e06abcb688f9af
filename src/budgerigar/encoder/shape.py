"""What a checkpoint is: depth, width, the matrices of its layers, its head.

Read from the configuration alone: transformers builds the classifier on torch's
meta device, where tensors have shapes but no content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budgerigar.errors import ModelError, told

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from budgerigar.encoder.checkpoints import Checkpoint

MATRIX_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.self.query_proj": "query",
    "attention.self.key_proj": "key",
    "attention.self.value_proj": "value",
    "attention.q_lin": "query",
    "attention.k_lin": "key",
    "attention.v_lin": "value",
    "attention.output.dense": "attention_output",
    "attention.out_lin": "attention_output",
    "intermediate.dense": "intermediate",
    "ffn.lin1": "intermediate",
    "output.dense": "output",
    "ffn.lin2": "output",
}
"""Path of a matrix inside its layer -> our name. What is not listed goes by its path."""

HIDDEN_DROPOUTS = ("hidden_dropout_prob", "dropout", "classifier_dropout", "seq_classif_dropout",
                   "embedding_dropout", "mlp_dropout")  # fmt: skip
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout")

MOST_LAYERS = 1000
"""More would be made one by one before anything could refuse them."""


@dataclass(frozen=True)
class Matrix:
    """A linear map of a layer.

    Attributes:
        name: our name, such as `query`; the path inside the layer where we have none.
        path: full module path in the classifier.
        inputs, outputs: its width before and after.
        bias: parameters of its bias, 0 without one.
    """

    name: str
    path: str
    inputs: int
    outputs: int
    bias: int


@dataclass(frozen=True)
class HeadLayer:
    """A module of the head with parameters: its path, its count, and whether it gives logits."""

    path: str
    parameters: int
    output: bool


@dataclass(frozen=True)
class Shape:
    """A classifier's shape.

    Attributes:
        family: transformers' `model_type`.
        width: hidden size D.
        heads: attention heads H.
        positions: longest text in tokens that the model can take.
        vocabulary: tokens that it knows, numbered from 0.
        layers_path: path of the list of layers.
        layers: the matrices of each layer, from the embeddings up.
        layer_parameters: parameters of each layer.
        biases: layer (None outside the layers) -> parameters of biases in the encoder.
        head: the modules above the encoder, and poolers that the checkpoint lacks.
        saved_modules: names of the modules that an adapter file must carry whole.
        frozen: parameters of the encoder.
    """

    family: str
    width: int
    heads: int
    positions: int
    vocabulary: int
    layers_path: str
    layers: tuple[tuple[Matrix, ...], ...]
    layer_parameters: tuple[int, ...]
    biases: dict[int | None, int]
    head: tuple[HeadLayer, ...]
    saved_modules: tuple[str, ...]
    frozen: int

    @property
    def depth(self) -> int:
        """Layers of the encoder."""
        return len(self.layers)


def read_shape(checkpoint: Checkpoint, classes: int) -> Shape:
    """The shape of the classifier with `classes` outputs on this checkpoint.

    Raises:
        ModelError: when transformers has no classifier of that architecture.
    """
    with told(lambda why: _no_classifier(checkpoint, why)):
        return _shape_of(meta_classifier(checkpoint, classes), checkpoint)


def _shape_of(model: PreTrainedModel, checkpoint: Checkpoint) -> Shape:
    base = model.base_model
    layers_path = _layers_path(model)
    layers = model.get_submodule(layers_path)
    known = checkpoint.tensor_names() if _has_weights(checkpoint) else None
    head_modules = _head_modules(model, known)
    head = [layer for path in head_modules for layer in _head_layers(model, path)]
    if not head:
        raise ModelError(f"{model.config.model_type} has no classification head of its own")
    head[-1] = HeadLayer(head[-1].path, head[-1].parameters, output=True)
    fresh = {path for path in head_modules if "." in path}
    biases: dict[int | None, int] = {}
    for name, parameter in model.named_parameters():
        inside = not any(name.startswith(f"{path}.") for path in head_modules)
        if inside and "bias" in name:
            layer = layer_of(name, layers_path)
            biases[layer] = biases.get(layer, 0) + parameter.numel()
    config = model.config
    return Shape(
        family=config.model_type,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        positions=_positions(model),
        vocabulary=model.get_input_embeddings().num_embeddings,
        layers_path=layers_path,
        layers=tuple(_matrices(layer, f"{layers_path}.{i}") for i, layer in enumerate(layers)),
        layer_parameters=tuple(sum(p.numel() for p in layer.parameters()) for layer in layers),
        biases=biases,
        head=tuple(head),
        saved_modules=tuple(path.rpartition(".")[2] for path in head_modules),
        frozen=sum(p.numel() for p in base.parameters())
        - sum(layer.parameters for layer in head if _inside(layer.path, fresh)),
    )


def meta_classifier(checkpoint: Checkpoint, classes: int) -> PreTrainedModel:
    """The classifier on the meta device: all shapes, no content."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = classifier_config(checkpoint, classes)
    with told(lambda why: _no_classifier(checkpoint, why)), torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def classifier_config(
    checkpoint: Checkpoint,
    classes: int,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> Any:
    """transformers' configuration of the classifier; None keeps the checkpoint's dropout."""
    from transformers import AutoConfig

    checkpoint.config()
    with told(lambda why: _unknown(checkpoint, why)):
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        # Not as an argument: transformers would warn of a checkpoint with other classes.
        config.num_labels = classes
        if (depth := getattr(config, "num_hidden_layers", 0)) > MOST_LAYERS:
            raise ValueError(f"it has {depth:,} layers, and {MOST_LAYERS:,} are the most")
    for value, names in ((dropout, HIDDEN_DROPOUTS), (attention_dropout, ATTENTION_DROPOUTS)):
        for name in names:
            if value is not None and hasattr(config, name):
                setattr(config, name, value)
    return config


def _unknown(checkpoint: Checkpoint, why: str) -> ModelError:
    return ModelError(
        f"model {checkpoint.name} has a configuration that transformers does not know",
        why=why,
        remedy="choose an encoder such as roberta-base",
    )


def _no_classifier(checkpoint: Checkpoint, why: str) -> ModelError:
    return ModelError(
        f"model {checkpoint.name} cannot become a text classifier",
        why=why,
        remedy="choose an encoder such as roberta-base",
    )


def layer_of(parameter_name: str, layers_path: str) -> int | None:
    """The layer's number that a parameter stands in, or None outside the layers."""
    _, found, rest = parameter_name.partition(f"{layers_path}.")
    number = rest.partition(".")[0]
    return int(number) if found and number.isdigit() else None


def _has_weights(checkpoint: Checkpoint) -> bool:
    return bool(list(checkpoint.folder.glob("*.safetensors")))


def _layers_path(model: PreTrainedModel) -> str:
    """The longest list of modules inside the encoder."""
    import torch

    lists = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
    ]
    if not lists:
        raise ModelError(f"{model.config.model_type} has no list of layers")
    path: str = max(lists, key=lambda item: item[0])[1]
    return path


def _matrices(layer: Any, prefix: str) -> tuple[Matrix, ...]:
    import torch

    return tuple(
        Matrix(
            name=MATRIX_NAMES.get(path, path),
            path=f"{prefix}.{path}",
            inputs=module.in_features,
            outputs=module.out_features,
            bias=0 if module.bias is None else module.bias.numel(),
        )
        for path, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    )


def _head_modules(model: PreTrainedModel, known: list[str] | None) -> list[str]:
    """Paths of the modules that are new: those outside the encoder, and a pooler that the
    checkpoint does not hold (BERT's masked-language checkpoints have none)."""
    paths = [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]
    for name, module in model.base_model.named_children():
        own = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
        if name != "pooler" or not own or known is None:
            continue
        if not any(key.endswith(own[0]) for key in known):
            paths.insert(0, f"{model.base_model_prefix}.{name}")
    return paths


def _head_layers(model: PreTrainedModel, path: str) -> list[HeadLayer]:
    """The modules at or below `path` that hold parameters themselves."""
    return [
        HeadLayer(f"{path}.{name}".rstrip("."), count, output=False)
        for name, module in model.get_submodule(path).named_modules()
        if (count := sum(p.numel() for p in module.parameters(recurse=False)))
    ]


def _inside(path: str, modules: set[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _positions(model: PreTrainedModel) -> int:
    """RoBERTa counts positions from `pad_token_id + 1`: 514 rows hold 512 tokens."""
    limit = int(model.config.max_position_embeddings)
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return limit - int(module.padding_idx) - 1
    return limit
