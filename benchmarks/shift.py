"""How well texts unlike the training texts are told from the others, and how often in error.

    python benchmarks/shift.py [--seeds 3] [--halves 100] [--official FILE]

Reads real AG News rows beside the checkout, the sample headlines, and all-MiniLM-L6-v2 from the
demo group. The unlike texts are the headlines (written in the style of AG News), rows of
a class that the training rows lack, and distorted rows. Agreement is the share of texts whose
group is the true one. False alarms are counted on halves of the training rows. `--official`
names a CSV of official test rows: those that stand in the unlabelled file are surely like the
training rows, and give the agreement there; they are read after everything else.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import kstest

from budgerigar.audit import section
from budgerigar.audit.shift import Shift, detect
from budgerigar.audit.vectors import DEMO_MODEL, TextEncoder
from budgerigar.data import corpus
from budgerigar.data.corpus import Columns
from distortions import distorted, lowered, shortened, thinned, typos
from models import SHARED

TRAINING, TOLD = 4_000, 1_200
OFFICIAL, UNLABELLED = 4_000, 8_000
"""Official rows among the competition's texts, and all of them."""


class Texts:
    """Texts with their vectors; rows of them on demand."""

    def __init__(self, encoder: TextEncoder, texts: Sequence[str] | corpus.Texts, name: str):
        self._encoder = encoder
        layers = section.layers(encoder.depth)
        source = texts if isinstance(texts, corpus.Texts) else _Listed(texts)
        self.vectors = encoder.encode(source, name, layers).vectors_BD
        self.texts = list(texts[: len(texts)])

    def take(self, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [self.texts[row] for row in rows.tolist()], self.vectors[rows]


class _Listed(list):
    def batches(self, size: int):
        for first in range(0, len(self), size):
            yield self[first : first + size]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--halves", type=int, default=100)
    parser.add_argument("--official", type=Path)
    asked = parser.parse_args()
    real = SHARED / "data" / "agnews_train.csv"
    if not real.exists():
        raise SystemExit(f"no real rows at {real}: nothing to measure on")
    encoder = TextEncoder(DEMO_MODEL)
    rows = _read(str(real), labelled=True)
    train, labels = Texts(encoder, rows.texts, "training rows"), rows.labels
    lines = [line for name in ("train", "test") for line in _headlines(name)]
    headlines = Texts(encoder, lines, "headlines")
    print("| unlike texts | of all | seed | AUC against TRAIN | found unlike | agreement |")
    print("|---|---|---|---|---|---|")
    for seed in range(asked.seeds):
        _shifts(encoder, train, labels, headlines, seed)
    if asked.halves:
        _false_alarms(train, asked.halves)
    if asked.official:
        _populations(encoder, train, asked.official)


def _shifts(
    encoder: TextEncoder, train: Texts, labels: np.ndarray, headlines: Texts, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(labels))
    base, held_out = train.take(order[:TRAINING]), order[TRAINING:]
    for unlike, like in ((1200, 1200), (1200, 400), (400, 1200), (200, 1800), (1200, 0)):
        told = headlines.take(draw.permutation(1200)[:unlike])
        _row("headlines", seed, base, train.take(held_out[:like]), told)
    known, new = order[labels[order] != 3], order[labels[order] == 3]
    like = train.take(known[TRAINING : TRAINING + TOLD])
    _row("a new class", seed, train.take(known[:TRAINING]), like, train.take(new[:TOLD]))
    changes = {
        "typos in 3 % of letters": typos(0.03),
        "first 15 words": shortened(15),
        "a fifth of the words left out": thinned(0.2),
        "small letters": lowered,
    }
    like, rest = train.take(held_out[:TOLD]), train.take(held_out[TOLD : 2 * TOLD])[0]
    for name, change in changes.items():
        told = Texts(encoder, distorted(rest, change, draw), name)
        _row(name, seed, base, like, (told.texts, told.vectors))


def _row(name: str, seed: int, base: tuple, like: tuple, unlike: tuple) -> None:
    found = detect(*base, like[0] + unlike[0], np.concatenate([like[1], unlike[1]]), seed)
    truth = np.repeat([False, True], [len(like[0]), len(unlike[0])])
    agreement = np.mean(found.unlike_B == truth)
    print(
        f"| {name} | {truth.mean():.0%} | {seed} | {found.test.auc:.3f} "
        f"| {found.unlike_B.mean():.1%} | {agreement:.1%} |",
        flush=True,
    )


def _false_alarms(train: Texts, halves: int) -> None:
    """Halves of one file: the p value is uniform, and no group is declared."""
    found: list[Shift] = []
    for seed in range(halves):
        order = np.random.default_rng(1000 + seed).permutation(len(train.texts))[:1000]
        found.append(detect(*train.take(order[:500]), *train.take(order[500:]), seed))
    p_values = np.array([one.test.p_value for one in found])
    uniform = kstest(p_values, "uniform").pvalue
    print(
        f"\n{halves} pairs of 500 rows: p below 0.05 in {np.sum(p_values < 0.05)}, below 0.01 "
        f"in {np.sum(p_values < 0.01)}; mean p {p_values.mean():.2f}; Kolmogorov-Smirnov against "
        f"uniform p = {uniform:.2g}; a shift shown in "
        f"{sum(one.shown for one in found)}, unlike texts named in "
        f"{sum(bool(one.unlike_B.any()) for one in found)}; lowest p {p_values.min():.4f}"
    )


def _populations(encoder: TextEncoder, train: Texts, official: Path) -> None:
    """The competition's texts, scored by the official rows that are known to be among them."""
    other = _read(str(SHARED / "data" / "test_unlabelled.pkl"), labelled=False)
    texts = Texts(encoder, other.texts, "unlabelled texts")
    found = detect(train.texts, train.vectors, texts.texts, texts.vectors)
    rows = _read(str(official), labelled=True).texts
    known = {_letters(text) for text in rows[: len(rows)]}
    hit_B = np.array([_letters(text) in known for text in texts.texts])
    like_B = ~found.unlike_B
    # The known ones are a random part of all official rows.
    kept = like_B[hit_B].mean()
    wrongly_like = like_B.sum() - OFFICIAL * kept
    agreement = (OFFICIAL * kept + UNLABELLED - OFFICIAL - wrongly_like) / UNLABELLED
    print(
        f"\nunlabelled file: AUC {found.test.auc:.3f} ({found.test.interval.low:.3f} to "
        f"{found.test.interval.high:.3f}); like {like_B.sum():,}, unlike {found.unlike_B.sum():,}; "
        f"{kept:.1%} of {hit_B.sum():,} known official rows are like; agreement {agreement:.1%}"
    )


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _headlines(name: str) -> list[str]:
    texts = _read(f"example:headlines/{name}.csv", labelled=False).texts
    return texts[: len(texts)]


def _read(source: str, *, labelled: bool) -> corpus.Corpus:
    return corpus.read(
        source, Columns(None, "label"), classes=None, label_base=None, labelled=labelled
    )


if __name__ == "__main__":
    main()
