"""Every reader of what others wrote, with inputs that it takes and a way to spoil them.

A target is a reader with whole inputs. `spoil` changes them at random: bytes of any file, values of
JSON and YAML. A reader may take what comes out or refuse it with a `BudgieError`; anything else is
a fault. The tests run a few of them, `benchmarks/faults/fuzz.py` a million.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import json
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import yaml

TEXTS = ["first &lt;b&gt; \\ text", " second ", 'third "one", with\na line', "vi\u00e9r"]
LABELS = [1, 0, 2, 1]
RECORDS = [{"text": t, "label": n} for t, n in zip(TEXTS, LABELS, strict=True)]
ODD_VALUES: list[Any] = [
    None, True, -1, 0, 3, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "x",
    "adamw", "last:2", "0-99999999999", "\ud800", "../../etc/passwd", "x" * 5000, [], [[]], {},
    {"": None}, {"name": 3}, [None] * 50,
]  # fmt: skip
"""Values in the place of others."""
TOKENS = [b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b'"', b"\n", b",", b"{", b"[",
          b": ", b"- ", b"!!python/object/apply:os.system ['false']", b"&a [*a]", b"cos\nsystem\n",
          b"R", b".", b"[" * 30_000,
          b"\x80\x04", b"PAR1", b"ARROW1", b"1e999", b"NaN", b"\xed\xa0\x80", b"<<: "]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        file: the name of the file that it reads, in a folder with what else it needs.
        whole: contents that it takes.
        read: reads the file.
        form: `json` or `yaml` where values are to be spoilt too.
        prepare: puts beside the file what the reader needs.
    """

    file: str
    whole: tuple[bytes, ...]
    read: Callable[[Path], object]
    form: str = ""
    prepare: Callable[[Path], None] = lambda folder: None


def spoil(draw: random.Random, target: Target) -> bytes:
    """One of the whole contents, changed at one to six places."""
    content = draw.choice(target.whole)
    if target.form and draw.random() < 0.6:
        return _spoil_values(draw, target.form, content)
    spoilt = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        first = draw.randint(0, len(spoilt))
        last = min(len(spoilt), first + draw.choice((0, 1, 1, 2, 4, 30)))
        kind = draw.randrange(6)
        if kind == 0 and last > first:
            spoilt[first] ^= 1 << draw.randrange(8)
        elif kind == 1:
            spoilt[first:last] = draw.randbytes(last - first)
        elif kind == 2:
            del spoilt[first:last]
        elif kind == 3:
            spoilt[first:last] = draw.choice(TOKENS)
        elif kind == 4:
            other = draw.choice(target.whole)
            start = draw.randint(0, len(other))
            spoilt[first:last] = other[start : start + draw.randint(1, 200)]
        else:
            spoilt[first:last] *= draw.randint(2, 9)
    if draw.random() < 0.1:
        del spoilt[draw.randint(0, len(spoilt)) :]
    return bytes(spoilt)


