"""Time until validation accuracy reaches what PEFT at its best ends with.

The clock runs while a run trains and validates on rows of its own, as a user's would. When it has
stopped, every epoch's adapter is scored again, on all rows that no run trained on: a run's own
thousand are so few that one text of them can decide which epoch is good enough.

Each run has a process of its own, as a user's would: what another left on the heap makes steps of
a small model a tenth to a fifth slower.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers import get_linear_schedule_with_warmup

import peer
from budgerigar import assembly, pipeline, predict, recipe_text, sources
from budgerigar.data import corpus
from budgerigar.data.tokens import PackedTexts, load_tokenizer, tokenize
from budgerigar.encoder import hardware, paths
from budgerigar.encoder.interface import Encoder, Tokens
from budgerigar.evaluation import metrics
from budgerigar.recipe import Recipe
from budgerigar.training import loop
from budgerigar.training.run import Surroundings, Trainee, Validation

ROWS, VALIDATION = 5_000, 0.2
PEER_EPOCHS = 3
LAYERS = {"agnews-adamw": "last:2", "agnews-best": "last:2", "agnews-fast": "last:1"}
"""The top third of six layers; of the fast recipe the top sixth, as on roberta-base."""
PEER = "agnews-adamw"
"""What PEFT trains."""

OWN, ALL = "validation", "all"
"""Rows that are scored: a run's own for validation, or all of the file that no run trained on."""
T = TypeVar("T")


@dataclass(frozen=True)
class Moment:
    """The end of an epoch.

    Attributes:
        seconds: since the run began.
        accuracy: of the adapter as it was then, on `OWN` and on `ALL` rows.
    """

    seconds: float
    accuracy: dict[str, float]


def peft_alone(model: str, data: str, seed: int) -> Moment:
    """`SameEnd.peft` in a process of its own."""
    return _alone(_peft, model, data, seed)


def budgie_alone(model: str, data: str, name: str, seed: int) -> list[Moment]:
    """`SameEnd.budgie` in a process of its own."""
    return _alone(_budgie, model, data, name, seed)


def reached(moments: Sequence[Moment], peer_end: Moment, rows: str) -> float:
    """Seconds until a run was as good as the peer in the end; infinite where it never was."""
    wanted = peer_end.accuracy[rows]
    return next((one.seconds for one in moments if one.accuracy[rows] >= wanted), float("inf"))


def _alone(side: Callable[..., T], *arguments: object) -> T:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(side, *arguments).result()


def _peft(model: str, data: str, seed: int) -> Moment:
    return SameEnd(model, data).peft(seed)


def _budgie(model: str, data: str, name: str, seed: int) -> list[Moment]:
    return SameEnd(model, data).budgie(name, seed)


