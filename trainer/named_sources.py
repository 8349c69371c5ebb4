"""Data sets as a command line names them: `[NAME=]PATH`, or `[NAME=]{yaml mapping}` with a source's fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from trainer.errors import UnusableSpecError
from trainer.spec import AnySource
from trainer.spec.sources import members


def named_sources(arguments: Sequence[str], *, option: str) -> dict[str, AnySource]:
    """Sources by name; one without a name goes by the last part of its path.

    Raises:
        UnusableSpecError: one is no source, or two have the same name.
    """
    sources: dict[str, AnySource] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.replace("-", "_").isidentifier():
            name, text = "", argument
        source = source_from_text(text, option=f"{option} {argument!r}")
        name = name or Path(members(source)[0].path).resolve().stem
        if name in sources:
            raise UnusableSpecError(f"two data sets are called {name!r}; name them with {option} NAME=PATH")
        sources[name] = source
    return sources


def source_from_text(text: str, *, option: str) -> AnySource:
    """A source from a path or a YAML mapping.

    Raises:
        UnusableSpecError: it is none; `option` names what was given.
    """
    try:
        value = yaml.safe_load(text) if text.startswith("{") else text
        source: AnySource = TypeAdapter(AnySource).validate_python(value)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        raise UnusableSpecError(f"{option} describes no source: {told}") from None
    except yaml.YAMLError as error:
        raise UnusableSpecError(f"{option} is not valid YAML: {error}") from None
    return source
