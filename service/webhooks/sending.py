"""One POST to a webhook: to a checked address, within a fixed time, following nothing and keeping nothing."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore

from service.webhooks.addresses import Addresses, AddressRefused

MAX_ANSWER_BYTES = 64 * 1024
"""What is read of an answer's body before the connection is closed; it is only read to be polite."""
MAX_RETRY_AFTER_S = 86_400.0


@dataclass(frozen=True)
class Answer:
    """What came of a try."""

    status: int | None
    """HTTP status; None where there was no answer."""
    error: str | None = None
    """Why it does not count as delivered."""
    retry_after_s: float | None = None
    """Seconds that the receiver wants to be left alone for."""

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has the message."""
        return self.error is None


def post(url: str, payload: bytes, *, headers: dict[str, str], addresses: Addresses, timeout_s: float) -> Answer:
    """Send `payload`. Never raises for what the receiver or the network does.

    Args:
        timeout_s: seconds until it is given up, from the first packet to the end of the answer.
    """
    target = httpcore.URL(url)
    encrypted = target.scheme == b"https"
    backend = _Backend(addresses, encrypted=encrypted, deadline=time.monotonic() + timeout_s)
    given = {"Host": target.host.decode(), "Content-Type": "application/json", "User-Agent": "Attune", **headers}
    if target.port not in (None, 443 if encrypted else 80):
        given["Host"] += f":{target.port}"
    try:
        with (
            httpcore.ConnectionPool(ssl_context=_trust() if encrypted else None, network_backend=backend) as pool,
            pool.stream("POST", target, headers=list(given.items()), content=payload) as response,
        ):
            status, retry_after = response.status, _retry_after_s(response.headers)
            _read_some(response)
    except AddressRefused as error:
        return Answer(None, str(error))
    except (httpcore.TimeoutException, TimeoutError):
        return Answer(None, f"no answer within {timeout_s:g} s")
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        return Answer(None, f"{type(error).__name__}: {error}"[:500])
    if 200 <= status < 300:
        return Answer(status)
    moved = "; redirects are not followed" if 300 <= status < 400 else ""
    return Answer(status, f"the receiver answered {status}{moved}", retry_after)


def _read_some(response: httpcore.Response) -> None:
    """The status has come, which is what counts: how the body goes on does not."""
    num_bytes = 0
    try:
        for chunk in response.iter_stream():
            num_bytes += len(chunk)
            if num_bytes > MAX_ANSWER_BYTES:
                return
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        return


def _retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """`Retry-After` as seconds from now, of at most a day; it may be a number or a date."""
    text = next((value.decode("latin-1") for name, value in headers if name.lower() == b"retry-after"), "").strip()
    if text.isdecimal():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return min(max(0.0, at.timestamp() - time.time()), MAX_RETRY_AFTER_S)


@cache
def _trust() -> ssl.SSLContext:
    return httpcore.default_ssl_context()


class _Backend(httpcore.NetworkBackend):
    """Connects to checked addresses only, and lets nothing last beyond a deadline."""

    def __init__(self, addresses: Addresses, *, encrypted: bool, deadline: float) -> None:
        self._addresses = addresses
        self._encrypted = encrypted
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address of `host` that answers."""
        found = self._addresses.resolve(host.strip("[]"), port, encrypted=self._encrypted)
        for address in found[:-1]:
            try:
                return self._connect(address, port)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._connect(found[-1], port)

    def _connect(self, address: str, port: int) -> httpcore.NetworkStream:
        stream = self._sockets.connect_tcp(address, port, timeout=_left(self._deadline))
        return _Stream(stream, self._deadline)


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends at a deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Bytes, by the deadline."""
        return self._stream.read(max_bytes, timeout=_left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes, by the deadline."""
        self._stream.write(buffer, timeout=_left(self._deadline))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The connection, encrypted; the certificate must be for the URL's host."""
        encrypted = self._stream.start_tls(ssl_context, server_hostname, timeout=_left(self._deadline))
        return _Stream(encrypted, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """What the connection knows of itself."""
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left
