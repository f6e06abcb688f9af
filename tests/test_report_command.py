"""`budgie report`: reports written anew, printed, and the curves of others."""

from __future__ import annotations

import json
import shutil

import pytest

from budgerigar import pipeline
from budgerigar.errors import RunError
from recorded import comparison_of_recipes
from test_cli import budgie


def test_a_runs_report_is_written_anew(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    before = {name: (folder / name).read_bytes() for name in ("report.html", "curves.svg")}
    for name in before:
        (folder / name).unlink()
    done = budgie("report", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        str(folder / name) for name in ("report.html", "curves.png", "curves.svg")
    ]
    # The run's own legend bears its recipe's name.
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_comparisons_file_gives_a_report_elsewhere(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(comparison_of_recipes()))
    out = tmp_path / "out"
    written = pipeline.report(tmp_path / "comparison.json", out)
    assert written == [out / name for name in ("report.html", "curves.png", "curves.svg")]
    assert all(path.stat().st_size > 1000 for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "out"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is missing"),
        ("{", "cannot be read"),
        ("[]", "is not what a finished run or comparison left"),
        ("3", "is not what a finished run or comparison left"),
        ('{"verdict": {}, "schema": 2}', "is not what a finished run or comparison left"),
        ('{"verdict": {}, "schema": 99}', "has schema 99"),
        ('{"schema": 2, "name": "a", "epochs": []}', "is not what a finished run"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, why):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunError, match=why) as raised:
        pipeline.report(path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_results_is_refused(tmp_path):
    done = budgie("report", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "holds no results" in done.stderr


def test_options_that_contradict_each_other(tmp_path):
    for args, why in (
        ([], "no folder was given"),
        (["a", "b", "--out", "c"], "one --out for 2 reports"),
        (["--from", "a", "--pdf"], "--pdf prints reports"),
    ):
        done = budgie("report", *args, cwd=tmp_path)
        assert done.returncode == 2
        assert why in done.stderr


def test_curves_of_trainers_runs(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        history = [{"loss": 0.5, "epoch": 1.0, "step": 1}, {"eval_loss": 0.4, "epoch": 1.0}]
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    done = budgie(
        *("report", "--from", "first", "second", "--out", "o"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["curves.png", "curves.svg"]


def test_without_a_browser_the_page_is_there_and_the_pdf_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "comparison.json").write_text(json.dumps(comparison_of_recipes()))
    with pytest.raises(RunError, match=r"report.pdf was not written: it takes a browser"):
        pipeline.report(tmp_path, pdf=True)
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "report.pdf").exists()


def test_a_browser_that_fails_leaves_no_pdf(tmp_path, monkeypatch):
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\necho no display >&2\nexit 3\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    (tmp_path / "comparison.json").write_text(json.dumps(comparison_of_recipes()))
    with pytest.raises(RunError, match="could not print: no display"):
        pipeline.report(tmp_path, pdf=True)
    assert not list(tmp_path.glob("*.pdf"))
