"""The conductor of runs: the only file that knows the order of the stages.

recipe -> plan -> corpus -> splits -> audit -> tokens -> prefix -> training -> evaluation
-> results.json -> report. Runs of one cohort share everything up to training, and train
together; a run by itself is a cohort of one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from budgerigar import assembly, sources
from budgerigar.console import note, note_once
from budgerigar.data.tokens import PackedTexts, load_tokenizer, tokenize
from budgerigar.errors import BudgieError, ModelError, OutOfMemory, is_out_of_memory
from budgerigar.files import exclusive, recover
from budgerigar.planning import Plan
from budgerigar.run_stages import GivesUp, RunStages, never, timed, verify
from budgerigar.runs import RunFolder
from budgerigar.sources import Splits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from budgerigar.audit.section import Section
    from budgerigar.audit.vectors import TextEncoder
    from budgerigar.encoder.interface import Tokens
    from budgerigar.training.run import Outcome


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
        self.stage = "start"
        self.device = hardware.device()
        self.precision = hardware.resolve_precision(self.recipe.precision, self.device)
        self.notes = [self.precision.note] if self.precision.note else []
        self.findings: list[dict[str, Any]] = []
        self.runs = [RunStages(files, plan, len(planned), gives_up) for files, plan in planned]

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
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory() from error
        finally:
            for run in self.runs:
                run.files.remove_if_never_begun()

    def _all_stages(self) -> list[BudgieError | None]:
        with self._stage("data"):
            read = sources.read_splits(self.recipe, self.plan.classes)
            self.notes.extend(read.notes)
        with self._stage("audit"):
            self._look_over(read)
        splits, left_out = read, np.empty(0, np.int64)
        if self.recipe.data.drop_suspects:
            with self._stage("suspects"):
                left_out = self._suspects(read)
                splits = sources.without(read, left_out, self.plan.classes)
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
            run.begin(read, left_out.tolist())
        with self._stage("prefix"):
            texts_by_name = self._prepare(packed)
        with self._stage("training"):
            outcomes = self._train(tokenizer, splits, texts_by_name)
        with self._stage("shift"):
            unlabelled = self._compare_unlabelled(splits)
        self.stage = "evaluation"
        for run, outcome in zip(self.runs, outcomes, strict=True):
            run.evaluate(splits, texts_by_name, outcome, unlabelled)
        with self._stage("verification"):
            verify([run for run in self.runs if run.error is None], self.plan.checkpoint.folder)
        for run in self.runs:
            if run.error is None:
                self._finish(run, splits, packed)
        return [run.error for run in self.runs]

    def _look_over(self, splits: Splits) -> None:
        """Says what is wrong with the texts, the worst first."""
        from budgerigar.audit import screening

        found = screening.screen(splits.named(), self.plan.classes)
        for finding in found:
            note_once(screening.line_of(finding))
        self.findings = [finding.to_short_json() for finding in found]

    def _suspects(self, splits: Splits) -> np.ndarray:
        """The training rows whose label is suspected wrong, or was when the runs began."""
        from budgerigar.audit import screening

        rows: np.ndarray | None
        for run in self.runs:
            if (recorded := run.left_out()) is not None:
                rows = np.array(recorded, np.int64)
                break
        else:
            rows = screening.suspects(splits.train, self._text_encoder(), self.recipe.split_seed)
        texts = f"{len(splits.train.texts):,} training texts"
        if rows is None:
            self.notes.append(f"data.drop_suspects: {texts} are too few to judge, and all are kept")
            return np.empty(0, np.int64)
        self.notes.append(
            f"{len(rows):,} of {texts} are left out, as their labels are suspected wrong "
            "(data.drop_suspects)"
        )
        return rows

    def _text_encoder(self) -> TextEncoder:
        """The frozen base as audits use it."""
        from budgerigar.audit.vectors import TextEncoder

        model = self.recipe.model
        return TextEncoder(model.name, model.revision, self.plan.max_length)

    def _out_of_memory(self) -> OutOfMemory:
        """Names the smallest change that takes about half the memory in the stage that failed."""
        recipe = self.recipe
        if self.stage in ("data", "audit", "suspects"):
            return OutOfMemory(
                f"out of memory in the stage {self.stage}",
                remedy="use fewer rows, with --set data.max_rows=NUMBER",
            )
        half = f"data.max_length={self.plan.max_length // 2}"
        if self.stage == "training" and recipe.batch > 1:
            accumulation = recipe.accumulation * 2
            half = f"batch={recipe.batch // 2} --set accumulation={accumulation}"
            # It validates too.
            half += f" --set evaluation_batch={max(1, recipe.evaluation_batch // 2)}"
        elif self.stage == "evaluation" and recipe.evaluation_batch > 1:
            half = f"evaluation_batch={recipe.evaluation_batch // 2}"
        many = f" of {len(self.runs)} runs at once" if len(self.runs) > 1 else ""
        return OutOfMemory(
            f"out of memory in the stage {self.stage}{many}",
            remedy=f"begin anew with --set {half}"
            + (", or with fewer recipes or seeds" if many else "")
            + "; checkpoints and adapters so far are kept",
        )

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

    def _compare_unlabelled(self, splits: Splits) -> Section | None:
        """How the unlabelled texts differ from the training texts, once for all runs."""
        if splits.unlabelled is None:
            return None
        from budgerigar.audit import section

        encoder, seed = self._text_encoder(), self.recipe.split_seed
        drawn = np.random.default_rng(seed)
        train = section.encode(encoder, splits.train.texts, "training texts", drawn)
        other = section.encode(encoder, splits.unlabelled.texts, "unlabelled texts")
        found = section.shift_section(train, other, seed=seed)
        for finding in found.findings:
            line = f"unlabelled texts: {finding.message}. {finding.advice}"
            self.notes.append(line)
            note(line)
        return found

    def _finish(self, run: RunStages, splits: Splits, packed: Mapping[str, PackedTexts]) -> None:
        """Results and report of one run."""
        from budgerigar.encoder import hardware

        data = {
            name: {**sources.describe(one, self.plan.classes), "cut": packed[name].cut}
            for name, one in splits.named().items()
        }
        run.write_results(
            {
                "notes": [*run.plan.notes, *self.notes],
                "findings": self.findings,
                "data": data,
                "training": {
                    "steps": run.outcome.steps,
                    "keep": run.recipe.keep,
                    "kept_epoch": run.outcome.kept_epoch,
                    "stopped_early": run.outcome.stopped_early,
                    "precision": self.precision.name,
                    "path": run.encoder.path,
                    "cohort": len(self.runs),
                },
                "seconds": {**self.seconds, **run.seconds},
                "hardware": hardware.describe(self.device),
            }
        )

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        from budgerigar.encoder import hardware

        self.stage = name
        with timed(self.seconds, name):
            yield
        hardware.give_back_freed_memory()


def _cut_notes(packed: Mapping[str, PackedTexts], max_length: int) -> list[str]:
    return [
        f"{texts.cut} of {len(texts)} {name} texts are cut at {max_length} tokens"
        for name, texts in packed.items()
        if texts.cut
    ]
