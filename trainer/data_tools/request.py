"""What `attune data` is asked for. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from dali_pipelines.conversion import Target
from dali_pipelines.validation.duplicates import DEFAULT_MAX_DISTANCE, MAX_DISTANCE
from dali_pipelines.validation.image_facts import DEFAULT_MAX_PIXELS
from trainer.errors import UnusableSpecError
from trainer.named_sources import named_sources
from trainer.spec import AnySource, CacheSpec, JobSpec, NonNegativeInt, PositiveInt, Section


def given(arguments: Sequence[str]) -> str:
    """A command's request as JSON: its one argument, or standard input if that is `-`."""
    return sys.stdin.read() if arguments[0] == "-" else arguments[0]


class DataRequest(Section):
    """What all of them share: which data."""

    sources: tuple[str, ...] = ()
    """`[NAME=]PATH` or `[NAME=]{yaml mapping}`."""
    spec: JobSpec | None = None
    """A job whose data are meant, in place of `sources`."""
    num_threads: PositiveInt | None = None
    """Images at a time; None: the spec's, or as many as there are cores."""

    def data_sets(self) -> dict[str, AnySource]:
        """The sources by name; a job's are called train, validation, and by the names in `data.evaluate`.

        Raises:
            UnusableSpecError: there are none, or one cannot be understood.
        """
        named = named_sources(self.sources, option="SOURCE")
        if self.spec is not None and named:
            raise UnusableSpecError("name data, or a job with --spec or --recipe, not both")
        named = named if self.spec is None else _of_job(self.spec)
        if not named:
            raise UnusableSpecError("name data: a path, a {yaml mapping}, or a job with --spec that has data")
        return named

    @property
    def cache(self) -> CacheSpec:
        """The job's cache; the machine's own without a job."""
        return CacheSpec() if self.spec is None else self.spec.data.cache

    @property
    def seed_of_data(self) -> int:
        """What draws a source's `fraction`: the job's seed, as in its training."""
        return 0 if self.spec is None else self.spec.seed


def _of_job(spec: JobSpec) -> dict[str, AnySource]:
    own = {"train": spec.data.train, "validation": spec.data.validation}
    return {**{name: source for name, source in own.items() if source is not None}, **spec.data.evaluate}


class Inspect(DataRequest):
    """List, and open a few images' headers."""

    command: Literal["inspect"] = "inspect"
    num_samples: PositiveInt = 5
    """Samples to show."""


class Validate(DataRequest):
    """Look at every image, and for copies."""

    command: Literal["validate"] = "validate"
    against: tuple[str, ...] = ()
    """Further sources, which copies of the others are looked for in."""
    output: str | None = None
    """Folder for report.md, report.json, tables as CSV and contact-sheet.png."""
    journal: str | None = None
    """Folder that remembers what has been looked at; None: `output`/journal, if there is an output."""
    quarantine: str | None = None
    """File for the list of the images that cannot be used."""
    model: str | None = None
    """Model whose tokenizer counts the captions' tokens; None: the job's, or CLIP's own with 77."""
    exif: Literal["ignore", "apply"] | None = None
    """Whether sizes are those after EXIF rotation; None: the job's rule, or ignore."""
    max_pixels: Annotated[int, Field(ge=1, le=DEFAULT_MAX_PIXELS)] = DEFAULT_MAX_PIXELS
    """A larger image cannot be used."""
    near: Annotated[int, Field(ge=0, le=MAX_DISTANCE)] | None = DEFAULT_MAX_DISTANCE
    """Bits of 64 in which near copies may differ; None looks for no near copies."""
    few: NonNegativeInt = 10
    """Classes with fewer images are named."""
    strict: bool = False
    """Count images that decode although they are damaged as bad."""


class Stage(DataRequest):
    """Bring data onto a local disk."""

    command: Literal["stage"] = "stage"
    output: str | None = None
    """Folder for shards; None fills the local cache."""
    cache_folder: str | None = None
    """The cache, in place of the job's or the machine's."""


class Convert(DataRequest):
    """Write data in another format."""

    command: Literal["convert"] = "convert"
    to: Target
    output: str
    """An empty folder."""
    copy_images: bool = True
    """False leaves the images of a table where they are."""


class Split(DataRequest):
    """Divide data."""

    command: Literal["split"] = "split"
    output: str
    """An empty folder."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: int = 0
    by: Literal["class", "domain", "nothing"] = "class"
    """What has the same share in every part."""
    group_duplicates: bool = False
    """Keep copies, exact and near ones, in the same part."""
    near: Annotated[int, Field(ge=0, le=MAX_DISTANCE)] = DEFAULT_MAX_DISTANCE
    """Bits of 64 in which near copies may differ."""
    journal: str | None = None
    """Folder that remembers what has been looked at."""


Request = Annotated[Inspect | Validate | Stage | Convert | Split, Field(discriminator="command")]
