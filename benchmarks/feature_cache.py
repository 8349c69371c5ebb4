"""Compare the gradients of feature caching with those of one big batch, parameter by parameter, under each ZeRO stage.

    python benchmarks/feature_cache.py [--stages 0 1 2 3] [--ranks 2] [--micro-size 16] [--accumulation 4] [--json FILE]

On CPU ranks in fp32, with DeepSpeed's own engines and the settings that jobs run with. Two engines have the same
weights and see the same images: one takes each rank's share as a single micro-batch, the other in several with
`objective.feature_cache`. Plain accumulation is measured too, to show what the cache is for.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import deepspeed
import numpy as np
import torch
import torch.multiprocessing as mp
from deepspeed.utils import safe_get_full_grad
from torch import Tensor

from dali_pipelines.loader import Batch
from trainer import distributed
from trainer.deepspeed_config import build_config
from trainer.feature_cache import step_losses
from trainer.models import load_clip
from trainer.objectives.fitting import fit_to_objective
from trainer.objectives.pairs import PairObjective
from trainer.objectives.texts import PromptTexts, tokenize_prompts
from trainer.objectives.token_tables import TokenTables
from trainer.spec import JobSpec

MODEL = "attune-tiny-32"
CLASS_NAMES = ("cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "mouse")


def gradients(
    *, stage: int, loss: str, accumulation: int, micro_size: int, cached: bool, rank: int, world_size: int
) -> tuple[dict[str, Tensor], float]:
    """The averaged gradient of every parameter, as the optimizer would see it, and this rank's mean loss."""
    spec = JobSpec.model_validate(
        {
            "model": MODEL,
            "objective": {"name": "class_prompts", "loss": loss},
            "batch": {"global_size": micro_size * accumulation * world_size},
            "parallel": {"zero_stage": stage, "precision": "fp32"},
        }
    )
    torch.manual_seed(0)
    model = fit_to_objective(load_clip(spec.model), objective=spec.objective)
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-3)
    config = build_config(spec, world_size=world_size, micro_size=micro_size)
    engine, *_ = deepspeed.initialize(model=model.module, optimizer=optimizer, config=config)
    engine.train()
    tokens = tokenize_prompts(CLASS_NAMES, ("a {}.", "the {}."), tokenize=model.tokenize, tables=TokenTables())
    objective = PairObjective(PromptTexts(tokens), loss=loss)
    mean_loss = 0.0
    batches = _batches(micro_size, accumulation, rank=rank, image_size=model.preprocess.image_size)
    for number, value in enumerate(step_losses(objective, engine, batches, cached=accumulation if cached else 1)):
        engine.backward(value)
        mean_loss += value.item() / accumulation
        if number < accumulation - 1:
            engine.step()
    found = {name: safe_get_full_grad(p).detach().clone() for name, p in engine.module.named_parameters()}
    engine.destroy()
    return found, mean_loss


def _batches(micro_size: int, accumulation: int, *, rank: int, image_size: int) -> list[Batch]:
    """This rank's samples of one step: the same whatever they are divided into."""
    generator = torch.Generator().manual_seed(100 + rank)
    size = micro_size * accumulation
    images = torch.randn(size, 3, image_size, image_size, generator=generator)
    labels = torch.randint(len(CLASS_NAMES), (size,), generator=generator)
    draws = torch.randint(2**31, (size,), generator=generator).numpy().astype(np.uint32)
    rows = np.arange(size) + rank * size
    parts = [slice(start, start + micro_size) for start in range(0, size, micro_size)]
    return [Batch(images[part], rows[part], labels[part], draws[part]) for part in parts]


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of any element, relative to the largest element."""
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def compare(rank: int, arguments: argparse.Namespace, port: int) -> None:
    """What one rank does; rank 0 writes the results."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(arguments.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    distributed.join()
    results = []
    for loss in arguments.losses:
        plain_differences: dict[str, float] = {}  # plain accumulation goes the same way under every stage
        for stage in arguments.stages:
            common = {"stage": stage, "loss": loss, "rank": rank, "world_size": arguments.ranks}
            many = {"accumulation": arguments.accumulation, "micro_size": arguments.micro_size}
            one = {"accumulation": 1, "micro_size": arguments.micro_size * arguments.accumulation}
            expected, expected_loss = gradients(**common, **one, cached=False)
            cached, cached_loss = gradients(**common, **many, cached=True)
            if not plain_differences:
                plain, _ = gradients(**common, **many, cached=False)
                plain_differences = {name: relative_difference(plain[name], expected[name]) for name in expected}
            results.append(
                {
                    "loss": loss,
                    "stage": stage,
                    "loss_difference": abs(cached_loss / expected_loss - 1),
                    "cached": {name: relative_difference(cached[name], expected[name]) for name in expected},
                    "plain": plain_differences,
                }
            )
    if rank == 0:
        print(table(results, arguments))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    distributed.leave()


def table(results: list[dict], arguments: argparse.Namespace) -> str:
    """Markdown: a row for each loss and stage."""
    whole, micro = arguments.micro_size * arguments.accumulation, arguments.micro_size
    lines = [
        f"{arguments.accumulation} x {micro} against 1 x {whole} on {arguments.ranks} ranks, fp32, {MODEL}; "
        "largest relative difference of any parameter's gradient",
        "",
        "| loss | ZeRO | with the cache | of parameter | logit_scale | plain accumulation |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        worst = max(result["cached"], key=result["cached"].__getitem__)
        lines.append(
            f"| {result['loss']} | {result['stage']} | {result['cached'][worst]:.1e} | {worst} "
            f"| {result['cached']['logit_scale']:.1e} | {max(result['plain'].values()):.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--losses", nargs="+", default=["info_nce", "siglip"], choices=["info_nce", "siglip"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--micro-size", type=int, default=16)
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write every parameter's difference there")
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(compare, args=(arguments, port), nprocs=arguments.ranks)


if __name__ == "__main__":
    main()
