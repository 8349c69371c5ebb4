"""The table of odd images: on files made here, and on Pillow's own where they lie."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def odd_images() -> ModuleType:
    spec = importlib.util.spec_from_file_location("odd_images", ROOT / "benchmarks" / "odd_images.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["odd_images"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def cells(table: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines[2:]}


def test_files_made_here(tmp_path, odd_images, capsys):
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((150, 100))
    sideways = Image.Exif()
    sideways[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=sideways)
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    photo.convert("P").save(tmp_path / "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    Image.fromarray(np.array(photo.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cmyk.jpg").read_bytes()[:3000])
    (tmp_path / "expected.csv").write_text("not an image")
    odd_images.main([str(tmp_path), "--output", str(tmp_path / "table.md"), "--image-size", "64"])
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
    rows = cells((tmp_path / "table.md").read_text())
    assert list(rows) == ["cmyk.jpg", "cut.jpg", "deep.png", "moving.gif", "turned.jpg", "turned.jpg (exif: apply)"]
    assert rows["cut.jpg"][-1] == "refused by both"
    assert rows["turned.jpg"][-1].endswith("orientation ignored")
    assert rows["turned.jpg (exif: apply)"][-1].endswith("orientation applied")
    assert rows["moving.gif"][3] == "Pillow"
    assert rows["moving.gif"][-1].endswith("first frame only")
    assert all(int(row[4]) <= 2 for name, row in rows.items() if name != "cut.jpg")
    assert rows["deep.png"][1] == rows["deep.png"][2] == "255.00"  # all cut off at white


def test_pillows_own_odd_images(real_data, odd_images):
    rows = cells(odd_images.markdown(real_data / "odd_images", image_size=224))
    assert len(rows) == 22 + 4  # four have an orientation
    refused = [name for name, row in rows.items() if row[-1].startswith("refused by both")]
    assert refused == ["broken.png", "truncated_jpeg.jpg"]
    for name, row in rows.items():
        if name not in refused:
            assert int(row[4]) <= odd_images.ROUNDING, name
            assert float(row[5]) < 0.02, name
            assert int(row[6]) <= odd_images.ROUNDING, name


def test_a_folder_without_images_is_refused(tmp_path, odd_images):
    with pytest.raises(SystemExit, match="no files"):
        odd_images.main([str(tmp_path)])
