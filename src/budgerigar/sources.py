"""A recipe's texts: read, split, checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from budgerigar.console import warn
from budgerigar.data import corpus, split
from budgerigar.data.corpus import Columns, Corpus
from budgerigar.data.tokens import load_tokenizer, tokenize
from budgerigar.encoder.checkpoints import Checkpoint
from budgerigar.encoder.cost import Workload
from budgerigar.errors import BudgieError, DataError
from budgerigar.planning import ASSUMED_TEXTS, ASSUMED_TOKENS
from budgerigar.recipe import Data, Recipe

SAMPLED_TEXTS = 500
"""Texts that are tokenized to estimate a run's cost."""


@dataclass(frozen=True)
class Splits:
    """The texts of a run.

    Attributes:
        train, validation: always there.
        test, unlabelled: None where the recipe names none.
        notes: what the user should know about them.
    """

    train: Corpus
    validation: Corpus
    test: Corpus | None
    unlabelled: Corpus | None
    notes: tuple[str, ...]

    def named(self) -> dict[str, Corpus]:
        """The sets that are there, by name."""
        every: dict[str, Corpus | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            "unlabelled": self.unlabelled,
        }
        return {name: texts for name, texts in every.items() if texts is not None}


def columns_of(recipe: Recipe) -> Columns:
    """How the recipe finds texts and labels in a table."""
    return Columns(names=recipe.data.columns, label=recipe.data.label)


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """The recipe's class names, or those of its training rows."""
    if recipe.data.classes is not None:
        return recipe.data.classes
    return corpus.class_names(recipe.data.train, columns_of(recipe), recipe.data.label_base)


def absolute(recipe: Recipe) -> Recipe:
    """The recipe with its files' paths made absolute, so that a run resumes from any folder."""
    changes = {
        name: str(Path(value).resolve())
        for name in ("train", "validation", "test", "unlabelled")
        if isinstance(value := getattr(recipe.data, name), str) and Path(value).exists()
    }
    model, adapter = recipe.model, recipe.adapter
    if Path(model.name).is_dir():
        model = model.model_copy(update={"name": str(Path(model.name).resolve())})
    if adapter.start is not None:
        adapter = adapter.model_copy(update={"start": str(Path(adapter.start).resolve())})
    data = recipe.data.model_copy(update=changes)
    return recipe.model_copy(update={"data": data, "model": model, "adapter": adapter})


def read_splits(recipe: Recipe, classes: Sequence[str]) -> Splits:
    """Reads every set of texts that a recipe names, and splits off what has no file.

    Raises:
        DataError: for texts or labels that cannot be used, naming their rows.
    """
    data, columns = recipe.data, columns_of(recipe)
    train = corpus.read(
        data.train, columns, classes=classes, label_base=data.label_base, labelled=True
    )
    notes = [f"{data.train}: {line}" for line in train.notes]
    if data.max_rows is not None and data.max_rows < len(train.texts):
        train = train.select(
            split.stratified_sample(labels_of(train), data.max_rows, recipe.split_seed)
        )

    def read_other(source: str, labelled: bool) -> Corpus:
        other = corpus.read(
            source, columns, classes=classes, label_base=train.label_base, labelled=labelled
        )
        notes.extend(f"{source}: {line}" for line in other.notes)
        return other

    if isinstance(data.validation, str):
        validation = read_other(data.validation, labelled=True)
    else:
        kept, held_out = split.stratified(
            labels_of(train), train.texts, data.validation, recipe.split_seed, classes
        )
        train, validation = train.select(kept), train.select(held_out)
    notes.extend(corpus.check_classes(labels_of(train), labels_of(validation), classes))
    test = read_other(data.test, labelled=True) if data.test else None
    unlabelled = read_other(data.unlabelled, labelled=False) if data.unlabelled else None
    return Splits(train, validation, test, unlabelled, tuple(notes))


def without(splits: Splits, rows: np.ndarray, classes: Sequence[str]) -> Splits:
    """The splits without some training rows whose labels are suspected wrong.

    Raises:
        DataError: when a class loses all its texts.
    """
    kept = np.setdiff1d(np.arange(len(splits.train.texts)), rows)
    train = splits.train.select(kept)
    before, after = (
        np.bincount(labels_of(texts), minlength=len(classes)) for texts in (splits.train, train)
    )
    if len(lost := np.flatnonzero((before > 0) & (after == 0))):
        raise DataError(
            f"every training text of class {classes[int(lost[0])]} has a label that is suspected "
            "wrong",
            remedy="look at them with budgie inspect, or use data.drop_suspects=false",
        )
    return replace(splits, train=train)


def read_unlabelled(source: str, columns: str | None) -> Corpus:
    """Texts to predict; labels, where there are any, are left aside.

    Args:
        source: a file, `-` for stdin, or a hub data set.
        columns: names as `--columns` gives them, separated by commas.
    """
    names = tuple(name.strip() for name in columns.split(",")) if columns else None
    how = Columns(names=names, label=Data.model_fields["label"].default)
    return corpus.read(source, how, classes=None, label_base=None, labelled=False)


def labels_of(texts: Corpus) -> np.ndarray:
    """The labels of a set that was read as labelled."""
    if texts.labels is None:
        raise DataError(f"{texts.source} has no labels", remedy="name the column with data.label")
    return texts.labels


def describe(texts: Corpus, classes: Sequence[str]) -> dict[str, Any]:
    """A set of texts in a few numbers, for results.json."""
    found: dict[str, Any] = {
        "source": texts.source,
        "texts": len(texts.texts),
        "fingerprint": texts.fingerprint,
    }
    if texts.labels is not None:
        counts = np.bincount(texts.labels, minlength=len(classes))
        found["classes"] = dict(zip(classes, counts.tolist(), strict=True))
    return found


def workload(recipe: Recipe, checkpoint: Checkpoint, max_length: int) -> Workload:
    """How much text a recipe sees: from its own file where that is at hand, else assumed."""
    texts, tokens, measured = ASSUMED_TEXTS, ASSUMED_TOKENS, False
    source = recipe.data.train
    if Path(source).exists() or source.startswith(corpus.EXAMPLE):
        try:
            names = recipe.data.columns
            rows = read_unlabelled(source, ",".join(names) if names else None)
            step = max(1, len(rows.texts) // SAMPLED_TEXTS)
            sample = rows.select(np.arange(0, len(rows.texts), step))
            tokenizer = load_tokenizer(checkpoint.folder, recipe.model.name)
            packed = tokenize(sample.texts, tokenizer, max_length, "a sample")
            texts, tokens, measured = len(rows.texts), float(packed.lengths.mean()), True
        except BudgieError as error:
            warn(f"the cost is estimated without {source}: {error}")
    texts = min(texts, recipe.data.max_rows or texts)
    held_out = 0 if isinstance(recipe.data.validation, str) else int(texts * recipe.data.validation)
    training = texts - held_out
    epochs: float = recipe.epochs
    if recipe.steps is not None:
        epochs = recipe.steps * recipe.batch * recipe.accumulation / training
    return Workload(training, held_out, tokens, epochs, recipe.batch, measured)
