"""Odd image files beside the reference transform: what each gives, and how far the pixels are apart.

    python benchmarks/odd_images.py FOLDER [--output FILE.md] [--image-size 224]

Every file of the folder that is no text goes two roads: checked into a manifest and read by the evaluation loader, and
as bytes through the decoder of the inference server. The reference is open_clip's evaluation transform of
`Image.open(file).convert("RGB")`. Differences are in steps of 0..255, before normalisation. A file with an EXIF
orientation has a second line for `data.exif=apply`, whose reference is `ImageOps.exif_transpose`. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from PIL import Image, ImageOps

from dali_pipelines.images import DecodeError, ImageDecoder
from dali_pipelines.loader import EvalLoader
from dali_pipelines.pillow_images import UnreadableImage, inspect
from dali_pipelines.sources.samples import Samples
from dali_pipelines.transforms import Preprocess
from dali_pipelines.validation import BadSamplesError, validate

NOT_IMAGES = {".csv", ".json", ".md", ".txt"}
ROUNDING = 2
"""Largest difference in steps that comes from rounding alone, which both do several times on the way."""
_ORIENTATION = 0x0112
_ORIENTATION_IS = {"ignore": "ignored", "apply": "applied"}
_HEADER = (
    "file",
    "what it is",
    "reference: mean level",
    "loader: mean level",
    "decoded by",
    "largest difference",
    "mean difference",
    "decoder's largest",
    "open_clip's own order: largest",
    "why, and what both do",
)
_NOTES = {
    "P": "palette looked up before the resize",
    "RGBA": "alpha dropped: hidden colours show",
    "LA": "alpha dropped: hidden greys show",
    "CMYK": "converted without a colour profile",
    "I": "more than 8 bits: cut off at 255 by Pillow",
    "I;16": "more than 8 bits: cut off at 255 by Pillow",
}

Outcome = torch.Tensor | str
"""An image, (3, H, W) and normalised, or why there is none."""


@dataclass(frozen=True)
class Row:
    """One file on its ways."""

    name: str
    facts: str
    notes: str
    road: str
    reference: Outcome
    loader: Outcome
    decoder: Outcome
    unconverted: Outcome

    def cells(self, preprocess: Preprocess) -> list[str]:
        """The line of the table."""
        largest, mean = _difference(self.loader, self.reference, preprocess)
        return [
            self.name,
            self.facts,
            _level(self.reference, preprocess),
            _level(self.loader, preprocess),
            self.road,
            _number(largest, 0),
            _number(mean, 3),
            _number(_difference(self.decoder, self.reference, preprocess)[0], 0),
            _number(_difference(self.unconverted, self.reference, preprocess)[0], 0),
            self._why(largest),
        ]

    def _why(self, largest: float | None) -> str:
        if largest is None:
            both = isinstance(self.reference, str) and isinstance(self.loader, str)
            return "refused by both" if both else "NOT EQUAL: only one refuses it"
        if round(largest, 2) > ROUNDING:
            reason = "NOT EXPLAINED by rounding"
        else:
            reason = "rounding of the resize" if round(largest, 2) else "equal"
        return f"{reason}; {self.notes}" if self.notes else reason


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write the table here too")
    parser.add_argument("--image-size", type=int, default=224)
    options = parser.parse_args(arguments)
    table = markdown(options.folder, image_size=options.image_size)
    print(table)
    if options.output is not None:
        options.output.write_text(f"{table}\n", encoding="utf-8")


def markdown(folder: Path, *, image_size: int) -> str:
    """The table over all images of a folder."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in NOT_IMAGES)
    if not files:
        sys.exit(f"there are no files in {str(folder)!r}")
    preprocess = Preprocess(image_size)
    lines = [row.cells(preprocess) for row in compare(files, preprocess)]
    turned = [file for file in files if _orientation(file) != 1]
    lines += [
        row.cells(preprocess) for row in compare(turned, Preprocess(image_size, exif="apply"), note=" (exif: apply)")
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [_HEADER, ["---"] * len(_HEADER), *lines])