def _spoil_values(draw: random.Random, form: str, content: bytes) -> bytes:
    """The same JSON or YAML with odd values at some places."""
    tree = copy.deepcopy(_parsed(form, content))
    for _ in range(draw.randint(1, 3)):
        places = [(tree, key) for key in _keys(tree)]
        for part, key in places:
            if len(places) < 400:
                places.extend((part[key], inner) for inner in _keys(part[key]))
        if not places:
            break
        part, key = draw.choice(places)
        kind = draw.randrange(4)
        if kind == 0:
            del part[key]
        elif kind == 1 and isinstance(part, dict):
            part[draw.choice((f"{key}x", "name", "schema", "\ud800"))] = part.pop(key)
        elif kind == 2 and isinstance(part, list):
            part.extend(part[:3])
        else:
            part[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    if form == "yaml":
        tree = json.loads(json.dumps(tree))
    return json.dumps(tree, ensure_ascii=draw.random() < 0.5).encode(errors="surrogatepass")


@functools.cache
def _parsed(form: str, content: bytes) -> Any:
    return json.loads(content) if form == "json" else yaml.safe_load(content)


def _keys(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return list(tree)
    return list(range(len(tree))) if isinstance(tree, list) else []


def targets(run: Path, base: Any, recipe: Path) -> dict[str, Target]:
    """Every target.

    Args:
        run: a finished run, for its files.
        base: the `paths.Base` of its model.
        recipe: a recipe's file.
    """
    from budgerigar import recipe_text
    from recorded import comparison_of_recipes, results_of_a_run

    recipes = (recipe.read_bytes(), *(text.encode() for text in recipe_text.shipped().values()))
    adapter = run / "adapter"
    checkpoint = sorted((run / "checkpoints").glob("step-*.json"))[-1]
    found = {
        "pickle": Target("a.pkl", _pickles(), _texts),
        "csv": Target("a.csv", _delimited(","), _both),
        "tsv": Target("a.tsv", _delimited("\t"), _both),
        "txt": Target("a.txt", ("\n".join(TEXTS).encode(), b"\xef\xbb\xbfa\r\n\r\nb"), _texts),
        "jsonl": Target("a.jsonl", (_lines(RECORDS), _lines(RECORDS * 3)), _both),
        "json": Target("a.json", tuple(_lines([one]) for one in RECORDS), _both, "json"),
        "parquet": Target("a.parquet", (_parquet("snappy"), _parquet("none")), _both),
        "arrow": Target("a.arrow", (_arrow(pa.ipc.new_file), _arrow(pa.ipc.new_stream)), _both),
        "feather": Target("a.feather", (_feather(),), _both),
        "recipe": Target("a.yaml", recipes, recipe_text.read, "yaml"),
        "space": Target("a.yaml", (SPACE,), lambda path: recipe_text.read_space(path, {}), "yaml"),
        "adapter configuration": _of_adapter(adapter, "adapter_config.json", base, "json"),
        "adapter tensors": _of_adapter(adapter, "adapter_model.safetensors", base),
        "adapter metadata": _of_adapter(adapter, "budgerigar.json", base, "json"),
        "model configuration": _of_model(base, "config.json", _shape, "json"),
        "model weights": _of_model(base, "model.safetensors", lambda path: _weights(path, base)),
        "tokenizer": _of_model(base, "tokenizer.json", _tokenizer, "json"),
        "tokenizer configuration": _of_model(base, "tokenizer_config.json", _tokenizer, "json"),
        "checkpoint": Target(
            checkpoint.name,
            (checkpoint.read_bytes(),),
            _checkpoint,
            "json",
            lambda folder: shutil.copy(checkpoint.with_suffix(".safetensors"), folder) and None,
        ),
        "log of steps": Target("steps.jsonl", ((run / "steps.jsonl").read_bytes(),), _log),
        "results": Target(
            "results.json",
            ((run / "results.json").read_bytes(), _dumped(results_of_a_run())),
            _results,
            "json",
        ),
        "plan of a run": Target("plan.json", ((run / "plan.json").read_bytes(),), _plan, "json"),
        "runs of a comparison": Target("runs.json", (_runs(recipes),), _resumed, "json"),
        "comparison": Target(
            "comparison.json", (_dumped(comparison_of_recipes()),), _comparison, "json"
        ),
        "state of Trainer": Target("trainer_state.json", (STATE,), _state, "json"),
    }
    pages = {
        f"report of {name}": Target(one.file, one.whole, _report, "json")
        for name, one in found.items()
        if name in ("results", "comparison")
    }
    return {**found, **pages}


def _texts(path: Path) -> None:
    from budgerigar import sources

    sources.read_unlabelled(str(path), None)


def _both(path: Path) -> None:
    """As texts with labels, and where those are refused as texts alone."""
    from budgerigar.data import corpus
    from budgerigar.errors import BudgieError

    how = corpus.Columns(None, "label")
    try:
        corpus.read(str(path), how, classes=None, label_base=None, labelled=True)
    except BudgieError:
        _texts(path)


def _of_adapter(adapter: Path, name: str, base: Any, form: str = "") -> Target:
    from budgerigar.encoder import paths

    model = paths.meta_classifier(base.checkpoint, base.classes)
    shapes = {
        f"{layer.path}.{part}": tuple(parameter.shape)
        for layer in base.shape.head
        for part, parameter in model.get_submodule(layer.path).named_parameters(recurse=False)
    }

    def read(path: Path) -> None:
        from budgerigar import adapters
        from budgerigar.encoder import adapter_files

        adapters.read_info(path.parent)
        adapters.read_tensors(path.parent)
        with contextlib.suppress(adapter_files.Obstacle):
            adapter_files.interpret(adapter_files.read_files(path.parent), base.shape, shapes)

    def prepare(folder: Path) -> None:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)

    return Target(name, ((adapter / name).read_bytes(),), read, form, prepare)


def _of_model(base: Any, name: str, read: Callable[[Path], object], form: str = "") -> Target:
    folder: Path = base.checkpoint.folder

    def prepare(place: Path) -> None:
        shutil.copytree(folder, place, dirs_exist_ok=True)

    return Target(name, ((folder / name).read_bytes(),), read, form, prepare)


def _at(path: Path) -> Any:
    from budgerigar.encoder import checkpoints

    return checkpoints.locate(str(path.parent), None, weights=True)


def _shape(path: Path) -> None:
    from budgerigar.encoder import paths, shape

    checkpoint = _at(path)
    paths.unknown_architecture(checkpoint, shape.read_shape(checkpoint, 4))


def _weights(path: Path, base: Any) -> None:
    from budgerigar.encoder import paths

    paths.load_base(dataclasses.replace(base, checkpoint=_at(path)))


def _tokenizer(path: Path) -> None:
    from budgerigar.data import tokens
    from budgerigar.data.texts import Texts

    tokenizer = tokens.load_tokenizer(path.parent, "model")
    tokens.tokenize(Texts(pa.chunked_array([TEXTS])), tokenizer, 16, "texts", 80)


def _checkpoint(path: Path) -> None:
    from budgerigar.training import checkpoint

    checkpoint.newest_common([path.parent])


def _log(path: Path) -> None:
    from budgerigar.runs import RunFolder

    RunFolder(path.parent).rewind(20, 2)


def _results(path: Path) -> None:
    from budgerigar.runs import RunFolder

    RunFolder(path.parent).read_results()


def _plan(path: Path) -> None:
    from budgerigar import run_stages
    from budgerigar.runs import RunFolder

    run_stages.read_beginning(RunFolder(path.parent))


def _runs(recipes: tuple[bytes, ...]) -> bytes:
    from budgerigar import recipe_text

    listed = [recipe_text.from_tree(yaml.safe_load(one), "recipe") for one in recipes[:2]]
    return _dumped({"schema": 2, "runs": [one.model_dump(mode="json") for one in listed]})


def _resumed(path: Path) -> None:
    from budgerigar import comparison

    comparison.read_runs(comparison.ComparisonFolder(path.parent))


def _comparison(path: Path) -> None:
    from budgerigar.comparison import Comparison

    found = Comparison(path.parent)
    assert found.table()
    assert isinstance(found.words, list)


def _report(path: Path) -> None:
    from budgerigar import pipeline

    pipeline.report(path, path.parent)


def _state(path: Path) -> None:
    from budgerigar.reports import trainer_state

    trainer_state.read_curves([path])


def _dumped(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _delimited(delimiter: str) -> tuple[bytes, ...]:
    frame = pd.DataFrame(RECORDS)
    whole = frame.to_csv(index=False, sep=delimiter).encode()
    bare = "".join(f'"{n}"{delimiter}"title"{delimiter}"text"\n' for n in (1, 2, 3)).encode()
    marked = b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n")
    return (whole, marked, bare) if delimiter == "," else (whole, marked)


def _pickles() -> tuple[bytes, ...]:
    import datasets

    table = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})
    classes = datasets.ClassLabel(names=["a", "b", "c"])
    frame = pd.DataFrame(RECORDS)
    values = [
        TEXTS,
        RECORDS,
        dict(frame.items()),
        {"text": np.array(TEXTS), "label": np.array(LABELS)},
        frame,
        frame.convert_dtypes(),
        frame.astype({"text": "category"}),
        frame["text"],
        table,
        table.cast_column("label", classes).shuffle(seed=1),
        datasets.concatenate_datasets([table, table]),
    ]
    return tuple(pickle.dumps(value, protocol) for value in values for protocol in (2, 4, 5))


