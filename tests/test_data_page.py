"""The page on data: each of its examples is a valid spec, and its tables name what the spec has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from trainer.spec import DataSpec, JobSpec, Source
from trainer.spec.sources import DataSource, TorchvisionSource, members

PAGE = (Path(__file__).parents[1] / "docs/data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FORMATS = {kind.model_fields["format"].default: kind for kind in get_args(get_args(DataSource)[0])}


def example_data(text: str) -> DataSpec:
    return JobSpec.model_validate(yaml.safe_load(text)).data


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_are_valid(text):
    assert example_data(text).train is not None


def test_every_format_has_an_example_and_a_row():
    shown = set()
    for text in EXAMPLES:
        data = example_data(text)
        for source in (data.train, data.validation, *data.evaluate.values()):
            shown |= {member.format for member in members(source)} if source is not None else set()
    assert shown == set(FORMATS)
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", PAGE, re.MULTILINE)
    by_format = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows}
    assert set(by_format) >= set(FORMATS)
    for name, kind in FORMATS.items():
        own = set(kind.model_fields) - set(Source.model_fields) - {"format"}
        if name == "parquet":  # told as the difference to `csv`
            assert own == by_format["csv"] - {"separator", "encoding"}
        else:
            assert by_format[name] == own, name


def test_torchvisions_sets_are_named():
    names = get_args(TorchvisionSource.model_fields["name"].annotation)
    assert all(re.search(rf"\b{name}\b", PAGE) for name in names)


def test_selection_fields_are_those_of_every_source():
    told = set(re.findall(r"`(\w+)`", PAGE.partition("## Choosing samples")[2].partition("```")[0]))
    assert told == set(Source.model_fields) - {"path", "class_names", "templates"}
