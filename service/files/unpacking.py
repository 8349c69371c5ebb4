"""Unpacks an archive in a process of its own, which may take little memory and time and is no more than that.

Reading an archive holds Python's lock for long, and what some archives say of themselves fills any memory: neither must
reach those who wait for answers.

    python -m service.files.unpacking ARCHIVE FOLDER MEMORY_BYTES LIMITS    (JSON in, JSON out)
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from service.files.archives import ArchiveError, ArchiveLimits, Unpacked, unpack

_MEMORY_BYTES = 2 << 30
_TIMEOUT_S = 1800.0
_NICENESS = 5


def unpack_apart(archive: Path, into: Path, *, limits: ArchiveLimits, memory_bytes: int = _MEMORY_BYTES) -> Unpacked:
    """`unpack` in another process, whose address space is at most `memory_bytes`.

    Raises:
        ArchiveError: as `unpack`, or it took too much memory or time.
    """
    command = [sys.executable, "-P", "-m", "service.files.unpacking", str(archive), str(into)]
    try:
        ended = subprocess.run(
            [*command, str(memory_bytes), json.dumps(asdict(limits))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ArchiveError(f"the archive is not unpacked after {_TIMEOUT_S:.0f} s") from None
    if ended.returncode != 0:
        raise ArchiveError("the archive cannot be unpacked with the memory that archives may take")
    said = json.loads(ended.stdout)
    if "problem" in said:
        raise ArchiveError(said["problem"])
    return Unpacked(**said)


def main() -> None:
    """Unpack, and say how it went on standard output."""
    archive, into, memory_bytes, limits = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    os.nice(_NICENESS)
    try:
        said = asdict(unpack(Path(archive), Path(into), limits=ArchiveLimits(**json.loads(limits))))
    except ArchiveError as error:
        said = {"problem": str(error)}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
