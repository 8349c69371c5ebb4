"""What is remote comes into the cache, what is small into shards; called again, nothing is done twice."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from dali_pipelines.conversion import stage
from dali_pipelines.sources import DataError, Samples, image_folder, webdataset
from dali_pipelines.storage import Cache, Location, read_bytes


@pytest.fixture
def remote(tmp_path, folder) -> Samples:
    local = image_folder.read(folder, cache=Cache.open(str(tmp_path / "unused")))
    url = f"memory://{tmp_path.name}"
    for path in local.paths:
        fsspec.filesystem("memory").pipe(f"{url}/{path}", (folder / path).read_bytes())
    return Samples(url, local.paths, local.labels, class_names=local.class_names)


def test_remote_files_come_into_the_cache(tmp_path, remote, folder):
    cache, told = Cache.open(str(tmp_path / "cache")), []
    staged = stage(remote, cache=cache, progress=lambda done, total: told.append((done, total)))
    assert told == [(number + 1, 25) for number in range(25)]
    assert (staged.num_files, staged.source) == (25, None)
    assert staged.num_bytes == sum((folder / path).stat().st_size for path in remote.paths)
    fsspec.filesystem("memory").rm(str(remote.root), recursive=True)
    kept = Cache.open(str(tmp_path / "cache"), trust_copies=True)
    assert read_bytes(Location(f"{remote.root}/{remote.paths[3]}"), kept) == (folder / remote.paths[3]).read_bytes()


def test_a_remote_file_that_is_gone_is_named(tmp_path, remote):
    fsspec.filesystem("memory").rm(f"{remote.root}/{remote.paths[3]}")
    with pytest.raises(DataError, match=f"{remote.paths[3]}.*no such object"):
        stage(remote, cache=Cache.open(str(tmp_path / "cache")))


def test_small_files_become_shards_in_a_folder(tmp_path, remote, folder, contents):
    cache = Cache.open(str(tmp_path / "cache"))
    staged = stage(remote, cache=cache, folder=tmp_path / "fast", shard_bytes=100_000)
    shards = sorted((tmp_path / "fast").glob("*.tar"))
    assert (staged.num_files, staged.num_bytes) == (len(shards), sum(shard.stat().st_size for shard in shards))
    assert len(shards) > 1
    assert staged.source == {"format": "webdataset", "path": str(tmp_path / "fast")}
    again = webdataset.read(Path(staged.source["path"]), cache=cache)
    assert contents(again) == contents(image_folder.read(folder, cache=cache))
    told: list[int] = []
    assert stage(remote, cache=cache, folder=tmp_path / "fast", shard_bytes=100_000, progress=told.append) == staged
    assert not told
