"""Pickles: data sets are read, everything else is refused before it runs."""

from __future__ import annotations

import base64
import copyreg
import datetime
import os
import pickle
import re
import struct
import subprocess
import tracemalloc
import zlib
from collections import OrderedDict, defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgerigar.data import corpus
from budgerigar.data.corpus import Columns
from budgerigar.data.pickles import ADMITTED, _stand_in, open_pickle, read_pickle
from budgerigar.data.records import Limit, Record, columns_of
from budgerigar.errors import BudgieError, DataError, RefusedPickle

TEXTS = ["first text", "second", "third one"]
LABELS = [1, 0, 2]
CLASSES = ("X", "Y", "Z")


def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": TEXTS, "label": LABELS, "weight": [0.1, 0.2, 0.3]})


def arrow(name: str) -> pd.ArrowDtype:
    return pd.ArrowDtype(pa.type_for_alias(name))


def dataset():
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    return datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=features)


def concatenated():
    import datasets

    parts = [dataset().select([row]) for row in range(3)]
    return datasets.concatenate_datasets(parts).shuffle(seed=1).sort("label")


SOURCES = {
    "frame": frame,
    "object frame": lambda: frame().astype({"text": object}),
    "pandas strings": lambda: frame().astype({"text": "string"}),
    "python strings": lambda: frame().astype({"text": "string[python]"}),
    "records": lambda: [{"text": t, "label": n} for t, n in zip(TEXTS, LABELS, strict=True)],
    "columns": lambda: {"text": TEXTS, "label": LABELS},
    "numpy columns": lambda: {"text": np.array(TEXTS, dtype=object), "label": np.array(LABELS)},
    "pairs": lambda: list(zip(TEXTS, LABELS, strict=True)),
    "dataset": dataset,
    "arrow strings": lambda: frame().astype({"text": "string[pyarrow]"}),
    "arrow columns": lambda: frame().astype({"text": arrow("string"), "label": arrow("int64")}),
    "categories": lambda: frame().astype({"text": "category"}),
    "number categories": lambda: frame().astype({"label": "category"}),
    "nullable": lambda: frame().astype({"label": "Int64", "weight": "Float64"}),
    "other columns": lambda: frame().assign(
        day=pd.to_datetime(["2020-01-01"] * 3), seen=pd.array([True, None, False], "boolean")
    ),
    "other index": lambda: frame().set_index(pd.date_range("2020", periods=3)),
    "ordered records": lambda: [OrderedDict(r) for r in frame().to_dict("records")],
    "default columns": lambda: defaultdict(list, {"text": TEXTS, "label": LABELS}),
    "dated records": lambda: [r | {"day": datetime.date(2020, 1, 1)} for r in SOURCES["records"]()],
    "numpy numbers": lambda: list(zip(map(np.str_, TEXTS), map(np.int8, LABELS), strict=True)),
    "token lists": lambda: dataset().add_column("tokens", [[1], [2, 3], []]),
}


