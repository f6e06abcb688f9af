"""A recipe: everything that determines a run.

A frozen, typed tree. Every default of the program stands here and nowhere else, and
every check that needs no model and no data is made here. `recipe_text` reads it from
YAML and reports its faults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    field_validator,
    model_validator,
)

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What names a folder."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _comma_list(value: Any) -> Any:
    """Lets `--set adapter.targets=query,value` stand for a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _layer_spec(value: Any) -> Any:
    """Accepts `8-11`, `last:4`, `all`, `3`, `1,3,5-7` and lists of numbers; gives a string."""
    if isinstance(value, bool):
        raise ValueError("layers are `8-11`, `last:4`, `all` or a list of numbers")
    if isinstance(value, int):
        value = str(value)
    if isinstance(value, list):
        value = ",".join(str(part) for part in value)
    text = str(value).replace(" ", "")
    if not re.fullmatch(r"all|last:[1-9]\d*|\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"{value!r} is not `8-11`, `last:4`, `all` or a list of numbers")
    for first, last in re.findall(r"(\d+)-(\d+)", text):
        if int(first) > int(last):
            raise ValueError(f"{first}-{last} runs backwards")
    return text


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
Layers = Annotated[str, BeforeValidator(_layer_spec)]


def layer_numbers(spec: str, depth: int) -> list[int]:
    """The layers that a specification names, counted from 0 at the embeddings.

    Args:
        spec: `all`, `last:4`, or numbers and ranges such as `0-3,8`.
        depth: how many layers the model has.

    Returns:
        Sorted numbers. Explicit ones are returned even where the model is not so deep.
    """
    if spec == "all":
        return list(range(depth))
    if spec.startswith("last:"):
        return list(range(depth - int(spec[5:]), depth))
    numbers: set[int] = set()
    for part in spec.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)


class Part(BaseModel):
    """Common to every part of a recipe: frozen, and no field that is not known."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=True,
        coerce_numbers_to_str=True,
    )


class Model(Part):
    """The pretrained encoder."""

    name: str
    """Hub name (`roberta-base`), folder, or `package:NAME` for a checkpoint inside a package."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Expected SHA-256 of the weights file; any other is refused."""
    dropout: Share | None = None
    """Dropout of hidden states and head; empty keeps the checkpoint's own."""
    attention_dropout: Share | None = 0.0
    """Dropout of attention probabilities; null keeps the checkpoint's own. Where it is not 0,
    transformers + PEFT compute, not the engine."""
    prefix_dropout: bool = False
    """Whether training drops out in the frozen layers below the lowest trained one too. Their
    output then changes every epoch and cannot be computed once."""


class Data(Part):
    """Texts, labels and how they are split."""

    train: str
    """File, folder, `example:FILE` or hub data set (`fancyzhx/ag_news:train`)."""
    validation: float | str = 0.1
    """A file of its own, or the share of the training rows taken for it, stratified by class."""
    test: str | None = None
    """Scored once, after training; never used to choose anything."""
    unlabelled: str | None = None
    """Texts without labels to predict at the end, with a submission file."""
    columns: Names | None = None
    """Columns that count, in order: the label's and the text's; texts are joined by a space."""
    label: str = "label"
    """Name of the column that holds the class."""
    label_base: Literal[0, 1] | None = None
    """Whether integer labels count from 0 or from 1; empty looks at the training rows."""
    classes: Annotated[Names, Field(min_length=2)] | None = None
    """Class names in the order of their numbers; empty reads them from the training rows."""
    max_rows: Positive | None = None
    """Use at most this many rows of `train`, drawn by class; a validation share comes from them."""
    seed: Seed | None = None
    """Of the splits and of the rows that `max_rows` draws; empty takes the run's own."""
    drop_suspects: bool = False
    """Whether training rows are left out whose label is suspected wrong, by the rule of `budgie
    inspect` on this model's frozen states; validation and test keep theirs."""
    max_length: Annotated[int, Field(ge=4)] = 256
    """Longest text in tokens, special ones included; the rest is cut, in prediction too."""

    @field_validator("validation")
    @classmethod
    def _share_or_file(cls, validation: float | str) -> float | str:
        if isinstance(validation, float) and not 0 < validation < 1:
            raise ValueError("is a share between 0 and 1, or a file")
        return validation

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        folded = [name.strip().casefold() for name in classes or ()]
        if len(set(folded)) < len(folded):
            raise ValueError("two class names differ only in case or spaces, or not at all")
        return classes


class Adapter(Part):
    """Low-rank updates of chosen matrices, and the classification head."""

    rank: Positive = 8
    """Rank of every update, where `ranks` says nothing else."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha / rank (alpha / sqrt(rank) with `rslora`)."""
    dropout: Share = 0.05
    """Dropout on the input of each update."""
    targets: Annotated[Names, Field(min_length=1)] = ("query", "value")
    """Matrices by name: query, key, value, attention_output, intermediate, output, or `all`."""
    layers: Layers = "all"
    """`8-11`, `last:4`, `all` or numbers; layer 0 stands next to the embeddings."""
    ranks: dict[Layers, Positive] = {}
    """Other ranks for some layers, such as `{10-11: 16}`."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases trained beside the updates, in PEFT's words."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023, arXiv:2312.03732)."""
    head: Literal["full", "output"] = "full"
    """`full` trains every new layer of the head; `output` the last linear layer alone."""
    start: str | None = None
    """An adapter folder to start from instead of fresh weights."""


