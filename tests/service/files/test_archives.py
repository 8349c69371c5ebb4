"""Archives that strangers made."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from service.files.archives import ArchiveError, ArchiveLimits, Unpacked, unpack
from service.files.unpacking import unpack_apart

LIMITS = ArchiveLimits(max_files=10, max_bytes=100 * 2**20, max_ratio=10.0)


def make_zip(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".tgz"])
def test_files_and_folders_are_unpacked_and_litter_is_not(tmp_path: Path, ending: str) -> None:
    names = ("cat/1.jpg", "./dog/2.jpg", "__MACOSX/cat/1.jpg", "cat/._1.jpg", "cat/.DS_Store")
    archive = tmp_path / f"a{ending}"
    if ending == ".zip":
        make_zip(archive, *((name, b"x") for name in names))
    else:
        make_tar(archive, *((member(name), b"x") for name in names), mode="w" if ending == ".tar" else "w:gz")
    assert unpack(archive, tmp_path / "out", limits=LIMITS).num_files == len(names)
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["cat/1.jpg", "dog/2.jpg"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\..\\x", "C:\\x"])
@pytest.mark.parametrize("ending", [".zip", ".tar"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, ending: str) -> None:
    archive = tmp_path / f"a{ending}"
    if ending == ".zip":
        make_zip(archive, (name, b"x"))
    else:
        make_tar(archive, (member(name), b"x"), mode="w")
    with pytest.raises(ArchiveError, match="leads out"):
        unpack(archive, tmp_path / "out", limits=LIMITS)
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", (member("x", kind, "/etc"), b""))
    with pytest.raises(ArchiveError, match="neither a file nor a folder"):
        unpack(archive, tmp_path / "out", limits=LIMITS)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("x")
    link.external_attr = 0o120777 << 16
    with pytest.raises(ArchiveError, match="neither a file nor a folder"):
        unpack(make_zip(tmp_path / "a.zip", (link, b"/etc")), tmp_path / "out", limits=LIMITS)


@pytest.mark.parametrize("name", ["big.jpg", "__MACOSX/big.jpg"])
@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_a_bomb_is_stopped_at_the_ratio(tmp_path: Path, ending: str, name: str) -> None:
    content = bytes(32 * 2**20)
    archive = tmp_path / f"a{ending}"
    if ending == ".zip":
        make_zip(archive, (name, content))
    else:
        make_tar(archive, (member(name), content))
    assert archive.stat().st_size < 2**20
    with pytest.raises(ArchiveError, match="more than allowed"):
        unpack(archive, tmp_path / "out", limits=LIMITS)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()) <= 16 * 2**20


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", *((f"{number}.jpg", b"") for number in range(11)))
    with pytest.raises(ArchiveError, match="more than 10 files"):
        unpack(archive, tmp_path / "out", limits=LIMITS)


@pytest.mark.parametrize(
    "name", ["a/" * 40 + "x", "a" * 200 + "/" + "b" * 250 + "/" + "c" * 250 + "/" + "d" * 250 + "/" + "e" * 250]
)
def test_names_that_are_too_deep_or_long_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="32 folders deep and 1024 bytes long"):
        unpack(make_zip(tmp_path / "a.zip", (name, b"x")), tmp_path / "out", limits=LIMITS)


def test_another_process_unpacks_and_says_what_is_wrong(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", ("x.jpg", b"123"), ("y/z.jpg", b"4567"))
    assert unpack_apart(archive, tmp_path / "out", limits=LIMITS) == Unpacked(2, 7)
    assert (tmp_path / "out" / "y" / "z.jpg").read_bytes() == b"4567"
    with pytest.raises(ArchiveError, match="leads out"):
        unpack_apart(make_zip(tmp_path / "b.zip", ("../x", b"")), tmp_path / "other", limits=LIMITS)


def test_an_archive_that_takes_much_memory_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        header = tarfile.TarInfo("pax")
        header.type, header.size = tarfile.XHDTYPE, 200 << 20
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(200):
            file.write(bytes(1 << 20))
    with pytest.raises(ArchiveError, match="with the memory"):
        unpack_apart(archive, tmp_path / "out", limits=LIMITS, memory_bytes=160 << 20)


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", (member("x"), b"1"), (member("x/y"), b"2"), mode="w")
    with pytest.raises(ArchiveError, match="twice"):
        unpack(archive, tmp_path / "out", limits=LIMITS)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x1f\x8b\x08broken"])
def test_what_is_no_archive_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArchiveError, match=r"broken|empty"):
        unpack(tmp_path / name, tmp_path / "out", limits=LIMITS)


def test_a_torn_archive_is_refused(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "a.tar.gz", (member("x.jpg"), bytes(range(256)) * 1000))
    whole.write_bytes(whole.read_bytes()[:300])
    with pytest.raises(ArchiveError, match="broken"):
        unpack(whole, tmp_path / "out", limits=LIMITS)
