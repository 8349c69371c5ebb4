"""Members of tar files, beside what `tarfile` finds, and the words for damaged ones."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from pathlib import Path

import pytest

from dali_pipelines.sources.tar_members import DamagedTar, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def add(tar: tarfile.TarFile, name: str, size: int, **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(bytes(size)))


@pytest.mark.parametrize("kind", FORMATS)
def test_plain_files_of_all_formats_are_found_as_tarfile_finds_them(tmp_path, kind):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        add(tar, "a.jpg", 700, mtime=1.5 if kind == "pax" else 0)
        add(tar, "empty.txt", 0)
        add(tar, "x" * 90 + "/" + "y" * 95 + ".png", 512)
        add(tar, "é/ü.jpg", 1)
        if kind != "ustar":
            add(tar, "z" * 300 + ".jpg", 513)
        add(tar, "link", 0, type=tarfile.SYMTYPE, linkname="w" * (200 if kind == "gnu" else 9))
        add(tar, "folder", 0, type=tarfile.DIRTYPE)
        add(tar, "last", 5)
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar if member.isfile()]
    assert [tuple(member) for member in members(path)] == expected
    assert len(expected) >= 5


def test_an_archive_that_is_cut_between_two_members_is_damaged(tmp_path):
    path = archive(tmp_path)
    path.write_bytes(path.read_bytes()[: 2 * 1024])
    with pytest.raises(DamagedTar, match="without the empty blocks.*last good member is '1.jpg'"):
        list(members(path))


def test_an_empty_block_before_the_end_is_damage(tmp_path):
    path = archive(tmp_path)
    content = bytearray(path.read_bytes())
    content[1024:1536] = bytes(512)
    path.write_bytes(content)
    with pytest.raises(DamagedTar, match="empty block at byte 1024.*last good member is '0.jpg'"):
        list(members(path))


def archive(folder: Path) -> Path:
    path = folder / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            add(tar, f"{number}.jpg", 300)
    return path


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:2700], r"truncated: 2700 bytes, and a member goes up to byte 2860.*last good.*'1.jpg'"),
        (lambda data: data[: 2 * 1024 + 100], r"truncated in the middle of a header, at byte 2048.*'1.jpg'"),
        (lambda data: data[:1024] + b"rubbish" * 200, r"no tar header at byte 1024.*'0.jpg'"),
        (gzip.compress, r"compressed.*'none'"),
        (lambda data: b"PK" + data, r"no tar header at byte 0"),
    ],
)
def test_damage_names_the_place_and_the_last_good_member(tmp_path, damage, words):
    path = archive(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedTar, match="(?s)" + words):
        list(members(path))


def test_a_length_beyond_the_file_is_refused_before_anything_is_read(tmp_path):
    header = tarfile.TarInfo("a.jpg")
    header.size = 1 << 60
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DamagedTar, match=re.escape(str((1 << 60) + 512))):
        list(members(path))
