"""Reads a pickled data set without letting the pickle run anything.

A pickle is a program that names functions and calls them. Here every name that a
`datasets.Dataset`, a pandas frame or plain lists need stands for an inert record that
keeps its arguments; any other name is refused. When the pickle has ended, texts and
numbers are read out of the records by `records.py`.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from budgerigar.data.delimited import ROWS
from budgerigar.data.records import Column, Limit, Record, columns_of
from budgerigar.errors import DataError, RefusedPickle

if TYPE_CHECKING:
    import pyarrow as pa

BUILTINS = "bool bytearray dict float frozenset int list object set slice str tuple"
COPYREG = "_reconstructor"
MULTIARRAY = "_reconstruct scalar"
MASKED = "IntegerArray Int8Dtype Int16Dtype Int32Dtype Int64Dtype"
UNSIGNED = "UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype"

ADMITTED: dict[str, str] = {
    "builtins": BUILTINS,
    "__builtin__": BUILTINS,
    "_codecs": "encode",
    "copyreg": COPYREG,
    "copy_reg": COPYREG,
    "collections": "OrderedDict defaultdict",
    "datetime": "date datetime time timedelta timezone",
    "pytz": "_UTC _p",
    "numpy": "ndarray dtype",
    "numpy._core.multiarray": MULTIARRAY,
    "numpy.core.multiarray": MULTIARRAY,
    "numpy._core.numeric": "_frombuffer",
    "numpy.core.numeric": "_frombuffer",
    "pyarrow.lib": "type_for_alias schema field py_buffer chunked_array _restore_array"
    " _reconstruct_record_batch _reconstruct_table list_ large_list struct timestamp dictionary",
    "datasets.arrow_dataset": "Dataset",
    "datasets.info": "DatasetInfo",
    "datasets.splits": "NamedSplit Split SplitDict SplitInfo",
    "datasets.features.features": "Features Value ClassLabel Sequence List LargeList",
    "datasets.utils.version": "Version",
    "datasets.table": "ConcatenationTable InMemoryTable",
    "pandas": "ArrowDtype BooleanDtype Categorical CategoricalDtype DataFrame DatetimeIndex"
    " DatetimeTZDtype Float32Dtype Float64Dtype Index MultiIndex NA PeriodDtype RangeIndex Series"
    f" StringDtype TimedeltaIndex {MASKED} {UNSIGNED}",
    "pandas.arrays": "ArrowExtensionArray ArrowStringArray BooleanArray DatetimeArray"
    " FloatingArray IntegerArray PeriodArray StringArray TimedeltaArray",
    "pandas.core.frame": "DataFrame",
    "pandas.core.series": "Series",
    "pandas.core.indexes.base": "_new_Index Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.indexes.numeric": "Int64Index UInt64Index Float64Index",
    "pandas.core.indexes.datetimes": "_new_DatetimeIndex DatetimeIndex",
    "pandas.core.indexes.multi": "MultiIndex",
    "pandas.core.internals.blocks": "new_block",
    "pandas.core.internals.managers": "BlockManager SingleBlockManager",
    "pandas.core.arrays.arrow.array": "ArrowExtensionArray",
    "pandas.core.arrays.arrow.dtype": "ArrowDtype",
    "pandas.core.arrays.boolean": "BooleanArray BooleanDtype",
    "pandas.core.arrays.categorical": "Categorical",
    "pandas.core.arrays.datetimes": "DatetimeArray",
    "pandas.core.arrays.floating": "FloatingArray Float32Dtype Float64Dtype",
    "pandas.core.arrays.integer": f"{MASKED} {UNSIGNED}",
    "pandas.core.arrays.period": "PeriodArray",
    "pandas.core.arrays.string_": "StringArray StringDtype",
    "pandas.core.arrays.string_arrow": "ArrowStringArray",
    "pandas.core.arrays.timedeltas": "TimedeltaArray",
    "pandas.core.dtypes.dtypes": "ArrowDtype CategoricalDtype DatetimeTZDtype PeriodDtype",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.missing": "NA",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.tslibs.nattype": "_nat_unpickle",
    "pandas._libs.tslibs.offsets": "Day Hour Minute Second MonthEnd BusinessDay",
    "pandas._libs.tslibs.timestamps": "_unpickle_timestamp",
}
"""Module -> names in it that a data set's pickle may mention; all of them stand for records."""

FILE_BACKED = "datasets.table.MemoryMappedTable"


