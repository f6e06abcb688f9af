"""A disk that is full at each write in turn: one line, nothing half-written, the same end."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from budgerigar import conductor, files, pipeline, recipe_text
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
