"""The conductor of runs: the only file that knows the order of the stages.

recipe -> plan -> corpus -> splits -> tokens -> prefix -> training -> evaluation
-> results.json -> report. Runs of one cohort share everything up to training, and train
together; a run by itself is a cohort of one.
"""

from __future__ import annotations

import contextlib
import json
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
from budgerigar.data.tokens import PackedTexts, load_tokenizer, tokenize
from budgerigar.errors import AdapterError, BudgetError, BudgieError, ModelError, RunError
from budgerigar.evaluation import metrics
from budgerigar.files import exclusive, read_json, recover, write_json, write_text
from budgerigar.planning import Plan
from budgerigar.reports.figures import Curve, draw_curves
from budgerigar.reports.run import write_run_report
from budgerigar.runs import RunFolder
from budgerigar.sources import Splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from budgerigar.encoder.interface import Encoder, Tokens
    from budgerigar.training.loop import EpochRecord, Outcome, Trainee, Validation


def sharing_key(plan: Plan) -> str:
    """What two runs must have in common to train as one cohort: base, texts and length.

    Runs of transformers + PEFT share nothing, and are told apart by their whole recipe.
    """
    recipe = plan.recipe
    shared = recipe.model_dump(mode="json", include={"model", "data", "precision"})
    shared["data"]["seed"] = recipe.split_seed
    if plan.path == "reference":
        shared = recipe.model_dump(mode="json")
    return json.dumps(shared, sort_keys=True)


GivesUp = Callable[[RunFolder, "EpochRecord"], bool]
"""Whether a run ends after an epoch, before its time."""


def never(files: RunFolder, record: EpochRecord) -> bool:
    """Lets every run end in its own time."""
    return False


def conduct(
    planned: Sequence[tuple[RunFolder, Plan]], resume_with: str, gives_up: GivesUp = never
) -> list[BudgieError | None]:
    """Does the whole job of some runs, in as few cohorts as they can form.

    Args:
        planned: each run's folder and plan; finished ones are passed over.
        resume_with: the command that goes on after a stop, to be told then.
        gives_up: asked after each epoch of a run.

    Returns:
        For each run why it failed; None for one that is finished.

    Raises:
        BudgieError: whatever stands in the way of a whole cohort.
    """
    cohorts: dict[str, list[int]] = {}
    for number, (files, plan) in enumerate(planned):
        if not files.is_finished():
            cohorts.setdefault(sharing_key(plan), []).append(number)
    errors: list[BudgieError | None] = [None] * len(planned)
    for place, numbers in enumerate(cohorts.values(), start=1):
        if len(cohorts) > 1:
            runs = "1 run" if len(numbers) == 1 else f"{len(numbers)} runs"
            note(f"cohort {place} of {len(cohorts)}: {runs}")
        of_cohort = [planned[number] for number in numbers]
        found = Conductor(of_cohort, resume_with, gives_up).run()
        for number, error in zip(numbers, found, strict=True):
            errors[number] = error
    return errors


