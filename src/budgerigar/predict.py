"""Adapter folder + texts -> probabilities; submission files.

The one path for validation, test, prediction and submission: what is measured is
what is handed in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import softmax

from budgerigar.adapters import AdapterInfo, read_info, read_tensors
from budgerigar.console import Progress, note, warn
from budgerigar.data.tokens import PackedTexts, TextSource, load_tokenizer, tokenize
from budgerigar.encoder.interface import Encoder, Tokens
from budgerigar.errors import AdapterError, DataError, ModelError
from budgerigar.files import require_place, whole_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}
"""Largest difference of a logit that rounding explains, by number type of the products."""

FORMATS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Prediction:
    """One text's class (None where the classifier abstains) and its probability."""

    label: str | None
    probability: float


class Predictions(Sequence[Prediction]):
    """Predictions in the order of the texts.

    Attributes:
        classes: class names.
        probabilities: `[B, C]`.
        abstain: below this probability a text stays open.
    """

    def __init__(
        self, classes: tuple[str, ...], probabilities: np.ndarray, abstain: float = 0.0
    ) -> None:
        self.classes, self.probabilities, self.abstain = classes, probabilities, abstain

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        best = int(self.probabilities[row].argmax())
        probability = float(self.probabilities[row, best])
        return Prediction(None if probability < self.abstain else self.classes[best], probability)

    @property
    def labels(self) -> list[str | None]:
        """The class of each text."""
        return [prediction.label for prediction in self]

    @property
    def indices(self) -> np.ndarray:
        """The number of each text's most likely class, abstaining or not, `[B]`."""
        indices: np.ndarray = self.probabilities.argmax(axis=1)
        return indices

    def distribution(self) -> dict[str, int]:
        """How many texts each class got, and how many stay open under an empty name."""
        open_B = self.probabilities.max(axis=1, initial=0.0) < self.abstain
        counts = np.bincount(self.indices[~open_B], minlength=len(self.classes))
        found = {name: int(counts[c]) for c, name in enumerate(self.classes)}
        return {**found, "": int(open_B.sum())} if self.abstain else found


