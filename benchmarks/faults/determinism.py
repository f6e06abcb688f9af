"""Trains one recipe several times on the CPU and compares the adapters byte for byte.

    python benchmarks/faults/determinism.py [--recipe quickstart] [--runs 10]

Each run has a process of its own; the first has an empty cache, the others find what it kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from children import adapter_bytes, start, train


def main() -> None:
    """Trains and compares; fails at the first adapter that differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="quickstart", help="a shipped recipe or a file")
    parser.add_argument("--runs", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work, log = Path(folder), Path(folder) / "run.log"
        for number in range(1, asked.runs + 1):
            child = start(log, work / "cache", train, asked.recipe, work / str(number))
            child.join()
            if child.exitcode != 0:
                sys.exit(log.read_text())
            if adapter_bytes(work / str(number)) != adapter_bytes(work / "1"):
                sys.exit(f"run {number} gave another adapter than run 1")
            print(f"run {number} of {asked.runs}: the same bytes", flush=True)


if __name__ == "__main__":
    main()
