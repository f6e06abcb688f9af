"""The command line as a user meets it: in a process of its own."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from budgerigar import cli


def process(*args, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """Runs `budgie` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "budgerigar", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, **env},
    )


def budgie(*args, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess:
    """Runs `budgie` in this process, which has torch imported already."""
    out, err = io.StringIO(), io.StringIO()
    before, keyboard = sys.argv, sys.stdin
    sys.argv = ["budgie", *map(str, args)]
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode(errors="surrogateescape")))
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as left,
        ):
            cli.main()
    finally:
        sys.argv, sys.stdin = before, keyboard
    status = left.value.code or 0
    return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line that a refusal prints; checks exit code and form."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def run(tiny_recipe, tmp_path_factory) -> Path:
    """A folder in which the tiny recipe was trained by command."""
    folder = tmp_path_factory.mktemp("cli")
    done = process("train", tiny_recipe, cwd=folder)
    assert done.returncode == 0, done.stderr
    listed = done.stdout.splitlines()
    assert listed[0].startswith("validation accuracy ")
    assert listed[1].startswith("test accuracy ")
    assert all((folder / line).exists() for line in listed[2:])
    return folder / "runs" / "tiny"


def test_help_is_quick_and_loads_no_torch(tmp_path):
    code = (
        "import sys; from typer.testing import CliRunner; from budgerigar.cli import app;"
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0;"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'pyarrow', 'numpy', 'pydantic'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_leaves_the_files_of_a_run(run):
    assert {path.name for path in run.iterdir()} == {
        *(".lock", "recipe.yaml", "plan.json", "steps.jsonl", "epochs.jsonl", "results.json"),
        *("adapter", "checkpoints", "predictions", "curves.png", "curves.svg", "report.html"),
    }
    results = json.loads((run / "results.json").read_text())
    assert results["schema"] == 2
    assert results["parameters"] == results["plan"]["trainable"]
    assert results["test"]["texts"] == 80
    assert sum(map(sum, results["test"]["confusion"])) == 80
    low, high = results["test"]["interval"]["low"], results["test"]["interval"]["high"]
    assert low < results["test"]["accuracy"] < high
    assert [epoch["epoch"] for epoch in results["epochs"]] == [1, 2, 3]
    best = max(results["epochs"], key=lambda e: (e["validation_accuracy"], -e["validation_loss"]))
    assert results["training"]["kept_epoch"] == best["epoch"]
    assert results["validation"]["accuracy"] == best["validation_accuracy"]
    assert set(results["data"]["train"]["classes"].values()) == {32}


def test_plan_prints_json_for_programs(tiny_recipe, tmp_path):
    done = budgie("plan", tiny_recipe, "--json", "--set", "adapter.layers=all", cwd=tmp_path)
    plan = json.loads(done.stdout)
    assert plan["trainable"] == {"total": 3236, "adapter": 2048, "head": 1188, "other": 0}
    assert sum(group["parameters"] for group in plan["groups"]) == 3236
    assert {"targets", "head", "rank", "trainable"} <= set(plan["fit"][0])
    assert plan["cost"]["measured"] is True
    assert plan["cost"]["training_texts"] == 128


def test_plan_prints_tables_and_rates_without_effect(tiny_recipe, tmp_path):
    idle = "optimizer.layers=[{layers: 0-1, rate: 1e-5}, {layers: 6-9, rate: 1e-4}]"
    done = budgie("plan", tiny_recipe, "--fit", "--set", idle, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "learning rate 1e-05 of layers 0-1 has no effect: nothing is trained there" in done.stdout
    )
    assert "of layers 6-9 has no effect: the model has layers 0-3" in done.stdout
    assert "trainable 2,212 = adapter 1,024 + head 1,188" in done.stdout
    assert "largest rank inside the budget, layers last:2" in done.stdout


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("budget.max_trainable=2000", "2,212 trainable parameters are 212 over the budget"),
        ("adapter.targets=qeury", "'qeury' matches no matrix of the model, did you mean 'query'"),
        ("adapter.targets=out_proj", "'out_proj' is part of the head"),
        ("adapter.layers=8-11", "does not have: 8, 9, 10, 11: it has layers 0 to 3"),
        ("adapter.rnk=2", "adapter.rnk: unknown field, did you mean 'rank'"),
        ("model.name=./nowhere", "model folder ./nowhere does not exist"),
        ("model.name=package:nowhere", "the package nowhere is not installed"),
        ("model.name=no/where", "cannot be fetched from the hub"),
        ("data.train=nowhere.csv", "nowhere.csv"),
        ("model.sha256=" + "0" * 64, "are not the expected ones"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tiny_recipe, tmp_path, setting, words):
    done = budgie("train", tiny_recipe, "--set", setting, cwd=tmp_path)
    assert words in refused(done)
    assert list(tmp_path.rglob("*")) == []


def test_a_run_is_never_overwritten(run, tiny_recipe):
    before = (run / "results.json").stat().st_mtime_ns
    line = refused(budgie("train", tiny_recipe, "--out", run, cwd=run))
    assert "holds a run already" in line
    assert "--resume" in line
    assert (run / "results.json").stat().st_mtime_ns == before


def test_predict_writes_every_format_and_stdout(run, texts, tmp_path):
    test = texts / "test.csv"
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        done = budgie("predict", run / "adapter", test, "--out", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [line["label"] for line in lines]
    assert len(rows) == 80
    for row in rows:
        assert sum(float(v) for k, v in row.items() if k.startswith("p_")) == pytest.approx(1)
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert table["label"] == [row["label"] for row in rows]
    done = budgie("predict", run / "adapter", "-", cwd=tmp_path, stdin="goal league\nbank oil\n")
    assert [json.loads(line)["row"] for line in done.stdout.splitlines()] == [0, 1]


def test_abstaining_leaves_labels_open(run, texts, tmp_path):
    args = ("predict", run / "adapter", texts / "test.csv")
    done = budgie(*args, "--abstain", "1.0", cwd=tmp_path)
    assert {json.loads(line)["label"] for line in done.stdout.splitlines()} == {None}


def test_the_same_predictions_as_in_the_run(run, texts, tmp_path):
    import pyarrow.parquet as pq

    done = budgie(
        "predict", run / "adapter", texts / "test.csv", "--out", "p.parquet", cwd=tmp_path
    )
    assert done.returncode == 0
    there = pq.read_table(run / "predictions" / "test.parquet")
    here = pq.read_table(tmp_path / "p.parquet")
    assert here["label"] == there["label"]
    for name in here.column_names[2:]:
        assert here[name].to_pylist() == pytest.approx(there[name].to_pylist(), abs=1e-5)


def test_submissions(run, texts, tmp_path):
    done = budgie("submit", run / "adapter", texts / "test.csv", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert said["rows"] == sum(said["classes"].values()) == 80
    lines = (tmp_path / "submission.csv").read_text().split("\n")
    assert lines[0] == "ID,Label"
    assert lines[-1] == ""
    assert [line.split(",")[0] for line in lines[1:-1]] == [str(n) for n in range(80)]
    assert {line.split(",")[1] for line in lines[1:-1]} <= set("0123")
    args = ("--header", "ID,label", "--labels", "name", "--out", "named.csv")
    budgie("submit", run / "adapter", texts / "test.csv", *args, cwd=tmp_path)
    named = list(csv.DictReader((tmp_path / "named.csv").open()))
    classes = json.loads((run / "adapter" / "budgerigar.json").read_text())["classes"]
    assert [classes.index(row["label"]) for row in named] == [
        int(line.split(",")[1]) for line in lines[1:-1]
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("predict", "nowhere", "x.csv"), "x.csv"),
        (("submit", "{run}", "{texts}/test.csv"), "is a run's folder. Name its adapter"),
        (("predict", "{run}/adapter", "{texts}/test.csv", "--out", "p.xls"), "p.xls has an ending"),
        (("curves", "nowhere"), "nowhere holds no run"),
        (("train", "--resume", "nowhere"), "nowhere holds no run"),
        (("train",), "no recipe was given"),
        (("train", "quickstar"), "did you mean 'quickstart'"),
        (("recipes", "copy", "quickstart", "{texts}/test.csv"), "exists already"),
    ],
)
def test_other_refusals(run, texts, tmp_path, args, words):
    filled = [arg.format(run=run, texts=texts) for arg in args]
    line = refused(budgie(*filled, cwd=tmp_path))
    assert words in line
    assert list(tmp_path.iterdir()) == []


def test_a_usage_error_has_exit_code_2(tmp_path):
    done = budgie("trian", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'train'" in done.stderr


def test_curves_of_several_runs(run, tmp_path):
    for name in ("both", "both.png", "both.svg"):
        done = budgie("curves", run, run, "--out", name, cwd=tmp_path)
        assert done.stdout.split() == ["both.png", "both.svg"]
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


def test_recipes_list_show_copy_check(tmp_path):
    listed = json.loads(budgie("recipes", "list", "--json", cwd=tmp_path).stdout)
    assert "quickstart" in listed
    assert all(re.fullmatch(r"[A-Z].{30,120}\.", sentence) for sentence in listed.values())
    shown = budgie("recipes", "show", "agnews-adamw", cwd=tmp_path).stdout
    assert shown.startswith("# LoRA on the top third of roberta-base")
    assert budgie("recipes", "copy", "agnews-adamw", "mine.yaml", cwd=tmp_path).returncode == 0
    own = shown.replace("\nname: agnews-adamw\n", "\nname: mine\n")
    assert (tmp_path / "mine.yaml").read_text().strip() == own.strip() != shown.strip()
    assert budgie("recipes", "check", "mine.yaml", cwd=tmp_path).stdout == "mine.yaml: no faults\n"
    json.loads(budgie("recipes", "schema", cwd=tmp_path).stdout)


def test_offline_fails_within_seconds(tmp_path):
    start = time.monotonic()
    empty = {"HF_HOME": str(tmp_path / "empty"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    line = refused(process("plan", "agnews-adamw", cwd=tmp_path, **empty))
    assert "the hub cannot be reached" in line
    assert "pass a local folder: --set model.name=FOLDER" in line
    line = refused(process("predict", "adapter", "no/where", cwd=tmp_path, **empty))
    assert "pass a local file" in line
    # Generous, for a busy machine: the libraries themselves would try for longer than this.
    assert time.monotonic() - start < 40


def test_a_reader_that_leaves_is_no_fault():
    command = [sys.executable, "-m", "budgerigar", "recipes", "show", "quickstart"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
