"""How fast the AG News recipe trains here, beside transformers + PEFT and beside the floor.

One run measures all sides in turn, on the same texts, and prints ratios:

    python benchmarks/training.py --data train.csv --json figures.json

The first three figures are of roberta-base's shape with random weights (or `--model`): seconds
for a text in one of five epochs; the pass through the frozen layers, done once, counts a fifth.
Evaluation is left out on both sides. The last are of a real encoder (`--real`): time until recipes
have the accuracy that PEFT at its best ends with, on all rows of the file that no run trained on
and on the thousand that a run validates on; validation included. What cannot be made without the
real encoder is left out, and said.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

import measure
import models
import peer
import same_end
from budgerigar import assembly, pipeline, recipe_text, sources
from budgerigar.data.tokens import PackedTexts, load_tokenizer, tokenize
from budgerigar.encoder import frozen, hardware, paths
from budgerigar.encoder.interface import Tokens
from budgerigar.encoder.products import Product
from budgerigar.planning import Plan
from budgerigar.training import loop
from budgerigar.training.run import Surroundings, Trainee, Validation

Shape = tuple[int, int, bool]
"""Inputs, outputs, and whether the product runs backwards too."""
EPOCHS = 5
STEPS = {"cpu": 8, "cuda": 400}
"""Training steps of a stretch, more where graphs are recorded in its beginning; the notebook's
method gets one, as each takes seconds."""
PEER_STEPS = 8
"""And PEFT's."""
PREFIX_TEXTS = {"cpu": 128, "cuda": 4_096}
"""Texts of a stretch of the pass through the frozen layers."""
FLOOR_ROWS = {"cpu": 4_096, "cuda": 65_536}
"""Rows of the frozen layers' products in the floor, enough for their full rate."""
SAME_END = {"agnews-best": "", "agnews-fast": "_fast"}
"""Recipes that are to reach the peer's accuracy, and how the names of their figures go on."""
JUDGES = {same_end.ALL: "", same_end.OWN: "_own_rows"}
"""Rows on which they are to, and how the names end."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of roberta-base or its shape; made if not given")
    parser.add_argument("--real", help="folder of a small pretrained encoder; made if it can be")
    parser.add_argument(
        "--data", default=str(models.default_texts()), help="a CSV of labelled texts"
    )
    parser.add_argument("--rows", type=int, default=2000, help="texts to draw batches from")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5, help="of the time to the same accuracy")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def steps_here() -> int:
    """Training steps of a stretch on this machine's device."""
    return STEPS[hardware.device().type]


