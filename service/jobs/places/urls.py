"""Which URLs may be named: none with a password, none that climb, and none of hosts in the service's own network."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import SplitResult, unquote, urlsplit

from dali_pipelines.patterns import PatternError, expanded
from service.jobs.places.paths import MAX_PATTERNS

NEVER_URLS = frozenset({"file", "local", "memory", "data", "ftp", "sftp", "ssh", "smb", "arrow_hdfs", "reference"})


def url_refusal(target: str, *, allowed: tuple[str, ...] | None) -> str | None:
    """Why a URL may not be named; None if it may.

    Args:
        allowed: what URLs may begin with, a host of `*` for any and `*.example.org` for all below; None: any.
    """
    try:
        url = urlsplit(target)
        host, port = url.hostname, url.port
    except ValueError:
        return "this is no URL"
    if url.password is not None:
        return "a URL with a password would be stored with the job; give the service's environment the credentials"
    if "::" in url.scheme or "::" in target.partition("//")[0] or url.scheme.lower() in NEVER_URLS:
        return f"{target!r}: URLs of this kind are not read; use s3://, gs://, https:// or a path"
    if allowed is None:
        return None
    if _climbs(target):
        return f"{target!r} leads out of its own folder"
    matching = [one for one in allowed if _allows(one, url)]
    if not matching:
        named = ", ".join(allowed) or "there are none"
        return f"{target!r} is none of the URLs that the operator allows (ATTUNE_ALLOWED_URLS: {named})"
    if url.scheme in ("http", "https") and all("*" in urlsplit(one).netloc for one in matching):
        return _private_refusal(target, host or "", port)
    return None


def _climbs(target: str) -> bool:
    """Whether a URL leads up, as it is written, with its braces expanded, or with its percent signs decoded."""
    try:
        each = (*expanded(target, most=MAX_PATTERNS), *expanded(unquote(unquote(target)), most=MAX_PATTERNS))
    except PatternError:
        return True
    paths = [urlsplit(url).path for url in each]
    return any("\\" in url for url in each) or any(".." in path.split("/") or "%" in unquote(path) for path in paths)


def _allows(allowed: str, url: SplitResult) -> bool:
    wanted = urlsplit(allowed)
    if wanted.scheme.lower() != url.scheme.lower() or wanted.port != url.port:
        return False
    host, there = (wanted.hostname or "").lower(), (url.hostname or "").lower()
    same = there.endswith(host[1:]) and there != host[1:] if host.startswith("*.") else host in ("*", there)
    return same and (url.path or "/").startswith(wanted.path or "/")


def _private_refusal(target: str, host: str, port: int | None) -> str | None:
    """A host that the operator has not named himself must not lie in the service's own network."""
    try:
        answers = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{target!r}: the host {host!r} cannot be found: {error}"
    for *_, address in answers:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            return f"{target!r} is a host in a private network; ATTUNE_ALLOWED_URLS must name it for it to be read"
    return None
