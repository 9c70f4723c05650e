"""A small Hugging Face Hub of one's own: what `huggingface_hub` asks of the real one, no more.

Models are folders. A model may be private, gated, or cut short in the middle of its files.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_known"
API = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/?]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class HubModel:
    """A repository: its folder at its one commit, `main`.

    `cuts` counts the answers that are still to be cut in the middle, by file; `failing` files are
    listed and cannot be had, `silent` ones never come; `sizes` are told instead of the true ones.
    """

    folder: Path
    commit: str = "c" * 40
    private: bool = False
    gated: bool = False
    cuts: dict[str, int] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Every file by its path in the repository."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path for path in paths}


@dataclass
class FakeHub:
    """The server; `asked` has the method, the path and the first byte wanted of every request."""

    url: str
    models: Mapping[str, HubModel]
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    broken: bool = False
    over: Event = field(default_factory=Event)

    def sent(self) -> set[str]:
        """The files that somebody has fetched, by their paths in their repositories."""
        found = [FILE.fullmatch(path) for method, path, _ in self.asked if method == "GET"]
        return {match[3] for match in found if match}


@contextmanager
def fake_hub(models: Mapping[str, HubModel]) -> Iterator[FakeHub]:
    """Serve these models by their ids until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub = FakeHub(f"http://127.0.0.1:{server.server_port}", models)  # type: ignore
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore
        path = unquote(urlsplit(self.path).path)
        first = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        hub.asked.append((self.command, path, first))
        api, file = API.fullmatch(path), FILE.fullmatch(path)
        match = api or file
        name = match[1] if match else ""
        if hub.broken:
            self._refuse(503, "")
        elif name not in hub.models or (hub.models[name].private and not self._known()):
            self._unknown()
        else:
            revision = (api[3] or "main") if api else file[2] if file else ""
            model = hub.models[name]
            if revision not in ("main", model.commit):
                self._refuse(404, "RevisionNotFound")
            elif api:
                self._tree(model) if api[2] == "tree" else self._info(name, model)
            elif model.gated and not self._known():
                self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
            elif file and file[3] in model.failing:
                self._refuse(404, "")
            elif file and file[3] in model.files:
                self._file(model, file[3], first)
            else:
                self._refuse(404, "EntryNotFound")

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _unknown(self) -> None:
        """As the Hub does, which tells strangers nothing."""
        if self._known():
            self._refuse(404, "RepoNotFound")
        elif "Authorization" in self.headers:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        else:
            self._refuse(401, "", "Invalid username or password.")

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _info(self, name: str, model: HubModel) -> None:
        siblings = [{"rfilename": path} for path in model.files]
        self._json({"_id": "0", "id": name, "sha": model.commit, "siblings": siblings})

    def _tree(self, model: HubModel) -> None:
        sizes = {path: file.stat().st_size for path, file in model.files.items()} | model.sizes
        self._json(
            [
                {"type": "file", "path": path, "size": sizes[path], "oid": _etag(file)}
                for path, file in model.files.items()
            ]
        )

    def _file(self, model: HubModel, path: str, first: int) -> None:
        whole = model.files[path].read_bytes()
        body = whole[first:]
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{_etag(model.files[path])}"')
        self.send_header("X-Repo-Commit", model.commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in model.silent:
            hub: FakeHub = self.server.hub  # type: ignore
            hub.over.wait()
            self.close_connection = True
        elif model.cuts.get(path, 0):
            model.cuts[path] -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
