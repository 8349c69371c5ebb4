"""What an engine remembers beside its parameters."""

import json
from types import SimpleNamespace

import deepspeed
import deepspeed.comm.comm
import pytest
import torch.distributed as dist
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from trainer.parameter_state import _engine_state, _restore_engine_state


@pytest.fixture
def one_rank(free_port):
    """An overflow is told by rank 0, so that there has to be one."""
    address = f"tcp://127.0.0.1:{free_port}"
    deepspeed.init_distributed("gloo", False, init_method=address, rank=0, world_size=1, verbose=False)
    yield
    dist.destroy_process_group()
    deepspeed.comm.comm.cdb = None


def engine_with(scaler, *, steps=0):
    counters = {"global_steps": steps, "global_samples": 8 * steps, "skipped_steps": steps // 4}
    return SimpleNamespace(optimizer=SimpleNamespace(loss_scaler=scaler), **counters)


def dynamic_scaler(*, scale):
    return DynamicLossScaler(
        init_scale=scale,
        scale_window=4,
        min_scale=1,
        delayed_shift=2,
        consecutive_hysteresis=False,
    )


@pytest.mark.usefixtures("one_rank")
def test_loss_scaling_goes_on_where_it_was():
    """Overflows come and go; a scaler that is restored in between does what the other one does."""
    overflows = [True, False, True, *[False] * 6, True, True, *[False] * 9]
    undisturbed = dynamic_scaler(scale=2**16)
    for number, overflow in enumerate(overflows):
        if number == 7:
            resumed = dynamic_scaler(scale=2**10)
            state = json.loads(json.dumps(_engine_state(engine_with(undisturbed, steps=7))))
            other = engine_with(resumed)
            _restore_engine_state(other, state)
            assert (other.global_steps, other.global_samples, other.skipped_steps) == (7, 56, 1)
        undisturbed.update_scale(overflow)
        if number >= 7:
            resumed.update_scale(overflow)
            assert resumed.loss_scale == undisturbed.loss_scale
    assert undisturbed.loss_scale != 2**16


def test_a_precision_without_scaling_takes_nothing_over():
    other = engine_with(None)
    _restore_engine_state(other, _engine_state(engine_with(dynamic_scaler(scale=2**16), steps=3)))
    assert (other.global_steps, other.optimizer.loss_scaler) == (3, None)
