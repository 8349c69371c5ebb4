"""Images behind URLs: listed, checked and trained on like local ones, also when some go bad during a run."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.loader import EvalLoader, TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.selection import Selection, select
from dali_pipelines.sources import image_folder
from dali_pipelines.storage import Cache, OutageError
from dali_pipelines.storage import remote as remote_module
from dali_pipelines.transforms import Augment, Preprocess
from dali_pipelines.validation import Look, scan, validate

PREPROCESS = Preprocess(image_size=32)


@pytest.fixture
def remote(web, folder, own_cache) -> Manifest:
    """The small image folder behind a web server, checked through the cache."""
    shutil.copytree(folder, web.folder, dirs_exist_ok=True)
    samples = select(image_folder.read(web.url, cache=own_cache), Selection())
    return validate(samples, num_threads=2, cache=own_cache)[0]


def trusting(cache: Cache) -> Cache:
    return Cache.open(str(cache.root), 1, trust_copies=True)


def test_remote_images_give_the_same_batches_and_are_fetched_once(web, remote, own_cache, manifest):
    fetched = web.requests.total()
    local, distant = (
        EvalLoader(chosen, preprocess=PREPROCESS, batch_size=25, num_threads=2, cache=trusting(own_cache))
        for chosen in (manifest, remote)
    )
    assert remote.class_names == manifest.class_names
    assert torch.equal(next(iter(local)).images, next(iter(distant)).images)
    assert web.requests.total() == fetched


def loader_of(remote: Manifest, cache: Cache, **options) -> TrainLoader:
    return TrainLoader(
        remote,
        preprocess=PREPROCESS,
        augment=Augment(),
        sampler=Sampler(len(remote), seed=0, shuffle=False),
        global_size=5,
        micro_size=5,
        num_threads=2,
        cache=cache,
        **options,
    )


@pytest.mark.usefixtures("impatient")
def test_objects_that_vanish_or_change_are_replaced(web, remote, tmp_path):
    (web.folder / remote.paths[1]).unlink()
    Image.new("RGB", (300, 300)).save(web.folder / remote.paths[2])  # larger: every crop would still fit
    told = []
    elsewhere = Cache.open(str(tmp_path / "another machine"), 1, trust_copies=True)
    loader = loader_of(remote, elsewhere, on_bad_sample="replace", tell=told.append)
    batch = next(loader)
    assert [sample.row for sample in told] == [1, 2]
    assert "there is no such object" in told[0].reason
    assert "is 300x300 now" in told[1].reason
    np.testing.assert_array_equal(batch.labels, remote.labels[:5])
    loader.close()


def test_a_remote_image_that_was_repaired_is_looked_at_again(web, folder, own_cache, tmp_path, caplog):
    shutil.copytree(folder, web.folder, dirs_exist_ok=True)
    samples = select(image_folder.read(web.url, cache=own_cache), Selection())
    broken = web.folder / samples.paths[3]
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    os.utime(broken, (1, 1))
    how = Look(own_cache, num_threads=2, journal=tmp_path / "journal")
    assert scan(samples, how)["reason"][3].as_py()
    broken.write_bytes(whole)
    web.requests.clear()
    web.failures = 1
    again = scan(samples, how)
    assert again["reason"][3].as_py() == ""
    assert sum(count for (kind, _), count in web.requests.items() if kind == "GET") <= 3
    assert scan(samples, how).equals(again)


def test_what_is_tried_again_is_said(web, impatient, caplog):
    (web.folder / "a.txt").write_text("a")
    web.failures = 2
    remote_module._said_at.clear()
    assert remote_module.Remote(f"{web.url}/a.txt").read() == b"a"
    (record,) = caplog.records
    assert "the server answers 503" in record.getMessage()
    assert "tried up to 5 times" in record.getMessage()


@pytest.mark.usefixtures("impatient")
def test_an_outage_ends_the_run_and_does_not_make_every_sample_bad(web, remote, tmp_path):
    web.failures = 10_000
    loader = loader_of(
        remote, Cache.open(str(tmp_path / "another machine"), 1, trust_copies=True), on_bad_sample="skip"
    )
    with pytest.raises(OutageError, match="the server answers 503"):
        next(loader)
    loader.close()
