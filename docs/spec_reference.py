"""Writes the field reference in docs/spec.md from `trainer.spec.JobSpec`: `python docs/spec_reference.py`.

A test fails when the page and the code have come apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.spec import JobSpec

PAGE = Path(__file__).with_name("spec.md")
BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Schema = dict[str, Any]


def page_with_reference(page: str) -> str:
    """The page with everything between the two markers written anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def reference() -> str:
    """A heading and a table for each section of the spec, in the order in which they are met."""
    schema = JobSpec.model_json_schema()
    return "\n".join(_table(title, section) for title, section in _sections(schema))


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


def _table(path: str, section: Schema) -> str:
    kind = next((f"`{name}: {p['const']}`" for name, p in section["properties"].items() if _is_kind(name, p)), None)
    title = f"`{path}`" if path else "The whole spec"
    lines = [f"### {title}" + (f" with {kind}" if kind else ""), "", " ".join(section["description"].split()), ""]
    lines += ["| Field | Type | Default | Meaning |", "|---|---|---|---|"]
    required = section.get("required", [])
    for name, field in section["properties"].items():
        default = "required" if name in required else _default(field)
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(field)} | {default} | {meaning} |")
    return "\n".join([*lines, ""])


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


if __name__ == "__main__":
    PAGE.write_text(page_with_reference(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
