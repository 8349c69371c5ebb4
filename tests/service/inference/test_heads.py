"""Class names and templates, checked before anything is asked."""

from __future__ import annotations

import pytest

from service.errors import InvalidRequest
from service.inference.heads import checked_head
from service.inference.protocol import Head
from trainer.prompts import published_sets


def test_names_and_templates_make_a_head(make_settings):
    head = checked_head([" rose ", "tulip"], templates=["a {}", "the {}."], settings=make_settings())
    assert head == Head(("rose", "tulip"), ("a {}", "the {}."))


def test_without_templates_there_is_one_plain_sentence(make_settings):
    assert checked_head(["rose"], templates=None, settings=make_settings()).templates == ("a photo of a {}.",)


def test_published_sets_are_expanded(make_settings):
    head = checked_head(["rose"], templates=["cifar10"], settings=make_settings())
    assert head.templates == published_sets()["cifar10"]


def test_the_key_tells_heads_apart():
    heads = [
        Head(("a", "b"), ("{}",)),
        Head(("a", "b"), ("the {}",)),
        Head(("b", "a"), ("{}",)),
        Head(("a",), ("b", "{}")),
    ]
    assert len({head.key for head in heads}) == 4
    assert Head(("a", "b"), ("{}",)).key == heads[0].key


@pytest.mark.parametrize(
    ("class_names", "templates", "param", "words"),
    [
        ([], None, "class_names", "is empty"),
        (["rose", "  "], None, "class_names.1", "class name 1 is blank"),
        (["rose", "tulip", "rose "], None, "class_names", "'rose' more than once"),
        (list("abcdef"), None, "class_names", "6 names; at most 5"),
        (["rose"], ["a photo"], "templates", r"'a photo' needs exactly one \{\}"),
        (["rose"], ["{} and {}"], "templates", r"needs exactly one \{\}"),
        (["rose"], ["{0} {}"], "templates", r"needs exactly one \{\}"),
        (["rose"], ["{{}}"], "templates", r"needs exactly one \{\}"),
        (["rose", "tulip"], ["imagenet"], "templates", "160 prompts; at most 100"),
    ],
)
def test_what_cannot_be_asked_is_refused(make_settings, class_names, templates, param, words):
    with pytest.raises(InvalidRequest, match=words) as refused:
        checked_head(class_names, templates=templates, settings=make_settings(max_classes=5, max_prompts=100))
    assert (refused.value.status, refused.value.param) == (400, param)
