"""Brings what a data set needs onto a local disk before training starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_pipelines.conversion.convert import Progress, convert
from dali_pipelines.conversion.listing import Listing
from dali_pipelines.manifest import Manifest
from dali_pipelines.packs import SHARD_BYTES
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache, is_url


@dataclass(frozen=True)
class Staged:
    """What lies on the local disk now."""

    num_files: int
    """Files that hold the samples' images."""
    num_bytes: int
    source: dict[str, Any] | None
    """Fields of a spec's source that reads the staged copy; None: the source as it was, which now finds the cache
    filled."""


def stage(
    samples: Samples | Manifest,
    *,
    cache: Cache,
    folder: Path | str | None = None,
    shard_bytes: int = SHARD_BYTES,
    num_threads: int = 8,
    progress: Progress | None = None,
) -> Staged:
    """Fetch every remote file that holds images into the cache or, given a folder, write all samples there as shards.

    Tables with images inside were unpacked when they were listed. Called again after an interruption, it goes on.

    Args:
        folder: on the fast disk; it is packed with `convert(..., to="webdataset")`.
        num_threads: files fetched at a time.
        progress: told (done, all): files fetched, or samples written.

    Raises:
        DataError: a file cannot be fetched or read.
    """
    if folder is not None:
        source = convert(
            samples,
            folder,
            to="webdataset",
            cache=cache,
            shard_bytes=shard_bytes,
            num_threads=num_threads,
            progress=progress,
        )
        shards = sorted(Path(folder).glob("*.tar"))
        return Staged(len(shards), sum(shard.stat().st_size for shard in shards), source)
    files = list(dict.fromkeys(row.location.file for row in Listing(samples).rows()))
    remote = [file for file in files if is_url(file)]
    _fetch(remote, cache, num_threads, progress or (lambda done, total: None))
    local = (cache.file(file) if is_url(file) else file for file in files)
    return Staged(len(files), sum(os.path.getsize(file) for file in local), None)


def _fetch(urls: list[str], cache: Cache, num_threads: int, progress: Callable[[int, int], None]) -> None:
    with ThreadPoolExecutor(num_threads, thread_name_prefix="fetch") as pool:
        fetched = {pool.submit(cache.file, url): url for url in urls}
        try:
            for done, future in enumerate(as_completed(fetched), start=1):
                future.result()
                progress(done, len(urls))
        except OSError as error:
            pool.shutdown(wait=False, cancel_futures=True)
            raise DataError("path", str(error)) from error
