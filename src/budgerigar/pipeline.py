"""The conductor: the only file that knows the order of the stages.

recipe -> plan -> corpus -> splits -> tokens -> training -> evaluation -> results.json
-> report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgerigar import (
    __version__,
    adapters,
    planning,
    predict,
    recipe_text,
    report,
    results,
    runs,
    sources,
)
from budgerigar.console import note
from budgerigar.data.tokens import PackedTexts, load_tokenizer, tokenize
from budgerigar.errors import AdapterError, BudgetError, ModelError, RunError
from budgerigar.evaluation import metrics
from budgerigar.files import exclusive, read_json, recover, write_json, write_text
from budgerigar.planning import Plan
from budgerigar.recipe import SHARED_OPTIMIZER_FIELDS, Recipe
from budgerigar.runs import RunFolder
from budgerigar.sources import Splits

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from budgerigar.encoder.hardware import Precision
    from budgerigar.encoder.interface import Encoder, Tokens
    from budgerigar.training.loop import EpochRecord, LoopSettings, Outcome, Validation


class Run:
    """A finished run.

    Attributes:
        results: what `results.json` holds.
    """

    def __init__(self, folder: str | Path) -> None:
        self._files = RunFolder(Path(folder))
        self.results = self._files.read_results()

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._files.path

    @property
    def adapter(self) -> Path:
        """The adapter's folder."""
        return self._files.adapter

    def files(self) -> list[Path]:
        """What the run left, for people: report, curves, results, adapter, predictions."""
        figures = sorted(self.folder.glob("curves.*"))
        places = [
            self._files.report,
            *figures,
            self._files.results,
            self._files.adapter,
            *sorted(self._files.predictions.glob("*.parquet")),
            self._files.submission,
        ]
        return [path for path in places if path.exists()]

    def curves(self) -> Path:
        """Draws training loss, validation loss and accuracy by epoch; gives the PNG's path."""
        return draw_curves([self.folder], self.folder / "curves")[0]

    def submission(self, texts: str | Path, out: str | Path | None = None) -> Path:
        """Predicts every text of a file and writes the competition's CSV.

        Args:
            texts: file of unlabelled texts.
            out: the CSV; `submission.csv` in the run's folder where empty.
        """
        path = Path(out) if out else self.folder / "submission.csv"
        names = self.results["recipe"]["data"]["columns"]
        rows = sources.read_unlabelled(str(texts), names and ",".join(names))
        predict.write_submission(predict.load(self.adapter).predict_source(rows.texts), path)
        return path


def plan(recipe: str | Path | Recipe, **overrides: Any) -> Plan:
    """Plans a recipe without loading a weight or, where it names its classes, a text.

    Args:
        recipe: a recipe, a shipped one's name, or a YAML file.
        **overrides: fields to change: nested mappings, or `**{"adapter.rank": 4}`.

    Raises:
        BudgieError: see `planning.make_plan`.
    """
    resolved = _resolve(recipe, overrides)
    return planning.make_plan(resolved, sources.class_names(resolved))


def cost(made: Plan) -> dict[str, Any]:
    """What a planned run will cost on this machine, with what the estimate was made from."""
    from budgerigar.encoder import hardware

    work = sources.workload(made.recipe, made.checkpoint, made.max_length)
    precision = hardware.resolve_precision(made.recipe.precision, hardware.device()).name
    return {**asdict(made.cost(work, precision)), **asdict(work), "precision": precision}


def train(recipe: str | Path | Recipe, out: str | Path | None = None, **overrides: Any) -> Run:
    """Does the whole job of a recipe.

    Args:
        recipe: a recipe, a shipped one's name, or a YAML file.
        out: the run's folder; `runs/NAME` under the current one where empty.
        **overrides: fields to change: nested mappings, or `**{"data.max_rows": 800}`.

    Raises:
        BudgieError: whatever stands in the way.
    """
    resolved = sources.absolute(_resolve(recipe, overrides))
    files = RunFolder(Path(out) if out else Path("runs") / resolved.name)
    if not files.is_empty():
        raise RunError(
            f"{files.path} holds a run already",
            remedy=f"go on with it: budgie train --resume {files.path}; or choose another --out",
        )
    if others := files.left_by_others():
        raise RunError(
            f"{files.path} holds {others[0].name}, which a run would overwrite",
            remedy="choose another folder with --out",
        )
    ready = planning.make_plan(resolved, sources.class_names(resolved), weights=True)
    return _Conductor(files, ready).run()