class LayerRate(Part):
    """A learning rate for some layers."""

    layers: Layers
    """As in `adapter.layers`."""
    rate: Rate
    """Peak learning rate of what is trained in these layers."""


class OptimizerPart(Part):
    """What every optimizer has: rates by layer, and decay."""

    rate: Rate = 5e-4
    """Peak learning rate where no other is given."""
    head: Rate | None = None
    """Peak learning rate of the head; empty means `rate`."""
    layers: tuple[LayerRate, ...] = ()
    """Rates by layer; of two entries that name one layer, the later holds."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's rate is its upper neighbour's times this (ULMFiT, arXiv:1801.06146, 3.2)."""
    lora_plus: Annotated[float, Field(gt=0)] = 1.0
    """Rate of LoRA's B over that of A (LoRA+, arXiv:2402.12354)."""
    weight_decay: Rate = 0.01
    """Weight decay of everything that is trained."""


class AdamW(OptimizerPart):
    """torch.optim.AdamW."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Rate = 1e-8
    amsgrad: bool = False


class Adam(OptimizerPart):
    """torch.optim.Adam."""

    name: Literal["adam"]
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Rate = 1e-8
    amsgrad: bool = False


class RMSprop(OptimizerPart):
    """torch.optim.RMSprop."""

    name: Literal["rmsprop"]
    alpha: Share = 0.99
    eps: Rate = 1e-8
    momentum: Share = 0.0
    centered: bool = False


class SGD(OptimizerPart):
    """torch.optim.SGD."""

    name: Literal["sgd"]
    momentum: Share = 0.9
    dampening: Share = 0.0
    nesterov: bool = False


class NAdam(OptimizerPart):
    """torch.optim.NAdam."""

    name: Literal["nadam"]
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Rate = 1e-8
    momentum_decay: Rate = 4e-3
    decoupled_weight_decay: bool = True


class RAdam(OptimizerPart):
    """torch.optim.RAdam."""

    name: Literal["radam"]
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Rate = 1e-8
    decoupled_weight_decay: bool = True


class Adagrad(OptimizerPart):
    """torch.optim.Adagrad."""

    name: Literal["adagrad"]
    lr_decay: Rate = 0.0
    eps: Rate = 1e-10


class Adafactor(OptimizerPart):
    """torch.optim.Adafactor."""

    name: Literal["adafactor"]
    beta2_decay: float = -0.8
    d: Annotated[float, Field(gt=0)] = 1.0


SHARED_OPTIMIZER_FIELDS = {*OptimizerPart.model_fields, "name"}
"""What is not an option of the torch optimizer itself."""

AnyOptimizer = AdamW | Adam | RMSprop | SGD | NAdam | RAdam | Adagrad | Adafactor


def _by_name(kinds: Any) -> dict[str, type[Part]]:
    """The kinds of a union by their names, the one that holds without a name first."""
    return {get_args(kind.model_fields["name"].annotation)[0]: kind for kind in get_args(kinds)}


OPTIMIZERS = _by_name(AnyOptimizer)


class CrossEntropy(Part):
    """Cross-entropy, with `label_smoothing` where that is not 0."""

    name: Literal["cross_entropy"] = "cross_entropy"


class GeneralizedCrossEntropy(Part):
    """Generalized cross-entropy (arXiv:1805.07836): improbable labels pull less."""

    name: Literal["generalized_cross_entropy"]
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """0 would be cross-entropy, 1 is the mean absolute error."""


class SymmetricCrossEntropy(Part):
    """Cross-entropy and reverse cross-entropy (arXiv:1908.06112): no label pulls without end."""

    name: Literal["symmetric_cross_entropy"]
    alpha: Rate = 0.1
    """Weight of cross-entropy."""
    beta: Rate = 1.0
    """Weight of reverse cross-entropy."""

    @model_validator(mode="after")
    def _trains(self) -> SymmetricCrossEntropy:
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta are both 0, so that nothing trains")
        return self


AnyLoss = CrossEntropy | GeneralizedCrossEntropy | SymmetricCrossEntropy
KINDS = {"optimizer": OPTIMIZERS, "loss": _by_name(AnyLoss)}
"""Fields that hold one of several kinds, told apart by `name`."""


class Schedule(Part):
    """The learning rate over the steps, as a share of its peak."""

    name: Literal["linear", "cosine", "constant"] = "linear"
    """What follows the warm-up: to zero in a line or a half cosine, or not at all."""
    warmup: Share = 0.1
    """Share of the steps during which the rate grows in a line from zero."""


class Budget(Part):
    """The limit."""

    max_trainable: Annotated[int, Field(ge=0)] = 999_999
    """Most parameters that may require gradients, head and biases included."""


class Recipe(Part):
    """Everything that determines a run."""

    name: Annotated[str, Field(pattern=NAME)] = "run"
    """Names the run's folder."""
    model: Model
    data: Data
    adapter: Adapter = Adapter()
    optimizer: Annotated[AnyOptimizer, Discriminator("name")] = AdamW()
    schedule: Schedule = Schedule()
    epochs: Positive = 3
    """Times that the training rows are seen."""
    steps: Positive | None = None
    """Optimizer steps; where given, they end the run instead of `epochs`."""
    batch: Positive = 16
    """Texts in a forward pass."""
    evaluation_batch: Positive = 64
    """Texts in a forward pass without gradients, at most; long ones are fewer."""
    accumulation: Positive = 1
    """Forward passes in one optimizer step."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of all gradients together; empty does not clip."""
    averaging: Share = 0.0
    """Decay of a moving average of all that trains, which is validated, kept and predicts in
    place of the last step's weights (arXiv:2411.18704); 0 takes these themselves."""
    path: Literal["auto", "reference"] = "auto"
    """`auto` computes with the packed engine where it knows the model and all that the recipe
    asks for; `reference` always with transformers + PEFT."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the frozen products; weights that train, their gradients and the loss are float32."""
    loss: Annotated[AnyLoss, Discriminator("name")] = CrossEntropy()
    """Where labels are known to be wrong at times, see docs/label-noise.md."""
    label_smoothing: Share = 0.0
    """Share of the target spread evenly over all classes."""
    class_weights: Literal["none", "balanced"] | tuple[Rate, ...] = "none"
    """Weight of each class in the loss; `balanced` is inverse to its training rows."""
    keep: Literal["best", "last"] = "best"
    """The adapter after the epoch with the best validation accuracy, or after the last one: on few
    validation rows the choice is chance, and flatters their accuracy (docs/accuracy.md)."""
    early_stopping: Positive | None = None
    """Epochs without a better validation accuracy after which the run ends."""
    checkpoint_seconds: Rate = 30.0
    """Seconds between checkpoints; each epoch ends with one besides."""
    checkpoint_steps: Positive | None = None
    """Every so many steps there is one besides."""
    seed: Seed = 42
    """Of the head, the adapter, the order of texts and dropout, and of the splits unless
    `data.seed` is."""
    budget: Budget = Budget()

    @property
    def split_seed(self) -> int:
        """Seed of the splits."""
        return self.seed if self.data.seed is None else self.data.seed

    @model_validator(mode="before")
    @classmethod
    def _named_kinds(cls, values: Any) -> Any:
        """Lets a name alone stand for its kind, and fields alone for the first kind."""
        if not isinstance(values, Mapping):
            return values
        named = dict(values)
        for field, kinds in KINDS.items():
            given = values.get(field)
            if isinstance(given, str):
                named[field] = {"name": given}
            elif isinstance(given, Mapping):
                named[field] = {"name": next(iter(kinds)), **given}
        return named

    @model_validator(mode="after")
    def _weights_match_classes(self) -> Recipe:
        weights, classes = self.class_weights, self.data.classes
        if not isinstance(weights, str) and classes and len(weights) != len(classes):
            raise ValueError(f"class_weights has {len(weights)} values for {len(classes)} classes")
        return self

    @model_validator(mode="after")
    def _stopping_keeps_the_best(self) -> Recipe:
        if self.early_stopping is not None and self.keep == "last":
            raise ValueError(
                "early_stopping needs keep: best, as it ends epochs after the best one"
            )
        return self

    @model_validator(mode="after")
    def _smoothing_has_its_loss(self) -> Recipe:
        if self.label_smoothing and not isinstance(self.loss, CrossEntropy):
            raise ValueError("label_smoothing needs loss: cross_entropy, or must be 0")
        return self