def compare(files: Sequence[Path], preprocess: Preprocess, *, note: str = "") -> Iterator[Row]:
    """Each file through the reference, the loader and the decoder."""
    transform = open_clip.image_transform(preprocess.image_size, is_train=False)
    loaded, decoder = _loaded(files, preprocess), ImageDecoder(preprocess)
    for file in files:
        yield Row(
            file.name + note,
            _facts(file),
            _notes(file, preprocess),
            _road(file, preprocess),
            _reference(file, transform, preprocess, convert=True),
            loaded[file.name],
            _decoded(file, decoder),
            _reference(file, transform, preprocess, convert=False),
        )
    decoder.close()


def _reference(file: Path, transform, preprocess: Preprocess, *, convert: bool) -> Outcome:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            upright = ImageOps.exif_transpose(image) if preprocess.exif == "apply" else image
            return transform(upright.convert("RGB") if convert else upright)
    except Exception as error:  # Pillow's decoders raise almost any type on damaged data
        return str(error).replace(str(file), file.name)


def _loaded(files: Sequence[Path], preprocess: Preprocess) -> dict[str, Outcome]:
    """What a job's loader makes of the files, by name."""
    if not files:
        return {}
    samples = Samples(files[0].parent, [file.name for file in files])
    try:
        manifest, report = validate(samples, on_bad_sample="skip", exif=preprocess.exif)
    except BadSamplesError as error:
        return dict(error.report.bad)
    outcomes: dict[str, Outcome] = dict(report.bad)
    for batch in EvalLoader(manifest, preprocess=preprocess, batch_size=8):
        real = batch.rows >= 0
        names = [manifest.paths[row] for row in batch.rows[real]]
        outcomes |= dict(zip(names, batch.images[torch.from_numpy(real)], strict=True))
    return outcomes


def _decoded(file: Path, decoder: ImageDecoder) -> Outcome:
    try:
        return decoder.decode([file.read_bytes()])[0]
    except DecodeError as error:
        return error.reason


def _facts(file: Path) -> str:
    try:
        with Image.open(file) as image:
            frames = getattr(image, "n_frames", 1)
            parts = [image.format or "", image.mode, f"{image.width}x{image.height}"]
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Image.UnidentifiedImageError:
        return f"{file.stat().st_size} bytes"
    parts += [f"{frames} frames"] if frames > 1 else []
    return " ".join([*parts, *([f"orientation {orientation}"] if orientation != 1 else [])])


def _notes(file: Path, preprocess: Preprocess) -> str:
    try:
        with Image.open(file) as image:
            notes = [_NOTES[image.mode]] if image.mode in _NOTES else []
            frames = getattr(image, "n_frames", 1)
    except Image.UnidentifiedImageError:
        return ""
    notes += ["first frame only"] if frames > 1 else []
    notes += [f"orientation {_ORIENTATION_IS[preprocess.exif]}"] if _orientation(file) != 1 else []
    return "; ".join(notes)


def _orientation(file: Path) -> int:
    try:
        with Image.open(file) as image:
            return image.getexif().get(_ORIENTATION, 1)
    except Image.UnidentifiedImageError:
        return 1


def _road(file: Path, preprocess: Preprocess) -> str:
    try:
        return {"dali": "DALI", "pillow": "Pillow"}[inspect(file, exif=preprocess.exif, fully=True).decoder]
    except UnreadableImage:
        return "-"


def _difference(ours: Outcome, theirs: Outcome, preprocess: Preprocess) -> tuple[float | None, float | None]:
    if isinstance(ours, str) or isinstance(theirs, str):
        return None, None
    steps = ((ours - theirs) * torch.tensor(preprocess.std).view(3, 1, 1) * 255).abs()
    return steps.max().item(), steps.mean().item()


def _level(image: Outcome, preprocess: Preprocess) -> str:
    if isinstance(image, str):
        return f"error: {image}"
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.std, preprocess.mean))
    return f"{((image * std + mean) * 255).mean().item():.2f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