def resume(folder: str | Path) -> Run:
    """Goes on with a run that was stopped or killed.

    Raises:
        RunError: when there is no run, or another process has it.
    """
    files = RunFolder(Path(folder))
    if files.is_empty():
        raise RunError(f"{files.path} holds no run", remedy="start one with budgie train RECIPE")
    if files.results.exists():
        note(f"{files.path} is finished already")
        return Run(files.path)
    recipe = recipe_text.read(files.recipe)
    ready = planning.make_plan(recipe, sources.class_names(recipe), weights=True)
    return _Conductor(files, ready).run()


def draw_curves(folders: Sequence[str | Path], stem: Path) -> list[Path]:
    """Draws the curves of any number of runs, finished or not, into one figure.

    Args:
        folders: the runs' folders.
        stem: the figures' path without its ending.

    Raises:
        RunError: when a folder holds no run, or none of its epochs is finished.
    """
    curves = []
    for folder in folders:
        files = RunFolder(Path(folder))
        if files.is_empty():
            raise RunError(f"{files.path} holds no run", remedy="name the folder of a run")
        curves.append(report.Curve(files.path.name, files.read_epochs()))
    return report.draw_curves(curves, stem)


def loop_settings(recipe: Recipe, class_weights: tuple[float, ...] | None = None) -> LoopSettings:
    """The training loop's numbers of a recipe; the classes' weights come from the data."""
    from budgerigar.training.loop import LoopSettings

    return LoopSettings(
        epochs=recipe.epochs,
        steps=recipe.steps,
        batch=recipe.batch,
        accumulation=recipe.accumulation,
        clip=recipe.clip,
        label_smoothing=recipe.label_smoothing,
        class_weights=class_weights,
        early_stopping=recipe.early_stopping,
        checkpoint_steps=recipe.checkpoint_steps,
        schedule=recipe.schedule.name,
        warmup=recipe.schedule.warmup,
        seed=recipe.seed,
    )


