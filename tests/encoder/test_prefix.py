"""The cache of the frozen prefix: whole, found again, within its limit, whatever happens."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from budgerigar import console
from budgerigar.cli import app
from budgerigar.encoder import prefix, rows
from budgerigar.encoder.prefix import LOCK, META, PART, PrefixCache, human_size
from budgerigar.encoder.rows import CHUNKS, DATA, Layout
from budgerigar.errors import BudgieError
from budgerigar.files import cannot_write

WIDTH = 32
LENGTHS = np.arange(1, 41) % 7 + 2
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
LAYOUT = Layout(OFFSETS, WIDTH, "uint16")
ROWS_OF_CHUNK = 30
ABOUT = {"base": "ab" * 32, "layers": 2, "precision": "bfloat16", "texts": 40, "tokens": 197}
OTHERS = [{**ABOUT, "layers": layers} for layers in range(3, 7)]
EXPECTED = np.random.default_rng(0).integers(0, 2**16, (OFFSETS[-1], WIDTH), dtype=np.uint16)

PROCESS = """
import hashlib, os, pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from test_prefix import ABOUT, LAYOUT, Computation, ROWS_OF_CHUNK
from budgerigar.encoder import rows
from budgerigar.encoder.prefix import PrefixCache
rows.CHUNK_ROWS = ROWS_OF_CHUNK
source, folder = Computation(), pathlib.Path(sys.argv[2])
def compute(first, last):
    with (folder / "calls").open("a") as log:
        log.write(f"{first}\\n")
    HOOK
    return source(first, last)
