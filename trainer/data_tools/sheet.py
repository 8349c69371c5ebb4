"""A sheet of labelled pictures, drawn with Pillow: sections of tiles that flow over lines, and whole pictures."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

WIDTH, MARGIN, GAP = 1400, 28, 14
INK, MUTED, PAPER, RED, ORANGE, BLUE = "#1f2933", "#6b7785", "#ffffff", "#c0392b", "#d9792b", "#2f6db5"
_EMPTY = "#eceff2"
_LINE = 15


@dataclass(frozen=True)
class Tile:
    """A picture with a few lines of text below it."""

    picture: Image.Image | None
    """None draws an empty field with `inside` on it."""
    lines: Sequence[tuple[str, str]]
    """Text and colour; each is folded to the tile's width."""
    frame: str | None = None
    """Colour of a frame around it."""
    inside: str = ""
    """Text on an empty field."""


class Sheet:
    """Sections one below another; `image` puts them together."""

    def __init__(self) -> None:
        self._strips: list[Image.Image] = []

    def heading(self, text: str, *, size: int = 20, color: str = INK) -> None:
        """A line of large type, and another one's height of space above it."""
        lines = _folded(text, size, WIDTH - 2 * MARGIN)
        strip = _blank(round(1.3 * size * len(lines)) + size)
        for number, line in enumerate(lines):
            ImageDraw.Draw(strip).text((MARGIN, 0.7 * size + 1.3 * size * number), line, fill=color, font=_font(size))
        self._strips.append(strip)

    def text(self, text: str, *, color: str = MUTED) -> None:
        """A paragraph."""
        lines = _folded(text, 13, WIDTH - 2 * MARGIN)
        strip = _blank(18 * len(lines) + 6)
        for number, line in enumerate(lines):
            ImageDraw.Draw(strip).text((MARGIN, 18 * number), line, fill=color, font=_font(13))
        self._strips.append(strip)

    def tiles(self, groups: Sequence[Sequence[Tile]], *, side: int) -> None:
        """Tiles from left to right; those of a group stand close together, and on one line where they fit."""
        line: list[Sequence[Tile]] = []
        used = 0
        for group in groups:
            width = len(group) * (side + 4) + GAP
            if line and used + width > WIDTH - 2 * MARGIN + GAP:
                self._strips.append(_line_of_tiles(line, side))
                line, used = [], 0
            line.append(group)
            used += width
        if line:
            self._strips.append(_line_of_tiles(line, side))

    def picture(self, picture: Image.Image) -> None:
        """A whole picture, made smaller if it is too wide."""
        fitted = ImageOps.contain(picture.convert("RGB"), (WIDTH - 2 * MARGIN, 10 * WIDTH))
        strip = _blank(fitted.height + GAP)
        strip.paste(fitted, (MARGIN, 0))
        self._strips.append(strip)

    def image(self) -> Image.Image:
        """All of it."""
        whole = _blank(sum(strip.height for strip in self._strips) + 2 * MARGIN)
        top = MARGIN // 2
        for strip in self._strips:
            whole.paste(strip, (0, top))
            top += strip.height
        return whole


def _line_of_tiles(groups: Sequence[Sequence[Tile]], side: int) -> Image.Image:
    folded = [[_tile_lines(tile, side) for tile in group] for group in groups]
    strip = _blank(side + _LINE * max(len(lines) for group in folded for lines in group) + GAP)
    left = MARGIN
    for group, texts in zip(groups, folded, strict=True):
        for tile, lines in zip(group, texts, strict=True):
            _draw(strip, tile, lines, left, side)
            left += side + 4
        left += GAP
    return strip


def _draw(strip: Image.Image, tile: Tile, lines: Sequence[tuple[str, str]], left: int, side: int) -> None:
    draw = ImageDraw.Draw(strip)
    if tile.picture is None:
        draw.rectangle((left, 0, left + side - 1, side - 1), fill=_EMPTY)
        for number, line in enumerate(_folded(tile.inside, 11, side - 16)):
            draw.text((left + 8, 8 + 14 * number), line, fill=MUTED, font=_font(11))
    else:
        fitted = ImageOps.contain(tile.picture, (side, side))
        draw.rectangle((left, 0, left + side - 1, side - 1), fill=_EMPTY)
        strip.paste(fitted, (left + (side - fitted.width) // 2, (side - fitted.height) // 2))
    if tile.frame:
        draw.rectangle((left, 0, left + side - 1, side - 1), outline=tile.frame, width=3)
    for number, (line, color) in enumerate(lines):
        draw.text((left, side + 3 + _LINE * number), line, fill=color, font=_font(11))


def _tile_lines(tile: Tile, side: int) -> list[tuple[str, str]]:
    return [(line, color) for text, color in tile.lines for line in _folded(text, 11, side)]


def _folded(text: str, size: int, width: int) -> list[str]:
    """Lines that fit a width; words longer than that are broken."""
    font = _font(size)
    average = max(font.getlength(text) / max(len(text), 1), 1.0)
    columns = max(int(width / average), 4)
    while columns > 4:
        lines = textwrap.wrap(text, columns, break_on_hyphens=False) or [""]
        if all(font.getlength(line) <= width for line in lines):
            return lines
        columns -= 1
    return textwrap.wrap(text, columns) or [""]


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def _blank(height: int) -> Image.Image:
    return Image.new("RGB", (WIDTH, height), PAPER)
