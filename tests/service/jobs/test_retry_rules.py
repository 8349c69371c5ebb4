from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.jobs.retry_rules import Ending, RetryRule, RetryRulesError, default_rules, find_rule, read_rules
from service.launchers.memory_kills import describe_kill
from service.store.records import EndReason

GPU_MEMORY = """\
[rank3]: Traceback (most recent call last):
[rank3]:   File "/opt/attune/trainer/loop.py", line 64, in train
[rank3]:     engine.backward(loss)
[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.25 GiB. GPU 3 has a total capacity of 79.14 \
GiB of which 1.02 GiB is free. Including non-PyTorch memory, this process has 78.10 GiB memory in use."""
CUBLAS = "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
CPU_MEMORY = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 34359738368 bytes. Error code 12 (Cannot allocate memory)"
)
PYTHON_MEMORY = "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 14.9 GiB for an array with shape (2, 1)"
SLURM_MEMORY = (
    "slurmstepd: error: Detected 1 oom_kill event in StepId=1234.0. Some of the step tasks have been OOM Killed."
)
KERNEL_MEMORY = "Memory cgroup out of memory: Killed process 4711 (python) total-vm:48731324kB, anon-rss:33423112kB"
RAY_MEMORY = (
    "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.\nMemory on the node (IP: "
    "10.0.0.7, ID: ab12) where the task was running was 62.31GB / 64.00GB (0.973), which exceeds the memory usage "
    "threshold of 0.95."
)
NCCL_TIMEOUT = (
    "[rank1]:[E1121 09:14:51.421 ProcessGroupNCCL.cpp:685] [Rank 1] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=1183, OpType=ALLREDUCE, NumelIn=4194304, NumelOut=4194304, Timeout(ms)=1800000) ran for 1800044 "
    "milliseconds before timing out."
)
NCCL_REMOTE = (
    "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "
    "remote process exited or there was a network error, NCCL version 2.28.3\nncclRemoteError: A call failed possibly "
    "due to a network error or a remote process exiting prematurely."
)
GLOO_TIMEOUT = (
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for "
    "recv operation to complete"
)
STORE_TIMEOUT = (
    "torch.distributed.DistNetworkError: The client socket has timed out after 60000ms while trying to connect to "
    "(10.0.0.4, 29500)."
)
PORT = (
    "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: "
    "29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"
)
ECC = "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"
BUSY = "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable"
ASSERT = "torch.AcceleratorError: CUDA error: device-side assert triggered"
KILLED = "[2026-11-21 09:18:43,368] [ERROR] [launch.py:259:sigkill_handler] ['python'] exits with return code = -9"


@pytest.mark.parametrize(
    ("reason", "text", "name"),
    [
        (EndReason.OUT_OF_MEMORY, "it was too much", "out_of_memory"),
        *((EndReason.CRASHED, text, "killed_for_memory") for text in (GPU_MEMORY, CUBLAS, CPU_MEMORY, PYTHON_MEMORY)),
        *((EndReason.CRASHED, text, "killed_for_memory") for text in (SLURM_MEMORY, KERNEL_MEMORY, RAY_MEMORY)),
        (EndReason.ERROR, f"RuntimeError: in a worker\n{CPU_MEMORY}", "killed_for_memory"),
        *((EndReason.CRASHED, text, "broken_network") for text in (NCCL_TIMEOUT, NCCL_REMOTE, GLOO_TIMEOUT)),
        *((EndReason.ERROR, text, "broken_network") for text in (STORE_TIMEOUT, PORT)),
        *((EndReason.ERROR, text, "broken_device") for text in (ECC, BUSY)),
        (EndReason.ERROR, ASSERT, None),
        (EndReason.ERROR, "KeyError: 'image'", None),
        (EndReason.BAD_DATA, CPU_MEMORY, "unusable"),
        (EndReason.BAD_SPEC, "model.freeze: nothing matches", "unusable"),
        (EndReason.NON_FINITE_LOSS, "the loss is not finite", "unusable"),
        (EndReason.LAUNCH_FAILED, "no such program", "unusable"),
        (EndReason.DISK_FULL, "no room left for a checkpoint", "disk_full"),
        (EndReason.NODE_LOST, "", "machine_lost"),
        (EndReason.ENGINE_LOST, "", "machine_lost"),
        (EndReason.PREEMPTED, "", "preempted"),
        (EndReason.STALLED, "", "stalled"),
        (EndReason.INTERRUPTED, "", "interrupted"),
        (EndReason.CRASHED, KILLED, "crashed"),
        (EndReason.CRASHED, f"{KILLED}\n{describe_kill()}", "killed_for_memory"),
        (EndReason.CRASHED, "", "crashed"),
    ],
)
def test_the_default_rules_know_an_end_by_reason_and_last_words(reason: EndReason, text: str, name: str | None) -> None:
    rule = find_rule(default_rules(), Ending(reason, text))
    assert (None if rule is None else rule.name) == name


def test_a_wait_grows_up_to_its_limit() -> None:
    rule = RetryRule(
        name="slow", reasons=(EndReason.CRASHED,), action="retry", backoff_s=2, backoff_factor=3, max_backoff_s=20
    )
    assert [rule.wait_s(times) for times in (1, 2, 3, 4, 5000)] == [2, 6, 18, 20, 20]


def test_everything_that_a_rule_asks_for_must_fit() -> None:
    rule = RetryRule(name="both", pattern="(?i)storage.*gone", exit_codes=(3, -9), action="retry_elsewhere")
    assert rule.fits(Ending(EndReason.ERROR, "first\nOSError: Storage is gone", 3))
    assert not rule.fits(Ending(EndReason.ERROR, "OSError: Storage is gone", 1))
    assert not rule.fits(Ending(EndReason.ERROR, "something", -9))


@pytest.mark.parametrize("write", [json.dumps, lambda rules: "\n".join(f"- {json.dumps(rule)}" for rule in rules)])
def test_rules_of_ones_own_come_from_json_or_yaml(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "rules.yaml"
    path.write_text(write([{"name": "assert", "pattern": "device-side assert", "action": "retry", "max_in_row": 2}]))
    own = read_rules(path)
    rule = find_rule((*own, *default_rules()), Ending(EndReason.ERROR, ASSERT))
    assert rule is not None
    assert (rule.name, rule.max_in_row) == ("assert", 2)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([{"name": "a", "pattern": "(", "action": "retry"}], ["0.pattern", "regular expression"]),
        ([{"name": "a", "action": "retry"}], ["'a'", "fits everything"]),
        ([{"name": "a", "reasons": ["tired"], "action": "retry"}], ["0.reasons.0", "tired"]),
        ([{"name": "a", "exit_codes": [1], "action": "give up"}], ["0.action", "give up"]),
        ([{"name": "a", "exit_codes": [1], "action": "fail", "retries": 3}], ["retries"]),
        ([{"name": "a", "exit_codes": [1], "action": "fail"}] * 2, ["'a'", "several"]),
        ({"name": "a"}, ["the file"]),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place(tmp_path: Path, rules: object, words: list[str]) -> None:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(rules))
    with pytest.raises(RetryRulesError) as caught:
        read_rules(path)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetryRulesError, match="nowhere"):
        read_rules(tmp_path / "nowhere.yaml")
