"""How a training step's cost grows with tokens and rank, and the frozen layers' with texts.

    python benchmarks/scaling.py [--model FOLDER] [--data train.csv] [--json FILE]

Prints each series with the share of its variance that a straight line explains, and how fast the
frozen layers' output is computed and kept, and how large it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

import measure
import models
from budgerigar.data.tokens import PackedTexts
from budgerigar.encoder.prefix import PrefixCache
from training import Sides, prepared_sides

LENGTHS = (16, 32, 64, 128, 256)
RANKS = (1, 4, 16, 64)
TEXTS = (64, 128, 256, 512)
STEPS = 5
ROUNDS = 3


def main() -> None:
    """Measures the three series."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of roberta-base or its shape; made if not given")
    parser.add_argument("--data", default=str(models.default_texts()), help="a CSV of texts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    with measure.workplace() as work:
        model = asked.model or str(models.base_shape(work / "base"))
        figures, made_from = {}, {}
        sides = prepared_sides(model, asked.data, rows=800, prepare=False)
        passes = {texts: pass_seconds(sides, texts) for texts in TEXTS}
        kept = PrefixCache().entries()
        size = sum(entry.size for entry in kept) / sum(entry.about["texts"] for entry in kept)
        for name, series in (
            ("tokens_a_text", by_length(model, asked.data)),
            ("rank", by_rank(model, asked.data)),
            ("texts_through_frozen_layers", {texts: min(one) for texts, one in passes.items()}),
        ):
            fit = stats.linregress(list(series), list(series.values()))
            figures[f"explained_by_a_line_{name}"] = measure.spread([fit.rvalue**2])
            made_from[f"seconds_by_{name}"] = {str(k): v for k, v in series.items()}
            shown = ", ".join(f"{x}: {1e3 * y:.0f} ms" for x, y in series.items())
            print(f"{name}: {shown}; a line explains {fit.rvalue**2:.1%}", flush=True)
        rate = measure.spread([TEXTS[-1] / seconds for seconds in passes[TEXTS[-1]]])
        figures["cached_texts_a_second"] = rate
        made_from["cached_bytes_a_text"] = size
        print(
            f"kept: {rate} texts a second, {1e-3 * size:.1f} kB a text, "
            f"{1e-6 * size * rate.value:.1f} MB a second"
        )
        measure.write(asked.json, figures, made_from)


def by_length(model: str, data: str) -> dict[int, float]:
    """Seconds of a step of 16 texts of one length."""
    sides = prepared_sides(model, data, rows=300, prepare=False)
    found = {}
    for length in LENGTHS:
        ids_T = np.resize(sides.packed.ids_T[4:], 64 * length).astype(np.int32)
        texts = PackedTexts(ids_T, np.arange(65) * length, cut=0)
        prepared = sides.encoder.prepare(texts, "texts")
        labels = np.arange(64) % len(sides.plan.classes)
        found[length] = min(
            sides.step_seconds(number, STEPS, prepared, labels) for number in range(ROUNDS)
        )
    return found


def by_rank(model: str, data: str) -> dict[int, float]:
    """Seconds of a step on the file's own texts."""
    found = {}
    for rank in RANKS:
        sides = prepared_sides(model, data, rows=300, prepare=True, rank=rank)
        found[rank] = min(
            sides.step_seconds(number, STEPS, sides.prepared, sides.labels)
            for number in range(ROUNDS)
        )
    return found


def pass_seconds(sides: Sides, texts: int) -> list[float]:
    """Seconds to compute and keep the frozen layers' output, round by round."""
    return [sides.prefix_seconds(10 * number + texts, texts) for number in range(ROUNDS)]


if __name__ == "__main__":
    main()
