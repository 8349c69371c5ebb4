"""A job goes on with other ranks and other ZeRO stages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer import events
from trainer.parameter_files import ParameterFiles

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("elastic_program.py")
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
KINDS = [
    (0, "fp32", "adamw", {}),
    (1, "fp32", "adamw", {}),
    (1, "bf16", "adamw", {}),
    (2, "amp_bf16", "adamw", {}),
    (2, "fp32", "nadam", OFFLOAD),
    (3, "fp32", "adamw", OFFLOAD | {"offload_param": {"device": "cpu"}}),
    (3, "amp_bf16", "adamw", {}),
]


def run_ranks(folder, plan, *, ranks, port):
    """Losses by the name of each run in the plan."""
    path = folder / f"plan-{ranks}-{plan[0]['name']}.json"
    path.write_text(json.dumps(plan))
    common = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(path)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(err[-3000:] for _, err in outputs)
    lines = [json.loads(line) for line in outputs[0][0].splitlines() if line.startswith("{")]
    return {line["name"]: line["losses"] for line in lines}


def assert_same_state(left, right):
    """All kinds of numbers of all parameters, bit by bit, whoever wrote which part of them."""
    ours, theirs = ParameterFiles(left / "parameters"), ParameterFiles(right / "parameters")
    assert ours.kinds() == theirs.kinds()
    assert {"master", "exp_avg", "exp_avg_sq", "ema", "scalars", "frozen", "buffers"} <= set(ours.kinds())
    for kind in ours.kinds():
        assert ours.names(kind) == theirs.names(kind)
        for name in ours.names(kind):
            assert torch.equal(ours.whole(kind, name), theirs.whole(kind, name)), (kind, name)


def test_any_ranks_and_stage_go_on_from_any_others(tmp_path, free_port):
    """Two ranks save; one rank goes on under every stage; two ranks go on again from what that one saved.

    Who goes on with another stage does so without offloading.
    """
    writing = [
        {"name": f"{stage}-{precision}", "stage": stage, "precision": precision, "optimizer": optimizer, "zero": zero,
         "before": 3, "save": str(tmp_path / f"two-{stage}-{precision}"), "steps": 3}
        for stage, precision, optimizer, zero in KINDS
    ]  # fmt: skip
    undisturbed = run_ranks(tmp_path, writing, ranks=2, port=free_port)

    def resuming(sources, *, suffix):
        """Each from its own and from the next stage's file, into a model that began otherwise."""
        return [
            {"name": f"{name}-to-{to}", "stage": to, "precision": precision, "optimizer": optimizer, "seed": 5,
             "zero": zero if to == stage else {}, "load": str(folder), "save": str(tmp_path / f"{suffix}-{name}-{to}"),
             "first_step": 3, "steps": 3}
            for (name, folder, (stage, precision, optimizer, zero)), to in sources
        ]  # fmt: skip

    def other(stage, precision):
        """The stage that one device gets by itself is 0, where the precision allows it."""
        return {0: 3, 1: 2 if precision == "bf16" else 0, 2: 1, 3: 2}[stage]

    sources = [
        ((f"{kind[0]}-{kind[1]}", tmp_path / f"two-{kind[0]}-{kind[1]}", kind), to)
        for kind in KINDS
        for to in (kind[0], other(kind[0], kind[1]))
    ]
    one = run_ranks(tmp_path, resuming(sources, suffix="one"), ranks=1, port=free_port)
    back = [((name, tmp_path / f"one-{name}-{to}", kind), to) for (name, _, kind), to in sources]
    two = run_ranks(tmp_path, resuming(back, suffix="back"), ranks=2, port=free_port)

    for stage, precision, *_ in KINDS:
        name = f"{stage}-{precision}"
        expected = undisturbed[name][3:]
        rounding = 1e-5 if precision == "fp32" else 2e-2
        for to in (stage, other(stage, precision)):
            assert_same_state(tmp_path / f"two-{name}", tmp_path / f"one-{name}-{to}")
            assert_same_state(tmp_path / f"two-{name}", tmp_path / f"back-{name}-{to}")
            assert one[f"{name}-to-{to}"] == pytest.approx(expected, rel=rounding)
            assert two[f"{name}-to-{to}"] == pytest.approx(expected, rel=rounding)
        assert two[f"{name}-to-{stage}"] == expected


@pytest.mark.nightly
def test_a_contrastive_job_goes_on_with_one_rank_and_the_same_negatives(launch, digits_spec):
    """Two ranks of ZeRO 1, then one of ZeRO 3: half as many samples at once, and the same pairs contrasted."""

    def options(**settings):
        return [
            "--spec", str(digits_spec), "--set", "schedule.max_steps=8", "--set", "checkpoint.every_steps=4",
            *(word for name, value in settings.items() for word in ("--set", f"parallel.{name}={value}")),
        ]  # fmt: skip

    run = launch("job", *options(zero_stage=1))
    assert run.wait().status == "succeeded", run.log.read_text()[-2000:]
    losses = run.steps()
    shutil.rmtree(run.job.checkpoints / "step-8-attempt-1")

    fewer = launch("job", *options(zero_stage=3, devices=1), "--resume", ranks=1)
    assert fewer.wait().status == "succeeded", fewer.log.read_text()[-2000:]
    found, _ = events.read_events(run.job.attempt(2).events)
    started = next(event for event in found if event.type == "started")
    assert (started.world_size, started.micro_size, started.accumulation, started.cached) == (1, 20, 2, 2)
    assert list(fewer.steps()) == [5, 6, 7, 8]
    assert fewer.steps() == pytest.approx({step: losses[step] for step in (5, 6, 7, 8)}, rel=1e-4)
    print({step: (losses[step], fewer.steps()[step]) for step in fewer.steps()})
