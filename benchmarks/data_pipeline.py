"""Compare the training pipeline with a torchvision DataLoader that does the same, in images/s on the same cores.

    python benchmarks/data_pipeline.py [--images FOLDER] [--sizes 320x240 500x375] [--cores 1 2] [--output FILE]

Both sides read JPEG files, take a random resized crop (bicubic, antialiased), flip, augment and normalise to 224 x 224.
The DataLoader decodes with Pillow in persistent workers, of which the best number is reported. The sides take turns in
every round, each from a standing start with its queue drained, so that what else the machine does slows both alike; the
ratios are medians over the rounds. Without `--images`, photographs are imitated by gradients and noise of all scales.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from timm.data import auto_augment
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from dali_pipelines.loader import TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.rand_augment import fill_color
from dali_pipelines.sampler import Sampler
from dali_pipelines.transforms import Augment, Preprocess, RandAugment

CASES = {"plain": None, "rand-m9-mstd0.5-inc1": RandAugment(magnitude=9.0, magnitude_std=0.5, increasing=True)}
FLIP = 0.5
OURS = "DALI"
GRAIN = 9.0  # standard deviation of the noise of single pixels, in steps of 0..255
QUIET_S, QUIET_SHARE = 0.1, 0.2


@dataclass(frozen=True)
class Setting:
    """What one child process measures."""

    folder: str
    images: str
    cores: int
    case: str
    crop_scale: tuple[float, float]
    batch_size: int
    rounds: int
    batches: int


@dataclass
class Side:
    """A running loader; `queued` is the number of batches that it keeps ready."""

    name: str
    batches: Iterator[Any]
    queued: int


def write_photos(folder: Path, *, width: int, height: int, count: int) -> None:
    """JPEG files of about 0.6 bytes a pixel, as ImageNet's are: smooth light, and noise at every scale."""
    for number in range(count):
        chance = np.random.default_rng([width, height, number])
        pixels = np.zeros((height, width, 3), np.float32)
        for octave in range(1, 10):
            cells = chance.normal(size=(min(2**octave, height), min(2**octave, width)))
            tint = chance.normal(size=3) * 0.3 + 1
            surface = Image.fromarray(cells.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
            pixels += np.asarray(surface)[..., None] * tint.astype(np.float32) * 60 / octave
        pixels += chance.normal(size=pixels.shape[:2])[..., None] * GRAIN
        target = folder / f"class_{number % 4}" / f"{number:04}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels + 120, 0, 255).astype(np.uint8)).save(target, quality=92)


def our_loader(setting: Setting, *, device: int | None = None) -> TrainLoader:
    """The pipeline that jobs train from."""
    root = Path(setting.folder)
    paths = sorted(str(path.relative_to(root)) for path in root.glob("*/*"))
    sizes = [Image.open(root / path).size for path in paths]
    manifest = Manifest.from_columns(root, paths=paths, sizes=sizes, labels=[0] * len(paths))
    augment = Augment(crop_scale=setting.crop_scale, horizontal_flip=FLIP, rand_augment=CASES[setting.case])
    return TrainLoader(
        manifest,
        preprocess=Preprocess(),
        augment=augment,
        sampler=Sampler(len(manifest), seed=0),
        global_size=setting.batch_size,
        micro_size=setting.batch_size,
        device=device,
    )


def data_loader(setting: Setting, *, workers: int) -> DataLoader:
    """torchvision's transforms and timm's RandAugment on images decoded by Pillow."""
    preprocess = Preprocess()
    steps: list[Callable] = [
        transforms.RandomResizedCrop(
            preprocess.image_size, setting.crop_scale, interpolation=transforms.InterpolationMode.BICUBIC
        ),
        transforms.RandomHorizontalFlip(FLIP),
    ]
    if CASES[setting.case] is not None:
        # At the highest level timm asks for no bits at all, which Pillow refuses since its version 13.
        bits = auto_augment.LEVEL_TO_ARG["PosterizeIncreasing"]
        auto_augment.LEVEL_TO_ARG["PosterizeIncreasing"] = lambda level, hparams: (max(1, *bits(level, hparams)),)
        bicubic = {"img_mean": fill_color(preprocess), "interpolation": Image.Resampling.BICUBIC}
        steps.append(auto_augment.rand_augment_transform(setting.case, bicubic))
    steps += [transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
    return DataLoader(
        ImageFolder(setting.folder, transforms.Compose(steps)),
        setting.batch_size,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="fork",
    )


def endless(loader: DataLoader) -> Iterator[Any]:
    """One pass after another."""
    while True:
        yield from loader


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Images/s and processor milliseconds an image of every side in every round."""
    sides = []
    for workers in (setting.cores, setting.cores + 1):
        theirs = endless(data_loader(setting, workers=workers))
        next(theirs)  # forks, which it had better do before there are threads
        sides.append(Side(f"DataLoader, {workers} workers", theirs, queued=2 * workers))
    loader = our_loader(setting)
    sides.append(Side(OURS, iter(loader), queued=2))
    results = []
    for number in range(setting.rounds):
        for side in sides if number % 2 else sides[::-1]:
            wait_until_quiet()
            rate, processor_ms = run(side, setting)
            results.append(asdict(setting) | {"side": side.name, "images_per_s": rate, "cpu_ms": processor_ms})
    loader.close()
    return results


def run(side: Side, setting: Setting) -> tuple[float, float]:
    """Time `setting.batches` batches once those that were ready are taken."""
    for _ in range(side.queued + 1):
        next(side.batches)
    begin, begin_cpu = time.perf_counter(), processor_seconds()
    for _ in range(setting.batches):
        next(side.batches)
    num_images = setting.batches * setting.batch_size
    rate = num_images / (time.perf_counter() - begin)
    return rate, 1000 * (processor_seconds() - begin_cpu) / num_images


def processor_seconds() -> float:
    """Of this process and the workers below it."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def wait_until_quiet() -> None:
    """Until the side that had its turn has filled its queue again and stands still."""
    before = processor_seconds()
    while True:
        time.sleep(QUIET_S)
        now = processor_seconds()
        if now - before < QUIET_SHARE * QUIET_S:
            return
        before = now


def in_child(function: Callable[[Setting], list[dict[str, Any]]], setting: Setting) -> list[dict[str, Any]]:
    """Run in a new process that is bound to as many cores as the setting says."""
    every_core = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every_core)[: setting.cores])
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, setting).result()
    finally:
        os.sched_setaffinity(0, every_core)


