"""One attempt at a job, from the command line to `exit.json`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from dali_pipelines.loader import BadSampleError
from dali_pipelines.storage import CacheTooSmallError, OutageError
from trainer import checkpoint, checkpoint_damage, distributed, events, fence, preflight
from trainer.distributed import StopRequest, agree
from trainer.errors import TrainingError, UnusableDataError, UnusableSpecError
from trainer.job_dir import (
    EXIT_INTERRUPTED,
    Attempt,
    AttemptDir,
    ExitRecord,
    JobDir,
    folder_problem,
    write_json_atomically,
)
from trainer.loop import train
from trainer.resolve import SpecError, SpecProblem, read_spec_file, resolve
from trainer.spec import JobSpec
from trainer.startup_times import phase_ends

# What torch says on the ranks that are left when another one dies: not their own failure.
_PEER_LOST = re.compile(r"(?i)connection (was )?(closed|reset|refused)|broken pipe|gloo|nccl|socket|peer")
# How allocators other than torch's on a GPU say that there is no room.
_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't|not enough memory)|(?i:out of memory)|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
    r"|cudaErrorMemoryAllocation|std::bad_alloc|Cannot allocate memory|could not create a memory object"
)
_EXIT_CODES = {"succeeded": 0, "failed": 1, "interrupted": EXIT_INTERRUPTED}


def run_attempt(arguments: argparse.Namespace) -> int:
    """Run an attempt on this rank and return the process's exit code."""
    phase_ends("imports")
    stop = StopRequest()
    stop.listen()
    stop.watch_launcher()
    device = distributed.join()
    phase_ends("process_group")
    job = JobDir(agree(_job_dir(arguments)))
    try:
        spec = _settle_spec(arguments, job=job)
    except SpecError as error:
        if dist.get_rank() == 0:
            print(f"bad spec\n{error}", file=sys.stderr)
        return 2
    attempt = job.attempt(agree(arguments.attempt or _next_number(job)))
    stop.watch_fence(attempt.path)
    try:
        _open_attempt(attempt, job=job, resume=arguments.resume)
        _require_good_data(spec, job=job, attempt=attempt)
        phase_ends("data_check")
        ended = train(spec, job=job, attempt=attempt, resume=arguments.resume, device=device, stop=stop)
    except Exception as error:
        ended = _failure(error, job=job)
        if ended is None:
            cause = "" if isinstance(error, OutageError) else "another rank is gone: "
            print(f"rank {dist.get_rank()}: {cause}{error}", file=sys.stderr)
            os._exit(1)  # a process group that lost a member cannot be left in order
        _record(ended, attempt)
        os._exit(2 if ended.reason in ("bad_spec", "bad_data") else 1)
    if dist.get_rank() == 0:
        _record(ended, attempt)
    distributed.leave()
    os._exit(_EXIT_CODES[ended.status])  # all is written; taking down CUDA, DALI and DeepSpeed in order takes seconds


def _job_dir(arguments: argparse.Namespace) -> Path:
    return (arguments.job_dir or Path("jobs") / time.strftime("%Y%m%d-%H%M%S")).resolve()


def _settle_spec(arguments: argparse.Namespace, *, job: JobDir) -> JobSpec:
    """The spec in the job folder, or a new one from the command line, which is then written there."""
    given = bool(arguments.spec or arguments.recipe or arguments.overrides or arguments.deepspeed_config)
    spec = _given_spec(arguments) if given or not job.spec.exists() else job.read_spec()
    if problem := agree(folder_problem(job, spec=spec, resume=arguments.resume)):
        raise SpecError([SpecProblem(field="job-dir", message=problem)])
    if dist.get_rank() == 0 and not job.spec.exists():
        write_json_atomically(job.spec, spec)
    return spec


def _given_spec(arguments: argparse.Namespace) -> JobSpec:
    overrides = list(arguments.overrides)
    if arguments.deepspeed_config:
        overrides.append(f"parallel.deepspeed_config={Path(arguments.deepspeed_config).resolve()}")
    content = read_spec_file(arguments.spec) if arguments.spec else {}
    return resolve(recipe=arguments.recipe, spec=content, overrides=overrides)


def _next_number(job: JobDir) -> int:
    attempts = job.attempts()
    return attempts[-1].number + 1 if attempts else 1


def _open_attempt(attempt: AttemptDir, *, job: JobDir, resume: bool) -> None:
    if dist.get_rank() == 0:
        checkpoint.remove_leftovers(job, before_attempt=attempt.number)
        if not attempt.record.exists():
            write_json_atomically(attempt.record, Attempt(number=attempt.number, resume=resume, created_at=time.time()))
    damaged = checkpoint_damage.set_damaged_aside(job) if resume else []
    if damaged and not job.published_checkpoints():
        damaged.append("no checkpoint is left to go on from: training begins anew")
    if damaged and dist.get_rank() == 0:
        _warn(damaged, attempt)


def _require_good_data(spec: JobSpec, *, job: JobDir, attempt: AttemptDir) -> None:
    """Rank 0 looks at the data unless that was done before; all ranks stop if it cannot be used."""
    report = job.read_preflight_report()
    if report is None and dist.get_rank() == 0:
        report = preflight.run(spec, job=job)
        # A service that looked at the data has shown what it found itself.
        _warn([str(problem) for problem in report.problems if not problem.fatal], attempt)
    report = agree(report)
    if not report.ok:
        raise UnusableDataError("; ".join(str(problem) for problem in report.problems if problem.fatal))


def _warn(messages: Sequence[str], attempt: AttemptDir) -> None:
    """Show what does not stop the job."""
    with events.EventWriter(attempt.events) as writer:
        for message in messages:
            writer.write(events.Message(level="warn", message=message))
            print(f"warn: {message}", flush=True)


def _failure(error: Exception, *, job: JobDir) -> ExitRecord | None:
    """How an error ends the attempt; None if another one may do better: a rank or the network is gone."""
    reason = _reason(error)
    if reason is None:
        return None
    if reason == "error":
        traceback.print_exc()
    message = f"{type(error).__name__}: {error}" if reason == "error" else str(error)
    steps = [name.step for name in job.published_checkpoints()]
    return ExitRecord(status="failed", reason=reason, message=message, step=max(steps, default=0), time=time.time())


def _reason(error: Exception) -> str | None:
    match error:
        case TrainingError():
            return error.reason
        case BadSampleError():
            return UnusableDataError.reason
        case CacheTooSmallError():
            return UnusableSpecError.reason
        case OutageError():
            return None  # the next attempt may find the network mended
        case torch.OutOfMemoryError() | MemoryError():
            return "out_of_memory"
        case RuntimeError() | OSError() if _NO_MEMORY.search(str(error)):
            return "out_of_memory"
        case dist.DistError() | fence.Fenced():
            return None
        case RuntimeError() if dist.get_world_size() > 1 and _PEER_LOST.search(str(error)):
            return None
    return "error"


def _record(ended: ExitRecord, attempt: AttemptDir) -> None:
    """Write exit.json unless another rank already said why the attempt ended.

    Raises:
        Fenced: the attempt was given up; its folder is left as it is.
    """
    fence.require_own(attempt.path)
    if attempt.exit.exists():
        return
    level = "error" if ended.status == "failed" else "info"
    with events.EventWriter(attempt.events) as writer:
        writer.write(events.Message(level=level, message=ended.message))
    write_json_atomically(attempt.exit, ended)
    stream = sys.stderr if ended.status == "failed" else sys.stdout
    print(f"{ended.status}: {ended.message}", file=stream, flush=True)