found = PrefixCache(folder / "cache").open(ABOUT, LAYOUT, compute, "texts")
print("none" if found is None else hashlib.sha256(found.tobytes()).hexdigest())
"""
"""A process that opens the entry; `HOOK` is what it does before each chunk."""


class Computation:
    """Gives the expected rows and remembers what was asked; at `stop` it raises instead."""

    def __init__(self, stop: int | None = None, error: BaseException | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.stop, self.error = stop, error

    def __call__(self, first: int, last: int) -> np.ndarray:
        if len(self.asked) == self.stop:
            raise self.error
        self.asked.append((first, last))
        return EXPECTED[OFFSETS[first] : OFFSETS[last]]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(rows, "CHUNK_ROWS", ROWS_OF_CHUNK)


@pytest.fixture
def cache(tmp_path) -> PrefixCache:
    return PrefixCache(tmp_path / "cache", limit=10 * LAYOUT.size)


def chunks() -> list[tuple[int, int]]:
    return LAYOUT.chunks()


def opened(cache: PrefixCache, about=ABOUT, stop=None, error=None):
    """What `open` gives, and the chunks that it computed."""
    source = Computation(stop, error)
    found = cache.open(about, LAYOUT, source, "texts")
    assert found is None or np.array_equal(found, EXPECTED)
    return found, source.asked


def folder_of(cache: PrefixCache, about=ABOUT) -> Path:
    (found,) = (entry for entry in cache.entries() if entry.about == about)
    return cache.folder / (found.name if found.whole else f"{found.name}{PART}")


def layers_of(cache: PrefixCache) -> list[int]:
    """Which entries there are, the most recently used first."""
    return [entry.about["layers"] for entry in cache.entries()]


def age(cache: PrefixCache, about, seconds: float) -> None:
    """Makes an entry look as if it had not been used for so long."""
    folder, then = folder_of(cache, about), time.time() - seconds
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def interrupt(cache: PrefixCache, after: int, about=ABOUT) -> None:
    """Leaves an entry of which so many chunks are computed."""
    with pytest.raises(KeyboardInterrupt):
        cache.open(about, LAYOUT, Computation(after, KeyboardInterrupt()), "texts")


def process(folder: Path, hook: str = "") -> subprocess.Popen:
    code = PROCESS.replace("HOOK", hook or "pass")
    return subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def calls(folder: Path) -> list[int]:
    """First texts of the chunks that processes computed, in order."""
    return [int(line) for line in (folder / "calls").read_text().split()]


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.01)


def test_the_chunks_cover_every_text_once_and_are_not_small():
    assert len(chunks()) > 4
    covered = [text for first, last in chunks() for text in range(first, last)]
    assert covered == list(range(len(LENGTHS)))
    counts = [OFFSETS[last] - OFFSETS[first] for first, last in chunks()]
    assert min(counts[:-1]) >= ROWS_OF_CHUNK


def test_an_entry_is_computed_once_and_found_again(cache, capfd):
    _, first = opened(cache)
    found, again = opened(cache)
    assert (first, again) == (chunks(), [])
    assert not found.flags.writeable
    assert capfd.readouterr().err == ""
    (entry,) = cache.entries()
    assert (entry.about, entry.whole, entry.size) == (ABOUT, True, LAYOUT.size)
    assert {path.name for path in cache.folder.iterdir()} == {entry.name}
    assert {path.name for path in (cache.folder / entry.name).iterdir()} == {DATA, META}


@pytest.mark.parametrize("field", list(ABOUT))
def test_whatever_decides_the_content_makes_another_entry(cache, field):
    opened(cache)
    _, asked = opened(cache, {**ABOUT, field: "another"})
    assert asked == chunks()
    assert len(cache.entries()) == 2


def test_another_form_of_entries_makes_another_entry(cache, monkeypatch):
    opened(cache)
    monkeypatch.setattr(prefix, "FORMAT", prefix.FORMAT + 1)
    assert opened(cache)[1] == chunks()


@pytest.mark.parametrize("number_type", ["float32", "uint16"])
def test_rows_come_back_in_their_number_type(cache, number_type):
    content = np.arange(OFFSETS[-1] * WIDTH, dtype=number_type).reshape(-1, WIDTH)
    found = cache.open(
        ABOUT,
        Layout(OFFSETS, WIDTH, number_type),
        lambda first, last: content[OFFSETS[first] : OFFSETS[last]],
        "texts",
    )
    assert found.dtype == np.dtype(number_type)
    assert np.array_equal(found, content)


# The limit and the disk


def test_the_least_recently_used_entry_makes_room(tmp_path):
    cache = PrefixCache(tmp_path, limit=3 * LAYOUT.size)
    for seconds, about in zip((30, 20, 10), OTHERS, strict=False):
        opened(cache, about)
        age(cache, about, seconds)
    opened(cache, OTHERS[0])  # Which was the oldest and is now the newest.
    assert layers_of(cache) == [3, 5, 4]
    opened(cache, OTHERS[3])
    assert sorted(layers_of(cache)) == [3, 5, 6]
    assert opened(cache, OTHERS[0])[1] == []


def test_what_the_limit_does_not_hold_is_not_kept(tmp_path, capfd):
    cache = PrefixCache(tmp_path, limit=LAYOUT.size)
    opened(cache)
    small = PrefixCache(tmp_path, limit=LAYOUT.size - 1)
    assert opened(small, OTHERS[0]) == (None, [])
    said = capfd.readouterr().err
    assert f"it takes {human_size(LAYOUT.size)}, the limit is" in said
    assert "every epoch computes it again" in said
    assert layers_of(cache) == [ABOUT["layers"]], "nothing makes room for what never fits"


def test_an_entry_that_is_read_makes_no_room(tmp_path, capfd):
    cache = PrefixCache(tmp_path, limit=LAYOUT.size)
    held, _ = opened(cache)
    assert opened(cache, OTHERS[0]) == (None, [])
    assert f"what is in use takes {human_size(LAYOUT.size)}" in capfd.readouterr().err
    assert np.array_equal(held, EXPECTED)
    del held
    assert opened(cache, OTHERS[0])[1] == chunks()
    assert layers_of(cache) == [3]


def test_a_stopped_computation_counts_for_the_limit_and_makes_room_too(tmp_path):
    cache = PrefixCache(tmp_path, limit=2 * LAYOUT.size)
    interrupt(cache, 2, OTHERS[0])
    age(cache, OTHERS[0], 10)
    opened(cache, OTHERS[1])
    assert sorted(layers_of(cache)) == [3, 4]
    opened(cache, OTHERS[2])
    assert sorted(layers_of(cache)) == [4, 5]


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(cache, monkeypatch):
    """Sets how many bytes the disk has for the cache."""

    def resize(size: int) -> None:
        def usage(folder):
            taken = sum(entry.size for entry in cache.entries())
            return Usage(size, taken, size - taken)

        monkeypatch.setattr(prefix.shutil, "disk_usage", usage)

    return resize


def test_what_the_disk_does_not_hold_is_not_kept(cache, disk, capfd):
    disk(2 * LAYOUT.size)
    opened(cache)
    disk(LAYOUT.size)
    assert opened(cache, OTHERS[0]) == (None, [])
    assert f"{cache.folder} has 0 bytes free" in capfd.readouterr().err
    assert layers_of(cache) == [ABOUT["layers"]], "nothing makes room for what never fits"


def test_entries_make_room_on_the_disk(cache, disk):
    disk(int(1.5 * LAYOUT.size))
    opened(cache, OTHERS[0])
    assert opened(cache, OTHERS[1])[1] == chunks()
    assert layers_of(cache) == [4]


def test_what_a_stopped_computation_wrote_needs_no_room_again(cache, disk):
    written = chunks()[-2][1]
    interrupt(cache, len(chunks()) - 1)
    (entry,) = cache.entries()
    assert not entry.whole
    assert entry.size >= OFFSETS[written] * WIDTH * 2
    disk(int(1.1 * LAYOUT.size))
    assert opened(cache)[1] == chunks()[-1:]


@pytest.mark.parametrize("at", range(3))
def test_a_disk_that_fills_up_leaves_nothing_over(cache, at, capfd):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    found, asked = opened(cache, stop=at, error=full)
    assert found is None
    assert len(asked) == at
    assert os.strerror(errno.ENOSPC) in capfd.readouterr().err
    assert list(cache.folder.iterdir()) == []


@pytest.mark.parametrize("helper", ["append_line", "write_lines"])
def test_a_disk_that_has_no_room_for_a_line_of_the_log(cache, helper, monkeypatch, capfd):
    def full(path, *_):
        raise cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(rows, helper, full)
    assert opened(cache)[0] is None
    said = capfd.readouterr().err
    assert os.strerror(errno.ENOSPC) in said
    assert "--out" not in said
    assert list(cache.folder.iterdir()) == []


def test_a_file_that_may_not_grow_is_told(tmp_path):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, 2 * ({LAYOUT.size // 4},))"
    done = process(tmp_path, limit)
    # The limit falls after the file has its length: the chunk that crosses it cannot be written.
    out, said = done.communicate(timeout=60)
    assert (done.returncode, out.strip()) == (0, "none")
    assert os.strerror(errno.EFBIG) in said
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert opened(PrefixCache(tmp_path / "file" / "cache")) == (None, [])
    assert "cannot hold it (Not a directory)" in capfd.readouterr().err


# Damage


def _cut(folder: Path) -> None:
    os.truncate(folder / DATA, LAYOUT.size - 1)


def _without_sums(folder: Path) -> None:
    content = json.loads((folder / META).read_text())
    del content["sums"]
    (folder / META).write_text(json.dumps(content))


DAMAGE = {
    "a flipped byte at the start": lambda folder: flip(folder / DATA, 0),
    "a flipped byte at the end": lambda folder: flip(folder / DATA, -1),
    "a flipped byte in the record": lambda folder: flip(folder / META, 0),
    "a short file": _cut,
    "an empty file": lambda folder: (folder / DATA).write_bytes(b""),
    "no file": lambda folder: (folder / DATA).unlink(),
    "no record": lambda folder: (folder / META).unlink(),
    "an empty record": lambda folder: (folder / META).write_text(""),
    "a record of another form": lambda folder: (folder / META).write_text("[1, 2]"),
    "a record that is no text": lambda folder: (folder / META).write_bytes(b"\xff\xfe\x00"),
    "a record without sums": _without_sums,
    "sums of another form": lambda folder: (folder / META).write_text('{"sums": null}'),
    "too few sums": lambda folder: (folder / META).write_text('{"sums": []}'),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damage_is_seen_told_and_computed_anew(cache, damage, capfd):
    opened(cache)
    DAMAGE[damage](folder_of(cache))
    _, asked = opened(cache)
    assert asked == chunks()
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert re.match(r"warning: the cached frozen layers in .* are damaged: .*; computing", said)
    assert opened(cache)[1] == []


# Interruptions


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_a_stopped_computation_goes_on_where_it_stopped(cache, after, error):
    with pytest.raises(type(error)):
        opened(cache, stop=after, error=error)
    (entry,) = cache.entries()
    assert (entry.about, entry.whole) == (ABOUT, False)
    assert opened(cache)[1] == chunks()[after:]
    assert [entry.whole for entry in cache.entries()] == [True]


def test_a_killed_computation_goes_on_where_it_stopped(tmp_path):
    starts = [first for first, _ in chunks()]
    killed = process(tmp_path, f"if first == {starts[3]}: os.kill(os.getpid(), {signal.SIGKILL})")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert calls(tmp_path) == starts[:4]
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {LOCK, PART}
    (tmp_path / "calls").unlink()
    out, _ = process(tmp_path).communicate(timeout=60)
    assert out.strip() == hashlib.sha256(EXPECTED.tobytes()).hexdigest()
    assert calls(tmp_path) == starts[3:]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [""]


def test_chunks_from_the_first_damaged_one_on_are_computed_again(cache):
    interrupt(cache, 4)
    flip(folder_of(cache) / DATA, int(OFFSETS[chunks()[1][0]]) * WIDTH * 2 + 5)
    assert opened(cache)[1] == chunks()[1:]


def _log_cut(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (_log_cut, 3),
        (lambda log: log.unlink(), 0),
        (lambda log: flip(log, 0), 0),
        (lambda log: log.write_text("[1]\n"), 0),
        (lambda log: log.write_text('{"sum": null}\n'), 0),
        (lambda log: log.write_bytes(log.read_bytes() * 9), 4),
    ],
)
def test_a_damaged_log_costs_no_more_than_its_chunks(cache, damage, kept):
    interrupt(cache, 4)
    damage(folder_of(cache) / CHUNKS)
    assert opened(cache)[1] == chunks()[kept:]


def test_progress_is_shown_chunk_by_chunk_from_where_a_computation_goes_on(
    cache, monkeypatch, capfd
):
    interrupt(cache, 2)
    first = chunks()[1][1]
    seconds = itertools.count(0, 100)
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    opened(cache)
    expected = [
        f"frozen layers of texts {last}/40    {100 * n / (last - first) * (40 - last):.0f} s left"
        for n, (_, last) in enumerate(chunks()[2:], 1)
    ]
    assert capfd.readouterr().err.splitlines() == expected


def test_an_unfinished_file_of_another_length_is_computed_again(cache):
    interrupt(cache, 4)
    os.truncate(folder_of(cache) / DATA, 7)
    assert opened(cache)[1] == chunks()


def test_a_process_that_died_before_the_name_was_given_leaves_no_work(cache, monkeypatch):
    replace = Path.replace

    def die(path, target):
        if path.suffix == PART:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        interrupt(cache, len(chunks()))
    assert opened(cache)[1] == []


# Several processes


def test_two_processes_compute_the_same_entry_once(tmp_path):
    hook = "while not (folder / 'go').exists(): time.sleep(0.01)"
    first = process(tmp_path, hook)
    wait_for(tmp_path / "calls")
    second = process(tmp_path)
    said = second.stderr.readline()
    assert said.startswith("waiting for another process that computes")
    (tmp_path / "go").write_text("")
    outs = [one.communicate(timeout=60)[0].strip() for one in (first, second)]
    assert outs == 2 * [hashlib.sha256(EXPECTED.tobytes()).hexdigest()]
    assert calls(tmp_path) == [first for first, _ in chunks()]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [""]


def test_nobody_meets_a_part(cache):
    seen = []

    def compute(first, last):
        seen.extend(cache.entries())
        assert all(path.suffix in {PART, LOCK} for path in cache.folder.iterdir())
        return EXPECTED[OFFSETS[first] : OFFSETS[last]]

    cache.open(ABOUT, LAYOUT, compute, "texts")
    assert len(seen) == len(chunks())
    assert all(entry.about == ABOUT and not entry.whole for entry in seen)


def test_what_is_computed_or_read_is_neither_cleared_nor_makes_room(cache):
    held, _ = opened(cache, OTHERS[0])
    asked, cleared = [], []
    # Room for what is on the disk by then, but not for what it will be.
    small = PrefixCache(cache.folder, limit=int(2.7 * LAYOUT.size))

    def compute(first, last):
        asked.append((first, last))
        if len(asked) == 2:
            cleared.append(cache.clear())
            assert opened(small, OTHERS[1]) == (None, [])
        return EXPECTED[OFFSETS[first] : OFFSETS[last]]

    assert np.array_equal(cache.open(ABOUT, LAYOUT, compute, "texts"), EXPECTED)
    assert cleared == [(0, 2)]
    assert asked == chunks()
    assert np.array_equal(held, EXPECTED)


def test_many_that_open_and_clear_at_once_never_compute_together(cache):
    inside, faults = [], []

    def compute(first, last):
        inside.append(first)
        time.sleep(0.0005)
        if len(inside) > 1:
            faults.append(list(inside))
        inside.remove(first)
        return EXPECTED[OFFSETS[first] : OFFSETS[last]]

    def work():
        for _ in range(15):
            found = cache.open(ABOUT, LAYOUT, compute, "texts")
            if found is None or not np.array_equal(found, EXPECTED):
                faults.append(found)
            del found
            cache.clear()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert not list(cache.folder.glob(f"*{LOCK}"))


# Settings and commands


def test_the_environment_says_where_and_how_much(tmp_path, monkeypatch):
    monkeypatch.setenv(prefix.FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    monkeypatch.setenv(prefix.LIMIT_VARIABLE, "123")
    cache = PrefixCache()
    assert (cache.folder, cache.limit) == (tmp_path / "elsewhere", 123)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(prefix.FOLDER_VARIABLE, "~/rows")
    assert PrefixCache().folder == tmp_path / "home" / "rows"
    monkeypatch.delenv(prefix.FOLDER_VARIABLE)
    monkeypatch.delenv(prefix.LIMIT_VARIABLE)
    cache = PrefixCache()
    assert cache.folder == tmp_path / "home" / ".cache" / "budgerigar"
    assert cache.limit == prefix.LIMIT


@pytest.mark.parametrize("text", ["50GB", "-1", "1.5", "²", " "])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(prefix.LIMIT_VARIABLE, text)
    with pytest.raises(BudgieError, match=r"BUDGERIGAR_CACHE_BYTES is .*: it is a number of bytes"):
        PrefixCache()


def test_clearing_removes_entries_parts_and_left_locks_and_nothing_else(cache):
    opened(cache)
    interrupt(cache, 3, OTHERS[0])
    name = folder_of(cache, OTHERS[0]).stem
    (cache.folder / f"{name}{LOCK}").write_text("")
    strange = cache.folder / "experiment"
    strange.mkdir()
    (strange / META).write_text("{}")
    (strange / DATA).write_text("mine")
    (cache.folder / f"poetry{LOCK}").write_text("")
    sizes = sum(entry.size for entry in cache.entries())
    assert cache.clear() == (sizes, 0)
    assert sizes > LAYOUT.size
    assert {path.name for path in cache.folder.iterdir()} == {"experiment", f"poetry{LOCK}"}
    assert (strange / DATA).read_text() == "mine"
    assert cache.clear() == (0, 0)


def test_a_folder_that_cannot_be_cleared_is_told(cache, monkeypatch):
    def denied(path, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    opened(cache)
    monkeypatch.setattr(prefix.shutil, "rmtree", denied)
    with pytest.raises(BudgieError, match="could not be cleared: Permission denied"):
        cache.clear()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.00 KiB"),
        (1536 * 2**10, "1.50 MiB"),
        (9 * 2**30, "9.00 GiB"),
        (2**41, "2048.00 GiB"),
    ],
)
def test_sizes_for_people(size, text):
    assert human_size(size) == text


def command(cache: PrefixCache, *arguments: str):
    environment = {prefix.FOLDER_VARIABLE: str(cache.folder)}
    done = CliRunner(env=environment).invoke(app, ["cache", *arguments])
    assert done.exit_code == 0, done.output
    return done


def test_the_command_lists_what_there_is(cache):
    opened(cache)
    age(cache, ABOUT, 3600)
    interrupt(cache, 2, OTHERS[0])
    (cache.folder / ("0" * 32)).mkdir()
    age(cache, {}, 7200)
    done = command(cache, "list")
    head, *lines = (line.split("\t") for line in done.stdout.splitlines())
    assert head == ["base", "layers", "precision", "texts", "tokens", "size", "last used"]
    unfinished, whole, lost = lines
    assert whole[:-1] == ["abababababab", "2", "bfloat16", "40", "197", human_size(LAYOUT.size)]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", whole[-1])
    assert unfinished[1] == "3"
    assert unfinished[5].endswith(f" of {human_size(LAYOUT.size)}, unfinished")
    assert lost[:-1] == [*"?????", "0 bytes"]
    assert f"{cache.folder}: 3 entries, " in done.stderr
    found = json.loads(command(cache, "list", "--json").stdout)
    assert [one["whole"] for one in found] == [False, True, True]
    assert found[1]["about"] == ABOUT
    assert found[1]["size"] == LAYOUT.size


def test_the_command_clears_all_but_what_is_in_use(cache):
    held, _ = opened(cache)
    opened(cache, OTHERS[0])
    done = command(cache, "clear")
    assert done.stdout == f"{cache.folder}: freed {human_size(LAYOUT.size)}\n"
    assert done.stderr == "1 entry is in use and stays\n"
    del held
    cleared = json.loads(command(cache, "clear", "--json").stdout)
    assert cleared == {"freed": LAYOUT.size, "in_use": 0}
    assert json.loads(command(cache, "list", "--json").stdout) == []


def test_the_cache_is_listed_without_torch(cache):
    code = (
        "import sys; from typer.testing import CliRunner; from budgerigar.cli import app;"
        "r = CliRunner().invoke(app, ['cache', 'list']); assert r.exit_code == 0, r.output;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
