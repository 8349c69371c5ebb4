"""The texts of a WebDataset's sample: captions, class and domain in its `.txt`, `.cls` and `.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TextKeys:
    """Which of a sample's files hold what: an extension, or `json.NAME`; None: the first of the usual places."""

    caption: str | None = None
    label: str | None = None
    domain: str | None = None

    @property
    def extensions(self) -> frozenset[str]:
        """Of the files that must be read."""
        named = {key.partition(".")[0] if in_json(key) else key for key in asdict(self).values() if key is not None}
        usual = ({"txt", "json"} if self.caption is None else set()) | ({"cls"} if self.label is None else set())
        return frozenset(named | usual)


class UnusableText(ValueError):
    """A text lacks or cannot be read; `field` is the source's to blame."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class Texts:
    """The texts of a sample."""

    def __init__(self, key: str, contents: dict[str, bytes]) -> None:
        self._key, self._contents = key, contents
        self._parsed: dict[str, Any] | None = None

    def captions(self, where: str | None) -> list[str]:
        """What `where` holds, one text or a list; None: the JSON's `captions`, else `txt`, else its `caption`."""
        found = self._usual_captions() if where is None else self._value("caption_key", where)
        captions = found if isinstance(found, list) else [] if found is None else [found]
        for caption in captions:
            if not isinstance(caption, str):
                message = f"{self._key!r} has {caption!r} for a caption; it must be a text or a list of texts"
                raise UnusableText("caption_key", message)
        return [caption.strip() for caption in captions if caption.strip()]

    def label(self, where: str | None) -> str | None:
        """What `where` holds, a number or a word; None: what `cls` holds, if that is there."""
        if where is None and "cls" not in self._contents:
            return None
        return self._word("label_key", where or "cls")

    def domain(self, where: str | None) -> str | None:
        """What `where` holds, a number or a word, if that is there."""
        return None if where is None or self._found("domain_key", where) is None else self._word("domain_key", where)

    def _word(self, field: str, where: str) -> str:
        found = self._value(field, where)
        if not isinstance(found, str | int) or not str(found).strip():
            raise UnusableText(field, f"{self._key!r} has {found!r} in {where}; a number or a word is needed")
        return str(int(found) if isinstance(found, bool) else found).strip()

    def _usual_captions(self) -> Any:
        several = self._json().get("captions") if "json" in self._contents else None
        if isinstance(several, list):
            return several
        return self._value("caption_key", "txt") if "txt" in self._contents else self._json().get("caption")

    def _found(self, field: str, where: str) -> Any:
        if not in_json(where):
            return self._text(where, field) if where in self._contents else None
        found: Any = self._json(field)
        for name in where.split(".")[1:]:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def _value(self, field: str, where: str) -> Any:
        found = self._found(field, where)
        if found is None:
            there = ", ".join(sorted(self._contents)) or "none"
            raise UnusableText(field, f"sample {self._key!r} has no {where} (of what is looked for it has: {there})")
        return found

    def _text(self, extension: str, field: str) -> str:
        try:
            return self._contents[extension].decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{self._key}.{extension} is not UTF-8 text: {error.reason} at byte {error.start}"
            raise UnusableText(field, message) from error

    def _json(self, field: str = "caption_key") -> dict[str, Any]:
        if self._parsed is None:
            try:
                self._parsed = json.loads(self._text("json", field)) if "json" in self._contents else {}
            except json.JSONDecodeError as error:
                raise UnusableText(field, f"{self._key}.json is no JSON: {error}") from error
            if not isinstance(self._parsed, dict):
                raise UnusableText(field, f"{self._key}.json holds {self._parsed!r:.40}, not an object")
        return self._parsed


def in_json(key: str) -> bool:
    """Whether a key names a field of the JSON file."""
    return key.startswith("json.")