class Conductor:
    """A cohort of runs, stage by stage.

    Args:
        planned: each run's folder and plan; all plans have one `sharing_key`.
        resume_with: the command that goes on after a stop, to be told then.
        gives_up: asked after each epoch of a run.
    """

    def __init__(
        self,
        planned: Sequence[tuple[RunFolder, Plan]],
        resume_with: str,
        gives_up: GivesUp = never,
    ) -> None:
        from budgerigar.encoder import hardware

        self.resume_with = resume_with
        self.plan = planned[0][1]
        self.recipe = self.plan.recipe
        self.seconds: dict[str, float] = {}
        self.device = hardware.device()
        self.precision = hardware.resolve_precision(self.recipe.precision, self.device)
        self.notes = [self.precision.note] if self.precision.note else []
        self.runs = [_Run(files, plan, len(planned), gives_up) for files, plan in planned]

    def run(self) -> list[BudgieError | None]:
        """Goes through all stages, from the first or from the newest common checkpoint.

        Returns:
            For each run why it failed; None for one that is finished.

        Raises:
            BudgieError: whatever stands in the way of all runs.
        """
        try:
            with contextlib.ExitStack() as locks:
                for run in self.runs:
                    locks.enter_context(exclusive(run.files.path))
                    recover(run.files.path)
                return self._all_stages()
        finally:
            for run in self.runs:
                run.files.remove_if_never_begun()

    def _all_stages(self) -> list[BudgieError | None]:
        with self._stage("data"):
            splits = sources.read_splits(self.recipe, self.plan.classes)
            self.notes.extend(splits.notes)
        with self._stage("tokens"):
            tokenizer = load_tokenizer(self.plan.checkpoint.folder, self.recipe.model.name)
            packed = {
                name: tokenize(
                    texts.texts, tokenizer, self.plan.max_length, name, self.plan.shape.vocabulary
                )
                for name, texts in splits.named().items()
            }
            self.notes.extend(_cut_notes(packed, self.plan.max_length))
        with self._stage("model"):
            self._load_encoders()
        for line in dict.fromkeys([*self.notes, *(n for run in self.runs for n in run.plan.notes)]):
            note(line)
        for run in self.runs:
            run.begin(splits)
        with self._stage("prefix"):
            texts_by_name = self._prepare(packed)
        with self._stage("training"):
            outcomes = self._train(tokenizer, splits, texts_by_name)
        for run, outcome in zip(self.runs, outcomes, strict=True):
            run.evaluate(splits, texts_by_name, outcome)
        with self._stage("verification"):
            _verify([run for run in self.runs if run.error is None], self.plan.checkpoint.folder)
        for run in self.runs:
            if run.error is None:
                self._finish(run, splits, packed)
        return [run.error for run in self.runs]

    def _load_encoders(self) -> None:
        from budgerigar.encoder import paths

        model = self.recipe.model
        sha256 = self.plan.checkpoint.sha256()
        if model.sha256 is not None and model.sha256 != sha256:
            raise ModelError(
                f"weights of {model.name} are not the expected ones",
                why=f"their SHA-256 is {sha256}, the recipe says {model.sha256}",
                remedy="install the version that the recipe was written for",
            )
        base = paths.Base(
            checkpoint=self.plan.checkpoint,
            shape=self.plan.shape,
            classes=len(self.plan.classes),
            precision=self.precision.name,
            device=self.device,
            sha256=sha256,
        )
        encoders = paths.fresh_cohort(
            base,
            [assembly.start_of(run.plan) for run in self.runs],
            self.plan.dropouts,
            force_reference=self.plan.path == "reference",
        )
        for run, encoder in zip(self.runs, encoders, strict=True):
            run.take_up(encoder, sha256)

    def _prepare(self, packed: Mapping[str, PackedTexts]) -> dict[str, Tokens]:
        """The texts with what can be computed once; of a cohort, also those read once a run."""
        from budgerigar.encoder import cohort

        encoders = [run.encoder for run in self.runs]
        often = packed if len(encoders) > 1 else ("train", "validation")
        return {
            name: cohort.prepare(encoders, texts, name) if name in often else texts
            for name, texts in packed.items()
        }

    def _train(
        self, tokenizer: PreTrainedTokenizerBase, splits: Splits, texts: Mapping[str, Tokens]
    ) -> list[Outcome]:
        from budgerigar.training import checkpoint, loop

        labels = sources.labels_of(splits.train)
        truth = sources.labels_of(splits.validation)
        found = checkpoint.newest_common([run.files.checkpoints for run in self.runs])
        trainees = []
        for run, loaded in zip(self.runs, found, strict=True):
            at = checkpoint.Position() if loaded is None else loaded.position
            run.files.rewind(at.step, at.epoch)
            trainees.append(run.trainee(tokenizer, labels, texts["validation"], truth))
        return loop.train(
            trainees, texts["train"], labels, resume=found, resume_with=self.resume_with
        )

    def _finish(self, run: _Run, splits: Splits, packed: Mapping[str, PackedTexts]) -> None:
        """Results and report of one run."""
        from budgerigar.encoder import hardware

        data = {
            name: {**sources.describe(one, self.plan.classes), "cut": packed[name].cut}
            for name, one in splits.named().items()
        }
        run.write_results(
            {
                "notes": [*run.plan.notes, *self.notes],
                "data": data,
                "training": {
                    "steps": run.outcome.steps,
                    "best_epoch": run.outcome.best_epoch,
                    "stopped_early": run.outcome.stopped_early,
                    "precision": self.precision.name,
                    "path": run.encoder.path,
                    "cohort": len(self.runs),
                },
                "seconds": {**self.seconds, **run.seconds},
                "hardware": hardware.describe(self.device),
            }
        )

    def _stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        return _timed(self.seconds, name)


