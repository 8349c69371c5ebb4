"""Where webhooks may lead: out into the world, or into networks that the operator has named, and nowhere else.

A URL is looked at when it is given, and the address that its host stands for each time before a connection is made to
that very address, so that a name cannot come to mean another one in between.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_URL_LENGTH = 2048


class AddressRefused(Exception):
    """A webhook may not lead there; the text is a sentence that says why."""


@dataclass(frozen=True)
class Addresses:
    """Which addresses webhooks may reach."""

    allowed: tuple[Network, ...] = ()
    """Networks that are none of the world's; http is for these only."""

    @classmethod
    def of(cls, networks: Sequence[str]) -> Addresses:
        """Those of the world, and `networks` such as `10.0.0.0/8`.

        Raises:
            ValueError: one of them is no network.
        """
        return cls(tuple(ipaddress.ip_network(text) for text in networks))

    def check_url(self, url: str) -> None:
        """Refuse a URL that nothing can ever be sent to. Its host's name is not looked up.

        Raises:
            AddressRefused: naming what is wrong.
        """
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise AddressRefused(f"{url!r} is no URL: {error}") from None
        if len(url) > MAX_URL_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
            raise AddressRefused(f"a URL has at most {MAX_URL_LENGTH} characters, all printable ASCII without spaces")
        if parts.scheme not in ("https", "http") or not host:
            raise AddressRefused(f"{url!r} is no https:// URL")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise AddressRefused("a webhook's URL holds no user, password or fragment; its signature says who sends")
        if parts.scheme == "http" and not self.allowed:
            raise AddressRefused(f"{url!r} is not encrypted; http is for networks in ATTUNE_WEBHOOK_ALLOWED_NETWORKS")
        address = _literal(host)
        if address is not None:
            self.check(address, encrypted=parts.scheme == "https")

    def check(self, address: IpAddress, *, encrypted: bool) -> None:
        """Refuse an address.

        Raises:
            AddressRefused: it is a private one, or would be spoken to without encryption.
        """
        plain = getattr(address, "ipv4_mapped", None) or address
        if any(plain in network for network in self.allowed):
            return
        if not plain.is_global or plain.is_multicast:
            raise AddressRefused(f"{address} is no public address, and not in ATTUNE_WEBHOOK_ALLOWED_NETWORKS")
        if not encrypted:
            raise AddressRefused(f"{address} is not in ATTUNE_WEBHOOK_ALLOWED_NETWORKS, and the URL is not https://")

    def resolve(self, host: str, port: int, *, encrypted: bool) -> list[str]:
        """The addresses of a host, of which every one must be allowed.

        Raises:
            OSError: it has none.
            AddressRefused: one is not allowed.
        """
        found = {str(answer[4][0]) for answer in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        for text in found:
            self.check(ipaddress.ip_address(text.partition("%")[0]), encrypted=encrypted)
        return sorted(found, key=lambda text: ":" in text)


def _literal(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return ipaddress.ip_address("127.0.0.1") if host == "localhost" or host.endswith(".localhost") else None
