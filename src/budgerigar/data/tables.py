"""Files and hub data sets -> named columns in batches, never a whole file in memory."""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgerigar import hub
from budgerigar.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLE = "example:"
BLOCK = 4 << 20
ROWS = 10_000
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow",
            ".feather", ".pkl", ".pickle")  # fmt: skip
TEXT_COLUMNS = ("text", "title", "description", "sentence", "content", "headline", "body", "review")
OFFICIAL_LAYOUT = ("label", "title", "description")
"""The columns of AG News' own CSV files, which have no header."""


@dataclass(frozen=True)
class Table:
    """An opened source.

    Attributes:
        columns: their names.
        batches: Arrow record batches with these columns.
        class_names: where the source itself names the classes of its integer labels.
        notes: what the user should be told.
    """

    columns: tuple[str, ...]
    batches: Iterator[pa.RecordBatch]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def open_table(source: str, names: tuple[str, ...] | None, label: str) -> Table:
    """Opens a source; rows are counted from 1, a header not among them.

    Args:
        source: a file, a folder of `datasets`, `-`, `example:FILE`, or a hub name with `:split`.
        names: columns by position, for a file without a header.
        label: name of the label column, which tells a header from a row.

    Raises:
        DataError: when it is not there, or is not what its ending says.
    """
    if source == "-":
        return _lines(iter(sys.stdin.buffer), "standard input")
    if source.startswith(EXAMPLE):
        source = str(example(source))
    path = Path(source).expanduser()
    if path.is_file():
        return _open_file(path, names, label)
    folder, _, split = source.rpartition(":")
    if path.is_dir() or (folder and Path(folder).is_dir()):
        return _saved_folder(source if path.is_dir() else folder, "" if path.is_dir() else split)
    if path.suffix.lower() in SUFFIXES or source.startswith((".", "/", "~")):
        raise DataError(f"{source} does not exist", remedy="check the file's name")
    return _hub(source)


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


def _open_file(path: Path, names: tuple[str, ...] | None, label: str) -> Table:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _delimited(path, "\t" if suffix == ".tsv" else ",", names, label)
    if suffix == ".txt":
        return _lines(path.open("rb"), str(path))
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path)
    if suffix in (".pkl", ".pickle"):
        from budgerigar.data.pickles import read_pickle

        table, class_names = read_pickle(path)
        return Table(tuple(table.column_names), iter(table.to_batches()), class_names)
    if suffix in (".parquet", ".arrow", ".feather"):
        return _arrow(path)
    raise DataError(
        f"{path} has an ending that is not known", remedy=f"use one of {', '.join(SUFFIXES)}"
    )


