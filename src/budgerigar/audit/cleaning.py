"""`budgie inspect --write`: the rows of a file that survive, and a table of what went and why.

`causes` says which rows go.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgerigar.audit import causes
from budgerigar.audit.causes import CAUSES, DROPPED, LEAKS, STAYS
from budgerigar.audit.findings import Example, shortened
from budgerigar.audit.inspection import STDIN, Inspection
from budgerigar.audit.wording import Table as Printed
from budgerigar.console import note, warn
from budgerigar.data.corpus import Corpus
from budgerigar.data.delimited import ROWS
from budgerigar.data.tables import Table, open_table
from budgerigar.data.texts import no_rows
from budgerigar.errors import DataError, RunError, nearest, told
from budgerigar.files import require_place, whole_file
from budgerigar.recipe import Data

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".parquet"
SHOWN = 60
"""Characters of an example in the table."""
OTHER_PLACE = "free the disk or choose another folder with --write; neither file is left"


@dataclass(frozen=True)
class Cause:
    """Why some rows went.

    Attributes:
        code: of the finding.
        rows: how many.
        example: the first of them.
    """

    code: str
    rows: int
    example: Example


@dataclass(frozen=True)
class Cleaned:
    """What was written.

    Attributes:
        written: the file of rows that survived.
        removed: the table of those that went, with row (from 0), label, text and cause.
        kept: rows of the first.
        of: rows of the source.
        causes: the worst first.
    """

    written: Path
    removed: Path
    kept: int
    of: int
    causes: tuple[Cause, ...]

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON; texts are shortened."""
        return {
            "written": str(self.written),
            "removed": str(self.removed),
            "kept": self.kept,
            "of": self.of,
            "causes": [
                {"code": one.code, "rows": one.rows, "example": one.example.to_json()}
                for one in self.causes
            ],
        }

    def describe(self) -> Iterator[str | Printed]:
        """The table of causes, and what stands where."""
        if self.causes:
            rows = [
                (
                    one.code,
                    f"{one.rows:,}",
                    f"row {one.example.row}: {shortened(one.example.text, SHOWN)}",
                )
                for one in self.causes
            ]
            yield Printed("rows that went", ("cause", "rows", "example"), rows)
        yield f"kept {self.kept:,} of {self.of:,} rows: {self.written}; what went: {self.removed}"


@dataclass(frozen=True)
class Cleaning:
    """A clean file that is to be written; all that can be refused beforehand has been.

    Attributes:
        source: what is cleaned.
        table: its columns; None for standard input, which is read but once.
        schema: of the clean file.
        path: of the clean file.
        drop: codes of the findings whose rows go.
    """

    source: str
    table: Table | None
    schema: pa.Schema
    path: Path
    drop: frozenset[str]

    @property
    def removed(self) -> Path:
        """The table of rows that went."""
        return _removed(self.path)

    def write(self, found: Inspection) -> Cleaned:
        """Writes the rows that survive, and those that went; both files or none.

        Args:
            found: the inspection of the same source.

        Raises:
            DataError: when no row would be left, or the source is not what it was.
            RunError: when the files cannot be written.
        """
        own = found.train
        cause_B = causes.of_rows(found.findings, self.drop, len(own.texts))
        stays_B = cause_B == STAYS
        made = _causes_of(own, cause_B)
        if not stays_B.any():
            raise DataError(
                f"{self.source}: no row would be left, so that nothing is written",
                why=", ".join(f"{one.code} {one.rows:,}" for one in made),
                remedy="name fewer findings with --drop",
            )
        _require_new(self.path, self.removed)
        with _both_or_none(self.path, self.removed) as (clean, removed):
            _write(clean, self.schema, self._surviving(own, stays_B))
            gone = list(_gone(own, cause_B))
            _write(removed, gone[0].schema, iter(gone))
        self._warn(found, stays_B)
        return Cleaned(self.path, self.removed, int(stays_B.sum()), len(stays_B), made)

    def _surviving(self, own: Corpus, stays_B: np.ndarray) -> Iterator[pa.RecordBatch]:
        """The source's rows that stay, in their order, with all columns."""
        import pyarrow as pa

        done = 0
        for batch in self._batches(own):
            kept = stays_B[done : done + batch.num_rows]
            done += batch.num_rows
            if done > len(stays_B):
                break
            with told(lambda why: _unwritable(self.source, why)):
                rows = batch.filter(pa.array(kept))
                rows = rows if rows.schema == self.schema else rows.cast(self.schema)
            yield rows
        if done != len(stays_B):
            raise DataError(
                f"{self.source} has changed while it was inspected",
                remedy="inspect it again, once it is whole",
            )

    def _batches(self, own: Corpus) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        if self.table is not None:
            yield from self.table.read(self.table.columns)
            return
        for texts in own.texts.batches(ROWS):
            yield pa.record_batch([pa.array(texts, pa.string())], schema=self.schema)

    def _warn(self, found: Inspection, stays_B: np.ndarray) -> None:
        """Tells of classes that lose much, names that are lost, and what was not looked for."""
        own = found.train
        if own.labels is not None and own.classes is not None:
            every = np.bincount(own.labels, minlength=len(own.classes))
            gone = np.bincount(own.labels[~stays_B], minlength=len(own.classes))
            lost = [
                f"class {name} loses {'all its' if less == rows else f'{less:,} of {rows:,}'} rows"
                for name, rows, less in zip(own.classes, every.tolist(), gone.tolist(), strict=True)
                if 2 * less > rows
            ]
            if lost:
                warn(f"{self.source}: {', '.join(lost)}")
        read = "model" in found.content
        too_few = any(one.code == "labels-not-judged" for one in found.findings)
        judged = read and own.labels is not None and not too_few
        seen = {"label-suspect": judged, "texts-cut": read}
        unseen = [code for code in seen if code in self.drop and not seen[code]]
        if unseen:
            warn(
                f"{self.source}: {' and '.join(unseen)} could not be looked for; no row goes for it"
            )
        names = self.table.classes if self.table is not None else {}
        for column in names:
            note(
                f"{self.path}: column {column!r} holds numbers; their names "
                f"{', '.join(names[column])} are for data.classes"
            )


