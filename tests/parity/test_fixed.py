"""Batches of fixed shapes, as CUDA graphs hold them: the same numbers as batches of any shape."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import SIX, along_a_direction, base_of, largest_difference, texts_of

from budgerigar.encoder import cohort, engine, fused, paths
from budgerigar.encoder.budget import Selection
from budgerigar.encoder.cohort import Batch
from budgerigar.encoder.device_shares import TILE
from budgerigar.encoder.dropout import Dropouts
from budgerigar.encoder.fixed import DeviceTexts, FixedBatch
from budgerigar.encoder.frozen import PrefixedTexts
from budgerigar.encoder.lora import LowRank
from budgerigar.training import graphs, optimizer
from budgerigar.training.optimizer import Rates

__all__ = ["base_of"]
if obstacle := fused.obstacle("cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip(obstacle, allow_module_level=True)
NO_DROPOUT = Dropouts(0.0, 0.0, prefix=False)
ROWS_NB = np.array([[0, 3], [1, 2], [5, 4]])


def runs_over(base, targets, ranks, dropouts=NO_DROPOUT, rate=0.0, layers=(2, 3)):
    """Runs whose updates are far from zero, and the texts with their frozen prefix; `targets` and
    `layers` are those of all runs, or a list of each one's."""
    of_runs = [one if isinstance(one, list) else [one] * len(ranks) for one in (targets, layers)]
    starts = [
        paths.Start(Selection(own, lay, rank, {}, "none", "full"), LowRank(16, rate, False), n)
        for n, (own, lay, rank) in enumerate(zip(*of_runs, ranks, strict=True))
    ]
    runs = paths.fresh_cohort(base, starts, dropouts, force_reference=False)
    for number, run in enumerate(runs):
        generator = torch.Generator().manual_seed(number)
        run.load_state(
            {
                name: torch.randn(tensor.shape, generator=generator) * 0.1
                if name.endswith("lora_B.weight")
                else tensor
                for name, tensor in run.state().items()
            }
        )
    return runs, cohort.prepare(runs, texts_of([20, 7, 33, 5, 40, 9]), "texts")


def fixed_batch(runs, prepared) -> FixedBatch:
    rows = prepared.rows
    if not isinstance(rows, torch.Tensor):
        rows = torch.from_numpy(np.array(rows)).to(runs[0].device)
    texts = DeviceTexts(prepared, rows)
    batch = FixedBatch(texts, texts.shape(ROWS_NB))
    batch.rows_NB.copy_(torch.from_numpy(ROWS_NB))
    return batch


def gradients(runs, logits):
    for run in runs:
        for one in run.trainables():
            one.tensor.grad = None
    torch.autograd.backward([(found**2).sum() for found in logits])
    return [{one.name: one.tensor.grad.clone() for one in run.trainables()} for run in runs]


@pytest.mark.parametrize("family", ["roberta", "bert", "distilbert"])
@pytest.mark.parametrize("targets", [("query", "value"), SIX])
@pytest.mark.parametrize("ranks", [(4, 4, 4), (4, 2, 4), (4, 4, 2), (2, 4, 4), (12, 12, 12)])
def test_logits_and_gradients(base_of, family, targets, ranks):
    check_logits_and_gradients(*runs_over(base_of(family), targets, ranks))


@pytest.mark.parametrize(
    "targets",
    [
        [("key",), ("key",), ("value",)],
        [("query", "output"), ("value",), ("value",)],
        [SIX, SIX, ("query",)],
        [("attention_output",), ("key", "value"), ("key", "value")],
    ],
)
def test_logits_and_gradients_of_runs_that_train_other_matrices(base_of, targets):
    check_logits_and_gradients(*runs_over(base_of("roberta"), targets, (4, 4, 4)))


@pytest.mark.parametrize("targets", [("query", "value"), SIX])
def test_nobody_reads_what_nobody_wrote(base_of, targets, monkeypatch):
    """What is allocated is no number until it is written."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(3).isnan().all()
        check_logits_and_gradients(*runs_over(base_of("roberta"), targets, (4, 2, 4)))
    finally:
        torch.use_deterministic_algorithms(False)


def check_logits_and_gradients(runs, prepared):
    """Those of batches of any shape."""
    batches = [Batch(run, own, None) for run, own in zip(runs, ROWS_NB, strict=True)]
    expected = cohort.logits(prepared, batches)
    expected_gradients = gradients(runs, expected)
    # Nothing drops out, but one stream for all has what is alike computed together.
    stream = torch.Generator(runs[0].device)
    found = engine.fixed_logits(fixed_batch(runs, prepared), runs, stream)
    for logits, wanted in zip(found, expected, strict=True):
        assert float((logits - wanted).detach().abs().max()) < 1e-5
    for own, wanted in zip(gradients(runs, found), expected_gradients, strict=True):
        largest = max(float(gradient.abs().max()) for gradient in wanted.values())
        assert largest_difference(own, wanted) < 1e-5 * max(1.0, largest)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=6, max_size=6),
    rows=st.lists(st.permutations(range(6)), min_size=1, max_size=5),
)
def test_where_texts_and_runs_are(lengths, rows):
    """Texts one after another with what their prefix gave; every row of a run in one of its
    tiles."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    content = torch.arange(int(offsets[-1]))[:, None].repeat(1, 4)
    prefixed = PrefixedTexts(texts_of(lengths), 2, content, offsets)
    texts, rows_NB = DeviceTexts(prefixed, content), np.array(rows)[:, :3]
    shape = texts.shape(rows_NB)
    batch = FixedBatch(texts, shape)
    batch.rows_NB.copy_(torch.from_numpy(rows_NB))
    hidden_TD, where, shares = batch.read()
    ends = np.concatenate([[0], np.cumsum(np.array(lengths)[rows_NB])])
    assert where.ends_S.tolist() == ends.tolist()
    assert where.first_B.tolist() == ends[:-1].tolist()
    assert where.longest >= max(np.diff(ends))
    sources = [np.arange(offsets[row], offsets[row + 1]) for row in rows_NB.ravel()]
    assert hidden_TD[: ends[-1], 0].tolist() == np.concatenate(sources).tolist()
    assert len(hidden_TD) == shape.rows >= ends[-1]
    assert shares.ends.tolist() == ends[::3].tolist()
    found = [[] for _ in rows]
    for run, first, last in shares.tiles_W3.tolist():
        if run >= 0:
            assert 0 < last - first <= TILE
            found[run] += range(first, last)
    assert found == [list(range(*one)) for one in itertools.pairwise(ends[::3].tolist())]


