"""How far expected accuracy is off on shifts whose labels are known.

    python benchmarks/estimates.py --out RUNS [--seeds 3]

Trains classifiers of quickstart's size on the sample headlines and, where real AG News rows lie
beside the checkout, on 2,000 of them; expects the accuracy on held-out texts, as they are and
shifted, from validation texts and the shifted texts without labels; and compares. A finished
run in RUNS is not trained again. Prints a table: an estimate's error is in points, averaged
over seeds, and counted is how often the interval of all methods holds the true accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import budgerigar
from budgerigar import predict, recipe_text, sources
from budgerigar.data import corpus
from budgerigar.data.corpus import Columns
from budgerigar.evaluation.estimate import expected_accuracy
from budgerigar.recipe import Recipe
from distortions import Distortion, distorted, shortened, thinned, typos
from models import SHARED

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
SHIFTS: dict[str, Distortion | None] = {
    "none": None,
    "typos in 3 % of letters": typos(0.03),
    "typos in 10 % of letters": typos(0.1),
    "first 4 words": shortened(4),
    "half of the words left out": thinned(0.5),
}
SAMPLE, REAL = "sample headlines", "2,000 AG News rows"
TESTED = 400
"""Held-out texts at most."""


def main() -> None:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="writes every figure")
    asked = parser.parse_args()
    real = SHARED / "data" / "agnews_train.csv"
    sides = [SAMPLE]
    if real.exists():
        sides.append(REAL)
    else:
        print(f"no real rows at {real}: the sample headlines alone")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for side in sides:
        for seed in range(1, asked.seeds + 1):
            for shift, figures in measured(side, seed, asked.out, real):
                found.setdefault((side, shift), []).append(figures)
    names = [name for name in next(iter(found.values()))[0] if name not in ("accuracy", "inside")]
    heads = ["trained on", "shift", "accuracy", *(f"{name}: off by" for name in names), "inside"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for (side, shift), figures in found.items():
        accuracy = 100 * np.mean([one["accuracy"] for one in figures])
        errors = [100 * np.mean([one[name] - one["accuracy"] for one in figures]) for name in names]
        cells = [side, shift, f"{accuracy:.1f} %", *(f"{error:+.1f}" for error in errors)]
        inside = sum(int(one["inside"]) for one in figures)
        print(f"| {' | '.join(cells)} | {inside} of {len(figures)} |")
    if asked.json:
        rows = [{"trained on": side, "shift": s, "seeds": f} for (side, s), f in found.items()]
        asked.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def measured(side: str, seed: int, out: Path, real: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """True and expected accuracy of a classifier under each shift."""
    overrides = {"seed": seed, "data.validation": 0.25}
    if side == REAL:
        overrides |= {"data.train": str(real), "data.max_rows": 2000, "epochs": 2}
        overrides |= {"data.test": None}
    recipe = recipe_text.read("quickstart", overrides=overrides)
    folder = out / f"{'real' if side == REAL else 'sample'}-{seed}"
    if not (folder / "results.json").exists():
        budgerigar.train(recipe, folder)
    classifier = predict.load(folder / "adapter")
    splits = sources.read_splits(recipe, CLASSES)
    validation = splits.validation.texts
    known_VC = logits(classifier, validation[: len(validation)])
    labels_V = splits.validation.labels
    sample = _read("example:headlines/test.csv")
    draw = np.random.default_rng(seed)
    if side == REAL:
        held_out, other = _held_out(real, recipe, draw), sample
    else:
        held_out, other = sample, _read(str(real), draw) if real.exists() else None
    shifted = {
        name: (distorted(held_out[0], change, draw) if change else held_out[0], held_out[1])
        for name, change in SHIFTS.items()
    }
    if other is not None:
        shifted["texts of the other source"] = other
    for name, (texts, labels) in shifted.items():
        asked_UC = logits(classifier, texts)
        expected = expected_accuracy(known_VC, labels_V, asked_UC, np.random.default_rng(0))["all"]
        true = float((asked_UC.argmax(1) == labels).mean())
        figures = {one.method: one.accuracy for one in expected.methods}
        inside = expected.interval.low <= true <= expected.interval.high
        yield name, {"accuracy": true, **figures, "inside": inside}


def logits(classifier: predict.TextClassifier, texts: list[str]) -> np.ndarray:
    """Log-probabilities `[B, C]`, which are logits too."""
    return np.log(np.maximum(classifier.predict(texts).probabilities, 1e-30))


def _read(source: str, draw: np.random.Generator | None = None) -> tuple[list[str], np.ndarray]:
    """Texts and labels, or a sample of them."""
    found = corpus.read(
        source, Columns(None, "label"), classes=CLASSES, label_base=None, labelled=True
    )
    rows = np.arange(len(found.texts))
    if draw is not None:
        rows = np.sort(draw.permutation(rows)[:TESTED])
    return found.texts.take(rows), found.labels[rows]


def _held_out(
    real: Path, recipe: Recipe, draw: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Real rows that the run did not see."""
    splits = sources.read_splits(recipe, CLASSES)
    seen = set(splits.train.texts[: len(splits.train.texts)])
    seen |= set(splits.validation.texts[: len(splits.validation.texts)])
    texts, labels = _read(str(real))
    rows = [row for row, text in enumerate(texts) if text not in seen]
    rows = sorted(draw.permutation(rows)[:TESTED].tolist())
    return [texts[row] for row in rows], labels[rows]


if __name__ == "__main__":
    main()
