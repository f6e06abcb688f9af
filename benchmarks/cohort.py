"""What a cohort of runs costs here, beside one run and beside transformers + PEFT's by turns.

    python benchmarks/cohort.py --data train.csv --json figures.json

Runs of the AG News recipe that differ in seed and optimizer train together over one frozen base
of roberta-base's shape (random weights, or `--model`). A cohort's time is that of five epochs of
all its runs with the pass through the frozen layers, which it does once; it is put together from
timed stretches. PEFT at its best trains the same runs one after another. Evaluation is left out on
both sides. With `--whole` cohorts train whole on so many texts instead, by themselves: how many
texts of all runs a second, and which share of the rate that this machine reaches on the steps'
matrix products alone, many rows together.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import measure
import models
import peer
from budgerigar import assembly, recipe_text
from budgerigar.data.tokens import PackedTexts
from budgerigar.encoder import hardware, paths
from budgerigar.encoder.interface import Tokens
from budgerigar.planning import Plan, with_seed
from budgerigar.training import loop
from budgerigar.training.run import Surroundings, Trainee, Validation
from training import (
    EPOCHS,
    FLOOR_ROWS,
    PEER_STEPS,
    Sides,
    prepared_sides,
    products_seconds,
    steps_here,
    unavoidable_products,
)

SIZES = (1, 2, 4, 8, 16)
BESIDE_PEFT = 8
"""Runs that PEFT trains one after another."""


class Cohorts:
    """Cohorts of several sizes over one base and the same texts."""

    def __init__(self, sides: Sides, largest: int) -> None:
        self.sides = sides
        plans = [_varied(sides.plan, number) for number in range(largest)]
        self.plans = plans
        self.encoders = paths.fresh_cohort(
            sides.base,
            [assembly.start_of(plan) for plan in plans],
            sides.plan.dropouts,
            force_reference=False,
        )

    def of(self, size: int) -> Callable[[int], float]:
        """A side: seconds for a text of every run, over all epochs, frozen layers included."""

        def side(number: int) -> float:
            prefix = self.sides.prefix_seconds_a_text(number)
            return prefix + EPOCHS * self.round_seconds(number, size) / self.batch

        return side

    @property
    def batch(self) -> int:
        """Texts of a run in a round."""
        return self.sides.plan.recipe.batch

    def round_seconds(self, number: int, size: int) -> float:
        """Mean seconds of a round in which each of `size` runs takes a step."""
        last: list[float] = []
        settings = {"steps": steps_here(), "schedule": "constant", "warmup": 0.0}
        with tempfile.TemporaryDirectory() as folder:
            trainees = self._trainees(number, size, Path(folder), settings, last)
            loop.train(trainees, self.sides.prepared, self.sides.labels)
        # The last run of a round logs when the whole round is done.
        return float(np.mean(last[size - 1 :: size]))

    def whole(self, size: int, prepared: Tokens, labels: np.ndarray, epochs: int) -> float:
        """Seconds of all steps of `size` runs over some texts, checkpoints included."""
        with tempfile.TemporaryDirectory() as folder:
            trainees = self._trainees(0, size, Path(folder), {"epochs": epochs}, [])
            return measure.seconds(lambda: loop.train(trainees, prepared, labels))

    def _trainees(
        self, number: int, size: int, folder: Path, settings: dict[str, Any], seconds: list[float]
    ) -> list[Trainee]:
        """So many runs, without validation; each puts its steps' seconds into a list."""
        return [
            Trainee(
                encoder=encoder,
                optimizer=assembly.optimizer_of(plan, encoder),
                settings=replace(
                    assembly.loop_settings(plan.recipe), seed=1000 * number + place, **settings
                ),
                around=Surroundings(
                    validate=lambda dry: Validation(0.0, 0.0, 0.0),
                    log_step=lambda record: seconds.append(record.seconds),
                    log_epoch=lambda record: None,
                    keep=lambda: None,
                    checkpoints=folder / str(place),
                ),
            )
            for place, (plan, encoder) in enumerate(
                zip(self.plans[:size], self.encoders[:size], strict=True)
            )
        ]


def _varied(plan: Plan, number: int) -> Plan:
    """The plan with another seed and, by turns, another optimizer."""
    changes = {"seed": number, "optimizer": {"name": ("adamw", "rmsprop")[number % 2]}}
    return with_seed(plan, recipe_text.change(plan.recipe, changes))


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of roberta-base or its shape; made if not given")
    parser.add_argument(
        "--data", default=str(models.default_texts()), help="a CSV of labelled texts"
    )
    parser.add_argument("--rows", type=int, default=2000, help="texts to draw batches from")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--whole",
        type=int,
        help="train whole on so many texts, the sample's repeated, no stretches",
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of --whole")
    asked = parser.parse_args()
    with measure.workplace() as work:
        measure_all(asked, work)


