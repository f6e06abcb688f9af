"""A hub on 127.0.0.1 that speaks as many of the hub's paths as its libraries ask for.

Serves folders as repositories: information, file lists, and the files themselves with the
headers by which `huggingface_hub` knows a file's commit, size and hash.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PATHS = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
    r"(/(?P<view>revision|tree|paths-info)/(?P<revision>[^/]+)(/(?P<under>.+))?)?"
)
FILES = re.compile(
    r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"
)


@dataclass(frozen=True)
class Repository:
    """A folder as a repository with branches: name -> commit."""

    folder: Path
    branches: dict[str, str]

    def commit(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own name stands for."""
        found = self.branches.get(revision)
        return revision if found is None and revision in self.branches.values() else found

    def files(self) -> list[str]:
        """Paths of all files."""
        every = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.folder)) for path in every)


@dataclass
class Hub:
    """The hub: its address, its repositories (`models/a/b`, `datasets/a/b`), what was asked."""

    endpoint: str
    repositories: dict[str, Repository]
    asked: list[tuple[str, str]] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        found = (FILES.fullmatch(path) for method, path in self.asked if method == "GET")
        return {match["file"] for match in found if match}


@contextmanager
def serving(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """A hub in a thread of this process, as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}", repositories)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Says nothing: what was asked stands in `Hub.asked`."""

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if file := FILES.fullmatch(path):
            kind = "datasets" if file["kind"] else "models"
            self._file(hub.repositories.get(f"{kind}/{file['name']}"), file)
        elif view := PATHS.fullmatch(path):
            self._api(hub.repositories.get(f"{view['kind']}/{view['name']}"), view, body)
        else:
            self._refuse("EntryNotFound")

    def _api(self, repository: Repository | None, view: re.Match[str], body: bytes) -> None:
        if repository is None:
            return self._refuse("RepoNotFound")
        commit = repository.commit(view["revision"] or "main")
        if commit is None:
            return self._refuse("RevisionNotFound")
        if view["view"] == "tree":
            folder = repository.folder / (view["under"] or "")
            if not folder.is_dir():
                return self._refuse("EntryNotFound")
            deep = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
            paths = sorted(folder.rglob("*") if deep else folder.iterdir())
            return self._json([_entry(path, repository.folder) for path in paths])
        if view["view"] == "paths-info":
            wanted = [repository.folder / path for path in json.loads(body)["paths"]]
            return self._json([_entry(p, repository.folder) for p in wanted if p.exists()])
        siblings = [{"rfilename": file} for file in repository.files()]
        return self._json({"id": view["name"], "sha": commit, "siblings": siblings})

    def _file(self, repository: Repository | None, file: re.Match[str]) -> None:
        commit = repository.commit(file["revision"]) if repository else None
        if repository is None or commit is None:
            return self._refuse("RepoNotFound" if repository is None else "RevisionNotFound")
        if file["file"] not in repository.files():
            return self._refuse("EntryNotFound")
        content = (repository.folder / file["file"]).read_bytes()
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{_oid(content)}"',
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        first = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if first is None:
            return self._send(200, content, headers)
        start, end = int(first[1]), min(int(first[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self._send(206, content[start : end + 1], headers)

    def _refuse(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entry(path: Path, root: Path) -> dict[str, Any]:
    """A file or folder as the hub lists it."""
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": _oid(name.encode())}
    content = path.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
