"""Shards listed: places of images, texts from everywhere, patterns, compressed and remote shards, and every mistake."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from dali_pipelines.packs import PackedSample, write_shards
from dali_pipelines.sources import Samples, image_folder, shard_index, webdataset
from dali_pipelines.sources.samples import DataError
from dali_pipelines.storage import Cache
from dali_pipelines.validation import BadSamplesError, validate


def image(colour: str = "teal", kind: str = "JPEG") -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(encoded, kind)
    return encoded.getvalue()


def write(path: Path, files: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def two(folder: Path) -> Path:
    """A folder of two shards, with four samples."""
    write(folder / "a-0.tar", {"0.jpg": image(), "0.txt": "a cat ", "0.cls": "1", "1.png": image("red", "PNG")})
    write(folder / "a-1.tar", {"2.jpg": image("blue"), "2.txt": "a dog", "2.cls": "0", "d/3.JPG": image("tan")})
    return folder


def fails(field: str, words: str):
    return pytest.raises(DataError, match="(?s)" + words, check=lambda error: error.field == field)


def test_a_folder_of_shards_is_listed_in_order(tmp_path, cache, contents):
    samples = webdataset.read(two(tmp_path), cache=cache)
    assert contents(samples) == [
        (image(), ["a cat"], "1", None),
        (image("red", "PNG"), [], None, None),
        (image("blue"), ["a dog"], "0", None),
        (image("tan"), [], None, None),
    ]
    assert samples.paths == ["a-0.tar", "a-0.tar", "a-1.tar", "a-1.tar"]
    assert samples.keys == ["a-0.tar/0", "a-0.tar/1", "a-1.tar/2", "a-1.tar/d/3"]
    assert samples.class_names == ("0", "1")
    assert list(samples.offsets) == [512, 4096, 512, 4096]


@pytest.mark.parametrize("path", ["a-1.tar", "*-1.tar", "a-{1..1}.tar"])
def test_a_shard_or_a_pattern_takes_its_shards_alone(tmp_path, cache, path):
    assert webdataset.read(f"{two(tmp_path)}/{path}", cache=cache).keys == ["a-1.tar/2", "a-1.tar/d/3"]


def test_numbers_are_called_by_the_names_beside_the_shards_or_above(tmp_path, cache):
    two(tmp_path / "train")
    (tmp_path / "classnames.txt").write_text("dog\ncat\nant\n")
    samples = webdataset.read(tmp_path / "train", cache=cache)
    assert (samples.labels, samples.class_names) == ([1, -1, 0, -1], ("dog", "cat", "ant"))
    (tmp_path / "train" / "classnames.txt").write_text("dog\n")
    with fails("label_key", "class number 1 is beyond the 1 names"):
        webdataset.read(tmp_path / "train", cache=cache)


def described(tmp_path: Path, *texts: dict[str, object], **more: str) -> Path:
    files = {}
    for number, text in enumerate(texts):
        files |= {f"{number}.jpg": image(), f"{number}.json": json.dumps(text)}
        files |= {f"{number}.{extension}": content for extension, content in more.items()}
    return write(tmp_path / "a.tar", files)


@pytest.mark.parametrize(
    ("text", "more", "keys", "expected"),
    [
        ({"captions": ["a", " b "], "caption": "c"}, {"txt": "d"}, {}, (["a", "b"], None, None)),
        ({"caption": "c"}, {"txt": "d"}, {}, (["d"], None, None)),
        ({"caption": "c"}, {}, {}, (["c"], None, None)),
        ({"label": "cat"}, {"cls": "7"}, {}, ([], "7", None)),
        ({"caption": "c"}, {"txt": "d"}, {"caption_key": "json.caption"}, (["c"], None, None)),
        ({"alt": {"en": ["x"]}}, {"txt": "d"}, {"caption_key": "json.alt.en"}, (["x"], None, None)),
        ({}, {"text": "long\nstory"}, {"caption_key": "text"}, (["long\nstory"], None, None)),
        ({"label": "cat"}, {"cls": "7"}, {"label_key": "json.label"}, ([], "cat", None)),
        ({"n": 3}, {}, {"label_key": "json.n"}, ([], "3", None)),
        ({"site": "north"}, {}, {"domain_key": "json.site"}, ([], None, "north")),
        ({}, {"site": "north"}, {"domain_key": "site"}, ([], None, "north")),
    ],
)
def test_texts_come_from_where_they_are_said_to_be(tmp_path, cache, contents, text, more, keys, expected):
    samples = webdataset.read(described(tmp_path, text, **more), **keys, cache=cache)
    assert [found[1:] for found in contents(samples)] == [expected]


@pytest.mark.parametrize(
    ("text", "more", "keys", "field", "words"),
    [
        ({"x": 1}, {}, {"caption_key": "json.caption"}, "caption_key", r"a.tar.*'0' has no json.caption"),
        ({}, {}, {"label_key": "cls"}, "label_key", "'0' has no cls"),
        ({"caption": 5}, {}, {}, "caption_key", "'0' has 5 for a caption"),
        ({"n": [1]}, {}, {"label_key": "json.n"}, "label_key", r"\[1\] in json.n; a number or a word"),
        ({}, {}, {"domain_key": "json.site"}, "domain_key", "no sample has json.site"),
        ([], {}, {}, "caption_key", "0.json holds .*not an object"),
        ({}, {"txt": b"\xff\xfe"}, {}, "caption_key", "0.txt is not UTF-8"),
        ({}, {"json": "{"}, {}, "caption_key", "0.json is no JSON"),
    ],
)
def test_texts_that_cannot_be_read_are_named(tmp_path, cache, text, more, keys, field, words):
    with fails(field, words):
        webdataset.read(described(tmp_path, text, **more), **keys, cache=cache)


def test_files_of_a_sample_may_be_apart_and_hidden_ones_do_not_count(tmp_path, cache, contents):
    files = {"./b.jpg": image("red"), "a.jpg": image(), "a.seg.png": image("tan"), "__meta__.json": "{}", ".x": "y"}
    files |= {"a.txt": "one", "b.txt": "two", "b.webp": image("blue", "WEBP"), "README": "words", "._a.jpg": "rubbish"}
    samples = webdataset.read(write(tmp_path / "a.tar", files), cache=cache)
    assert contents(samples) == [(image("red"), ["two"], None, None), (image(), ["one"], None, None)]
    assert samples.keys == ["a.tar/b", "a.tar/a"]


def test_a_sample_without_an_image_is_a_bad_one_by_name(tmp_path, cache):
    samples = webdataset.read(write(tmp_path / "a.tar", {"a.jpg": image(), "a.txt": "x", "b.txt": "y"}), cache=cache)
    with pytest.raises(BadSamplesError, match="a.tar/b"):
        validate(samples)
    manifest, report = validate(samples, on_bad_sample="skip")
    assert (len(manifest), manifest.key(0)) == (1, "a.tar/a")


def test_the_index_is_made_once_and_anew_when_a_shard_changes(tmp_path, monkeypatch):
    looked = []
    made = shard_index.members
    monkeypatch.setattr(shard_index, "members", lambda path: looked.append(Path(path).name) or made(path))
    cache, folder = Cache.open(str(tmp_path / "cache")), two(tmp_path / "set")
    first = webdataset.read(folder, cache=cache)
    assert sorted(looked) == ["a-0.tar", "a-1.tar"]
    second = webdataset.read(folder, cache=Cache.open(str(tmp_path / "cache")))
    assert len(looked) == 2
    assert (second.keys, list(second.offsets), second.captions) == (first.keys, list(first.offsets), first.captions)
    write(folder / "a-1.tar", {"9.jpg": image(), "9.txt": "new"})
    os.utime(folder / "a-1.tar", (1, 1))
    assert webdataset.read(folder, cache=cache).keys[-1] == "a-1.tar/9"


def test_other_keys_are_another_index(tmp_path, cache):
    shard = described(tmp_path, {"caption": "c", "alt": "x"})
    assert webdataset.read(shard, caption_key="json.alt", cache=cache).captions == [["x"]]
    assert webdataset.read(shard, caption_key="json.caption", cache=cache).captions == [["c"]]


def test_compressed_shards_are_unpacked_once(tmp_path, contents):
    folder, cache = two(tmp_path / "set"), Cache.open(str(tmp_path / "cache"))
    expected = contents(webdataset.read(folder, cache=cache))
    for shard in sorted(folder.glob("*.tar")):
        (folder / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes()))
        shard.unlink()
    (folder / "sizes.json").write_text('{"a-0.tar.gz": 2, "a-1.tar.gz": 2}')
    samples = webdataset.read(folder, cache=cache)
    assert contents(samples) == expected
    assert str(samples.root).startswith(str(tmp_path / "cache"))
    assert samples.root == webdataset.read(folder, cache=cache).root
    (folder / "a-0.tar.gz").write_bytes((folder / "a-0.tar.gz").read_bytes()[:-50])
    with fails("path", "a-0.tar.gz' cannot be unpacked"):
        webdataset.read(folder, cache=cache)


def test_remote_shards_are_read_as_local_ones(tmp_path, cache, contents):
    folder = two(tmp_path / "set")
    (folder / "classnames.txt").write_text("dog\ncat\n")
    url = f"memory://{tmp_path.name}"
    for path in folder.iterdir():
        fsspec.filesystem("memory").pipe(f"{url}/{path.name}", path.read_bytes())
    remote, local = webdataset.read(url + "/a-{0,1}.tar", cache=cache), webdataset.read(folder, cache=cache)
    assert contents(remote) == contents(local)
    assert (remote.root, remote.keys, remote.class_names) == (url, local.keys, ("dog", "cat"))
    fsspec.filesystem("memory").pipe(f"{url}/sizes.json", b'{"a-1.tar": 3}')
    with fails("path", f"{url}/a-1.tar' holds 2 samples, and sizes.json says 3"):
        webdataset.read(url, cache=cache)


def test_counts_beside_the_shards_must_fit(tmp_path, cache):
    folder = two(tmp_path)
    (folder / "sizes.json").write_text('{"a-0.tar": 2, "a-1.tar": 2, "other.tar": 9}')
    (folder / "__len__").write_text("4\n")
    assert len(webdataset.read(folder, cache=cache)) == 4
    (folder / "__len__").write_text("5")
    assert len(webdataset.read(folder / "a-0.tar", cache=cache)) == 2
    with fails("path", "holds 4 samples, and __len__ says 5"):
        webdataset.read(folder, cache=cache)
    (folder / "sizes.json").write_text('{"a-0.tar": 2, "a-1.tar": 7}')
    with fails("path", "a-1.tar' holds 2 samples, and sizes.json says 7"):
        webdataset.read(folder, cache=cache)
    (folder / "sizes.json").write_text("[1]")
    with fails("path", "sizes.json must map"):
        webdataset.read(folder, cache=cache)


def test_damaged_and_empty_shards_are_named(tmp_path, cache):
    folder = two(tmp_path)
    whole = (folder / "a-1.tar").read_bytes()
    (folder / "a-1.tar").write_bytes(whole[: 512 * 7 + 100])
    with fails("path", r"a-1.tar' cannot be read: it is truncated.*last good member is '2.cls'"):
        webdataset.read(folder, cache=cache)
    (folder / "a-1.tar").write_bytes(b"not a tar file" * 100)
    with fails("path", r"a-1.tar' cannot be read: there is no tar header at byte 0"):
        webdataset.read(folder, cache=cache)
    with fails("path", "there is no image in the shards"):
        webdataset.read(write(tmp_path / "texts" / "a.tar", {"a.txt": "x"}), cache=cache)


@pytest.mark.parametrize("name", ["../../escaped.jpg", "/escaped.jpg", "a/../../escaped.jpg"])
def test_names_of_members_never_become_paths(tmp_path, name, contents):
    cache = Cache.open(str(tmp_path / "deep" / "cache"))
    shard = write(tmp_path / "deep" / "set" / "a.tar", {name: image(), name.replace("jpg", "txt"): "x"})
    shard.with_name("a.tar.gz").write_bytes(gzip.compress(shard.read_bytes()))
    for path in (shard, shard.with_name("a.tar.gz")):
        assert contents(webdataset.read(path, cache=cache)) == [(image(), ["x"], None, None)]
    assert not list(tmp_path.rglob("*escaped*"))
    assert not Path("/escaped.jpg").exists()


def test_packed_images_give_the_same_manifest_as_their_files(folder, cache, contents, tmp_path):
    files = image_folder.read(folder, cache=cache)
    words = [files.class_names[label] for label in files.labels]
    packed = [
        PackedSample(path, (folder / path).read_bytes(), label=word)
        for path, word in zip(files.paths, words, strict=True)
    ]
    write_shards(tmp_path, packed, class_names=files.class_names, shard_bytes=100_000)
    samples: Samples = webdataset.read(tmp_path, cache=cache)
    assert len(set(samples.paths)) > 1
    assert contents(samples) == contents(files)
    one, other = validate(samples)[0], validate(files)[0]
    for column in ("width", "height", "label", "captions", "decoder"):
        assert one.table[column].to_pylist() == other.table[column].to_pylist()
    assert one.class_names == other.class_names
