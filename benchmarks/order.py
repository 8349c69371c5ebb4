"""Show that one seed gives one order: hashes of the first global batches, whatever the ranks and restarts.

    python benchmarks/order.py --data SOURCE [SOURCE ...] [--weights 3 1] [--class-balanced] [--steps 20]
        [--global-size 16] [--resume-at 7] [--image-size 64] [--json FILE]

SOURCE is a path, or a source of a job's spec as JSON; several make a mixture. Every rank is a process of its own with
the loader that training has, on the CPU, with every augmentation, and writes down what it was given at each position of
each step: the sample's name, what was drawn for it, the tokens of the text that goes with it, its pixels, and its
pixels after mixup and CutMix. A line for each way to run, with a hash over all steps of each of the five; then the
hashes of each step. Exits with 1 if any way differs from the first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

_PROCESSES = multiprocessing.get_context("forkserver")  # each begins with the modules loaded, and nothing else shared
_PROCESSES.set_forkserver_preload(["open_clip", "dali_pipelines.loader", "trainer.objectives", "trainer.training_data"])

KINDS = ("names", "draws", "texts", "pixels", "mixed")


@dataclass(frozen=True)
class Stretch:
    """Some steps of a run, by processes that begin and end with them."""

    ranks: int
    start: int
    stop: int
    accumulation: int = 1
    num_threads: int = 2
    prefetch_batches: int = 2


@dataclass(frozen=True)
class RankRequest:
    """What one process writes down, and where."""

    spec: dict[str, Any]
    manifest: str
    image_size: int
    rank: int
    stretch: Stretch
    output: str


def ways_to_run(steps: int, resume_at: int) -> dict[str, list[Stretch]]:
    """By name, the stretches that follow each other."""
    whole = Stretch(ranks=1, start=0, stop=steps)
    before, after = replace(whole, stop=resume_at), replace(whole, start=resume_at)
    return {
        "1 rank": [whole],
        "1 rank, 4 micro-batches": [replace(whole, accumulation=4)],
        "2 ranks": [replace(whole, ranks=2)],
        "2 ranks, 2 micro-batches": [replace(whole, ranks=2, accumulation=2)],
        "4 ranks": [replace(whole, ranks=4)],
        "4 ranks, 1 thread, 5 ahead": [replace(whole, ranks=4, num_threads=1, prefetch_batches=5)],
        f"1 rank, resumed at {resume_at}": [before, after],
        f"2 ranks, resumed at {resume_at}": [replace(before, ranks=2), replace(after, ranks=2)],
        f"2 ranks, from {resume_at} on 1": [replace(before, ranks=2), after],
        f"1 rank, from {resume_at} on 4": [before, replace(after, ranks=4)],
    }


def run(stretch: Stretch, *, spec: dict[str, Any], manifest: Path, image_size: int) -> list[list[dict[str, str]]]:
    """What all ranks together saw: for each step, for each position, a digest of each kind."""
    files = [manifest.with_name(f"rank-{rank}.json") for rank in range(stretch.ranks)]
    requests = [
        RankRequest(spec, str(manifest), image_size, rank, stretch, str(file)) for rank, file in enumerate(files)
    ]
    processes = [_PROCESSES.Process(target=watch, args=(request,)) for request in requests]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a rank failed")
    ranks = [json.loads(file.read_text(encoding="utf-8")) for file in files]  # (rank, micro-batch, sample)
    micro_batches = len(ranks[0])
    in_order = [ranks[rank][number] for number in range(micro_batches) for rank in range(stretch.ranks)]
    per_step = stretch.ranks * stretch.accumulation
    return [sum(in_order[first : first + per_step], []) for first in range(0, len(in_order), per_step)]


def watch(request: RankRequest) -> None:
    """Run one rank's loader and write down what it yields."""
    import open_clip
    import torch

    from dali_pipelines.loader import TrainLoader
    from dali_pipelines.manifest import Manifest
    from dali_pipelines.transforms import Preprocess
    from trainer.objectives.texts import CaptionTexts, PromptTexts, tokenize_prompts
    from trainer.objectives.token_tables import TokenTables
    from trainer.spec import JobSpec
    from trainer.training_data import augment_of, build_sampler

    spec, stretch = JobSpec.model_validate(request.spec), request.stretch
    manifest = Manifest.load(request.manifest)
    tokenize, tables, device = open_clip.SimpleTokenizer(), TokenTables(), torch.device("cpu")
    if manifest.num_captions:
        texts = CaptionTexts(manifest, tokenize=tokenize, tables=tables, device=device)
    else:
        templates = ("a photo of a {}.", "a {}.", "the {} in the picture.")
        texts = PromptTexts(tokenize_prompts(manifest.class_names, templates, tokenize=tokenize, tables=tables))
    micro_size = spec.batch.global_size // (stretch.ranks * stretch.accumulation)
    loader = TrainLoader(
        manifest,
        preprocess=Preprocess(image_size=request.image_size),
        augment=augment_of(spec.data.augmentation),
        sampler=build_sampler(spec, manifest=manifest),
        global_size=spec.batch.global_size,
        micro_size=micro_size,
        rank=request.rank,
        world_size=stretch.ranks,
        num_threads=stretch.num_threads,
        prefetch_batches=stretch.prefetch_batches,
        start_step=stretch.start,
    )
    num_batches = (stretch.stop - stretch.start) * stretch.accumulation
    seen = [list(_digests(next(loader), manifest=manifest, texts=texts)) for _ in range(num_batches)]
    loader.close()
    Path(request.output).write_text(json.dumps(seen), encoding="utf-8")


