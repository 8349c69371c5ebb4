"""Every image is looked at once, also when the process is killed in the middle."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dali_pipelines.sources.samples import Samples
from dali_pipelines.validation.scan import Look, scan

_KILLED = """
import os, signal, sys
from pathlib import Path
from dali_pipelines.sources.samples import Samples
from dali_pipelines.storage import Cache
from dali_pipelines.validation.scan import Look, scan

folder, journal = map(Path, sys.argv[1:])
paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
seen = 0
def count(more):
    global seen
    seen += more
    if seen >= 40:
        os.kill(os.getpid(), signal.SIGKILL)
scan(Samples(folder, paths), Look(Cache.open(), journal=journal, chunk=8, progress=count))
"""


@pytest.fixture
def many(tmp_path, folder):
    """100 files, a truncated one and one that is gone among them."""
    files = sorted(folder.glob("*/*"))
    for number in range(100):
        source = files[number % len(files)]
        target = tmp_path / "many" / f"{number:03d}{source.suffix}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(source, target)
    paths = sorted(path.name for path in target.parent.iterdir())
    broken = target.parent / paths[3]
    broken.write_bytes(broken.read_bytes()[:-300])
    return Samples(target.parent, paths)


def stamps(journal: Path):
    return {file.name: file.stat().st_mtime_ns for file in journal.iterdir()}


def test_threads_and_chunks_change_nothing(many, cache):
    one = scan(many, Look(cache))
    assert len(one) == 100
    assert scan(many, Look(cache, num_threads=4, chunk=7)).equals(one)
    assert "truncated" in one["reason"][3].as_py()


def test_progress_counts_every_image(many, cache):
    told = []
    scan(many, Look(cache, num_threads=2, chunk=30, progress=told.append))
    assert sum(told) == 100
    assert len(told) >= 4


def test_after_a_kill_it_goes_on_where_it_was(many, cache, tmp_path):
    journal = tmp_path / "journal"
    child = subprocess.run([sys.executable, "-c", _KILLED, str(many.root), str(journal)], cwd=Path.cwd())
    assert child.returncode == -signal.SIGKILL
    done = stamps(journal)
    assert 3 <= len(done) < 13
    told = []
    how = Look(cache, num_threads=2, journal=journal, chunk=8, progress=told.append)
    assert scan(many, how).equals(scan(many, Look(cache)))
    after = stamps(journal)
    assert len(after) == 13
    assert {name: after[name] for name in done} == done
    assert sum(told) == 100


def test_a_file_that_was_repaired_is_looked_at_again(many, cache, tmp_path):
    how = Look(cache, journal=tmp_path / "journal", chunk=8)
    assert scan(many, how)["reason"][3].as_py()
    shutil.copy(Path(many.root) / many.paths[0], Path(many.root) / many.paths[3])
    before = stamps(how.journal)
    again = scan(many, how)
    assert again["reason"][3].as_py() == ""
    assert again["content"][3] == again["content"][0]
    assert {name for name, stamp in stamps(how.journal).items() if stamp != before[name]} == {"000000.arrow"}


def test_a_file_that_was_missing_is_looked_for_again(many, cache, tmp_path):
    gone = Path(many.root) / many.paths[50]
    content = gone.read_bytes()
    gone.unlink()
    how = Look(cache, journal=tmp_path / "journal", chunk=8)
    assert scan(many, how)["reason"][50].as_py() == "the file does not exist"
    gone.write_bytes(content)
    assert scan(many, how)["reason"][50].as_py() == ""


def test_a_journal_of_other_images_or_settings_is_passed_over(many, cache, tmp_path):
    how = Look(cache, journal=tmp_path / "journal", chunk=8)
    scan(many, how)
    strict = replace(how, max_pixels=100)
    assert all("too large" in reason or "truncated" in reason for reason in scan(many, strict)["reason"].to_pylist())
    turned = Samples(many.root, many.paths[::-1])
    assert scan(turned, how).equals(scan(turned, Look(cache)))


def test_a_torn_journal_file_is_passed_over(many, cache, tmp_path):
    how = Look(cache, journal=tmp_path / "journal", chunk=8)
    whole = scan(many, how)
    file = how.journal / "000002.arrow"
    torn = file.read_bytes()[:200]
    file.unlink()
    file.write_bytes(torn)
    assert scan(many, how).equals(whole)


def test_parts_of_larger_files_are_read(many, cache, tmp_path):
    contents = [(Path(many.root) / path).read_bytes() for path in many.paths[:3]]
    (tmp_path / "all.bin").write_bytes(b"".join(contents))
    lengths = [len(content) for content in contents]
    samples = Samples(
        tmp_path,
        ["all.bin"] * 4,
        offsets=[0, lengths[0], lengths[0] + lengths[1], 0],
        lengths=[*lengths, sum(lengths) + 5],
        keys=["a", "b", "c", "d"],
    )
    found = scan(samples, Look(cache))
    whole = scan(many.select([0, 1, 2]), Look(cache))
    assert found.slice(0, 3).select(["content", "width"]).equals(whole.select(["content", "width"]))
    assert "ends 5 bytes before" in found["reason"][3].as_py()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_bad(many, cache):
    (Path(many.root) / many.paths[1]).chmod(0)
    assert "Permission denied" in scan(many, Look(cache))["reason"][1].as_py()
