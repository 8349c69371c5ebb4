"""A web server over a folder, whose faults a test can choose."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dali_pipelines.storage import Cache, remote


class WebServer(ThreadingHTTPServer):
    """Serves `folder`, answers range requests, counts what it served."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: Counter[tuple[str, str]] = Counter()
        self.bytes_sent = 0
        self.has_ranges = True
        self.failures = 0  # answers that are still to be 503
        self.breaks_after: int | None = None  # bytes after which the next transfer breaks off
        self.pause_s = 0.0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""

    def gets(self, path: str) -> int:
        return self.requests["GET", path]


class _Handler(SimpleHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.server.requests["HEAD", self.path] += 1
        super().do_HEAD()

    def do_GET(self) -> None:
        self.server.requests["GET", self.path] += 1
        threading.Event().wait(self.server.pause_s)
        file = Path(self.translate_path(self.path))
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
        elif not file.is_file():
            super().do_GET()
        else:
            self._send(file.read_bytes(), file)

    def _send(self, data: bytes, file: Path) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.server.has_ranges:
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        self.end_headers()
        if self.server.breaks_after is not None and len(data) > self.server.breaks_after:
            data, self.server.breaks_after = data[: self.server.breaks_after], None
            self.close_connection = True
        self.server.bytes_sent += len(data)  # before the client can have it all and look at the count
        self.wfile.write(data)


@pytest.fixture
def web(tmp_path) -> Iterator[WebServer]:
    folder = tmp_path / "web"
    folder.mkdir()
    server = WebServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def own_cache(tmp_path) -> Cache:
    return Cache.open(str(tmp_path / "cache"), 1)


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(remote, "_FIRST_PAUSE_S", 0.0)