def _table() -> pa.Table:
    return pa.table({"text": TEXTS, "label": LABELS, "more": [[1], [], None, [2, 3]]})


def _parquet(compression: str) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(_table(), sink, compression=compression)
    return sink.getvalue()


def _arrow(how: Callable[..., Any]) -> bytes:
    sink = io.BytesIO()
    with how(sink, _table().schema) as writer:
        writer.write_table(_table(), max_chunksize=2)
    return sink.getvalue()


def _feather() -> bytes:
    sink = io.BytesIO()
    pa.feather.write_feather(_table(), sink)
    return sink.getvalue()


SPACE = b"""\
recipe: agnews-adamw
space:
  adapter.rank: {low: 1, high: 24, log: true}
  adapter.targets: [[query], [query, value], all]
  optimizer.name: [adamw, rmsprop]
  optimizer.rate: {low: 1e-4, high: 1e-2, log: true}
cohort: 3
trials: 7
"""

STATE = _dumped(
    {
        "best_global_step": 20,
        "log_history": [
            {"epoch": 1.0, "loss": 0.5, "step": 10},
            {"epoch": 1.0, "eval_loss": 0.4, "eval_accuracy": 0.9, "step": 10},
            {"epoch": 2.0, "loss": 0.3, "step": 20},
            {"epoch": 2.0, "eval_loss": 0.35, "eval_accuracy": 0.91, "step": 20},
        ],
    }
)
