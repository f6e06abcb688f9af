"""A disk that is full at each write in turn: one line, nothing half-written, the same end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from budgerigar import comparison, conductor, console, files, pipeline, predict, recipe_text
from budgerigar.errors import RunError
from budgerigar.files import RETIRED_PREFIX, TEMPORARY_PREFIX


class FullDisk:
    """Has no room for one write, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.fails_at = 0, 0
        sync, line = files._sync, files._line
        # What is written whole is synced at the end, and a log takes a line.
        monkeypatch.setattr(files, "_sync", lambda path: (self._write(), sync(path)))
        monkeypatch.setattr(files, "_line", lambda record: (self._write(), line(record))[1])

    def _write(self) -> None:
        self.count += 1
        if self.count == self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails_next_after(self, writes: int) -> None:
        self.count, self.fails_at = 0, writes


def adapter_bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "adapter").iterdir()}


@pytest.fixture
def short(tiny_recipe, monkeypatch):
    """A run of two epochs; fresh processes that verify adapters have tests of their own."""
    monkeypatch.setattr(conductor, "verify", lambda *_: None)
    short = {"epochs": 2, "steps": 6, "checkpoint_steps": 3, "data.max_rows": 60}
    return recipe_text.read(tiny_recipe, overrides=short)


def test_a_full_disk_at_each_write_loses_nothing(short, tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    expected = adapter_bytes(pipeline.train(short, tmp_path / "unbroken").folder)
    writes = disk.count
    assert writes > 30
    out, failed = tmp_path / "run", 0
    # Each start gets one write further than the one before at least, up to the end.
    for step in range(1, writes + 1, 3):
        disk.fails_next_after(step)
        try:
            (pipeline.resume if (out / "recipe.yaml").exists() else _anew(short))(out)
            break
        except RunError as error:
            failed += 1
            assert os.strerror(errno.ENOSPC) in str(error)
        disk.fails_at = 0
        for start in (TEMPORARY_PREFIX, RETIRED_PREFIX):
            assert not list(out.rglob(f"{start}*"))
        for file in out.rglob("*.json"):
            json.loads(file.read_text())
    disk.fails_at = 0
    assert failed > 5
    assert adapter_bytes(pipeline.resume(out).folder) == expected


def _anew(recipe):
    return lambda out: pipeline.train(recipe, out)


def test_a_full_disk_under_a_comparison_loses_nothing(short, tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    both = [short, recipe_text.change(short, {"name": "other", "adapter.rank": 2})]
    comparison.compare(both, 1, tmp_path / "unbroken")
    expected = adapters_of(tmp_path / "unbroken")
    out, failed = tmp_path / "comparison", 0
    for step in range(1, disk.count + 1, 10):
        disk.fails_next_after(step)
        try:
            if (out / "runs.json").exists():
                comparison.resume(out)
            else:
                comparison.compare(both, 1, out)
            break
        except RunError as error:
            failed += 1
            assert os.strerror(errno.ENOSPC) in str(error)
        assert not list(out.rglob(f"{TEMPORARY_PREFIX}*"))
    assert failed > 3
    disk.fails_at = 0
    comparison.resume(out)
    assert adapters_of(out) == expected


def adapters_of(folder: Path) -> dict[str, dict[str, bytes]]:
    found = {path.parent.name: adapter_bytes(path.parent) for path in folder.glob("*/adapter")}
    assert len(found) == 2
    return found


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Has the kernel cut every file that grows beyond a size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 700])
@pytest.mark.parametrize(
    ("verb", "name"),
    [("predict", "p.csv"), ("predict", "p.jsonl"), ("predict", "p.parquet"), ("submit", "s.csv")],
)
def test_predictions_that_do_not_fit_leave_the_file_as_it_was(
    verb, name, size, tiny_run, tmp_path, texts
):
    lines = (texts / "test.csv").read_text().splitlines()
    predictions = predict.load(tiny_run.adapter).predict(lines * 3)
    out = tmp_path / name
    out.write_text("before")
    write = predict.write_submission if verb == "submit" else predict.write_predictions
    with files_of_at_most(size), pytest.raises(RunError, match=os.strerror(errno.EFBIG)):
        write(predictions, out)
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [("recipes", "list"), ("--help",), ("train", "--help")])
def test_a_full_standard_output_is_one_line(words):
    command = [sys.executable, "-m", "budgerigar", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("budgie: standard output could not be written: No space left")
        assert done.stderr.count("\n") == 1


class FullLog:
    """A log on a full disk."""

    def write(self, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_log_ends_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", FullLog())
    console.note("epoch 1")


def test_what_libraries_tell_of_the_disk_in_words_is_told(tmp_path):
    """Tokenizers raise a plain exception, safetensors one of their own."""
    told = "adapter could not be written: No space left on device"
    with pytest.raises(RunError, match=told), files.whole_folder(tmp_path / "adapter"):
        raise Exception("No space left on device (os error 28)")
    with pytest.raises(ValueError, match="no disk"), files.whole_file(tmp_path / "file"):
        raise ValueError("no disk")
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_goes_back_changes_nothing(short, tmp_path, monkeypatch):
    expected = adapter_bytes(pipeline.train(short, tmp_path / "unbroken").folder)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6)
    out = tmp_path / "run"
    FullDisk(monkeypatch).fails_next_after(24)
    with pytest.raises(RunError):
        pipeline.train(short, out)
    monkeypatch.undo()
    monkeypatch.setattr(conductor, "verify", lambda *_: None)
    for path in out.rglob("*"):
        os.utime(path, (now + 1e6, now + 1e6))
    assert adapter_bytes(pipeline.resume(out).folder) == expected
