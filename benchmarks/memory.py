"""How much memory training takes: the process's own, and pages of mapped files apart.

    python benchmarks/memory.py --model FOLDER --data train.csv [--whole] [--json FILE]

Each case runs in a process of its own and trains or computes for a while; a thread reads
`/proc/PID/status`. The kept output of the frozen layers is a sparse file of the size that
the rows would need: what it holds does not change what memory is used. With `--whole` the command
itself runs too, for as many rows and for ten times as many: it reads, looks the texts over,
tokenizes, computes and keeps the frozen layers' output, takes some steps and validates, which is
half an hour or more for ten times 14,547 rows on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from measure import Spread, workplace, write

STEPS = 400
"""Training steps: memory grows as oneDNN makes kernels for ever more shapes."""
WHOLE_STEPS = 1_000
"""And the whole command's."""
PEER_STEPS = 4
PASS_TEXTS = 512
SHIFT = 1_379
"""Rows between the halves of a text that is made of two."""


def main() -> None:
    """Runs every case, prints a table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of roberta-base or its shape")
    parser.add_argument("--data", required=True, help="a CSV of labelled texts")
    parser.add_argument("--rows", type=int, default=14_547, help="rows; measured at ten times too")
    parser.add_argument("--whole", action="store_true", help="run the whole command too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(run_case(asked.case, asked.model, asked.data)))
        return
    cases = {
        "training": f"train:{asked.rows}",
        "training_ten_times": f"train:{10 * asked.rows}",
        "prefix_pass": "pass",
        "best_peft": "peft",
    }
    if asked.whole:
        cases["command"] = f"command:{asked.rows}"
        cases["command_ten_times"] = f"command:{10 * asked.rows}"
    figures = {}
    for name, case in cases.items():
        command = [sys.executable, __file__, "--model", asked.model, "--data", asked.data]
        done = subprocess.run(
            [*command, "--case", case], capture_output=True, text=True, check=True
        )
        own, mapped = json.loads(done.stdout.splitlines()[-1])
        figures[f"anonymous_gib_{name}"] = Spread(own, own, own)
        figures[f"mapped_gib_{name}"] = Spread(mapped, mapped, mapped)
        print(f"{name}: {own:.2f} GiB of its own, {mapped:.2f} GiB of mapped files", flush=True)
    write(asked.json, figures, {"rows": asked.rows})


def run_case(case: str, model: str, data: str) -> tuple[float, float]:
    """Peak of the process's own memory and of mapped file pages, in GiB."""
    from budgerigar.encoder.frozen import PrefixedTexts
    from training import prepared_sides

    kind, _, rows = case.partition(":")
    if kind == "command":
        return whole_command(model, data, int(rows))
    os.environ["BUDGERIGAR_CACHE"] = tempfile.mkdtemp(prefix="budgie-benchmark-")
    with Watch(os.getpid()) as watch:
        sides = prepared_sides(model, data, rows=2_000, prepare=False)
        if kind == "peft":
            step = sides.best_peft()
            for _ in range(PEER_STEPS):
                next(step)
        elif kind == "pass":
            sides.prefix_seconds(0, PASS_TEXTS)
        else:
            texts = repeated(sides.packed, int(rows))
            with tempfile.NamedTemporaryFile() as file:
                shape = (int(texts.offsets[-1]), sides.plan.shape.width)
                file.truncate(2 * shape[0] * shape[1])
                kept = np.memmap(file.name, np.uint16, "r", shape=shape)
                lowest = min(sides.plan.selection.layers)
                prefixed = PrefixedTexts(texts, lowest, kept, texts.offsets)
                labels = np.resize(sides.labels, int(rows))
                sides.step_seconds(0, STEPS, prefixed, labels)
    return watch.own / 2**20, watch.mapped / 2**20


def whole_command(model: str, data: str, rows: int) -> tuple[float, float]:
    """The same of `budgie train` on so many rows."""
    with workplace() as work:
        texts = work / "texts.csv"
        write_rows(data, rows, texts)
        recipe = {
            "model.name": model,
            "data.train": texts,
            "data.classes": "null",
            "data.test": "null",
            "steps": WHOLE_STEPS,
        }
        sets = [part for field, value in recipe.items() for part in ("--set", f"{field}={value}")]
        command = [sys.executable, "-m", "budgerigar", "train", "agnews-adamw", *sets]
        command += ["--out", str(work / "run")]
        with subprocess.Popen(command) as process, Watch(process.pid) as watch:
            process.wait()
        if process.returncode:
            raise SystemExit(f"budgie train ended with {process.returncode}")
    return watch.own / 2**20, watch.mapped / 2**20


def write_rows(data: str, rows: int, into: Path) -> None:
    """So many texts and labels: the file's, then the first half of each with the second half of
    another one, so that the texts are as different as real ones."""
    from budgerigar.data import corpus
    from budgerigar.sources import labels_of

    columns = corpus.Columns(names=None, label="label")
    read = corpus.read(data, columns, classes=None, label_base=None, labelled=True)
    labels, halves = labels_of(read), [halved(text) for text in read.texts]
    with into.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        for number in range(rows):
            again, row = divmod(number, len(halves))
            other = (row + again * SHIFT) % len(halves)
            text = f"{halves[row][0]} {halves[other][1]}"
            lines.writerow([text, read.classes[labels[row]]])


def halved(text: str) -> tuple[str, str]:
    """Its words, half and half."""
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def repeated(packed, rows: int):
    """The texts again and again, until there are so many."""
    from budgerigar.data.tokens import PackedTexts

    ids_T, offsets = packed.batch(np.arange(rows) % len(packed))
    return PackedTexts(ids_T.astype(np.int32), offsets, cut=0)


class Watch:
    """Reads a process's memory a hundred times a second; peaks in KiB."""

    own = mapped = 0

    def __init__(self, process: int) -> None:
        self._status = Path(f"/proc/{process}/status")

    def __enter__(self) -> Watch:
        self._go_on = True
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on = False
        self._thread.join()

    def _look(self) -> None:
        while self._go_on:
            found = dict(
                line.split(":", 1)
                for line in self._status.read_text().splitlines()
                if line.startswith("Rss")
            )
            if found:  # A process that has just ended has none.
                self.own = max(self.own, int(found["RssAnon"].split()[0]))
                self.mapped = max(self.mapped, int(found["RssFile"].split()[0]))
            time.sleep(0.01)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
