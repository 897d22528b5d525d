"""The part of the Hugging Face Hub's HTTP API that its file system uses for reading, over a folder.

A folder ``organisation/model`` in it is a repository with the one revision ``main``. The paths and answers
are those that huggingface_hub 2.4.0 asks for and reads: ``hf_api.py`` (``model_info``, ``list_repo_tree``,
``get_paths_info``), ``file_download.py`` (``hf_hub_url``) and ``utils/_http.py`` (``hf_raise_for_status``).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?\Z")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)\Z")
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)\Z")

Ranges = Callable[[str, int, int], None]


class Hub:
    """A server on this machine. Entries of a tree come in pages of ``page_size``."""

    def __init__(self, root: Path, page_size: int = 2) -> None:
        self.root = root
        self.page_size = page_size
        self.requests: list[str] = []
        """The method and path of each request."""
        self.ranges: list[tuple[str, int, int]] = []
        """The name of a file, and the first byte and the one after the last of each range asked for."""
        self.before: Ranges = lambda name, start, end: None
        """Called with what is asked for, in the thread of the request, before the file is read."""
        self.answer: Callable[[bytes, bytes], tuple[int, bytes]] = lambda part, whole: (206, part)
        """The status and the body, from the range of a file and all of it."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two packets

            def log_message(self, *args: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                hub.requests.append(f"GET {self.path}")
                path = unquote(urlsplit(self.path).path)
                api, resolve = _API.match(path), _RESOLVE.match(path)
                if api:
                    self._api(*api.groups())
                elif resolve:
                    self._file(*resolve.groups())
                else:
                    self._reply(404, b"")

            def do_POST(self) -> None:
                hub.requests.append(f"POST {self.path}")
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                api = _API.match(unquote(urlsplit(self.path).path))
                if api and api[2] == "paths-info":
                    repository = hub.root / api[1]
                    paths = [repository / path for path in parse_qs(form)["paths"]]
                    self._json([hub.entry(repository, path) for path in paths if path.exists()])
                else:
                    self._reply(404, b"")

            def _api(self, name: str, what: str | None, revision: str | None, inside: str | None) -> None:
                repository = hub.root / name
                if not repository.is_dir():
                    self._reply(404, b"", {"X-Error-Code": "RepoNotFound"})
                elif revision not in {None, "main"}:
                    self._reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
                elif what != "tree":
                    self._json({"id": name, "sha": "0" * 40, "siblings": [], "tags": [], "private": False})
                elif not (folder := repository / (inside or "")).is_dir():
                    self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                else:
                    asked = parse_qs(urlsplit(self.path).query)
                    recursive = asked.get("recursive", ["false"])[0].lower() == "true"
                    paths = sorted(folder.rglob("*") if recursive else folder.iterdir())
                    first = int(asked.get("cursor", ["0"])[0])
                    last = first + hub.page_size
                    more = f"{hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={last}"
                    link = {"Link": f'<{more}>; rel="next"'} if last < len(paths) else {}
                    self._json([hub.entry(repository, path) for path in paths[first:last]], link)

            def _file(self, name: str, revision: str, inside: str) -> None:
                path = hub.root / name / inside
                found = _RANGE.match(self.headers["Range"] or "")
                if revision != "main" or not path.is_file():
                    self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                elif not found:
                    self._reply(200, path.read_bytes())
                else:
                    start, end = int(found[1]), int(found[2]) + 1
                    hub.ranges.append((inside, start, end))
                    hub.before(inside, start, end)
                    whole = path.read_bytes()
                    status, body = hub.answer(whole[start:end], whole)
                    self._reply(status, body, {"Content-Range": f"bytes {start}-{end - 1}/{len(whole)}"})

            def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
                kind = {"Content-Type": "application/json"}
                self._reply(200, json.dumps(value).encode(), kind | (headers or {}))

            def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler

    def entry(self, repository: Path, path: Path) -> dict[str, object]:
        """What a tree says of a file, with the digest that git has of it, or of a folder."""
        name = path.relative_to(repository).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "path": name}
        data = path.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"type": "file", "oid": digest, "size": len(data), "path": name}
