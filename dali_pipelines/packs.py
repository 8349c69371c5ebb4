"""Images packed into WebDataset shards: few large files that are read by offset, without being unpacked again.

    FOLDER/
      shard-00000.tar     uncompressed; members KEY.jpg (.png, ...), KEY.txt, KEY.json, KEY.cls
      classnames.txt      a class a line, in order of the numbers in KEY.cls
      sizes.json          number of samples by shard; written last, so that its presence means that all is there

`KEY.txt` holds the first caption, `KEY.json` whatever a text file cannot: several captions, the class's word, the
domain. The same samples give the same bytes. `dali_pipelines.sources.webdataset` lists what is written here, and so do
other readers of WebDataset.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARD_BYTES = 256 << 20
SIZES = "sizes.json"
CLASS_NAMES = "classnames.txt"
_PARTIAL = ".partial"
_PROGRESS = SIZES + _PARTIAL
_IMAGE_ENDING = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|p[gp]m)$", re.IGNORECASE)
_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"BM"), "bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), "tif"),
    (re.compile(rb"P[1-6][\s#]"), "ppm"),
)


@dataclass(frozen=True)
class PackedSample:
    """An encoded image and what is known of it."""

    key: str
    """What the sample is called; characters that a shard's member cannot have are replaced."""
    image: bytes
    """The encoded file, which is kept as it is."""
    captions: Sequence[str] = ()
    label: str | None = None
    """The class, in the data's own word."""
    domain: str | None = None

    @property
    def extension(self) -> str:
        """What the bytes are, whatever the key says; what is no known image is called `jpg`, and found to be damaged
        by whoever decodes it."""
        return image_extension(self.image)


def image_extension(image: bytes) -> str:
    """The extension, without a dot, that fits an encoded image's first bytes; `jpg` where none does."""
    return next((extension for start, extension in _SIGNATURES if start.match(image)), "jpg")


def write_shards(
    folder: Path | str,
    samples: Iterable[PackedSample],
    *,
    class_names: Sequence[str] = (),
    shard_bytes: int = SHARD_BYTES,
    resume: bool = False,
) -> None:
    """Write samples, in their order, into shards of about `shard_bytes` each.

    A shard appears when it is whole, and `sizes.json` when all are.

    Args:
        class_names: in order of their numbers; every sample's label is one of them. Without them `KEY.cls` holds the
            word itself.
        resume: go on behind the shards that an interrupted call finished; `samples` then begins with the one after
            the first `num_packed(folder)`.

    Raises:
        ValueError: a label is not among `class_names`, or a class name spans several lines.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: number for number, name in enumerate(class_names)}
    sizes = _finished(folder) if resume else {}
    if class_names:
        _write_class_names(folder / CLASS_NAMES, class_names)
    waiting = _Pushback(iter(samples))
    while waiting.any():
        name = f"shard-{len(sizes):05d}.tar"
        sizes[name] = _write_shard(folder / name, waiting, numbers=numbers, shard_bytes=shard_bytes)
        _write_text(folder / _PROGRESS, json.dumps(sizes, indent=1))
    _write_text(folder / SIZES, json.dumps(sizes, indent=1))
    (folder / _PROGRESS).unlink(missing_ok=True)


def num_packed(folder: Path | str) -> int:
    """Samples in the finished shards of an interrupted or a finished `write_shards`."""
    return sum(_finished(Path(folder)).values())


def is_packed(folder: Path | str) -> bool:
    """Whether `write_shards` came to its end in this folder."""
    return (Path(folder) / SIZES).is_file()


def _finished(folder: Path) -> dict[str, int]:
    for name in (SIZES, _PROGRESS):
        if (folder / name).is_file():
            sizes: dict[str, int] = json.loads((folder / name).read_text(encoding="utf-8"))
            return sizes
    return {}


@dataclass
class _Pushback:
    """An iterator that can say whether there is more."""

    samples: Iterator[PackedSample]
    held: list[PackedSample] = field(default_factory=list)

    def any(self) -> bool:
        if not self.held:
            self.held.extend(sample for sample in [next(self.samples, None)] if sample is not None)
        return bool(self.held)

    def take(self) -> PackedSample:
        return self.held.pop()


def _write_shard(target: Path, samples: _Pushback, *, numbers: dict[str, int], shard_bytes: int) -> int:
    """Write one shard, at least one sample of it; how many samples it took."""
    partial = target.with_name(target.name + _PARTIAL)
    keys: set[str] = set()
    with partial.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as shard:
            while (not keys or file.tell() < shard_bytes) and samples.any():
                sample = samples.take()
                key = _member_key(sample.key, keys)
                for extension, content in _members(sample, numbers):
                    _add(shard, f"{key}.{extension}", content)
        _flush(file)
    partial.replace(target)
    return len(keys)


def _member_key(key: str, taken: set[str]) -> str:
    """A key that ends before the first dot, leads nowhere, and is the only one of its kind in the shard."""
    plain = re.sub(r"[^\w\-/ +,=@()\[\]]", "_", _IMAGE_ENDING.sub("", key)).strip("/ ") or "sample"
    folder, slash, base = plain.rpartition("/")
    if base.startswith("__"):  # such members describe the shard itself
        plain = f"{folder}{slash}sample{base}"
    chosen, number = plain, 1
    while chosen in taken:
        number += 1
        chosen = f"{plain}-{number}"
    taken.add(chosen)
    return chosen


def _members(sample: PackedSample, numbers: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    yield sample.extension, sample.image
    if sample.captions:
        yield "txt", sample.captions[0].encode()
    if sample.label is not None:
        if numbers and sample.label not in numbers:
            raise ValueError(f"sample {sample.key!r} is of the class {sample.label!r}, which is not in class_names")
        yield "cls", str(numbers.get(sample.label, sample.label)).encode()
    more = _more(sample)
    if more:
        yield "json", json.dumps(more, ensure_ascii=False).encode()


def _more(sample: PackedSample) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if len(sample.captions) > 1:
        found["captions"] = list(sample.captions)
    if sample.label is not None:
        found["label"] = sample.label
    if sample.domain is not None:
        found["domain"] = sample.domain
    return found


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, mode and time keep their defaults: the bytes say nothing of when and who
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _write_class_names(path: Path, class_names: Sequence[str]) -> None:
    spanning = [name for name in class_names if len(name.splitlines()) != 1]
    if spanning:
        raise ValueError(f"class name {spanning[0]!r} is not one line of text")
    _write_text(path, "".join(f"{name}\n" for name in class_names))


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".new")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        _flush(file)
    partial.replace(path)


def _flush(file: Any) -> None:
    """Onto the disk before it gets its name: after a power cut a name stands for whole content."""
    file.flush()
    os.fsync(file.fileno())
