"""docs/source-systems.md against the recipes, the spec and arithmetic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from trainer.prompts import published_sets
from trainer.recipes import RECIPES
from trainer.spec import Deviation, JobSpec

PAGE = (Path(__file__).parents[1] / "docs" / "source-systems.md").read_text(encoding="utf-8")
SECTIONS = "model|objective|data|batch|optim|schedule|parallel|checkpoint|evaluation|export"


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table whose head begins with `heading`, row by row."""
    lines = PAGE.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def sections_in(annotation: Any) -> list[Any]:
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def is_field(path: str) -> bool:
    sections: list[Any] = [JobSpec]
    for part in path.split("."):
        sections = [section for section in sections if part in section.model_fields]
        if not sections:
            return False
        sections = [inner for section in sections for inner in sections_in(section.model_fields[part].annotation)]
    return True


def block(width: int) -> int:
    """Parameters of a transformer block: attention, MLP of four times the width, two norms, all with biases."""
    return 12 * width**2 + 13 * width


def image_tower(*, patch: int, width: int, layers: int, pixels: int, classes: int) -> int:
    """Parameters of CLIP's ViT without its projection, and with a linear head if there are classes."""
    tokens = (pixels // patch) ** 2 + 1
    embeddings = 3 * patch**2 * width + width + tokens * width
    head = classes * (width + 1) if classes else 0
    return embeddings + 2 * width + layers * block(width) + 2 * width + head


def macs_without_class_token(*, patch: int, width: int, layers: int, pixels: int) -> int:
    """Multiply-adds as FT-CLIP counts them."""
    tokens = (pixels // patch) ** 2
    per_layer = 12 * tokens * width**2 + 2 * tokens**2 * width
    return tokens * 3 * patch**2 * width + layers * per_layer + 1000 * width


def printed(first_cell: str) -> list[str]:
    return next(row for row in table_after("Source | Printed | Right") if row[0] == first_cell)


def test_every_recipe_is_in_the_table_with_its_source() -> None:
    rows = {row[0].strip("`"): row for row in table_after("Recipe")}

    assert set(rows) == set(RECIPES)


@pytest.mark.parametrize("row", table_after("Recipe"), ids=lambda row: row[0].strip("`"))
def test_results_and_hardware_are_those_of_the_recipe(row: list[str]) -> None:
    recipe = RECIPES[row[0].strip("`")]
    figures = re.findall(r"\d+\.\d+", row[2])

    assert all(figure in recipe.published for figure in figures)
    if row[3] not in ("-", "not stated"):
        assert all(part in recipe.published for part in row[3].split(", "))
    assert (row[2] == "-") == recipe.published.startswith("no figure of its own")


def test_fields_named_on_the_page_are_fields_of_the_spec() -> None:
    named = set(re.findall(rf"`((?:{SECTIONS})\.[a-z_0-9.]+?)(?::[^`]*)?`", PAGE))

    assert len(named) > 60
    assert {path for path in named if not is_field(path)} == set()


def test_every_deviation_is_on_the_page_and_none_that_is_not_there() -> None:
    assert set(re.findall(r"`compat: \[([a-z-]+)\]`", PAGE)) == set(get_args(Deviation))


def test_template_sets_have_as_many_templates_as_the_page_says() -> None:
    counted = re.findall(r"`(flyp-[a-z0-9-]+)` (\d+)", PAGE.replace("\n", " "))

    assert len(counted) == 13
    assert {name: len(published_sets()[name]) for name, _ in counted} == {name: int(n) for name, n in counted}


def test_all_template_sets_of_openai_are_named() -> None:
    listed = PAGE.split("Template sets of its 27 data sets")[1].split("\n\n")[0]
    names = set(re.findall(r"`([a-z0-9-]+)`", listed)) - {"imagenet-simple"}

    assert len(names) == 27
    assert names <= set(published_sets())


def test_office_31_means_are_recomputed() -> None:
    rows = table_after("Office-31")

    assert len(rows) == 9
    for _, *cells in rows:
        *columns, shown, mean = map(float, cells)
        assert mean == pytest.approx(sum(columns) / 3, abs=5.1e-5)
        assert abs(shown - mean) > 5e-4
        assert shown == pytest.approx((columns[0] + columns[1]) / 2, abs=1.01e-4)


@pytest.mark.parametrize(
    ("row", "patch", "pixels"),
    [
        ("mmpretrain, p32 at 384 pixels", 32, 384),
        ("mmpretrain, p32 at 448 pixels", 32, 448),
        ("mmpretrain, p16 at 384 pixels", 16, 384),
    ],
)
def test_mmpretrains_larger_inputs_are_shown_with_the_parameters_of_224(row: str, patch: int, pixels: int) -> None:
    _, shown, right, _ = printed(row)
    tower = {"patch": patch, "width": 768, "layers": 12, "classes": 1000}

    assert f"{image_tower(**tower, pixels=pixels):,}" == right
    assert f"{image_tower(**tower, pixels=224) / 1e6:.2f} M" == shown


def test_mmpretrains_p14_is_p16() -> None:
    _, shown, right, _ = printed("mmpretrain, `vit-large-p14`")
    tower = {"width": 1024, "layers": 24, "pixels": 224, "classes": 0}

    assert f"{image_tower(**tower, patch=16) / 1e6:.2f} M" == shown
    assert f"{image_tower(**tower, patch=14):,}" == right


@pytest.mark.parametrize(
    ("row", "patch", "width", "layers", "pixels"),
    [
        ("ViT-B/16", 16, 768, 12, 224),
        ("ViT-B/16 at 384", 16, 768, 12, 384),
        ("ViT-L/16 at 384", 16, 1024, 24, 384),
        ("ViT-L/14", 14, 1024, 24, 224),
        ("ViT-L/14 at 336", 14, 1024, 24, 336),
    ],
)
def test_ft_clips_operations_leave_out_the_class_token(
    row: str, patch: int, width: int, layers: int, pixels: int
) -> None:
    _, shown, right, _ = printed(f'FT-CLIP, "FLOPS" of {row}')
    counted = macs_without_class_token(patch=patch, width=width, layers=layers, pixels=pixels)

    assert f"{counted:,}" == right
    assert f"{counted / 1e9:.1f} G" == shown


def test_ft_clips_batch_at_336_is_what_its_devices_make() -> None:
    row = printed("FT-CLIP at 336 pixels")
    devices, micro_size, steps = map(int, re.findall(r"\d+", row[3]))

    assert devices * micro_size * steps == int(row[2]) == RECIPES["ft-clip-vit-l14-336"].build().batch.global_size


def test_itras_vit_l_14_is_shown_with_the_figures_of_336() -> None:
    _, shown, right, _ = printed("ITRA's docs, ViT-L-14")
    # The projection of the image tower, and the text tower with its own, which both sizes share.
    projection = 1024 * 768
    text = 49408 * 768 + 77 * 768 + 12 * block(768) + 2 * 768 + 768 * 768 + 1
    images = {
        pixels: image_tower(patch=14, width=1024, layers=24, pixels=pixels, classes=0) + projection
        for pixels in (224, 336)
    }

    assert [f"{(images[336] + text) / 1e6:.2f} M", f"image {images[336] / 1e6:.2f} M"] == shown.split(", ")
    assert [f"{(images[224] + text) / 1e6:.2f} M", f"image {images[224] / 1e6:.2f} M"] == right.split(", ")


def test_rsicds_rate_is_the_commands() -> None:
    row = printed("ITRA's RSICD run")
    spec = RECIPES["itra-rsicd-vit-l14-336"].build()

    assert float(row[2]) == spec.optim.lr * spec.batch.global_size / spec.optim.lr_batch == 1e-6
