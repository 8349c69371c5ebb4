import time

import pytest
import torch

from trainer.throughput import ThroughputMeter, forward_flops, model_flop_utilisation, peak_flops


def test_pauses_do_not_count_and_waiting_does():
    begin = time.perf_counter()
    meter = ThroughputMeter(samples_per_step=10, remaining_steps=4)
    with meter.paused():
        time.sleep(0.5)
    resumed = time.perf_counter()
    slow = iter(lambda: time.sleep(0.05), "never")
    assert list(meter.waiting_for(slow, count=2)) == [None, None]
    waited = time.perf_counter() - resumed
    time.sleep(0.1)
    meter.count_step()
    rate, wait_share, left = meter.read()
    trained = time.perf_counter() - resumed
    assert trained <= 10 / rate + 0.05 < time.perf_counter() - begin
    assert wait_share == pytest.approx(waited / trained, rel=0.2)
    assert left == pytest.approx(3 * 10 / rate)


def test_each_reading_starts_a_new_interval():
    meter = ThroughputMeter(samples_per_step=1, remaining_steps=9)
    meter.count_step()
    meter.read()
    time.sleep(0.01)
    assert meter.read()[0] == 0


def test_flops_count_two_for_each_multiply_add():
    layer = torch.nn.Linear(8, 16, bias=False)
    assert forward_flops(layer, torch.zeros(4, 8)) == 2 * 4 * 8 * 16


def test_no_peak_is_made_up_for_a_cpu():
    cpu = torch.device("cpu")
    assert peak_flops(cpu) is None
    assert model_flop_utilisation(flops_per_sample=1, samples_per_s=1, world_size=1, device=cpu) is None
