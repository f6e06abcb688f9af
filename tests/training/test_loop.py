"""Runs of a cohort train as each does alone; one that fails or stops touches no other."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budgerigar.data.tokens import PackedTexts
from budgerigar.encoder import checkpoints, cohort, paths
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.lora import LowRank
from budgerigar.encoder.shape import read_shape
from budgerigar.training import checkpoint, loop, optimizer
from budgerigar.training.losses import CrossEntropy
from budgerigar.training.optimizer import Rates
from budgerigar.training.run import (
    EpochRecord,
    LoopSettings,
    StepRecord,
    Surroundings,
    Trainee,
    Validation,
)

STEPS = 50
TEXTS = 40
TARGETS = ("query", "key", "value", "attention_output", "intermediate", "output")
LOW_RANK = LowRank(alpha=16, dropout=0.05, rslora=False)
SETTINGS = LoopSettings(
    epochs=100,
    steps=STEPS,
    batch=4,
    accumulation=1,
    clip=1.0,
    averaging=0.0,
    loss=CrossEntropy(),
    class_weights=None,
    keep="best",
    early_stopping=None,
    checkpoint_seconds=1e9,
    checkpoint_steps=None,
    schedule="linear",
    warmup=0.1,
    seed=1,
)


@dataclass(frozen=True)
class Planned:
    """A run that a test asks for."""

    selection: Selection
    low_rank: LowRank = LOW_RANK
    name: str = "adamw"
    rate: float = 1e-3
    settings: LoopSettings = SETTINGS


@dataclass
class Kept:
    """What a run reported: records, its state after each step, and the adapters that it kept."""

    steps: list[StepRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    states: list[dict[str, torch.Tensor]] = field(default_factory=list)
    adapters: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        return [record.loss for record in self.steps]


@pytest.fixture(scope="module")
def base(tiny) -> paths.Base:
    found = checkpoints.locate(str(tiny), None, weights=True)
    shape = read_shape(found, 4)
    return paths.Base(found, shape, 4, "float32", torch.device("cpu"), "tiny")


@pytest.fixture(scope="module")
def examples() -> tuple[PackedTexts, np.ndarray]:
    """Texts whose first word tells their class."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 4, TEXTS)
    lengths = draw.integers(3, 20, TEXTS)
    ids = [
        np.r_[0, 10 + label, draw.integers(20, 60, n - 2)]
        for label, n in zip(labels, lengths, strict=True)
    ]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return PackedTexts(np.concatenate(ids).astype(np.int32), offsets, cut=0), labels


def train(base, examples, planned, folder: Path, *, validate=None, resume=None):
    """Trains runs together; gives what each reported, its last state and its outcome."""
    texts, labels = examples
    starts = [paths.Start(one.selection, one.low_rank, one.settings.seed) for one in planned]
    encoders = paths.fresh_cohort(base, starts, Dropouts(0.1, 0.0, False), force_reference=False)
    kept = [Kept() for _ in planned]
    trainees = []
    for number, (one, encoder, own) in enumerate(zip(planned, encoders, kept, strict=True)):
        rates = Rates(one.rate, one.rate, {}, 1.0, 1.0, base.shape.depth)

        def log_step(record, own=own, encoder=encoder):
            own.steps.append(record)
            own.states.append(encoder.state())

        trainees.append(
            Trainee(
                encoder=encoder,
                optimizer=optimizer.build(encoder.trainables(), rates, one.name, {}, 0.01),
                settings=one.settings,
                around=Surroundings(
                    validate=validate or (lambda dry: Validation(1.0, 0.5, 0.5)),
                    log_step=log_step,
                    log_epoch=own.epochs.append,
                    keep=lambda own=own, encoder=encoder: own.adapters.append(encoder.state()),
                    checkpoints=folder / str(number),
                ),
            )
        )
    prepared = cohort.prepare(encoders, texts, "texts")
    outcomes = loop.train(trainees, prepared, labels, resume=resume)
    return kept, [encoder.state() for encoder in encoders], outcomes


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference of any value of two states."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def select(targets=("query", "value"), layers=(2, 3), rank=4, head="full") -> Selection:
    return Selection(tuple(targets), tuple(layers), rank, {}, "none", head)