class SameEnd:
    """Both sides on the same rows of the six-layer RoBERTa; models and tokens are ready
    before the clock starts, on both sides."""

    def __init__(self, model: str, data: str) -> None:
        self.recipes = {name: self._recipe(name, model, data) for name in LAYERS}
        self.plan = pipeline.plan(self.recipes[PEER])
        splits = sources.read_splits(self.recipes[PEER], self.plan.classes)
        sets = {**splits.named(), ALL: self._untrained(data, splits.train)}
        tokenizer = load_tokenizer(self.plan.checkpoint.folder, model)
        self.padding = int(tokenizer.pad_token_id or 0)
        self.packed = {
            name: tokenize(texts.texts, tokenizer, self.plan.max_length, name)
            for name, texts in sets.items()
        }
        self.labels = {name: sources.labels_of(texts) for name, texts in sets.items()}

    def peft(self, seed: int) -> Moment:
        """The end of PEFT at its best, validated after every epoch."""
        texts = {name: unpacked(packed) for name, packed in self.packed.items()}
        recipe = self.recipes[PEER]
        layers = pipeline.plan(recipe).selection.layers
        model = peer.classifier(self.plan.checkpoint.folder, len(self.plan.classes), layers, seed)
        head = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]
        adapter = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
        rates = recipe.optimizer
        adamw = torch.optim.AdamW(
            [{"params": adapter, "lr": rates.rate}, {"params": head, "lr": rates.head}],
            weight_decay=rates.weight_decay,
        )
        steps = PEER_EPOCHS * -(-len(texts["train"]) // recipe.batch)
        schedule = get_linear_schedule_with_warmup(adamw, steps // 10, steps)
        start, own = time.perf_counter(), 0.0
        for epoch in range(PEER_EPOCHS):
            model.train()
            order = peer.batches(texts["train"], peer.BEST, recipe.batch, 1000 * seed + epoch)
            for rows in order:
                some = [texts["train"][row] for row in rows]
                labels = [int(self.labels["train"][row]) for row in rows]
                peer.train_step(model, adamw, some, labels, peer.BEST, self.padding)
                schedule.step()
            own = self._peer_accuracy(model, OWN)
        seconds = time.perf_counter() - start
        return Moment(seconds, {OWN: own, ALL: self._peer_accuracy(model, ALL)})

    def budgie(self, name: str, seed: int) -> list[Moment]:
        """A recipe's epochs, the pass through the frozen layers included."""
        recipe = self.recipes[name]
        plan, device = pipeline.plan(recipe), hardware.device()
        (encoder,) = paths.fresh_cohort(
            paths.Base(
                plan.checkpoint,
                plan.shape,
                len(plan.classes),
                hardware.resolve_precision("auto", device).name,
                device,
                f"{time.time()}",
            ),
            [replace(assembly.start_of(plan), seed=seed)],
            plan.dropouts,
            force_reference=False,
        )
        made = assembly.optimizer_of(plan, encoder)
        start = time.perf_counter()
        prepared = {rows: encoder.prepare(self.packed[rows], rows) for rows in ("train", OWN)}
        ends: list[tuple[float, float, dict[str, torch.Tensor]]] = []

        def validate(dry: bool) -> Validation:
            found = predict.packed_logits(
                encoder, prepared[OWN], 64, "validating", 64 if dry else None
            )
            scores = metrics.score(found, self.labels[OWN][: len(found)])
            if not dry:
                ends.append((time.perf_counter() - start, scores.accuracy, encoder.state()))
            return Validation(scores.loss, scores.accuracy, scores.macro_f1)

        with tempfile.TemporaryDirectory() as folder:
            around = Surroundings(
                validate=validate,
                log_step=lambda record: None,
                log_epoch=lambda record: None,
                keep=lambda: None,
                checkpoints=Path(folder),
            )
            settings = replace(assembly.loop_settings(recipe), seed=seed)
            trainee = Trainee(encoder, made, settings, around)
            loop.train([trainee], prepared["train"], self.labels["train"])
        every = encoder.prepare(self.packed[ALL], ALL)
        return [
            Moment(seconds, {OWN: own, ALL: self._accuracy(encoder, every, state)})
            for seconds, own, state in ends
        ]

    def _accuracy(self, encoder: Encoder, texts: Tokens, state: dict[str, torch.Tensor]) -> float:
        """Of an adapter, on all rows that no run trained on."""
        encoder.load_state(state)
        found = predict.packed_logits(encoder, texts, 64, "scoring")
        return float(metrics.score(found, self.labels[ALL]).accuracy)

    def _peer_accuracy(self, model: torch.nn.Module, rows: str) -> float:
        model.eval()
        right, labels, texts = 0, self.labels[rows], unpacked(self.packed[rows])
        order = np.argsort([-len(text) for text in texts], kind="stable")
        with torch.no_grad():
            for first in range(0, len(order), 64):
                batch = order[first : first + 64]
                found = peer.logits(model, [texts[row] for row in batch], peer.BEST, self.padding)
                right += int((found.argmax(1).cpu().numpy() == labels[batch]).sum())
        return right / len(texts)

    def _untrained(self, data: str, train: corpus.Corpus) -> corpus.Corpus:
        """The file's rows whose texts no run trains on."""
        recipe = self.recipes[PEER]
        every = corpus.read(
            data,
            sources.columns_of(recipe),
            classes=self.plan.classes,
            label_base=recipe.data.label_base,
            labelled=True,
        )
        trained = set(train.texts)
        return every.select(np.flatnonzero([text not in trained for text in every.texts]))

    def _recipe(self, name: str, model: str, data: str) -> Recipe:
        return recipe_text.read(
            name,
            [
                f"model.name={model}",
                f"data.train={data}",
                f"data.max_rows={ROWS}",
                f"data.validation={VALIDATION}",
                "data.classes=null",
                "data.test=null",
                f"adapter.layers={LAYERS[name]}",
                "precision=auto",
            ],
        )


def unpacked(packed: PackedTexts) -> list[list[int]]:
    """Token ids, text by text."""
    return [packed.ids_T[a:b].tolist() for a, b in itertools.pairwise(packed.offsets)]
