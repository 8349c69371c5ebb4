"""Where samples come from. Each source has a `read` that lists samples without opening an image; READERS names them.

A reader takes the path, its format's own fields and the local cache. Which of the samples are taken is not its concern:
`dali_pipelines.selection` does that for all formats.
"""

from collections.abc import Callable

from dali_pipelines.sources import csv_table, image_folder
from dali_pipelines.sources.samples import DataError, Samples

__all__ = ["READERS", "DataError", "Samples"]

READERS: dict[str, Callable[..., Samples]] = {"image_folder": image_folder.read, "csv": csv_table.read}
"""Reader by the spec's word for the format."""
