"""Looks at every image of a set, in threads, chunk by chunk; with a journal it goes on where it was stopped.

A JPEG's decoding and all hashing of bytes release Python's lock, so threads share the cores as processes would, and
remote files are fetched while others are decoded. What is known of an image is a row of an Arrow table, about 200
bytes; with a journal the rows lie in memory-mapped files.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dali_pipelines.pillow_images import Exif
from dali_pipelines.sources.samples import Samples
from dali_pipelines.storage import (
    NUM_REMOTE_READERS,
    Cache,
    CacheTooSmallError,
    Location,
    OutageError,
    is_url,
    read_bytes,
)
from dali_pipelines.storage.location import WHOLE_FILE
from dali_pipelines.validation.image_facts import DEFAULT_MAX_PIXELS, PLAIN, Facts, look
from dali_pipelines.validation.journal import Journal
from dali_pipelines.validation.perceptual import fingerprints
from dali_pipelines.validation.stamps import UNKNOWN, Stamp, Stamps

CHUNK = 1024  # images that a crash loses at most, times the chunks under way
_TASK = 32  # images that a thread takes at a time
_UNDER_WAY = 2  # chunks, so that no thread waits at the end of one

_OF_AN_IMAGE = pa.schema(
    {
        "reason": pa.string(),
        "remark": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "decoder": pa.string(),
        "format": pa.string(),
        "mode": pa.string(),
        "num_bytes": pa.int64(),
        "content": pa.binary(16),
        "pixels": pa.binary(16),
    }
)
_STAMP = pa.schema({"size": pa.int64(), "modified_ns": pa.int64()})
FACTS = pa.schema([*_OF_AN_IMAGE, pa.field("perceptual", pa.uint64()), pa.field("thumbnail", pa.binary(64))])
"""A row an image: the fields of `Facts`, the perceptual hash (0 for a plain surface) and an 8 x 8 grey thumbnail."""

Progress = Callable[[int], None]
"""Is told how many images more have been looked at."""


@dataclass(frozen=True)
class Look:
    """How images are looked at."""

    cache: Cache
    """Remote files come through it."""
    num_threads: int = 1
    exif: Exif = "ignore"
    """Whether sizes are those after EXIF rotation."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """A larger image cannot be used."""
    journal: Path | None = None
    """Folder that remembers what has been looked at; None: nothing does."""
    chunk: int = CHUNK
    """Images that are noted down together."""
    progress: Progress | None = None


def scan(samples: Samples, how: Look) -> pa.Table:
    """Look at every image: a table of FACTS with a row a sample, in their order."""
    chunks = [range(start, min(start + how.chunk, len(samples))) for start in range(0, len(samples), how.chunk)]
    with warnings.catch_warnings():  # for all threads; `max_pixels` has the say
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        tables = [table.select(FACTS.names).replace_schema_metadata() for table in _scanned(samples, chunks, how)]
    return pa.concat_tables(tables) if tables else FACTS.empty_table()


def _scanned(samples: Samples, chunks: Sequence[range], how: Look) -> Iterator[pa.Table]:
    journal = None if how.journal is None else Journal(how.journal, settings=f"{how.exif} {how.max_pixels}")
    num_threads = max(how.num_threads, NUM_REMOTE_READERS) if is_url(str(samples.root)) else how.num_threads
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="validate")
    stamps = Stamps()
    under_way: deque[_Chunk] = deque()
    try:
        for number, rows in enumerate(chunks):
            under_way.append(_Chunk(number, [location(samples, row) for row in rows], how, journal, pool, stamps))
            if len(under_way) > _UNDER_WAY:
                yield under_way.popleft().finish()
        while under_way:
            yield under_way.popleft().finish()
    finally:
        pool.shutdown(cancel_futures=True)


class _Chunk:
    """Some images that are being looked at: those that the journal does not know, or that have changed since."""

    def __init__(
        self,
        number: int,
        locations: list[Location],
        how: Look,
        journal: Journal | None,
        pool: ThreadPoolExecutor,
        stamps: Stamps,
    ) -> None:
        self._number, self._locations, self._how, self._journal = number, locations, how, journal
        self._known = None if journal is None else journal.load(number, locations)
        rows = np.arange(len(locations)) if self._known is None else _changed(self._known, locations, stamps, pool)
        self._rows = rows
        self._tasks: list[Future[pa.Table]] = [
            pool.submit(_look_at, [locations[row] for row in rows[start : start + _TASK]], how, stamps)
            for start in range(0, len(rows), _TASK)
        ]

    def finish(self) -> pa.Table:
        """Wait for all of them, and note them down."""
        self._tell(len(self._locations) - len(self._rows))
        found = []
        for task in self._tasks:
            found.append(task.result())
            self._tell(len(found[-1]))
        table = _merged(self._known, self._rows, found)
        if self._journal is not None and len(self._rows):
            self._journal.save(self._number, self._locations, table)
        return table

    def _tell(self, count: int) -> None:
        if self._how.progress is not None and count:
            self._how.progress(count)


def location(samples: Samples, row: int) -> Location:
    """Where the bytes of a sample's image lie."""
    file = f"{samples.root}/{samples.paths[row]}"
    if samples.offsets is None or samples.lengths is None:
        return Location(file)
    return Location(file, int(samples.offsets[row]), int(samples.lengths[row]))