@pytest.mark.parametrize("layers", [(2, 3), [(2, 3), (3,), (2, 3)], [(), (3,), (2, 3)]])
def test_gradients_under_dropout_are_those_of_the_function_computed(base_of, layers):
    """Along a random direction, against a difference quotient with the same masks; a run drops
    out from its lowest layer on."""
    runs, prepared = runs_over(
        base_of("roberta"), ("all",), (3, 3, 3), Dropouts(0.2, 0.0, prefix=False), 0.2, layers
    )
    batch = fixed_batch(runs, prepared)
    trained = [one.tensor for run in runs for one in run.trainables()]

    def loss(seed: int = 3) -> torch.Tensor:
        stream = torch.Generator(runs[0].device).manual_seed(seed)
        return torch.cat(engine.fixed_logits(batch, runs, stream)).square().mean()

    assert loss().item() == loss().item() != loss(4).item()
    slope, quotient = along_a_direction(loss, trained, 1e-4)
    assert quotient == pytest.approx(slope, rel=0.02)


def test_a_run_drops_out_from_its_lowest_layer_on(base_of):
    """With what its layers draw, a run that trains none, beside runs that train some, has the
    logits of one without dropout but for its head's."""
    logits = []
    for rate in (0.0, 0.3):
        dropouts = Dropouts(rate, 0.0, prefix=False)
        runs, prepared = runs_over(
            base_of("distilbert"), ("all",), (3, 3, 3), dropouts, 0.0, [(2, 3), (), (3,)]
        )
        encoder = runs[0].base.encoder
        encoder.numbers = replace(encoder.numbers, head_dropout=0.0)
        stream = torch.Generator(runs[0].device).manual_seed(1)
        logits.append(engine.fixed_logits(fixed_batch(runs, prepared), runs, stream))
    differences = [
        float((one - other).detach().abs().max()) for one, other in zip(*logits, strict=True)
    ]
    assert differences[0] > 1e-3 < differences[2]
    assert differences[1] == 0


@pytest.mark.parametrize("targets", [("query",), ("query", "value"), SIX])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_run_whose_numbers_run_away_leaves_the_others(base_of, targets, bad):
    runs, prepared = runs_over(base_of("roberta"), targets, (4, 4, 4))
    with torch.no_grad():
        for one in runs[bad].trainables():
            if one.factor == "B":
                one.tensor.fill_(float("nan"))
    stream = torch.Generator(runs[0].device)
    logits = engine.fixed_logits(fixed_batch(runs, prepared), runs, stream)
    found = gradients(runs, logits)
    for number, (own, gradient) in enumerate(zip(logits, found, strict=True)):
        is_whole = bool(own.isfinite().all())
        are_whole = all(bool(one.isfinite().all()) for one in gradient.values())
        assert (is_whole, are_whole) == ((False, False) if number == bad else (True, True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ["adamw", "rmsprop"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("layers", [(2, 3), [(2, 3), (3,), (2, 3)]])
def test_replayed_rounds_train_as_rounds_that_are_computed(
    base_of, name, dropout, layers, monkeypatch
):
    """The same rounds with graphs and, as if every one were the first of its shape, without."""
    ended = []
    for replays in (True, False):
        runs, prepared = runs_over(
            base_of("roberta", "bfloat16"),
            ("query", "value"),
            (4, 4, 4),
            Dropouts(dropout, 0.0, prefix=False),
            dropout,
            layers,
        )
        steps = [
            graphs.Step(
                encoder=run,
                optimizer=optimizer.build(
                    run.trainables(), Rates(1e-3, 1e-3, {}, 1.0, 1.0, 4), name, {}, 0.01
                ),
                tensors=[one.tensor for one in run.trainables()],
                loss=torch.nn.functional.cross_entropy,
                clip=1.0,
                pace=0,
            )
            for run in runs
        ]
        texts = graphs.texts_for(steps, prepared)
        assert not isinstance(texts, str)
        rounds = graphs.GraphedRounds(steps, texts, np.array([0, 1, 2, 3, 4, 0]))
        figures = []
        for number in range(12):
            if not replays:
                rounds._recorded.clear()
            for one in steps:
                optimizer.set_rates(one.optimizer, 1.0 - number / 12)
            rows_NB = np.random.default_rng(number).permutation(6).reshape(3, 2)
            figures.append(rounds.step(rows_NB, number).read())
        ended.append((figures, [run.state() for run in runs]))
    (replayed, states), (computed, expected) = ended
    assert np.allclose(replayed, computed, rtol=0.02, atol=1e-3)
    for state, wanted in zip(states, expected, strict=True):
        assert largest_difference(state, wanted) < 2e-3
