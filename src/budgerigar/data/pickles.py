"""Reads a pickled data set without letting the pickle run anything.

A pickle is a program that names functions and calls them. Here every name that a
`datasets.Dataset`, a pandas frame or plain lists need stands for an inert record that
keeps its arguments; any other name is refused. When the pickle has ended, texts and
numbers are read out of the records by the code below.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from budgerigar.errors import DataError, RefusedPickle

if TYPE_CHECKING:
    import pyarrow as pa

ADMITTED: dict[str, tuple[str, ...]] = {
    "builtins": (
        "bytearray",
        "slice",
        "set",
        "frozenset",
        "object",
    ),
    "__builtin__": (
        "bytearray",
        "slice",
        "set",
        "frozenset",
        "object",
    ),
    "_codecs": ("encode",),
    "copyreg": ("_reconstructor",),
    "copy_reg": ("_reconstructor",),
    "collections": (
        "OrderedDict",
        "defaultdict",
    ),
    "numpy": (
        "ndarray",
        "dtype",
    ),
    "numpy._core.multiarray": (
        "_reconstruct",
        "scalar",
    ),
    "numpy.core.multiarray": (
        "_reconstruct",
        "scalar",
    ),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.core.numeric": ("_frombuffer",),
    "pyarrow.lib": (
        "type_for_alias",
        "schema",
        "field",
        "py_buffer",
        "chunked_array",
        "_restore_array",
        "_reconstruct_record_batch",
        "_reconstruct_table",
    ),
    "datasets.arrow_dataset": ("Dataset",),
    "datasets.info": ("DatasetInfo",),
    "datasets.splits": ("NamedSplit",),
    "datasets.features.features": (
        "Features",
        "Value",
        "ClassLabel",
    ),
    "datasets.utils.version": ("Version",),
    "datasets.table": (
        "ConcatenationTable",
        "InMemoryTable",
    ),
    "pandas": (
        "DataFrame",
        "Series",
        "Index",
        "RangeIndex",
        "StringDtype",
        "NA",
    ),
    "pandas.arrays": (
        "StringArray",
        "ArrowStringArray",
    ),
    "pandas.core.frame": ("DataFrame",),
    "pandas.core.series": ("Series",),
    "pandas.core.indexes.base": (
        "_new_Index",
        "Index",
    ),
    "pandas.core.indexes.range": ("RangeIndex",),
    "pandas.core.indexes.numeric": ("Int64Index",),
    "pandas.core.internals.blocks": ("new_block",),
    "pandas.core.internals.managers": (
        "BlockManager",
        "SingleBlockManager",
    ),
    "pandas.core.arrays.string_": (
        "StringArray",
        "StringDtype",
    ),
    "pandas.core.arrays.string_arrow": ("ArrowStringArray",),
    "pandas._libs.internals": ("_unpickle_block",),
    "pandas._libs.missing": ("NA",),
    "pandas._libs.arrays": ("__pyx_unpickle_NDArrayBacked",),
}
"""Module -> names in it that a data set's pickle may mention."""

FILE_BACKED = "datasets.table.MemoryMappedTable"
PLAIN_TYPES = re.compile(r"[biuf]\d+|\?|U\d+")
MANAGER_STATE = "0.14.1"
"""Key under which pandas' managers keep their state since that version."""


