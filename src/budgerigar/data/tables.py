"""Files and hub data sets -> named columns in batches, never a whole file in memory.

Rows are counted from 1; headers, and empty lines of CSV and JSON files, are not among them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from budgerigar import hub
from budgerigar.data.delimited import ROWS, Delimited, first_bad_byte, not_utf8
from budgerigar.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE = "example:"
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow",
            ".feather", ".pkl", ".pickle")  # fmt: skip
HUB_SECONDS = 8
"""How long the hub may take to answer at all."""

CHECK = "check that the file is whole and that its ending is right"

Reader = Callable[[Sequence[str]], "Iterator[pa.RecordBatch]"]
"""Takes names of columns, gives batches with these columns."""


@dataclass(frozen=True)
class Table:
    """An opened source.

    Attributes:
        columns: their names.
        read: reads some of them, from the first row on; standard input only once.
        classes: class names of each column whose integers the source itself names.
        typed: whether the source tells texts from numbers.
        notes: what the user should be told.
    """

    columns: tuple[str, ...]
    read: Reader
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    typed: bool = True
    notes: tuple[str, ...] = ()


def open_table(source: str, names: tuple[str, ...] | None, label: str) -> Table:
    """Opens a source.

    Args:
        source: a file, a folder of `datasets`, `-`, `example:FILE`, or a hub name with `:split`.
        names: columns by position, for a file without a header.
        label: name of the label column, which tells a header from a row.

    Raises:
        DataError: when it is not there, is not what its ending says, or names a column twice.
            Reading its batches raises it too.
    """
    with _told(source):
        table = _open(source, names, label)
    twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
    if twice:
        raise DataError(f"{source} has two columns {twice[0]!r}", remedy="rename one of them")

    def read(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with _told(source):
            yield from table.read(wanted)

    return replace(table, read=read)


def example(source: str) -> Path:
    """The path of a file that ships with the project.

    Raises:
        DataError: when there is none of that name.
    """
    name = source.removeprefix(EXAMPLE)
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "examples", package.parents[1] / "examples"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no example {name} ships with budgerigar", remedy="see examples/ for them")


@contextlib.contextmanager
def _told(source: str) -> Iterator[None]:
    """Tells what the libraries below raise in one line."""
    try:
        yield
    except (OSError, ValueError, LookupError, NotImplementedError, MemoryError) as error:
        # Arrow's own exceptions are of these kinds; a damaged file asks for any size.
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"{source} cannot be read", why=" ".join(why.split())[:160], remedy=CHECK
        ) from error


def _open(source: str, names: tuple[str, ...] | None, label: str) -> Table:
    if source == "-":
        return Table(("text",), lambda _: _lines(sys.stdin.buffer, "standard input"))
    path = example(source) if source.startswith(EXAMPLE) else Path(source).expanduser()
    if path.is_dir():
        return _saved_folder(path, "")
    if path.exists():
        return _open_file(path, names, label)
    folder, _, split = source.rpartition(":")
    if folder and Path(folder).expanduser().is_dir():
        return _saved_folder(Path(folder).expanduser(), split)
    if path.suffix.lower() in SUFFIXES or source.startswith((".", "/", "~")):
        raise DataError(f"{source} does not exist", remedy="check the file's name")
    return _hub(source)


def _open_file(path: Path, names: tuple[str, ...] | None, label: str) -> Table:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        file = Delimited(path, "\t" if suffix == ".tsv" else ",", names, label)
        return Table(file.columns, file.read, typed=False, notes=file.notes)
    if suffix == ".txt":
        return Table(("text",), lambda _: _text_file(path))
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path)
    if suffix == ".parquet":
        return _parquet(path)
    if suffix in (".arrow", ".feather"):
        return _arrow(path)
    if suffix in (".pkl", ".pickle"):
        from budgerigar.data.pickles import open_pickle

        pickled = open_pickle(path)
        return Table(pickled.columns, pickled.batches, classes=pickled.classes)
    raise DataError(
        f"{path} has an ending that is not known", remedy=f"use one of {', '.join(SUFFIXES)}"
    )


def _text_file(path: Path) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as file:
        yield from _lines(file, str(path))


def _lines(file: IO[bytes], name: str) -> Iterator[pa.RecordBatch]:
    """One text a line; an empty line is an empty text."""
    import pyarrow as pa

    def decoded() -> Iterator[str]:
        offset = 0
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                # A byte order mark is not part of what this decoder counts.
                start = len(raw) - len(error.object) + error.start
                raise not_utf8(
                    f"{name}, row {number:,}", raw[start], offset + start, "FILE"
                ) from error
            offset += len(raw)
            yield text.removesuffix("\n").removesuffix("\r")

    for chunk in _chunks(decoded()):
        yield pa.record_batch({"text": pa.array(chunk, pa.string())})


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, ROWS)):
        yield chunk


def _json_lines(path: Path) -> Table:
    """One JSON object a line; a key that an object lacks is null."""
    import pyarrow as pa

    first = next(_chunks(_records(path)), None)
    if first is None:
        raise DataError(f"{path} is empty", remedy="check the file")

    def read(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        done = 0
        for chunk in _chunks(_records(path)):
            columns = {
                name: _json_column(path, name, [record.get(name) for record in chunk], done)
                for name in wanted
            }
            done += len(chunk)
            yield pa.record_batch(columns)

    return Table(tuple(dict.fromkeys(itertools.chain.from_iterable(first))), read)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            raise ValueError("it has a key twice")
        return record

    row = 0
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            row += 1
            try:
                text = line.decode("utf-8-sig" if row == 1 else "utf-8")
                record = json.loads(text, object_pairs_hook=unique)
            except UnicodeDecodeError as error:
                offset, byte = first_bad_byte(path) or (0, 0)
                raise not_utf8(f"{path}, row {row:,}", byte, offset, path.name) from error
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, row {row:,} is not JSON",
                    why=str(error)[:120],
                    remedy="write one JSON object a line",
                ) from error
            if not isinstance(record, dict):
                raise DataError(
                    f"{path}, row {row:,} is not a JSON object", remedy="write one object a line"
                )
            yield record


def _json_column(path: Path, name: str, values: list[Any], rows_before: int) -> pa.Array:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, UnicodeError, OverflowError) as error:
        kinds = [type(value) for value in values]
        expected = next(kind for kind in kinds if kind is not type(None))
        place = next(
            (place for place, kind in enumerate(kinds) if kind not in (expected, type(None))), None
        )
        row = f"row {rows_before + place + 1:,}" if place is not None else (
            f"rows {rows_before + 1:,} to {rows_before + len(values):,}"
        )  # fmt: skip
        raise DataError(
            f"{path}, {row}: column {name!r} cannot be read",
            why=" ".join(str(error).split())[:120],
            remedy="write the same kind of value in every row",
        ) from error


def _parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, memory_map=True)

    def read(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from _valid(path, file.iter_batches(ROWS, columns=list(wanted)), wanted)

    return Table(tuple(file.schema_arrow.names), read)


def _arrow(path: Path) -> Table:
    import pyarrow as pa

    def stored() -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        mapped = pa.memory_map(str(path))
        try:
            opened = pa.ipc.open_file(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            stream = pa.ipc.open_stream(mapped)
            return stream.schema, iter(stream)
        numbers = range(opened.num_record_batches)
        return opened.schema, (opened.get_batch(number) for number in numbers)

    def read(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return _valid(path, stored()[1], wanted)

    return Table(tuple(stored()[0].names), read)


def _valid(
    path: Path, batches: Iterator[pa.RecordBatch], wanted: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Some columns, in batches of `ROWS`, checked: offsets of a damaged file lead anywhere."""
    import pyarrow as pa

    done = 0
    for whole in batches:
        batch = whole.select(list(wanted))
        for name, column in zip(wanted, batch.columns, strict=True):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                raise DataError(
                    f"{path}, rows {done + 1:,} to {done + batch.num_rows:,}: column {name!r} "
                    "is damaged",
                    why=" ".join(str(error).split())[:120],
                    remedy=CHECK,
                ) from error
        for first in range(0, batch.num_rows, ROWS):
            yield batch.slice(first, ROWS)
        done += batch.num_rows


