"""Folders between two exports: each is whole by itself."""

import shutil

from trainer.interpolate.folders import FolderLine


def test_a_point_has_what_lies_beside_the_weights_folders_included(clips, tmp_path):
    start, tuned = clips
    copied = tmp_path / "tuned"
    shutil.copytree(tuned, copied)
    (copied / "text_tower" / "more").mkdir(parents=True)
    (copied / "text_tower" / "config.json").write_text("{}")
    (copied / "text_tower" / "more" / "vocab.txt").write_text("cat")
    line = FolderLine.between(start, copied, name="start")
    line.write(tmp_path / "point", alpha=0.5)
    expected = {str(path.relative_to(copied)) for path in copied.rglob("*")}
    shutil.rmtree(copied)
    assert {str(path.relative_to(tmp_path / "point")) for path in (tmp_path / "point").rglob("*")} == expected
    assert (tmp_path / "point" / "text_tower" / "more" / "vocab.txt").read_text() == "cat"
