"""How much memory training takes: the process's own, and pages of mapped files apart.

    python benchmarks/memory.py --model FOLDER --data train.csv [--json FILE]

Each case runs in a process of its own and trains or computes for a while; a thread reads
`/proc/self/status`. The kept output of the frozen layers is a sparse file of the size that
the rows would need: what it holds does not change what memory is used.
"""

from __future__ import annotations

import argparse
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

from measure import Spread, write

STEPS = 40
PEER_STEPS = 4
PASS_TEXTS = 512


def main() -> None:
    """Runs every case, prints a table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of roberta-base or its shape")
    parser.add_argument("--data", required=True, help="a CSV of labelled texts")
    parser.add_argument("--rows", type=int, default=14_547, help="rows; measured at ten times too")
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
    figures, files = {}, {}
    for name, case in cases.items():
        command = [sys.executable, __file__, "--model", asked.model, "--data", asked.data]
        done = subprocess.run(
            [*command, "--case", case], capture_output=True, text=True, check=True
        )
        own, mapped = json.loads(done.stdout.splitlines()[-1])
        figures[f"anonymous_gib_{name}"] = Spread(own, own, own)
        files[f"mapped_gib_{name}"] = mapped
        print(f"{name}: {own:.2f} GiB of its own, {mapped:.2f} GiB of mapped files", flush=True)
    write(asked.json, figures, files)


def run_case(case: str, model: str, data: str) -> tuple[float, float]:
    """Peak of the process's own memory and of mapped file pages, in GiB."""
    from budgerigar.encoder.frozen import PrefixedTexts
    from training import prepared_sides

    os.environ["BUDGERIGAR_CACHE"] = tempfile.mkdtemp(prefix="budgie-benchmark-")
    kind, _, rows = case.partition(":")
    with Watch() as watch:
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


def repeated(packed, rows: int):
    """The texts again and again, until there are so many."""
    from budgerigar.data.tokens import PackedTexts

    ids_T, offsets = packed.batch(np.arange(rows) % len(packed))
    return PackedTexts(ids_T.astype(np.int32), offsets, cut=0)


class Watch:
    """Reads this process's memory a hundred times a second; peaks in KiB."""

    own = mapped = 0

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
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("Rss")
            )
            self.own = max(self.own, int(found["RssAnon"].split()[0]))
            self.mapped = max(self.mapped, int(found["RssFile"].split()[0]))
            time.sleep(0.01)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
