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


def test_episodes_fill_batches_and_are_drawn_at_random():
    assert "one batch of 256" in problems(data={"episode_size": 255})["data.episode_size"]
    assert "data.shuffle is off" in problems(data={"episode_size": 512, "shuffle": False})["data.episode_size"]
    assert problems(data={"episode_size": 256}, compat=["itra-episode-rows"]) == {}
    assert "set data.episode_size" in problems(compat=["itra-episode-rows"])["compat"]


def test_long_texts_are_refused_only_where_texts_are_trained_on():
    data = {"long_texts": "refuse"}
    assert problems(data=data, objective={"name": "class_prompts"}) == {}
    assert "no texts" in problems(data=data, objective={"name": "classification"})["data.long_texts"]
