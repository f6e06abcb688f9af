"""Trains one run or a cohort: one loop for every engine.

The loop knows encoders, packed examples and numbers; it is handed each run's validation,
its log and its way to keep an adapter as functions. In a round every run of a cohort
takes one step, its rows computed together with the others'. All else is each run's own:
order of texts, dropout, loss, clipping, optimizer, schedule, best epoch and failure. What
a run draws comes from its seed and position, so that runs stopped and resumed end with the
same bytes as runs that never stopped. In graphs on a GPU the dropout of all runs is one stream,
from the first one's seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from budgerigar.console import Progress, note
from budgerigar.encoder import cohort
from budgerigar.encoder.fixed import DeviceTexts
from budgerigar.encoder.interface import Tokens
from budgerigar.errors import Interrupted
from budgerigar.training import checkpoint, graphs
from budgerigar.training.run import Outcome, Run, StepRecord, Taken, Trainee
from budgerigar.training.stops import stop_requests

RECORDS = ("cuda",)
"""Devices on which rounds are recorded as graphs."""


def train(
    trainees: Sequence[Trainee],
    examples: Tokens,
    labels: np.ndarray,
    *,
    resume: Sequence[checkpoint.Loaded | None] | None = None,
    resume_with: str = "",
) -> list[Outcome]:
    """Trains runs on the same texts together, from the start or on from checkpoints.

    Args:
        trainees: the runs.
        examples: the training texts, prepared.
        labels: class of each, int64 `[B]`.
        resume: where each run goes on, all at one moment of the cohort; None starts.
        resume_with: the command that goes on after a stop, to be told then.

    Returns:
        Each run's outcome. A run whose numbers run away ends alone, its last kept adapter there.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with checkpoints written.
        TrainingStopped: when a run is so short that warm-up is all of it.
    """
    runs = [Run(trainee, examples, labels) for trainee in trainees]
    rounds = _Rounds(runs, examples, labels)
    torch.manual_seed(trainees[0].settings.seed)
    for run, found in zip(runs, resume or [None] * len(runs), strict=True):
        if found is None:
            run.around.validate(True)
        else:
            run.go_on(found)
    steps, total = sum(run.at.step for run in runs), sum(run.total for run in runs)
    if steps:
        furthest = max(runs, key=lambda run: run.at.step)
        note(f"resuming after step {furthest.at.step} of {furthest.total}")
    texts, shown, start = 0, "", time.monotonic()
    with stop_requests() as stop, Progress("training", total, steps) as bar:
        while active := [run for run in runs if not run.at.ended]:
            records = rounds.take(active)
            stopping = stop.requested
            halts = stopping or any(run.epoch_is_over() or run.wants_checkpoint() for run in active)
            if halts:
                records += rounds.settle()
            texts += sum(record.texts for record in records)
            pace = texts / (time.monotonic() - start)
            shown = _figures(records[-len(active) :], pace) or shown
            bar.update(sum(run.at.step for run in runs), shown)
            for run in active:
                if run.epoch_is_over():
                    run.finish_epoch()
            if halts:
                # All at one moment: a cohort goes on together from where each has one.
                for run in active:
                    run.save()
            if stopping and any(not run.at.ended for run in runs):
                furthest = max(runs, key=lambda run: run.at.step)
                raise Interrupted(
                    f"stopped at step {furthest.at.step} of {furthest.total}",
                    remedy=f"a checkpoint is written; {resume_with} goes on",
                )
    return [run.outcome() for run in runs]


@dataclass(frozen=True)
class _Waiting:
    """A round whose figures are to be read: the runs' steps, and when it began."""

    taken: Sequence[tuple[Run, Taken]]
    figures: graphs.Figures
    start: float


class _Rounds:
    """Rounds over the training texts, on a GPU as graphs where that is possible."""

    def __init__(self, runs: Sequence[Run], examples: Tokens, labels: np.ndarray) -> None:
        self._examples, self._labels = examples, labels
        self._texts: DeviceTexts | None = None
        self._graphs: graphs.GraphedRounds | None = None
        self._graphed: list[Run] = []
        self._waiting: _Waiting | None = None
        self._settled = 0.0
        if runs[0].encoder.device.type in RECORDS:
            found = self._device_texts(runs)
            if isinstance(found, str):
                note(f"rounds are computed kernel by kernel, which is slower: {found}")
            else:
                self._texts = found

    def _device_texts(self, runs: Sequence[Run]) -> DeviceTexts | str:
        if any(run.settings.accumulation > 1 for run in runs):
            return "accumulation has steps of several batches"
        if any(run.scaler.is_enabled() for run in runs):
            return "float16 has a loss scaler"
        if len({run.settings.batch for run in runs}) > 1:
            return "the runs have batches of different sizes"
        return graphs.texts_for([run.graphed_step() for run in runs], self._examples)

    def take(self, active: list[Run]) -> list[StepRecord]:
        """One optimizer step of every run; one whose loss is no number ends without it.

        A graph's figures are read when the next one is on its way, so that the GPU need not wait:
        the records are those of the round before, if any waits.
        """
        start = time.monotonic()
        for run in active:
            run.begin_step()
        if self._texts is not None and self._graphed != active:
            self._graphed = active
            steps = [run.graphed_step() for run in active]
            self._graphs = graphs.GraphedRounds(steps, self._texts, self._labels)
        rows = [run.rows for run in active]
        if self._graphs is not None:
            seed = int(active[0].dropout_stream(0).integers(2**63))
            figures = self._graphs.step(np.stack(rows), seed)
            taken = [(run, run.advance()) for run in active]
            records = self.settle()
            self._waiting = _Waiting(taken, figures, start)
            return records
        self._one_by_one(active)
        seconds = self._seconds_since(start)
        return [record for run in active if (record := run.end_step(seconds))]

    def settle(self) -> list[StepRecord]:
        """Reads the figures that wait, if any."""
        if self._waiting is None:
            return []
        waiting, self._waiting = self._waiting, None
        found = waiting.figures.read()
        seconds = self._seconds_since(waiting.start)
        return [
            record
            for (run, step), (loss, norm) in zip(waiting.taken, found, strict=True)
            if (record := run.settle(step, loss, norm, seconds))
        ]

    def _seconds_since(self, start: float) -> float:
        """Since a round began, or since the one before was done where that was later."""
        now = time.monotonic()
        seconds, self._settled = now - max(start, self._settled), now
        return seconds

    def _one_by_one(self, active: Sequence[Run]) -> None:
        """The same, batch by batch and kernel by kernel."""
        for run in active:
            run.optimizer.zero_grad(set_to_none=True)
        while waiting := [(run, batch) for run in active if (batch := run.next_batch())]:
            batches = [batch for _, batch in waiting]
            for part in cohort.passes(self._examples, batches):
                logits = cohort.logits(self._examples, batches[part])
                losses = [
                    loss
                    for (run, batch), logits_BC in zip(waiting[part], logits, strict=True)
                    if (loss := run.loss(batch, logits_BC)) is not None
                ]
                if losses:
                    torch.autograd.backward(losses)
        for run in active:
            run.update()


def _figures(records: Sequence[StepRecord], pace: float) -> str:
    """The moment's figures for the progress display."""
    if not records:
        return ""
    loss = float(np.mean([record.loss for record in records]))
    if len(records) > 1:
        return f"{len(records)} runs  mean loss {loss:.4f}  {pace:.0f} texts/s"
    (record,) = records
    return f"epoch {record.epoch}  loss {loss:.4f}  rate {record.rate:.2e}  {pace:.0f} texts/s"
