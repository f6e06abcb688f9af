"""One run in training: what it is handed, what it reports, and its state between steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from budgerigar.encoder import dropout
from budgerigar.encoder.cohort import Batch
from budgerigar.encoder.interface import Encoder, Tokens
from budgerigar.errors import TrainingStopped
from budgerigar.training import checkpoint, graphs
from budgerigar.training.checkpoint import Position
from budgerigar.training.losses import Loss
from budgerigar.training.optimizer import schedule, set_rates


@dataclass(frozen=True)
class LoopSettings:
    """The loop's numbers; see the recipe's fields of the same names."""

    epochs: int
    steps: int | None
    batch: int
    accumulation: int
    clip: float | None
    averaging: float
    loss: Loss
    class_weights: tuple[float, ...] | None
    keep: Literal["best", "last"]
    early_stopping: int | None
    checkpoint_seconds: float
    checkpoint_steps: int | None
    schedule: str
    warmup: float
    seed: int


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: mean loss of its texts, highest rate, gradient norm before clipping,
    seconds of its cohort's round: since it began, or since the one before was done."""

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
class Taken:
    """A step that was taken; a GPU may still be computing its figures."""

    step: int
    epoch: int
    rate: float
    texts: int


def _never(record: EpochRecord) -> bool:
    return False


@dataclass(frozen=True)
class Surroundings:
    """What the loop reports to.

    Attributes:
        validate: scores the validation texts; with True only a first batch of them, dry.
        log_step, log_epoch: take records.
        keep: writes the adapter as it is now, in place of the one before.
        checkpoints: folder of checkpoints, inside the run's own.
        gives_up: whether the run ends after an epoch, before its time.
    """

    validate: Callable[[bool], Validation]
    log_step: Callable[[StepRecord], None]
    log_epoch: Callable[[EpochRecord], None]
    keep: Callable[[], None]
    checkpoints: Path
    gives_up: Callable[[EpochRecord], bool] = _never


@dataclass(frozen=True)
class Trainee:
    """A run to train.

    Attributes:
        encoder: freshly made, or any: a checkpoint replaces its trainable state.
        optimizer: over the encoder's trainable parameters.
        settings: the numbers.
        around: validation, logs, the keeping of an adapter.
    """

    encoder: Encoder
    optimizer: torch.optim.Optimizer
    settings: LoopSettings
    around: Surroundings


@dataclass(frozen=True)
class Outcome:
    """How a run's training ended; `failure` says why it ended badly, if it did."""

    steps: int
    kept_epoch: int
    stopped_early: bool
    failure: TrainingStopped | None = None


