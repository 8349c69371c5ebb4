"""`attune train`: the same as `deepspeed trainer/run.py`, with the launch taken care of and an exit code to rely on.

Writes the job folder drawn in `trainer.job_dir`. Needs no service.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from service.cli.attempts import ForegroundRun
from service.cli.exits import DONE, FAILED, INTERRUPTED, USAGE, CommandError
from service.cli.output import JsonOption, console, print_error, print_json
from service.cli.specs import RecipeOption, SetOption, SpecOption, spec_from_options
from trainer.events import Started, read_events
from trainer.job_dir import AttemptDir, ExitRecord, JobDir, folder_problem, write_json_atomically
from trainer.spec import JobSpec
from trainer.spec_checks import check_divides


def train(
    spec: SpecOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    job_dir: Annotated[
        Path | None, typer.Option("--job-dir", help="Job folder. [default: jobs/TIME]", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint in --job-dir.")] = False,
    deepspeed_config: Annotated[
        Path | None,
        typer.Option("--deepspeed_config", help="DeepSpeed JSON file in place of parallel.zero_stage.", exists=True),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Train on this machine, without the service. Ctrl-C saves a checkpoint and exits with code 75."""
    changes = list(overrides or ())
    if deepspeed_config is not None:
        changes.append(f"parallel.deepspeed_config={deepspeed_config.resolve()}")
    job = JobDir((job_dir or Path("jobs") / time.strftime("%Y%m%d-%H%M%S")).resolve())
    given = spec_from_options(spec, recipe, changes) if spec or recipe or changes else None
    settled = _settle(job, given, resume=resume)
    ended, stop_requested = run_job(job, settled, resume=resume, output_to_stderr=json)
    return _conclude(job, ended, stop_requested=stop_requested, json=json)


def _settle(job: JobDir, given: JobSpec | None, *, resume: bool) -> JobSpec:
    """The spec in force; refuses to mix two jobs in one folder."""
    stored = job.read_spec() if job.spec.exists() else None
    if given is None and stored is None:
        raise CommandError(f"there is no job in {job.path}; give --spec, --recipe or --set", code=USAGE)
    spec = given or stored
    assert spec is not None
    if problem := folder_problem(job, spec=spec, resume=resume):
        raise CommandError(problem, code=USAGE)
    return spec


def run_job(job: JobDir, spec: JobSpec, *, resume: bool, output_to_stderr: bool) -> tuple[ExitRecord | None, bool]:
    """Run one more attempt; returns what its exit.json says, and whether it was asked to stop.

    Raises:
        CommandError: this machine has not the devices that the spec wants.
    """
    # Not at the top: NVML and DeepSpeed's whereabouts matter to this command alone.
    from service.launchers.base import Run, on_this_machine
    from service.launchers.local import LocalLauncher, free_port, launcher_command, trainer_script

    number = max((attempt.number for attempt in job.attempts()), default=0) + 1
    num_devices = spec.parallel.devices
    launcher = LocalLauncher(cpu_slots=num_devices if isinstance(num_devices, int) else 1)
    capacity = launcher.capacity()
    devices = _choose_devices(spec, available=capacity.devices)
    run = Run(job_id=str(job.path), attempt=number, job_dir=job.path, placement=on_this_machine(devices), resume=resume)
    if not job.spec.exists():
        write_json_atomically(job.spec, spec)
    where = launcher_command(devices, capacity, free_port())
    script = [trainer_script("run.py"), "--job-dir", str(job.path), "--attempt", str(number)]
    command = [*where, "--log_level", "error", *script, *(["--resume"] if resume else [])]
    foreground = ForegroundRun(command, tag=f"{job.path}/{number}", environment=launcher.environment(run))
    attempt = job.attempt(number)
    foreground.run(ranks=lambda: _living_ranks(attempt), output_to_stderr=output_to_stderr)
    return attempt.read_exit(), foreground.stop_requested


def _choose_devices(spec: JobSpec, *, available: tuple[int, ...]) -> tuple[int, ...]:
    if spec.parallel.nodes > 1:
        message = (
            f"parallel.nodes is {spec.parallel.nodes}, but this command runs on one machine; "
            "use: deepspeed --hostfile FILE trainer/run.py ..."
        )
        raise CommandError(message, code=USAGE)
    wanted = len(available) if spec.parallel.devices == "auto" else spec.parallel.devices
    if wanted > len(available):
        message = f"parallel.devices is {wanted}, but this machine has {len(available)} GPUs"
        raise CommandError(message, code=USAGE)
    if problem := check_divides(spec.batch.global_size, spec.batch.micro_size, wanted):
        raise CommandError(problem.message, code=USAGE)
    return available[:wanted]


def _living_ranks(attempt: AttemptDir) -> list[psutil.Process]:
    """The processes that the attempt's own `started` event names, as far as they live."""
    from service.launchers.processes import find_workers

    events, _ = read_events(attempt.events)
    started = [event for event in events if isinstance(event, Started)]
    return find_workers(started[-1].pids, started[-1].time) if started else []


def _conclude(job: JobDir, ended: ExitRecord | None, *, stop_requested: bool, json: bool) -> int:
    """Say how it ended, and the exit code for that."""
    if json:
        print_json({"job_dir": str(job.path), "exit": ended.model_dump() if ended else None})
    interrupted = stop_requested if ended is None else ended.status == "interrupted"
    if interrupted:
        where = ended.message if ended else "interrupted before the first step"
        print_error(f"{where}; go on with: attune train --resume --job-dir {job.path}")
        return INTERRUPTED
    if ended is None:
        print_error(f"the workers died without a word; go on with: attune train --resume --job-dir {job.path}")
        return FAILED
    if ended.status == "failed":
        print_error(ended.message)
        return USAGE if ended.reason in ("bad_spec", "bad_data") else FAILED
    if not json:
        console.print(f"model: {job.export}", markup=False, soft_wrap=True)
    return DONE
