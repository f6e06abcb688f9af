"""One run of a cohort: the stages that are its own."""

from __future__ import annotations

import contextlib
import json
import operator
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgerigar import adapters, assembly, predict, recipe_text, results, runs, sources
from budgerigar.console import note
from budgerigar.data.corpus import Corpus
from budgerigar.errors import AdapterError, BudgetError, BudgieError, RunError
from budgerigar.evaluation import metrics
from budgerigar.files import read_json, write_json, write_text
from budgerigar.planning import Plan
from budgerigar.reports.figures import Curve, draw_curves
from budgerigar.reports.run import write_run_report
from budgerigar.runs import RunFolder
from budgerigar.sources import Splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from budgerigar.audit.section import Section
    from budgerigar.encoder.interface import Encoder, Tokens
    from budgerigar.training.run import EpochRecord, Outcome, Trainee

PLACES = ("model.name", "model.revision", "data.train", "data.validation", "data.test",
          "data.unlabelled")  # fmt: skip
"""Fields that may change before a run goes on: hashes tell whether what they name is the same."""

GivesUp = Callable[[RunFolder, "EpochRecord"], bool]
"""Whether a run ends after an epoch, before its time."""


def never(files: RunFolder, record: EpochRecord) -> bool:
    """Lets every run end in its own time."""
    return False


