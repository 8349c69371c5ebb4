"""One rank of a small training that is cut in two: RANK and WORLD_SIZE are in the environment.

    python elastic_program.py PLAN.json

The plan is a list of runs: a ZeRO stage and precision, a folder to load from, one to save into, and how many steps to
do afterwards. Rank 0 prints a JSON line with the losses of each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from trainer import distributed
from trainer.ema import track_average
from trainer.parameter_state import load_state, save_state

BATCH, WIDTH = 8, 6


class Model(nn.Module):
    """Odd sizes, so that parts of parameters end anywhere; something frozen, a buffer, and a lone number."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(WIDTH, 7).requires_grad_(False)
        self.norm = nn.LayerNorm(7)
        self.register_buffer("shift", torch.zeros(7))
        self.hidden = nn.Linear(7, 11)
        self.out = nn.Linear(11, 3, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.frozen(inputs) + self.shift.to(inputs.dtype))
        return self.scale * self.out(torch.tanh(self.hidden(hidden)))


def build_engine(run: dict, world_size: int):
    torch.manual_seed(run.get("seed", 0))
    model = Model()
    model.shift.fill_(run.get("seed", 0) + 0.25)
    groups = [
        {"params": [*model.hidden.parameters(), *model.norm.parameters()], "lr": 0.03, "weight_decay": 0.1},
        {"params": [*model.out.parameters()], "lr": 0.02},
        {"params": [model.scale], "lr": 0.01},
    ]
    classes = {"adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam, "sgd": torch.optim.SGD}
    options = {"momentum": 0.9} if run["optimizer"] == "sgd" else {}
    optimizer = classes[run["optimizer"]](groups, **options)
    track_average(optimizer, decay=0.5)
    config = {
        "train_batch_size": BATCH,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": BATCH // (4 * world_size),
        "zero_optimization": {"stage": run["stage"], **run.get("zero", {})},
        "torch_autocast": {"enabled": run["precision"] == "amp_bf16", "dtype": "bfloat16"},
        "bf16": {"enabled": run["precision"] == "bf16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def train(engine, *, first_step: int, steps: int) -> list[float]:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    dtype = next(engine.module.parameters()).dtype
    losses = []
    for step in range(first_step, first_step + steps):
        draw = torch.Generator().manual_seed(step)
        inputs, targets = torch.randn(BATCH, WIDTH, generator=draw), torch.randn(BATCH, 3, generator=draw)
        total = torch.zeros(())
        for start in range(4 * rank, BATCH, 4 * world_size):
            part = slice(start, start + 4)
            loss = (engine(inputs[part].to(dtype)).float() - targets[part]).square().mean()
            engine.backward(loss)
            engine.step()
            total += loss.detach() * 4 / BATCH
        dist.all_reduce(total)
        losses.append(total.item())
    return losses


def main() -> None:
    distributed.join()
    for run in json.loads(Path(sys.argv[1]).read_text()):
        engine = build_engine(run, dist.get_world_size())
        losses = []
        if run.get("load"):
            load_state(engine, Path(run["load"]))
        if run.get("before"):
            losses += train(engine, first_step=0, steps=run["before"])
        if run.get("save"):
            folder = Path(run["save"])
            folder.mkdir(parents=True, exist_ok=True)
            save_state(engine, folder)
            dist.barrier()
        losses += train(engine, first_step=run.get("first_step", run.get("before", 0)), steps=run["steps"])
        if dist.get_rank() == 0:
            print(json.dumps({"name": run["name"], "losses": losses, "global_steps": engine.global_steps}), flush=True)
        engine.destroy()
    distributed.leave()


if __name__ == "__main__":
    main()
