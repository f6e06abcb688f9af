"""What helps where labels are wrong: losses, and training without suspected rows.

    python benchmarks/robust_losses.py --model FOLDER --clean train.csv --labels given.csv
        --test test.csv --out RUNS [--json FILE]

First every setting trains on clean rows with wrong labels planted in a fifth of them, as people
would give them, and is scored on other clean rows: the best setting of each way is chosen there.
Then the chosen ones and the plain recipe train on `--labels` with fresh seeds, and each run is
scored once on `--test`. Rows of `--labels` take no part in the choice. Everywhere the validation
rows, by which a run keeps its best epoch here, have the same noise as the training rows.
A comparison in RUNS that is whole is not trained again, a stopped one goes on.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

from budgerigar import comparison, recipe_text
from budgerigar.audit.vectors import TextEncoder
from label_noise import Planter, encoded, letters, read
from measure import write

PLAIN = "plain"
GCE, SCE = "generalized_cross_entropy", "symmetric_cross_entropy"
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "smoothing": {
        "smoothing-0.1": {"label_smoothing": 0.1},
        "smoothing-0.3": {"label_smoothing": 0.3},
    },
    "generalized": {
        "generalized-0.4": {"loss": {"name": GCE, "q": 0.4}},
        "generalized-0.7": {"loss": {"name": GCE, "q": 0.7}},
        "generalized-1": {"loss": {"name": GCE, "q": 1.0}},
    },
    "symmetric": {
        "symmetric-0.1-1": {"loss": {"name": SCE, "alpha": 0.1, "beta": 1.0}},
        "symmetric-1-1": {"loss": {"name": SCE, "alpha": 1.0, "beta": 1.0}},
    },
    "dropped": {
        "dropped": {"data.drop_suspects": True},
    },
}
"""Ways to deal with wrong labels, and the settings of each that are tried."""
KINDS = ("concept", "ambiguous")
"""Of planted noise: an annotator with a notion of the classes of their own, and texts that could as
well be of another class."""
RATE = 0.2
PLANTED_SEEDS = 2


def main() -> None:
    """Chooses on planted noise, compares on given labels, prints both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of the checkpoint")
    parser.add_argument("--clean", required=True, help="a CSV of text,label with right labels")
    parser.add_argument("--labels", required=True, help="the same with wrong ones among them")
    parser.add_argument("--test", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--layers", default="last:2", help="that train in part: the top third")
    parser.add_argument("--rows", type=int, default=3_000, help="planted training rows")
    parser.add_argument("--seeds", type=int, default=5, help="on the labels given")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    every = {PLAIN: {}, **{name: one for way in SETTINGS.values() for name, one in way.items()}}
    planted = {}
    for kind, (train, test) in planted_files(asked).items():
        found = compared(asked, f"planted-{kind}", every, train, test, PLANTED_SEEDS, first=101)
        planted[kind] = {one["name"]: one["mean"] for one in found.results["verdict"]["recipes"]}
    means = {name: float(np.mean([planted[kind][name] for kind in KINDS])) for name in every}
    print(f"accuracy on clean rows after training on planted noise of {RATE:.0%}")
    for name, mean in means.items():
        by_kind = ", ".join(f"{kind} {planted[kind][name]:.2%}" for kind in KINDS)
        print(f"  {name:26}{mean:8.2%}  ({by_kind})")
    chosen = {PLAIN: every[PLAIN]}
    for way in SETTINGS.values():
        best = max(way, key=lambda name: means[name])
        chosen[best] = every[best]
    found = compared(asked, "given", chosen, Path(asked.labels), Path(asked.test), asked.seeds)
    head, rows = found.table()
    for line in (head, *rows):
        print(" | ".join(line))
    for line in found.words:
        print(line)
    write(asked.json, {}, {"planted": planted, "given": found.results["verdict"]})


def planted_files(asked: argparse.Namespace) -> dict[str, tuple[Path, Path]]:
    """For each kind of noise a file with it, and one of other clean rows."""
    taken = {letters(text) for text in read(asked.labels)[0]}
    texts, truth_B = read(asked.clean)
    free = np.array([row for row, text in enumerate(texts) if letters(text) not in taken])
    texts, truth_B = [texts[row] for row in free], truth_B[free]
    order = np.random.default_rng(0).permutation(len(texts))
    train, test = order[: asked.rows], order[asked.rows : 2 * asked.rows]
    files = {}
    planter: Planter | None = None
    for kind in KINDS:
        files[kind] = asked.out / f"{kind}.csv", asked.out / "clean.csv"
        if all(path.exists() for path in files[kind]):
            continue
        planter = planter or Planter(texts, truth_B, *encoded(TextEncoder(asked.model), texts))
        given_B = getattr(planter, kind)(train, RATE, np.random.default_rng(1))
        write_rows(files[kind][0], [texts[row] for row in train], given_B)
        write_rows(files[kind][1], [texts[row] for row in test], truth_B[test])
    return files


def write_rows(path: Path, texts: list[str], labels_B: np.ndarray) -> None:
    """A CSV of text,label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels_B, strict=True)])


def compared(
    asked: argparse.Namespace,
    name: str,
    settings: dict[str, dict[str, Any]],
    train: Path,
    test: Path,
    seeds: int,
    first: int = 1,
) -> comparison.Comparison:
    """A comparison of settings of `agnews-best`, trained where it is not there yet."""
    folder = asked.out / name
    if (folder / "comparison.json").exists():
        return comparison.Comparison(folder)
    if (folder / "runs.json").exists():
        return comparison.resume(folder)
    common = {
        "model.name": str(asked.model),
        "keep": "best",
        "adapter.layers": asked.layers,
        "data.train": str(train),
        "data.test": str(test),
    }
    recipes = [
        recipe_text.resolve("agnews-best", {**common, "name": one, **changes})
        for one, changes in settings.items()
    ]
    return comparison.compare(recipes, seeds, folder, first_seed=first)


if __name__ == "__main__":
    main()
