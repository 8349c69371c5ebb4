"""Writes samples in another format. Images keep their bytes; captions, classes and domains go along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from dali_pipelines.conversion import files
from dali_pipelines.conversion.listing import Listing
from dali_pipelines.conversion.record import Record
from dali_pipelines.conversion.tables import write_parquet
from dali_pipelines.manifest import Manifest
from dali_pipelines.packs import SHARD_BYTES, num_packed, write_shards
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.storage import Cache

Target = Literal["webdataset", "image_folder", "csv", "parquet"]
TARGETS: tuple[Target, ...] = get_args(Target)
Progress = Callable[[int, int], None]
"""Told how many are done, and of how many."""


def convert(
    samples: Samples | Manifest,
    folder: Path | str,
    *,
    to: Target,
    cache: Cache,
    copy_images: bool = True,
    shard_bytes: int = SHARD_BYTES,
    num_threads: int = 8,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write samples into an empty folder; called again after an interruption, go on where it broke off.

        webdataset      shard-00000.tar ..., classnames.txt, sizes.json
        image_folder    CLASS/0000000.jpg ..., or DOMAIN/CLASS/... where there are domains
        csv             data.csv (image, caption, label, domain, key; a row a caption) and images/0000000.jpg ...
        parquet         part-00000.parquet ... (image, captions, label, domain, key), which Hugging Face's `datasets`
                        reads too

    Args:
        copy_images: False leaves the images of a `csv` where they are, which must be whole local files below one root.
        shard_bytes: size of a shard or a Parquet file, about.
        num_threads: images read at a time.
        progress: told (samples done, all samples).

    Returns:
        The fields of a spec's source that reads what was written, such as `{"format": "csv", "path": ...}`.

    Raises:
        DataError: the folder holds something else, the format cannot hold the samples, or an image cannot be read.
    """
    listing, folder = Listing(samples), Path(folder).expanduser().absolute()
    _require_fitting(listing, to, copy_images)
    facts = {"to": to, "copy_images": copy_images, "shard_bytes": shard_bytes, "samples": listing.fingerprint()}
    record = Record.begin(folder, facts)
    if not record.finished:
        writer = _Writer(listing, folder, record, cache, shard_bytes, num_threads, progress or _silent)
        writer.write(to, copy_images=copy_images)
        record.finish()
    return source_of(listing, folder, to=to, copy_images=copy_images)


def source_of(listing: Listing, folder: Path, *, to: Target, copy_images: bool = True) -> dict[str, Any]:
    """The fields of a spec's source that reads what `convert` wrote."""
    domains = bool(listing.domain_names)
    if to == "image_folder":
        return {"format": "domains" if domains else "image_folder", "path": str(folder)}
    if to == "webdataset":
        return {"format": to, "path": str(folder)} | ({"domain_key": "json.domain"} if domains else {})
    source: dict[str, Any] = {"format": to, "path": str(folder)} | ({"domain_column": "domain"} if domains else {})
    if to == "csv":
        source["path"] = str(folder / files.TABLE)
        source["caption_column"] = "caption" if listing.has_captions else None
        source["label_column"] = "label" if listing.has_labels else None
        source |= {} if copy_images else {"images_root": str(listing.root)}
    return source


class _Writer:
    """One conversion under way."""

    def __init__(
        self,
        listing: Listing,
        folder: Path,
        record: Record,
        cache: Cache,
        shard_bytes: int,
        num_threads: int,
        progress: Progress,
    ) -> None:
        self._listing, self._folder, self._record, self._cache = listing, folder, record, cache
        self._shard_bytes, self._num_threads = shard_bytes, num_threads
        self._progress = progress

    def write(self, to: Target, *, copy_images: bool) -> None:
        """Write what is not there yet."""
        if to == "webdataset":
            self._write_shards()
        elif to == "csv" and not copy_images:
            files.write_table(self._listing, self._folder, files.relative_paths(self._listing))
        elif to == "csv":
            files.write_csv(self._listing, self._folder, **self._options())
        elif to == "image_folder":
            files.write_image_folder(self._listing, self._folder, **self._options())
        else:
            write_parquet(self._listing, self._folder, part_bytes=self._shard_bytes, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "record": self._record,
            "cache": self._cache,
            "num_threads": self._num_threads,
            "progress": self._tell,
        }

    def _write_shards(self) -> None:
        done = num_packed(self._folder)
        samples = self._listing.packed(self._cache, num_threads=self._num_threads, start=done)
        write_shards(
            self._folder,
            (self._told(number, sample) for number, sample in enumerate(samples, start=done + 1)),
            class_names=self._listing.class_names,
            shard_bytes=self._shard_bytes,
            resume=True,
        )

    def _told(self, done: int, sample: Any) -> Any:
        self._tell(done)
        return sample

    def _tell(self, done: int) -> None:
        self._progress(done, len(self._listing))


def _require_fitting(listing: Listing, to: Target, copy_images: bool) -> None:
    if to not in TARGETS:
        raise DataError("to", f"there is no target {to!r}; there are {', '.join(TARGETS)}")
    if not copy_images and to != "csv":
        raise DataError("copy_images", f"{to} holds the images itself; only csv can leave them where they are")
    if to == "image_folder":
        files.require_image_folder(listing)
    if to == "csv":
        files.require_csv(listing, copy_images=copy_images)


def _silent(done: int, total: int) -> None:
    """Nobody wants to know."""
