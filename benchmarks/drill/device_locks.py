"""Proof that no device is given twice: every process of an attempt holds its devices for as long as it lives.

    LOCKS/NODE.DEVICE/JOB.ATTEMPT     flock, shared among the processes of this attempt
    LOCKS/violations.jsonl            a line for each time that somebody came while another attempt lived

The kernel lets go of a lock when its last holder dies, however that came about. Attempts of one job are watched in the
same way, under `job.JOB`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path


def hold(locks: Path, name: str, *, tag: str) -> int:
    """Hold `name` for the attempt `tag` until the descriptor is closed; other living holders are written down."""
    folder = locks / name
    folder.mkdir(parents=True, exist_ok=True)
    mutex = os.open(folder / "mutex", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        others = [path for path in folder.iterdir() if path.name not in ("mutex", tag)]
        living = [path.name for path in others if not _is_free(path)]
        if living:
            _note(locks / "violations.jsonl", name=name, tag=tag, living=living)
        own = os.open(folder / tag, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(own, fcntl.LOCK_SH)
        return own
    finally:
        os.close(mutex)


def _is_free(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    path.unlink()
    return True


def _note(path: Path, *, name: str, tag: str, living: list[str]) -> None:
    line = json.dumps({"name": name, "tag": tag, "living": living, "time": time.time()})
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)
