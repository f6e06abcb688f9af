"""Test accuracy over seeds: the engine beside transformers + PEFT, and full fine-tuning.

    python benchmarks/accuracy.py --model FOLDER --train train.csv --test test.csv --out RUNS \\
        [--json FILE]

Every side trains on the same number of rows with the same seeds and is scored once on the
test file. A finished run in RUNS is not trained again, a stopped one goes on. Prints a table
with the mean over seeds, its 95 % interval (Student's t over the seeds) and every seed's figure,
and what may be said of each pair of sides that left predictions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from scipy import stats
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

import budgerigar
import measure
import peer
from budgerigar import recipe_text, sources
from budgerigar.data.tokens import load_tokenizer, tokenize
from budgerigar.encoder import checkpoints, hardware
from budgerigar.evaluation import verdicts

TEXTBOOK = {"model.prefix_dropout": True}
REFERENCE = {"path": "reference", "model.prefix_dropout": True, "model.attention_dropout": None}
SIDES = {
    "engine": ("agnews-adamw", {}),
    "engine, prefix dropout": ("agnews-adamw", TEXTBOOK),
    "transformers + PEFT": ("agnews-adamw", REFERENCE),
    "agnews-best": ("agnews-best", {}),
    "agnews-deep": ("agnews-deep", {}),
    "agnews-fast": ("agnews-fast", {}),
}
FULL = "full fine-tuning"
FULL_RATE = 5e-5


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--layers", default="last:2", help="that train in part: the top third")
    parser.add_argument("--deep-layers", default="last:3", help="of agnews-deep: the upper half")
    parser.add_argument("--fast-layers", default="last:1", help="of agnews-fast: the top sixth")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sides", nargs="*", default=[*SIDES, FULL])
    parser.add_argument("--json", type=Path, help="write means and their intervals here")
    asked = parser.parse_args()
    lines = [
        "| side | seeds | test accuracy, mean | 95 % interval | every seed |",
        "|---|---|---|---|---|",
    ]
    figures, by_seed = {}, {}
    for side in asked.sides:
        found = [accuracy(side, seed, asked) for seed in range(1, asked.seeds + 1)]
        low, high = stats.t.interval(
            0.95, len(found) - 1, loc=np.mean(found), scale=stats.sem(found)
        )
        name = f"accuracy_{slug(side)}"
        figures[name] = measure.Spread(float(np.mean(found)), float(low), float(high))
        by_seed[f"{name}_by_seed"] = found
        every = ", ".join(f"{100 * one:.2f}" for one in found)
        lines.append(
            f"| {side} | {len(found)} | {100 * np.mean(found):.2f} % "
            f"| {100 * low:.2f} to {100 * high:.2f} | {every} |"
        )
    print("\n".join(lines))
    measure.write(asked.json, figures, by_seed)
    # Full fine-tuning leaves its accuracy alone, and no predictions to pair.
    named = {side: right(side, asked) for side in asked.sides if side != FULL}
    for pair in verdicts.compare(named).pairs if len(named) > 1 else ():
        print(pair.words)


def right(side: str, asked: argparse.Namespace) -> np.ndarray:
    """Whether each seed of a side is right on each test text, `[S, B]`."""
    tables = [
        pyarrow.parquet.read_table(folder_of(side, seed, asked) / "predictions" / "test.parquet")
        for seed in range(1, asked.seeds + 1)
    ]
    return np.stack(
        [np.equal(*map(np.asarray, table.select(["label", "true"]))) for table in tables]
    )


def folder_of(side: str, seed: int, asked: argparse.Namespace) -> Path:
    """Where a side's run with a seed is."""
    return asked.out / f"{slug(side)}-{seed}"


def slug(side: str) -> str:
    """A side's name in those of files and figures."""
    return side.replace(" ", "-").replace(",", "").replace("+", "and")


def accuracy(side: str, seed: int, asked: argparse.Namespace) -> float:
    """Test accuracy of a side with a seed, trained where it is not there yet."""
    folder = folder_of(side, seed, asked)
    if side == FULL:
        return fully_tuned(folder, seed, asked)
    recipe, changes = SIDES[side]
    layers = {"agnews-deep": asked.deep_layers, "agnews-fast": asked.fast_layers}
    if not (folder / "results.json").exists():
        overrides = {
            "model.name": asked.model,
            "data.train": asked.train,
            "data.test": asked.test,
            "data.max_rows": asked.rows,
            "adapter.layers": layers.get(recipe, asked.layers),
            "seed": seed,
            **changes,
        }
        if recipe == "agnews-adamw":
            overrides["epochs"] = asked.epochs
        if (folder / "recipe.yaml").exists():
            budgerigar.resume(folder)
        else:
            budgerigar.train(recipe, folder, **overrides)
    results = json.loads((folder / "results.json").read_text())
    return float(results["test"]["accuracy"])


def fully_tuned(folder: Path, seed: int, asked: argparse.Namespace) -> float:
    """Every weight trained, at its best for this machine; the last epoch is scored."""
    done = folder / "accuracy.json"
    if done.exists():
        return float(json.loads(done.read_text())["accuracy"])
    recipe = recipe_text.read(
        "agnews-adamw",
        [
            f"model.name={asked.model}",
            f"data.train={asked.train}",
            f"data.test={asked.test}",
            f"data.max_rows={asked.rows}",
            f"seed={seed}",
        ],
    )
    splits = sources.read_splits(recipe, recipe.data.classes)
    checkpoint = checkpoints.locate(asked.model, None, weights=True)
    tokenizer = load_tokenizer(checkpoint.folder, asked.model)

    def ids(texts) -> list[list[int]]:
        packed = tokenize(texts, tokenizer, recipe.data.max_length, "texts")
        ends = packed.offsets
        return [packed.ids_T[a:b].tolist() for a, b in itertools.pairwise(ends)]

    train, test = ids(splits.train.texts), ids(splits.test.texts)
    labels, truth = sources.labels_of(splits.train), sources.labels_of(splits.test)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=4)
    model.to(hardware.device()).train()
    adamw = torch.optim.AdamW(model.parameters(), lr=FULL_RATE, weight_decay=0.01)
    steps = asked.epochs * -(-len(train) // recipe.batch)
    schedule = get_linear_schedule_with_warmup(adamw, steps // 10, steps)
    padding, start = int(tokenizer.pad_token_id), time.monotonic()
    for epoch in range(asked.epochs):
        for rows in peer.batches(train, peer.BEST, recipe.batch, seed=1000 * seed + epoch):
            own = [int(labels[row]) for row in rows]
            peer.train_step(model, adamw, [train[row] for row in rows], own, peer.BEST, padding)
            schedule.step()
    model.eval()
    right = 0
    with torch.no_grad():
        order = np.argsort([-len(text) for text in test], kind="stable")
        for first in range(0, len(order), 64):
            rows = order[first : first + 64]
            found = peer.logits(model, [test[row] for row in rows], peer.BEST, padding)
            right += int((found.argmax(1).cpu().numpy() == truth[rows]).sum())
    folder.mkdir(parents=True, exist_ok=True)
    content = {"accuracy": right / len(test), "seconds": round(time.monotonic() - start, 1)}
    done.write_text(json.dumps(content) + "\n")
    return float(content["accuracy"])


if __name__ == "__main__":
    main()
