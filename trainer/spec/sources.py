"""Where images, labels and captions come from: a model a format, told apart by `format`.

A path may be local or a URL that fsspec knows (`s3://`, `gs://`, `https://`, ...); remote files are read through the
local cache (`data.cache`). Every format shares the fields of `Source`; a mixture draws from several sources.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from trainer.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Section, Strings


class Source(Section):
    """What sources of every format share: which samples are taken, and what their classes are called."""

    path: str
    """Where the data are: a folder or file, or a URL of one; see the format."""
    classes: Strings | None = None
    """Take only the samples of these classes, by the data's own word for them, and number the classes in this order."""
    class_names: dict[str, str] | tuple[str, ...] | str = Field(default_factory=dict)
    """What classes are called in prompts. A mapping renames some, by the data's own word; a list names all, in order of
    their numbers; a word is a published set (`attune prompts`) or a text file with a name a line. Classes that are not
    renamed go by their own word, underscores as spaces."""
    templates: Strings | None = None
    """Prompt templates of this set where it is evaluated zero-shot; None: `data.templates`."""
    limit: PositiveInt | None = None
    """Use only the first N samples, in the order of the data, after all other choices."""
    offset: NonNegativeInt = 0
    """Pass over the first N samples before `limit` counts."""
    limit_per_class: PositiveInt | None = None
    """Use only the first N samples of each class, in the order of the data."""
    offset_per_class: NonNegativeInt = 0
    """Pass over the first N samples of each class before `limit_per_class` counts."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Use this share of the samples, drawn by the job's seed (of each class the same share)."""


class ImageFolderSource(Source):
    """Images in one folder a class: `path/CLASS/**/IMAGE`."""

    format: Literal["image_folder"] = "image_folder"


class DomainsSource(Source):
    """Images in folders of domains, each with a folder a class: `path/DOMAIN/CLASS/**/IMAGE`."""

    format: Literal["domains"] = "domains"
    domains: Strings | None = None
    """The domains to take; None: all of them."""


class ClassListSource(Source):
    """A text file with an image and its class a line, `PATH LABEL`, as mmpretrain and ImageNet's lists have them.

    The label is a number or a word; it begins after the image's extension, so that paths may hold spaces. Where lines
    hold a path only, the class is the first folder in which they differ (`wnid/file`).
    """

    format: Literal["class_list"] = "class_list"
    images_root: str | None = None
    """Folder that image paths are relative to; None: the list's folder. Paths outside it are refused."""


class CsvSource(Source):
    """A table with a row an image-caption (or image-label) pair; rows of one image are gathered into one sample."""

    format: Literal["csv"] = "csv"
    separator: str | None = None
    """Column separator; None finds it in the header (comma, tab, semicolon or bar)."""
    encoding: str = "utf-8"
    """Any codec that Python knows, such as `gb18030`."""
    image_column: str = "image"
    """Column with the image's path."""
    caption_column: str | None = "caption"
    """Column with the caption; None if there is none."""
    label_column: str | None = None
    """Column with the class name; None if there is none."""
    domain_column: str | None = None
    """Column with the domain (region, camera, ...), by which results are broken down; None if there is none."""
    split_column: str | None = None
    """Column with the sample's split; needed with `split`."""
    split: str | None = None
    """Take only rows of this split."""
    images_root: str | None = None
    """Folder that image paths are relative to; None: the table's folder. Paths outside it are refused."""


class CocoCaptionsSource(Source):
    """COCO's captions JSON (2014 and 2017): `images` and `annotations` with `image_id` and `caption`."""

    format: Literal["coco_captions"] = "coco_captions"
    images_root: str | None = None
    """Folder of the images; None: found, for `captions_train2017.json`: `train2017/`, `images/train2017/` or `images/`
    beside the JSON or one folder up, or the JSON's own folder."""


class KarpathySource(Source):
    """Karpathy's splits JSON (`dataset_coco.json`, `dataset_flickr8k.json`, ...): `images` with `sentences`."""

    format: Literal["karpathy"] = "karpathy"
    split: Strings = ("train", "restval")
    """The splits to take: `train`, `restval`, `val`, `test`."""
    images_root: str | None = None
    """Folder of the images; None: found beside the JSON."""


class WebDatasetSource(Source):
    """Tar shards in which the files of one sample share a name: `KEY.jpg` with `KEY.txt`, `KEY.cls` or `KEY.json`.

    `path` is a shard, a folder of shards, or a pattern: `*`, or a brace expression such as `train-{0000..0099}.tar`.
    """

    format: Literal["webdataset"] = "webdataset"
    caption_key: str | None = None
    """What holds the caption or a list of them: an extension, or `json.NAME` for a field of the JSON file; None: the
    JSON's list `captions` where there is one, else `txt`, else the JSON's `caption`."""
    label_key: str | None = None
    """What holds the class: an extension, or `json.NAME`; None: `cls` where there is one. Numbers are called by the
    lines of `classnames.txt` beside the shards or one folder above, where there is one."""
    domain_key: str | None = None
    """What holds the sample's domain: an extension, or `json.NAME`; None: there are no domains."""


class ParquetSource(Source):
    """Parquet, Arrow or Feather files with image bytes or image paths in a column, a row a sample.

    `path` is a file, a folder or a pattern. An image cell is bytes, a path, or Hugging Face's struct of both.
    """

    format: Literal["parquet"] = "parquet"
    image_column: str | None = None
    """Column with the image; None: `image`, `jpg`, `image_path` or `path`, whichever is there."""
    caption_column: str | None = None
    """Column with the caption or the list of captions; None: `caption`, `captions` or `text`, if there is one."""
    label_column: str | None = None
    """Column with the class, a number or a word; None: `label`, if there is one."""
    domain_column: str | None = None
    """Column with the sample's domain; None if there is none."""
    split_column: str | None = None
    """Column with the sample's split; needed with `split`."""
    split: str | None = None
    """Take only rows of this split."""
    images_root: str | None = None
    """Folder that image paths are relative to; None: the table's folder. Paths outside it are refused."""


