"""Images within larger files give the same batches as files of their own, and bad ones are stood in for."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_pipelines.bad_samples import BadSample, stand_in
from dali_pipelines.loader import BadSampleError, Batch, EvalLoader, TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.transforms import Augment, Preprocess, RandAugment

PREPROCESS = Preprocess(image_size=48)
AUGMENT = Augment(crop_scale=(0.2, 1.0), horizontal_flip=0.5, rand_augment=RandAugment())
SEED = 5


def loader_of(manifest: Manifest, *, micro_size: int = 8, **options) -> TrainLoader:
    options = {"preprocess": PREPROCESS, "augment": AUGMENT, "num_threads": 2} | options
    return TrainLoader(
        manifest, sampler=Sampler(len(manifest), seed=SEED), global_size=8, micro_size=micro_size, **options
    )


def take(loader: TrainLoader, num_batches: int) -> list[Batch]:
    batches = [next(loader) for _ in range(num_batches)]
    loader.close()
    return batches


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.rows, right.rows)
        assert torch.equal(left.labels, right.labels)
        assert torch.equal(left.images, right.images)


@pytest.fixture(scope="module")
def undisturbed(manifest) -> list[Batch]:
    return take(loader_of(manifest), 6)


@pytest.fixture
def copied(tmp_path, manifest) -> Manifest:
    """The same samples in a folder that a test may damage."""
    shutil.copytree(manifest.roots[0], tmp_path / "images")
    return Manifest((str(tmp_path / "images"),), manifest.table, manifest.class_names)


@pytest.fixture
def packed(tmp_path, manifest) -> Manifest:
    """The same samples within a tar file."""
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for path, file in zip(manifest.paths, manifest.files(range(len(manifest))), strict=True):
            shard.add(file, path)
    with tarfile.open(tmp_path / "a.tar") as shard:
        members = [shard.getmember(path) for path in manifest.paths]
    return Manifest.from_columns(
        tmp_path,
        paths=["a.tar"] * len(manifest),
        sizes=manifest.sizes,
        labels=manifest.labels,
        decoders=manifest.table["decoder"].to_pylist(),
        class_names=manifest.class_names,
        offsets=[member.offset_data for member in members],
        lengths=[member.size for member in members],
        keys=[f"a.tar/{path}" for path in manifest.paths],
    )


def test_images_within_a_tar_file_give_the_same_pixels(packed, undisturbed):
    assert not packed.in_files.any()
    assert_equal(take(loader_of(packed), 6), undisturbed)


def test_files_and_parts_of_files_go_together(packed, manifest):
    both = Manifest.concatenate([manifest, packed])
    (whole,) = EvalLoader(both, preprocess=PREPROCESS, batch_size=len(both), num_threads=2)
    half = len(manifest)
    assert torch.equal(whole.images[:half], whole.images[half:])


def test_a_resumed_stream_and_ranks_read_the_same_parts(packed, undisturbed):
    assert_equal(take(loader_of(packed, start_step=3), 3), undisturbed[3:])
    ranks = [take(loader_of(packed, micro_size=4, rank=rank, world_size=2), 2) for rank in (0, 1)]
    for step in (0, 1):
        joined = torch.cat([ranks[rank][step].images for rank in (0, 1)])
        assert torch.equal(joined, undisturbed[step].images)


def delete(manifest: Manifest, row: int) -> None:
    Path(manifest.files([row])[0]).unlink()


def damage(manifest: Manifest, row: int) -> None:
    """Overwrite an image's bytes where they lie."""
    (place,) = manifest.locations([row])
    with open(place.file, "r+b") as file:
        file.seek(place.offset + 20)
        file.write(b"\0" * ((place.length if place.length > 0 else 1000) - 20))


