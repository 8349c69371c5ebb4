"""The table of samples: access, hash, file, and that a large one opens at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dali_pipelines.manifest import EarlierLayoutError, Manifest
from dali_pipelines.storage import Location


def small(root: str = "/images", **changes) -> Manifest:
    columns = {
        "paths": ["a.jpg", "b/c.png", "d.gif"],
        "sizes": [(3, 4), (5, 6), (7, 8)],
        "labels": [1, 0, -1],
        "captions": [["one", "two"], [], ["three"]],
        "decoders": ["dali", "dali", "pillow"],
        "class_names": ["cat", "dog"],
    }
    return Manifest.from_columns(Path(root), **(columns | changes))


def test_columns_come_back_as_given():
    manifest = small()
    assert len(manifest) == 3
    assert manifest.paths == ["a.jpg", "b/c.png", "d.gif"]
    assert manifest.labels.tolist() == [1, 0, -1]
    assert manifest.labels.dtype == np.int32
    assert manifest.sizes.tolist() == [[3, 4], [5, 6], [7, 8]]
    assert manifest.captions(0) == ["one", "two"]
    assert manifest.captions(1) == []
    assert manifest.num_captions == 3
    assert manifest.needs_pillow.tolist() == [False, False, True]
    assert manifest.files([1, 0]) == ["/images/b/c.png", "/images/a.jpg"]


def test_labels_and_captions_may_be_missing():
    manifest = Manifest.from_columns(Path("/images"), paths=["a.jpg"], sizes=[(1, 2)])
    assert manifest.labels.tolist() == [-1]
    assert manifest.captions(0) == []


def test_a_saved_manifest_loads_equal(tmp_path):
    manifest = small()
    manifest.save(tmp_path / "m.arrow")
    loaded = Manifest.load(tmp_path / "m.arrow")
    assert loaded.table.equals(manifest.table)
    assert (loaded.roots, loaded.class_names, loaded.hash) == (manifest.roots, manifest.class_names, manifest.hash)
    assert [path.name for path in tmp_path.iterdir()] == ["m.arrow"]


def test_select_takes_rows_in_the_given_order():
    chosen = small().select(np.array([2, 0]))
    assert chosen.paths == ["d.gif", "a.jpg"]
    assert chosen.captions(1) == ["one", "two"]
    assert chosen.class_names == ("cat", "dog")
    assert chosen.select([1, 0]).hash == small().select([0, 2]).hash


def test_the_hash_ignores_the_root():
    assert small("/images").hash == small("/elsewhere").hash


@pytest.mark.parametrize(
    "changes",
    [
        {"paths": ["a.jpg", "b/c.png", "d2.gif"]},
        {"paths": ["a.jpgb", "/c.png", "d.gif"]},
        {"sizes": [(4, 3), (5, 6), (7, 8)]},
        {"labels": [0, 0, -1]},
        {"captions": [["onet", "wo"], [], ["three"]]},
        {"captions": [["one"], ["two"], ["three"]]},
        {"class_names": ["cat", "wolf"]},
        {"domains": [0, 1, 1], "domain_names": ["photo", "sketch"]},
        {"offsets": [0, 512, 0], "lengths": [-1, 20, -1]},
    ],
)
def test_the_hash_notices_any_other_change(changes):
    assert small(**changes).hash != small().hash


def in_shard() -> Manifest:
    """Two images in a remote tar file."""
    return Manifest.from_columns(
        "s3://bucket/shards",
        paths=["a.tar", "a.tar"],
        sizes=[(9, 9), (8, 8)],
        labels=[0, 1],
        captions=[["four"], []],
        class_names=["dog", "yak"],
        domains=[0, -1],
        domain_names=["sketch"],
        offsets=[512, 2048],
        lengths=[100, 200],
        keys=["a.tar/0.jpg", "a.tar/1.jpg"],
    )


def test_places_of_images():
    together = Manifest.concatenate([small(), in_shard()])
    assert together.locations([4, 0]) == [
        Location("s3://bucket/shards/a.tar", 2048, 200),
        Location("/images/a.jpg", 0, -1),
    ]
    assert together.in_files.tolist() == [True, True, True, False, False]
    assert [together.key(row) for row in (3, 0)] == ["a.tar/0.jpg", "/images/a.jpg"]


def test_a_part_of_a_local_file_is_no_whole_file():
    manifest = small(offsets=[0, 512, 0], lengths=[-1, 20, -1])
    assert manifest.in_files.tolist() == [True, False, True]


def test_sources_are_united_by_name():
    first = small(domains=[0, 1, 0], domain_names=["photo", "sketch"])
    together = Manifest.concatenate([first, in_shard()], shares=[3, 1])
    assert together.class_names == ("cat", "dog", "yak")
    assert together.labels.tolist() == [1, 0, -1, 1, 2]
    assert together.domain_names == ("photo", "sketch")
    assert together.domains.tolist() == [0, 1, 0, 1, -1]
    assert together.sources.tolist() == [0, 0, 0, 1, 1]
    assert together.shares == (3, 1)
    assert together.roots == ("/images", "s3://bucket/shards")
    assert together.files([2, 3]) == ["/images/d.gif", "s3://bucket/shards/a.tar"]
    assert together.captions(3) == ["four"]


def test_one_folder_in_two_sources_is_one_root():
    together = Manifest.concatenate([small(), small(class_names=["dog", "cat"])])
    assert together.roots == ("/images",)
    assert together.class_names == ("cat", "dog")
    assert together.labels.tolist() == [1, 0, -1, 0, 1, -1]


def test_a_manifest_of_an_earlier_version_is_refused_by_name(tmp_path):
    path = tmp_path / "train.arrow"
    table = pa.table({"path": ["a.jpg"]}).replace_schema_metadata({"class_names": "[]"})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(EarlierLayoutError, match=r"train.arrow was written by an earlier version, and lacks .*roots"):
        Manifest.load(path)


def test_a_saved_mixture_loads_equal(tmp_path):
    together = Manifest.concatenate([small(), in_shard()], shares=[3, 1])
    together.save(tmp_path / "m.arrow")
    loaded = Manifest.load(tmp_path / "m.arrow")
    for name in ("roots", "class_names", "domain_names", "shares", "hash"):
        assert getattr(loaded, name) == getattr(together, name), name
    assert loaded.locations([3]) == together.locations([3])
    assert loaded.table.equals(together.table)


def test_labels_can_be_numbered_by_more_names():
    renumbered = small().with_class_names(["ant", "dog", "cat"])
    assert renumbered.labels.tolist() == [1, 2, -1]
    with pytest.raises(KeyError, match="cat"):
        small().with_class_names(["ant", "dog"])


OPEN_A_MILLION = """
import resource, sys, time
import numpy, pyarrow
from dali_pipelines.manifest import Manifest
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
manifest = Manifest.load(sys.argv[1])
assert len(manifest) == 1_000_000 and manifest.labels[999_999] == 9 and manifest.sizes[5, 0] == 640
assert manifest.captions(123_456) == ["caption 123456"]
assert manifest.files([999_999])[0].endswith("999999.jpg")
print(time.monotonic() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_a_million_rows_open_fast(tmp_path):
    number = np.arange(1_000_000)
    Manifest.from_columns(
        Path("/images"),
        paths=[f"some/class/folder/{i:06}.jpg" for i in number],
        sizes=np.full((1_000_000, 2), 640),
        labels=number % 10,
        captions=[[f"caption {i}"] for i in number],
        class_names=list("abcdefghij"),
    ).save(tmp_path / "m.arrow")
    command = [sys.executable, "-c", OPEN_A_MILLION, str(tmp_path / "m.arrow")]
    seconds, megabytes = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert seconds < 2
    assert megabytes < 500


def test_captions_lie_one_after_another_between_bounds():
    captions = [["a", "b"], [], ["c"]]
    manifest = Manifest.from_columns("/data", paths=["1", "2", "3"], sizes=[(1, 1)] * 3, captions=captions)
    bounds, texts = manifest.caption_bounds, manifest.caption_texts.to_pylist()
    assert [texts[bounds[row] : bounds[row + 1]] for row in range(3)] == captions
    chosen = manifest.select([2, 0])
    assert (chosen.caption_bounds.tolist(), chosen.caption_texts.to_pylist()) == ([0, 1, 3], ["c", "a", "b"])
    assert manifest.num_captions == 3