def write(path, value, protocol: int = 4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def read(path, labelled: bool = True) -> corpus.Corpus:
    how = Columns(None, "label")
    return corpus.read(str(path), how, classes=CLASSES, label_base=None, labelled=labelled)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", SOURCES)
def test_data_sets_of_every_protocol(name, protocol, tmp_path):
    found = read(write(tmp_path / "d.pkl", SOURCES[name](), protocol))
    assert list(found.texts) == TEXTS
    assert found.labels.tolist() == LABELS


def test_texts_alone(tmp_path):
    for value in (TEXTS, tuple(TEXTS), np.array(TEXTS, dtype=object), pd.Series(TEXTS)):
        assert list(read(write(tmp_path / "t.pkl", value), labelled=False).texts) == TEXTS


def test_order_and_pieces_of_a_dataset(tmp_path):
    found = read(write(tmp_path / "d.pkl", concatenated()))
    assert list(found.texts) == ["second", "first text", "third one"]
    assert found.labels.tolist() == [0, 1, 2]
    assert read(write(tmp_path / "r.pkl", frame().iloc[::-1])).labels.tolist() == [2, 0, 1]


def test_class_names_of_a_dataset(tmp_path):
    path = write(tmp_path / "d.pkl", dataset())
    found = corpus.class_names(str(path), Columns(None, "label"), None)
    assert found == CLASSES


OLDER = {
    "pandas 1.5.3, category": (
        "eNp9VN9r00Acb9p0002dY6gTh+xFmC+F4csYw7J2iK4YYeCb47gk115omoS7C23BgT64rXBv+/qgf4n+CT77B+"
        "n3Li1LcHilue8l35+fzyf55H6lbs0uvZ7RJKSyFaSCtfqCjhjo20dU0VfWvoLnn+EMdrRLRgMB+mnZPUoUEwmN"
        "ZWtEEzpgQoK+04nTYPi2OGO4fjiPIHHky+sQ0GskT7IoGMaM+CbGOD9I8lE2LbKP8lhFVAg6xaxEsCBNpBJ5oI"
        "xj0zqCXsbc1uUKerUv0HV8uIAT2Ok5+GucA1/TzVBNMzOJrr/bg9ll8byhnY/ged7xH1z20msr8GenOOtKPxJS"
        "bSs2UaCXpKkcIiqKRyLcThMGDD31LT+PsMMER2nKOAqY7cEUNhV6dXPlq3qjMr9tFiO2CMmmk2sEvKND86RDgy"
        "ELTa8VoIuoVkAVG6QiCmgMerVbOl3B8Y8P7+96pqZ+XA61w8v5Bvp+Kepojsuc4ZVFeuO3WeU5ZBNM4lOJ6lgh"
        "CRuTN+YeBvM93VzYVichagf4Pb5u+OAbCzYaeHhi0XUOQTsd/HcLHN3ECM3Lz03vy6kImUAIZrl/c5JNXY92r2"
        "nkW1USa4bEbsOp1QGtM1SDz59haL1Ky7+5C7lg9n5FJAdwU/7N79/M+tku9l/tF3b9bpuiWK/ea5TrXQAOzvf5"
        "ASLEX/4PHLcQXTOmPkOSl8YsGnBlgeKvC4z4fpXhBTuCJgNDz4nZS5RgHApUUaFQntqVKs0AJ0ODoeHYnMyC7x"
        "JUBArdULj4FJARU9RyeoptUaXwJT/Dxkg/pgNrPqJxnI4lCfMM3wLUELHNS7iUud/6C4odwpQ="
    ),
    "pandas 1.5.3, arrow": (
        "eNp1VEtv1DAQ3ke20AdQkIAuB1pxWi65cOGAtCpbFZWIgArXleUkzjrarBPFjrYrUYke+pJ8wxzgR3DnJ3DmB8"
        "GMk7a7UCw5ntjjmW8+f/Yn58t3p2GbvptTEVHphlnB3LigE2b08g5VdNfan83TI3Noetohk1Fh9ON590QoVgia"
        "SndCBR2xQhq99jLNwvGb6h+26wf1DpImgbzaYvQdUoo8CccpIwHuQefN+fC0KOhMulIViRgR+MumRq9v4/jezm"
        "2jwxXEDokAt9Gr+cw6u5DR6FshL8WYRYTW3kPD7+nbpGBSQZbL6R7OqlnOSJwVhKYJlYhoqUpvjs2+8dpew2sM"
        "Tc8H3+V8RoIyjqsqbwZlkqpEQF3LwUyxi6iDdWR5BToaXeg2Ena+yZ8MunFSSLWl2IGSLMxEpHhSRFuZYJd+bG"
        "h8ZS3Kuwt4TqDrJRIhaqMf/Z874KRibMe61ozpG8gAnBNYNWVGBmXAt3RHpkmIjlBw02ueYvEt/PJVfV+Uk3xW"
        "pZmUUHRVq14DSqECSFmGCjnpWEcIDrBqOrzGsRk0A4OhehjZa58Y/kp3ohqYbiXPzflZtd7WzRfG9/3Xv6HZj9"
        "dQJjgfbDQbi61VjwaWeR/CthZB812+h7m5t5j5nW7Fc/n4h2uzffuK7Ue/Gn/2n9n2q19na4Eu5rKdgsJ6emPx"
        "okTsgEk3oBLIXiGCTckezkHFPNWdC9teNCvifwG3jy3ctwv0fPyLnj4CxvQOKgqOIKUBS0EkU5aMuDIM1rUj8G"
        "b7JcqHC929DmlBBepiZR/HOXj8yAdxKFooOEvtgIByuBZoMDCaNiazunQIHCncBizn4l0hE6aorW8I2KhS8GIc"
        "ooTjlI6s+ZCmaTaVJCpzUCBVjNgKpDmTZeD+ARNf3N0="
    ),
    "pandas 2.3.3, protocol 2": (
        "eNqFlGuT1EQUhmdmL0J7QbmjIosXdgAZRVBXRcddV5SNBGhu4bK0naRnEjfTkzfdU7tT5VTpB2bYz36Cf+JX+E"
        "X+AujuzLKMl7JTlaTT7znneVOn+7dalHMZc9WIuoVotAreEWSZa37evaFy/HdUB6jVg+lKpcI67QJTExGp1KKQ"
        "PFONDpe8LQpFlrJutHaxnBFMb8lZloZqW09YT+ZptJYJFtoAgplJJS8K3jcylvc3trX+8qL9vsSjNRETzE7AlC"
        "ENpYtUthm56p5OT/DSypHZv6b9EXZQ7Pz/qGXdz41/Eswa33lfJ12JlycBO6lSRkn8RYJXhniV4rVI9jp5v8Fc"
        "3k4v06lLTlghoq40FXqRJthVyojJVbK97lXu443IhMUiUkRI+0KwO6ia4iH2OIiM61Sext4h9lHsH+EAxcG6V/"
        "Wm7uPQOGFcQr8Z1Iz+0gLe2nwwwtsUh+velMv1K97xfX/lqRnu5jU1joSbq5irB8Sst9JC6TktNjSOuqLKcsd4"
        "N9hpJjpJi3iuKwXeExrvhwN8MMKxMGIs7KXGq2SMqCyNDMK8VzFo1RHqFMe92ggnKE4mM8muxHn9MDEGTlE0rA"
        "FjYYiPkpI6XcDHlvo0xSdb1OdwZpK6onE23Ex2BwfNqlW8OGrjJz5NzL/6jOJzjYUwmTd1apboC4ovLdFXFOe2"
        "ib62RN9QNJ8TfTsmai1g0RItUXxniJJ/siw7lnmjffzo8cPn15/NF6dPNptn3HjyRxPfW7TzFD9o/GjRat6URb"
        "tAsWLRPIqfRri4Cr/+t80Wiw2hGiFXgjAp1tkF+4Xg0n/LxorLA1wpN3Fsdjfolu+r1vc1iuvjVrqRHDbtcLOU"
        "ukYIghnXfaHIcMs1xbpI24nGbdMEd0InlOawwF2/N8Qqxb3k33EKLtuCUHsfQ7EBfq4nd31XQWleaHCv4jIq3c"
        "0RmgYoJyJH5FVN/phCiCFaFO3ySDItj8S1pzXmDjCkbs46QnPn9pdVrLkaXOtCIRug44ywVsbbCnKAbnDALmdZ"
        "d12xuJebLuZaMOdaIX+gemHjGRs2uic="
    ),
}
"""Frames of the three texts as older versions pickle them, compressed."""


@pytest.mark.parametrize("name", OLDER)
def test_frames_of_older_pandas(name, tmp_path):
    path = tmp_path / "o.pkl"
    path.write_bytes(zlib.decompress(base64.b64decode(OLDER[name])))
    found = open_pickle(path).table(["text", "label"]).to_pydict()
    labels = ["B", "A", "C"] if "category" in name else LABELS
    assert found == {"text": TEXTS, "label": labels}


def test_missing_texts_are_an_error(tmp_path):
    for text in ("object", "str", "string", "category"):
        gaps = pd.DataFrame({"text": ["a", None, "c"], "label": [0, 1, 2]}).astype({"text": text})
        with pytest.raises(DataError, match=r"column 'text' holds no text in row 2"):
            read(write(tmp_path / "g.pkl", gaps))
    with pytest.raises(DataError, match=r"1 row has no label \(row 2\)"):
        read(write(tmp_path / "g.pkl", [{"text": "a", "label": 0}, {"text": "b"}]))


def test_all_columns_at_once(tmp_path):
    found = read_pickle(write(tmp_path / "d.pkl", frame()))
    assert found.to_pydict() == frame().to_dict("list")


def test_two_columns_of_one_name(tmp_path):
    twice = pd.DataFrame([["a", "b", 0]], columns=["text", "text", "label"])
    with pytest.raises(DataError, match="two columns are called 'text'"):
        open_pickle(write(tmp_path / "t.pkl", twice))


def test_the_competition_file(shared):
    path = shared / "data" / "test_unlabelled.pkl"
    found = read(path, labelled=False)
    with path.open("rb") as file:
        trusted = pickle.load(file)
    assert len(found.texts) == 8000
    assert list(found.texts) == list(trusted["text"])


class Runs:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker) -> dict:
    command = f"touch {marker}"
    return {
        "os.system": Runs(os.system, command),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "open": Runs(open, str(marker), "w"),
        "getattr": Runs(getattr, "text", "upper"),
        "in a record": {"text": TEXTS, "label": Runs(os.system, command)},
        "deep inside": [{"text": "a", "label": [{"x": (Runs(os.system, command),)}]}],
        "in a frame": pd.DataFrame({"text": [Runs(os.system, command)]}, dtype=object),
        "read_pickle": Runs(pd.read_pickle, str(marker)),
        "numpy load": Runs(np.load, str(marker)),
        "subprocess": Runs(subprocess.call, ["touch", str(marker)]),
        "in a dataset's place": Runs(
            copyreg._reconstructor, Runs(os.system, command), object, None
        ),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_runs(protocol, tmp_path):
    marker = tmp_path / "ran"
    for name, value in hostile(marker).items():
        path = write(tmp_path / "h.pkl", value, protocol)
        with pytest.raises(RefusedPickle, match=r"wants to use .*; nothing was run"):
            read_pickle(path)
        assert not marker.exists(), name


def test_the_hostile_pickles_would_have_run(tmp_path):
    """The test above is worth something: plain pickle runs them."""
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(hostile(marker)["os.system"]))
    assert marker.exists()


