"""Folders of domains, each with folders of classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dali_pipelines.sources import domains
from dali_pipelines.sources.samples import DataError


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("sketch/dog/1.png", "photo/dog/2.jpg", "photo/cat/deep/3.jpg", ".git/cat/4.jpg", "sketch/ant/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def fails(field: str, *words: str):
    return pytest.raises(DataError, match="(?s)" + ".*".join(words), check=lambda error: error.field == field)


def test_classes_are_united_over_the_domains(root, cache):
    samples = domains.read(root, cache=cache)
    assert samples.paths == ["photo/cat/deep/3.jpg", "photo/dog/2.jpg", "sketch/ant/5.jpg", "sketch/dog/1.png"]
    assert samples.class_names == ("ant", "cat", "dog")
    assert samples.labels == [1, 2, 0, 2]
    assert samples.domain_names == ("photo", "sketch")
    assert samples.domains == [0, 0, 1, 1]
    assert samples.domain_counts() == {"photo": 2, "sketch": 2}


def test_domains_can_be_chosen(root, cache):
    samples = domains.read(root, domains=["sketch"], cache=cache)
    assert samples.paths == ["sketch/ant/5.jpg", "sketch/dog/1.png"]
    assert samples.class_names == ("ant", "dog")
    assert domains.read(root, domains=["sketch", "photo"], cache=cache).domain_names == ("sketch", "photo")


def test_mistakes_are_named(root, cache, tmp_path_factory):
    with fails("domains", "'clipart'", "there are: photo, sketch"):
        domains.read(root, domains=["clipart"], cache=cache)
    with fails("domains", "each once"):
        domains.read(root, domains=["photo", "photo"], cache=cache)
    with fails("path", "'deep' of .* no class folders"):
        domains.read(root / "photo/cat", cache=cache)
    with fails("path", "no folders of domains"):
        domains.read(root / "sketch/dog", cache=cache)
    empty = tmp_path_factory.mktemp("empty")
    (empty / "photo/cat").mkdir(parents=True)
    with fails("path", "no image in the 1 class folders", "photo/cat"):
        domains.read(empty, cache=cache)


def test_real_domains(test_data, cache):
    samples = domains.read(test_data / "pacs", cache=cache)
    assert samples.domain_counts() == {"photo": 1050, "sketch": 560}
    assert samples.class_names == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
