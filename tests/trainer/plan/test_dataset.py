import pytest

from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.plan.dataset import training_data
from trainer.resolve import resolve


def job(*, recipe=None, **sections):
    spec = sections if recipe else {"model": "ViT-B-32", "objective": {"name": "class_prompts"}, **sections}
    return resolve(recipe=recipe, spec=spec, runnable=False)


def data_of(spec, *, num_train=None, num_classes=None):
    return training_data(spec, num_train=num_train, num_classes=num_classes)


@pytest.fixture
def folder(tmp_path):
    for name, count in (("cat", 3), ("dog", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"not even an image")
    return tmp_path


def test_a_folder_is_counted_without_opening_its_images(folder):
    data = data_of(job(data={"train": str(folder)}))
    assert (data.num_train, data.num_classes, data.origin) == (5, 2, str(folder))


def test_a_table_is_counted_by_its_images(tmp_path):
    (tmp_path / "1.jpg").touch()
    (tmp_path / "a.csv").write_text("image,caption\n1.jpg,one\n2.jpg,two\n1.jpg,one again\n")
    data = data_of(job(objective={"name": "contrastive"}, data={"train": str(tmp_path / "a.csv")}))
    assert (data.num_train, data.num_classes) == (2, None)


def test_data_that_are_not_on_this_machine_are_unknown():
    data = data_of(job(data={"train": "/nowhere"}))
    assert (data.num_train, data.num_classes, data.origin) == (None, None, None)


def test_data_that_cannot_be_listed_are_refused_with_the_field(tmp_path):
    with pytest.raises(UnusableDataError, match=r"data\.train\.path: "):
        data_of(job(data={"train": str(tmp_path)}))


def test_a_recipe_knows_its_own_data_and_devices():
    data = data_of(job(recipe="ft-clip-vit-b16-224"))
    assert (data.num_train, data.num_classes, data.devices) == (1_281_167, 1000, 8)
    assert data.origin == "ImageNet-1k, as published"


def test_named_data_take_the_place_of_the_recipes(folder):
    data = data_of(job(recipe="flyp-imagenet", data={"train": str(folder)}))
    assert (data.num_train, data.devices) == (5, None)


def test_the_arguments_win(folder):
    data = data_of(job(data={"train": str(folder)}), num_train=77, num_classes=9)
    assert (data.num_train, data.num_classes, data.origin) == (77, 9, "--num-train")


def test_steps_follow_the_end_of_the_epoch():
    steps = {
        end: data_of(job(batch={"global_size": 32}, data={"epoch_end": end}), num_train=100)
        .steps_per_epoch(job(batch={"global_size": 32}, data={"epoch_end": end}))
        for end in ("drop", "continue")
    }  # fmt: skip
    assert steps == {"drop": 3, "continue": 4}


def test_shots_and_episodes_make_the_epoch():
    shots = job(data={"shots": 16}, batch={"global_size": 32})
    assert data_of(shots, num_train=6920, num_classes=2).steps_per_epoch(shots) == 1
    assert data_of(shots, num_train=6920).steps_per_epoch(shots) is None
    episode = job(data={"episode_size": 640}, batch={"global_size": 32})
    assert data_of(episode).steps_per_epoch(episode) == 20


def test_more_shots_than_images_and_more_batch_than_epoch_are_refused():
    spec = job(data={"shots": 16}, batch={"global_size": 32})
    with pytest.raises(UnusableSpecError, match=r"data\.shots 16 of 2 classes are 32 .* 30"):
        data_of(spec, num_train=30, num_classes=2).steps_per_epoch(spec)
    with pytest.raises(UnusableSpecError, match=r"batch\.global_size 256: .* 100"):
        data_of(job(), num_train=100).steps_per_epoch(job())


def test_more_shots_than_a_class_of_the_data_has_are_refused_with_its_name(folder):
    with pytest.raises(UnusableDataError, match=r"data\.shots: .*'dog' has 2"):
        data_of(job(data={"train": str(folder), "shots": 3}))
    few = job(data={"train": str(folder), "shots": 2}, batch={"global_size": 4})
    assert data_of(few).steps_per_epoch(few) == 1


def test_rows_are_images_times_templates():
    spec = job(data={"templates": ["a {}", "the {}", "my {}"]})
    assert data_of(spec, num_train=10).prompt_rows(spec) == 30
    captions = job(objective={"name": "contrastive"})
    assert data_of(captions, num_train=10).prompt_rows(captions) is None


def test_balanced_classes_count_the_samples_that_have_one(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption,kind\n1.jpg,one,cat\n2.jpg,two,dog\n3.jpg,three,dog\n")
    for name in "123":
        (tmp_path / f"{name}.jpg").touch()
    captioned = {"format": "csv", "path": str(tmp_path / "a.csv")}
    both = {"sources": [captioned, {**captioned, "label_column": "kind"}]}
    contrastive = {"objective": {"name": "contrastive"}}
    assert data_of(job(**contrastive, data={"train": both})).num_train == 6
    assert data_of(job(**contrastive, data={"train": both, "class_balanced": True})).num_train == 3
