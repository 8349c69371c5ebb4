"""Formats of data sets: a module each, with a `read(path, ...) -> Samples`."""

from collections.abc import Callable

from dali_pipelines.sources import csv_table, image_folder
from dali_pipelines.sources.samples import DataError, Samples

READERS: dict[str, Callable[..., Samples]] = {"image_folder": image_folder.read, "csv": csv_table.read}
"""Readers by the name that a spec gives the format."""

__all__ = ["READERS", "DataError", "Samples"]