def measure_all(asked: argparse.Namespace, work: Path) -> None:
    """Every figure, printed as it comes and written at the end."""
    model = asked.model or str(models.base_shape(work / "base"))
    sides = prepared_sides(model, asked.data, asked.rows, prepare=True)
    sizes = sorted(set(asked.sizes) if asked.whole else {1, BESIDE_PEFT, *asked.sizes})
    cohorts = Cohorts(sides, max(sizes))
    if asked.whole:
        measure_whole(asked, cohorts, sizes)
        return
    print(
        f"{len(sides.packed):,} texts of {np.mean(sides.packed.lengths):.1f} tokens, "
        f"{sides.precision}, {torch.get_num_threads()} threads; seconds for a text of every run "
        f"over {EPOCHS} epochs"
    )
    found = measure.in_turn(
        {
            **{str(size): cohorts.of(size) for size in sizes},
            "best_peft": lambda number: EPOCHS * sides.peft(peer.BEST, PEER_STEPS)(number),
        },
        asked.rounds,
    )
    cost = {size: measure.ratios(found[str(size)], found["1"]) for size in sizes}
    for size, figure in cost.items():
        print(f"a cohort of {size} costs {figure} times as much as one run")
    eight = [BESIDE_PEFT * seconds for seconds in found["best_peft"]]
    ratio = measure.ratios(eight, found[str(BESIDE_PEFT)])
    print(f"{BESIDE_PEFT} runs of PEFT at its best, one after another, take {ratio} times as long")
    measure.write(
        asked.json,
        {"ratio_best_peft": ratio},
        {
            "cost_of_cohort": {str(size): measure.as_record(one) for size, one in cost.items()},
            "seconds_a_text": found,
            "texts": len(sides.packed),
            "tokens_a_text": float(np.mean(sides.packed.lengths)),
            "precision": sides.precision,
            "machine": hardware.describe(hardware.device()),
        },
    )


def measure_whole(asked: argparse.Namespace, cohorts: Cohorts, sizes: list[int]) -> None:
    """Whole trainings, not put together from stretches."""
    sides = cohorts.sides
    rows = np.resize(np.arange(len(sides.packed)), asked.whole)
    ids_T, offsets = sides.packed.batch(rows)
    texts = PackedTexts(ids_T.astype(np.int32), offsets, cut=0)
    prepared: list[Tokens] = []
    frozen_seconds = measure.seconds(
        lambda: prepared.append(cohorts.encoders[0].prepare(texts, f"{len(texts):,} texts"))
    )
    print(f"{len(texts):,} texts through the frozen layers: {frozen_seconds:.1f} s", flush=True)
    at_best = best_seconds_a_token(sides) * len(texts.ids_T) * asked.epochs
    seconds_of: dict[str, float] = {}
    figures: dict[str, measure.Spread] = {}
    for size in sizes:
        seconds = cohorts.whole(size, prepared[0], sides.labels[rows], asked.epochs)
        samples = size * len(texts) * asked.epochs / seconds
        share = size * at_best / seconds
        print(
            f"{size} runs, {asked.epochs} epochs: {seconds:.1f} s, {frozen_seconds + seconds:.1f} "
            f"with it; {samples:,.0f} texts a second, {share:.3f} of the matrix rate",
            flush=True,
        )
        seconds_of[str(size)] = seconds
        figures[f"samples_per_second_{size}"] = measure.spread([samples])
        figures[f"share_of_matrix_rate_{size}"] = measure.spread([share])
    made_from = {
        "frozen_layers_seconds": frozen_seconds,
        "steps_seconds": seconds_of,
        "texts": len(texts),
        "epochs": asked.epochs,
        "precision": sides.precision,
        "machine": hardware.describe(hardware.device()),
    }
    measure.write(asked.json, figures, made_from)


def best_seconds_a_token(sides: Sides) -> float:
    """What a token's unavoidable products of a training step take where many rows go together;
    the fastest of five."""
    _, above = unavoidable_products(sides.plan)
    rows = FLOOR_ROWS[hardware.device().type]
    number_type = hardware.SIXTEEN_BITS.get(sides.precision, torch.float32)
    return min(products_seconds(above, rows, number_type) for _ in range(5)) / rows


if __name__ == "__main__":
    main()
