"""What a folder that is being written to holds already, so that an interrupted conversion can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from dali_pipelines.sources.samples import DataError

NAME = ".conversion.json"


class Record:
    """How far a folder is; kept in a hidden file in it."""

    def __init__(self, folder: Path, facts: dict[str, Any], *, done: int, finished: bool) -> None:
        self._folder, self._facts = folder, facts
        self.done = done
        """Samples that are written for good."""
        self.finished = finished
        """Whether nothing is left to do."""

    @classmethod
    def begin(cls, folder: Path, facts: dict[str, Any]) -> Self:
        """Make the folder, or find out how far it is.

        Args:
            facts: what is being written, as JSON values; an earlier, unfinished call must have written the same.

        Raises:
            DataError: it holds something else.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / NAME).is_file():
                return cls._go_on(folder, facts)
            if any(folder.iterdir()):
                raise DataError("folder", f"folder {str(folder)!r} is not empty; name a new one")
        except OSError as error:
            raise DataError("folder", f"folder {str(folder)!r} cannot be written to: {error.strerror}") from error
        record = cls(folder, facts, done=0, finished=False)
        record._write()
        return record

    @classmethod
    def _go_on(cls, folder: Path, facts: dict[str, Any]) -> Self:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if found["facts"] != facts:
            raise DataError("folder", f"folder {str(folder)!r} holds a conversion of other samples; name a new one")
        return cls(folder, facts, done=found["done"], finished=found["finished"])

    def note(self, done: int) -> None:
        """So many samples are written."""
        self.done = done
        self._write()

    def finish(self) -> None:
        """All is written."""
        self.finished = True
        self._write()

    def _write(self) -> None:
        partial = self._folder / f"{NAME}.partial"
        state = {"facts": self._facts, "done": self.done, "finished": self.finished}
        partial.write_text(json.dumps(state, indent=1), encoding="utf-8")
        partial.replace(self._folder / NAME)