def _saved_folder(folder: Path, split: str) -> Table:
    from datasets import Dataset, DatasetDict, load_from_disk

    try:
        saved: Any = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"folder {folder} holds no data set that datasets can read",
            why=" ".join(str(error).split())[:160],
            remedy="give a file, or a folder written by save_to_disk",
        ) from error
    if isinstance(saved, DatasetDict):
        wanted = split or "train"
        if wanted not in saved:
            raise DataError(
                f"folder {folder} has no split {wanted!r}{nearest(wanted, saved)}",
                remedy=f"name one as {folder}:SPLIT, of {', '.join(saved)}",
            )
        saved = saved[wanted]
    elif split:
        raise DataError(f"folder {folder} has no splits", remedy=f"name it without :{split}")
    assert isinstance(saved, Dataset)
    return _from_datasets(saved)


def _hub(source: str) -> Table:
    name, _, split = source.partition(":")
    reachable = _hub_answers(name)
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        return _from_datasets(load_dataset(name, split=split or "train"))
    except Exception as error:
        raise DataError(
            f"data set {source} is no file here and cannot be loaded from the hub",
            why=hub.reason(error, reachable),
            remedy="check name and network, or pass a local file in its place, in a recipe such "
            "as --set data.train=FILE",
        ) from error


def _hub_answers(name: str) -> bool:
    """Whether the hub answers within seconds; where not, its libraries use their copies alone.

    They try again for minutes where a server accepts and stays silent, or a proxy is down.
    """
    connected: list[bool] = []
    # Looking up a name has no time limit of its own.
    thread = threading.Thread(target=lambda: connected.append(hub.connect()), daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    import datasets.config
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    answered = bool(connected and connected[0])
    if answered:
        try:
            HfApi().dataset_info(name, timeout=HUB_SECONDS / 2)
        except HfHubHTTPError as error:
            answered = error.response.status_code < 500
        except HFValidationError:
            pass
        except Exception:
            answered = False
    if not answered:
        # Both libraries look at their own copy of the setting.
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    return answered


def _from_datasets(dataset: Any) -> Table:
    classes = {
        name: tuple(feature.names)
        for name, feature in dataset.features.items()
        if type(feature).__name__ == "ClassLabel"
    }

    def read(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        chosen = dataset.select_columns(list(wanted)).with_format("arrow")
        for table in chosen.iter(batch_size=ROWS):
            yield from table.to_batches()

    return Table(tuple(dataset.column_names), read, classes=classes)