class HfDatasetSource(Source):
    """A Hugging Face data set on disk, as `datasets.Dataset.save_to_disk` leaves it."""

    format: Literal["hf_dataset"] = "hf_dataset"
    split: str | None = None
    """The split of a `DatasetDict`; None if the folder holds a single data set."""
    image_column: str | None = None
    """Column with the image; None: the one of type `Image`."""
    caption_column: str | None = None
    """Column with the caption or the list of captions; None: `caption`, `captions` or `text`, if there is one."""
    label_column: str | None = None
    """Column with the class; None: the one of type `ClassLabel`, if there is one."""
    domain_column: str | None = None
    """Column with the sample's domain; None if there is none."""
    images_root: str | None = None
    """Folder that the images lie below where the column holds their paths; None: the data set's folder. Paths outside
    it are refused."""


class TorchvisionSource(Source):
    """A data set that torchvision reads, from the folder that torchvision would keep it in. Nothing is downloaded."""

    format: Literal["torchvision"] = "torchvision"
    name: Literal[
        "CIFAR10",
        "CIFAR100",
        "Caltech101",
        "Country211",
        "DTD",
        "EuroSAT",
        "FGVCAircraft",
        "Flowers102",
        "Food101",
        "GTSRB",
        "ImageNet",
        "MNIST",
        "OxfordIIITPet",
        "PCAM",
        "RenderedSST2",
        "STL10",
        "SUN397",
        "StanfordCars",
    ]
    """torchvision's class of the data set; `path` is its `root`."""
    split: str | None = None
    """`train`, `test`, `val`, ... as torchvision calls them. None: the training split, `trainval` of FGVCAircraft and
    OxfordIIITPet; all of Caltech101, EuroSAT and SUN397, which have no splits."""


DataSource = Annotated[
    ImageFolderSource
    | DomainsSource
    | ClassListSource
    | CsvSource
    | CocoCaptionsSource
    | KarpathySource
    | WebDatasetSource
    | ParquetSource
    | HfDatasetSource
    | TorchvisionSource,
    Field(discriminator="format"),
]

_ENDINGS = (
    (r"\.(csv|tsv)$", "csv"),
    (r"\.(tar|tar\.gz|tgz)$", "webdataset"),
    (r"\.(parquet|arrow|feather)$", "parquet"),
    (r"\.txt$", "class_list"),
    (r"dataset_\w+\.json$", "karpathy"),
    (r"\.json$", "coco_captions"),
)


def _source_from_string(value: Any) -> Any:
    """A bare path stands for the format that it ends like, and for an image folder otherwise."""
    if isinstance(value, str):
        named = (name for ending, name in _ENDINGS if re.search(ending, value))
        return {"format": next(named, "image_folder"), "path": value}
    if isinstance(value, dict) and "format" not in value and isinstance(value.get("path"), str):
        return {**_source_from_string(value["path"]), **value}
    return value


OneSource = Annotated[DataSource, BeforeValidator(_source_from_string)]


class MixtureSource(Section):
    """Several sources, trained on together. Their classes are united by name, their domains too."""

    format: Literal["mixture"] = "mixture"
    sources: Annotated[tuple[OneSource, ...], Field(min_length=1)]
    """The sources."""
    weights: tuple[PositiveFloat, ...] | None = None
    """Share of the training samples that comes from each source, in proportion. A source whose samples run out is
    gone through again in a new order; an epoch is as many samples as there are in all. None: every sample once an
    epoch. For training only."""


def _any_from_value(value: Any) -> Any:
    """A list of sources stands for a mixture without weights; what has no `format` but `sources` is a mixture."""
    if isinstance(value, list | tuple):
        return {"format": "mixture", "sources": value}
    if isinstance(value, dict) and "format" not in value and "sources" in value:
        return {"format": "mixture", **value}
    return _source_from_string(value)


AnySource = Annotated[
    Annotated[DataSource | MixtureSource, Field(discriminator="format")], BeforeValidator(_any_from_value)
]


def members(source: DataSource | MixtureSource) -> tuple[DataSource, ...]:
    """The sources of a mixture; a source alone if it is none."""
    return source.sources if isinstance(source, MixtureSource) else (source,)


def own_templates(source: DataSource | MixtureSource) -> tuple[str, ...] | None:
    """The prompt templates that a source names for itself; a mixture's members name the same."""
    return members(source)[0].templates


def lacks_labels(source: DataSource | MixtureSource) -> bool:
    """Whether it is known without looking at the data that some samples have no class."""
    return any(
        isinstance(member, CocoCaptionsSource | KarpathySource)
        or (isinstance(member, CsvSource) and member.label_column is None)
        for member in members(source)
    )


def lacks_captions(source: DataSource | MixtureSource) -> bool:
    """Whether it is known without looking at the data that some samples have no caption."""
    return any(
        isinstance(member, ImageFolderSource | DomainsSource | ClassListSource | TorchvisionSource)
        or (isinstance(member, CsvSource) and member.caption_column is None)
        for member in members(source)
    )


def describe(source: DataSource | MixtureSource) -> str:
    """The path, or the paths of a mixture, as one line."""
    return ", ".join(member.path for member in members(source))