class _Record:
    """Stands for an admitted name or the result of calling it: keeps arguments, does nothing."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> _Record:
        record = super().__new__(cls)
        record.arguments, record.state, record.items = arguments, None, {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    items: dict[Any, Any]


class _Inert(pickle._Unpickler):
    # The Python version keeps its memo in a dictionary: the C one allocates as many slots as
    # a hostile index asks for.
    def find_class(self, module: str, name: str) -> type[_Record]:
        full = f"{module}.{name}"
        if full == FILE_BACKED:
            raise RefusedPickle(
                "the pickle names a file instead of holding its texts",
                why="it is of a data set that lay on disk",
                remedy="write the data set with to_parquet instead",
            )
        if name not in ADMITTED.get(module, ()):
            raise RefusedPickle(
                f"the pickle wants to use {full}",
                why="texts and numbers do not need it; nothing was run",
                remedy="convert the data to CSV, JSON lines or Parquet where you trust it",
            )
        return type("_Named", (_Record,), {"name": full})

    def persistent_load(self, key: Any) -> Any:
        raise RefusedPickle("the pickle refers to objects outside of itself", remedy="convert it")


def read_pickle(path: Path) -> tuple[pa.Table, tuple[str, ...] | None]:
    """The columns of a pickled data set, and its class names where it has them.

    Takes a `datasets.Dataset` in memory, a pandas frame or series, a list of texts, of
    `(text, label)` pairs or of records, and a mapping of columns.

    Raises:
        RefusedPickle: when it names anything else; nothing of it ran.
        DataError: when it is cut short, or holds something that is no table of texts.
    """
    try:
        content = _Inert(io.BytesIO(path.read_bytes())).load()
    except DataError as error:
        raise type(error)(f"{path}: {error.what}", why=error.why, remedy=error.remedy) from error
    except Exception as error:
        raise DataError(
            f"{path} is not a whole pickle",
            why=f"{type(error).__name__}: {error}"[:160],
            remedy="copy the file again",
        ) from error
    try:
        return _table(content)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} holds no table of texts that can be read",
            why=f"{type(error).__name__}: {error}"[:160],
            remedy="convert the data to CSV, JSON lines or Parquet",
        ) from error


def _table(content: Any) -> tuple[pa.Table, tuple[str, ...] | None]:
    import pyarrow as pa

    if isinstance(content, _Record):
        name = _class_name(content)
        if name == "Dataset":
            return _dataset(content.state)
        if name == "DataFrame":
            return _frame(content.state["_mgr" if "_mgr" in content.state else "_data"]), None
        if name == "Series":
            series = _frame(content.state["_mgr" if "_mgr" in content.state else "_data"])
            return series.rename_columns(["text"]), None
        if name == "_reconstruct" or name == "_frombuffer":
            return pa.table({"text": _column(_numpy(content).tolist())}), None
        content = content.items
    if isinstance(content, dict):
        return pa.table({str(key): _column(_values(value)) for key, value in content.items()}), None
    rows = list(content)
    if rows and all(isinstance(row, dict) for row in rows):
        columns = list(rows[0])
        return pa.table({str(c): _column([row[c] for row in rows]) for c in columns}), None
    if rows and all(isinstance(row, (tuple, list)) and len(row) == 2 for row in rows):
        texts, labels = zip(*rows, strict=True)
        return pa.table({"text": _column(texts), "label": _column(labels)}), None
    return pa.table({"text": _column(rows)}), None


def _class_name(record: _Record) -> str:
    """The last part of its name; protocols 0 and 1 make objects by way of `_reconstructor`."""
    if record.name.endswith("._reconstructor"):
        return _class_name(record.arguments[0])
    return record.name.rpartition(".")[2]


def _values(value: Any) -> Iterable[Any]:
    if isinstance(value, _Record):
        return _numpy(value).tolist()  # type: ignore[no-any-return]
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"a column is a list, not {type(value).__name__}")
    return value


def _column(values: Iterable[Any]) -> pa.Array:
    """Plain values as an Arrow array; what stands for a missing value becomes null."""
    import pyarrow as pa

    plain = [None if _is_missing(value) else _plain(value) for value in values]
    return pa.array(plain)


def _is_missing(value: Any) -> bool:
    return value is None or isinstance(value, type) or (isinstance(value, float) and value != value)


def _plain(value: Any) -> Any:
    if isinstance(value, _Record) and value.name.endswith("multiarray.scalar"):
        kind = _dtype(value.arguments[0])
        return np.frombuffer(_bytes(value.arguments[1]), kind)[0].item()
    if not isinstance(value, (str, int, float, bool)):
        raise TypeError(f"{type(value).__name__} is neither text nor number")
    return value


def _bytes(value: Any) -> bytes:
    """Bytes as any protocol writes them."""
    if isinstance(value, _Record):
        if value.name.endswith("bytearray"):
            return _bytes(value.arguments[0]) if value.arguments else b""
        if value.name == "_codecs.encode" and value.arguments[1] == "latin1":
            return str(value.arguments[0]).encode("latin1")
        raise TypeError(f"{value.name} holds no bytes")
    return bytes(memoryview(value))


def _dtype(record: Any) -> np.dtype[Any]:
    code = record.arguments[0]
    order: Any = record.state[1] if record.state else "|"
    if code in ("O", "O8"):
        return np.dtype(object)
    if not isinstance(code, str) or not PLAIN_TYPES.fullmatch(code) or order not in "<>|=":
        raise TypeError(f"arrays of type {code!r} are not read")
    return np.dtype(code).newbyteorder(order)


def _numpy(record: Any) -> np.ndarray:
    """A numpy array from its record, its content copied."""
    if record.name.endswith("_frombuffer"):
        buffer, kind, shape, layout = record.arguments
        return np.frombuffer(_bytes(buffer), _dtype(kind)).reshape(shape, order=layout)
    _, shape, kind, fortran, raw = record.state
    order: Literal["C", "F"] = "F" if fortran else "C"
    if _dtype(kind).hasobject:
        flat = np.empty(len(raw), dtype=object)
        flat[:] = raw
        return flat.reshape(shape, order=order)
    return np.frombuffer(_bytes(raw), _dtype(kind)).reshape(shape, order=order)


def _arrow(record: Any) -> pa.Array:
    """An Arrow array from its buffers, checked in full before anything reads it."""
    import pyarrow as pa

    if record.name == "pyarrow.lib.chunked_array":
        return pa.chunked_array([_arrow(one) for one in record.arguments[0]]).combine_chunks()
    kind, length, nulls, offset, buffers, children, *_ = record.arguments[0]
    if kind.name != "pyarrow.lib.type_for_alias" or children:
        raise TypeError("nested Arrow columns are not read")
    filled = [None if b is None else pa.py_buffer(_bytes(b.arguments[0])) for b in buffers]
    array = pa.Array.from_buffers(
        pa.type_for_alias(kind.arguments[0]), length, filled, nulls, offset
    )
    array.validate(full=True)
    return array


def _dataset(state: dict[str, Any]) -> tuple[pa.Table, tuple[str, ...] | None]:
    table = _stored(state["_data"])
    if state.get("_indices") is not None:
        table = table.take(_stored(state["_indices"]).column(0))
    features = state["_info"].state.get("features")
    named = (
        {}
        if features is None
        else (features.arguments[0] if features.arguments else features.items)
    )
    lists = [
        tuple(map(str, feature.state["names"]))
        for feature in named.values()
        if _class_name(feature) == "ClassLabel"
    ]
    return table, lists[0] if len(lists) == 1 else None


def _stored(record: Any) -> pa.Table:
    """One of the tables of `datasets`: in memory, or concatenated of such ones."""
    import pyarrow as pa

    if _class_name(record) == "ConcatenationTable":
        below = []
        for beside in record.state["blocks"]:
            columns: dict[str, Any] = {}
            for block in beside if isinstance(beside, list) else [beside]:
                part = _stored(block)
                columns.update(zip(part.column_names, part.columns, strict=True))
            below.append(pa.table(columns))
        return pa.concat_tables(below)
    arrays, schema = record.state["table"].arguments
    names = [field.arguments[0] for field in schema.arguments[0]]
    return pa.table(dict(zip(names, map(_arrow, arrays), strict=True)))


def _frame(manager: Any) -> pa.Table:
    """The columns of a pandas frame or series, from its block manager."""
    import pyarrow as pa

    blocks: Sequence[tuple[Any, Any]]
    if manager.state is not None:
        kept = manager.state[-1][MANAGER_STATE]
        axes = kept["axes"]
        blocks = [(block["values"], block["mgr_locs"]) for block in kept["blocks"]]
    else:
        kept_blocks, axes = manager.arguments[:2]
        blocks = [(block.arguments[0], block.arguments[1]) for block in kept_blocks]
    if len(axes) == 1:
        return pa.table({"text": _block_columns(blocks[0][0])[0]})
    names = _index(axes[0])
    columns: dict[int, pa.Array] = {}
    for values, places in blocks:
        columns.update(zip(_places(places), _block_columns(values), strict=True))
    return pa.table({str(names[place]): columns[place] for place in sorted(columns)})


def _places(record: Any) -> list[int]:
    if record.name.endswith(".slice"):
        return list(range(*record.arguments))
    return _numpy(record).tolist()  # type: ignore[no-any-return]


def _block_columns(values: Any) -> list[pa.Array]:
    """The columns of a block: rows of a numpy array, or one extension array."""
    if _class_name(values) == "ArrowStringArray":
        state = values.state
        return [_arrow(state["_pa_array" if "_pa_array" in state else "_data"])]
    if _class_name(values) in ("__pyx_unpickle_NDArrayBacked", "StringArray"):
        parts = values.state if isinstance(values.state, tuple) else values.arguments
        values = next(p for p in parts if isinstance(p, _Record) and "numpy" in p.name and p.state)
    array = _numpy(values)
    return [_column(row.tolist()) for row in (array if array.ndim == 2 else [array])]


def _index(record: Any) -> list[Any]:
    """The labels of an axis."""
    content = record.arguments[1]
    if "start" in content:
        return list(range(content["start"], content["stop"], content["step"]))
    return _block_columns(content["data"])[0].to_pylist()  # type: ignore[no-any-return]
