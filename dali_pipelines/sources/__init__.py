"""Where samples come from. Each source has a `read` that lists samples without opening an image; READERS names them.

A reader takes the path, its format's own fields and the local cache. Which of the samples are taken is not its concern:
`dali_pipelines.selection` does that for all formats.
"""

from collections.abc import Callable

from dali_pipelines.sources import (
    class_list,
    coco_captions,
    csv_table,
    domains,
    hf_dataset,
    image_folder,
    karpathy,
    parquet,
    torchvision_sets,
    webdataset,
)
from dali_pipelines.sources.samples import DataError, Samples

__all__ = ["READERS", "DataError", "Samples"]

READERS: dict[str, Callable[..., Samples]] = {
    "image_folder": image_folder.read,
    "domains": domains.read,
    "class_list": class_list.read,
    "csv": csv_table.read,
    "coco_captions": coco_captions.read,
    "karpathy": karpathy.read,
    "torchvision": torchvision_sets.read,
    "webdataset": webdataset.read,
    "parquet": parquet.read,
    "hf_dataset": hf_dataset.read,
}
"""Reader by the spec's word for the format."""