def expected_rows(batches: list[Batch], manifest: Manifest, bad: set[int], on_bad_sample: str) -> list[np.ndarray]:
    """By the rule itself."""

    def good(row: int) -> int:
        if on_bad_sample == "replace":
            return stand_in(row, manifest.labels, bad, SEED)
        while row in bad:
            row = (row + 1) % len(manifest)
        return row

    return [np.array([good(row) for row in batch.rows.tolist()]) for batch in batches]


@pytest.mark.parametrize("on_bad_sample", ["skip", "replace"])
@pytest.mark.parametrize("where", ["copied", "packed"])
def test_images_that_go_bad_during_a_run_are_stood_in_for(request, undisturbed, where, on_bad_sample):
    manifest = request.getfixturevalue(where)
    later = np.concatenate([batch.rows for batch in undisturbed[4:]])
    jpegs = [row for row in range(len(manifest)) if row in later and not manifest.needs_pillow[row]]
    bad = {jpegs[0], jpegs[3], int(np.flatnonzero(manifest.needs_pillow)[0])}
    told: list[BadSample] = []
    loader = loader_of(manifest, on_bad_sample=on_bad_sample, tell=told.append)
    begun = [next(loader)]
    for row in bad:
        (delete if where == "copied" and row == jpegs[0] else damage)(manifest, row)
    batches = [*begun, *take(loader, 11)]

    expected = expected_rows([*undisturbed], manifest, bad, on_bad_sample)
    known: set[int] = set()
    for number, (batch, rows) in enumerate(zip(batches[:6], expected, strict=True)):
        changed = np.isin(undisturbed[number].rows, list(bad))
        seen_before = changed & (batch.rows == undisturbed[number].rows)  # read before it went bad
        np.testing.assert_array_equal(batch.rows[~seen_before], rows[~seen_before])
        assert not known & set(batch.rows.tolist())
        known |= bad & set(undisturbed[number].rows[changed & ~seen_before].tolist())
        assert torch.equal(batch.images[~changed], undisturbed[number].images[~changed])
        if on_bad_sample == "replace":
            assert torch.equal(batch.labels, undisturbed[number].labels)
    assert sorted(sample.row for sample in told) == sorted(bad)
    assert {sample.key for sample in told} == {manifest.key(row) for row in bad}
    if where == "copied":
        assert "the file does not exist" in {sample.reason for sample in told}

    resumed = take(loader_of(manifest, on_bad_sample=on_bad_sample, start_step=7), 5)
    assert_equal(resumed, batches[7:])  # it knows nothing, and finds the same stand-ins
    half = take(loader_of(manifest, on_bad_sample=on_bad_sample, start_step=7, micro_size=4, rank=1, world_size=2), 5)
    for part, whole in zip(half, resumed, strict=True):
        assert torch.equal(part.images, whole.images[4:])


def test_a_tar_file_that_was_cut_off_stops_training_by_name(packed):
    shard = Path(packed.roots[0]) / "a.tar"
    shard.write_bytes(shard.read_bytes()[: packed.locations([20])[0].offset])
    loader = loader_of(packed)
    with pytest.raises(BadSampleError, match=r"image 'a\.tar/.*' can no longer be read: .* ends \d+ bytes before"):
        take(loader, 3)
    loader.close()


@pytest.mark.parametrize("on_bad_sample", ["skip", "replace"])
def test_evaluation_counts_no_image_twice(packed, on_bad_sample):
    (before,) = EvalLoader(packed, preprocess=PREPROCESS, batch_size=len(packed), num_threads=2)
    damage(packed, 2)
    told: list[BadSample] = []
    loader = EvalLoader(
        packed, preprocess=PREPROCESS, batch_size=10, num_threads=2, on_bad_sample=on_bad_sample, tell=told.append
    )
    for _ in range(2):
        rows = np.concatenate([batch.rows for batch in loader])
        assert rows[2] == -1
        np.testing.assert_array_equal(np.delete(rows, 2), np.delete(before.rows, 2))
    assert [sample.row for sample in told] == [2]
    assert loader.num_bad == 1