class _Run:
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

    def begin(self, splits: Splits) -> None:
        """Writes the recipe and the plan, or checks that the data are still those of the plan."""
        fingerprints = {name: texts.fingerprint for name, texts in splits.named().items()}
        if self.files.is_empty():
            write_json(self.files.plan, {**self.plan.to_json(), "fingerprints": fingerprints})
            write_text(self.files.recipe, recipe_text.to_yaml(self.recipe))
        elif read_json(self.files.plan)["fingerprints"] != fingerprints:
            raise RunError(
                f"the texts of {self.files.path} have changed since the run began",
                remedy="put the files back, or begin a new run",
            )

    def trainee(
        self,
        tokenizer: PreTrainedTokenizerBase,
        labels: np.ndarray,
        validation: Tokens,
        truth: np.ndarray,
    ) -> Trainee:
        """What the loop trains: the encoder with its optimizer, numbers and surroundings."""
        from budgerigar.training import loop

        def validate(dry: bool) -> Validation:
            batch = self.recipe.evaluation_batch
            logits_BC = predict.packed_logits(
                self.encoder, validation, batch, "validating", batch if dry else None
            )
            scores = metrics.score(logits_BC, truth[: len(logits_BC)])
            return loop.Validation(scores.loss, scores.accuracy, scores.macro_f1)

        weights = assembly.class_weights(self.recipe, labels, len(self.plan.classes))
        return loop.Trainee(
            encoder=self.encoder,
            optimizer=assembly.optimizer_of(self.plan, self.encoder),
            settings=assembly.loop_settings(self.recipe, weights),
            around=loop.Surroundings(
                validate=validate,
                log_step=lambda record: self.files.log_step(asdict(record)),
                log_epoch=self._log_epoch,
                keep_best=lambda: self._keep(tokenizer),
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
        self, splits: Splits, texts_by_name: Mapping[str, Tokens], outcome: Outcome
    ) -> None:
        """Scores and predicts every set but the training rows with the best adapter."""
        self.outcome, self.error = outcome, outcome.failure
        if self.error is not None:
            return
        with _timed(self.seconds, "evaluation"):
            self.encoder.load_state(adapters.read_tensors(self.files.adapter))
            for name, texts in splits.named().items():
                if name != "train":
                    self.scores[name] = self._predict(name, texts, texts_by_name[name])

    def _predict(self, name: str, texts: Corpus, tokens: Tokens) -> dict[str, Any]:
        """Predicts a set, writes the predictions, and scores them where there are labels."""
        classes, batch = self.plan.classes, self.recipe.evaluation_batch
        logits_BC = predict.packed_logits(self.encoder, tokens, batch, f"scoring {name}")
        predictions = predict.from_logits(classes, logits_BC)
        labels = None if name == "unlabelled" else sources.labels_of(texts)
        predict.write_predictions(predictions, self.files.predictions / f"{name}.parquet", labels)
        if labels is None:
            predict.write_submission(predictions, self.files.submission)
            return {"distribution": predictions.distribution()}
        return {
            **results.scores_record(metrics.score(logits_BC, labels), classes),
            "confident_errors": results.confident_errors(predictions, labels, texts.texts),
        }

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


def _verify(finished: Sequence[_Run], checkpoint: Path) -> None:
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
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long a stage took."""
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


def _cut_notes(packed: Mapping[str, PackedTexts], max_length: int) -> list[str]:
    return [
        f"{texts.cut} of {len(texts)} {name} texts are cut at {max_length} tokens"
        for name, texts in packed.items()
        if texts.cut
    ]