SEEDS = 5
"""Runs of each recipe that is compared."""


class Range(Part):
    """Numbers to search: whole ones where both ends are."""

    low: float | int
    high: float | int
    log: bool = False
    """Whether to search by orders of magnitude."""

    @property
    def is_whole(self) -> bool:
        """Whether whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError("log needs numbers above 0")
        return self


Dimension = Range | Annotated[tuple[Any, ...], Field(min_length=1)]


class Space(Part):
    """What `budgie search` varies, and how."""

    name: Annotated[str, Field(pattern=NAME)]
    """Names the search's folder and the recipe that it finds; the file's own name if not given."""
    recipe: str
    """The recipe that is varied: a shipped one's name, or a YAML file."""
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    """Fields by their paths, such as `optimizer.rate`, each with a list of values or with `low`,
    `high` and, if need be, `log`."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How candidates are proposed: tree-structured Parzen estimator, or at random."""
    cohort: Positive = 8
    """Candidates that train together."""
    reduction: Annotated[int, Field(ge=2)] | None = 3
    """Successive halving: after 1, 3, 9, ... epochs the best of so many go on; null lets all."""
    trials: Positive = 64
    """Candidates to train; ones over the budget are refused and do not count."""
    seeds: Annotated[int, Field(ge=0)] = SEEDS
    """Fresh seeds with which the best recipe and the first one are trained at the end, to be
    compared; 0 leaves that out."""
    seed: Seed = 42
    """Of the proposals."""
