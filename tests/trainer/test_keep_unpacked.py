"""What was unpacked into the cache when data were checked is there when a job trains, however much came between."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dali_pipelines import sources
from dali_pipelines.manifest import Manifest
from dali_pipelines.sources import DataError, Samples, image_folder
from dali_pipelines.storage import Cache
from trainer.data_sources import keep_unpacked
from trainer.spec import ImageFolderSource


@pytest.fixture
def unpacking(monkeypatch):
    """A reader that copies its folder into the cache first, as those of tables and arrays do."""

    def read(path: str, *, cache: Cache) -> Samples:
        copy = cache.folder(path, lambda folder: shutil.copytree(path, folder, dirs_exist_ok=True) and None)
        return image_folder.read(copy, cache=cache)

    monkeypatch.setitem(sources.READERS, "image_folder", read)


@pytest.mark.usefixtures("unpacking")
def test_what_was_removed_is_unpacked_again(digits, tmp_path):
    shutil.copytree(digits / "heldout", tmp_path / "images")
    source = ImageFolderSource(path=str(tmp_path / "images"))
    cache = Cache.open(str(tmp_path / "cache"), 1)
    samples = sources.READERS["image_folder"](source.path, cache=cache)
    manifest = Manifest.from_columns(samples.root, paths=samples.paths, sizes=[(32, 32)] * len(samples))

    shutil.rmtree(manifest.roots[0])
    keep_unpacked(source, manifest, cache=cache)
    assert all(Path(file).is_file() for file in manifest.files(range(len(manifest))))

    shutil.rmtree(manifest.roots[0])
    shutil.rmtree(source.path)
    with pytest.raises((DataError, OSError), match="images"):
        keep_unpacked(source, manifest, cache=cache)


def test_data_of_their_own_are_left_alone(digits, tmp_path):
    manifest = Manifest.from_columns(digits, paths=["a.jpg"], sizes=[(1, 1)])
    keep_unpacked(ImageFolderSource(path="/nowhere"), manifest, cache=Cache.open(str(tmp_path / "cache"), 1))
    assert not (tmp_path / "cache").exists()