@st.composite
def plans(draw) -> Planned:
    layers = draw(st.sets(st.integers(0, 3), min_size=1))
    targets = draw(st.sets(st.sampled_from(TARGETS), min_size=1))
    head = draw(st.sampled_from(["full", "output"]))
    return Planned(
        selection=select(sorted(targets), sorted(layers), draw(st.integers(1, 6)), head),
        low_rank=LowRank(16, draw(st.sampled_from([0.0, 0.1])), draw(st.booleans())),
        name=draw(st.sampled_from(["adamw", "rmsprop", "sgd", "adagrad"])),
        rate=draw(st.sampled_from([1e-4, 1e-3])),
        settings=replace(
            SETTINGS,
            batch=draw(st.integers(1, 7)),
            accumulation=draw(st.integers(1, 3)),
            clip=draw(st.sampled_from([None, 0.5])),
            schedule=draw(st.sampled_from(["linear", "cosine", "constant"])),
            seed=draw(st.integers(0, 5)),
        ),
    )


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(planned=st.lists(plans(), min_size=2, max_size=4))
def test_a_run_trains_in_a_cohort_as_alone(base, examples, tmp_path_factory, planned):
    folder = tmp_path_factory.mktemp("cohort")
    kept, states, _ = train(base, examples, planned, folder / "together")
    for number, (one, own, state) in enumerate(zip(planned, kept, states, strict=True)):
        (alone,), (expected,), _ = train(base, examples, [one], folder / f"alone{number}")
        assert len(own.losses) == STEPS
        assert own.losses == pytest.approx(alone.losses, abs=1e-4)
        assert apart(state, expected) < 1e-4


def test_the_same_cohort_gives_the_same_bytes(base, examples, tmp_path):
    planned = [Planned(select()), Planned(select(("output",), (1,)), name="rmsprop")]
    first, second = (train(base, examples, planned, tmp_path / str(n)) for n in range(2))
    for own, other in zip(first[0], second[0], strict=True):
        assert own.losses == other.losses
    for state, other in zip(first[1], second[1], strict=True):
        assert apart(state, other) == 0


def test_a_run_whose_loss_is_no_number_ends_alone(base, examples, tmp_path):
    wild = Planned(select(), name="sgd", rate=1e30, settings=replace(SETTINGS, clip=None))
    calm = Planned(select(), settings=replace(SETTINGS, seed=2))
    kept, states, outcomes = train(base, examples, [wild, calm, wild], tmp_path / "together")
    _, (expected,), _ = train(base, examples, [calm], tmp_path / "alone")
    assert [outcome.failure is None for outcome in outcomes] == [False, True, False]
    assert "the loss is" in str(outcomes[0].failure)
    assert "No epoch was finished" in str(outcomes[0].failure)
    assert len(kept[0].steps) < STEPS
    assert len(kept[1].steps) == STEPS
    assert all(math.isfinite(loss) for loss in kept[1].losses)
    assert apart(states[1], expected) < 1e-4


def test_a_run_that_stops_early_leaves_the_others(base, examples, tmp_path):
    patient = Planned(select(), settings=replace(SETTINGS, seed=2))
    hasty = Planned(select(), settings=replace(SETTINGS, early_stopping=1))
    kept, _, outcomes = train(base, examples, [hasty, patient], tmp_path)
    assert [outcome.stopped_early for outcome in outcomes] == [True, False]
    assert [len(own.epochs) for own in kept] == [2, 5]
    assert [len(own.steps) for own in kept] == [20, STEPS]