def prepare(
    source: str,
    path: Path,
    drop: Sequence[str] | None = None,
    *,
    against: str | None = None,
    columns: Sequence[str] | None = None,
) -> Cleaning:
    """Refuses what can be refused before a source is inspected.

    Args:
        source: what is to be cleaned.
        path: the Parquet file to write; `NAME.removed.parquet` is written beside it.
        drop: codes of findings, of `CAUSES`; `DROPPED` if None.
        against: the other file, if there is one.
        columns: names as `--columns` gives them.

    Raises:
        DataError: for unknown codes, and for columns that cannot be read or written.
        RunError: for a place that cannot be written, or where something stands already.
    """
    if path.suffix.lower() != SUFFIX:
        raise RunError(
            f"--write {path} does not end in {SUFFIX}",
            remedy="a clean file is written as Parquet alone, such as --write clean.parquet",
        )
    chosen = DROPPED if drop is None else tuple(drop)
    for code in chosen:
        if code not in CAUSES:
            raise DataError(
                f"--drop knows no finding {code!r}{nearest(code, CAUSES)}",
                remedy=f"it takes {', '.join(CAUSES)}",
            )
    if drop is not None and against is None and (leaks := [c for c in chosen if c in LEAKS]):
        raise DataError(
            f"--drop {leaks[0]} needs a file that texts leak from",
            remedy="name it with --against, or leave the code out",
        )
    for other in (source, against):
        if other is not None and Path(other).expanduser().resolve() == path.resolve():
            raise RunError(
                f"--write {path} is the file that is inspected", remedy="choose another name"
            )
    if not path.absolute().parent.is_dir():
        raise RunError(
            f"{path} cannot be written: there is no folder {path.parent}",
            remedy="make it, or choose another one with --write",
        )
    _require_new(path, _removed(path))
    with _option_named():
        require_place(path)
    return Cleaning(source, *_opened(source, columns), path, frozenset(chosen))


def _causes_of(own: Corpus, cause_B: np.ndarray) -> tuple[Cause, ...]:
    found = []
    for number, code in enumerate(CAUSES):
        rows = np.flatnonzero(cause_B == number)
        if len(rows):
            first = int(rows[0])
            found.append(Cause(code, len(rows), Example(first, own.texts[first])))
    return tuple(found)


def _gone(own: Corpus, cause_B: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The table of rows that went, in their order; one empty batch where none did."""
    import pyarrow as pa

    fields = [("row", pa.int64()), ("label", pa.string()), ("text", pa.string())]
    schema = pa.schema([*fields, ("cause", pa.string())])
    rows = np.flatnonzero(cause_B != STAYS)
    for first in range(0, max(1, len(rows)), ROWS):
        some = rows[first : first + ROWS]
        labels: list[str | None] = [None] * len(some)
        if own.labels is not None and own.classes is not None:
            labels = [own.classes[label] for label in own.labels[some].tolist()]
        columns = {
            "row": some,
            "label": labels,
            "text": own.texts.take(some),
            "cause": [CAUSES[cause] for cause in cause_B[some].tolist()],
        }
        yield pa.record_batch(columns, schema=schema)


def _opened(source: str, columns: Sequence[str] | None) -> tuple[Table | None, pa.Schema]:
    """A source with the schema of all its rows, which are read for that."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source == STDIN:
        return None, pa.schema({"text": pa.string()})
    label = Data.model_fields["label"].default
    table = open_table(source, tuple(columns) if columns else None, label)
    schemas: list[pa.Schema] = []
    for batch in table.read(table.columns):
        if not schemas or batch.schema != schemas[-1]:
            schemas.append(batch.schema)
    if not schemas:
        raise no_rows(source)
    with told(lambda why: _unwritable(source, why)):
        # Numbers and missing values of JSON lines are typed by what stands in a batch.
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        pq.ParquetWriter(pa.BufferOutputStream(), schema).close()
    return table, schema


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _unwritable(source: str, why: str) -> DataError:
    return DataError(
        f"{source}: its columns cannot be written as Parquet",
        why=why,
        remedy="write the same kind of plain value in every row of a column",
    )


def _removed(path: Path) -> Path:
    return path.with_suffix(f".removed{SUFFIX}")


def _require_new(*paths: Path) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise RunError(f"{path} exists already", remedy="choose another name with --write")


@contextlib.contextmanager
def _option_named() -> Iterator[None]:
    """Names this command's own option where a place cannot be written."""
    try:
        yield
    except RunError as error:
        raise RunError(error.what, why=error.why, remedy=OTHER_PLACE) from error


@contextlib.contextmanager
def _both_or_none(clean: Path, removed: Path) -> Iterator[tuple[Path, Path]]:
    """Temporary paths of two new files that appear at the end, the clean one last."""
    written: dict[Path, int] = {}
    try:
        with (
            _option_named(),
            whole_file(clean) as temporary,
            whole_file(removed) as temporary_removed,
        ):
            yield temporary, temporary_removed
            # Another process may have put a file there meanwhile.
            _require_new(clean, removed)
            for path, own in ((clean, temporary), (removed, temporary_removed)):
                written[path] = own.stat().st_ino
    except BaseException:
        for path, number in written.items():
            with contextlib.suppress(OSError):
                if path.stat().st_ino == number:
                    path.unlink()
        raise
