"""The end of a log, for messages about processes that died without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 8192
TELLING_BYTES = 65536

_RANK = re.compile(r"^\[(?:rank|default)\d+\]:[ ]?|^\(\w+ pid=\d+(?:, ip=[\d.]+)?\) ")
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Full|Timeout|Killed|Fenced)\b")
_FATAL = re.compile(
    r"^(Fatal Python error|Segmentation fault|Bus error|Aborted|Killed$|terminate called|c\+\+: |Killed process)"
    r"|oom[-_]kill|for lack of memory$|No such file or directory$|: error: |slurmstepd: error"
)
_PEERS = re.compile(
    r"another rank is gone|Connection (was )?(closed|reset|refused) by (remote )?peer|[Bb]roken pipe|ChildFailedError"
    r"|CalledProcessError|SignalException|gloo/transport|Socket Timeout|KeyboardInterrupt|SystemExit"
)
_LAUNCHER = re.compile(r"^\[[\d :,-]+\] \[(INFO|WARNING|ERROR)\] \[\w+\.py:\d+")
_EXIT_CODE = re.compile(r"exits with return code = (-?\d+)")
_SIGNALS = {
    -4: "SIGILL",
    -6: "SIGABRT",
    -7: "SIGBUS",
    -9: "SIGKILL, which a person, a container's end or the kernel sends",
    -11: "SIGSEGV",
    -15: "SIGTERM",
}


@dataclass(frozen=True)
class LastWords:
    """What a log tells of its end."""

    text: str
    """Its last part."""
    sentence: str
    """The line that says why, or nothing."""
    exit_code: int | None
    """Of the worker that died first, by its launcher's account; negative for a signal."""


def last_line(path: Path) -> str:
    """The log's last line with text in it, as a sentence that names the log; empty if there is none."""
    lines = [line.strip() for line in _tail(path, TAIL_BYTES).splitlines() if line.strip()]
    return f"The last line of {path} is: {lines[-1][:500]}" if lines else ""


def last_words(path: Path) -> LastWords:
    """Why the processes that wrote a log ended, as far as it tells.

    That is the last line of the last traceback, but not one of a rank that only lost another one, nor what a launcher
    says about the ranks that it ended; else a fatal error of another kind; else the signal that ended a worker.
    """
    text = _tail(path, TELLING_BYTES)
    lines = [_RANK.sub("", line).rstrip() for line in text.splitlines()]
    codes = [int(code) for code in _EXIT_CODE.findall(text)]
    exit_code = next((code for code in codes if code), None)
    sentence = _exception(lines) or _fatal(lines) or _signal(exit_code) or _last(lines)
    return LastWords(text, sentence[:1000], exit_code)


def _tail(path: Path, size: int) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def _exception(lines: list[str]) -> str:
    """Ends of tracebacks, the last that is a cause; of several lines of an exception only the first."""
    ends, inside = [], False
    for line in lines:
        if line.endswith(_TRACEBACK):
            inside = True
        elif inside and _EXCEPTION.match(line):
            ends.append(line)
            inside = False
    return next((end for end in reversed(ends) if not _PEERS.search(end)), "")


def _fatal(lines: list[str]) -> str:
    return next((line.strip() for line in _own(lines) if _FATAL.search(line)), "")


def _signal(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return ""
    return f"A training process was ended by signal {-exit_code} ({_SIGNALS.get(exit_code, 'unknown')})"


def _last(lines: list[str]) -> str:
    return next((line.strip() for line in _own(lines) if line.strip()), "")


def _own(lines: list[str]) -> Iterator[str]:
    """From the last one on, what neither the launcher says nor a rank that only lost another one."""
    return (line for line in reversed(lines) if not _LAUNCHER.match(line) and not _PEERS.search(line))
