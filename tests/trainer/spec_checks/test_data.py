"""Data and augmentation that cannot be are refused where a spec is made, with the field."""

import pytest
from pydantic import ValidationError

from trainer.spec import JobSpec


def problems(**fields):
    """Messages by field."""
    try:
        JobSpec.model_validate({"model": "ViT-B-32", **fields})
    except ValidationError as error:
        return {".".join(str(part) for part in e["loc"]): e["msg"] for e in error.errors()}
    return {}


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_images_are_mixed_for_classification_only(name):
    data = {"augmentation": {name: 0.8}}
    assert problems(objective={"name": "classification"}, data=data) == {}
    assert "classification" in problems(objective={"name": "class_prompts"}, data=data)[f"data.augmentation.{name}"]


def test_probabilities_of_mixing_need_something_to_mix():
    objective = {"name": "classification"}
    found = problems(objective=objective, data={"augmentation": {"mix_probability": 0.5}})
    assert "no effect" in found["data.augmentation.mix_probability"]
    one_kind = {"mixup": 0.8, "mix_probability": 0.5, "mix_switch_probability": 0.1}
    assert set(problems(objective=objective, data={"augmentation": one_kind})) == {
        "data.augmentation.mix_switch_probability"
    }
    assert problems(objective=objective, data={"augmentation": {**one_kind, "cutmix": 1.0}}) == {}


def test_shots_are_counted_by_class():
    table = {"format": "csv", "path": "t.csv"}
    assert "data.train.label_column" in problems(data={"train": table, "shots": 4})
    assert problems(data={"train": {**table, "label_column": "class"}, "shots": 4}) == {}
    folders = {"format": "image_folder", "path": "f", "limit_per_class": 3}
    found = problems(objective={"name": "class_prompts"}, data={"train": folders, "shots": 4})
    assert "more than the 3 images a class" in found["data.shots"]


FOLDER = {"format": "image_folder", "path": "f"}
TABLE = {"format": "csv", "path": "t.csv"}


def test_templates_of_a_source_are_for_evaluation():
    own = {**FOLDER, "templates": ["a sketch of a {}.", "imagenet"]}
    assert problems(data={"validation": own, "evaluate": {"other": own}}) == {}
    assert (
        "data.templates" in problems(data={"train": own}, objective={"name": "class_prompts"})["data.train.templates"]
    )
    wrong = {**FOLDER, "templates": "a sketch"}
    assert "exactly one {}" in problems(data={"evaluate": {"other": wrong}})["data.evaluate.other.templates"]
    found = problems(objective={"name": "classification"}, data={"validation": own})
    assert "no text tower" in found["data.validation.templates"]
    mixed = {"sources": [own, FOLDER]}
    assert "the same templates" in problems(data={"validation": mixed})["data.validation.sources.0.templates"]
    assert problems(data={"validation": {"sources": [own, own]}}) == {}


def test_a_split_needs_its_column():
    labelled = {**TABLE, "label_column": "class"}
    assert (
        "together with split_column"
        in problems(data={"validation": {**labelled, "split": "val"}})["data.validation.split"]
    )
    found = problems(data={"validation": [FOLDER, {**labelled, "split_column": "part"}]})
    assert "together with split" in found["data.validation.sources.1.split_column"]
    assert problems(data={"validation": {**labelled, "split": "val", "split_column": "part"}}) == {}
    whole = {"format": "torchvision", "path": "f", "name": "EuroSAT", "split": "test"}
    assert "EuroSAT has no splits" in problems(data={"validation": whole})["data.validation.split"]


def test_the_member_of_a_mixture_that_lacks_something_is_named():
    found = problems(data={"train": [TABLE, FOLDER]}, objective={"name": "contrastive"})
    assert set(found) == {"data.train.sources.1.format"}
    found = problems(data={"train": [FOLDER, TABLE]}, objective={"name": "class_prompts"})
    assert set(found) == {"data.train.sources.1.label_column"}


def test_episodes_fill_batches_and_are_drawn_at_random():
    assert "one batch of 256" in problems(data={"episode_size": 255})["data.episode_size"]
    assert "data.shuffle is off" in problems(data={"episode_size": 512, "shuffle": False})["data.episode_size"]
    assert problems(data={"episode_size": 256}, compat=["itra-episode-rows"]) == {}
    assert "set data.episode_size" in problems(compat=["itra-episode-rows"])["compat"]


def test_long_texts_are_refused_only_where_texts_are_trained_on():
    data = {"long_texts": "refuse"}
    assert problems(data=data, objective={"name": "class_prompts"}) == {}
    assert "no texts" in problems(data=data, objective={"name": "classification"})["data.long_texts"]


CLASSES = {"objective": {"name": "classification"}}
MIXTURE = {"sources": [{"path": "a"}, {"path": "b"}], "weights": [1, 2]}


@pytest.mark.parametrize(
    ("batch", "devices", "field"),
    [
        ({"global_size": 12, "micro_size": 3}, "auto", "batch.micro_size"),
        ({"global_size": 15}, "auto", "batch.global_size"),
        ({"global_size": 12}, 4, "batch.global_size"),
    ],
)
def test_images_that_are_mixed_need_a_neighbour(batch, devices, field):
    fields = {**CLASSES, "batch": batch, "parallel": {"devices": devices}}
    assert problems(**fields) == {}
    assert "leaves one alone" in problems(**fields, data={"augmentation": {"cutmix": 1.0}})[field]
    even = {**fields, "batch": {"global_size": 16}}
    assert problems(**even, data={"augmentation": {"cutmix": 1.0}}) == {}


def test_shares_are_drawn_at_random_from_all_samples():
    for data, field in (({"train": MIXTURE}, "data.train.weights"), ({"class_balanced": True}, "data.class_balanced")):
        assert problems(**CLASSES, data=data) == {}
        assert "data.shuffle is off" in problems(**CLASSES, data={**data, "shuffle": False})[field]
        assert problems(**CLASSES, data={**data, "episode_size": 512}) == {}
        episode = {"data": {**data, "episode_size": 512}, "compat": ["itra-episode-rows"]}
        assert "first samples" in problems(**CLASSES, **episode)[field]


def test_balanced_classes_need_classes_that_are_not_equal_already():
    table = {"format": "csv", "path": "t.csv"}
    assert "captions only" in problems(data={"train": table, "class_balanced": True})["data.class_balanced"]
    assert problems(data={"train": {**table, "label_column": "class"}, "class_balanced": True}) == {}
    both = {"sources": [table, {**table, "label_column": "class"}]}
    assert problems(data={"train": both, "class_balanced": True}) == {}
    found = problems(data={"train": {**both, "weights": [1, 1]}, "class_balanced": True})
    assert "sources.0 of the mixture" in found["data.class_balanced"]
    few = {"train": {"path": "f"}, "shots": 4, "class_balanced": True}
    assert "already takes as many" in problems(**CLASSES, data=few)["data.class_balanced"]
    assert problems(**CLASSES, data={**few, "train": MIXTURE}) == {}


def test_weights_are_one_for_each_source_and_for_training_only():
    wrong = problems(**CLASSES, data={"train": {**MIXTURE, "weights": [1]}})
    assert "1 weights for 2 sources" in wrong["data.train.weights"]
    found = problems(**CLASSES, data={"validation": MIXTURE, "evaluate": {"x": MIXTURE}})
    assert set(found) == {"data.validation.weights", "data.evaluate.x.weights"}