class RunStages:
    """One run of a cohort: what is its own.

    Attributes:
        error: why it failed, None while it has not.
        scores: what `results.json` will say of each set of texts.
        difference: the largest of a logit, found in a fresh process.
        seconds: of its own stages.
    """

    encoder: Encoder
    model_sha256: str
    outcome: Outcome

    def __init__(self, files: RunFolder, plan: Plan, cohort: int, gives_up: GivesUp) -> None:
        self.files, self.plan, self.recipe = files, plan, plan.recipe
        self.gives_up = gives_up
        self.is_alone = cohort == 1
        self.error: BudgieError | None = None
        self.scores: dict[str, Any] = {}
        self.difference = 0.0
        self.seconds: dict[str, float] = {}

    def take_up(self, encoder: Encoder, model_sha256: str) -> None:
        """Checks a fresh encoder against the plan; starts it from the recipe's adapter, if any."""
        self.encoder, self.model_sha256 = encoder, model_sha256
        found = sum(one.tensor.numel() for one in encoder.trainables())
        if found != self.plan.trainable["total"]:
            raise BudgetError(
                f"{found:,} parameters require gradients, the plan counted "
                f"{self.plan.trainable['total']:,}",
                remedy="this is a fault of budgerigar: please report the model and the recipe",
            )
        if self.recipe.adapter.start is not None:
            start = Path(self.recipe.adapter.start)
            if adapters.read_info(start).model_sha256 != model_sha256:
                raise AdapterError(
                    f"adapter {start} belongs to another base than {self.recipe.model.name}",
                    why="the SHA-256 of the weights differs from the one in budgerigar.json",
                    remedy="start from an adapter of this base",
                )
            encoder.load_state(adapters.read_tensors(start))

    def left_out(self) -> list[int] | None:
        """The training rows that a run which goes on left out when it began."""
        return None if self.files.is_empty() else read_beginning(self.files)["left_out"]

    def begin(self, splits: Splits, left_out: Sequence[int]) -> None:
        """Writes the plan and the recipe, or checks that a run goes on with what it began with.

        Args:
            splits: the texts as they were read.
            left_out: training rows among them that do not train.

        Raises:
            RunError: when its recipe, weights or texts have changed since.
        """
        began_with = {
            "recipe": self.recipe.model_dump(mode="json"),
            "weights": self.model_sha256,
            "texts": {name: texts.fingerprint for name, texts in splits.named().items()},
            "left_out": list(left_out),
        }
        if self.files.is_empty():
            write_json(self.files.plan, {**self.plan.to_json(), "began_with": began_with})
            write_text(self.files.recipe, recipe_text.to_yaml(self.recipe))
        else:
            self._require_unchanged(began_with)

    def _require_unchanged(self, now: Mapping[str, Any]) -> None:
        before = read_beginning(self.files)
        changed = _changed(before["recipe"], now["recipe"])
        for what, is_other in (
            ("fields of the recipe", changed != ""),
            ("the weights", before["weights"] != now["weights"]),
            ("the texts", before["texts"] != now["texts"]),
        ):
            if is_other:
                raise RunError(
                    f"{what} of {self.files.path} have changed since the run began",
                    why=changed,
                    remedy="put back what was there, or begin a new run",
                )

    def trainee(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: np.ndarray,
        validation: Tokens,
        truth: np.ndarray,
    ) -> Trainee:
        """What the loop trains: the encoder with its optimizer, numbers and surroundings."""
        from budgerigar.training.run import Surroundings, Trainee, Validation

        def validate(dry: bool) -> Validation:
            batch = self.recipe.evaluation_batch
            logits_BC = predict.packed_logits(
                self.encoder, validation, batch, "validating", batch if dry else None
            )
            scores = metrics.score(logits_BC, truth[: len(logits_BC)])
            return Validation(scores.loss, scores.accuracy, scores.macro_f1)

        weights = assembly.class_weights(self.recipe, labels, len(self.plan.classes))
        return Trainee(
            encoder=self.encoder,
            optimizer=assembly.optimizer_of(self.plan, self.encoder),
            settings=assembly.loop_settings(self.recipe, weights),
            around=Surroundings(
                validate=validate,
                log_step=lambda record: self.files.log_step(asdict(record)),
                log_epoch=self._log_epoch,
                keep=lambda: self._keep(tokenizer),
                checkpoints=self.files.checkpoints,
                gives_up=lambda record: self.gives_up(self.files, record),
            ),
        )

    def _log_epoch(self, record: EpochRecord) -> None:
        self.files.log_epoch(asdict(record))
        name = "" if self.is_alone else f"{self.files.path.name}, "
        note(
            f"{name}epoch {record.epoch}: training loss {record.training_loss:.4f}, validation "
            f"loss {record.validation_loss:.4f}, accuracy {record.validation_accuracy:.2%}"
            + (", best so far" if record.best else "")
        )

    def _keep(self, tokenizer: PreTrainedTokenizerBase) -> None:
        probe = predict.logits_of(
            self.encoder, tokenizer, adapters.PROBE_TEXTS, self.plan.max_length
        ).tolist()
        model = self.recipe.model
        info = adapters.AdapterInfo(
            model=model.name,
            revision=model.revision,
            model_sha256=self.model_sha256,
            classes=self.plan.classes,
            max_length=self.plan.max_length,
            precision=self.encoder.precision,
            trainable=self.plan.trainable,
            probe=tuple(zip(adapters.PROBE_TEXTS, map(tuple, probe), strict=True)),
        )
        adapters.write_adapter(self.files.adapter, self.encoder, tokenizer, info)

    def evaluate(
        self,
        splits: Splits,
        texts_by_name: Mapping[str, Tokens],
        outcome: Outcome,
        unlabelled: Section | None,
    ) -> None:
        """Scores and predicts every set but the training rows with the adapter that was kept."""
        self.outcome, self.error = outcome, outcome.failure
        if self.error is not None:
            return
        with timed(self.seconds, "evaluation"):
            self.encoder.load_state(adapters.read_tensors(self.files.adapter))
            logits = {
                name: predict.packed_logits(
                    self.encoder,
                    texts_by_name[name],
                    self.recipe.evaluation_batch,
                    f"scoring {name}",
                )
                for name in splits.named()
                if name != "train"
            }
            for name, texts in splits.named().items():
                if name == "unlabelled":
                    self.scores[name] = self._submit(logits[name])
                elif name != "train":
                    self.scores[name] = self._score(name, texts, logits[name])
            if unlabelled is not None:
                truth = sources.labels_of(splits.validation)
                self.scores["unlabelled"]["shift"] = self._shift(logits, truth, unlabelled)

    def _score(self, name: str, texts: Corpus, logits_BC: np.ndarray) -> dict[str, Any]:
        """Writes a labelled set's predictions; gives its scores."""
        classes, labels = self.plan.classes, sources.labels_of(texts)
        predictions = predict.from_logits(classes, logits_BC)
        predict.write_predictions(predictions, self.files.predictions / f"{name}.parquet", labels)
        return {
            **results.scores_record(metrics.score(logits_BC, labels), classes),
            "confident_errors": results.confident_errors(predictions, labels, texts.texts),
        }

    def _submit(self, logits_BC: np.ndarray) -> dict[str, Any]:
        """Writes predictions and submission of the unlabelled texts; counts their classes."""
        predictions = predict.from_logits(self.plan.classes, logits_BC)
        predict.write_predictions(predictions, self.files.predictions / "unlabelled.parquet")
        predict.write_submission(predictions, self.files.submission)
        return {"distribution": predictions.distribution()}

    def _shift(
        self, logits: Mapping[str, np.ndarray], truth: np.ndarray, unlabelled: Section
    ) -> dict[str, Any]:
        """How the unlabelled texts differ, and the accuracy to expect of this run on them."""
        from budgerigar.audit.head import Predicted
        from budgerigar.audit.section import with_expected_accuracy

        predicted = Predicted(
            classes=self.plan.classes,
            validation_BC=logits["validation"],
            labels_B=truth,
            unlabelled_BC=logits["unlabelled"],
            by="this run",
        )
        return with_expected_accuracy(unlabelled, predicted, self.recipe.split_seed).content

    def write_results(self, found: Mapping[str, Any]) -> None:
        """Writes curves, report, the model card with its figures, and last the results."""
        content: dict[str, Any] = {
            "schema": runs.RESULTS_SCHEMA,
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "classes": list(self.plan.classes),
            "recipe": self.recipe.model_dump(mode="json"),
            "plan": self.plan.to_json(),
            "epochs": self.files.read_epochs(),
            "parameters": self.plan.trainable,
            "model": {"name": self.recipe.model.name, "sha256": self.model_sha256},
            "versions": runs.versions(),
            **{name: self.scores.get(name) for name in ("validation", "test", "unlabelled")},
            "verification": {"largest_difference": self.difference},
            **found,
        }
        draw_curves([Curve(self.recipe.name, [content["epochs"]])], self.files.path / "curves")
        write_run_report(content, self.files.report)
        info = adapters.read_info(self.files.adapter)
        card = adapters.model_card(info, results.headline(content))
        write_text(self.files.adapter / "README.md", card)
        write_json(self.files.results, content)


