"""Time and memory that a manifest of a million rows costs a rank when it opens it, and at its first batch.

    python benchmarks/million_rows.py [--rows 1000000] [--captions 1] [--rounds 3] [--json FILE]

Makes a manifest (labels, captions, paths of some 40 characters), then measures in fresh processes: opening it; what a
loader needs before its first batch (sizes, labels, which images take another road, the order of an epoch, the places of
a batch's files); and its hash, which preflight takes once. Memory is the growth of the process, pages of the
memory-mapped file included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from dali_pipelines.manifest import SCHEMA, Manifest
from dali_pipelines.sampler import Sampler

BATCH_SIZE = 1024
NUM_CLASSES = 1000


def write_manifest(path: Path, *, num_rows: int, num_captions: int) -> None:
    """A manifest as preflight would leave it."""
    numbers = np.arange(num_rows)
    words = pa.array([f"a photo of thing number {number} in a row of many" for number in range(num_rows)])
    starts = np.arange(num_rows + 1, dtype=np.int32) * num_captions
    repeated = words.take(pa.array(np.repeat(numbers, num_captions)))
    labels = (numbers * 7919 % NUM_CLASSES).astype(np.int32)
    columns = {
        "path": pa.array([f"n{label:08}/n{label:08}_{n:08}.JPEG" for n, label in enumerate(labels.tolist())]),
        "root": np.zeros(num_rows, np.int16),
        "offset": np.zeros(num_rows, np.int64),
        "length": np.full(num_rows, -1, np.int64),
        "key": pa.nulls(num_rows, pa.string()),
        "width": np.full(num_rows, 500, np.int32),
        "height": np.full(num_rows, 375, np.int32),
        "label": labels,
        "captions": pa.ListArray.from_arrays(pa.array(starts), repeated),
        "domain": np.full(num_rows, -1, np.int16),
        "source": np.zeros(num_rows, np.int16),
        "decoder": pa.array(["dali"] * num_rows),
    }
    names = tuple(f"class {number}" for number in range(NUM_CLASSES))
    Manifest(("/data",), pa.table(columns, schema=SCHEMA), names).save(path)


def measure(path: Path) -> dict[str, float]:
    """Seconds since the start and MB above the imports, after each step. Meant for a process of its own."""
    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    found: dict[str, float] = {}

    def note(name: str) -> None:
        found[f"{name}_s"] = time.perf_counter() - start
        found[f"{name}_mb"] = (process.memory_info().rss - before) / 1e6

    manifest = Manifest.load(path)
    note("open")
    sampler = Sampler(len(manifest), seed=0)
    rows = sampler.rows(0, global_size=BATCH_SIZE)
    needed = manifest.sizes[rows], manifest.labels[rows], manifest.needs_pillow.any(), manifest.in_files.all()
    assert all(part is not None for part in needed)
    assert len(manifest.files(rows)) == len([manifest.captions(row) for row in rows]) == BATCH_SIZE
    note("first_batch")
    found["peak_mb"] = _peak_mb() - before / 1e6
    begin = time.perf_counter()
    assert manifest.hash
    found["hash_s"] = time.perf_counter() - begin
    found["with_hash_mb"] = _peak_mb() - before / 1e6
    return found


def _peak_mb() -> float:
    """Of this process since it was started; `getrusage` also counts what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def measure_apart(path: Path) -> dict[str, float]:
    """`measure` in a fresh process."""
    child = subprocess.run([sys.executable, __file__, "--measure", str(path)], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(child.stdout)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=1, help="captions a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every round there")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        print(json.dumps(measure(given.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="million-rows-") as folder:
        path = Path(folder) / "train.arrow"
        write_manifest(path, num_rows=given.rows, num_captions=given.captions)
        size = path.stat().st_size / 1e6
        rounds = [measure_apart(path) for _ in range(given.rounds)]
    print(f"{given.rows:,} rows, {given.captions} captions each, a file of {size:.0f} MB; median of {given.rounds}\n")
    print("| step | seconds | MB |\n|---|---|---|")
    middle = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print(f"| opened | {middle['open_s']:.3f} | {middle['open_mb']:.0f} |")
    print(f"| first batch planned | {middle['first_batch_s']:.3f} | {middle['first_batch_mb']:.0f} |")
    print(f"| at most, up to there | | {middle['peak_mb']:.0f} |")
    print(f"| hash, by itself | {middle['hash_s']:.3f} | {middle['with_hash_mb']:.0f} |")
    if given.json is not None:
        given.json.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
