"""Writes the tables in docs/spec.md and docs/serving.md from the code: `python docs/reference.py`.

Fields of the spec come from `trainer.spec.JobSpec`, settings from `service.settings.Settings`. A test fails when a
page and the code have come apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service.settings import Settings
from trainer.spec import JobSpec

_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Schema = dict[str, Any]


def page_with_tables(page: str, *, mark: str, tables: str) -> str:
    """The page with everything between the two comments of that name written anew."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{tables}\n{end}{after}"


def settings() -> str:
    """A table of the service's environment variables."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else f"`{json.dumps(field.default, default=str)}`".replace('"', "")
        lines.append(f"| `ATTUNE_{name.upper()}` | {default} | {_one_line(field.description)} |")
    return "\n".join([*lines, ""])


def fields() -> str:
    """A heading and a table for each section of the spec, in the order in which they are met."""
    schema = JobSpec.model_json_schema()
    return "\n".join(_table(title, section, schema["$defs"]) for title, section in _sections(schema))


def _sections(schema: Schema) -> Iterator[tuple[str, Schema]]:
    waiting: list[tuple[str, Schema]] = [("", schema)]
    seen: set[str] = set()
    while waiting:
        path, section = waiting.pop(0)
        yield path, section
        inner = []
        for name, field in section["properties"].items():
            for definition in _definitions_in(field):
                if definition not in seen:
                    seen.add(definition)
                    inner.append((f"{path}.{name}".lstrip("."), schema["$defs"][definition]))
        waiting = inner + waiting


def _definitions_in(field: Schema) -> list[str]:
    """Names of the sections that a field may hold."""
    if "$ref" in field:
        return [field["$ref"].rpartition("/")[2]]
    parts = [*field.get("anyOf", []), *field.get("oneOf", []), field.get("additionalProperties")]
    return [name for part in parts if isinstance(part, dict) for name in _definitions_in(part)]


def _table(path: str, section: Schema, sections: Schema) -> str:
    kind = next((f"`{name}: {p['const']}`" for name, p in section["properties"].items() if _is_kind(name, p)), None)
    title = f"`{path}`" if path else "The whole spec"
    lines = [f"### {title}" + (f" with {kind}" if kind else ""), "", " ".join(section["description"].split()), ""]
    lines += ["| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    required = section.get("required", [])
    for name, field in section["properties"].items():
        default = "required" if name in required else _default(field)
        lines.append(f"| `{name}` | {_type(field)} | {default} | {_one_line(_meaning(name, field, sections))} |")
    return "\n".join([*lines, ""])


def _meaning(name: str, field: Schema, sections: Schema) -> str | None:
    """What a field says of itself; pydantic leaves that out where its section says the very same."""
    if _is_kind(name, field):
        return "Chooses this section."
    if "$ref" in field and "description" not in field:
        (section,) = _definitions_in(field)
        field = sections[section]
    return field.get("description")


def _is_kind(name: str, field: Schema) -> bool:
    return name in ("name", "format") and "const" in field


def _default(field: Schema) -> str:
    if "default" not in field:
        return "empty"
    if isinstance(field["default"], dict):
        return "see below"
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _type(field: Schema) -> str:
    if _definitions_in(field):
        return _section_type(field)
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field.get("prefixItems") or [field["items"]]
        return f"list of {len(items)} × {_type(items[0])}" if "prefixItems" in field else f"list of {_type(items[0])}"
    limits = [f"{sign} {field[key]:g}" for key, sign in _LIMITS.items() if key in field]
    return " ".join([str(field["type"]).replace("object", "mapping"), ", ".join(limits)]).strip()


def _section_type(field: Schema) -> str:
    if field.get("type") == "object":
        return "section by name"
    optional = any(part.get("type") == "null" for part in field.get("anyOf", []))
    return "section or null" if optional else "section"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


PAGES: dict[str, tuple[str, Callable[[], str]]] = {"spec.md": ("fields", fields), "serving.md": ("settings", settings)}
"""By page in this folder: the name of the mark, and what stands there."""


def written_anew(page: Path) -> str:
    """What a page should hold."""
    mark, make_tables = PAGES[page.name]
    return page_with_tables(page.read_text(encoding="utf-8"), mark=mark, tables=make_tables())


if __name__ == "__main__":
    for name in PAGES:
        path = Path(__file__).with_name(name)
        path.write_text(written_anew(path), encoding="utf-8")
