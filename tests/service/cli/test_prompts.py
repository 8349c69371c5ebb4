"""`attune prompts`: the sets, their templates, and class names in the form that other commands read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from trainer.prompts import published_class_names, published_sets

Attune = Callable[..., "subprocess.CompletedProcess[str]"]


def test_sets_are_listed_with_their_sizes(attune: Attune) -> None:
    rows = {row["name"]: row for row in json.loads(attune("prompts", "list", "--json").stdout)}

    assert set(rows) == set(published_sets())
    assert (rows["imagenet"]["num_templates"], rows["imagenet"]["num_classes"]) == (80, 1000)
    assert rows["flyp-cars"]["same_as"] == "stanford-cars"


def test_templates_are_shown_a_line_each_and_unchanged(attune: Attune) -> None:
    shown = attune("prompts", "show", "mnist").stdout

    assert shown == 'a photo of the number: "{}".\n'


def test_class_names_are_shown_a_line_each(attune: Attune) -> None:
    shown = attune("prompts", "show", "stanford-cars", "--classes").stdout

    assert tuple(shown.splitlines()) == published_class_names()["stanford-cars"]


def test_unknown_sets_exit_4_and_name_near_ones(attune: Attune) -> None:
    ended = attune("prompts", "show", "imagnet")

    assert ended.returncode == 4
    assert "Did you mean imagenet" in ended.stderr