class _Inert(pickle._Unpickler):
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    # The Python version keeps its memo in a dictionary: the C one allocates as many slots as
    # a hostile index asks for.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> type[Record]:
        full = f"{module}.{name}"
        if full == FILE_BACKED:
            raise RefusedPickle(
                "the pickle names a file instead of holding its texts",
                why="it is of a data set that lay on disk",
                remedy="write the data set with to_parquet instead",
            )
        if name not in ADMITTED.get(module, "").split():
            raise RefusedPickle(
                f"the pickle wants to use {full}",
                why="texts and numbers do not need it; nothing was run",
                remedy="convert the data to CSV, JSON lines or Parquet where you trust it",
            )
        return _stand_in(full)

    def persistent_load(self, key: Any) -> Any:
        raise RefusedPickle("the pickle refers to objects outside of itself", remedy="convert it")

    def get_extension(self, code: int) -> None:
        # Python keeps the objects behind these codes and hands them out without find_class.
        raise RefusedPickle(
            f"the pickle wants to use what is registered under number {code}",
            why="texts and numbers do not need it; nothing was run",
            remedy="convert the data to CSV, JSON lines or Parquet where you trust it",
        )

    def load_bytearray8(self) -> None:
        # Python's own makes room for any size before it reads.
        (size,) = struct.unpack("<Q", self.read(8))
        content = bytearray(self.read(min(size, sys.maxsize)))
        if len(content) < size:
            raise EOFError("it ends early")
        self.append(content)

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


@functools.cache
def _stand_in(full: str) -> type[Record]:
    return type("Named", (Record,), {"name": full})


@dataclass(frozen=True)
class Pickled:
    """A pickled table; its columns are converted when they are asked for.

    Attributes:
        path: the file.
        by_name: its columns.
        classes: class names of each column that has some.
    """

    path: Path
    by_name: Mapping[str, Column]
    classes: Mapping[str, tuple[str, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.by_name)

    def table(self, wanted: Sequence[str]) -> pa.Table:
        """Some columns.

        Raises:
            DataError: when one of them holds something else than texts or numbers.
        """
        import pyarrow as pa

        found = {}
        for name in wanted:
            try:
                found[name] = self.by_name[name]()
            except DataError as error:
                raise _named(self.path, error) from error
            except Exception as error:
                raise DataError(
                    f"{self.path}: column {name!r} cannot be read",
                    why=_reason(error),
                    remedy="convert the data to CSV, JSON lines or Parquet",
                ) from error
        if len({len(column) for column in found.values()}) > 1:
            lengths = ", ".join(f"{name} {len(column):,}" for name, column in found.items())
            raise DataError(
                f"{self.path}: its columns have different numbers of rows, {lengths}",
                remedy="write as many values into each",
            )
        return pa.table(found)

    def batches(self, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The same in batches."""
        yield from self.table(wanted).to_batches(max_chunksize=ROWS)


def open_pickle(path: Path) -> Pickled:
    """A pickled data set: a `datasets.Dataset` in memory, a pandas frame or series, a list of
    texts, of `(text, label)` pairs or of records, or a mapping of columns.

    Raises:
        RefusedPickle: when it names anything else; nothing of it ran.
        DataError: when it is cut short, or holds something that is no table of texts.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"{path} cannot be read", why=why, remedy="check the file") from error
    try:
        found = _Inert(io.BytesIO(content)).load()
    except DataError as error:
        raise _named(path, error) from error
    except Exception as error:
        raise DataError(
            f"{path} is not a whole pickle", why=_reason(error), remedy="copy the file again"
        ) from error
    try:
        by_name, classes = columns_of(found, Limit(len(content)))
    except DataError as error:
        raise _named(path, error) from error
    except Exception as error:
        raise DataError(
            f"{path} holds no table of texts that can be read",
            why=_reason(error),
            remedy="convert the data to CSV, JSON lines or Parquet",
        ) from error
    return Pickled(path, by_name, classes)


def read_pickle(path: Path) -> pa.Table:
    """All columns of a pickled data set; see `open_pickle`.

    Raises:
        RefusedPickle: when it names more than a data set needs; nothing of it ran.
        DataError: when it is cut short, or a column is none of texts or numbers.
    """
    pickled = open_pickle(path)
    return pickled.table(pickled.columns)


def _named(path: Path, error: DataError) -> DataError:
    return type(error)(f"{path}: {error.what}", why=error.why, remedy=error.remedy)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
