"""The files in a job folder as others may see them: by paths that lead nowhere else."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from service.errors import NotFound
from service.store.records import JobRecord

Kind = Literal["model", "report", "log", "events", "checkpoint", "data", "other"]

_CHUNK_BYTES = 1024 * 1024
_KINDS: dict[str, Kind] = {
    "export": "model",
    "promotions": "model",
    "wise_ft": "report",
    "checkpoints": "checkpoint",
    "preflight": "data",
}


@dataclass(frozen=True)
class ArtifactFile:
    """A file in a job folder."""

    name: str
    """Its path below the folder, with slashes."""
    num_bytes: int
    modified_at: float

    @property
    def kind(self) -> Kind:
        """What it is part of."""
        if self.name.endswith(".log"):
            return "log"
        if self.name.endswith("events.jsonl"):
            return "events"
        return _KINDS.get(self.name.split("/")[0], "other")


def list_artifacts(job: JobRecord) -> list[ArtifactFile]:
    """All files that a job has left, by name. What begins with a dot is not finished, and is left out."""
    return list(_files_below(Path(job.job_dir), ""))


def find_artifact(job: JobRecord, name: str) -> Path:
    """The file or folder of this name.

    Raises:
        NotFound: there is none, or the name leads out of the job folder.
    """
    root, parts = Path(job.job_dir), PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts) or "\0" in name or name.startswith("/")
    path = root.joinpath(*parts)
    if not parts or hidden or not _is_below(path, root):
        raise NotFound(f"job {job.id} has left no {name!r}; GET .../artifacts lists what there is", param="path")
    return path


def tar_stream(folder: Path) -> Iterator[bytes]:
    """A folder as a tar archive, made while it is sent."""
    for file in _files_below(folder, ""):
        path = folder / file.name
        info = tarfile.TarInfo(f"{folder.name}/{file.name}")
        info.size, info.mtime, info.mode = file.num_bytes, int(file.modified_at), 0o644
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from _exactly(path, file.num_bytes)
        yield b"\0" * (-file.num_bytes % tarfile.BLOCKSIZE)
    yield b"\0" * tarfile.RECORDSIZE


def _is_below(path: Path, root: Path) -> bool:
    """Whether it is there, and no link on the way leads out of `root`."""
    try:
        return path.resolve(strict=True).is_relative_to(root.resolve())
    except OSError:
        return False


def _files_below(folder: Path, prefix: str) -> Iterator[ArtifactFile]:
    entries = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    for path in entries:
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            yield from _files_below(path, f"{prefix}{path.name}/")
        elif path.is_file():
            status = path.stat()
            yield ArtifactFile(prefix + path.name, status.st_size, status.st_mtime)


def _exactly(path: Path, size: int) -> Iterator[bytes]:
    """The first `size` bytes: a log may have grown since its header was written.

    Raises:
        EOFError: there are fewer, and the archive cannot be finished.
    """
    with path.open("rb") as file:
        while size:
            chunk = file.read(min(size, _CHUNK_BYTES))
            if not chunk:
                raise EOFError(f"{path} became shorter while it was read")
            size -= len(chunk)
            yield chunk
