"""Files, folders and patterns, here and behind URLs."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from dali_pipelines.patterns import CONFINED_TO
from dali_pipelines.sources.matching_files import MatchingFiles, matching_files
from dali_pipelines.sources.samples import DataError

NAMES = ["b-0.tar", "b-1.tar", "b-10.tar", "a.tar", "odd{1}.tar", "more/c.tar", "notes.txt", ".hidden.tar"]


@pytest.fixture
def root(tmp_path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path.resolve()


@pytest.fixture
def url(tmp_path) -> str:
    """The same behind a URL, in a folder that no other test uses."""
    folder = f"memory://{tmp_path.name}"
    for name in NAMES:
        fsspec.filesystem("memory").pipe(f"{folder}/{name}", b"x")
    return folder


def found(path: str) -> MatchingFiles:
    return matching_files(path, (".tar",), what="shards")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("", ["a.tar", "b-0.tar", "b-1.tar", "b-10.tar", "odd{1}.tar"]),
        ("b-1.tar", ["b-1.tar"]),
        ("b-*.tar", ["b-0.tar", "b-1.tar", "b-10.tar"]),
        ("b-{1,0}.tar", ["b-1.tar", "b-0.tar"]),
        ("{a,b-{0..1}}.tar", ["a.tar", "b-0.tar", "b-1.tar"]),
        ("{a,more/c}.tar", ["a.tar", "more/c.tar"]),
        ("more/*.tar", ["c.tar"]),
    ],
)
def test_paths_and_urls_name_files_alike(root, url, path, names):
    local, remote = found(f"{root}/{path}"), found(f"{url}/{path}")
    assert local.names == remote.names == names
    below = "/more" if path.startswith("more") else ""
    assert (local.root, remote.root) == (f"{root}{below}", f"{url}{below}")
    assert local.whole_folder == remote.whole_folder == (path == "")
    assert all(Path(file).is_file() for file in local.files)


def test_a_file_may_be_called_like_a_pattern(root):
    assert found(f"{root}/odd{{1}}.tar").names == ["odd{1}.tar"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("b-{0..2}.tar", r"shards '.*b-2.tar' does not exist"),
        ("x-{0..2}.tar", r"'.*x-0.tar' and 2 more of 3 do not exist"),
        ("x-*.tar", "no shards matches"),
        ("b-{0,0}.tar", "more than once"),
        ("b-{0..99999999999}.tar", "stands for more than 1000000 files"),
        ("b-{0..99999999999999999999999}.tar", "stands for more than 1000000 files"),
        ("b-{0..9999}{0..9999}.tar", "stands for more than 1000000 files"),
        ("{a,b", "do not pair up"),
        ("nothing.tar", "does not exist"),
    ],
)
def test_what_is_not_there_is_refused(root, path, words):
    with pytest.raises(DataError, match=words, check=lambda error: error.field == "path"):
        found(f"{root}/{path}")


def test_a_folder_without_shards_says_where_there_are_some(root):
    (root / "more" / "deeper").mkdir()
    (root / "more" / "c.tar").rename(root / "more" / "deeper" / "c.tar")
    with pytest.raises(DataError, match=r"holds no shards \(.tar\)"):
        found(str(root / "more"))
    with pytest.raises(DataError, match="folder .* holds no shards"):
        matching_files(root, (".parquet",), what="shards")


def test_a_remote_folder_without_shards_says_where_there_are_some(url):
    fsspec.filesystem("memory").pipe(f"{url}/deep/er/c.tar", b"x")
    with pytest.raises(DataError, match="there are some in folders within, such as 'er/c.tar'"):
        found(f"{url}/deep")


def test_commands_are_not_run():
    with pytest.raises(DataError, match="commands are not run"):
        found("pipe:curl -s https://example.com/a.tar")


@pytest.mark.parametrize("pattern", ["{x,..}/theirs/*.tar", "{x,../theirs/*.tar}", "{.,x}{.,y}/theirs/a.tar"])
def test_braces_do_not_climb(tmp_path, pattern):
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.tar").touch()
    with pytest.raises(DataError, match="leads out of its own folder"):
        found(f"{tmp_path}/ours/{pattern}")
    assert found(f"{tmp_path}/ours/../theirs/{{a,b*}}.tar").names == ["a.tar"]


@pytest.mark.parametrize("pattern", ["link/a.tar", "link", "l*/a.tar", "{link,x}/a*.tar", "file.tar", "f*.tar", "here"])
def test_links_out_of_the_folders_that_may_be_read(tmp_path, monkeypatch, pattern):
    for folder in ("ours/here", "theirs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "theirs/a.tar").touch()
    (tmp_path / "ours/link").symlink_to(tmp_path / "theirs")
    (tmp_path / "ours/file.tar").symlink_to(tmp_path / "theirs/a.tar")
    (tmp_path / "ours/here/b.tar").symlink_to(tmp_path / "theirs/a.tar")
    assert len(found(f"{tmp_path}/ours/{pattern}")) == 1
    monkeypatch.setenv(CONFINED_TO, f"{tmp_path}/elsewhere:{tmp_path}/ours")
    with pytest.raises(DataError, match="may not be read from"):
        found(f"{tmp_path}/ours/{pattern}")
    monkeypatch.setenv(CONFINED_TO, f"{tmp_path}/ours:{tmp_path}/theirs")
    assert len(found(f"{tmp_path}/ours/{pattern}")) == 1