class Run:
    """The state of one training."""

    def __init__(self, trainee: Trainee, examples: Tokens, labels: np.ndarray) -> None:
        self.encoder, self.optimizer = trainee.encoder, trainee.optimizer
        self.settings, self.around = trainee.settings, trainee.around
        self.labels = labels
        self.at = Position()
        trainables = self.encoder.trainables()
        self.names = [one.name for one in trainables]
        self.tensors = [one.tensor for one in trainables]
        # What the optimizer moves, and behind it, where the recipe asks for one, its average.
        averages = trainables if self.settings.averaging else []
        self.averages = {one.name: one.tensor.detach().clone() for one in averages}
        self.scaler = torch.amp.GradScaler(
            self.encoder.device.type, enabled=self.encoder.precision == "float16"
        )
        weights = self.settings.class_weights
        self.class_weights = (
            None if weights is None else torch.tensor(weights, device=self.encoder.device)
        )
        self.step_texts = self.settings.batch * self.settings.accumulation
        self.texts = len(examples)
        self.steps_in_epoch = math.ceil(self.texts / self.step_texts)
        self.total = self.settings.steps or self.settings.epochs * self.steps_in_epoch
        if self.total == 1 and self.settings.warmup > 0:
            raise TrainingStopped(
                "a run of one step trains nothing with warm-up",
                why="the rate of a first step is 0 then",
                remedy="use schedule.warmup=0, or take more steps",
            )
        self._order: tuple[int, np.ndarray] | None = None
        self.rows = np.empty(0, np.int64)
        self._first = 0
        self._rate = self._loss = 0.0
        self._saved = time.monotonic()
        self._norm: float | None = None

    def graphed_step(self) -> graphs.Step:
        """What a graph needs to take this run's steps."""
        return graphs.Step(
            encoder=self.encoder,
            optimizer=self.optimizer,
            tensors=self.tensors,
            loss=lambda logits_BC, labels_B: self._share(logits_BC, labels_B, labels_B),
            clip=self._clip,
            pace=(self.settings.schedule, self.settings.warmup, self.total, self.at.step),
        )

    @property
    def _clip(self) -> float:
        return math.inf if self.settings.clip is None else self.settings.clip

    def _share(
        self, logits_BC: torch.Tensor, labels_B: torch.Tensor, of_step: torch.Tensor
    ) -> torch.Tensor:
        """A batch's share of the mean loss of a step whose texts have some labels."""
        total = self.settings.loss.total(logits_BC, labels_B, self.class_weights)
        if self.class_weights is None:
            return total / len(of_step)
        return total / self.class_weights[of_step].sum()

    def dropout_stream(self, first: int) -> np.random.Generator:
        """Draws the dropout of the step's batch that begins with a text."""
        return dropout.stream(self.settings.seed, self.at.step, first)

    def go_on(self, found: checkpoint.Loaded) -> None:
        """Takes up a checkpoint."""
        self.encoder.load_state(found.adapter())
        found.restore(self.names, self.averages, self.optimizer, self.scaler)
        self.at = found.position

    def begin_step(self) -> None:
        """Sets the rates and draws the step's texts."""
        share = schedule(self.settings.schedule, self.at.step, self.total, self.settings.warmup)
        self._rate = set_rates(self.optimizer, share)
        first = self.at.step_in_epoch * self.step_texts
        self.rows = self._epoch_order()[first : first + self.step_texts]
        self._first, self._loss, self._norm = 0, 0.0, None

    def next_batch(self) -> Batch | None:
        """The step's next batch, None after the last."""
        first = self._first
        if first >= len(self.rows) or not math.isfinite(self._loss):
            return None
        self._first += self.settings.batch
        return Batch(
            encoder=self.encoder,
            rows=self.rows[first : self._first],
            dropout=self.dropout_stream(first),
        )

    def loss(self, batch: Batch, logits_BC: torch.Tensor) -> torch.Tensor | None:
        """A batch's share of the step's mean loss, scaled; None where it is no number."""
        labels_B, of_step = (
            torch.from_numpy(self.labels[rows]).to(logits_BC.device)
            for rows in (batch.rows, self.rows)
        )
        share = self._share(logits_BC, labels_B, of_step)
        self._loss += float(share.detach())
        scaled: torch.Tensor = self.scaler.scale(share)
        return scaled if math.isfinite(self._loss) else None

    def end_step(self, seconds: float) -> StepRecord | None:
        """Logs a step whose figures are known; None where its loss was no number.

        Args:
            seconds: that the round took.
        """
        if not math.isfinite(self._loss):
            self._fail_at(self.at.step + 1, self._loss)
            return None
        return self.settle(self.advance(), self._loss, self._norm, seconds)

    def advance(self) -> Taken:
        """Goes on to the next step."""
        at = self.at
        self.at = replace(at, step=at.step + 1, step_in_epoch=at.step_in_epoch + 1)
        self._average()
        return Taken(self.at.step, at.epoch + 1, self._rate, len(self.rows))

    def settle(
        self, taken: Taken, loss: float, norm: float | None, seconds: float
    ) -> StepRecord | None:
        """Logs a step of this epoch that was taken; None where its loss was no number, or one
        before it was none."""
        if self.at.ended:
            return None
        if not math.isfinite(loss):
            self._fail_at(taken.step, loss)
            return None
        self.at = replace(self.at, loss_sum=self.at.loss_sum + loss)
        record = StepRecord(
            step=taken.step,
            epoch=taken.epoch,
            loss=loss,
            rate=taken.rate,
            gradient_norm=norm if norm is not None and math.isfinite(norm) else None,
            texts=taken.texts,
            seconds=round(seconds, 4),
        )
        self.around.log_step(record)
        return record

    def epoch_is_over(self) -> bool:
        """Whether validation is due."""
        at = self.at
        return not at.ended and (at.step_in_epoch == self.steps_in_epoch or at.step == self.total)

    def finish_epoch(self) -> None:
        """Validates, keeps the adapter as the recipe says, logs the epoch."""
        with self._averaged():
            self._finish_epoch()

    def _finish_epoch(self) -> None:
        result = self.around.validate(False)
        at = self.at
        if not math.isfinite(result.loss):
            self._fail(f"the validation loss is {result.loss} after epoch {at.epoch + 1}")
            return
        better = (result.accuracy, -result.loss) > (at.best_accuracy, -at.best_loss)
        if better or self.settings.keep == "last":
            # Before the checkpoint: a run killed between the two trains this epoch again.
            self.around.keep()
        if better:
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
            seconds=round(time.monotonic() - self._epoch_start, 3),
        )
        self.around.log_epoch(record)
        patience, idle = self.settings.early_stopping, at.epoch - int(at.best_epoch or 0)
        is_idle = patience is not None and idle >= patience
        gives_up = self.around.gives_up(record)
        self.at = replace(
            at,
            epoch=at.epoch + 1,
            step_in_epoch=0,
            loss_sum=0.0,
            ended=at.step >= self.total or is_idle or gives_up,
        )

    def wants_checkpoint(self) -> bool:
        """Whether this moment of the run is to be kept."""
        steps = self.settings.checkpoint_steps
        if self.at.failure or (steps is not None and self.at.step % steps == 0):
            return True
        return time.monotonic() - self._saved >= self.settings.checkpoint_seconds

    def save(self) -> None:
        """Writes a checkpoint of this moment."""
        self._saved = time.monotonic()
        checkpoint.save(
            self.around.checkpoints,
            self.at,
            self.names,
            self.encoder.state(),
            self.averages,
            self.optimizer,
            self.scaler,
        )

    def outcome(self) -> Outcome:
        """How it ended."""
        at, failure = self.at, None
        if at.failure:
            kept = "the adapter of the last epoch is kept"
            if at.best_epoch is None:
                kept = "no epoch was finished"
            elif self.settings.keep == "best":
                kept = "the best adapter is kept"
            failure = TrainingStopped(
                at.failure,
                why="the weights have run away",
                remedy=f"{kept}; lower the learning rates, or use precision=float32",
            )
        kept_epoch = at.epoch if self.settings.keep == "last" else int(at.best_epoch or 0) + 1
        return Outcome(at.step, kept_epoch, at.step < self.total, failure)

    def _epoch_order(self) -> np.ndarray:
        """The order of the texts in this epoch, `[B]`."""
        if self._order is None or self._order[0] != self.at.epoch:
            generator = np.random.default_rng([self.settings.seed, self.at.epoch])
            self._order = (self.at.epoch, generator.permutation(self.texts))
            self._epoch_start = time.monotonic()
        return self._order[1]

    def update(self) -> None:
        """Clips and steps, unless the loss was no number."""
        if not math.isfinite(self._loss):
            return
        self.scaler.unscale_(self.optimizer)
        self._norm = float(torch.nn.utils.clip_grad_norm_(self.tensors, self._clip))
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _average(self) -> None:
        """Takes the step's weights into the average.

        The decay grows to the recipe's, so that where the run began is soon forgotten.
        """
        if self.averages:
            steps = self.at.step
            decay = min(self.settings.averaging, (1 + steps) / (10 + steps))
            follow = get_ema_multi_avg_fn(decay)
            follow(list(self.averages.values()), self.tensors, steps)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within, the encoder has the average for its weights, if there is one."""
        if not self.averages:
            yield
            return
        own = [tensor.detach().clone() for tensor in self.tensors]
        self._set(self.averages.values())
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: Iterable[torch.Tensor]) -> None:
        for tensor, value in zip(self.tensors, values, strict=True):
            tensor.copy_(value)

    def _fail_at(self, step: int, loss: float) -> None:
        """Ends at a step whose loss is no number, as if those after it had not been."""
        late = self.at.step - (step - 1)
        self.at = replace(self.at, step=step - 1, step_in_epoch=self.at.step_in_epoch - late)
        self._fail(f"the loss is {loss} at step {step} (epoch {self.at.epoch + 1})")

    def _fail(self, what: str) -> None:
        self.at = replace(self.at, failure=what, ended=True)
