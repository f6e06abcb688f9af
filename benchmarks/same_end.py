"""Time until validation accuracy reaches what PEFT at its best ends with.

Each run has a process of its own, as a user's would: what another left on the heap makes steps of
a small model a tenth to a fifth slower.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import get_linear_schedule_with_warmup

import peer
from budgerigar import assembly, pipeline, predict, recipe_text, sources
from budgerigar.data.tokens import PackedTexts, load_tokenizer, tokenize
from budgerigar.encoder import hardware, paths
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


def peft_alone(model: str, data: str, seed: int) -> tuple[float, float]:
    """`SameEnd.peft` in a process of its own."""
    return _alone(_peft, model, data, seed)


def budgie_alone(model: str, data: str, name: str, seed: int, wanted: float) -> tuple[float, float]:
    """`SameEnd.budgie` in a process of its own."""
    return _alone(_budgie, model, data, name, seed, wanted)


def _alone(side: Callable[..., tuple[float, float]], *arguments: object) -> tuple[float, float]:
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(side, *arguments).result()


def _peft(model: str, data: str, seed: int) -> tuple[float, float]:
    return SameEnd(model, data).peft(seed)


def _budgie(model: str, data: str, name: str, seed: int, wanted: float) -> tuple[float, float]:
    return SameEnd(model, data).budgie(name, seed, wanted)


class SameEnd:
    """Both sides on the same rows of the six-layer RoBERTa; models and tokens are ready
    before the clock starts, on both sides."""

    def __init__(self, model: str, data: str) -> None:
        self.recipes = {name: self._recipe(name, model, data) for name in LAYERS}
        self.plan = pipeline.plan(self.recipes[PEER])
        splits = sources.read_splits(self.recipes[PEER], self.plan.classes)
        tokenizer = load_tokenizer(self.plan.checkpoint.folder, model)
        self.padding = int(tokenizer.pad_token_id or 0)
        self.packed = {
            name: tokenize(texts.texts, tokenizer, self.plan.max_length, name)
            for name, texts in splits.named().items()
        }
        self.labels = {n: sources.labels_of(texts) for n, texts in splits.named().items()}

    def peft(self, seed: int) -> tuple[float, float]:
        """Seconds of PEFT at its best, validated after every epoch, and its last accuracy."""
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
        start, accuracy = time.perf_counter(), 0.0
        for epoch in range(PEER_EPOCHS):
            model.train()
            order = peer.batches(texts["train"], peer.BEST, recipe.batch, 1000 * seed + epoch)
            for rows in order:
                some = [texts["train"][row] for row in rows]
                own = [int(self.labels["train"][row]) for row in rows]
                peer.train_step(model, adamw, some, own, peer.BEST, self.padding)
                schedule.step()
            accuracy = self._peer_accuracy(model, texts["validation"])
        return time.perf_counter() - start, accuracy

    def budgie(self, name: str, seed: int, wanted: float) -> tuple[float, float]:
        """Seconds until a recipe's validation accuracy is `wanted`, frozen layers included;
        infinite where it never is. And the accuracy reached."""
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
        prepared = {name: encoder.prepare(texts, name) for name, texts in self.packed.items()}
        reached: list[tuple[float, float]] = []

        def validate(dry: bool) -> Validation:
            found = predict.packed_logits(
                encoder, prepared["validation"], 64, "validating", 64 if dry else None
            )
            scores = metrics.score(found, self.labels["validation"][: len(found)])
            if not dry:
                reached.append((time.perf_counter() - start, scores.accuracy))
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
        best = max(accuracy for _, accuracy in reached)
        times = [seconds for seconds, accuracy in reached if accuracy >= wanted]
        return (times[0] if times else float("inf")), best

    def _peer_accuracy(self, model: torch.nn.Module, texts: list[list[int]]) -> float:
        model.eval()
        right, labels = 0, self.labels["validation"]
        order = np.argsort([-len(text) for text in texts], kind="stable")
        with torch.no_grad():
            for first in range(0, len(order), 64):
                rows = order[first : first + 64]
                found = peer.logits(model, [texts[row] for row in rows], peer.BEST, self.padding)
                right += int((found.argmax(1).cpu().numpy() == labels[rows]).sum())
        return right / len(texts)

    def _recipe(self, name: str, model: str, data: str) -> Recipe:
        return recipe_text.read(
            name,
            [
                f"model.name={model}",
                f"data.train={data}",
                f"data.max_rows={ROWS}",
                f"data.validation={VALIDATION}",
                "data.test=null",
                f"adapter.layers={LAYERS[name]}",
                "precision=auto",
            ],
        )


def unpacked(packed: PackedTexts) -> list[list[int]]:
    """Token ids, text by text."""
    return [packed.ids_T[a:b].tolist() for a, b in itertools.pairwise(packed.offsets)]