def _delimited(path: Path, delimiter: str, names: tuple[str, ...] | None, label: str) -> Table:
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    check_utf8(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next(csv.reader(file, delimiter=delimiter), None)
    if first is None:
        raise DataError(f"{path} is empty", remedy="check the file")
    columns, has_header, notes = _header(path, tuple(first), names, label)
    ragged: list[Any] = []

    def on_ragged(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        reader = pa_csv.open_csv(
            path,
            pa_csv.ReadOptions(
                column_names=list(columns), skip_rows=int(has_header), block_size=BLOCK
            ),
            pa_csv.ParseOptions(
                delimiter=delimiter,
                newlines_in_values=True,
                # In a single column an empty line is an empty text.
                ignore_empty_lines=len(columns) > 1,
                invalid_row_handler=on_ragged,
            ),
            pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in columns}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV file" in str(error) or "no rows" in str(error).lower():
            return Table(columns, iter(()), notes=notes)
        raise _unreadable(path, error) from error

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for batch in reader:
                _refuse_ragged(path, ragged)
                yield batch
        except pa.ArrowInvalid as error:
            raise _unreadable(path, error) from error
        _refuse_ragged(path, ragged)

    return Table(columns, batches(), notes=notes)


def _header(
    path: Path, first: tuple[str, ...], names: tuple[str, ...] | None, label: str
) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
    """Column names, whether the first row holds them, and what to say about it."""
    cells = [cell.strip() for cell in first]
    if {label, *TEXT_COLUMNS, *(names or ())} & set(cells):
        twice = sorted({cell for cell in cells if cells.count(cell) > 1})
        if twice:
            raise DataError(f"{path} has two columns {twice[0]!r}", remedy="rename one of them")
        return tuple(cells), True, ()
    if names is not None:
        if len(names) != len(first):
            raise DataError(
                f"{path} has {len(first)} columns and no header, but {len(names)} names were given",
                remedy="name every column in order with --columns",
            )
        return names, False, ()
    if len(first) == 3 and cells[0].isdigit():
        note = "no header: read as AG News' own layout, class from 1, title, description"
        return (label, *OFFICIAL_LAYOUT[1:]), False, (note,)
    raise DataError(
        f"{path} has no header that names a text column",
        why=f"its first row is {', '.join(cells)[:80]!r}",
        remedy="name the columns in order, such as --columns label,title,text",
    )


def _refuse_ragged(path: Path, ragged: list[Any]) -> None:
    if ragged:
        row = ragged[0]
        # Single-threaded reading numbers rows from the header, or from the first row without.
        where = f"row {row.number}" if row.number is not None else "a row"
        raise DataError(
            f"{path}, {where}: {row.actual_columns} columns instead of {row.expected_columns}",
            why=f"it reads {row.text[:60]!r}",
            remedy="quote texts that contain the separator",
        )


def check_utf8(path: Path) -> None:
    """Reads a file through once and refuses bytes that are not UTF-8.

    Raises:
        DataError: naming the first such byte, its place and its line.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line = 0, 1
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                bad = max(error.start - held, 0)
                byte = error.object[error.start]
                line += block[:bad].count(b"\n")
                raise DataError(
                    f"{path}, line {line}: byte 0x{byte:02x} at offset "
                    f"{offset - held + error.start} is not UTF-8",
                    remedy=f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name}",
                ) from error
            if not block:
                return
            offset += len(block)
            line += block.count(b"\n")


def _lines(lines: Any, name: str) -> Table:
    """One text a line."""
    import pyarrow as pa

    def decoded() -> Iterator[str]:
        for number, raw in enumerate(lines, 1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{name}, line {number}: byte 0x{raw[error.start]:02x} is not UTF-8",
                    remedy="convert the file to UTF-8",
                ) from error
            yield text.rstrip("\r\n")

    def batches() -> Iterator[pa.RecordBatch]:
        for chunk in _chunks(decoded()):
            yield pa.record_batch({"text": pa.array(chunk, pa.string())})

    return Table(("text",), batches())


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, ROWS)):
        yield chunk


def _json_lines(path: Path) -> Table:
    import pyarrow as pa

    check_utf8(path)

    def records() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(
                        f"{path}, line {number} is not JSON",
                        why=str(error)[:120],
                        remedy="write one JSON object a line",
                    ) from error
                if not isinstance(record, dict):
                    raise DataError(
                        f"{path}, line {number} is not a JSON object",
                        remedy="write one object a line",
                    )
                yield record

    every = records()
    first = next(every, None)
    if first is None:
        raise DataError(f"{path} is empty", remedy="check the file")
    columns = tuple(first)

    def batches() -> Iterator[pa.RecordBatch]:
        done = 0
        for chunk in _chunks(itertools.chain([first], every)):
            arrays = {}
            for name in columns:
                try:
                    arrays[name] = pa.array([record.get(name) for record in chunk])
                except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                    raise DataError(
                        f"{path}, rows {done + 1} to {done + len(chunk)}: column {name!r} mixes "
                        "kinds of values",
                        why=str(error)[:120],
                        remedy="write the same kind in every row",
                    ) from error
            done += len(chunk)
            yield pa.record_batch(arrays)

    return Table(columns, batches())


def _arrow(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            file = pq.ParquetFile(path, memory_map=True)
            return Table(tuple(file.schema_arrow.names), file.iter_batches(ROWS))
        mapped = pa.memory_map(str(path))
        with contextlib.suppress(pa.ArrowInvalid):
            opened = pa.ipc.open_file(mapped)
            count = opened.num_record_batches
            return Table(
                tuple(opened.schema.names), (opened.get_batch(number) for number in range(count))
            )
        mapped.seek(0)
        stream = pa.ipc.open_stream(mapped)
        return Table(tuple(stream.schema.names), iter(stream))
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def _saved_folder(folder: str, split: str) -> Table:
    from datasets import Dataset, DatasetDict, load_from_disk

    try:
        saved: Any = load_from_disk(folder)
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
    assert isinstance(saved, Dataset)
    return _from_datasets(saved)


def _hub(source: str) -> Table:
    reachable = hub.connect()
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    name, _, split = source.partition(":")
    disable_progress_bar()
    try:
        return _from_datasets(load_dataset(name, split=split or "train"))
    except Exception as error:
        raise DataError(
            f"data set {source} is no file here and cannot be loaded from the hub",
            why=hub.reason(error, reachable),
            remedy="check name and network, or pass a local file: --set data.train=FILE",
        ) from error


def _from_datasets(dataset: Any) -> Table:
    named = {
        name: tuple(feature.names)
        for name, feature in dataset.features.items()
        if type(feature).__name__ == "ClassLabel"
    }

    def batches() -> Iterator[pa.RecordBatch]:
        for table in dataset.with_format("arrow").iter(batch_size=ROWS):
            yield from table.to_batches()

    classes = next(iter(named.values())) if len(named) == 1 else None
    return Table(tuple(dataset.column_names), batches(), class_names=classes)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as {path.suffix.lower().lstrip('.')}",
        why=" ".join(str(error).split())[:160],
        remedy="check that the file is whole and that its ending is right",
    )