def test_extension_registry_and_persistent_names(tmp_path):
    path, code, marker = tmp_path / "e.pkl", 0x7FFF0001, tmp_path / "ran"
    path.write_bytes(
        b"\x80\x02\x84"
        + struct.pack("<i", code)
        + pickle.dumps(f"touch {marker}", 2)[2:-1]
        + b"\x85R."
    )
    copyreg.add_extension("os", "system", code)
    try:
        # Python hands out what it holds here without asking find_class.
        copyreg._extension_cache[code] = os.system
        with pytest.raises(RefusedPickle, match="registered under number"):
            read_pickle(path)
        assert not marker.exists()
        pickle.loads(path.read_bytes())
        assert marker.exists()
    finally:
        copyreg.remove_extension("os", "system", code)
    path.write_bytes(b"Pname\n.")
    with pytest.raises(RefusedPickle, match="objects outside of itself"):
        read_pickle(path)


def test_what_a_data_set_needs_is_never_the_real_thing():
    for module, names in ADMITTED.items():
        for name in names.split():
            assert issubclass(_stand_in(f"{module}.{name}"), Record)


def test_a_data_set_on_disk_is_told_apart(tmp_path):
    from datasets import load_from_disk

    dataset().save_to_disk(tmp_path / "saved")
    path = write(tmp_path / "d.pkl", load_from_disk(str(tmp_path / "saved")))
    with pytest.raises(RefusedPickle, match="names a file instead of holding its texts"):
        read_pickle(path)


