"""The demo's figure: held-out images with what the model says they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from service.cli.output import percent


def draw_predictions(images: Sequence[Path], predictions: Sequence[dict[str, Any]], *, path: Path) -> None:
    """Save a PNG with one panel an image: its best answer and probability, green where it is right.

    Args:
        images: files in class folders, whose names are the truth.
        predictions: the best answer for each image, `{label, probability}`.
    """
    columns = (len(images) + 1) // 2
    figure = Figure(figsize=(2 * columns, 5), layout="constrained")
    for axes in figure.subplots(2, columns).flat:
        axes.set_axis_off()
    for axes, image, answer in zip(figure.axes, images, predictions, strict=False):
        right = answer["label"] == image.parent.name
        with Image.open(image) as opened:
            axes.imshow(opened.convert("RGB"), interpolation="nearest")
        title = f"{answer['label']}  {percent(answer['probability'])}"
        axes.set_title(title if right else f"{title}\n(is {image.parent.name})", color="green" if right else "red")
    figure.savefig(path, dpi=120)
