"""A real HTTP server that receives webhooks and does with them what a test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.store.records import JobRecord, JobStatus, WebhookRecord, new_id
from service.store.store import Store
from service.webhooks.signing import new_secret


@dataclass
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Receiver:
    """What came in, and how it is answered."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Answers to the next requests; 200 after them."""
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    """Before it answers."""
    body: bytes = b"thanks"

    def ids(self) -> list[str]:
        """The message of each request."""
        return [request.headers["webhook-id"] for request in self.received]


@pytest.fixture
def start_receiver() -> Iterator[Callable[[], Receiver]]:
    """Starts receivers."""
    servers: list[ThreadingHTTPServer] = []

    def start() -> Receiver:
        receiver = Receiver()
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(receiver))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
        return receiver

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.append(Received(self.path, headers, body, time.time()))
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            time.sleep(receiver.wait_s)
            self.send_response(status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(receiver.body)))
            self.end_headers()
            self.wfile.write(receiver.body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    return Handler


@pytest.fixture
def receiver(start_receiver: Callable[[], Receiver]) -> Receiver:
    """A receiver."""
    return start_receiver()


@pytest.fixture
def dripping_url() -> Iterator[str]:
    """A server that sends a byte now and then and never comes to an end."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            while not stopping.wait(0.05):
                try:
                    connection.sendall(b"H")
                except OSError:
                    return

    threading.Thread(target=drip, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    stopping.set()
    listener.close()


@pytest.fixture
def store(empty_url: str) -> Iterator[Store]:
    """A store with its tables."""
    store = Store(empty_url)
    store.upgrade()
    yield store
    store.close()


@pytest.fixture
def register(store: Store) -> Callable[..., WebhookRecord]:
    """Makes webhooks."""

    def make(url: str, **fields: object) -> WebhookRecord:
        secret = {"secret": new_secret(), "expires_at": None}
        values = {"id": new_id("wh"), "project_id": "default", "event_types": [], "secrets": [secret], **fields}
        return store.webhooks.create(WebhookRecord(url=url, created_at=time.time(), **values))

    return make


@pytest.fixture
def cancelled_job(store: Store) -> Callable[[], JobRecord]:
    """Makes a job that is cancelled at once."""

    def make() -> JobRecord:
        job = JobRecord(id=new_id("ftjob"), spec={}, model="m", job_dir="/nowhere", created_at=time.time())
        store.jobs.create(job)
        return store.jobs.transition(job.id, JobStatus.CANCELLED, expected=[JobStatus.VALIDATING_FILES])

    return make