def measure_gpu(setting: Setting) -> list[dict[str, Any]]:
    """Images/s of the pipeline that decodes and augments on the first GPU."""
    loader = our_loader(setting, device=0)
    rates = []
    for _ in range(setting.rounds):
        for _ in range(4):
            next(loader)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(setting.batches):
            next(loader)
        torch.cuda.synchronize()
        rates.append(setting.batches * setting.batch_size / (time.perf_counter() - begin))
    loader.close()
    return [asdict(setting) | {"side": "GPU", "images_per_s": rate} for rate in rates]


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Our side beside the best of the others, of one setting."""
    rates: dict[str, list[float]] = {}
    for result in results:
        rates.setdefault(result["side"], []).append(result["images_per_s"])
    best = max((side for side in rates if side != OURS), key=lambda side: statistics.median(rates[side]))
    cpu_ms = {
        side: statistics.median(result["cpu_ms"] for result in results if result["side"] == side)
        for side in (OURS, best)
    }
    return {key: results[0][key] for key in ("images", "cores", "case", "crop_scale")} | {
        "ours": statistics.median(rates[OURS]),
        "theirs": statistics.median(rates[best]),
        "best": best,
        "ratio": statistics.median(a / b for a, b in zip(rates[OURS], rates[best], strict=True)),
        "cpu_ms": [cpu_ms[OURS], cpu_ms[best]],
    }


def table(summaries: list[dict[str, Any]]) -> str:
    """Markdown: a row for each image size, number of cores and transform."""
    lines = [
        "| images | cores | transform | crop scale | DALI, images/s | DataLoader, images/s | ratio "
        "| CPU ms an image, DALI / DataLoader |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in summaries:
        crop, (ours_ms, theirs_ms) = "-".join(f"{share:g}" for share in row["crop_scale"]), row["cpu_ms"]
        workers = row["best"].removeprefix("DataLoader, ")
        lines.append(
            f"| {row['images']} | {row['cores']} | {row['case']} | {crop} | {row['ours']:.0f} "
            f"| {row['theirs']:.0f} ({workers}) | {row['ratio']:.2f} | {ours_ms:.2f} / {theirs_ms:.2f} |"
        )
    return "\n".join(lines)


def gpu_report(settings: list[Setting], summaries: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The GPU's rate beside the DataLoader's images/s per core, where there is a GPU."""
    if not torch.cuda.is_available():
        return "no GPU: decoding on one was not measured", []
    lines = [
        f"{torch.cuda.get_device_name(0)}:",
        "",
        "| images | transform | GPU, images/s | DataLoader, images/s a core | ratio |",
        "|---|---|---|---|---|",
    ]
    results = []
    for setting in settings:
        measured = in_child(measure_gpu, setting)
        rate = statistics.median(result["images_per_s"] for result in measured)
        per_core = max(
            row["theirs"] / row["cores"] for row in summaries if (row["images"], row["case"]) == _key(setting)
        )
        lines.append(f"| {setting.images} | {setting.case} | {rate:.0f} | {per_core:.0f} | {rate / per_core:.2f} |")
        results += measured
    return "\n".join(lines), results