def _look_at(locations: Sequence[Location], how: Look, stamps: Stamps) -> pa.Table:
    facts, grids, stamped = zip(*(_look_at_one(place, how, stamps) for place in locations), strict=True)
    perceptual, thumbnails = fingerprints(np.stack(grids))
    hashes = [pa.array(perceptual), pa.array([one.tobytes() for one in thumbnails], pa.binary(64))]
    return pa.Table.from_arrays(
        [*_columns(facts, _OF_AN_IMAGE), *hashes, *_columns(stamped, _STAMP)], schema=pa.schema([*FACTS, *_STAMP])
    )


def _columns(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> list[pa.Array]:
    return [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]


def _look_at_one(place: Location, how: Look, stamps: Stamps) -> tuple[Facts, np.ndarray, Stamp]:
    try:
        stamp = UNKNOWN if how.journal is None else stamps.of(place)
        content = read_bytes(place, how.cache)
    except (CacheTooSmallError, OutageError):
        raise  # it is not the image that is bad
    except OSError as error:
        return Facts(reason=_unread(error)), PLAIN, UNKNOWN
    # Within a larger file the name is that of the container, whose extension says nothing.
    name = place.file if place.length == WHOLE_FILE else ""
    return (*look(content, name=name, exif=how.exif, max_pixels=how.max_pixels), stamp)


def _unread(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    return f"the file cannot be read: {error.strerror or error}"


def _changed(known: pa.Table, locations: Sequence[Location], stamps: Stamps, pool: ThreadPoolExecutor) -> np.ndarray:
    """Rows of a chunk that the journal knows, but whose files have changed or could not be read."""
    places = {place.file: place for place in locations}
    asked = pool.map(stamps.now, places.values()) if any(map(is_url, places)) else map(stamps.now, places.values())
    now = dict(zip(places, asked, strict=True))
    noted = zip(known["size"].to_pylist(), known["modified_ns"].to_pylist(), strict=True)
    rows = [
        row
        for row, (place, before) in enumerate(zip(locations, noted, strict=True))
        if before == UNKNOWN or now[place.file] != before
    ]
    return np.array(rows, np.int64)


def _merged(known: pa.Table | None, rows: np.ndarray, found: Sequence[pa.Table]) -> pa.Table:
    """What was known, with the given rows replaced by what was found."""
    if known is None or not found:
        return pa.concat_tables(found).combine_chunks() if known is None else known
    place = np.arange(len(known))
    place[rows] = len(known) + np.arange(len(rows))
    return pa.concat_tables([known.replace_schema_metadata(), *found]).take(pa.array(place)).combine_chunks()