@pytest.mark.parametrize(
    "value",
    [3, "a text", None, [], [1.5, b"bytes"], [{"text": "a"}, {"other": "b"}], {"text": {"a": 1}},
     [["a", "b", "c"]], {"text": TEXTS, "label": [1]}],
)  # fmt: skip
def test_what_is_no_table_of_texts(value, tmp_path):
    with pytest.raises(DataError):
        read(write(tmp_path / "n.pkl", value), labelled=False)


def test_hostile_sizes_end_at_once(tmp_path):
    path = tmp_path / "s.pkl"
    tracemalloc.start()
    for content in (
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 31) + b"x.",
        b"\x80\x02]r" + struct.pack("<I", 0x7FFFFFFF) + b".",
        b"\x80\x04" + b"(" * 100_000 + b"t" * 99_999 + b".",
        b"",
    ):
        path.write_bytes(content)
        with pytest.raises(DataError):
            read(path, labelled=False)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_characters_that_are_none(tmp_path):
    path = tmp_path / "c.pkl"
    for value in (np.array(["ab"]), [np.str_("ab")]):
        plain = pickle.dumps(value, 2)
        assert plain.count(b"a\0\0\0") == 1
        path.write_bytes(plain.replace(b"a\0\0\0", b"a\0\x11\0"))
        with pytest.raises(DataError):
            read(path, labelled=False)