def _key(setting: Setting) -> tuple[str, str]:
    return setting.images, setting.case


def folders_of_images(arguments: argparse.Namespace, work: Path) -> dict[str, Path]:
    """Image folders by what to call them in the table."""
    if arguments.images is not None:
        return {arguments.images.name: arguments.images}
    folders = {}
    for size in arguments.sizes:
        width, height = map(int, size.split("x"))
        write_photos(work / size, width=width, height=height, count=arguments.count)
        folders[size] = work / size
    return folders


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="an image folder, CLASS/IMAGE, instead of generated photographs")
    parser.add_argument("--sizes", nargs="+", default=["320x240", "500x375", "1024x768"], help="WIDTHxHEIGHT")
    parser.add_argument("--count", type=int, default=128, help="photographs to generate of each size")
    parser.add_argument("--cores", type=int, nargs="+", default=list(range(1, len(os.sched_getaffinity(0)) + 1))[:2])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--crop-scale", type=float, nargs=2, default=(0.08, 1.0))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=12, help="in each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="also write every round there, as JSON")
    arguments = parser.parse_args()
    common = (tuple(arguments.crop_scale), arguments.batch_size, arguments.rounds, arguments.batches)
    with tempfile.TemporaryDirectory() as work:
        folders = folders_of_images(arguments, Path(work))
        settings = [
            Setting(str(folder), name, cores, case, *common)
            for name, folder in folders.items()
            for cores in arguments.cores
            for case in arguments.cases
        ]
        measured = [in_child(measure, setting) for setting in settings]
        summaries = [summarise(results) for results in measured]
        print(table(summaries))
        on_gpu = [setting for setting in settings if setting.cores == max(arguments.cores)]
        report, gpu_results = gpu_report(on_gpu, summaries)
        print(f"\n{report}")
    if arguments.output is not None:
        every = [result for results in [*measured, gpu_results] for result in results]
        arguments.output.write_text(json.dumps({"summaries": summaries, "rounds": every}, indent=1) + "\n")


if __name__ == "__main__":
    main()
