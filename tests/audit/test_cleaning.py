"""`budgie inspect --write`: what goes, what stays, and that both files are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgerigar import console, files
from budgerigar.audit import causes, cleaning, duplicates, inspection
from budgerigar.audit import texts as text_audit
from budgerigar.audit.causes import CAUSES, DROPPED
from budgerigar.audit.findings import Finding
from budgerigar.data import tables
from budgerigar.data.texts import Texts
from budgerigar.errors import BudgieError
from test_cli import budgie, refused

BANK = "a small bank in the harbour town lends boats instead of money and takes fish as interest"
PARK = "the parrots of the northern park were counted again this week by forty helpers who walked"
PARK += " every path twice and wrote down each bird that they saw in the old trees"
TRAIN_RULES = "the night train to the coast now stops for travellers who wave a lamp from the hill"
CHOIR = "the choir of the glass works sings lower each winter because its tenors retire one by one"

PLANTED = [
    ("World", "The council met on the bridge."),
    ("Sports", BANK),
    ("World", BANK.upper()),
    ("World", PARK),
    ("Sports", " "),
    ("Sports", "A keeper saved both shots."),
    ("Sports", "a keeper  saved both shots."),
    ("World", f"{PARK} today"),
    ("Sports", TRAIN_RULES),
    ("World", f"{CHOIR} sadly"),
    ("World", "Rain is late in the valley."),
    ("Sports", "Nobody won the long race."),
]
OTHERS = [TRAIN_RULES.upper(), CHOIR, "Entirely other words."]
GONE = [
    (1, "Sports", BANK, "duplicate-different-label"),
    (2, "World", BANK.upper(), "duplicate-different-label"),
    (4, "Sports", " ", "empty-texts"),
    (6, "Sports", "a keeper  saved both shots.", "duplicate"),
    (7, "World", f"{PARK} today", "near-duplicate"),
    (8, "Sports", TRAIN_RULES, "leak"),
    (9, "World", f"{CHOIR} sadly", "near-leak"),
]
KEPT = [0, 3, 5, 10, 11]


def texts_of(strings: list[str]) -> Texts:
    return Texts(pa.chunked_array([pa.array(strings, pa.large_string())]))


def found_in(
    strings: list[str], labels: list[int] | None = None, others: list[str] | None = None
) -> list[Finding]:
    """What is found without an encoder."""
    numbers = None if labels is None else np.array(labels)
    other = {} if others is None else {"against": texts_of(others)}
    return [
        *duplicates.findings(texts_of(strings), numbers, other),
        *text_audit.findings(strings, "train", None),
    ]


def gone(findings: list[Finding], rows: int, *drop: str) -> dict[int, str]:
    """Row -> cause."""
    causes_B = causes.of_rows(findings, frozenset(drop or DROPPED), rows)
    return {row: CAUSES[cause] for row, cause in enumerate(causes_B) if cause != causes.STAYS}


@pytest.fixture(autouse=True)
def _without_encoder(monkeypatch):
    monkeypatch.setattr(inspection, "default_model", lambda: None)
    # A process warns once.
    monkeypatch.setattr(console, "_seen", set())


@pytest.fixture
def folder(tmp_path):
    """The planted rows as train.jsonl, with a column that only counts, and other.txt."""
    rows = [
        json.dumps({"id": row * 7, "label": label, "text": text})
        for row, (label, text) in enumerate(PLANTED)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    (tmp_path / "other.txt").write_text("\n".join(OTHERS) + "\n")
    return tmp_path


def failed(done) -> str:
    """The last line of a refusal that comes after the inspection and its notes."""
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.splitlines()[-1]


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Which rows go


def test_every_planted_fault_goes_for_its_own_cause():
    labels = [int(label == "Sports") for label, _ in PLANTED]
    findings = found_in([text for _, text in PLANTED], labels, OTHERS)
    assert gone(findings, len(PLANTED)) == {row: cause for row, _, _, cause in GONE}


def test_only_the_codes_that_are_named_go():
    labels = [int(label == "Sports") for label, _ in PLANTED]
    findings = found_in([text for _, text in PLANTED], labels, OTHERS)
    assert gone(findings, len(PLANTED), "near-duplicate") == {7: "near-duplicate"}
    assert gone(findings, len(PLANTED), "duplicate") == {2: "duplicate", 6: "duplicate"}


def test_the_first_copy_that_nothing_else_takes_is_kept():
    texts = [f"{BANK}\x00", BANK, BANK, f"{PARK}\x00", f"{PARK} today", f"{PARK} today", "x"]
    findings = found_in(texts)
    assert gone(findings, 7, "duplicate", "near-duplicate") == {
        1: "near-duplicate", 2: "duplicate", 4: "near-duplicate", 5: "duplicate",
    }  # fmt: skip
    assert gone(findings, 7, "duplicate", "near-duplicate", "odd-characters") == {
        0: "odd-characters", 2: "duplicate", 3: "odd-characters", 5: "duplicate",
    }  # fmt: skip


def test_copies_of_a_near_duplicate_go_with_it():
    findings = found_in([PARK, f"{PARK} today", f"{PARK} TODAY", "x"])
    assert gone(findings, 4, "near-duplicate") == {1: "near-duplicate", 2: "near-duplicate"}


def test_both_sides_of_a_near_contradiction_go_with_their_copies():
    findings = found_in([PARK, PARK, f"{PARK} today", "x"], [0, 0, 1, 1])
    cause = "near-duplicate-different-label"
    assert gone(findings, 4, cause, "duplicate") == {0: cause, 1: cause, 2: cause}


def test_all_training_rows_near_a_text_of_the_other_file_go():
    # Row 0 stands in the other file; row 1 and its copy resemble it, and so that text; rows 4
    # and 5 resemble the same text there.
    texts = [PARK, f"{PARK} today", f"{PARK}  today", "x", f"{BANK} now", f"{BANK} then"]
    findings = found_in(texts, None, [PARK, BANK])
    assert gone(findings, 6, "leak", "near-leak") == {
        0: "leak", 1: "near-leak", 2: "near-leak", 4: "near-leak", 5: "near-leak",
    }  # fmt: skip
    # Near copies of a leak are no copies that the training rows need.
    assert gone(findings, 6) == gone(findings, 6, "leak", "near-leak")


words = st.lists(st.sampled_from("a b c d e f".split()), max_size=12).map(" ".join)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(words, st.integers(0, 1)), min_size=1, max_size=12),
    st.lists(words, max_size=6),
)
def test_what_is_left_has_none_of_the_findings_that_went(rows, others):
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    went = gone(found_in(texts, labels, others), len(texts))
    left = [row for row in range(len(texts)) if row not in went]
    if left:
        found = found_in([texts[row] for row in left], [labels[row] for row in left], others)
        assert not {one.code for one in found} & set(DROPPED)


@settings(max_examples=300)
@given(st.lists(words, min_size=1, max_size=18))
def test_copies_alone_leave_a_text_of_each_kind(texts):
    findings = found_in(texts)
    went = gone(findings, len(texts), "duplicate", "near-duplicate")
    groups = duplicates.groups(texts_of(texts)).joined_B
    left = [row for row in range(len(texts)) if row not in went]
    assert set(groups[left]) == set(groups)


# What is written


def test_survivors_and_what_went_are_written_and_told(folder):
    words = ("inspect", "train.jsonl", "--against", "other.txt", "--write", "clean.parquet")
    done = budgie(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    clean = pq.read_table(folder / "clean.parquet")
    assert clean.schema.names == ["id", "label", "text"]
    assert clean.schema.field("id").type == pa.int64()
    assert clean.to_pydict() == {
        "id": [row * 7 for row in KEPT],
        "label": [PLANTED[row][0] for row in KEPT],
        "text": [PLANTED[row][1] for row in KEPT],
    }
    removed = pq.read_table(folder / "clean.removed.parquet")
    names = ("row", "label", "text", "cause")
    assert removed.to_pylist() == [dict(zip(names, row, strict=True)) for row in GONE]
    lines = done.stdout.splitlines()
    table = lines[lines.index("rows that went") + 1 : -1]
    assert table[0] == "cause\trows\texample"
    assert [line.split("\t")[:2] for line in table[1:]] == [
        ["empty-texts", "1"], ["duplicate-different-label", "2"], ["leak", "1"],
        ["near-leak", "1"], ["duplicate", "1"], ["near-duplicate", "1"],
    ]  # fmt: skip
    assert table[2].split("\t")[2].startswith("row 1: a small bank in the harbour")
    assert len(table[2].split("\t")[2]) <= len("row 1: ") + cleaning.SHOWN
    assert lines[-1] == ("kept 5 of 12 rows: clean.parquet; what went: clean.removed.parquet")
    again = budgie("inspect", "clean.parquet", "--against", "other.txt", "--json", cwd=folder)
    assert not {one["code"] for one in json.loads(again.stdout)["findings"]} & set(DROPPED)


def test_json_holds_the_same_as_an_object(folder):
    words = ("inspect", "train.jsonl", "--write", "clean.parquet", "--json")
    content = json.loads(budgie(*words, "--drop", "duplicate, empty-texts", cwd=folder).stdout)
    assert content["cleaning"] == {
        "written": "clean.parquet",
        "removed": "clean.removed.parquet",
        "kept": 9,
        "of": 12,
        "causes": [
            {"code": "empty-texts", "rows": 1, "example": {"row": 4, "text": ""}},
            {"code": "duplicate", "rows": 2, "example": {
                "row": 2, "text": BANK.upper()}},
        ],
    }  # fmt: skip
    plain = json.loads(budgie("inspect", "train.jsonl", "--json", cwd=folder).stdout)
    assert "cleaning" not in plain
    assert plain["findings"] == content["findings"]


def test_a_file_without_faults_is_written_whole(tmp_path):
    (tmp_path / "fine.csv").write_text("text,label\none bird,a\ntwo cats,b\n")
    done = budgie("inspect", "fine.csv", "--write", "clean.parquet", cwd=tmp_path)
    assert done.stdout.splitlines()[-1].startswith("kept 2 of 2 rows")
    assert "rows that went" not in done.stdout
    assert pq.read_table(tmp_path / "clean.parquet").num_rows == 2
    removed = pq.read_table(tmp_path / "clean.removed.parquet")
    assert (removed.num_rows, removed.schema.names) == (0, ["row", "label", "text", "cause"])


def test_a_parquet_file_keeps_columns_types_and_metadata(tmp_path):
    rows = pa.table(
        {
            "when": pa.array([1, 2, 3], pa.timestamp("s")),
            "text": pa.array(["one bird", "one bird", "two cats"], pa.large_string()),
            "tags": pa.array([["x"], [], None], pa.list_(pa.string())),
            "label": pa.array(["a", "a", "b"]).dictionary_encode(),
        }
    ).replace_schema_metadata({"made": "by hand"})
    pq.write_table(rows, tmp_path / "rows.parquet")
    done = budgie("inspect", "rows.parquet", "--write", "clean.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    clean = pq.read_table(tmp_path / "clean.parquet")
    assert clean.schema.equals(pq.read_schema(tmp_path / "rows.parquet"))
    assert clean.schema.metadata[b"made"] == b"by hand"
    assert clean.to_pylist() == [rows.to_pylist()[0], rows.to_pylist()[2]]


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        (
            "rows.csv",
            "3,Birds,back\n1,Cats,sleep\n\n3,Birds,back\n",
            ["label", "title", "description"],
        ),
        ("rows.tsv", "text\tlabel\tid\none\ta\t1\ntwo\tb\t2\none\ta\t3\n", ["text", "label", "id"]),
        ("rows.txt", "one\n\ntwo\none\n", ["text"]),
    ],
)
def test_other_readers_give_all_their_columns(tmp_path, name, content, columns):
    (tmp_path / name).write_text(content)
    done = budgie("inspect", name, "--write", "clean.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    clean = pq.read_table(tmp_path / "clean.parquet")
    assert clean.schema.names == columns
    assert clean.num_rows == 2
    assert set(clean.schema.types) == {pa.string()}


def test_columns_of_a_file_without_a_header_are_those_that_were_named(tmp_path):
    (tmp_path / "rows.csv").write_text("Oil,a,is cheap\nGas,a,is cheap\nOil,a,is cheap\n")
    words = ("inspect", "rows.csv", "--columns", "topic,label,said", "--write", "clean.parquet")
    done = budgie(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "clean.parquet").to_pylist() == [
        {"topic": "Oil", "label": "a", "said": "is cheap"},
        {"topic": "Gas", "label": "a", "said": "is cheap"},
    ]
    assert pq.read_table(tmp_path / "clean.removed.parquet")["text"][0].as_py() == "Oil is cheap"


def test_standard_input_is_cleaned_too(tmp_path):
    words = ("inspect", "-", "--write", "clean.parquet", "--json")
    done = budgie(*words, cwd=tmp_path, stdin="one\ntwo\none\n")
    assert json.loads(done.stdout)["cleaning"]["kept"] == 2
    assert pq.read_table(tmp_path / "clean.parquet").to_pydict() == {"text": ["one", "two"]}
    removed = pq.read_table(tmp_path / "clean.removed.parquet").to_pylist()
    assert removed == [{"row": 2, "label": None, "text": "one", "cause": "duplicate"}]


def test_a_pickled_data_set_tells_what_its_numbers_are_called(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    names = ["Birds", "Cats"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = Dataset.from_dict({"text": ["one", "two", "one"], "label": [0, 1, 0]}, features)
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps(rows))
    done = budgie("inspect", "rows.pkl", "--write", "clean.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'label' holds numbers; their names Birds, Cats are for data.classes" in done.stderr
    clean = pq.read_table(tmp_path / "clean.parquet")
    assert clean.to_pydict() == {"text": ["one", "two"], "label": [0, 1]}
    assert pq.read_table(tmp_path / "clean.removed.parquet")["label"].to_pylist() == ["Birds"]


def test_json_lines_whose_batches_differ_get_one_type(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS", 2)
    rows = [
        {"text": "one", "label": "a", "score": 1},
        {"text": "two", "label": "b"},
        {"text": "three", "label": "a", "score": 0.5},
        {"text": "three", "label": "a", "score": None},
        {"text": "four", "label": "a"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    done = budgie("inspect", "rows.jsonl", "--write", "clean.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "clean.parquet")["score"].to_pylist() == [1.0, None, 0.5, None]
    rows[2]["score"] = "half"
    rows[3]["score"] = "full"
    (tmp_path / "mixed.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    line = refused(budgie("inspect", "mixed.jsonl", "--write", "mixed.parquet", cwd=tmp_path))
    assert "score" in line
    assert not (tmp_path / "mixed.parquet").exists()


def test_suspected_labels_go_where_they_are_named(texts, tiny, tmp_path):
    words = ("inspect", texts / "train.csv", "--model", tiny, "--json", "--write")
    content = json.loads(
        budgie(*words, "clean.parquet", "--drop", "label-suspect", cwd=tmp_path).stdout
    )
    suspected = next(one for one in content["findings"] if one["code"] == "label-suspect")
    removed = pq.read_table(tmp_path / "clean.removed.parquet")
    assert removed["row"].to_pylist() == sorted(suspected["rows"])
    assert set(removed["cause"].to_pylist()) == {"label-suspect"}
    assert content["cleaning"]["kept"] == 160 - suspected["count"]


def test_it_is_said_where_suspects_could_not_be_looked_for(folder, texts, tiny):
    words = ("--drop", "label-suspect,texts-cut,duplicate", "--write")
    done = budgie("inspect", "train.jsonl", *words, "one.parquet", cwd=folder)
    assert "label-suspect and texts-cut could not be looked for" in done.stderr
    # Twelve rows are too few to judge labels.
    done = budgie("inspect", "train.jsonl", *words, "two.parquet", "--model", tiny, cwd=folder)
    assert "train.jsonl: label-suspect could not be looked for" in done.stderr
    enough = texts / "train.csv"
    done = budgie("inspect", enough, *words, "three.parquet", "--model", tiny, cwd=folder)
    assert done.returncode == 0
    assert "could not be looked for" not in done.stderr


def test_a_class_that_loses_much_is_told(tmp_path):
    rows = [("a", "one"), ("a", "one"), ("a", "ONE"), ("b", ""), ("c", "two"), ("c", "two")]
    (tmp_path / "rows.csv").write_text(
        "label,text\n" + "\n".join(f"{label},{text}" for label, text in rows)
    )
    done = budgie("inspect", "rows.csv", "--write", "clean.parquet", cwd=tmp_path)
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == ["warning: rows.csv: class a loses 2 of 3 rows, class b loses all its rows"]


def test_a_recipe_trains_on_what_was_written(texts, tiny_recipe, tmp_path):
    rows = (texts / "train.csv").read_text().splitlines()
    planted = ['" ",1', rows[1].upper(), f"{BANK},0", f"{BANK},3", f"{PARK},1", f"{PARK} today,1"]
    leak = (texts / "test.csv").read_text().splitlines()[1]
    (tmp_path / "train.csv").write_text("\n".join([*rows, *planted, leak]) + "\n")
    words = ("--against", texts / "test.csv", "--json")
    found = json.loads(
        budgie("inspect", "train.csv", "--write", "clean.parquet", *words, cwd=tmp_path).stdout
    )
    assert [one["code"] for one in found["cleaning"]["causes"]] == [
        "empty-texts", "duplicate-different-label", "leak", "duplicate", "near-duplicate",
    ]  # fmt: skip
    assert found["cleaning"]["kept"] == 161
    again = json.loads(budgie("inspect", "clean.parquet", *words, cwd=tmp_path).stdout)
    assert not {one["code"] for one in again["findings"]} & set(DROPPED)
    assert again["train"]["texts"] == 161
    done = budgie(
        "train", tiny_recipe, "--out", "run", "--set", "data.train=clean.parquet", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/results.json").exists()


# What is refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--write", "clean.csv"), ".parquet"),
        (("--write", "nowhere/clean.parquet"), "no folder nowhere"),
        (("--write", "there.parquet"), "there.parquet exists already"),
        (("--write", "gone.parquet"), "gone.removed.parquet exists already"),
        (("--write", "dangling.parquet"), "dangling.parquet exists already"),
        (("--write", "rows.parquet"), "is the file that is inspected"),
        (("--against", "there.parquet", "--write", "there.parquet"), "file that is inspected"),
        (("--write", "clean.parquet", "--drop", "duplicates"), "did you mean 'duplicate'?"),
        (("--write", "clean.parquet", "--drop", ""), "no finding ''"),
        (("--write", "clean.parquet", "--drop", "leak"), "--against"),
        (("--drop", "duplicate"), "--write"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch, words, told):
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "rows.parquet")
    (tmp_path / "there.parquet").write_text("mine")
    (tmp_path / "gone.removed.parquet").write_text("mine")
    (tmp_path / "dangling.parquet").symlink_to("nothing")
    before = listing(tmp_path)
    monkeypatch.setattr(inspection, "inspect", lambda *_: pytest.fail("it was inspected"))
    assert told in refused(budgie("inspect", "rows.parquet", *words, cwd=tmp_path))
    assert listing(tmp_path) == before
    assert (tmp_path / "there.parquet").read_text() == "mine"


def test_a_read_only_folder_is_refused_before_the_work(folder, monkeypatch):
    (folder / "locked").mkdir()
    # Root may write in every folder, so that modes alone do not show it.
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "locked")
    monkeypatch.setattr(inspection, "inspect", lambda *_: pytest.fail("it was inspected"))
    line = refused(budgie("inspect", "train.jsonl", "--write", "locked/c.parquet", cwd=folder))
    assert "--write" in line
    assert "--out" not in line


def test_a_column_that_parquet_cannot_hold_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text('{"text": "one", "more": {}}\n{"text": "two", "more": {}}')
    monkeypatch.setattr(inspection, "inspect", lambda *_: pytest.fail("it was inspected"))
    line = refused(budgie("inspect", "rows.jsonl", "--write", "clean.parquet", cwd=tmp_path))
    assert "'more'" in line
    assert listing(tmp_path) == {"rows.jsonl"}


def test_where_nothing_would_be_left_nothing_is_written(tmp_path):
    (tmp_path / "rows.csv").write_text("label,text\na,one\nb,ONE\n")
    done = budgie("inspect", "rows.csv", "--write", "clean.parquet", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("error: duplicate-different-label")
    assert "no row would be left" in done.stderr
    assert "duplicate-different-label 2" in done.stderr
    assert listing(tmp_path) == {"rows.csv"}


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", range(5))
def test_a_full_disk_leaves_neither_file(folder, monkeypatch, step):
    before, calls = listing(folder), []
    sync, write = files._sync, cleaning._write

    def counted(real):
        def call(*arguments):
            calls.append(real)
            return full() if len(calls) == step + 1 else real(*arguments)

        return call

    # Two files written; then each synced, and its folder once it has its name.
    monkeypatch.setattr(cleaning, "_write", counted(write))
    monkeypatch.setattr(files, "_sync", counted(sync))
    line = failed(budgie("inspect", "train.jsonl", "--write", "c.parquet", "--json", cwd=folder))
    assert len(calls) == step + 1
    assert "No space left" in line
    assert "--write" in line
    assert "--out" not in line
    assert listing(folder) == before


@pytest.mark.parametrize("change", ["more", "fewer"])
def test_a_file_that_changes_meanwhile_is_not_cleaned(folder, monkeypatch, change):
    before, inspect, train = listing(folder), inspection.inspect, folder / "train.jsonl"

    def slow(*arguments):
        found, lines = inspect(*arguments), train.read_text().splitlines()
        train.write_text("\n".join([*lines, lines[0]] if change == "more" else lines[:-1]))
        return found

    monkeypatch.setattr(inspection, "inspect", slow)
    line = failed(budgie("inspect", "train.jsonl", "--write", "c.parquet", "--json", cwd=folder))
    assert "has changed" in line
    assert listing(folder) == before


def test_a_file_that_appears_meanwhile_is_kept(folder, monkeypatch):
    inspect = inspection.inspect

    def slow(*arguments):
        (folder / "c.parquet").write_text("mine")
        return inspect(*arguments)

    monkeypatch.setattr(inspection, "inspect", slow)
    line = failed(budgie("inspect", "train.jsonl", "--write", "c.parquet", "--json", cwd=folder))
    assert "exists already" in line
    assert (folder / "c.parquet").read_text() == "mine"


def test_the_default_codes_are_known():
    assert set(DROPPED) < set(CAUSES)
    assert "label-suspect" not in DROPPED


def test_of_two_files_that_cannot_both_be_written_neither_appears(tmp_path):
    clean, removed = tmp_path / "clean.csv", tmp_path / "clean.removed.csv"
    with pytest.raises(BudgieError), cleaning._both_or_none(clean, removed) as temporary:
        for path in temporary:
            path.write_text("rows")
        clean.mkdir()
    assert clean.is_dir()
    assert not removed.exists()


@pytest.mark.parametrize("place", [0, 1])
def test_a_file_that_another_process_wrote_meanwhile_stays(tmp_path, place):
    places = tmp_path / "clean.csv", tmp_path / "clean.removed.csv"
    with pytest.raises(BudgieError), cleaning._both_or_none(*places) as temporary:
        for path in temporary:
            path.write_text("rows")
        places[place].write_text("another's")
    assert places[place].read_text() == "another's"
    assert list(tmp_path.iterdir()) == [places[place]]