class _Conductor:
    """One run, stage by stage."""

    def __init__(self, files: RunFolder, plan: Plan) -> None:
        from budgerigar.encoder import hardware

        self.files, self.plan, self.recipe = files, plan, plan.recipe
        self.classes = plan.classes
        self.seconds: dict[str, float] = {}
        self.device: torch.device = hardware.device()
        self.precision: Precision = hardware.resolve_precision(plan.recipe.precision, self.device)
        self.notes = [*plan.notes, *([self.precision.note] if self.precision.note else [])]

    def run(self) -> Run:
        """Goes through all stages, from the first or from the newest checkpoint."""
        try:
            with exclusive(self.files.path):
                recover(self.files.path)
                self._all_stages()
        finally:
            self.files.remove_if_never_begun()
        return Run(self.files.path)

    def _all_stages(self) -> None:
        with self._stage("data"):
            splits = sources.read_splits(self.recipe, self.classes)
            self.notes.extend(splits.notes)
        with self._stage("tokens"):
            tokenizer = load_tokenizer(self.plan.checkpoint.folder, self.recipe.model.name)
            packed = {
                name: tokenize(texts.texts, tokenizer, self.plan.max_length, name)
                for name, texts in splits.named().items()
            }
            self.notes.extend(_cut_notes(packed, self.plan.max_length))
        with self._stage("model"):
            encoder = self._load_encoder()
        for line in self.notes:
            note(line)
        self._begin(splits)
        with self._stage("prefix"):
            prepared = {
                name: encoder.prepare(packed[name], name) for name in ("train", "validation")
            }
        with self._stage("training"):
            outcome = self._train(encoder, tokenizer, splits, prepared)
        with self._stage("evaluation"):
            encoder.load_state(adapters.read_tensors(self.files.adapter))
            found = self._evaluate(encoder, splits, {**packed, **prepared})
        with self._stage("verification"):
            difference = self._verify()
        self._finish(encoder, splits, packed, outcome, found, difference)

    def _load_encoder(self) -> Encoder:
        from budgerigar.encoder import paths
        from budgerigar.encoder.lora import LowRank

        model, adapter = self.recipe.model, self.recipe.adapter
        self.model_sha256 = self.plan.checkpoint.sha256()
        if model.sha256 is not None and model.sha256 != self.model_sha256:
            raise ModelError(
                f"weights of {model.name} are not the expected ones",
                why=f"their SHA-256 is {self.model_sha256}, the recipe says {model.sha256}",
                remedy="install the version that the recipe was written for",
            )
        base = paths.Base(
            checkpoint=self.plan.checkpoint,
            shape=self.plan.shape,
            classes=len(self.classes),
            precision=self.precision.name,
            device=self.device,
            sha256=self.model_sha256,
        )
        encoder = paths.fresh(
            base,
            self.plan.selection,
            LowRank(adapter.alpha, adapter.dropout, adapter.rslora),
            self.plan.dropouts,
            seed=self.recipe.seed,
            force_reference=self.plan.path == "reference",
        )
        found = sum(one.tensor.numel() for one in encoder.trainables())
        if found != self.plan.trainable["total"]:
            raise BudgetError(
                f"{found:,} parameters require gradients, the plan counted "
                f"{self.plan.trainable['total']:,}",
                remedy="this is a fault of budgerigar: please report the model and the recipe",
            )
        if adapter.start is not None:
            start = Path(adapter.start)
            if adapters.read_info(start).model_sha256 != self.model_sha256:
                raise AdapterError(
                    f"adapter {start} belongs to another base than {model.name}",
                    why="the SHA-256 of the weights differs from the one in budgerigar.json",
                    remedy="start from an adapter of this base",
                )
            encoder.load_state(adapters.read_tensors(start))
        return encoder

    def _begin(self, splits: Splits) -> None:
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

    def _train(
        self,
        encoder: Encoder,
        tokenizer: PreTrainedTokenizerBase,
        splits: Splits,
        prepared: Mapping[str, Tokens],
    ) -> Outcome:
        from budgerigar.training import checkpoint, loop, optimizer

        labels = sources.labels_of(splits.train)
        truth = sources.labels_of(splits.validation)
        options = self.recipe.optimizer.model_dump(exclude=SHARED_OPTIMIZER_FIELDS)

        def validate(dry: bool) -> Validation:
            batch = self.recipe.evaluation_batch
            logits_BC = predict.packed_logits(
                encoder, prepared["validation"], batch, "validating", batch if dry else None
            )
            scores = metrics.score(logits_BC, truth[: len(logits_BC)])
            return loop.Validation(scores.loss, scores.accuracy, scores.macro_f1)

        found = checkpoint.newest(self.files.checkpoints)
        at = checkpoint.Position() if found is None else found.position
        self.files.rewind(at.step, at.epoch)
        return loop.train(
            encoder,
            prepared["train"],
            labels,
            optimizer.build(
                encoder.trainables(),
                self.plan.rates,
                self.recipe.optimizer.name,
                options,
                self.recipe.optimizer.weight_decay,
            ),
            self._loop_settings(labels),
            loop.Surroundings(
                validate=validate,
                log_step=lambda record: self.files.log_step(asdict(record)),
                log_epoch=self._log_epoch,
                keep_best=lambda: self._keep(encoder, tokenizer),
                checkpoints=self.files.checkpoints,
            ),
            found,
        )

    def _loop_settings(self, labels: np.ndarray) -> LoopSettings:
        recipe = self.recipe
        weights: tuple[float, ...] | None = None
        if recipe.class_weights == "balanced":
            counts = np.bincount(labels, minlength=len(self.classes))
            weights = tuple((len(labels) / (len(counts) * counts)).tolist())
        elif recipe.class_weights != "none":
            weights = recipe.class_weights
        return loop_settings(recipe, weights)

    def _log_epoch(self, record: EpochRecord) -> None:
        self.files.log_epoch(asdict(record))
        note(
            f"epoch {record.epoch}: training loss {record.training_loss:.4f}, validation loss "
            f"{record.validation_loss:.4f}, accuracy {record.validation_accuracy:.2%}"
            + (", best so far" if record.best else "")
        )

    def _keep(self, encoder: Encoder, tokenizer: PreTrainedTokenizerBase) -> None:
        probe = predict.logits_of(
            encoder, tokenizer, adapters.PROBE_TEXTS, self.plan.max_length
        ).tolist()
        model = self.recipe.model
        info = adapters.AdapterInfo(
            model=model.name,
            revision=model.revision,
            model_sha256=self.model_sha256,
            classes=self.classes,
            max_length=self.plan.max_length,
            precision=encoder.precision,
            trainable=self.plan.trainable,
            probe=tuple(zip(adapters.PROBE_TEXTS, map(tuple, probe), strict=True)),
        )
        adapters.write_adapter(self.files.adapter, encoder, tokenizer, info)

    def _evaluate(
        self, encoder: Encoder, splits: Splits, texts_by_name: Mapping[str, Tokens]
    ) -> dict[str, Any]:
        """Scores and predicts every set but the training rows with the best adapter."""
        found: dict[str, Any] = {}
        for name, texts in splits.named().items():
            if name == "train":
                continue
            logits_BC = predict.packed_logits(
                encoder, texts_by_name[name], self.recipe.evaluation_batch, f"scoring {name}"
            )
            predictions = predict.from_logits(self.classes, logits_BC)
            labels = None if name == "unlabelled" else sources.labels_of(texts)
            predict.write_predictions(
                predictions, self.files.predictions / f"{name}.parquet", labels
            )
            if labels is None:
                predict.write_submission(predictions, self.files.submission)
                found[name] = {"distribution": predictions.distribution()}
            else:
                found[name] = {
                    **results.scores_record(metrics.score(logits_BC, labels), self.classes),
                    "confident_errors": results.confident_errors(predictions, labels, texts.texts),
                }
        return found

    def _verify(self) -> float:
        """Loads the adapter in a fresh process, offline, and compares its logits."""
        command = [
            *(sys.executable, "-m", "budgerigar", "verify", str(self.files.adapter)),
            *("--model", str(self.plan.checkpoint.folder), "--json"),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise AdapterError(
                f"the adapter in {self.files.adapter} does not hold in a fresh process",
                why=said[-1],
                remedy="its predictions cannot be trusted; please report this with the recipe",
            )
        return float(json.loads(done.stdout)["largest_difference"])

    def _finish(
        self,
        encoder: Encoder,
        splits: Splits,
        packed: Mapping[str, PackedTexts],
        outcome: Outcome,
        found: dict[str, Any],
        difference: float,
    ) -> None:
        """Writes results, curves, report and the model card with its figures."""
        from budgerigar.encoder import hardware

        data = {
            name: {**sources.describe(texts, self.classes), "cut": packed[name].cut}
            for name, texts in splits.named().items()
        }
        content: dict[str, Any] = {
            "schema": runs.RESULTS_SCHEMA,
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "classes": list(self.classes),
            "recipe": self.recipe.model_dump(mode="json"),
            "plan": self.plan.to_json(),
            "notes": self.notes,
            "data": data,
            "epochs": self.files.read_epochs(),
            "training": {
                **asdict(outcome),
                "precision": self.precision.name,
                "path": encoder.path,
            },
            "parameters": self.plan.trainable,
            **{name: found.get(name) for name in ("validation", "test", "unlabelled")},
            "verification": {"largest_difference": difference},
            "model": {"name": self.recipe.model.name, "sha256": self.model_sha256},
            "seconds": self.seconds,
            "versions": runs.versions(__version__),
            "hardware": hardware.describe(self.device),
        }
        report.draw_curves(
            [report.Curve(self.recipe.name, content["epochs"])], self.files.path / "curves"
        )
        report.write_report(content, self.files.report)
        info = adapters.read_info(self.files.adapter)
        card = adapters.model_card(info, results.headline(content))
        write_text(self.files.adapter / "README.md", card)
        write_json(self.files.results, content)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)


def _cut_notes(packed: Mapping[str, PackedTexts], max_length: int) -> list[str]:
    return [
        f"{texts.cut} of {len(texts)} {name} texts are cut at {max_length} tokens"
        for name, texts in packed.items()
        if texts.cut
    ]


def _resolve(recipe: str | Path | Recipe, overrides: Mapping[str, Any]) -> Recipe:
    if not isinstance(recipe, Recipe):
        return recipe_text.read(recipe, overrides=overrides)
    return recipe_text.change(recipe, overrides)