class TextClassifier:
    """An adapter on its base, ready to predict."""

    def __init__(self, encoder: Encoder, info: AdapterInfo, adapter: Path, vocabulary: int) -> None:
        self._encoder, self.info, self._vocabulary = encoder, info, vocabulary
        self._tokenizer = load_tokenizer(adapter, f"adapter {adapter}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their numbers."""
        return self.info.classes

    def predict(
        self, texts: Sequence[str], *, batch: int = 64, abstain: float = 0.0
    ) -> Predictions:
        """Classes and probabilities of some texts.

        Args:
            texts: the texts, any number.
            batch: texts in a forward pass.
            abstain: texts whose best probability is lower stay open.
        """
        if isinstance(texts, str):
            raise DataError("predict takes a list of texts", why="it was given a single string")
        return self.predict_source(_ListOfTexts(texts), batch=batch, abstain=abstain)

    def predict_source(
        self, texts: TextSource, *, batch: int = 64, abstain: float = 0.0
    ) -> Predictions:
        """As `predict`, for texts that are read in pieces."""
        packed = tokenize(texts, self._tokenizer, self.info.max_length, "texts", self._vocabulary)
        if packed.cut:
            note(f"{packed.cut} of {len(packed)} texts are cut at {self.info.max_length} tokens")
        logits_BC = packed_logits(self._encoder, packed, batch, "predicting")
        return from_logits(self.classes, logits_BC, abstain)

    def verify(self) -> float:
        """Compares the probe's logits with those from when the adapter was written.

        Returns:
            The largest difference of a logit.

        Raises:
            AdapterError: when it is larger than rounding explains.
        """
        texts = [text for text, _ in self.info.probe]
        expected_BC = np.array([row for _, row in self.info.probe])
        found_BC = logits_of(self._encoder, self._tokenizer, texts, self.info.max_length)
        difference = float(np.abs(found_BC - expected_BC).max())
        allowed = max(
            PROBE_TOLERANCE[self.info.precision], PROBE_TOLERANCE[self._encoder.precision]
        )
        if not difference <= allowed:
            raise AdapterError(
                f"the adapter does not give the logits that it gave when it was written: "
                f"they differ by {difference:.3g}",
                why=f"rounding in {self.info.precision} explains {allowed:g}",
                remedy="check that adapter and base model are the right files",
            )
        return difference


def load(adapter: str | Path, model: str | None = None) -> TextClassifier:
    """Loads an adapter folder onto its base model.

    Args:
        adapter: the folder that a run left under `adapter/`.
        model: where the base model is now, if not where the folder says.

    Raises:
        AdapterError: when the folder is not whole, is empty, or belongs to another base.
        ModelError: when the base model is not there.
    """
    from budgerigar.encoder import checkpoints, hardware, paths, shape

    folder = Path(adapter)
    info = read_info(folder)
    _require_trained(folder)
    try:
        checkpoint = checkpoints.locate(model or info.model, info.revision, weights=True)
    except ModelError as error:
        raise ModelError(
            error.what, why=error.why, remedy="say where the base model is with --model FOLDER"
        ) from error
    sha256 = checkpoint.sha256()
    if sha256 != info.model_sha256:
        raise AdapterError(
            f"adapter {folder} belongs to another base than {checkpoint.name}",
            why="the SHA-256 of the weights differs from the one in budgerigar.json",
            remedy="pass the base that it was trained on with --model",
        )
    where = hardware.device()
    precision = hardware.resolve_precision(info.precision, where)
    if precision.note:
        warn(precision.note)
    classes = len(info.classes)
    base = paths.Base(
        checkpoint=checkpoint,
        shape=shape.read_shape(checkpoint, classes),
        classes=classes,
        precision=precision.name,
        device=where,
        sha256=sha256,
    )
    encoder = paths.from_adapter(base, folder)
    return TextClassifier(encoder, info, folder, base.shape.vocabulary)


def _require_trained(folder: Path) -> None:
    """Refuses an adapter that is damaged, or whose updates are all zero."""
    updates = [tensor for name, tensor in read_tensors(folder).items() if ".lora_B." in name]
    if not any(bool(tensor.any()) for tensor in updates):
        raise AdapterError(
            f"adapter {folder} changes nothing",
            why="all of its updates are zero",
            remedy="train it, or use the adapter of a finished run",
        )


def from_logits(
    classes: tuple[str, ...], logits_BC: np.ndarray, abstain: float = 0.0
) -> Predictions:
    """Predictions from logits `[B, C]`."""
    return Predictions(classes, softmax(logits_BC.astype(np.float64), axis=1), abstain)


def logits_of(
    encoder: Encoder, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> np.ndarray:
    """Logits `[B, C]` of a few texts, in one forward pass and without a progress display."""
    import torch

    rows = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    ids_T = np.concatenate([np.array(row, dtype=np.int32) for row in rows])
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    packed = PackedTexts(ids_T, offsets, cut=0)
    with torch.inference_mode():
        return encoder.logits(packed, np.arange(len(packed)), dropout=None).cpu().numpy()


def packed_logits(
    encoder: Encoder, texts: Tokens, batch: int, label: str, first: int | None = None
) -> np.ndarray:
    """Logits `[B, C]`, float32, in the order of the texts; texts of like length go together.

    Args:
        encoder: computes.
        texts: prepared or not.
        batch: texts in a forward pass, fewer where they are long.
        label: names the stage in the progress display.
        first: only so many texts from the beginning; None takes all.
    """
    import torch

    from budgerigar.encoder import frozen, hardware

    lengths = np.diff(texts.offsets)[:first]
    if len(lengths) == 0:
        raise DataError("there are no texts", remedy="check the file")
    order = np.argsort(-lengths, kind="stable")
    pieces, done = [], 0
    tokens = frozen.PASS_TOKENS[encoder.device.type]
    # What training frees does not fit these batches, nor what they free its own.
    hardware.give_back_freed_memory()
    with torch.inference_mode(), Progress(label, len(order)) as bar:
        while done < len(order):
            longest, size = int(lengths[order[done]]), batch
            while size > 1 and size * longest > tokens:
                size //= 2  # Few sizes, as a library may make a kernel for each.
            rows = order[done : done + size]
            pieces.append(encoder.logits(texts, rows, dropout=None).cpu().numpy())
            bar.update(done := done + len(rows))
    hardware.give_back_freed_memory()
    logits_BC = np.empty((len(order), pieces[0].shape[1]), dtype=np.float32)
    logits_BC[order] = np.concatenate(pieces)
    return logits_BC


def write_predictions(
    predictions: Predictions, path: Path, labels: np.ndarray | None = None
) -> None:
    """Writes row, label and probabilities as Parquet, CSV or JSONL, by the file's ending.

    Args:
        predictions: to write; an abstained label is empty.
        path: its ending chooses the format.
        labels: true class numbers `[B]`, for a column `true`.

    Raises:
        DataError: when the ending is none of `FORMATS`.
    """
    check_format(path)
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet

    columns: dict[str, object] = {"row": range(len(predictions)), "label": predictions.labels}
    if labels is not None:
        columns["true"] = [predictions.classes[label] for label in labels]
    for number, name in enumerate(predictions.classes):
        columns[f"p_{name}"] = predictions.probabilities[:, number]
    table = pa.table(columns)
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            pa_parquet.write_table(table, temporary)
        elif path.suffix == ".csv":
            pa_csv.write_csv(table, temporary)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json_lines(predictions))


def check_format(path: Path) -> None:
    """Refuses a file that cannot be written, or whose ending is none of `FORMATS`."""
    if path.suffix not in FORMATS:
        raise DataError(
            f"{path} has an ending that predictions cannot have",
            remedy=f"use one of {', '.join(FORMATS)}",
        )
    require_place(path)


def json_lines(predictions: Predictions) -> Iterator[str]:
    """One JSON object a line: row, label, and probabilities by class."""
    for row, prediction in enumerate(predictions):
        probabilities = predictions.probabilities[row].round(6).tolist()
        record = {
            "row": row,
            "label": prediction.label,
            "probabilities": dict(zip(predictions.classes, probabilities, strict=True)),
        }
        yield json.dumps(record, ensure_ascii=False) + "\n"


def write_submission(
    predictions: Predictions,
    path: Path,
    header: tuple[str, str] = ("ID", "Label"),
    labels: Literal["index", "name"] = "index",
) -> None:
    """Writes a competition's CSV: a header and one row for each text, in order, from 0.

    Args:
        predictions: of every text.
        path: the file.
        header: names of the two columns.
        labels: class numbers from 0, or class names.
    """
    with whole_file(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row, index in enumerate(predictions.indices.tolist()):
                writer.writerow([row, index if labels == "index" else predictions.classes[index]])
        with temporary.open(encoding="utf-8", newline="") as file:
            written = sum(1 for _ in csv.reader(file)) - 1
        if written != len(predictions):
            raise DataError(f"{path} would hold {written} rows for {len(predictions)} texts")


@dataclass(frozen=True)
class _ListOfTexts:
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)

    def batches(self, size: int) -> Iterator[list[str]]:
        for first in range(0, len(self.texts), size):
            yield list(self.texts[first : first + size])