class Sides:
    """The sides of the comparison over the same tokenized texts."""

    def __init__(
        self, plan: Plan, packed: PackedTexts, labels: np.ndarray, *, prepare: bool
    ) -> None:
        self.plan, self.packed, self.labels = plan, packed, labels
        self.texts = [
            packed.ids_T[a:b].tolist()
            for a, b in zip(packed.offsets, packed.offsets[1:], strict=False)
        ]
        device = hardware.device()
        self.precision = hardware.resolve_precision(plan.recipe.precision, device).name
        self.base = paths.Base(
            plan.checkpoint, plan.shape, len(plan.classes), self.precision, device, "benchmark"
        )
        (self.encoder,) = paths.fresh_cohort(
            self.base, [assembly.start_of(plan)], plan.dropouts, force_reference=False
        )
        self.prepared = self.encoder.prepare(packed, "the sample") if prepare else packed
        tokenizer = load_tokenizer(plan.checkpoint.folder, plan.recipe.model.name)
        self.padding = int(tokenizer.pad_token_id or 0)
        self._peers: dict[peer.Method, Iterator[None]] = {}

    def budgie(self, number: int) -> float:
        """Seconds for a text in one epoch, the frozen layers' share included."""
        prefix = self.prefix_seconds_a_text(number)
        step = self.step_seconds(number, steps_here(), self.prepared, self.labels)
        return step / self.plan.recipe.batch + prefix / EPOCHS

    def floor(self, number: int) -> float:
        """The same for the recipe's unavoidable matrix products alone, at their best here."""
        recipe = self.plan.recipe
        tokens = round(float(np.mean(self.packed.lengths)) * recipe.batch)
        number_type = hardware.SIXTEEN_BITS.get(self.precision, torch.float32)
        below, above = unavoidable_products(self.plan)
        passed = FLOOR_ROWS[hardware.device().type]
        once = products_seconds(below, passed, number_type) * tokens / passed
        often = products_seconds(above, -(-tokens // frozen.ROWS) * frozen.ROWS, number_type)
        return (often + once / EPOCHS) / recipe.batch

    def peft(self, method: peer.Method, steps: int) -> Callable[[int], float]:
        """A side: seconds for a text in one epoch of transformers + PEFT."""

        def side(number: int) -> float:
            step = self._peers.setdefault(method, self._peer(method))
            return sum(measure.seconds(lambda: next(step)) for _ in range(steps)) / (
                steps * self.plan.recipe.batch
            )

        return side

    def best_peft(self) -> Iterator[None]:
        """Endless training steps of PEFT at its best."""
        return self._peer(peer.BEST)

    def _peer(self, method: peer.Method) -> Iterator[None]:
        """Endless training steps of the peer."""
        model = peer.classifier(
            self.plan.checkpoint.folder,
            len(self.plan.classes),
            self.plan.selection.layers,
            seed=1,
            lean=method.lean,
        )
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        adamw = torch.optim.AdamW(trained, lr=5e-4, weight_decay=0.01)
        epoch = 0
        while True:
            rows = peer.batches(self.texts, method, self.plan.recipe.batch, seed=epoch)
            # The grouped order begins with the longest texts: a stretch of it must not.
            for batch in sorted(rows, key=lambda batch: hash((epoch, *batch))):
                texts = [self.texts[row] for row in batch]
                labels = [int(self.labels[row]) for row in batch]
                peer.train_step(model, adamw, texts, labels, method, self.padding)
                yield
            epoch += 1

    def step_seconds(self, number: int, steps: int, texts: Tokens, labels: np.ndarray) -> float:
        """Mean seconds of a step, as the training loop itself records them."""
        recipe, found = self.plan.recipe, []
        made = assembly.optimizer_of(self.plan, self.encoder)
        settings = replace(
            assembly.loop_settings(recipe),
            seed=number,
            steps=steps,
            schedule="constant",
            warmup=0.0,
        )
        with tempfile.TemporaryDirectory() as folder:
            around = Surroundings(
                validate=lambda dry: Validation(0.0, 0.0, 0.0),
                log_step=found.append,
                log_epoch=lambda record: None,
                keep=lambda: None,
                checkpoints=Path(folder),
            )
            trainee = Trainee(self.encoder, made, settings, around)
            loop.train([trainee], texts, labels)
        return float(np.mean([record.seconds for record in found]))

    def prefix_seconds_a_text(self, number: int) -> float:
        """Seconds for a text of a stretch of the pass through the frozen layers."""
        texts = min(len(self.packed), PREFIX_TEXTS[hardware.device().type])
        return self.prefix_seconds(number, texts) / texts

    def prefix_seconds(self, number: int, texts: int) -> float:
        """Seconds to pass some texts through the frozen layers, into a cache of their own."""
        rows = np.random.default_rng(number).permutation(len(self.packed))[:texts]
        ids_T, offsets = self.packed.batch(rows)
        some = PackedTexts(ids_T.astype(np.int32), offsets, cut=0)
        return measure.seconds(lambda: self.encoder.prepare(some, "a stretch"))


def unavoidable_products(plan: Plan) -> tuple[list[Shape], list[Shape]]:
    """Inputs, outputs and directions of the products for a batch.

    Below the lowest trained layer every matrix runs forwards, once. Above, every matrix runs
    forwards and backwards, but for the lowest layer's query, key and value, below which
    nothing wants a gradient; the last layer's products are for one token a text and left out.
    Query, key and value are one product.

    Returns:
        Those of the frozen prefix, and those of a training step.
    """
    lowest = min(plan.selection.layers)
    below: list[Shape] = []
    above: list[Shape] = []
    for number, layer in enumerate(plan.shape.layers[:-1]):
        sizes = {matrix.name: (matrix.inputs, matrix.outputs) for matrix in layer}
        width = sizes.pop("query")[0]
        fused = [(width, 3 * width)]
        others = [size for name, size in sizes.items() if name not in ("key", "value")]
        if number < lowest:
            below += [(*size, False) for size in fused + others]
            continue
        above += [(*size, True) for size in others]
        above += [(*size, number > lowest) for size in fused]
    return below, above


def products_seconds(shapes: list[Shape], rows: int, number_type: torch.dtype) -> float:
    """Seconds that products of these shapes take, one after another and nothing else, with
    weights laid out as the engine lays them out."""
    device = hardware.device()
    products = [
        Product(torch.randn(outputs, inputs, device=device).to(number_type), None)
        for inputs, outputs, _ in shapes
    ]
    operands = {
        width: torch.randn(rows, width, device=device).to(number_type)
        for inputs, outputs, _ in shapes
        for width in (inputs, outputs)
    }

    def run() -> None:
        for product, (inputs, outputs, is_trained) in zip(products, shapes, strict=True):
            product.forwards(operands[inputs])
            if is_trained:
                product.backwards(operands[outputs])

    run()
    return measure.seconds(run)


def prepared_sides(
    model: str, data: str, rows: int, *, prepare: bool, rank: int | None = None
) -> Sides:
    """The sides for the AG News recipe on a model and a file.

    Args:
        model: folder of the checkpoint.
        data: a CSV of labelled texts.
        rows: how many of them to draw batches from.
        prepare: whether to compute the frozen layers for all of them.
        rank: of the updates, if not the recipe's.
    """
    recipe = recipe_text.read(
        "agnews-adamw",
        [
            f"model.name={model}",
            f"data.train={data}",
            f"data.max_rows={rows}",
            "data.classes=null",
            "data.test=null",
            "precision=auto",
            *([f"adapter.rank={rank}", "budget.max_trainable=10000000"] if rank else []),
        ],
    )
    plan = pipeline.plan(recipe)
    splits = sources.read_splits(recipe, plan.classes)
    tokenizer = load_tokenizer(plan.checkpoint.folder, recipe.model.name)
    packed = tokenize(splits.train.texts, tokenizer, plan.max_length, "the sample")
    return Sides(plan, packed, sources.labels_of(splits.train), prepare=prepare)


def time_to_accuracy(
    model: str, data: str, seeds: int
) -> tuple[dict[str, measure.Spread], dict[str, list[object]]]:
    """How many times sooner each recipe is as good as PEFT at its best in the end, seed by seed.

    Returns:
        Ratios by the names of their figures, and what they were made from.
    """
    ratios: dict[str, list[float]] = {}
    made_from: dict[str, list[object]] = {}
    for seed in range(1, seeds + 1):
        end = same_end.peft_alone(model, data, seed)
        print(f"seed {seed}: PEFT at its best ends after {_said([end])}", flush=True)
        for name, ending in SAME_END.items():
            epochs = same_end.budgie_alone(model, data, name, seed)
            print(f"  {name} after {_said(epochs)}", flush=True)
            both = {"peft": asdict(end), "budgie": [asdict(epoch) for epoch in epochs]}
            made_from.setdefault(f"time_to_accuracy{ending}", []).append(both)
            for rows, which in JUDGES.items():
                ratio = end.seconds / same_end.reached(epochs, end, rows)
                ratios.setdefault(f"ratio_time_to_accuracy{ending}{which}", []).append(ratio)
    return {name: measure.spread(found) for name, found in ratios.items()}, made_from


def _said(moments: Sequence[same_end.Moment]) -> str:
    """Ends of epochs in words."""
    return "; ".join(
        f"{one.seconds:.1f} s, {one.accuracy[same_end.ALL]:.2%} "
        f"({one.accuracy[same_end.OWN]:.2%} on its own rows)"
        for one in moments
    )


def main() -> None:
    """Measures, prints, writes."""
    asked = arguments()
    with measure.workplace() as work:
        measure_all(asked, work)


def measure_all(asked: argparse.Namespace, work: Path) -> None:
    """Every figure, printed as it comes and written at the end."""
    model = asked.model or str(models.base_shape(work / "base"))
    sides = prepared_sides(model, asked.data, asked.rows, prepare=True)
    packed = sides.packed
    print(
        f"{len(packed):,} texts of {np.mean(packed.lengths):.1f} tokens, {sides.precision}, "
        f"{torch.get_num_threads()} threads; seconds for a text in one of {EPOCHS} epochs"
    )
    found = measure.in_turn(
        {
            "budgie": sides.budgie,
            "floor": sides.floor,
            "best_peft": sides.peft(peer.BEST, PEER_STEPS),
            "lean_peft": sides.peft(peer.LEAN, PEER_STEPS),
            "notebook": sides.peft(peer.NOTEBOOK, 1),
        },
        asked.rounds,
    )
    figures = {
        "ratio_notebook": measure.ratios(found["notebook"], found["budgie"]),
        "ratio_best_peft": measure.ratios(found["best_peft"], found["budgie"]),
        "ratio_lean_peft": measure.ratios(found["lean_peft"], found["budgie"]),
        "share_of_floor": measure.ratios(found["floor"], found["budgie"]),
    }
    print(f"against the notebook's method: {figures['ratio_notebook']} times as fast")
    print(f"against PEFT at its best: {figures['ratio_best_peft']} times as fast")
    print(f"and with bfloat16 weights, without attention dropout: {figures['ratio_lean_peft']}")
    print(f"share of the matrix products' own pace: {figures['share_of_floor']}")
    made_from = {
        "seconds_a_text": found,
        "texts": len(packed),
        "tokens_a_text": float(np.mean(packed.lengths)),
        "precision": sides.precision,
        "machine": hardware.describe(hardware.device()),
    }
    if real := asked.real or models.six_layers(work / "real"):
        sooner, epochs = time_to_accuracy(str(real), asked.data, asked.seeds)
        for name, ratio in sooner.items():
            print(f"{name}: {ratio} times as soon")
        figures |= sooner
        made_from |= epochs
    else:
        print("the time to the same accuracy needs a real encoder: name one with --real")
    measure.write(asked.json, figures, made_from)


if __name__ == "__main__":
    main()
