"""The loaders yield the same rows and pixels on any number of ranks, after a restart, and around bad files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.loader import BadSampleError, Batch, EvalLoader, TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.selection import Selection, select
from dali_pipelines.shares import groups_of
from dali_pipelines.sources import image_folder
from dali_pipelines.sources.samples import Samples
from dali_pipelines.stream import default_num_threads
from dali_pipelines.transforms import Augment, ColorJitter, Preprocess, RandAugment
from dali_pipelines.validation import validate

PREPROCESS = Preprocess(image_size=48)
EVERYTHING = Augment(
    crop_scale=(0.2, 1.0),
    horizontal_flip=0.5,
    color_jitter=ColorJitter(0.4, 0.4, 0.4, 0.1),
    rand_augment=RandAugment(),
    random_erasing=0.5,
)
GLOBAL_SIZE = 8


def train_loader(manifest: Manifest, *, micro_size: int = GLOBAL_SIZE, seed: int = 5, **options) -> TrainLoader:
    options = {"preprocess": PREPROCESS, "augment": EVERYTHING, "num_threads": 2} | options
    return TrainLoader(
        manifest, sampler=Sampler(len(manifest), seed=seed), global_size=GLOBAL_SIZE, micro_size=micro_size, **options
    )


def take(loader: TrainLoader, num_batches: int) -> list[Batch]:
    batches = [next(loader) for _ in range(num_batches)]
    loader.close()
    return batches


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        torch.cat([batch.images for batch in batches]),
        np.concatenate([batch.rows for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
        np.concatenate([batch.text_draws for batch in batches]),
        mix_draws=None if batches[0].mix_draws is None else np.concatenate([batch.mix_draws for batch in batches]),
        parameters={name: np.concatenate([b.parameters[name] for b in batches]) for name in batches[0].parameters},
    )


def assert_equal(one: Batch, other: Batch) -> None:
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.text_draws, other.text_draws)
    np.testing.assert_array_equal(one.mix_draws, other.mix_draws)
    assert one.parameters.keys() == other.parameters.keys()
    for name, drawn in one.parameters.items():
        np.testing.assert_array_equal(drawn, other.parameters[name])
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.images, other.images)


@pytest.fixture(scope="module")
def undisturbed(manifest) -> list[Batch]:
    """Nine steps, three epochs of three, on one rank without accumulation."""
    return take(train_loader(manifest), 9)


@pytest.mark.parametrize(("world_size", "micro_size"), [(1, 2), (2, 4), (2, 2), (4, 2), (4, 1)])
def test_ranks_and_accumulation_do_not_change_a_pixel(manifest, undisturbed, world_size, micro_size):
    num_micro = GLOBAL_SIZE // (world_size * micro_size)
    ranks = [
        take(train_loader(manifest, micro_size=micro_size, rank=rank, world_size=world_size), 4 * num_micro)
        for rank in range(world_size)
    ]
    for step in range(4):
        parts = [ranks[rank][step * num_micro + a] for a in range(num_micro) for rank in range(world_size)]
        assert_equal(joined(parts), undisturbed[step])


@pytest.mark.parametrize("start_step", [1, 3, 5])
def test_a_restarted_loader_goes_on_bit_for_bit(manifest, undisturbed, start_step):
    for ours, expected in zip(
        take(train_loader(manifest, start_step=start_step), 3), undisturbed[start_step:], strict=False
    ):
        assert_equal(ours, expected)


def test_threads_and_prefetching_do_not_change_a_pixel(manifest, undisturbed):
    ahead = take(train_loader(manifest, num_threads=1, prefetch_batches=4), 3)
    for ours, expected in zip(ahead, undisturbed[:3], strict=True):
        assert_equal(ours, expected)


def test_another_seed_gives_other_batches(manifest, undisturbed):
    assert not torch.equal(take(train_loader(manifest, seed=6), 1)[0].images, undisturbed[0].images)


def test_each_sample_comes_once_an_epoch_with_its_label(manifest, undisturbed):
    for epoch in range(3):
        rows = np.concatenate([batch.rows for batch in undisturbed[3 * epoch : 3 * epoch + 3]])
        assert len(np.unique(rows)) == 24  # of 25: the last short batch is dropped
    for batch in undisturbed:
        np.testing.assert_array_equal(batch.labels.numpy(), manifest.labels[batch.rows])
        assert batch.labels.dtype == torch.int64
        assert batch.text_draws.dtype == np.uint32
    assert len(np.unique([batch.text_draws for batch in undisturbed])) > 60


def test_batches_keep_their_pixels_when_the_loader_goes_on(manifest):
    loader = train_loader(manifest)
    first = next(loader)
    kept = first.images.clone()
    for _ in range(4):
        next(loader)
    assert torch.equal(first.images, kept)
    loader.close()


def test_erasing_replaces_a_rectangle_with_noise(manifest):
    plain = {"crop_scale": (1.0, 1.0), "crop_ratio": (0.1, 10.0)}
    (erased,) = take(train_loader(manifest, augment=Augment(random_erasing=1.0, **plain)), 1)
    (whole,) = take(train_loader(manifest, augment=Augment(**plain)), 1)
    changed = (erased.images != whole.images).all(dim=1)
    for image, mask in zip(erased.images, changed, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert mask.sum() == area
        assert 0.01 < area / 48**2 < 0.36
        assert image[:, mask].std() == pytest.approx(1, abs=0.25)


def test_flipping_mirrors_the_same_crop(manifest):
    (plain,) = take(train_loader(manifest, augment=Augment(horizontal_flip=0.0)), 1)
    (flipped,) = take(train_loader(manifest, augment=Augment(horizontal_flip=1.0)), 1)
    assert torch.equal(plain.images.flip(3), flipped.images)


def test_sizes_that_do_not_fit_are_refused(manifest):
    with pytest.raises(ValueError, match="global_size 8 is not divisible by micro_size 3 x 1 ranks"):
        train_loader(manifest, micro_size=3)
    with pytest.raises(ValueError, match="draws from 3 samples, the manifest has 25"):
        TrainLoader(
            manifest,
            preprocess=PREPROCESS,
            augment=Augment(),
            sampler=Sampler(3, seed=0),
            global_size=1,
            micro_size=1,
        )
    with pytest.raises(ValueError, match="cannot be filled from 4 training samples"):
        train_loader(manifest.select(range(4)))


@pytest.fixture
def copied(tmp_path, folder, cache) -> Manifest:
    """The manifest of a copy of the folder that a test may damage."""
    shutil.copytree(folder, tmp_path / "images")
    return validate(select(image_folder.read(tmp_path / "images", cache=cache), Selection()))[0]


def damage(manifest: Manifest, row: int) -> Path:
    file = Path(manifest.files([row])[0])
    file.write_bytes(file.read_bytes()[:200])
    return file


def row_of(manifest: Manifest, ending: str) -> int:
    return next(row for row, path in enumerate(manifest.paths) if path.endswith(ending))


@pytest.mark.parametrize("ending", [".jpg", ".gif"])
def test_a_file_gone_bad_stops_training_by_name(copied, ending):
    file = damage(copied, row_of(copied, ending))
    loader = train_loader(copied)
    with pytest.raises(BadSampleError, match=file.name):
        take(loader, 3)
    loader.close()


@pytest.mark.parametrize("ending", [".jpg", ".gif"])
def test_a_file_gone_bad_is_replaced_by_the_next_and_counted(copied, undisturbed, ending):
    row = row_of(copied, ending)
    damage(copied, row)
    loader = train_loader(copied, on_bad_sample="skip")
    batches = [next(loader) for _ in range(6)]
    assert loader.num_bad == 1
    loader.close()
    for batch, expected in zip(batches, undisturbed[:6], strict=True):
        np.testing.assert_array_equal(batch.rows, np.where(expected.rows == row, row + 1, expected.rows))
        same = expected.rows != row
        assert torch.equal(batch.images[same], expected.images[same])
    for half in (0, 1):  # the replacement does not depend on the ranks
        loader = train_loader(copied, on_bad_sample="skip", micro_size=4, rank=half, world_size=2)
        part = next(loader)
        assert torch.equal(part.images, batches[0].images[4 * half : 4 * half + 4])
        loader.close()


def test_a_file_that_changed_its_size_is_bad(copied):
    row = row_of(copied, ".jpg")
    Image.new("RGB", (10, 10)).save(copied.files([row])[0])
    loader = train_loader(copied, augment=Augment(crop_scale=(1.0, 1.0)))
    with pytest.raises(BadSampleError, match="is 10x10 now"):
        take(loader, 3)
    loader.close()


def test_when_every_file_is_bad_skipping_ends(copied):
    few = copied.select(range(8))
    for row in range(8):
        damage(few, row)
    loader = train_loader(few, on_bad_sample="skip")
    with pytest.raises(BadSampleError):
        next(loader)
    loader.close()


def test_an_image_that_only_pillow_decodes_goes_through_pillow(tmp_path, photos):
    """Sixteen colours behind a manifest that promises DALI a format it knows."""
    photos[0].resize((60, 40)).convert("P").save(tmp_path / "a.gif")
    photos[1].resize((60, 40)).save(tmp_path / "b.png")
    manifest, _ = validate(Samples(tmp_path, ["a.gif", "b.png"]))
    mistaken = Manifest.from_columns(tmp_path, paths=manifest.paths, sizes=manifest.sizes, decoders=["dali", "dali"])
    expected, found = (
        list(EvalLoader(chosen, preprocess=PREPROCESS, batch_size=2, num_threads=1)) for chosen in (manifest, mistaken)
    )
    assert_equal(found[0], expected[0])


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 25), (1, 7), (2, 4), (4, 3), (30, 4)])
def test_evaluation_sees_each_row_once_with_equal_batches_on_all_ranks(manifest, world_size, batch_size):
    (whole,) = EvalLoader(manifest, preprocess=PREPROCESS, batch_size=25)
    assert whole.rows.tolist() == list(range(25))
    seen, shapes = [], []
    for rank in range(world_size):
        loader = EvalLoader(
            manifest, preprocess=PREPROCESS, batch_size=batch_size, rank=rank, world_size=world_size, num_threads=1
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        shapes.append([len(batch.rows) for batch in batches])
        for batch in batches:
            real = batch.rows >= 0
            seen += batch.rows[real].tolist()
            assert (batch.labels[~real] == -1).all()
            assert torch.equal(batch.images[real], whole.images[batch.rows[real]])
            assert torch.isfinite(batch.images).all()
    assert sorted(seen) == list(range(25))
    assert shapes == [shapes[0]] * world_size


def test_evaluation_can_be_repeated(manifest):
    loader = EvalLoader(manifest, preprocess=PREPROCESS, batch_size=10)
    assert_equal(joined(list(loader)), joined(list(loader)))


def test_evaluation_leaves_bad_files_out_or_names_them(copied):
    row = row_of(copied, ".jpg")
    file = damage(copied, row)
    with pytest.raises(BadSampleError, match=file.name):
        list(EvalLoader(copied, preprocess=PREPROCESS, batch_size=10))
    loader = EvalLoader(copied, preprocess=PREPROCESS, batch_size=10, on_bad_sample="skip")
    rows = joined(list(loader)).rows
    assert rows[row] == -1
    assert np.delete(rows, row).tolist() == [other for other in range(25) if other != row]
    assert loader.num_bad == 1


def test_an_empty_manifest_cannot_be_evaluated(manifest):
    with pytest.raises(ValueError, match="no samples"):
        EvalLoader(manifest.select([]), preprocess=PREPROCESS, batch_size=10)


def test_threads_are_shared_among_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.delenv("LOCAL_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_num_threads(4) == 3
    assert default_num_threads(100) == 1
    monkeypatch.setenv("LOCAL_SIZE", "2")
    assert default_num_threads(16) == 6


def test_what_preflight_imports_stays_light():
    modules = ["manifest", "sampler", "transforms", "draws", "validation", "sources.image_folder", "sources.csv_table"]
    imports = "; ".join(f"import dali_pipelines.{module}" for module in modules)
    code = f"{imports}; import sys; assert not {{'torch', 'nvidia.dali'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_know_their_step(manifest):
    batches = take(train_loader(manifest, micro_size=2), 12)
    assert [batch.step for batch in batches] == [0] * 4 + [1] * 4 + [2] * 4
    assert [batch.step for batch in take(train_loader(manifest, micro_size=2, start_step=2), 2)] == [2, 2]


def test_a_continued_stream_has_batches_across_the_end_of_the_data(manifest):
    sampler = Sampler(len(manifest), seed=5, epoch_end="continue")
    options = {"preprocess": PREPROCESS, "augment": EVERYTHING, "num_threads": 2, "sampler": sampler}
    common = {**options, "global_size": len(manifest) - 1, "micro_size": len(manifest) - 1}
    batches = take(TrainLoader(manifest, **common), 3)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows[: len(manifest)]) == list(range(len(manifest)))
    resumed = take(TrainLoader(manifest, **common, start_step=1), 2)
    for one, other in zip(batches[1:], resumed, strict=True):
        assert_equal(one, other)


@pytest.fixture(scope="module")
def mixture(manifest) -> Manifest:
    """Two sources of unequal weights, of which the second lacks a class."""
    few = [row for row in range(len(manifest)) if manifest.labels[row] != 2][:6]
    return Manifest.concatenate([manifest, manifest.select(few)], shares=[1.0, 2.0])


@pytest.mark.parametrize("class_balanced", [False, True])
def test_shares_are_drawn_alike_on_any_number_of_ranks_and_after_a_restart(mixture, class_balanced):
    def loader(**options):
        groups = groups_of(mixture, class_balanced=class_balanced)
        sampler = Sampler(len(mixture), seed=2, groups=groups)
        common = {"preprocess": PREPROCESS, "augment": Augment(), "num_threads": 1, "sampler": sampler}
        return TrainLoader(mixture, **common, global_size=GLOBAL_SIZE, **options)

    whole = take(loader(micro_size=GLOBAL_SIZE), 6)
    ranks = [take(loader(micro_size=2, rank=rank, world_size=2), 4) for rank in range(2)]
    for step in range(2):
        assert_equal(joined([ranks[rank][2 * step + a] for a in range(2) for rank in range(2)]), whole[step])
    for ours, expected in zip(take(loader(micro_size=GLOBAL_SIZE, start_step=4), 2), whole[4:], strict=True):
        assert_equal(ours, expected)
    sources = mixture.sources[np.concatenate([batch.rows for batch in whole])]
    assert np.bincount(sources).tolist() == pytest.approx([16, 32], abs=6)


def test_a_run_goes_on_alike_on_fewer_or_more_ranks(manifest, undisturbed):
    before = [take(train_loader(manifest, micro_size=4, rank=rank, world_size=2), 2) for rank in range(2)]
    for step in range(2):
        assert_equal(joined([before[rank][step] for rank in range(2)]), undisturbed[step])
    for ours, expected in zip(take(train_loader(manifest, start_step=2), 2), undisturbed[2:4], strict=True):
        assert_equal(ours, expected)
    after = [take(train_loader(manifest, micro_size=2, rank=rank, world_size=4, start_step=4), 1) for rank in range(4)]
    assert_equal(joined([after[rank][0] for rank in range(4)]), undisturbed[4])
