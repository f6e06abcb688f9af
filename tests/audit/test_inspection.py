"""`budgie inspect` as a user meets it."""

from __future__ import annotations

import json

import pytest
from kinds import headlines, rewritten

from budgerigar.audit import inspection
from test_cli import budgie, refused

NEWS = [text for text, _ in headlines()]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUDGERIGAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Training texts with and without labels, and others of two kinds, with a known leak."""
    folder = tmp_path_factory.mktemp("files")
    rows = headlines()[:300]
    train = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (folder / "train.jsonl").write_text("\n".join(train))
    plain = [json.dumps({"text": text}) for text, _ in rows]
    (folder / "plain.jsonl").write_text("\n".join(plain))
    other = NEWS[300:399] + [NEWS[0]] + [rewritten(text) for text in NEWS[400:500]]
    (folder / "other.jsonl").write_text("\n".join(json.dumps({"text": one}) for one in other))
    return folder


def test_json_alone_on_stdout_twice_the_same(files, tiny):
    words = ("inspect", "train.jsonl", "--against", "other.jsonl", "--model", tiny, "--json")
    first, again = budgie(*words, cwd=files), budgie(*words, cwd=files)
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout
    content = json.loads(first.stdout)
    assert {"findings", "groups", "clusters", "train", "against", "expected_accuracy"} <= set(
        content
    )
    assert len(content["groups"]) == 200
    assert content["kinds"] == "two"
    truth = ["like"] * 100 + ["unlike"] * 100
    assert sum(a == b for a, b in zip(content["groups"], truth, strict=True)) > 180
    for finding in content["findings"]:
        assert {"code", "severity", "count", "rows", "advice"} <= set(finding)
    assert content["findings"][0]["severity"] == "error"
    leaks = [one for one in content["findings"] if one["file"] == "against" and 99 in one["rows"]]
    assert any("leak" in one["code"] for one in leaks)


def test_people_see_findings_first(files, tiny):
    done = budgie("inspect", "train.jsonl", "--against", "other.jsonl", "--model", tiny, cwd=files)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("error: ")
    assert any(line.startswith("shift: two populations") for line in lines)
    assert "accuracy to expect" in lines


def test_training_texts_need_no_labels(files, tiny):
    words = ("inspect", "plain.jsonl", "--against", "other.jsonl", "--model", tiny, "--json")
    content = json.loads(budgie(*words, cwd=files).stdout)
    assert content["kinds"] == "two"
    assert "expected_accuracy" not in content
    assert "classes" not in content["train"]


def test_one_file_alone_has_no_groups(files, tiny):
    content = json.loads(
        budgie("inspect", "train.jsonl", "--model", tiny, "--json", cwd=files).stdout
    )
    assert content["groups"] == []
    assert content["clusters"] == []
    assert "kinds" not in content


def test_without_an_encoder_the_rest_is_done_and_the_lack_said(files, monkeypatch):
    monkeypatch.setattr(inspection, "default_model", lambda: None)
    content = json.loads(
        budgie("inspect", "train.jsonl", "--against", "other.jsonl", "--json", cwd=files).stdout
    )
    lack = next(one for one in content["findings"] if one["code"] == "no-model")
    assert "budgerigar[demo]" in lack["advice"]
    assert any("leak" in one["code"] for one in content["findings"])
    assert content["groups"] == []


def test_columns_choose_the_texts_of_both_files(tmp_path, tiny):
    rows = [f"{text[:40]},{label},x{row}" for row, (text, label) in enumerate(headlines()[:60])]
    rows = [row.replace('"', "") for row in rows if row.count(",") == 2]
    (tmp_path / "train.csv").write_text("\n".join(["headline,label,noise", *rows]))
    others = [f"{row.split(',')[0]},y" for row in rows]
    (tmp_path / "other.csv").write_text("\n".join(["headline,noise", *others]))
    words = ("--columns", "label,headline", "--model", tiny, "--json")
    done = budgie("inspect", "train.csv", "--against", "other.csv", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["against"]["texts"] == len(rows)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere.csv",), "nowhere.csv"),
        (("train.jsonl", "--against", "nowhere.csv"), "nowhere.csv"),
        (("train.jsonl", "--model", "./nowhere"), "nowhere"),
        (("train.jsonl", "--columns", "headline"), "headline"),
        (("-", "--against", "-"), "standard input"),
    ],
)
def test_bad_input_is_one_line(files, words, told):
    assert told in refused(budgie("inspect", *words, cwd=files))
