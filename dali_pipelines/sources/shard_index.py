"""What the shards of a WebDataset hold: every sample's place, and its texts. Made once, and kept in the local cache.

Shards are gone through in threads, as waiting for their disk takes longer than reading their headers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dali_pipelines.sources.matching_files import MatchingFiles
from dali_pipelines.sources.sample_texts import TextKeys, Texts, UnusableText
from dali_pipelines.sources.samples import IMAGE_EXTENSIONS, DataError
from dali_pipelines.sources.tar_members import DamagedTar, Member, members
from dali_pipelines.storage import Cache, is_url
from dali_pipelines.storage.remote import Remote

SCHEMA = pa.schema(
    {
        "shard": pa.int32(),
        "key": pa.string(),
        "offset": pa.int64(),
        "length": pa.int64(),
        "captions": pa.list_(pa.string()),
        "label": pa.string(),
        "domain": pa.string(),
    }
)
"""A row a sample. What has texts but no image has length 0, and is found to be bad like any damaged image."""
_FILE = "index.arrow"
_VERSION = 1
_NUM_THREADS = 8
_COMPRESSED = (".tar.gz", ".tgz")
_MAX_TEXT_BYTES = 16 << 20
_PREFERRED = ("jpg", "jpeg", "png", "webp")
_IMAGES = (*_PREFERRED, *sorted({ending[1:] for ending in IMAGE_EXTENSIONS} - set(_PREFERRED)))


def index(shards: MatchingFiles, keys: TextKeys, *, cache: Cache) -> pa.Table:
    """The samples of plain tar files, shard by shard; from the cache if these shards have been looked at before.

    Raises:
        DataError: a shard is damaged, or a text in it cannot be read.
        StorageError: a shard cannot be fetched.
    """

    def fill(folder: Path) -> None:
        with pa.OSFile(str(folder / _FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for table in _in_threads(lambda shard: _index_shard(*shard, keys, cache), list(enumerate(shards.files))):
                writer.write_table(table)

    known_by = json.dumps([_VERSION, identities(shards.files), asdict(keys)])
    folder = cache.folder(f"webdataset index {hashlib.sha256(known_by.encode()).hexdigest()}", fill)
    return pa.ipc.open_file(pa.memory_map(str(folder / _FILE))).read_all()


def unpacked(shards: MatchingFiles, *, cache: Cache) -> MatchingFiles:
    """Plain tar files in place of compressed ones, unpacked once into the cache; the same if none is compressed.

    Raises:
        DataError: an archive is damaged.
    """
    if not any(_is_compressed(name) for name in shards.names):
        return shards
    plain = [f"{number:05d}-{_plain_name(name)}" for number, name in enumerate(shards.names)]

    def fill(folder: Path) -> None:
        targets = [folder / name for name in plain]
        list(_in_threads(lambda pair: _unpack(*pair, cache), list(zip(shards.files, targets, strict=True))))

    known_by = hashlib.sha256(json.dumps(identities(shards.files)).encode()).hexdigest()
    return MatchingFiles(str(cache.folder(f"unpacked shards {known_by}", fill)), plain)


def identities(files: Sequence[str]) -> list[tuple[str, str]]:
    """What changes when a file does: its path, and size and time of change or what its server says."""
    return list(_in_threads(_identity, files))


def _identity(file: str) -> tuple[str, str]:
    if is_url(file):
        return file.partition("?")[0], Remote(file).info().version
    status = os.stat(file)
    return file, f"{status.st_size} {status.st_mtime_ns}"


def _in_threads(work: Any, items: Sequence[Any]) -> Iterator[Any]:
    """What `work` gives, in the order of the items; the first failure ends it."""
    pool = ThreadPoolExecutor(min(_NUM_THREADS, max(1, len(items))), thread_name_prefix="shards")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _unpack(file: str, target: Path, cache: Cache) -> None:
    local = cache.file(file) if is_url(file) else Path(file)
    try:
        with gzip.open(local) if _is_compressed(file) else local.open("rb") as source, target.open("wb") as plain:
            shutil.copyfileobj(source, plain, 1 << 20)
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError("path", f"shard {file!r} cannot be unpacked: {error}") from error


def _is_compressed(name: str) -> bool:
    return name.partition("?")[0].lower().endswith(_COMPRESSED)


def _plain_name(name: str) -> str:
    base = posixpath.basename(name.partition("?")[0])
    ending = next((ending for ending in (*_COMPRESSED, ".tar") if base.lower().endswith(ending)), "")
    return f"{base[: len(base) - len(ending)]}.tar"


@dataclass
class _Sample:
    image: Member | None = None
    rank: int = len(_IMAGES)
    texts: dict[str, bytes] = field(default_factory=dict)


def _index_shard(number: int, file: str, keys: TextKeys, cache: Cache) -> pa.Table:
    local = cache.file(file) if is_url(file) else Path(file)
    try:
        samples = _gathered(local, members(local), keys.extensions)
        rows = [_row(number, key, sample, keys) for key, sample in samples.items() if sample.image or sample.texts]
    except DamagedTar as damage:
        raise DataError("path", f"shard {file!r} cannot be read: {damage}") from damage
    except UnusableText as unusable:
        raise DataError(unusable.field, f"shard {file!r}: {unusable}") from unusable
    except OSError as error:
        raise DataError("path", f"shard {file!r} cannot be read: {error.strerror or error}") from error
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _gathered(shard: Path, found: Iterable[Member], text_extensions: frozenset[str]) -> dict[str, _Sample]:
    """Samples by key. Files of one sample need not follow each other."""
    samples: dict[str, _Sample] = {}
    with shard.open("rb") as file:
        for member in found:
            folder, _, base = member.name.removeprefix("./").rpartition("/")
            name, _, extension = base.partition(".")
            if not name or name.startswith("__"):  # hidden files, and what describes the shard itself
                continue
            extension = extension.lower()
            sample = samples.setdefault(f"{folder}/{name}" if folder else name, _Sample())
            if extension in text_extensions:
                sample.texts[extension] = _content(file, member)
            elif extension in _IMAGES and _IMAGES.index(extension) < sample.rank:
                sample.image, sample.rank = member, _IMAGES.index(extension)
    return samples


def _content(file: IO[bytes], member: Member) -> bytes:
    if member.length > _MAX_TEXT_BYTES:
        message = f"{member.name!r} has {member.length} bytes; a text may have {_MAX_TEXT_BYTES}"
        raise UnusableText("path", message)
    file.seek(member.offset)
    return file.read(member.length)


def _row(shard: int, key: str, sample: _Sample, keys: TextKeys) -> tuple[Any, ...]:
    texts = Texts(key, sample.texts)
    place = (sample.image.offset, sample.image.length) if sample.image else (0, 0)
    return (shard, key, *place, texts.captions(keys.caption), texts.label(keys.label), texts.domain(keys.domain))
