"""What rank 0 finds out alone."""

import socket

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from trainer import distributed
from trainer.errors import UnusableDataError


def _on_rank(rank, port, results):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    calls = []

    def compute():
        calls.append(rank)
        return {"from": rank}

    def fail():
        raise UnusableDataError(f"no data on rank {rank}")

    answer = distributed.from_rank_0(compute)
    try:
        distributed.from_rank_0(fail)
        error = None
    except UnusableDataError as raised:
        error = str(raised)
    results[rank] = (answer, calls, error)
    dist.destroy_process_group()


@pytest.mark.slow
def test_rank_0_alone_computes_and_all_get_its_answer_or_its_complaint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_on_rank, args=(port, results), nprocs=2)
        found = dict(results)
    assert found[0] == ({"from": 0}, [0], "no data on rank 0")
    assert found[1] == ({"from": 0}, [], "no data on rank 0")


def test_without_ranks_the_answer_is_ones_own():
    assert distributed.from_rank_0(lambda: 3) == 3
