import pytest

from trainer.errors import UnusableSpecError
from trainer.resolve import resolve
from trainer.spec_checks.batch_split import BatchSplit, EarlierSplit, compares, settle_batch

CLASSIFICATION = {"name": "classification", "head": "fresh"}


def spec(*, objective=None, **sections):
    partial = {"model": "ViT-B-32", "data": {"train": "/photos"}, "batch": {"global_size": 48}, **sections}
    if objective is not None:
        return resolve(spec=partial | {"objective": objective})
    return resolve(recipe="flyp", spec=partial)


def distillation(loss, **fields):
    teacher = {"name": "ViT-B-32"}
    return {"name": "distillation", "loss": loss, "teacher": teacher, "towers": "image", **fields}


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (None, "pairs"),
        (CLASSIFICATION, "nothing"),
        ({"name": "class_prompts", "loss": "cross_entropy"}, "nothing"),
        (distillation("simreg_l1"), "nothing"),
        (distillation("rkd"), "micro_batch"),
        (distillation("vicreg"), "forward_pass"),
        (distillation("dino"), "forward_pass"),
        (distillation("simreg", contrastive_weight=0.5), "forward_pass"),
    ],
)
def test_what_a_sample_is_compared_with(objective, kind):
    assert compares(spec(objective=objective)) == kind


def test_auto_takes_a_device_s_share_and_later_never_more_than_before():
    job = spec()
    assert settle_batch(job, world_size=4) == BatchSplit(12, 1, compared=48)
    before = EarlierSplit(world_size=4, micro_size=12, compared=48)
    assert settle_batch(job, world_size=2, earlier=before) == BatchSplit(12, 2, compared=48, cached=2)
    assert settle_batch(job, world_size=1, earlier=before) == BatchSplit(12, 4, compared=48, cached=4)
    assert settle_batch(job, world_size=8, earlier=before) == BatchSplit(6, 1, compared=48)


def test_the_same_samples_are_contrasted_where_not_all_of_a_step_were():
    """Two devices with 12 samples each contrasted 24; one device caches two micro-batches to do so."""
    job = spec(batch={"global_size": 48, "micro_size": 12}, parallel={"devices": 2}, scheduling={"min_devices": 1})
    first = settle_batch(job, world_size=2)
    assert first == BatchSplit(12, 2, compared=24)
    before = EarlierSplit(2, first.micro_size, first.compared)
    for earlier in (before, None):
        assert settle_batch(job, world_size=1, earlier=earlier) == BatchSplit(12, 4, compared=24, cached=2)


def test_more_devices_contrast_no_more_than_before():
    job = spec(batch={"global_size": 48, "micro_size": 24})
    assert settle_batch(job, world_size=2, earlier=EarlierSplit(1, 24, 24)) == BatchSplit(12, 2, compared=24)


def test_overrides_take_smaller_micro_batches_that_divide():
    assert settle_batch(spec(), world_size=2, overrides={"micro_size": 10, "feature_cache": True}) == BatchSplit(
        8, 3, compared=48, cached=3
    )
    assert settle_batch(spec(objective=CLASSIFICATION), world_size=2, overrides={"micro_size": 8}).accumulation == 3


def test_images_are_mixed_in_pairs_on_any_number_of_devices():
    mixing = {"train": "/photos", "augmentation": {"mixup": 0.2}}
    job = spec(objective=CLASSIFICATION, data=mixing)
    assert settle_batch(job, world_size=2, overrides={"micro_size": 3}).micro_size == 2
    with pytest.raises(UnusableSpecError, match="leaves one alone"):
        settle_batch(job, world_size=16)


def test_a_loss_that_caches_no_features_keeps_its_forward_pass_or_is_refused():
    job = spec(objective=distillation("vicreg"))
    before = EarlierSplit(world_size=4, micro_size=12, compared=48)
    assert settle_batch(job, world_size=2, earlier=before) == BatchSplit(24, 1, compared=48)
    with pytest.raises(UnusableSpecError, match="'vicreg'.*cannot be cached"):
        settle_batch(job, world_size=2, overrides={"micro_size": 12})


def test_a_loss_over_a_micro_batch_keeps_that():
    job = spec(objective=distillation("rkd"))
    assert settle_batch(job, world_size=2, earlier=EarlierSplit(4, 12, 48)) == BatchSplit(12, 2, compared=24)


@pytest.mark.parametrize(
    ("sections", "world_size", "words"),
    [
        ({"parallel": {"devices": 4}}, 2, "parallel.devices 4"),
        ({"parallel": {"devices": 4}, "scheduling": {"min_devices": 3}}, 2, "min_devices 3"),
        ({"parallel": {"devices": 2}, "scheduling": {"min_devices": 1}}, 4, "parallel.devices 2"),
        ({}, 5, "48 is not divisible by 5"),
        ({"batch": {"global_size": 48, "micro_size": 24}}, 4, "batch.micro_size 24"),
    ],
)
def test_what_does_not_fit_is_refused(sections, world_size, words):
    with pytest.raises(UnusableSpecError, match=words):
        settle_batch(spec(**sections), world_size=world_size)