def read_beginning(files: RunFolder) -> dict[str, Any]:
    """What a run began with: its recipe, the SHA-256 of its weights, its texts' fingerprints, and
    the training rows among them that it left out.

    Raises:
        RunError: when the plan is not what this version wrote.
        RecipeError: when the recipe in it is none.
    """
    recorded = read_json(files.plan)
    try:
        began_with = recorded["began_with"]
        # Read as a recipe, it has the fields that are newer than the run, too.
        recipe = recipe_text.from_tree(began_with["recipe"], str(files.plan))
        return {
            "recipe": recipe.model_dump(mode="json"),
            "weights": began_with["weights"],
            "texts": began_with["texts"],
            "left_out": [operator.index(row) for row in began_with["left_out"]],
        }
    except (LookupError, TypeError) as error:
        raise RunError(
            f"{files.plan} is not what this version began the run with",
            remedy="put a copy of the file back, or begin a new run",
        ) from error


def _changed(before: Any, now: Any, path: str = "") -> str:
    """The first field of a recipe that is another, with both values; empty where none is."""
    if isinstance(before, dict) and isinstance(now, dict):
        below = f"{path}." if path else ""
        names = {**before, **now}
        found = (_changed(before.get(name), now.get(name), f"{below}{name}") for name in names)
        return next(filter(None, found), "")
    return "" if before == now or path in PLACES else f"{path} was {before!r} and is {now!r}"


def verify(finished: Sequence[RunStages], checkpoint: Path) -> None:
    """Loads adapters in a fresh process, offline, and compares their logits."""
    if not finished:
        return
    command = [
        *(sys.executable, "-m", "budgerigar", "verify"),
        *(str(run.files.adapter) for run in finished),
        *("--model", str(checkpoint), "--json"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    try:
        found = json.loads(done.stdout)["adapters"]
    except (ValueError, KeyError):
        found = [{"error": said[-1]}] * len(finished)
    for run, one in zip(finished, found, strict=True):
        if one["error"]:
            run.error = AdapterError(
                f"the adapter in {run.files.adapter} does not hold in a fresh process",
                why=one["error"],
                remedy="its predictions cannot be trusted; please report this with the recipe",
            )
        else:
            run.difference = float(one["largest_difference"])


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long a stage took."""
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)
