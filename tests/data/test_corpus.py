"""Sources, columns and labels: what is read exactly, and what is refused with its rows."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgerigar.data import corpus, texts
from budgerigar.data.corpus import Columns, Corpus
from budgerigar.errors import BudgieError, DataError

NAMES = ("World", "Sports", "Business")
TEXTS = ["first &lt;b&gt; \\ text", " second ", 'third "one", with\na line']
LABELS = [1, 0, 2]


def read(source, *, names=None, classes=NAMES, base=None, labelled=True) -> Corpus:
    how = Columns(names, "label")
    return corpus.read(str(source), how, classes=classes, label_base=base, labelled=labelled)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def labels_file(path: Path, labels) -> Path:
    return write(path, "label,text\n" + "".join(f"{x},t{n}\n" for n, x in enumerate(labels)))


def as_csv(rows, delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue()


def table() -> pa.Table:
    return pa.table({"text": TEXTS, "label": LABELS, "other": [[1], [], [2, 3]]})


def dataset():
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    return datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=features)


def ipc(path: Path, how) -> None:
    with how(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)


ROWS = [["text", "label"], *([t, n] for t, n in zip(TEXTS, LABELS, strict=True))]
RECORDS = [{"text": t, "label": n, "other": {"a": n}} for t, n in zip(TEXTS, LABELS, strict=True)]
WRITERS = {
    "a.csv": lambda path: write(path, as_csv(ROWS)),
    "bom.csv": lambda path: write(path, b"\xef\xbb\xbf" + as_csv(ROWS).encode()),
    "a.tsv": lambda path: write(path, as_csv(ROWS, "\t")),
    "blank.csv": lambda path: write(path, "\n\r\n" + as_csv(ROWS) + "\n\n"),
    "a.jsonl": lambda path: write(path, "\n".join(map(json.dumps, RECORDS))),
    "a.ndjson": lambda path: write(path, "\ufeff" + "\n\n".join(map(json.dumps, RECORDS)) + "\n"),
    "a.json": lambda path: write(path, "".join(json.dumps(r) + "\r\n" for r in RECORDS)),
    "a.parquet": lambda path: pa.parquet.write_table(table(), path, row_group_size=2),
    "a.arrow": lambda path: ipc(path, pa.ipc.new_file),
    "stream.arrow": lambda path: ipc(path, pa.ipc.new_stream),
    "a.feather": lambda path: pa.feather.write_feather(table(), path),
    "a.pkl": lambda path: pd.to_pickle(table().to_pandas(), path),
    "a.pickle": lambda path: pd.to_pickle(RECORDS, path),
    "folder": lambda path: dataset().save_to_disk(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_source(name, tmp_path):
    WRITERS[name](tmp_path / name)
    found = read(tmp_path / name)
    assert list(found.texts) == TEXTS
    assert found.labels.tolist() == LABELS
    assert found.labels.dtype == np.int64
    assert (found.classes, found.label_base, found.notes) == (NAMES, 0, ())
    assert found.fingerprint == read(WRITERS["a.csv"](tmp_path / "same.csv")).fingerprint
    assert read(tmp_path / name, labelled=False).labels is None
    own = corpus.class_names(str(tmp_path / name), Columns(None, "label"), None)
    assert own == (NAMES if name == "folder" else ("0", "1", "2"))


def test_lines_of_text(tmp_path, monkeypatch):
    content = "\ufeff one\r\ntwo\u2028still two\n\nthree \\".encode()
    expected = [" one", "two\u2028still two", "", "three \\"]
    found = read(write(tmp_path / "a.txt", content), labelled=False)
    assert list(found.texts) == expected
    assert found.notes == ("1 empty text (row 3, counted from 1)",)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert list(read("-", labelled=False).texts) == expected


def test_splits_of_a_saved_folder(tmp_path):
    import datasets

    datasets.DatasetDict(train=dataset(), test=dataset().select([2])).save_to_disk(tmp_path / "f")
    assert len(read(tmp_path / "f").texts) == 3
    assert list(read(f"{tmp_path / 'f'}:test").texts) == TEXTS[2:]
    with pytest.raises(DataError, match="no split 'tets', did you mean 'test'"):
        read(f"{tmp_path / 'f'}:tets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data set that datasets can read"):
        read(tmp_path / "empty")


def test_examples_that_ship():
    found = read("example:headlines/train.csv", classes=None)
    assert len(found.texts) > 100
    with pytest.raises(DataError, match=r"no example nothing\.csv"):
        read("example:nothing.csv")


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_name_without_network_fails_soon(offline, tmp_path, monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    from budgerigar import hub

    hub.connect.cache_clear()
    for place in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(DataError, match="pass a local file"):
        read("fancyzhx/ag_news:test")
    assert time.monotonic() - start < 10
    write(tmp_path / "ag_news", "x")
    with pytest.raises(DataError, match="ending that is not known"):
        read("ag_news")
    hub.connect.cache_clear()


@pytest.mark.parametrize("name", ["no.csv", "./no", "/no/where", "no/where.jsonl"])
def test_a_missing_file_is_no_hub_name(name):
    with pytest.raises(DataError, match=f"{name} does not exist"):
        read(name)


fields = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from('",\n\r\\ \0'),
    max_size=8,
)


@settings(max_examples=200)
@given(st.lists(fields, min_size=1, max_size=8), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_csv_gives_back_what_was_written(tmp_path_factory, values, bom, end):
    out = io.StringIO()
    csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(
        [["label", "text"], *(["x", f"t{value}"] for value in values)]
    )
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"\xef\xbb\xbf" * bom + out.getvalue().encode())
    assert list(read(path, classes=("x",)).texts) == [f"t{value}" for value in values]


def test_columns_that_count(tmp_path):
    wide = write(tmp_path / "w.csv", "label,title,description,id\n0,A,b,7\n2,C,d,8\n")
    assert list(read(wide).texts) == ["A b", "C d"]
    assert list(read(wide, names=("description", "label", "title")).texts) == ["b A", "d C"]
    other = write(tmp_path / "o.csv", "id,label,remark\n7,0,one\n8,2,two\n")
    assert list(read(other).texts) == ["one", "two"]
    pa.parquet.write_table(pa.table({"id": [1, 2], "label": [0, 2], "remark": ["a", "1"]}),
                           tmp_path / "o.parquet")  # fmt: skip
    assert list(read(tmp_path / "o.parquet").texts) == ["a", "1"]
    unclear = write(tmp_path / "u.csv", "label,left,right\n0,a,b\n")
    with pytest.raises(DataError, match=r"label, left, right.*--columns"):
        read(unclear)
    with pytest.raises(DataError, match="no column 'rihgt', did you mean 'right'"):
        read(unclear, names=("label", "rihgt"))
    with pytest.raises(DataError, match="no label column 'label', did you mean 'labels'"):
        read(write(tmp_path / "l.csv", "labels,text\n0,a\n"))


def test_files_without_header(tmp_path):
    bare = write(tmp_path / "b.csv", "one,0\ntwo,2\n")
    assert list(read(bare, names=("text", "label")).texts) == ["one", "two"]
    with pytest.raises(DataError, match="no header"):
        read(bare)
    with pytest.raises(DataError, match="2 columns and no header, but 3 names"):
        read(bare, names=("a", "b", "c"))
    official = read(write(tmp_path / "o.csv", '"3","T","D \\ ""x"""\n"1","U","E"\n'))
    assert list(official.texts) == ['T D \\ "x"', "U E"]
    assert official.labels.tolist() == [2, 0]
    assert "AG News' own layout" in official.notes[0]
    assert official.notes[1:] == ("integer labels count from 1",)