LONG = "x" * 1_000_000
COLUMN = ["x" * 1000] * 10_000
GROWING = {
    "one text often": lambda: [LONG] * 10_000,
    "one column often": lambda: {f"text {n}": COLUMN for n in range(100)},
    "one row often": lambda: one_text(LONG).select([0] * 10_000),
    "one category often": lambda: pd.Series(pd.Categorical.from_codes([0] * 10_000, [LONG])),
}


def one_text(text: str):
    import datasets

    return datasets.Dataset.from_dict({"text": [text]})


@pytest.mark.parametrize("name", GROWING)
def test_content_named_again_and_again_has_a_limit(name, tmp_path):
    path = write(tmp_path / "b.pkl", GROWING[name]())
    assert path.stat().st_size < 2_000_000
    with pytest.raises(RefusedPickle, match="would grow to more than"):
        read_pickle(path)


def test_tables_nested_in_themselves_end():
    def record(name: str, state: object) -> Record:
        found = _stand_in(f"datasets.{name}")()
        found.__setstate__(state)
        return found

    empty = record("table.InMemoryTable", {"table": record("x", None)})
    empty.state["table"].arguments = [], _stand_in("pyarrow.lib.schema")([])
    block = empty
    for _ in range(60):
        block = record("table.ConcatenationTable", {"blocks": [block, block]})
    whole = record("arrow_dataset.Dataset", {"_data": block})
    with pytest.raises(RefusedPickle, match="would grow"):
        columns_of(whole, Limit(1000))


def test_ranges_of_hostile_length(tmp_path):
    content = frame()
    content.columns = pd.RangeIndex(3)
    far = b"\x8a\x06" + b"\xff" * 5 + b"\x00"
    plain = pickle.dumps(content, 3)
    path = tmp_path / "r.pkl"
    stops = re.sub(rb"(stopq.)K\x03", rb"\g<1>" + far, plain)
    path.write_bytes(stops)
    assert open_pickle(path).columns == ("0", "1", "2")
    slices = re.sub(rb"(slice\nq.K.)K.", rb"\g<1>" + far, stops)
    assert plain != stops != slices
    path.write_bytes(slices)
    with pytest.raises(RefusedPickle, match="would grow"):
        open_pickle(path)


@settings(max_examples=300)
@given(st.data())
def test_damaged_pickles_are_refused_or_read(tmp_path_factory, data):
    content = bytearray(pickle.dumps(SOURCES[data.draw(st.sampled_from(sorted(SOURCES)))]()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert len(read(path, labelled=False).texts) > 0
    except BudgieError as error:
        assert error.remedy
