"""What a source makes of files that it cannot read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.manifest import Manifest
from dali_pipelines.source import Source
from dali_pipelines.storage import Cache, OutageError


@pytest.fixture
def source(tmp_path):
    """Twenty images."""
    for number in range(20):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number:02d}.tif")
    paths = [f"{number:02d}.tif" for number in range(20)]
    manifest = Manifest.from_columns(tmp_path, paths=paths, sizes=[(8, 8)] * 20, decoders=["pillow"] * 20)
    return Source(manifest, "skip", cache=Cache.open(str(tmp_path / "cache"), 1))


def reasons(source, rows):
    return [source.load(place, exif="ignore").reason for place in source.to_load(np.array(rows))]


def remove(source, rows):
    for file in source.manifest.files(rows):
        Path(file).unlink()


def test_a_folder_that_is_gone_is_an_outage_and_not_bad_images(source):
    remove(source, range(20))
    assert set(reasons(source, range(15))) == {"the file does not exist"}
    with pytest.raises(OutageError, match=r"16 files in a row cannot be read, '.*15.tif' the last: the file does not"):
        reasons(source, [15])


def test_a_file_that_can_be_read_in_between_shows_that_there_is_no_outage(source):
    remove(source, [row for row in range(20) if row != 10])
    assert [row for row, reason in enumerate(reasons(source, range(20))) if reason is None] == [10]
