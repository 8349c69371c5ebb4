"""Data sets turned into other formats, brought onto a local disk, and divided: the work behind `attune data`.

    convert(samples, folder, to="webdataset", cache=cache)     another format, the images' bytes as they are
    stage(samples, cache=cache)                                remote files into the local cache
    stage(samples, cache=cache, folder="/nvme/set")            everything into shards in a folder
    split(samples, {"train": 0.9, "validation": 0.1}, seed=0)  parts with the same share of each class

Each takes what `trainer.data_sources.list_source` lists, or a manifest, of which only good samples are left. Imports
neither DALI nor torch.
"""

from dali_pipelines.conversion.convert import TARGETS, Progress, Target, convert
from dali_pipelines.conversion.split import split
from dali_pipelines.conversion.stage import Staged, stage

__all__ = ["TARGETS", "Progress", "Staged", "Target", "convert", "split", "stage"]
