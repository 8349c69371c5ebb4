"""What lies below a URL is listed as it would be below a folder."""

from __future__ import annotations

import sys

import fsspec
import pytest

from dali_pipelines.storage import Location, StorageError, list_files, read_bytes


def test_files_below_a_web_folder(web):
    for name in ("b/2.jpg", "b/deep/1.jpg", "red fox/50%.jpg", "a.txt", ".hidden", "b/.git/config"):
        file = web.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    (web.folder / "empty").mkdir()
    found = list_files(web.url)
    assert found == list_files(web.url + "/")
    assert found == ["a.txt", "b/2.jpg", "b/deep/1.jpg", "red fox/50%25.jpg"]


def test_a_listed_file_can_be_read_by_its_name(web, own_cache):
    (web.folder / "red fox").mkdir()
    (web.folder / "red fox" / "50% #1.jpg").write_bytes(b"fox")
    (name,) = list_files(web.url)
    assert read_bytes(Location(f"{web.url}/{name}"), own_cache) == b"fox"


@pytest.mark.usefixtures("impatient")
def test_nothing_there_is_said(web):
    (web.folder / "empty").mkdir()
    with pytest.raises(StorageError, match="holds no files; a web server must answer with an index page"):
        list_files(f"{web.url}/empty")
    with pytest.raises(StorageError, match="there is no such object|holds no files"):
        list_files(f"{web.url}/missing")


def test_other_protocols_of_fsspec_go_the_same_way(own_cache):
    system = fsspec.filesystem("memory")
    system.pipe({"/bucket/dog/1.jpg": b"dog", "/bucket/cat/2.jpg": b"cats", "/bucket/.x": b""})
    try:
        assert list_files("memory://bucket") == ["cat/2.jpg", "dog/1.jpg"]
        assert read_bytes(Location("memory://bucket/cat/2.jpg", 1, 2), own_cache) == b"at"
        assert own_cache.file("memory://bucket/dog/1.jpg").read_bytes() == b"dog"
    finally:
        system.rm("/bucket", recursive=True)


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b/a", "s3fs", "s3"), ("gs://b/a", "gcsfs", "gcs")])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, own_cache, url, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StorageError, match=rf"pip install 'attune-clip\[{extra}\]'"):
        own_cache.file(url)


def test_an_unknown_protocol_is_refused(own_cache):
    with pytest.raises(StorageError, match="nfs9"):
        own_cache.file("nfs9://b/a")
