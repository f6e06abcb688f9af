"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from budgerigar import files
from budgerigar.errors import RunError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="Out of range"):
        files.write_json(path, {"new": float("nan")})
    with pytest.raises(ZeroDivisionError), files.whole_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("one", "two"):
        with files.whole_folder(tmp_path / "adapter") as temporary:
            (temporary / "f").write_text(content)
    with pytest.raises(ZeroDivisionError), files.whole_folder(tmp_path / "adapter") as temporary:
        (temporary / "f").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "adapter" / "f").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_recovery_after_a_kill_between_two_renames(tmp_path):
    retired = tmp_path / f"{files.RETIRED_PREFIX}adapter"
    retired.mkdir()
    (retired / "f").write_text("old")
    (tmp_path / f"{files.TEMPORARY_PREFIX}abc-adapter").mkdir()
    (tmp_path / f"{files.TEMPORARY_PREFIX}abc-x.json").write_text("half")
    files.recover(tmp_path)
    assert (tmp_path / "adapter" / "f").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_recovery_keeps_the_new_folder_where_both_are_there(tmp_path):
    for name, content in ((f"{files.RETIRED_PREFIX}adapter", "old"), ("adapter", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(content)
    files.recover(tmp_path)
    assert (tmp_path / "adapter" / "f").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_a_log_cut_short_gives_its_whole_lines(tmp_path):
    log = tmp_path / "steps.jsonl"
    files.append_line(log, {"step": 1})
    files.append_line(log, {"step": 2})
    log.write_bytes(log.read_bytes() + b'{"step": 3')
    assert files.read_lines(log) == [{"step": 1}, {"step": 2}]
    assert files.read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="could not be written"):
        files.write_text(tmp_path / "a", "x")


def test_a_path_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        files.write_text(tmp_path / "file" / "a", "x")


def test_a_full_disk_is_one_line():
    with pytest.raises(RunError, match="No space left on device"):
        files.append_line(files.Path("/dev/full"), {"a": 1})


def test_a_second_process_is_refused(tmp_path):
    code = (
        "import sys; from pathlib import Path; from budgerigar.files import exclusive\n"
        "with exclusive(Path(sys.argv[1])): pass"
    )
    with files.exclusive(tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert done.returncode != 0
    assert "is in use by another process" in done.stderr
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_hold_that_fails_leaves_no_folder(tmp_path):
    folder = tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="stop"), files.exclusive(folder):
        assert (folder / files.LOCK).exists()
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []

    # What was there before stays, and so does what was written meanwhile.
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="stop"), files.exclusive(folder):
        raise ValueError("stop")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    with pytest.raises(ValueError, match="stop"), files.exclusive(folder):
        (folder / "kept").write_text("")
        raise ValueError("stop")
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_a_refused_hold_leaves_the_holder_its_lock(tmp_path):
    folder = tmp_path / "run"
    with files.exclusive(folder):
        with pytest.raises(RunError, match="in use"), files.exclusive(folder):
            pass
        assert (folder / files.LOCK).exists()


def test_places_that_cannot_be_written_are_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    files.require_place(tmp_path / "new" / "deeper" / "file")
    files.require_place(tmp_path / "file")
    for place in (tmp_path, tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(RunError, match="could not be written"):
            files.require_place(place)
