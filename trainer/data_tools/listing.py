"""The samples of a data set, a mixture's members one after another, by one row number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa

from dali_pipelines.manifest import NO_LABEL
from dali_pipelines.sources import Samples
from dali_pipelines.storage import Location
from dali_pipelines.validation import Look, scan
from dali_pipelines.validation.scan import location
from trainer.data_sources import list_members
from trainer.spec import AnySource


@dataclass(frozen=True)
class DataSet:
    """What a source lists."""

    name: str
    members: tuple[Samples, ...]

    @classmethod
    def list(cls, name: str, source: AnySource, how: Look, *, seed: int = 0) -> DataSet:
        """List a source's samples; `seed` draws its fraction.

        Raises:
            DataError: it cannot be listed.
        """
        return cls(name, tuple(list_members(source, cache=how.cache, seed=seed)))

    def __len__(self) -> int:
        return sum(map(len, self.members))

    @property
    def class_names(self) -> tuple[str, ...]:
        """All members' classes, each once."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.class_names))

    @property
    def domain_names(self) -> tuple[str, ...]:
        """All members' domains, each once."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.domain_names))

    @property
    def has_captions(self) -> bool:
        """Whether some member has captions."""
        return any(member.captions is not None for member in self.members)

    def key(self, row: int) -> str:
        """What a sample is called."""
        member, place = self._place(row)
        return member.key(place)

    def location(self, row: int) -> Location:
        """Where its bytes lie."""
        return location(*self._place(row))

    def class_name(self, row: int) -> str | None:
        """Its class, if it has one."""
        member, place = self._place(row)
        number = NO_LABEL if member.labels is None else int(member.labels[place])
        return None if number == NO_LABEL else member.class_names[number]

    def domain_name(self, row: int) -> str | None:
        """Its domain, if it has one."""
        member, place = self._place(row)
        number = NO_LABEL if member.domains is None else int(member.domains[place])
        return None if number == NO_LABEL else member.domain_names[number]

    def captions(self) -> Iterator[Sequence[str]]:
        """The captions of each sample of the members that have captions."""
        for member in self.members:
            yield from member.captions or ()

    def counts(self, usable: np.ndarray) -> dict[str, int]:
        """Usable images by class."""
        return self._counted(usable, "labels", "class_names", self.class_names)

    def domain_counts(self, usable: np.ndarray) -> dict[str, int]:
        """Usable images by domain."""
        return self._counted(usable, "domains", "domain_names", self.domain_names)

    def _counted(self, usable: np.ndarray, numbers: str, names: str, every: tuple[str, ...]) -> dict[str, int]:
        counts = dict.fromkeys(every, 0)
        start = 0
        for member in self.members:
            there = usable[start : start + len(member)]
            start += len(member)
            if getattr(member, numbers) is not None:
                chosen = np.asarray(getattr(member, numbers), np.int64)[there]
                own = np.bincount(chosen[chosen >= 0], minlength=len(getattr(member, names)))
                for name, count in zip(getattr(member, names), own.tolist(), strict=True):
                    counts[name] += count
        return counts

    def scan(self, how: Look) -> pa.Table:
        """Look at every image: `dali_pipelines.validation.scan`'s table, a row a sample."""
        tables = []
        for number, member in enumerate(self.members):
            folder = None if how.journal is None else Path(how.journal) / self.name / str(number)
            tables.append(scan(member, replace(how, journal=folder)))
        return pa.concat_tables(tables)

    def _place(self, row: int) -> tuple[Samples, int]:
        ends = list(accumulate(map(len, self.members)))
        number = next(number for number, end in enumerate(ends) if row < end)
        return self.members[number], row - (ends[number - 1] if number else 0)
