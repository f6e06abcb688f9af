"""What a pickle left behind -> columns of texts and numbers.

Nothing here trusts the records: sizes are limited, arrays are checked in full, and what is
not understood is an exception, which `pickles.py` tells.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from budgerigar.errors import DataError, RefusedPickle

if TYPE_CHECKING:
    import pyarrow as pa

    Column = Callable[[], pa.Array | pa.ChunkedArray]
else:
    Column = Callable

PLAIN_TYPES = re.compile(r"[biuf][0-9]{1,2}|\?|U[0-9]{1,6}")
MISSING = ("pandas.NA", "pandas._libs.missing.NA")
LAST_CHARACTER = 0x10FFFF
MANAGER_STATE = "0.14.1"
"""Key under which pandas' managers keep their state since that version."""

ALWAYS_ALLOWED = 256 << 20
GROWTH = 16
VISIT = 1024
"""Bytes that looking at one record counts as."""


class Record:
    """Stands for an admitted name or the result of calling it: keeps arguments, does nothing."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *arguments: Any, **_: Any) -> Record:
        record = super().__new__(cls)
        record.arguments, record.state, record.items = arguments, None, {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    @property
    def kind(self) -> str:
        """The last part of the name; protocols 0 and 1 make objects by `_reconstructor`."""
        if self.name.endswith("._reconstructor"):
            return _last(self.arguments[0])
        return _last(self)


class Limit:
    """What the content may grow to: a pickle can name one text a billion times.

    Args:
        size: bytes of the pickle.
    """

    def __init__(self, size: int) -> None:
        self._all = self._left = ALWAYS_ALLOWED + GROWTH * size

    def spend(self, size: int) -> None:
        """Counts bytes that are about to be used.

        Raises:
            RefusedPickle: when they are too many.
        """
        self._left -= size
        if self._left < 0:
            raise RefusedPickle(
                f"the pickle would grow to more than {self._all >> 20:,} MiB",
                why="it names the same content again and again",
                remedy="convert the data to CSV, JSON lines or Parquet where you trust it",
            )


def columns_of(content: Any, limit: Limit) -> tuple[dict[str, Column], dict[str, tuple[str, ...]]]:
    """The columns of an unpickled table, and the class names of those that have some.

    Raises:
        DataError: when two columns have one name.
        Exception: of many kinds, when it is no table.
    """
    columns, classes = _Tables(limit).columns(content)
    found: dict[str, Column] = {}
    for name, column in columns:
        if str(name) in found:
            raise DataError(f"two columns are called {name!r}", remedy="rename one of them")
        found[str(name)] = column
    if not found:
        raise TypeError("it is empty")
    return found, classes


class _Tables:
    def __init__(self, limit: Limit) -> None:
        self._limit = limit

    def columns(self, content: Any) -> tuple[list[tuple[Any, Column]], dict[str, tuple[str, ...]]]:
        if isinstance(content, Record):
            if content.kind == "Dataset":
                return self._dataset(content.state), _class_lists(content.state)
            if content.kind in ("DataFrame", "Series"):
                state = content.state
                return self._frame(state["_mgr" if "_mgr" in state else "_data"]), {}
            if content.kind in ("_reconstruct", "_frombuffer"):
                return [("text", self._later(content))], {}
        content = _mapping(content)
        if isinstance(content, dict):
            lengths = {len(value) for value in content.values() if isinstance(value, (list, tuple))}
            if len(lengths) > 1:
                raise TypeError("its columns have different numbers of rows")
            return [(key, self._later(value)) for key, value in content.items()], {}
        if not isinstance(content, (list, tuple)):
            raise TypeError(f"it is a {type(content).__name__}")
        rows = [_mapping(row) for row in content]
        if rows and all(isinstance(row, dict) for row in rows):
            # A row that lacks a key of the others has a missing value there.
            names = dict.fromkeys(name for row in rows for name in row)
            return [(n, functools.partial(self._column_of_rows, rows, n)) for n in names], {}
        if rows and all(isinstance(row, (tuple, list)) and len(row) == 2 for row in rows):
            pairs = zip(("text", "label"), (0, 1), strict=True)
            return [(n, functools.partial(self._column_of_rows, rows, p)) for n, p in pairs], {}
        return [("text", self._later(rows))], {}

    def _later(self, values: Any) -> Column:
        return functools.partial(self._column, values)

    def _column_of_rows(self, rows: list[Any], key: Any) -> pa.Array:
        if isinstance(rows[0], dict):
            return self._column([row.get(key) for row in rows])
        return self._column([row[key] for row in rows])

    def _column(self, values: Any) -> pa.Array | pa.ChunkedArray:
        """Plain values as an Arrow array; what stands for a missing value becomes null."""
        import pyarrow as pa

        if isinstance(values, Record):
            if values.kind == "Series":
                return self._frame(values.state["_mgr"])[0][1]()
            values = self._numpy(values).tolist()
        if not isinstance(values, (list, tuple, range)):
            raise TypeError(f"a column is a list, not {type(values).__name__}")
        plain: list[Any] = []
        for row, value in enumerate(values, 1):
            plain.append(None if _is_missing(value) else self._plain(value, row))
            self._limit.spend(len(plain[-1]) + 8 if isinstance(plain[-1], str) else 8)
        return pa.array(plain)

    def _plain(self, value: Any, row: int) -> Any:
        if isinstance(value, Record) and value.name.endswith("multiarray.scalar"):
            return self._flat(value.arguments[1], _dtype(value.arguments[0]))[0].item()
        if not isinstance(value, (str, int, float, bool)):
            kind_name = value.kind if isinstance(value, Record) else type(value).__name__
            raise TypeError(f"row {row:,} holds {kind_name}, neither text nor number")
        if isinstance(value, str):
            # Arrow says where in a text, but not in which row.
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise TypeError(f"row {row:,} is no valid text: {error}") from error
        return value

    def _bytes(self, value: Any) -> bytes:
        """Bytes as any protocol writes them."""
        if isinstance(value, Record):
            if value.name.endswith(".bytearray"):
                return self._bytes(value.arguments[0]) if value.arguments else b""
            if value.name == "_codecs.encode" and value.arguments[1] == "latin1":
                self._limit.spend(len(value.arguments[0]))
                return str(value.arguments[0]).encode("latin1")
            raise TypeError(f"{value.name} holds no bytes")
        view = memoryview(value)
        self._limit.spend(view.nbytes)
        return bytes(view)

    def _numpy(self, record: Any) -> np.ndarray:
        """A numpy array from its record, its content copied."""
        self._limit.spend(VISIT)
        if record.name.endswith("._frombuffer"):
            buffer, kind, shape, layout = record.arguments
            return self._flat(buffer, _dtype(kind)).reshape(shape, order=layout)
        _, shape, kind, fortran, raw = record.state
        order: Literal["C", "F"] = "F" if fortran else "C"
        if _dtype(kind).hasobject:
            flat = np.empty(len(raw), dtype=object)
            flat[:] = raw
            return flat.reshape(shape, order=order)
        return self._flat(raw, _dtype(kind)).reshape(shape, order=order)

    def _flat(self, raw: Any, dtype: np.dtype[Any]) -> np.ndarray:
        content = self._bytes(raw)
        if dtype.kind == "U":
            # numpy makes broken strings of numbers that are no characters.
            characters = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder))
            if (characters > LAST_CHARACTER).any():
                raise TypeError("it holds no valid texts")
        return np.frombuffer(content, dtype)

    def _arrow(self, record: Any) -> list[pa.Array]:
        """Arrow arrays from their buffers, checked in full before anything reads them."""
        import pyarrow as pa

        self._limit.spend(VISIT)
        if record.name == "pyarrow.lib.chunked_array":
            return [array for one in record.arguments[0] for array in self._arrow(one)]
        kind, length, nulls, offset, buffers, children, *_ = record.arguments[0]
        if kind.name != "pyarrow.lib.type_for_alias" or children:
            raise TypeError(f"{kind.name.rpartition('.')[2]} columns of Arrow are not read")
        if not 0 <= length < 1 << 48 or not 0 <= offset < 1 << 48:
            raise TypeError("an array of impossible length")
        self._limit.spend(length)
        filled = [
            None if buffer is None else pa.py_buffer(self._bytes(buffer.arguments[0]))
            for buffer in buffers
        ]
        named = pa.type_for_alias(kind.arguments[0])
        array = pa.Array.from_buffers(named, length, filled, nulls, offset)
        array.validate(full=True)
        return [array]

    def _chunked(self, records: Iterable[Any]) -> pa.ChunkedArray:
        import pyarrow as pa

        arrays = [array for record in records for array in self._arrow(record)]
        return pa.chunked_array([array.cast(arrays[0].type) for array in arrays])

    def _dataset(self, state: dict[str, Any]) -> list[tuple[Any, Column]]:
        indices = state.get("_indices")

        @functools.cache
        def order() -> pa.ChunkedArray:
            return self._chunked(next(iter(self._stored(indices).values())))

        def column(records: list[Any]) -> pa.ChunkedArray:
            values = self._chunked(records)
            if indices is None:
                return values
            self._limit.spend(_taken_bytes(values, order()))
            return values.take(order())

        stored = self._stored(state["_data"])
        return [(name, functools.partial(column, records)) for name, records in stored.items()]

    def _stored(self, record: Any) -> dict[Any, list[Any]]:
        """Arrays of each column of a table of `datasets`: in memory, or concatenated."""
        self._limit.spend(VISIT)
        if record.kind != "ConcatenationTable":
            arrays, schema = record.state["table"].arguments
            names = [field.arguments[0] for field in schema.arguments[0]]
            return {name: [array] for name, array in zip(names, arrays, strict=True)}
        found: dict[Any, list[Any]] = {}
        for beside in record.state["blocks"]:
            for block in beside if isinstance(beside, list) else [beside]:
                for name, arrays in self._stored(block).items():
                    self._limit.spend(8 * len(arrays))
                    found.setdefault(name, []).extend(arrays)
        return found

    def _frame(self, manager: Any) -> list[tuple[Any, Column]]:
        """The columns of a pandas frame or series, from its block manager."""
        blocks: Sequence[tuple[Any, Any]]
        if manager.state is not None:
            kept = manager.state[-1][MANAGER_STATE]
            axes = kept["axes"]
            blocks = [(block["values"], block["mgr_locs"]) for block in kept["blocks"]]
        else:
            kept_blocks, axes = manager.arguments[:2]
            blocks = [block.arguments[:2] for block in kept_blocks]
        if len(axes) == 1:
            return [("text", functools.partial(self._block_column, blocks[0][0], 0))]
        names = self._index(axes[0])
        columns: dict[int, Column] = {}
        for values, places in blocks:
            for number, place in enumerate(self._places(places, len(names))):
                self._limit.spend(VISIT)
                columns[place] = functools.partial(self._block_column, values, number)
        return [(names[place], columns[place]) for place in sorted(columns)]

    def _places(self, record: Any, width: int) -> Sequence[int]:
        if record.name.endswith(".slice"):
            return range(*record.arguments)[: width + 1]
        return self._numpy(record).tolist()  # type: ignore[no-any-return]

    def _block_column(self, values: Any, number: int) -> pa.Array | pa.ChunkedArray:
        """A column of a block: a row of a numpy array, or an extension array."""
        import pyarrow as pa

        if values.kind in ("ArrowStringArray", "ArrowExtensionArray"):
            state = values.state
            return self._chunked([state["_pa_array" if "_pa_array" in state else "_data"]])
        if values.kind in ("IntegerArray", "FloatingArray", "BooleanArray"):
            mask = self._numpy(values.state["_mask"])
            return pa.array(self._numpy(values.state["_data"]), mask=mask)
        if values.kind in ("__pyx_unpickle_NDArrayBacked", "StringArray", "Categorical"):
            parts = values.state if isinstance(values.state, tuple) else values.arguments
            stored = next(p for p in parts if isinstance(p, Record) and p.kind in ARRAYS and (
                p.state or p.arguments))  # fmt: skip
            dtype = next((p for p in parts if _is_categorical(p)), None)
            if dtype is not None:
                return self._categories(self._numpy(stored), dtype.state["categories"])
            values = stored
        array = self._numpy(values)
        return self._column((array[number] if array.ndim == 2 else array).tolist())

    def _categories(self, codes: np.ndarray, index: Any) -> pa.Array:
        import pyarrow as pa

        names = self._column(self._index(index))
        places = pa.array(codes, mask=codes < 0)
        self._limit.spend(_taken_bytes(names, places))
        return names.take(places)

    def _index(self, record: Any) -> Sequence[Any]:
        """The labels of an axis."""
        content = record.arguments[1]
        if "start" in content:
            return range(content["start"], content["stop"], content["step"])
        return self._block_column(content["data"], 0).to_pylist()  # type: ignore[no-any-return]


ARRAYS = ("_reconstruct", "_frombuffer")


def _last(record: Any) -> str:
    name: str = record.name
    return name.rpartition(".")[2]


def _mapping(value: Any) -> Any:
    """A dictionary of one of the kinds that `collections` has as a plain one."""
    is_one = isinstance(value, Record) and value.name.startswith("collections.")
    return value.items if is_one else value


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return value != value
    return value is None or (isinstance(value, type) and getattr(value, "name", "") in MISSING)


def _is_categorical(part: Any) -> bool:
    return isinstance(part, Record) and part.kind == "CategoricalDtype"


def _dtype(record: Any) -> np.dtype[Any]:
    code = record.arguments[0]
    order: Any = record.state[1] if record.state else "|"
    if code in ("O", "O8"):
        return np.dtype(object)
    if not isinstance(code, str) or not PLAIN_TYPES.fullmatch(code) or order not in "<>|=":
        raise TypeError(f"arrays of type {code!r} are not read")
    return np.dtype(code).newbyteorder(order)


def _taken_bytes(values: Any, places: Any) -> int:
    """Bytes that taking some places of an array makes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return 8 * len(places) + (pc.sum(pc.binary_length(values).take(places)).as_py() or 0)
    return 16 * len(places)


def _class_lists(state: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Class names of the `ClassLabel` columns of a data set."""
    features = state["_info"].state.get("features")
    if features is None:
        return {}
    named = features.arguments[0] if features.arguments else features.items
    return {
        str(column): tuple(map(str, feature.state["names"]))
        for column, feature in named.items()
        if isinstance(feature, Record) and feature.kind == "ClassLabel"
    }