def _digests(batch: Any, *, manifest: Any, texts: Any) -> Iterator[dict[str, str]]:
    """For each sample of a micro-batch."""
    from trainer.objectives.mixing import Mixing, mix

    mixed, own_share = mix(batch.images, mixing=Mixing(mixup=0.8, cutmix=1.0), draws=batch.mix_draws)
    tokens = texts.tokens(batch).numpy()
    drawn = [batch.parameters[name] for name in sorted(batch.parameters)]
    for place, row in enumerate(batch.rows.tolist()):
        values = [values[place] for values in (*drawn, batch.text_draws, batch.mix_draws)]
        yield {
            "names": _sha256(manifest.key(row).encode()),
            "draws": _sha256(*(np.ascontiguousarray(value).tobytes() for value in values)),
            "texts": _sha256(tokens[place].tobytes()),
            "pixels": _sha256(batch.images[place].numpy().tobytes()),
            "mixed": _sha256(mixed[place].numpy().tobytes(), own_share[place].numpy().tobytes()),
        }


def step_hashes(step: list[dict[str, str]]) -> dict[str, str]:
    """One hash of each kind for a global batch."""
    return {kind: _sha256("".join(sample[kind] for sample in step).encode()) for kind in KINDS}


def _sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def job_spec(arguments: argparse.Namespace) -> dict[str, Any]:
    """A job with every augmentation over the given data."""
    sources = [json.loads(text) if text.startswith("{") else text for text in arguments.data]
    train: Any = sources[0] if len(sources) == 1 else {"sources": sources, "weights": arguments.weights}
    augmentation = {
        "crop_scale": [0.3, 1.0],
        "horizontal_flip": 0.5,
        "color_jitter": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "probability": 0.8},
        "rand_augment": {},
        "grayscale": 0.2,
        "blur": {},
        "random_erasing": 0.25,
    }
    return {
        "model": "attune-tiny-32",
        "objective": {"name": "distillation", "teacher": "attune-tiny-32"},
        "data": {"train": train, "augmentation": augmentation, "class_balanced": arguments.class_balanced},
        "batch": {"global_size": arguments.global_size},
        "seed": arguments.seed,
    }


def show(results: dict[str, list[dict[str, str]]]) -> bool:
    """Print the two tables; whether all ways to run are alike."""
    reference = next(iter(results.values()))
    print(f"sha256 over {len(reference)} global batches (first 12 digits)")
    print(f"{'':30}" + "".join(f"{kind:14}" for kind in KINDS))
    for name, steps in results.items():
        whole = [_sha256("".join(step[kind] for step in steps).encode())[:12] for kind in KINDS]
        print(f"{name:30}" + "".join(f"{digest:14}" for digest in whole) + ("" if steps == reference else "DIFFERS"))
    print("\nstep  " + "".join(f"{kind:14}" for kind in KINDS) + "ways that agree")
    for number, step in enumerate(reference):
        agreeing = sum(steps[number] == step for steps in results.values())
        print(f"{number:4}  " + "".join(f"{step[kind][:12]:14}" for kind in KINDS) + f"{agreeing} of {len(results)}")
    return all(steps == reference for steps in results.values())


def main() -> int:
    """The command; 0 if every way to run gives the same, 1 if not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="SOURCE")
    parser.add_argument("--weights", nargs="+", type=float)
    parser.add_argument("--class-balanced", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--global-size", type=int, default=16, help="divisible by 8")
    parser.add_argument("--resume-at", type=int, default=7)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from trainer.data_sources import read_source
    from trainer.spec import JobSpec

    spec = job_spec(arguments)
    train = JobSpec.model_validate(spec).data.train
    assert train is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.arrow"
        manifest, _ = read_source(train, on_bad_sample="fail", exif="ignore")
        manifest.save(path)
        print(f"{len(manifest)} samples, {len(manifest.class_names)} classes, global batch {arguments.global_size}")
        results = {
            name: [
                step_hashes(step)
                for stretch in stretches
                for step in run(stretch, spec=spec, manifest=path, image_size=arguments.image_size)
            ]
            for name, stretches in ways_to_run(arguments.steps, arguments.resume_at).items()
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if show(results) else 1


if __name__ == "__main__":
    sys.exit(main())
