"""Pictures with what a model says about them: the image above, its likeliest classes as bars below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

WIDTH = 480  # pixels
_LINE, _MARGIN, _FONT_SIZE = 26, 8, 16
_BACKGROUND, _TEXT, _BAR, _BAR_REST = "#ffffff", "#1a1a1a", "#7fb0d9", "#e6ecf1"


def annotated(image: Image.Image, predictions: Sequence[tuple[str, float]]) -> Image.Image:
    """`image` at a width of 480 pixels above a line for each (class, probability), likeliest first."""
    picture = image.convert("RGB")
    height = max(1, round(picture.height * WIDTH / picture.width))
    sheet = Image.new("RGB", (WIDTH, height + len(predictions) * _LINE + 2 * _MARGIN), _BACKGROUND)
    sheet.paste(picture.resize((WIDTH, height), Image.Resampling.BICUBIC))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", _FONT_SIZE)
    for line, (name, probability) in enumerate(predictions):
        _draw_line(draw, name, probability, top=height + _MARGIN + line * _LINE, font=font)
    return sheet


def free_name(folder: Path, image: Path, taken: set[Path]) -> Path:
    """`folder/STEM.png`, numbered if another image of the same stem has it; `taken` remembers."""
    path, number = folder / f"{image.stem}.png", 2
    while path in taken:
        path, number = folder / f"{image.stem}-{number}.png", number + 1
    taken.add(path)
    return path


def _draw_line(
    draw: ImageDraw.ImageDraw, name: str, probability: float, *, top: int, font: ImageFont.FreeTypeFont
) -> None:
    left, right, bottom = _MARGIN, WIDTH - _MARGIN, top + _LINE - 4
    draw.rectangle((left, top, right, bottom), fill=_BAR_REST)
    if probability * (right - left) >= 1:
        draw.rectangle((left, top, left + probability * (right - left), bottom), fill=_BAR)
    number = f"{100 * probability:.1f} %"
    room = right - left - draw.textlength(number, font) - 3 * _MARGIN
    draw.text((left + _MARGIN, top + 1), _shortened(draw, name, room, font), _TEXT, font)
    draw.text((right - _MARGIN, top + 1), number, _TEXT, font, anchor="ra")


def _shortened(draw: ImageDraw.ImageDraw, text: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(f"{text}…", font) > room:
        text = text[:-1]
    return f"{text}…"
