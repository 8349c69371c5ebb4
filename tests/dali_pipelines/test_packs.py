"""Shards: what other readers of tar files find in them, and that the same samples give the same bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from dali_pipelines.packs import PackedSample, image_extension, is_packed, num_packed, write_shards


def image(kind: str, size: int = 4) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (size, size), "teal").save(encoded, kind)
    return encoded.getvalue()


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard, "r:") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def samples(count: int) -> Iterator[PackedSample]:
    for number in range(count):
        captions = [f"number {number}", "a square"][: number % 3]
        yield PackedSample(f"{number:03}", image("PNG", 40), captions, label=("cat", "dog")[number % 2], domain="photo")


@pytest.mark.parametrize(
    ("kind", "extension"),
    [
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
        ("PPM", "ppm"),
    ],
)
def test_extensions_come_from_the_content(kind, extension):
    assert image_extension(image(kind)) == extension


def test_what_is_no_image_is_kept_for_whoever_decodes_it():
    assert PackedSample("a.png", b"no image").extension == "jpg"
    assert PackedSample("a.png", b"").extension == "jpg"


def test_a_shard_holds_images_and_texts_as_other_readers_expect_them(tmp_path):
    write_shards(tmp_path, samples(3), class_names=["dog", "cat"])
    found = members(tmp_path / "shard-00000.tar")
    assert list(found) == [
        *("000.png", "000.cls", "000.json"),
        *("001.png", "001.txt", "001.cls", "001.json"),
        *("002.png", "002.txt", "002.cls", "002.json"),
    ]
    assert found["000.png"] == image("PNG", 40)
    assert [found[f"00{number}.cls"] for number in range(3)] == [b"1", b"0", b"1"]
    assert found["002.txt"] == b"number 2"
    assert json.loads(found["001.json"]) == {"label": "dog", "domain": "photo"}
    assert json.loads(found["002.json"]) == {"captions": ["number 2", "a square"], "label": "cat", "domain": "photo"}
    assert (tmp_path / "classnames.txt").read_text() == "dog\ncat\n"
    assert json.loads((tmp_path / "sizes.json").read_text()) == {"shard-00000.tar": 3}


def test_without_class_names_the_word_itself_is_kept(tmp_path):
    write_shards(tmp_path, samples(1))
    assert members(tmp_path / "shard-00000.tar")["000.cls"] == b"cat"
    assert not (tmp_path / "classnames.txt").exists()


def test_a_label_that_is_no_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'000' is of the class 'cat', which is not in class_names"):
        write_shards(tmp_path, samples(1), class_names=["dog"])


def test_the_same_samples_give_the_same_bytes_in_shards_of_the_size_asked_for(tmp_path):
    for name in ("one", "other"):
        write_shards(tmp_path / name, samples(20), class_names=["cat", "dog"], shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    sizes = json.loads((tmp_path / "one" / "sizes.json").read_text())
    assert files == ["classnames.txt", *sorted(sizes), "sizes.json"]
    assert len(sizes) > 2
    assert sum(sizes.values()) == 20
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert max((tmp_path / "one" / name).stat().st_size for name in sizes) < 40_000


def test_keys_lead_nowhere_and_differ(tmp_path):
    keys = ["../../etc/passwd", "/a/b.c.jpg", "a/b_c", "a\nb", "x" * 300, "naïve", "", "a.jpg", "a.png", "b/__img.jpg"]
    write_shards(tmp_path, [PackedSample(key, image("PNG")) for key in keys])
    names = [name.removesuffix(".png") for name in members(tmp_path / "shard-00000.tar")]
    assert names == [
        *("__/__/etc/passwd", "a/b_c", "a/b_c-2", "a_b", "x" * 300, "naïve", "sample", "a", "a-2", "b/sample__img"),
    ]


def test_an_interrupted_call_goes_on_behind_its_finished_shards(tmp_path):
    def breaking_off() -> Iterator[PackedSample]:
        for number, sample in enumerate(samples(20)):
            if number == 13:
                raise InterruptedError
            yield sample

    options = {"class_names": ["cat", "dog"], "shard_bytes": 20_000}
    write_shards(tmp_path / "whole", samples(20), **options)
    with pytest.raises(InterruptedError):
        write_shards(tmp_path / "broken", breaking_off(), **options)
    done = num_packed(tmp_path / "broken")
    assert 0 < done < 13
    assert not is_packed(tmp_path / "broken")
    write_shards(tmp_path / "broken", list(samples(20))[done:], **options, resume=True)
    assert is_packed(tmp_path / "broken")
    assert num_packed(tmp_path / "broken") == 20
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "broken" / path.name).read_bytes()
    assert len(list((tmp_path / "broken").iterdir())) == len(list((tmp_path / "whole").iterdir()))
