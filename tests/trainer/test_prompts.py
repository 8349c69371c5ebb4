"""Published template sets: how many there are of each, and how a wrong name is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trainer.prompts import ALIASES, expand_templates, published_class_names, published_sets

COUNTS = {
    "birdsnap": 1,
    "caltech101": 34,
    "cifar10": 18,
    "cifar100": 18,
    "clevr-counts": 1,
    "country211": 5,
    "describable-textures": 8,
    "eurosat": 3,
    "facial-emotion-recognition-2013": 6,
    "fgvc-aircraft": 2,
    "flowers102": 1,
    "food101": 1,
    "gtsrb": 3,
    "hateful-memes": 1,
    "imagenet": 80,
    "kinetics700": 28,
    "kitti": 1,
    "mnist": 1,
    "oxford-pets": 1,
    "pascal-voc-2007": 1,
    "patch-camelyon": 1,
    "resisc45": 18,
    "sst2": 1,
    "stanford-cars": 8,
    "stl10": 2,
    "sun397": 2,
    "ucf101": 48,
}
"""OpenAI's 27 data sets."""

FLYP_COUNTS = {
    "flyp-imagenet": 80,
    "flyp-imagenet-reduced": 5,
    "flyp-fmow": 16,
    "flyp-caltech101": 34,
    "flyp-cars": 8,
    "flyp-iwildcam": 2,
    "flyp-sst2": 1,
    "flyp-pcam": 1,
    "flyp-flowers102": 1,
    "flyp-country211": 5,
    "flyp-eurosat": 3,
    "flyp-sun397": 2,
}


@pytest.mark.parametrize(("name", "count"), [*COUNTS.items(), *FLYP_COUNTS.items()])
def test_sets_have_their_published_number_of_templates(name: str, count: int) -> None:
    assert len(expand_templates([name])) == count


def test_openai_published_prompts_for_27_data_sets() -> None:
    assert len(COUNTS) == 27


@pytest.mark.parametrize("name", sorted(published_sets()))
def test_each_template_has_one_place_for_the_class(name: str) -> None:
    assert all(template.count("{}") == 1 for template in published_sets()[name])


def test_templates_and_class_names_are_openais_word_for_word() -> None:
    folder = os.environ.get("ATTUNE_TEST_DATA")
    source = Path(folder or "", "clip_text", "dataset_prompts.json")
    if folder is None or not source.is_file():
        pytest.skip("ATTUNE_TEST_DATA names no folder with clip_text/dataset_prompts.json")
    published = {name.lower(): entry for name, entry in json.loads(source.read_text(encoding="utf-8")).items()}
    templates = {name.replace("-", ""): list(published_sets()[name]) for name in COUNTS}
    classes = {name.replace("-", ""): list(published_class_names()[name]) for name in COUNTS}

    assert {name: entry["templates"] for name, entry in published.items()} == templates
    for name, entry in published.items():
        assert [c if isinstance(c, str) else c[0] for c in entry["classes"]] == classes[name]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("imagenet", 1000),
        ("stanford-cars", 196),
        ("caltech101", 102),
        ("flowers102", 102),
        ("cifar100", 100),
        ("sst2", 2),
    ],
)
def test_data_sets_have_their_number_of_classes(name: str, count: int) -> None:
    assert len(published_class_names()[name]) == count


def test_class_names_are_those_of_the_27_data_sets() -> None:
    assert set(published_class_names()) == set(COUNTS)


def test_fmow_names_two_views_and_five_continents() -> None:
    templates = expand_templates(["flyp-fmow"])

    assert sum(t.startswith("satellite photo") for t in templates) == 7
    assert sum(t.startswith("aerial photo") for t in templates) == 7
    assert sum(" in " in t for t in templates) == 10


@pytest.mark.parametrize(("alias", "count"), [("vanilla", 1), ("openai_imagenet_sub", 7), ("openai_cifar100", 18)])
def test_mmpretrains_names_lead_to_the_same_sets(alias: str, count: int) -> None:
    assert expand_templates([alias]) == published_sets()[ALIASES[alias]]
    assert len(expand_templates([alias])) == count


def test_the_transfer_demo_keeps_its_prompt_without_a_full_stop() -> None:
    assert expand_templates(["transfer-demo"]) == ("a picture of a {}",)


def test_sets_and_templates_mix() -> None:
    assert expand_templates(["sst2", "a {}."]) == ("a {} review of a movie.", "a {}.")


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {name}", "a {0}"])
def test_templates_without_exactly_one_place_are_refused(template: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        expand_templates([template])


def test_wrong_names_get_near_ones() -> None:
    with pytest.raises(ValueError, match="Did you mean stanford-cars"):
        expand_templates(["standford-cars"])


def test_no_template_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        expand_templates([])
