"""Which epoch's adapter to keep: the best on a few validation rows, or the last.

    python benchmarks/epochs.py --model FOLDER --data train.csv [--json FILE]

Trains recipes with several seeds and scores every epoch on many validation rows. Then it draws a
few of these again and again, has them choose an epoch by each rule, and scores that epoch on the
others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

import measure
from budgerigar import assembly, pipeline, predict, recipe_text, sources
from budgerigar.data.tokens import load_tokenizer, tokenize
from budgerigar.encoder import cohort, hardware, paths
from budgerigar.evaluation import metrics
from budgerigar.training import loop
from budgerigar.training.run import Surroundings, Trainee, Validation

RECIPES = {"agnews-best": None, "agnews-adamw": None, "agnews-best with 8 epochs": 8}
"""Name -> epochs, where they are not the recipe's."""
TRAINED, VALIDATED = 4_000, 10_500
CHOOSING = (50, 200, 1_000)
"""Rows that choose an epoch."""
DRAWS = 400
"""Times that they are drawn, for each run."""


def best(right_EB: np.ndarray) -> int:
    """The epoch with the highest accuracy, the first of several."""
    return int(right_EB.mean(1).argmax())


def last(right_EB: np.ndarray) -> int:
    """The last epoch."""
    return len(right_EB) - 1


def latest_within_an_error(right_EB: np.ndarray) -> int:
    """The latest epoch whose accuracy is at most one standard error below the best one's; the error
    is of the difference on the same rows, as in McNemar's test."""
    peak = best(right_EB)
    for epoch in range(last(right_EB), peak, -1):
        lost = int((right_EB[peak] & ~right_EB[epoch]).sum())
        won = int((~right_EB[peak] & right_EB[epoch]).sum())
        if lost - won <= (lost + won) ** 0.5:
            return epoch
    return peak


RULES: Mapping[str, Callable[[np.ndarray], int]] = {
    "best": best,
    "last": last,
    "latest within an error": latest_within_an_error,
}


def right_by_epoch(asked: argparse.Namespace, name: str, epochs: int | None) -> np.ndarray:
    """Whether each seed is right on each validation row after each epoch, `[S, E, B]`."""
    rows = TRAINED + VALIDATED
    sets = {
        "model.name": asked.model,
        "data.train": asked.data,
        "data.test": "null",
        "data.max_rows": rows,
        "data.validation": VALIDATED / rows,
        "data.seed": 7,
        "adapter.layers": asked.layers,
        **({} if epochs is None else {"epochs": epochs}),
    }
    overrides = [f"{field}={value}" for field, value in sets.items()]
    plans = [
        pipeline.plan(recipe_text.read(name.split()[0], [*overrides, f"seed={seed}"]))
        for seed in range(1, asked.seeds + 1)
    ]
    plan = plans[0]
    splits = sources.read_splits(plan.recipe, plan.classes)
    tokenizer = load_tokenizer(plan.checkpoint.folder, plan.recipe.model.name)
    device = hardware.device()
    precision = hardware.resolve_precision(plan.recipe.precision, device).name
    base = paths.Base(
        plan.checkpoint, plan.shape, len(plan.classes), precision, device, plan.checkpoint.sha256()
    )
    starts = [replace(assembly.start_of(one), seed=one.recipe.seed) for one in plans]
    encoders = paths.fresh_cohort(base, starts, plan.dropouts, force_reference=False)
    prepared, labels = {}, {}
    for split, texts in splits.named().items():
        packed = tokenize(texts.texts, tokenizer, plan.max_length, split)
        prepared[split] = cohort.prepare(encoders, packed, split)
        labels[split] = sources.labels_of(texts)
    found: list[list[np.ndarray]] = [[] for _ in plans]

    def validation_of(number: int) -> Callable[[bool], Validation]:
        def validate(dry: bool) -> Validation:
            if dry:
                return Validation(0.0, 0.0, 0.0)
            logits_BC = predict.packed_logits(
                encoders[number], prepared["validation"], 64, "validating"
            )
            found[number].append(logits_BC.argmax(1) == labels["validation"])
            scores = metrics.score(logits_BC, labels["validation"])
            return Validation(scores.loss, scores.accuracy, scores.macro_f1)

        return validate

    with tempfile.TemporaryDirectory() as folder:
        trainees = [
            Trainee(
                encoder=encoder,
                optimizer=assembly.optimizer_of(one, encoder),
                settings=assembly.loop_settings(one.recipe),
                around=Surroundings(
                    validate=validation_of(number),
                    log_step=lambda record: None,
                    log_epoch=lambda record: None,
                    keep=lambda: None,
                    checkpoints=Path(folder) / str(number),
                ),
            )
            for number, (one, encoder) in enumerate(zip(plans, encoders, strict=True))
        ]
        loop.train(trainees, prepared["train"], labels["train"])
    return np.array(found)


def chosen(right_SEB: np.ndarray, rule: Callable[[np.ndarray], int], rows: int) -> float:
    """Mean accuracy of the epochs that so many rows choose, on the rows that did not choose."""
    draw, scores = np.random.default_rng(rows), []
    for right_EB in right_SEB:
        for _ in range(DRAWS):
            order = draw.permutation(right_EB.shape[1])
            epoch = rule(right_EB[:, order[:rows]])
            scores.append(right_EB[epoch, order[rows:]].mean())
    return float(np.mean(scores))


def main() -> None:
    """Trains, draws, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--data", required=True, help="a CSV of at least 14,500 labelled texts")
    parser.add_argument("--layers", default="last:2", help="that train in part: the top third")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write every epoch's accuracy here")
    asked = parser.parse_args()
    figures, kept = {}, {}
    with measure.workplace():
        for name, epochs in RECIPES.items():
            right_SEB = right_by_epoch(asked, name, epochs)
            by_epoch = ", ".join(f"{100 * one:.2f}" for one in right_SEB.mean((0, 2)))
            print(f"{name}, {asked.seeds} seeds: {by_epoch} % after its epochs; kept by")
            for epoch, right_SB in enumerate(right_SEB.swapaxes(0, 1), 1):
                every_seed = [float(accuracy) for accuracy in right_SB.mean(1)]
                figures[f"accuracy of {name} after epoch {epoch}"] = measure.spread(every_seed)
            for title, rule in RULES.items():
                by_rows = {rows: chosen(right_SEB, rule, rows) for rows in CHOOSING}
                kept[f"{name}, {title}"] = by_rows
                shown = (f"{100 * one:.2f} ({rows} rows)" for rows, one in by_rows.items())
                print(f"  {title}: {', '.join(shown)}")
        measure.write(asked.json, figures, {"kept_by": kept})


if __name__ == "__main__":
    main()