FAULTS = {
    "ragged.csv": ("label,text\n0,a\n\n1,b,c\n", "row 2: 3 columns instead of 2"),
    "ragged_late.csv": ("label,text\n" + '0,"a\nb"\n' * 12_000 + "1\n", "row 12,001: 1 columns"),
    "bare.csv": ("a,0,1,\n1,b,c\n", "row 2: 3 columns instead of 4"),
    "open.csv": ('label,text\n0,a\n1,"b\n2,c\n', "row 2: .* never closed"),
    "stray.csv": ('label,text\n0,"a"b\n', "row 1: its quotes"),
    "byte.csv": (b'label,text\n0,"a\n\n"\n1,caf\xe9\n', "row 2: byte 0xe9 at offset 24"),
    "late.csv": (
        b"text,label\n" + b"a,0\n" * 9000 + b"\xff,0\n",
        "row 9,001: byte 0xff at .* 36011",
    ),
    "head.csv": (b"t\xe9xt,label\na,0\n", "first row: byte 0xe9 at offset 1 "),
    "cut.csv": (b"text,label\na,0\nb\xc3", "row 2: byte 0xc3 at offset 16 "),
    "byte.txt": (b"\xef\xbb\xbfa\xff\n", "row 1: byte 0xff at offset 4 "),
    "byte.jsonl": (b'{"text": "a"}\n\n{"text": "\xff"}\n', "row 2: byte 0xff at offset 25 "),
    "twice.csv": ("text,label,text\na,0,b\n", "two columns 'text'"),
    "twice.jsonl": ('{"text": "a", "text": "b"}\n', "row 1 .* key twice"),
    "empty.csv": ("", "is empty"),
    "header.csv": ("text,label\n", "holds no rows"),
    "empty.txt": ("", "holds no rows"),
    "empty.jsonl": ("\n", "is empty"),
    "not.jsonl": ('{"text": "a"}\nb\n', "row 2 is not JSON"),
    "array.json": ('["a"]\n', "row 1 is not a JSON object"),
    "deep.jsonl": ("[" * 100_000 + "\n", "row 1 is not JSON"),
    "mixed.jsonl": ('{"text": "a"}\n{"text": null}\n{"text": 3}\n', "row 3: column 'text'"),
    "lone.jsonl": ('{"text": "\\ud800"}\n', "column 'text' cannot be read"),
    "null.jsonl": ('{"text": "a"}\n{"text": null}\n{}\n', "no text in rows 2, 3"),
    "number.jsonl": ('{"text": 3}\n', "holds int64, not texts"),
    "numbers.csv": ("label,text\n0,1\n1,2.5\n", "holds numbers, not texts"),
    "not.parquet": ("PAR1 is not", "cannot be read"),
    "not.arrow": ("ARROW1 is not", "cannot be read"),
    "unknown.xyz": ("a", "ending that is not known"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_files(name, tmp_path):
    content, message = FAULTS[name]
    names = ("text", "label", "x", "y") if name == "bare.csv" else None
    with pytest.raises(DataError, match=message) as caught:
        read(write(tmp_path / name, content), names=names, labelled=False)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_missing_and_empty_texts(tmp_path):
    gaps = pa.table({"text": pa.array(["a", None, "c"] * 4), "label": [0, 1, 2] * 4})
    pa.parquet.write_table(gaps, tmp_path / "g.parquet")
    with pytest.raises(DataError, match="no text in rows 2, 5, 8, 11"):
        read(tmp_path / "g.parquet")
    empty = write(tmp_path / "e.csv", "text,label\n,0\na,1\n \t,2\n")
    assert read(empty).notes == ("2 empty texts (rows 1, 3, counted from 1)",)


def test_damaged_arrow_is_not_followed(tmp_path):
    path = tmp_path / "d.arrow"
    with pa.ipc.new_file(path, pa.schema({"text": pa.string()})) as writer:
        writer.write_batch(pa.record_batch({"text": ["ab", "c"]}))
    offsets = b"\0\0\0\0\2\0\0\0\3\0\0\0"
    assert path.read_bytes().count(offsets) == 1
    write(path, path.read_bytes().replace(offsets, offsets[:-1] + b"\x7f"))
    with pytest.raises(DataError, match="rows 1 to 2: column 'text' is damaged"):
        read(path, labelled=False)


@pytest.mark.parametrize(
    ("written", "classes", "base", "expected"),
    [
        ([0, 1, 2], NAMES, None, ([0, 1, 2], 0)),
        ([1, 3, 2], NAMES, None, ([0, 2, 1], 1)),
        (["1.0", " 3", "2.00"], NAMES, None, ([0, 2, 1], 1)),
        ([1, 2, 2], NAMES, 1, ([0, 1, 1], 1)),
        ([1, 2, 2], NAMES, 0, ([1, 2, 2], 0)),
        (["Sports", "World"], NAMES, None, ([1, 0], None)),
        (["b", "a", "b"], None, None, ([1, 0, 1], None)),
        ([0, 2], None, None, ([0, 2], 0)),
        ([1, 2], None, None, ([0, 1], 1)),
        ([2, 1], ("0", "1", "2"), None, ([2, 1], 0)),
    ],
)
def test_labels(written, classes, base, expected, tmp_path):
    found = read(labels_file(tmp_path / "l.csv", written), classes=classes, base=base)
    assert (found.labels.tolist(), found.label_base) == expected
    assert ("integer labels count from 1" in found.notes) == (found.label_base == 1)


@pytest.mark.parametrize(
    ("written", "classes", "base", "message"),
    [
        ([0, 1, 3, 0], NAMES, None, r"from 0 \(rows 1, 4\) to 3 \(row 3\), too many for 3"),
        ([1, 2], NAMES, None, r"labels 1, 2 could count from 0 or from 1.*data\.label_base"),
        ([0, 1, 9], NAMES, None, r"label 9 is none of 3 classes counted from 0 \(row 3\)"),
        ([0, 1], NAMES, 1, r"label 0 is none of 3 classes counted from 1 \(row 1\)"),
        (["World", "world", "World "], NAMES, None,
         r"'World' \(row 1\) and 'World ' \(row 3\) differ only in case or spaces"),
        (["Sports", "sports"], None, None, r"'Sports' \(row 1\) and 'sports' \(row 2\) differ"),
        (["sports"], NAMES, None, r"'Sports' and 'sports' \(row 1\) differ"),
        (["Bussiness"], NAMES, None, r"'Bussiness' is none of .* mean 'Business'\? \(row 1\)"),
        (["World", "", " ", 1], NAMES, None, r"2 rows have no label \(rows 2, 3\)"),
        ([""] * 7, NAMES, None, r"7 rows have no label \(rows 1, 2, 3, 4, 5 and 2 more\)"),
        ([1, 2], ("0", "1"), 1, "called 0 to 1"),
        ([7, 123456789], None, None, r"label 123456789 \(row 2\) would make 123,456,789 classes"),
        ([0, "World"], NAMES, None, r"label '0' is none of"),
        (["--3"], NAMES, None, r"label '--3' is none of"),
    ],
)  # fmt: skip
def test_labels_in_doubt(written, classes, base, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        read(labels_file(tmp_path / "l.csv", written), classes=classes, base=base)
    assert caught.value.remedy


@pytest.mark.parametrize("labels", [[0.0, 1.0, float("nan")], [0.5, 1, 2], [float("inf"), 0, 1],
                                    [[1], [2], [0]], [b"a", b"b", b"c"]])  # fmt: skip
def test_label_columns_of_other_kinds(labels, tmp_path):
    pa.parquet.write_table(pa.table({"text": TEXTS, "label": labels}), tmp_path / "l.parquet")
    with pytest.raises(DataError, match="label"):
        read(tmp_path / "l.parquet")


def test_class_labels_of_a_data_set_are_decoded_by_name(tmp_path):
    dataset().save_to_disk(tmp_path / "f")
    turned = read(tmp_path / "f", classes=NAMES[::-1])
    assert turned.labels.tolist() == [1, 2, 0]
    assert turned.label_base is None
    renamed = read(tmp_path / "f", classes=("w", "s", "b"))
    assert renamed.labels.tolist() == LABELS
    assert renamed.notes == ("its classes World, Sports, Business are called w, s, b",)
    dataset().select([0]).save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one", classes=None).labels.tolist() == [1]
    with pytest.raises(DataError, match="has 3 classes"):
        read(tmp_path / "f", classes=("w", "s"))


def test_classes_that_are_missing():
    assert corpus.check_classes(np.array([0, 1, 2]), np.array([0, 2]), NAMES) == [
        "the validation rows hold no text of class Sports: its scores cannot be seen"
    ]
    with pytest.raises(DataError, match="no text of class Sports, Business"):
        corpus.check_classes(np.array([0]), np.array([0]), NAMES)


def test_select_and_batches(tmp_path):
    found = read(WRITERS["a.csv"](tmp_path / "a.csv"))
    part = found.select(np.array([2, 0]))
    assert (list(part.texts), part.labels.tolist()) == ([TEXTS[2], TEXTS[0]], [2, 1])
    assert part.fingerprint != found.fingerprint
    assert part.fingerprint == found.select(np.array([2, 0])).fingerprint
    again = part.select(np.array([1]))
    assert (again.texts[0], again.texts[-1], again.texts[:5]) == (TEXTS[0], TEXTS[0], [TEXTS[0]])
    assert again.texts.numbers(np.array([0])).tolist() == [1]
    assert [*part.texts.batches(1)] == [[TEXTS[2]], [TEXTS[0]]]
    assert [*found.texts.batches(2)] == [TEXTS[:2], TEXTS[2:]]
    with pytest.raises(IndexError):
        part.texts[2]


def test_large_files_say_how_far_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(texts, "PROGRESS_ROWS", 20_000)
    path = labels_file(tmp_path / "l.csv", [0, 1, 2] * 15_000)
    found = read(path)
    assert found.texts[44_999] == "t44999"
    assert capsys.readouterr().err == f"{path}: 20,000 rows read\n{path}: 40,000 rows read\n"


def test_a_full_temporary_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(texts.tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="TMPDIR"):
        read(WRITERS["a.csv"](tmp_path / "a.csv"))


def test_the_official_layout(shared):
    found = read(shared / "data" / "agnews_official_layout.csv", classes=None)
    assert (len(found.texts), found.label_base, found.classes) == (500, 1, ("1", "2", "3", "4"))
    assert any("\\" in text for text in found.texts)


@settings(max_examples=150)
@given(st.sampled_from(["a.parquet", "a.arrow", "stream.arrow", "a.feather", "a.jsonl", "a.csv"]),
       st.data())  # fmt: skip
def test_damaged_files_are_refused_or_read(tmp_path_factory, name, data):
    path = tmp_path_factory.getbasetemp() / name
    WRITERS[name](path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        assert len(read(path).texts) > 0
    except BudgieError as error:
        assert error.remedy
