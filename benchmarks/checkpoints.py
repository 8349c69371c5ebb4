"""Checkpoints by parameter beside DeepSpeed's own: seconds to save and load, bytes, and memory that saving takes.

    python benchmarks/checkpoints.py [--model ViT-B-32] [--ranks 2] [--stages 1 3] [--folder /tmp] [--json figures.json]

Starts the ranks on the CPU, takes one optimizer step with AdamW and a moving average, and then saves and loads both
layouts in turn, `--rounds` times. Ours is what `trainer.checkpoint` does, its sums included, but for fsync, which
DeepSpeed does not do. Of the rounds the fastest counts. Memory is the growth of a rank's largest resident size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_LAYOUTS = ("by_parameter", "deepspeed")


def build_engine(model: str, *, stage: int) -> Any:
    """A DeepSpeed engine whose optimizer has moments and a moving average."""
    import deepspeed

    from trainer.ema import track_average
    from trainer.models import load_clip
    from trainer.spec import ModelSpec

    torch.manual_seed(0)
    module = load_clip(ModelSpec(name=model)).module
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4, fused=True)
    track_average(optimizer, decay=0.9)
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    size = module.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    texts = torch.randint(1, 400, (2, module.context_length))
    image_features, text_features, *_ = engine(torch.randn(2, 3, height, width), texts)
    engine.backward(image_features.sum() + text_features.sum())
    engine.step()
    return engine


def save(engine: Any, folder: Path, layout: str) -> None:
    """Save in one of the layouts."""
    from trainer.checkpoint_sums import sum_files
    from trainer.parameter_state import save_state

    if layout == "deepspeed":
        engine.save_checkpoint(str(folder), tag="state", save_latest=False)
        return
    save_state(engine, folder)
    dist.barrier()
    (folder / "sums.json").write_text(json.dumps({k: v.model_dump() for k, v in sum_files(folder).items()}))


def load(engine: Any, folder: Path, layout: str) -> None:
    """Load it again."""
    from trainer.checkpoint_sums import FileSum, find_damage
    from trainer.parameter_state import load_state

    if layout == "deepspeed":
        engine.load_checkpoint(str(folder), tag="state")
        return
    sums = json.loads((folder / "sums.json").read_text())
    assert find_damage(folder, {name: FileSum(**value) for name, value in sums.items()}) is None
    load_state(engine, folder)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds until all ranks are done, and MiB by which the largest resident size of a rank grew meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # begins the largest size anew
    before = _resident_mib("VmRSS")
    dist.barrier()
    began = time.perf_counter()
    work()
    dist.barrier()
    taken = torch.tensor([time.perf_counter() - began, _resident_mib("VmHWM") - before])
    dist.all_reduce(taken, op=dist.ReduceOp.MAX)
    return taken[0].item(), taken[1].item()


def _resident_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def rank_main(given: argparse.Namespace) -> None:
    """What each rank does; rank 0 prints a line of JSON for each stage."""
    from trainer import distributed

    distributed.join()
    for stage in given.stages:
        engine = build_engine(given.model, stage=stage)
        rounds: dict[str, list[dict[str, float]]] = {layout: [] for layout in _LAYOUTS}
        for number in range(given.rounds):
            for layout in _LAYOUTS if number % 2 == 0 else reversed(_LAYOUTS):
                rounds[layout].append(one_round(engine, given.folder / f"{layout}-{stage}-{number}", layout))
        if dist.get_rank() == 0:
            parameters = sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters())
            best = {
                layout: {key: min(each[key] for each in done) for key in done[0]} for layout, done in rounds.items()
            }
            print(json.dumps({"stage": stage, "parameters": parameters, **best}), flush=True)
        engine.destroy()
    distributed.leave()


def fastest(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The least of each figure."""
    return {key: min(each[key] for each in rounds) for key in rounds[0]}


def one_round(engine: Any, folder: Path, layout: str) -> dict[str, float]:
    """Save, load, measure and remove."""
    folder.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    save_s, memory_mib = timed(lambda: save(engine, folder, layout))
    load_s, _ = timed(lambda: load(engine, folder, layout))
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
    dist.barrier()
    return {
        "save_s": save_s,
        "load_s": load_s,
        "mib": sum(files) / 2**20,
        "files": len(files),
        "save_memory_mib": memory_mib,
    }


def start_ranks(given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run this file once a rank, and what rank 0 printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {"DS_ACCELERATOR": "cpu", "WORLD_SIZE": str(given.ranks), "MASTER_PORT": str(port)}
    common |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    stages = [str(stage) for stage in given.stages]
    command = [sys.executable, __file__, "--model", given.model, "--rounds", str(given.rounds), "--stages", *stages]
    ranks = [
        subprocess.Popen(
            [*command, "--folder", str(folder)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(given.ranks)
    ]
    said, _ = ranks[0].communicate()
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise SystemExit("a rank failed; its output is above")
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def main() -> None:
    """The command, and each of its ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if "RANK" in os.environ:
        rank_main(given)
        return
    with tempfile.TemporaryDirectory(prefix="attune-checkpoints-", dir=given.folder) as folder:
        found = start_ranks(given, Path(folder))
    for line in found:
        ours, theirs = (line[layout] for layout in _LAYOUTS)
        print(f"{given.model}, {line['parameters'] / 1e6:.0f} M parameters, {given.ranks} ranks, ZeRO {line['stage']}")
        for key in ours:
            ratio = ours[key] / theirs[key] if theirs[key] else float("nan")
            print(f"  {key:16} by parameter {ours[key]:9.2f}   DeepSpeed {theirs[key]:9.2f}   ratio {ratio:.2f}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
