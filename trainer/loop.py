"""Training, from the first step to the export. `train` reads from top to bottom; what it calls says what it does."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist

from trainer import checkpoint, events
from trainer.data_wait import DataWaitWatch
from trainer.distributed import StopRequest, agree, any_rank, mean_over_ranks
from trainer.errors import NonFiniteLossError
from trainer.evaluation.during_training import Scores, evaluate_run, main_metric
from trainer.feature_cache import step_losses
from trainer.finish import export_run
from trainer.job_dir import AttemptDir, CheckpointName, ExitRecord, JobDir, StartingPoint, write_json_atomically
from trainer.long_texts import find_long_texts, refuse_long_texts
from trainer.reporting import Reporter
from trainer.setup import Run, prepare
from trainer.spec import JobSpec
from trainer.startup_times import phase_ends, seconds_by_phase
from trainer.throughput import ThroughputMeter, model_flop_utilisation
from trainer.training_data import train_batches
from trainer.weights import read_logit_scale


def train(
    spec: JobSpec, *, job: JobDir, attempt: AttemptDir, resume: bool, device: torch.device, stop: StopRequest
) -> ExitRecord:
    """Train, evaluate, checkpoint and export one job; every rank calls it.

    Returns how it ended: `succeeded`, or `interrupted` when `stop` was asked for, with a checkpoint to go on from.

    Raises:
        NonFiniteLossError: on all ranks, naming the step and the last good checkpoint.
        DiskFullError: no room for a checkpoint; earlier ones are whole.
        UnusableSpecError: the spec does not fit the machine, the model or the data.
    """
    with Reporter(attempt, rank=dist.get_rank()) as reporter:
        reporter.write(events.Stage(stage="loading"))
        run = prepare(spec, job=job, attempt=attempt, device=device)
        engine, total_steps = run.engine, run.schedule.total_steps
        start = _start(run, job=job, attempt=attempt, resume=resume)
        step = start.step
        reporter.write(_started(run, step=step))
        if start.checkpoint is None:
            _warn_of_long_texts(run, reporter=reporter)
        scores = _evaluate_at_start(run, job=job, start=start, reporter=reporter)
        if spec.checkpoint.at_start and start.checkpoint is None:
            _save(run, job=job, attempt=attempt, step=step, scores=scores, reporter=reporter)

        phase_ends("state")
        reporter.write(events.Stage(stage="training"))
        meter = ThroughputMeter(samples_per_step=spec.batch.global_size, remaining_steps=total_steps - step)
        data_wait = DataWaitWatch(run)
        first_bad_step = torch.full((), torch.inf, device=device)
        with train_batches(run, start_step=step) as batches:
            while step < total_steps:
                engine.train(not spec.model.eval_mode)
                lr = run.schedule.apply(engine.optimizer.param_groups, step=step)
                step_loss = torch.zeros((), device=device)
                step_batches = meter.waiting_for(batches, count=run.accumulation)
                for loss in step_losses(run.objective, engine, step_batches, cached=run.split.cached):
                    engine.backward(loss)
                    engine.step()
                    step_loss += loss.detach() / run.accumulation
                step += 1
                meter.count_step()
                _tell_startup(step - start.step, reporter=reporter)
                first_bad_step = torch.where(step_loss.isfinite(), first_bad_step, first_bad_step.clamp(max=step))

                stopping = step < total_steps and any_rank(stop.reason is not None)
                evaluating, saving = run.evaluates_at(step), stopping or run.saves_at(step)
                if step == 1 or step % spec.log_every_steps == 0 or saving or evaluating:
                    run.bad_samples.report(reporter)
                    _refuse_non_finite(first_bad_step, job=job)
                    logged = _step_event(run, step=step, lr=lr, loss=step_loss, meter=meter)
                    reporter.write(logged)
                    with meter.paused():
                        data_wait.look(logged, reporter=reporter)
                with meter.paused():
                    if evaluating and not stopping:
                        reporter.write(events.Stage(stage="evaluating"))
                        scores = evaluate_run(run, step=step, reporter=reporter)
                        run.bad_samples.report(reporter)
                        reporter.write(events.Stage(stage="training"))
                    if saving:
                        _save(run, job=job, attempt=attempt, step=step, scores=scores, reporter=reporter)
                if stopping:
                    return _ended("interrupted", "signal", f"stopped at step {step}: {stop.reason}", step=step)

        reporter.write(events.Stage(stage="exporting"))
        reporter.write(export_run(run, job=job, reporter=reporter))
        run.bad_samples.report(reporter, bounded=False)  # what was found since; the model is there
        return _ended("succeeded", "completed", f"finished after {step} steps", step=step)


def _tell_startup(steps: int, *, reporter: Reporter) -> None:
    if steps == 1:
        phase_ends("first_step")
        reporter.write(events.Startup(seconds=seconds_by_phase()))


def _start(run: Run, *, job: JobDir, attempt: AttemptDir, resume: bool) -> StartingPoint:
    """Fix where this attempt begins, once and for all ranks, and load it."""
    latest = job.published_checkpoints()[-1:] if resume else []
    start = agree(
        StartingPoint(checkpoint=str(latest[0]), step=latest[0].step)
        if latest
        else StartingPoint(checkpoint=None, step=0)
    )
    if run.rank == 0:
        write_json_atomically(attempt.start, start)
    if start.checkpoint is not None:
        name = CheckpointName.parse(start.checkpoint)
        assert name is not None
        run.objective.state = checkpoint.load(run.engine, job=job, name=name)
    return start


def _warn_of_long_texts(run: Run, *, reporter: Reporter) -> None:
    """Rank 0 counts them; all ranks stop if they are refused."""
    remarks = agree(find_long_texts(run.spec, model=run.model, manifests=run.manifests) if run.rank == 0 else [])
    refuse_long_texts(run.spec, remarks=remarks)
    for remark in remarks:
        reporter.write(events.Message(level="warn", message=f"{remark}; they are cut"))


def _evaluate_at_start(run: Run, *, job: JobDir, start: StartingPoint, reporter: Reporter) -> Scores:
    """Evaluate what training begins from, if asked to, or what an interrupted attempt had no time to evaluate."""
    if start.checkpoint is None:
        wanted = run.spec.evaluation.before_training or run.spec.checkpoint.at_start
    else:
        folder = job.checkpoints / start.checkpoint
        wanted = run.evaluates_at(start.step) and not checkpoint.read_record(folder).raw_metrics
    if not wanted:
        return Scores()
    reporter.write(events.Stage(stage="evaluating"))
    scores = evaluate_run(run, step=start.step, reporter=reporter)
    if start.checkpoint is not None and run.rank == 0:
        ranked_by = scores.by_record_field(main_metric(run), wanted=run.spec.export.weights)
        checkpoint.add_metrics(folder, metrics=ranked_by)
    dist.barrier()
    return scores


def _save(run: Run, *, job: JobDir, attempt: AttemptDir, step: int, scores: Scores, reporter: Reporter) -> None:
    """Publish a checkpoint and remove those that the policy no longer keeps."""
    name = CheckpointName(step, attempt.number)
    current = scores if scores.step == step else Scores()
    record = checkpoint.CheckpointRecord(
        step=step,
        attempt=attempt.number,
        world_size=run.world_size,
        micro_size=run.micro_size,
        compared=run.split.compared,
        spec=run.spec,
        **current.by_record_field(main_metric(run), wanted=run.spec.export.weights),
    )
    checkpoint.save(run.engine, job=job, name=name, record=record, objective_state=run.objective.state)
    reporter.write(events.CheckpointSaved(step=step, name=str(name), metrics=record.metrics))
    if run.rank == 0:
        for old in checkpoint.superseded(job, spec=run.spec.checkpoint, metric=main_metric(run)):
            checkpoint.remove(job, old)
            reporter.write(events.CheckpointRemoved(name=str(old)))


def _refuse_non_finite(first_bad_step: torch.Tensor, *, job: JobDir) -> None:
    worst = first_bad_step.clone()
    dist.all_reduce(worst, op=dist.ReduceOp.MIN)
    if worst.isfinite():
        good = [str(name) for name in job.published_checkpoints() if name.step < worst]
        raise NonFiniteLossError(
            f"the loss is not finite at step {int(worst.item())}; "
            f"last good checkpoint: {good[-1] if good else 'none'}. Try a lower optim.lr or clip_grad_norm"
        )


def _started(run: Run, *, step: int) -> events.Started:
    parameters = list(run.replica.module.parameters())
    return events.Started(
        start_step=step,
        total_steps=run.schedule.total_steps,
        steps_per_epoch=run.steps_per_epoch,
        num_samples=len(run.manifests["train"]),
        world_size=run.world_size,
        micro_size=run.micro_size,
        accumulation=run.accumulation,
        cached=run.split.cached,
        device=torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "cpu",
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable=sum(getattr(p, "ds_numel", p.numel()) for p in run.engine.module.parameters() if p.requires_grad),
        pids=_all_pids(),
    )


def _all_pids() -> list[int]:
    pids: list[int | None] = [None] * dist.get_world_size()
    dist.all_gather_object(pids, os.getpid())
    return [pid for pid in pids if pid is not None]


def _step_event(run: Run, *, step: int, lr: float, loss: torch.Tensor, meter: ThroughputMeter) -> events.Step:
    """One logged step; the only place where the host waits for the device."""
    mean_loss = mean_over_ranks(loss).item()
    rate, wait_share, seconds_left = meter.read()
    grad_norm = run.engine.get_global_grad_norm()
    logit_scale = read_logit_scale(run.engine)
    return events.Step(
        step=step,
        epoch=step / run.steps_per_epoch,
        loss=mean_loss,
        lr=lr,
        grad_norm=None if grad_norm is None else events.finite_or_none(float(grad_norm)),
        logit_scale=logit_scale,
        images_per_s=rate,
        data_wait_share=wait_share,
        mfu=model_flop_utilisation(
            flops_per_sample=run.flops_per_sample, samples_per_s=rate, world_size=run.world_size, device=run.device
        ),
        eta_s=seconds_left,
    )


def _ended(status: str, reason: str, message: str, *, step: int) -> ExitRecord:
    return ExitRecord.model_validate(
        {"status": status, "reason": reason, "message": message, "step": step, "time": time.time()}
    )
