"""Files that appear whole or not at all, locks, and content hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from budgerigar.errors import RunError

TEMPORARY_PREFIX = ".budgie-tmp-"
RETIRED_PREFIX = ".budgie-old-"
LOCK = ".lock"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path; what is written there becomes `path` at the end.

    The file is synced before the rename, so that a reader, or a machine that lost
    power, sees the old content or the new one. On an exception nothing appears.

    Raises:
        RunError: when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except Exception as error:
        if (fault := _of_the_disk(error)) is None:
            raise
        raise cannot_write(path, fault) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder; it takes the place of `path` at the end.

    A folder cannot be exchanged in one step: the old one is set aside under
    `RETIRED_PREFIX` for a moment, and `recover` puts it back after a crash there.

    Raises:
        RunError: when the disk is full or the folder cannot be written.
    """
    mark = uuid.uuid4().hex[:8]
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{mark}-{path.name}")
    retired = path.with_name(f"{RETIRED_PREFIX}{path.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)
            path.replace(retired)
        temporary.replace(path)
        _sync(path.parent)
        shutil.rmtree(retired, ignore_errors=True)
    except Exception as error:
        if (fault := _of_the_disk(error)) is None:
            raise
        raise cannot_write(path, fault) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finishes or undoes what a killed process left half-done directly in `folder` and below."""
    for left in sorted(folder.rglob(f"{RETIRED_PREFIX}*")):
        place = left.with_name(left.name.removeprefix(RETIRED_PREFIX))
        if place.exists():
            shutil.rmtree(left)
        else:
            left.replace(place)
    for left in sorted(folder.rglob(f"{TEMPORARY_PREFIX}*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file that this program wrote.

    Raises:
        RunError: when it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing", remedy="check the folder's name") from error
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read",
            why=str(error),
            remedy="it should hold JSON: name another file, or write this one anew",
        ) from error


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Adds one JSON line in a single write, so that a log grows by whole lines."""
    try:
        with path.open("ab") as log:
            log.write(_line(record).encode())
    except OSError as error:
        raise cannot_write(path, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines log; a last line cut short by a crash is left out.

    Raises:
        RunError: when a line before the last is no JSON object.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    records = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("it is no JSON object")
            _line(record).encode()  # It could not be written again.
        except (ValueError, RecursionError) as error:
            raise damaged_log(path, f"line {number:,}: {error}") from error
        records.append(record)
    return records


def damaged_log(path: Path, why: str) -> RunError:
    """The one way to say that a log is not what was written to it."""
    return RunError(
        f"{path} is damaged", why=why, remedy="put a copy of the file back, or begin a new run"
    )


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes a JSON-lines log anew, whole or not at all."""
    write_text(path, "".join(_line(record) for record in records))


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process alone; the kernel lets go of it when the process dies.

    Where an exception ends it before anything was written, no folder that it made stays behind.

    Raises:
        RunError: when another process holds it, or it cannot be written.
    """
    lock, made = folder / LOCK, []
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        is_new = not lock.exists()
        handle = lock.open("a")
    except OSError as error:
        _remove_empty(made)
        raise cannot_write(folder, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{folder} is in use by another process",
                remedy="wait until it ends, or choose another folder with --out",
            ) from error
        try:
            yield
        except BaseException:
            # While it is still held: a lock of another process must not vanish under it.
            if is_new:
                lock.unlink(missing_ok=True)
            _remove_empty(made)
            raise


def require_place(path: Path) -> None:
    """Refuses a place where no file can be written, before anything is computed for it.

    Raises:
        RunError: when it is a folder, or its folder cannot be written.
    """
    folder = next(place for place in path.absolute().parents if place.exists())
    code = 0
    if path.is_dir():
        code = errno.EISDIR
    elif not folder.is_dir():
        code = errno.ENOTDIR
    elif os.statvfs(folder).f_flag & os.ST_RDONLY:
        code = errno.EROFS
    elif not os.access(folder, os.W_OK | os.X_OK):
        code = errno.EACCES
    if code:
        raise cannot_write(path, OSError(code, os.strerror(code)))


def cannot_write(path: Path, error: OSError) -> RunError:
    """The one way to say that `path` could not be written."""
    return RunError(
        f"{path} could not be written",
        why=error.strerror or str(error),
        remedy="free the disk or choose another folder with --out; what stood there before is kept",
    )


def _of_the_disk(error: Exception) -> OSError | None:
    """What the system said of a file; libraries in Rust tell it in the words of any exception."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, the innermost first, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
