"""The cache fetches once, whole or not at all, forgets what was used longest ago, and never what is in use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dali_pipelines.storage import Cache, CacheTooSmallError, Location, StorageError, download, remote, room

MB = 1_000_000


def write(path: Path, num_bytes: int) -> bytes:
    data = os.urandom(num_bytes)
    path.write_bytes(data)
    return data


def small(tmp_path: Path, num_bytes: int, **options) -> Cache:
    return Cache((tmp_path / "small").resolve(), max_bytes=num_bytes, **options)


def kept(cache: Cache) -> set[int]:
    """Sizes of the fetched files."""
    files = (path for path in (cache.root / "files").glob("*/*") if path.suffix != ".json")
    return {path.stat().st_size for path in files}


def test_a_file_is_fetched_once_and_under_its_ending(web, own_cache):
    data = write(web.folder / "a.tar", 10_000)
    path = own_cache.file(f"{web.url}/a.tar")
    assert path.read_bytes() == data
    assert path.suffix == ".tar"
    assert Cache.open(str(own_cache.root), 1).file(f"{web.url}/a.tar") == path
    assert web.gets("/a.tar") == 1
    assert not list((own_cache.root / "partial").iterdir())
    assert not list((own_cache.root / "locks").iterdir())


def test_a_changed_file_is_fetched_again_but_not_where_copies_are_trusted(web, own_cache):
    url, file = f"{web.url}/a.csv", web.folder / "a.csv"
    write(file, 100)
    old = own_cache.file(url)
    new = write(file, 120)
    trusting = Cache.open(str(own_cache.root), 1, trust_copies=True)
    assert trusting.read(Location(url)) == old.read_bytes()
    assert own_cache.file(url).read_bytes() == new
    assert trusting.read(Location(url)) == new
    assert len(old.read_bytes()) == 100  # who uses the old one goes on


@pytest.mark.usefixtures("impatient")
def test_an_outage_is_waited_for_and_a_missing_file_is_not(web, own_cache):
    data = write(web.folder / "a.jpg", 1000)
    web.failures = remote.NUM_TRIES - 1
    assert own_cache.read(Location(f"{web.url}/a.jpg")) == data
    with pytest.raises(StorageError, match=r"b\.jpg' cannot be read: there is no such object"):
        own_cache.file(f"{web.url}/b.jpg?token=secret")
    assert web.requests["HEAD", "/b.jpg?token=secret"] == 1
    write(web.folder / "c.jpg", 1000)
    web.failures = remote.NUM_TRIES
    with pytest.raises(StorageError, match=r"c\.jpg' cannot be read, tried 5 times: the server answers 503"):
        own_cache.read(Location(f"{web.url}/c.jpg"))


def test_no_server_is_said_by_name(own_cache, impatient):
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9/a\.jpg' cannot be read, tried 5 times"):
        own_cache.file("http://user:secret@127.0.0.1:9/a.jpg")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_transfer_that_breaks_off_ends_whole(web, own_cache, monkeypatch, has_ranges):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(download, "BLOCK_BYTES", 100_000)
    web.has_ranges = has_ranges
    data = write(web.folder / "a.tar", 450_000)
    web.breaks_after = 30_000
    assert own_cache.file(f"{web.url}/a.tar").read_bytes() == data
    assert web.breaks_after is None
    if has_ranges:
        assert web.bytes_sent < 490_000  # what had come was not fetched again


@pytest.mark.usefixtures("impatient")
def test_a_later_process_goes_on_where_the_transfer_ended(web, own_cache, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(download, "BLOCK_BYTES", 100_000)
    data = write(web.folder / "a.tar", 450_000)
    whole = remote.Remote.read

    def dies_at(self, start=None, end=None):
        if start is not None and start >= 300_000:
            raise KeyboardInterrupt
        return whole(self, start, end)

    with monkeypatch.context() as patch:
        patch.setattr(remote.Remote, "read", dies_at)
        with pytest.raises(KeyboardInterrupt):
            own_cache.file(f"{web.url}/a.tar")
    assert not kept(own_cache)
    (partial,) = (path for path in (own_cache.root / "partial").iterdir() if path.suffix != ".json")
    assert partial.stat().st_size == 300_000
    before = web.bytes_sent
    assert own_cache.file(f"{web.url}/a.tar").read_bytes() == data
    assert web.bytes_sent - before <= 150_000 + 10
    assert (own_cache.root / "total").read_text() == "450000"


def test_a_file_that_changed_since_its_transfer_broke_off_is_begun_anew(web, own_cache, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(download, "BLOCK_BYTES", 1000)
    write(web.folder / "a.tar", 4500)
    whole = remote.Remote.read

    def dies_at(self, start=None, end=None):
        if start is not None and start >= 3000:
            raise KeyboardInterrupt
        return whole(self, start, end)

    with monkeypatch.context() as patch:
        patch.setattr(remote.Remote, "read", dies_at)
        with pytest.raises(KeyboardInterrupt):
            own_cache.file(f"{web.url}/a.tar")
    data = write(web.folder / "a.tar", 5500)
    assert own_cache.file(f"{web.url}/a.tar").read_bytes() == data


def test_what_was_used_longest_ago_goes_first(web, tmp_path, monkeypatch):
    cache = small(tmp_path, 100_000)
    for number in range(4):
        write(web.folder / f"{number}.jpg", 21_000 + number)
        cache.read(Location(f"{web.url}/{number}.jpg"))
    now = time.time()
    for path in (cache.root / "files").rglob("*.jpg"):
        age = {21_000: 50, 21_001: 400, 21_002: 300, 21_003: 200}[path.stat().st_size]
        os.utime(path, (now, now - 1000 - age))
    write(web.folder / "new.jpg", 40_000)
    cache.read(Location(f"{web.url}/new.jpg"))
    assert kept(cache) == {21_000, 21_003, 40_000}
    assert int((cache.root / "total").read_text()) == 82_003
    write(web.folder / "file.tar", 45_000)
    cache.file(f"{web.url}/file.tar")  # a path is worth more than what was read a moment ago
    assert 45_000 in kept(cache)


def test_data_larger_than_the_cache_do_not_chase_each_other_through_it(web, tmp_path):
    cache = small(tmp_path, 50_000)
    data = {f"{number}.jpg": write(web.folder / f"{number}.jpg", 20_000) for number in range(4)}
    for _ in range(3):
        for name, content in data.items():
            assert cache.read(Location(f"{web.url}/{name}")) == content
            assert cache.read(Location(f"{web.url}/{name}", 500, 1000)) == content[500:1500]
    assert web.gets("/0.jpg") == web.gets("/1.jpg") == 1
    assert web.gets("/2.jpg") == web.gets("/3.jpg") == 6


def test_what_cannot_fit_is_refused_by_name_and_figure(web, tmp_path):
    cache = small(tmp_path, 1000)
    write(web.folder / "a.tar", 2000)
    with pytest.raises(CacheTooSmallError, match=r"a\.tar' needs 2e-06 GB .*data\.cache\.max_gb allows 1e-06"):
        cache.file(f"{web.url}/a.tar")
    with pytest.raises(CacheTooSmallError, match=r"data\.cache\.max_gb"):
        cache.folder("k", lambda folder: write(folder / "x", 2000) and None)
    with pytest.raises(CacheTooSmallError):
        cache.folder("k", lambda folder: None, num_bytes=2000)
    assert not list((cache.root / "partial").iterdir())
    assert (cache.root / "total").read_text() == "0"


def test_a_full_disk_is_said_before_anything_is_fetched(web, own_cache, monkeypatch):
    write(web.folder / "a.tar", 2000)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: _Usage)
    with pytest.raises(StorageError, match="the disk of the cache .* is full"):
        own_cache.file(f"{web.url}/a.tar")
    assert web.gets("/a.tar") == 0


class _Usage:
    free = 1000


def test_a_folder_is_filled_once_and_a_failed_filling_leaves_nothing(own_cache):
    filled = []

    def fill(folder: Path) -> None:
        filled.append(folder)
        write(folder / "a.tar", 1234)

    def fails(folder: Path) -> None:
        write(folder / "a", 10)
        raise RuntimeError("no")

    path = own_cache.folder("k", fill)
    assert own_cache.folder("k", fill) == path == own_cache.folder_of("k")
    assert len(filled) == 1
    assert (own_cache.root / "total").read_text() == "1234"
    with pytest.raises(RuntimeError, match="no"):
        own_cache.folder("other", fails)
    assert not list((own_cache.root / "partial").iterdir())
    assert own_cache.folder("other", fill).is_dir()


def test_threads_wait_for_the_one_that_fetches(web, own_cache):
    write(web.folder / "a.tar", 5000)
    web.pause_s = 0.2
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: own_cache.file(f"{web.url}/a.tar"), range(8)))
    assert len(paths) == 1
    assert web.gets("/a.tar") == 1


_HOLDER = """
import sys
from dali_pipelines.storage import Cache, Location
from pathlib import Path
root, url, max_bytes = sys.argv[1:]
cache = Cache(Path(root), max_bytes=int(max_bytes))
print(cache.file(url), flush=True)
sys.stdin.read()
"""


def holder(cache: Cache, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLDER, str(cache.root), url, str(cache.max_bytes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_fetch_once_and_what_one_uses_stays_until_it_is_gone(web, tmp_path):
    cache = small(tmp_path, 100_000)
    write(web.folder / "a.tar", 60_000)
    web.pause_s = 0.3
    others = [holder(cache, f"{web.url}/a.tar") for _ in range(3)]
    paths = {other.stdout.readline().strip() for other in others}
    assert len(paths) == 1
    assert web.gets("/a.tar") == 1
    for other in others[1:]:
        other.communicate()
    write(web.folder / "b.tar", 50_000)
    with pytest.raises(StorageError, match="full of what running jobs use"):
        cache.file(f"{web.url}/b.tar")
    others[0].kill()  # without a chance to tidy up
    others[0].communicate()
    assert cache.file(f"{web.url}/b.tar").stat().st_size == 50_000
    assert not Path(paths.pop()).exists()
    write(web.folder / "c.tar", 60_000)
    with pytest.raises(StorageError, match="full of what running jobs use"):
        cache.file(f"{web.url}/c.tar")


def test_holding_works_for_paths_inside_an_entry(own_cache):
    path = own_cache.folder("k", lambda folder: write(folder / "a.tar", 10) and None)
    assert own_cache.hold(path / "a.tar")
    assert not own_cache.hold(own_cache.folder_of("other") / "a.tar")
    assert own_cache.hold(own_cache.root.parent / "elsewhere")


def test_reading_while_entries_come_and_go_gives_whole_files(web, tmp_path):
    cache = small(tmp_path, 60_000)
    data = {f"{number}.jpg": write(web.folder / f"{number}.jpg", 9_000 + number) for number in range(12)}
    stop = threading.Event()

    def age() -> None:
        while not stop.wait(0.002):
            for path in (cache.root / "files").glob("*/*.jpg"):
                os.utime(path, (0, 0)) if path.exists() else None

    ageing = threading.Thread(target=age)
    ageing.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            names = [name for _ in range(10) for name in data]
            for name, got in zip(names, pool.map(lambda n: cache.read(Location(f"{web.url}/{n}")), names), strict=True):
                assert got == data[name]
    finally:
        stop.set()
        ageing.join()
    assert sum(kept(cache)) <= 60_000


def test_the_environment_sets_place_and_size(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTUNE_CACHE", str(tmp_path / "env"))
    monkeypatch.setenv("ATTUNE_CACHE_MAX_GB", "2.5")
    assert Cache.open().root == (tmp_path / "env").resolve()
    assert Cache.open().max_bytes == 2_500_000_000
    assert Cache.open(str(tmp_path), 1).max_bytes == 1_000_000_000
    assert not (tmp_path / "env").exists()
    monkeypatch.setenv("ATTUNE_CACHE_MAX_GB", "ten")
    with pytest.raises(StorageError, match="ATTUNE_CACHE_MAX_GB is 'ten'"):
        Cache.open()


def test_a_folder_that_cannot_be_made_is_named():
    with pytest.raises(StorageError, match="'/proc/attune' cannot be made"):
        Cache.open("/proc/attune").file("http://127.0.0.1:9/a")
