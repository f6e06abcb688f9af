"""Rounds as graphs in the training loop; on the CPU a stand-in computes what a graph replays."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import pytest
import test_loop
import torch
from test_loop import SETTINGS, STEPS, Planned, apart, base, examples, select, train
from torch.nn import functional as F

from budgerigar.encoder import fixed, frozen, fused
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.lora import LowRank
from budgerigar.training import checkpoint, graphs, loop

__all__ = ["base", "examples"]
if obstacle := fused.obstacle("cpu"):
    pytest.skip(f"the CPU cannot stand in for a GPU here: {obstacle}", allow_module_level=True)
STILL = LowRank(alpha=16, dropout=0.0, rslora=False)
CLOSE = 1e-4
"""After many steps in batches of other shapes."""


class Replayed:
    """Stands in for a graph: computes the round anew."""

    def __init__(self, compute, runs):
        self.compute, self.figures = compute, torch.zeros(2 * runs)

    def replay(self) -> None:
        self.figures.copy_(self.compute())


@pytest.fixture
def still(base, monkeypatch):
    """A base without dropout, whose stream is another one in graphs."""
    monkeypatch.setattr(test_loop, "Dropouts", lambda *rates: Dropouts(0.0, 0.0, prefix=False))
    return base


@pytest.fixture
def rounds(monkeypatch):
    """Records on the CPU too; how each round came about, and with how many runs."""
    seen: list[tuple[str, int]] = []
    step = graphs.GraphedRounds.step

    def record(self, batch):
        made = Replayed(lambda: self._compute(batch), len(self._steps))
        return made, made.figures

    def counted(self, rows_NB, seed):
        is_known = self._texts.shape(rows_NB) in self._recorded
        seen.append(("replayed" if is_known else "computed", len(rows_NB)))
        return step(self, rows_NB, seed)

    monkeypatch.setattr(loop, "RECORDS", ("cpu",))
    monkeypatch.setattr(fixed, "ROWS", 16)
    # Few, large pieces, and plain attention: an interpreter takes as long for small ones.
    monkeypatch.setattr(fixed, "TILE", 256)
    monkeypatch.setattr(fused, "NORM_ROWS", 256)
    monkeypatch.setattr(fused, "attend", plain_attend)
    monkeypatch.setattr(fused, "attend_first", plain_attend_first)
    monkeypatch.setattr(frozen, "KEEP", ("cpu",))
    monkeypatch.setattr(frozen, "has_room", lambda kept, size: True)
    monkeypatch.setattr(graphs.GraphedRounds, "_record", record)
    monkeypatch.setattr(graphs, "_tensor_cores", contextlib.nullcontext)
    monkeypatch.setattr(graphs.GraphedRounds, "step", counted)
    return seen


def plain_attend(qkv_T3D, ends, heads, longest):
    contexts = []
    for own in qkv_T3D.tensor_split(ends[1:].tolist()):
        query, key, value = own.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
        contexts.append(F.scaled_dot_product_attention(query, key, value).transpose(0, 1))
    return torch.cat(contexts).flatten(1)


def plain_attend_first(features_TE, queries_BHE, ends, longest, scale):
    texts = features_TE.tensor_split(ends[1:].tolist())[:-1]
    return torch.stack(
        [
            (own_HE @ own.mT * scale).softmax(-1) @ own
            for own, own_HE in zip(texts, queries_BHE, strict=True)
        ]
    )


def planned(**changes) -> Planned:
    name, rate = changes.pop("name", "adamw"), changes.pop("rate", 1e-3)
    return Planned(select(), STILL, name, rate, replace(SETTINGS, **changes))


def without_graphs(monkeypatch) -> None:
    monkeypatch.setattr(loop, "RECORDS", ())


@pytest.mark.parametrize("batch", [4, 7])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 1.0)])
def test_runs_train_as_without_graphs(
    still, examples, rounds, batch, weights, tmp_path, monkeypatch
):
    """The last batch of an epoch is shorter where seven do not divide the texts."""
    asked = [
        planned(batch=batch, class_weights=weights, seed=1),
        planned(
            batch=batch, class_weights=weights, seed=2, clip=None, name="rmsprop", averaging=0.8
        ),
    ]
    kept, states, _ = train(still, examples, asked, tmp_path / "graphs")
    assert len(rounds) == STEPS
    assert sum(how == "replayed" for how, _ in rounds) > STEPS / 2
    without_graphs(monkeypatch)
    expected, others, _ = train(still, examples, asked, tmp_path / "plain")
    assert len(rounds) == STEPS
    for own, other in zip(kept, expected, strict=True):
        assert own.losses == pytest.approx(other.losses, abs=CLOSE)
        norms = [[record.gradient_norm for record in one.steps] for one in (own, other)]
        assert norms[0] == pytest.approx(norms[1], rel=0.1)
        assert apart(own.adapters[-1], other.adapters[-1]) < CLOSE
    for state, other in zip(states, others, strict=True):
        assert apart(state, other) < CLOSE


def test_a_run_that_stops_early_leaves_the_others(still, examples, rounds, tmp_path):
    asked = [planned(early_stopping=1), planned(seed=2)]
    kept, _, outcomes = train(still, examples, asked, tmp_path)
    assert [outcome.stopped_early for outcome in outcomes] == [True, False]
    assert [len(own.steps) for own in kept] == [20, STEPS]
    assert [runs for _, runs in rounds] == [2] * 20 + [1] * (STEPS - 20)


def test_a_run_whose_numbers_run_away_ends_alone(still, examples, rounds, tmp_path, monkeypatch):
    wild, calm = planned(rate=1e30, clip=None), planned(seed=2)
    kept, states, outcomes = train(still, examples, [wild, calm], tmp_path / "graphs")
    assert [outcome.failure is None for outcome in outcomes] == [False, True]
    assert len(kept[1].losses) == STEPS
    assert all(math.isfinite(loss) for loss in kept[1].losses)
    without_graphs(monkeypatch)
    _, (expected,), _ = train(still, examples, [calm], tmp_path / "alone")
    assert apart(states[1], expected) < CLOSE
    # Its end was seen a round late, and is told as if it had been seen at once.
    known, _, (outcome,) = train(still, examples, [wild], tmp_path / "wild")
    assert (outcomes[0].steps, outcomes[0].failure.what) == (outcome.steps, outcome.failure.what)
    assert len(kept[0].steps) == len(known[0].steps) == outcome.steps
    positions = [
        checkpoint.newest_common([tmp_path / folder / "0"])[0].position
        for folder in ("graphs", "wild")
    ]
    assert [(one.step, one.step_in_epoch) for one in positions] == 2 * [
        (outcome.steps, outcome.steps)
    ]


def test_a_run_goes_on_from_a_checkpoint(still, examples, rounds, tmp_path):
    asked = [planned(checkpoint_steps=8, name=name) for name in ("adamw", "rmsprop")]
    _, expected, _ = train(still, examples, asked, tmp_path / "first")
    for number in range(2):
        newest = max((tmp_path / "first" / str(number)).glob("*.safetensors"))
        newest.write_bytes(newest.read_bytes()[:-1])
    found = checkpoint.newest_common([tmp_path / "first" / str(n) for n in range(2)])
    assert [one.position.step for one in found] == [48, 48]
    _, states, _ = train(still, examples, asked, tmp_path / "second", resume=found)
    for state, other in zip(states, expected, strict=True):
        assert apart(state, other) == 0


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ([{"accumulation": 2}], "accumulation has steps of several batches"),
        ([{"batch": 4}, {"batch": 5}], "the runs have batches of different sizes"),
        ([{"name": "sgd"}, {}], "the step of sgd cannot be recorded"),
    ],
)
def test_what_cannot_be_recorded_is_computed_and_told(
    asked, why, still, examples, rounds, tmp_path, capsys
):
    kept, _, _ = train(still, examples, [planned(**one) for one in asked], tmp_path)
    assert all(own.steps for own in kept)
    assert rounds == []
    assert f"kernel by kernel, which is slower: {why}" in capsys.readouterr().err


def test_without_kernels_nothing_is_recorded(
    still, examples, rounds, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(fused, "obstacle", lambda device: "Triton is not installed")
    train(still, examples, [planned()], tmp_path)
    assert rounds == []
    assert "kernel by kernel, which is slower: Triton is" in capsys.readouterr().err
