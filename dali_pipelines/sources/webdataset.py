"""WebDataset: tar shards in which the files of one sample share a name, as `KEY.jpg`, `KEY.txt` and `KEY.cls` do.

The tar files stay as they are; an image is read from its place in them. https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import os
import posixpath
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dali_pipelines.packs import CLASS_NAMES, SIZES
from dali_pipelines.sources.labels import numbered
from dali_pipelines.sources.matching_files import MatchingFiles, matching_files
from dali_pipelines.sources.sample_texts import TextKeys
from dali_pipelines.sources.samples import DataError, Samples
from dali_pipelines.sources.shard_index import index, unpacked
from dali_pipelines.storage import Cache, StorageError, is_url

_ENDINGS = (".tar", ".tar.gz", ".tgz")
_LENGTH = "__len__"


def read(
    path: str | os.PathLike[str],
    *,
    caption_key: str | None = None,
    label_key: str | None = None,
    domain_key: str | None = None,
    cache: Cache,
) -> Samples:
    """List the samples of a shard, of the shards in a folder, or of those that a pattern matches.

    Numbers in `KEY.cls` are called by the lines of `classnames.txt`, where that lies beside the shards or one folder
    above. Where `sizes.json` or `__len__` lies beside them, what they say must be what is found.

    Args:
        caption_key: an extension, or `json.NAME` (`json.NAME.NAME` within); None: the JSON's list `captions` if there
            is one, else `txt`, else the JSON's `caption`.
        label_key: the same for the class, a number or a word; None: `cls`, where there is one.
        domain_key: the same for the domain, which some samples may lack; None: there are none.

    Raises:
        DataError: naming the shard and the sample.
        StorageError: a shard cannot be fetched.
    """
    shards = matching_files(path, _ENDINGS, what="tar shards")
    plain = unpacked(shards, cache=cache)
    found = index(plain, TextKeys(caption_key, label_key, domain_key), cache=cache)
    _require_sizes(shards, found, cache)
    if not pc.any(pc.greater(found["length"], 0)).as_py():
        raise DataError("path", f"there is no image in the shards of {os.fspath(path)!r}")
    if domain_key is not None and found["domain"].null_count == len(found):
        raise DataError("domain_key", f"no sample has {domain_key}, which domain_key names")
    return _samples(plain, found, class_names=_class_names(shards.root, cache))


def _samples(shards: MatchingFiles, found: pa.Table, *, class_names: tuple[str, ...]) -> Samples:
    places = found["shard"].to_numpy().tolist()
    has_captions = bool(pc.any(pc.greater(pc.list_value_length(found["captions"]), 0)).as_py())
    labels, names = numbered(found["label"].to_pylist(), names=class_names, field="label_key")
    domains, domain_names = _words(found["domain"])
    has_labels = found["label"].null_count < len(found)
    return Samples(
        shards.root,
        [shards.names[place] for place in places],
        labels if has_labels else None,
        found["captions"].to_pylist() if has_captions else None,
        names if has_labels else (),
        domains,
        domain_names,
        found["offset"].to_numpy(),
        found["length"].to_numpy(),
        [f"{shards.names[place]}/{key}" for place, key in zip(places, found["key"].to_pylist(), strict=True)],
    )


def _words(column: pa.ChunkedArray) -> tuple[list[int] | None, tuple[str, ...]]:
    """Numbers of domains, and their names; numbers are words here."""
    names = tuple(sorted(word for word in column.unique().to_pylist() if word is not None))
    places = {name: number for number, name in enumerate(names)}
    return ([places.get(word, -1) for word in column.to_pylist()], names) if names else (None, ())


def _class_names(root: str, cache: Cache) -> tuple[str, ...]:
    for folder in (root, posixpath.dirname(root)):
        text = _beside(folder, CLASS_NAMES, cache)
        if text is not None:
            return tuple(line.strip() for line in text.splitlines() if line.strip())
    return ()


def _require_sizes(shards: MatchingFiles, found: pa.Table, cache: Cache) -> None:
    """Refuse shards that hold another number of samples than the files beside them say."""
    counted = {row["values"]: row["counts"] for row in found["shard"].value_counts().to_pylist()}
    counts = {name: counted.get(number, 0) for number, name in enumerate(shards.names)}
    for folder in sorted({posixpath.dirname(name) for name in shards.names}):
        sizes = _sizes(posixpath.join(shards.root, folder) if folder else shards.root, cache)
        for name, count in counts.items():
            said = sizes.get(posixpath.basename(name)) if posixpath.dirname(name) == folder else None
            if said is not None and said != count:
                raise DataError("path", _mismatch(f"{shards.root}/{name}", SIZES, said, count))
    length = _beside(shards.root, _LENGTH, cache) if shards.whole_folder else None
    if length is not None and length.strip().isdigit() and int(length) != len(found):
        raise DataError("path", _mismatch(shards.root, _LENGTH, int(length), len(found)))


def _sizes(folder: str, cache: Cache) -> dict[str, int]:
    text = _beside(folder, SIZES, cache)
    try:
        sizes = {} if text is None else json.loads(text)
        return {str(name): int(size) for name, size in sizes.items()}
    except (ValueError, TypeError, AttributeError):
        raise DataError("path", f"{folder}/{SIZES} must map the names of shards to numbers of samples") from None


def _mismatch(where: str, file: str, said: int, found: int) -> str:
    return f"{where!r} holds {found} samples, and {file} says {said}; copy it again, or mend or remove {file}"


def _beside(folder: str, name: str, cache: Cache) -> str | None:
    """The text of a file, if there is one."""
    try:
        path = cache.file(f"{folder}/{name}") if is_url(folder) else Path(folder, name)
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("path", f"{folder}/{name} cannot be read: {error}") from error
