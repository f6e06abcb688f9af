"""Trains one run: one loop for every engine.

The loop knows an encoder, packed examples and numbers; it is handed its validation,
its log and its way to keep the best adapter as functions. Everything it draws comes
from the seed and the position, so that a run stopped and resumed ends with the same
bytes as one that never stopped.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch.nn import functional as F

from budgerigar.console import Progress, note
from budgerigar.encoder import dropout
from budgerigar.encoder.interface import Encoder, Tokens
from budgerigar.errors import Interrupted, TrainingStopped
from budgerigar.training import checkpoint
from budgerigar.training.checkpoint import Position
from budgerigar.training.optimizer import schedule, set_rates


@dataclass(frozen=True)
class LoopSettings:
    """The loop's numbers; see the recipe's fields of the same names."""

    epochs: int
    steps: int | None
    batch: int
    accumulation: int
    clip: float | None
    label_smoothing: float
    class_weights: tuple[float, ...] | None
    early_stopping: int | None
    checkpoint_steps: int
    schedule: str
    warmup: float
    seed: int


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: mean loss of its texts, highest rate, gradient norm before clipping."""

    step: int
    epoch: int
    loss: float
    rate: float
    gradient_norm: float | None
    texts: int
    seconds: float


@dataclass(frozen=True)
class Validation:
    """Results on the validation texts."""

    loss: float
    accuracy: float
    macro_f1: float


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: mean training loss over its steps, and validation after it."""

    epoch: int
    step: int
    training_loss: float
    validation_loss: float
    validation_accuracy: float
    validation_macro_f1: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class Surroundings:
    """What the loop reports to.

    Attributes:
        validate: scores the validation texts; with True only a first batch of them, dry.
        log_step, log_epoch: take records.
        keep_best: writes the adapter as it is now.
        checkpoints: folder of checkpoints, inside the run's own.
    """

    validate: Callable[[bool], Validation]
    log_step: Callable[[StepRecord], None]
    log_epoch: Callable[[EpochRecord], None]
    keep_best: Callable[[], None]
    checkpoints: Path


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    steps: int
    best_epoch: int
    stopped_early: bool


def train(
    encoder: Encoder,
    examples: Tokens,
    labels: np.ndarray,
    optimizer: torch.optim.Optimizer,
    settings: LoopSettings,
    around: Surroundings,
    resume: checkpoint.Loaded | None = None,
) -> Outcome:
    """Trains from the start, or on from a checkpoint.

    Args:
        encoder: freshly made, or any: a checkpoint replaces its trainable state.
        examples: the training texts, prepared.
        labels: class of each, int64 `[B]`.
        optimizer: over the encoder's trainable parameters.
        settings: the numbers.
        around: validation, logs, the keeping of the best.
        resume: where to go on.

    Raises:
        TrainingStopped: when the loss is not finite; the best adapter so far is kept.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
    """
    run = _Run(encoder, examples, labels, optimizer, settings, around)
    torch.manual_seed(settings.seed)
    if resume is None:
        around.validate(True)
    else:
        encoder.load_state(resume.adapter())
        resume.restore(run.names, optimizer, run.scaler)
        run.at = resume.position
        note(f"resuming after step {run.at.step} of {run.total}")
    with _stop_requests() as stop, Progress("training", run.total, run.at.step) as bar:
        while not run.finished():
            run.epoch(bar, stop)
    return Outcome(run.at.step, int(run.at.best_epoch or 0) + 1, run.at.step < run.total)


class _Run:
    """The state of one training."""

    def __init__(
        self,
        encoder: Encoder,
        examples: Tokens,
        labels: np.ndarray,
        optimizer: torch.optim.Optimizer,
        settings: LoopSettings,
        around: Surroundings,
    ) -> None:
        self.encoder, self.examples, self.labels = encoder, examples, labels
        self.optimizer, self.settings, self.around = optimizer, settings, around
        self.at = Position()
        trainables = encoder.trainables()
        self.names = [one.name for one in trainables]
        self.tensors = [one.tensor for one in trainables]
        self.scaler = torch.amp.GradScaler(
            encoder.device.type, enabled=encoder.precision == "float16"
        )
        weights = settings.class_weights
        self.class_weights = (
            None if weights is None else torch.tensor(weights, device=encoder.device)
        )
        per_step = settings.batch * settings.accumulation
        self.steps_in_epoch = math.ceil(len(examples) / per_step)
        self.total = settings.steps or settings.epochs * self.steps_in_epoch

    def finished(self) -> bool:
        """Whether all steps are taken and validated, or patience has run out."""
        if self.at.step_in_epoch > 0:
            return False
        patience, best = self.settings.early_stopping, self.at.best_epoch
        idle = 0 if best is None else self.at.epoch - 1 - best
        return self.at.step >= self.total or (patience is not None and idle >= patience)

    def epoch(self, bar: Progress, stop: _StopRequest) -> None:
        """The rest of the epoch in progress, and its validation."""
        start = time.monotonic()
        order = np.random.default_rng([self.settings.seed, self.at.epoch]).permutation(
            len(self.examples)
        )
        texts = 0
        while self.at.step_in_epoch < self.steps_in_epoch and self.at.step < self.total:
            record = self._step(order)
            texts += record.texts
            pace = texts / (time.monotonic() - start)
            bar.update(
                record.step,
                f"epoch {record.epoch}  loss {record.loss:.4f}  rate {record.rate:.2e}"
                f"  {pace:.0f} texts/s",
            )
            if stop.requested or record.step % self.settings.checkpoint_steps == 0:
                self.save()
            if stop.requested:
                run = shlex.quote(str(self.around.checkpoints.parent))
                raise Interrupted(
                    f"stopped at step {record.step} of {self.total}",
                    remedy=f"a checkpoint is written; budgie train --resume {run} goes on",
                )
        self._finish_epoch(time.monotonic() - start)

    def save(self) -> None:
        """Writes a checkpoint of this moment."""
        checkpoint.save(
            self.around.checkpoints,
            self.at,
            self.names,
            self.encoder.state(),
            self.optimizer,
            self.scaler,
        )

    def _step(self, order: np.ndarray) -> StepRecord:
        start = time.monotonic()
        settings, at = self.settings, self.at
        size = settings.batch * settings.accumulation
        rows = order[at.step_in_epoch * size : (at.step_in_epoch + 1) * size]
        set_rates(self.optimizer, schedule(settings.schedule, at.step, self.total, settings.warmup))
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for first in range(0, len(rows), settings.batch):
            drawn = dropout.stream(settings.seed, at.step, first)
            part = self._loss(rows[first : first + settings.batch], rows, drawn)
            torch.autograd.backward(self.scaler.scale(part))
            loss += float(part.detach())
        if not math.isfinite(loss):
            raise self._ran_away(f"the loss is {loss} at step {at.step + 1} (epoch {at.epoch + 1})")
        norm = self._update()
        self.at = replace(
            at,
            step=at.step + 1,
            step_in_epoch=at.step_in_epoch + 1,
            loss_sum=at.loss_sum + loss,
        )
        record = StepRecord(
            step=self.at.step,
            epoch=at.epoch + 1,
            loss=loss,
            rate=max(group["lr"] for group in self.optimizer.param_groups),
            gradient_norm=norm,
            texts=len(rows),
            seconds=round(time.monotonic() - start, 4),
        )
        self.around.log_step(record)
        return record

    def _loss(
        self, rows: np.ndarray, step_rows: np.ndarray, drawn: np.random.Generator
    ) -> torch.Tensor:
        """This batch's share of the step's mean loss over `step_rows`."""
        logits_BC = self.encoder.logits(self.examples, rows, drawn)
        labels_B = torch.from_numpy(self.labels[rows]).to(logits_BC.device)
        total = F.cross_entropy(
            logits_BC,
            labels_B,
            weight=self.class_weights,
            reduction="sum",
            label_smoothing=self.settings.label_smoothing,
        )
        if self.class_weights is None:
            return total / len(step_rows)
        return total / self.class_weights[torch.from_numpy(self.labels[step_rows])].sum()

    def _ran_away(self, what: str) -> TrainingStopped:
        """Says that the numbers are no longer finite, and what is left."""
        is_kept = self.at.best_epoch is not None
        kept = "the best adapter is kept" if is_kept else "no epoch was finished"
        return TrainingStopped(
            what,
            why="the weights have run away",
            remedy=f"{kept}; lower the learning rates, or use precision=float32",
        )

    def _update(self) -> float | None:
        """Clips and steps; gives the gradient's norm, None where it was not finite."""
        self.scaler.unscale_(self.optimizer)
        clip = self.settings.clip if self.settings.clip is not None else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.tensors, clip))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm if math.isfinite(norm) else None

    def _finish_epoch(self, seconds: float) -> None:
        result = self.around.validate(False)
        at = self.at
        if not math.isfinite(result.loss):
            raise self._ran_away(f"the validation loss is {result.loss} after epoch {at.epoch + 1}")
        better = (result.accuracy, -result.loss) > (at.best_accuracy, -at.best_loss)
        if better:
            # Before the checkpoint: a run killed between the two trains this epoch again.
            self.around.keep_best()
            at = replace(
                at, best_epoch=at.epoch, best_accuracy=result.accuracy, best_loss=result.loss
            )
        record = EpochRecord(
            epoch=at.epoch + 1,
            step=at.step,
            training_loss=at.loss_sum / at.step_in_epoch,
            validation_loss=result.loss,
            validation_accuracy=result.accuracy,
            validation_macro_f1=result.macro_f1,
            best=better,
            seconds=round(seconds, 3),
        )
        self.around.log_epoch(record)
        self.at = replace(at, epoch=at.epoch + 1, step_in_epoch=0, loss_sum=0.0)
        self.save()


class _StopRequest:
    """Set by a signal, read between steps, so that no step is cut in two."""

    requested = False


@contextlib.contextmanager
def _stop_requests() -> Iterator[_StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one acts at once."""
    stop = _StopRequest()

    def ask(number: int, _: FrameType | None) -> None:
        stop.requested = True
        note("stopping after this step; once more to stop at once")
        signal.signal(number, previous[number])

    previous: dict[int, signal._HANDLER] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, ask)
    except ValueError:
        # Signals belong to the main thread; elsewhere the caller's own handling stands.
        pass
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