def test_runs_go_on_from_the_last_moment_that_all_have_kept(base, examples, tmp_path):
    """One run ends before the others, and one has lost its newest checkpoint."""
    often = replace(SETTINGS, checkpoint_steps=8)
    planned = [
        Planned(select(), settings=replace(often, steps=17)),
        Planned(select(rank=2), name="rmsprop", settings=replace(often, seed=2)),
        Planned(select(("key",), (3,)), settings=replace(often, seed=3, batch=7)),
    ]
    folders = [tmp_path / "first" / str(number) for number in range(3)]
    whole, expected, _ = train(base, examples, planned, tmp_path / "first")
    found = checkpoint.newest_common(folders)
    assert [one.position.step for one in found] == [17, STEPS, STEPS]
    newest = max(folders[1].glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    found = checkpoint.newest_common(folders)
    assert [one.position.step for one in found] == [17, 48, 48]
    kept, states, _ = train(base, examples, planned, tmp_path / "second", resume=found)
    assert [len(own.steps) for own in kept] == [0, 2, 2]
    for state, other in zip(states, expected, strict=True):
        assert apart(state, other) == 0
    assert kept[1].losses == whole[1].losses[48:]


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_checkpoints_are_written_by_the_clock(base, examples, seconds, tmp_path, monkeypatch):
    asked = Planned(select(), settings=replace(SETTINGS, steps=7, checkpoint_seconds=seconds))
    saved, save = [], checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda *about: [saved.append(about[1].step), save(*about)]
    )
    train(base, examples, [asked], tmp_path)
    assert saved == (list(range(1, 8)) if seconds == 0 else [7])


def test_without_a_common_moment_all_begin_anew(base, examples, tmp_path):
    train(base, examples, [Planned(select())], tmp_path)
    assert checkpoint.newest_common([tmp_path / "0"])[0] is not None
    assert checkpoint.newest_common([tmp_path / "0", tmp_path / "1"]) == [None, None]


def better_each_time(first: float = 0.1):
    """A validation that finds every epoch better than the one before."""
    accuracies = itertools.count(first, 0.001)
    return lambda dry: Validation(1.0, next(accuracies), 0.5)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_best_epoch_or_the_last_is_kept(base, examples, keep, tmp_path):
    scores = iter([0.0, 0.5, 0.9, 0.9, 0.7])

    def validate(dry) -> Validation:
        return Validation(1.0, next(scores), 0.0)

    asked = Planned(select(), settings=replace(SETTINGS, keep=keep, steps=40))
    (kept,), _, (outcome,) = train(base, examples, [asked], tmp_path, validate=validate)
    assert [epoch.best for epoch in kept.epochs] == [True, True, False, False]
    assert outcome.kept_epoch == {"best": 2, "last": 4}[keep]
    assert len(kept.adapters) == {"best": 2, "last": 4}[keep]


def test_the_average_is_kept_and_training_goes_on_without_it(base, examples, tmp_path):
    averaged = Planned(select(), settings=replace(SETTINGS, averaging=0.8))
    (plain,), (expected,), _ = train(base, examples, [Planned(select())], tmp_path / "plain")
    (own,), (state,), _ = train(
        base, examples, [averaged], tmp_path / "averaged", validate=better_each_time()
    )
    assert own.losses == plain.losses
    assert apart(state, expected) == 0
    assert len(own.adapters) == len(own.epochs) == 5
    average = None
    for step, weights in enumerate(own.states, 1):
        decay = min(0.8, (1 + step) / (10 + step))
        # What it begins with is not reported, and has no part left after 50 steps.
        before = average or weights
        average = {n: decay * before[n] + (1 - decay) * weights[n] for n in weights}
    assert apart(own.adapters[-1], average) < 1e-5
    assert apart(own.adapters[-1], state) > 1e-4


def test_an_average_goes_on_from_a_checkpoint(base, examples, tmp_path):
    planned = [
        Planned(select(), settings=replace(SETTINGS, averaging=0.9)),
        Planned(select(), name="rmsprop"),
    ]
    whole, _, _ = train(base, examples, planned, tmp_path / "first", validate=better_each_time())
    folders = [tmp_path / "first" / str(number) for number in range(2)]
    for folder in folders:
        newest = max(folder.glob("*.json"))
        newest.unlink()
    found = checkpoint.newest_common(folders)
    assert [one.position.step for one in found] == [40, 40]
    kept, _, _ = train(
        base, examples, planned, tmp_path / "second", validate=better_each_time(0.5), resume=found
    )
    for own, other in zip(kept, whole, strict=True):
        assert len(own.steps) == 10
        assert apart(own.adapters[-1], other.adapters[-1]) == 0
