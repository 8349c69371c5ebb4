"""Targets that hold an image a file: class folders, and a table beside the images.

Files are numbered in the order of the samples; nothing that the data call themselves becomes a path, but the names of
classes and domains, which must be fit for it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from dali_pipelines.conversion.listing import Listing
from dali_pipelines.conversion.record import Record
from dali_pipelines.packs import PackedSample
from dali_pipelines.sources.samples import DataError
from dali_pipelines.storage import Cache, is_url
from dali_pipelines.storage.location import WHOLE_FILE

TABLE = "data.csv"
IMAGES = "images"
_NOTED_EVERY = 256  # samples
_MAX_NAME_BYTES = 255


def require_image_folder(listing: Listing) -> None:
    """Refuse samples that class folders cannot hold.

    Raises:
        DataError: they have no classes, or captions, or a name that no folder can have.
    """
    if not listing.has_labels:
        raise DataError("to", "image_folder holds an image by its class, and the data have no classes")
    if listing.has_captions:
        raise DataError("to", "image_folder cannot hold captions; webdataset, csv and parquet can")
    for name in (*listing.class_names, *listing.domain_names):
        fits = 0 < len(name.encode()) <= _MAX_NAME_BYTES and name == name.strip() and name.isprintable()
        if not fits or name.startswith(".") or "/" in name:
            raise DataError("to", f"no folder can be called {name!r}; rename the class with class_names")
    for row in listing.rows():
        if row.label is None or (listing.domain_names and row.domain is None):
            raise DataError("to", f"sample {row.key!r} has no {'class' if row.label is None else 'domain'}")


def require_csv(listing: Listing, *, copy_images: bool) -> None:
    """Refuse samples that a table cannot hold.

    Raises:
        DataError: a sample lacks a cell that others have, or images are to stay where no table can name them.
    """
    for row in listing.rows():
        cells = {"captions": listing.has_captions, "class": listing.has_labels, "domain": bool(listing.domain_names)}
        values = {"captions": row.captions, "class": row.label, "domain": row.domain}
        lacking = [name for name, there in cells.items() if there and not values[name]]
        if lacking:
            raise DataError("to", f"sample {row.key!r} has no {lacking[0]}, as others have; parquet can hold that")
        if not copy_images and (is_url(row.location.file) or row.location.length != WHOLE_FILE):
            raise DataError("copy_images", f"the image of {row.key!r} is no local file of its own; it must be copied")
    if not copy_images and listing.root is None:
        raise DataError("copy_images", "the images lie below several folders; they must be copied")


def write_image_folder(
    listing: Listing, folder: Path, *, record: Record, cache: Cache, num_threads: int, progress: Callable[[int], None]
) -> None:
    """Write `CLASS/0000000.jpg`, or `DOMAIN/CLASS/0000000.jpg` where there are domains; a folder for every class."""
    for name in listing.class_names if not listing.domain_names else ():
        (folder / name).mkdir(exist_ok=True)
    for number, sample in _remaining(listing, record, cache, num_threads):
        target = folder / (sample.domain or "") / (sample.label or "")
        target.mkdir(parents=True, exist_ok=True)
        _write_image(target, number, sample)
        _tell(number + 1, record, progress)


def write_csv(
    listing: Listing, folder: Path, *, record: Record, cache: Cache, num_threads: int, progress: Callable[[int], None]
) -> None:
    """Write `images/0000000.jpg`, and last `data.csv` that names them."""
    images = folder / IMAGES
    images.mkdir(exist_ok=True)
    for number, sample in _remaining(listing, record, cache, num_threads):
        _write_image(images, number, sample)
        _tell(number + 1, record, progress)
    names = sorted(f"{IMAGES}/{path.name}" for path in images.iterdir() if not path.name.startswith("."))
    write_table(listing, folder, iter(names))


def write_table(listing: Listing, folder: Path, images: Iterator[str]) -> None:
    """Write `data.csv`, a row a caption, with the path of each sample's image."""
    partial = folder / f".{TABLE}.partial"
    with partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        optional = {
            "caption": listing.has_captions,
            "label": listing.has_labels,
            "domain": bool(listing.domain_names),
        }
        chosen = [name for name, there in optional.items() if there]
        table.writerow(["image", *chosen, "key"])
        for row, image in zip(listing.rows(), images, strict=True):
            for caption in row.captions or [""]:
                cells = {"caption": caption, "label": row.label, "domain": row.domain}
                table.writerow([image, *(cells[name] for name in chosen), row.key])
    partial.replace(folder / TABLE)


def relative_paths(listing: Listing) -> Iterator[str]:
    """The images' paths below the listing's one root."""
    prefix = len(f"{listing.root}/")
    return (row.location.file[prefix:] for row in listing.rows())


def _remaining(listing: Listing, record: Record, cache: Cache, num_threads: int) -> Iterator[tuple[int, PackedSample]]:
    return enumerate(listing.packed(cache, num_threads=num_threads, start=record.done), start=record.done)


def _write_image(folder: Path, number: int, sample: PackedSample) -> None:
    name = f"{number:07d}.{sample.extension}"
    partial = folder / f".{name}.partial"
    partial.write_bytes(sample.image)
    partial.replace(folder / name)


def _tell(done: int, record: Record, progress: Callable[[int], None]) -> None:
    if done % _NOTED_EVERY == 0:
        record.note(done)
    progress(done)
