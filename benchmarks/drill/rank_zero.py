"""Rank 0 of a short job: everything that a training run does to its job folder, without training."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from typing import TYPE_CHECKING

from trainer import events, fence
from trainer.job_dir import CheckpointName, ExitRecord, JobDir, StartingPoint, write_json_atomically

if TYPE_CHECKING:
    from worker import Launch


class RankZero:
    """One attempt of a short job."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._job = JobDir(launch.job_dir)
        self._paths = self._job.attempt(launch.attempt)
        self._script = launch.script
        self._steps: int = self._script["steps"]
        published = self._job.published_checkpoints() if launch.resume else []
        self._start = published[-1] if published else None
        self._step = self._start.step if self._start else 0
        self._stop = False
        self._writer = events.EventWriter(self._paths.events)

    def run(self) -> int:
        """Train to the end, to a signal, or to what the script wants to happen; the exit code."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        name = None if self._start is None else str(self._start)
        write_json_atomically(self._paths.start, StartingPoint(checkpoint=name, step=self._step))
        self._writer.write(events.Stage(stage="loading"))
        if not self._peers_live(patience_s=30.0):
            return 1
        self._tell_start()
        parent = os.getppid()
        while self._step < self._steps and not self._stop:
            if os.getppid() != parent:
                if os.environ.get("ATTUNE_ORPHAN_GRACE_S") == "0":
                    return 1
                self._stop = True  # it has time to save, as the trainer does without its launcher
            elif not self._peers_live():
                return 1
            elif (ended := self._meet_its_end()) is not None:
                return ended
            else:
                self._train_one_step()
        if self._step < self._steps:
            self._save()
            return self._end("interrupted", "signal")
        self._export()
        return self._end("succeeded", "completed")

    def _on_sigterm(self, number: int, frame: object) -> None:
        self._stop = True

    def _peers_live(self, *, patience_s: float = 0.0) -> bool:
        from worker import peers_live

        return peers_live(self._launch, list(range(1, self._launch.world_size)), patience_s=patience_s)

    def _tell_start(self) -> None:
        pids = [
            int((self._launch.attempt_dir / f"rank-{number}.pid").read_text())
            for number in range(self._launch.world_size)
        ]
        micro_size = self._paths.read_overrides().get("micro_size", 4)
        self._writer.write(
            events.Started(
                start_step=self._step, total_steps=self._steps, steps_per_epoch=self._steps, num_samples=64,
                world_size=len(pids), micro_size=micro_size, device="cpu", num_parameters=1, num_trainable=1, pids=pids,
            )
        )  # fmt: skip

    def _meet_its_end(self) -> int | None:
        """Fail as the script wants, once half of the steps are done; or hang, deaf to signals, after the first."""
        end = self._script["end"]
        if end == "stall" and self._launch.attempt == 1 and self._step:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        if self._step < math.ceil(self._steps / 2):
            return None
        if end in ("bad_data", "non_finite_loss"):
            return self._end("failed", end)
        if end == "out_of_memory" and self._paths.read_overrides().get("micro_size", 4) > 2:
            return self._end("failed", "out_of_memory")
        if end == "crash_once" and self._launch.attempt == 1:
            os.abort()
        return None

    def _train_one_step(self) -> None:
        time.sleep(self._script["step_s"])
        self._step += 1
        self._writer.write(
            events.Step(
                step=self._step, epoch=self._step / self._steps, loss=1 / self._step, lr=1e-3, images_per_s=50.0,
                data_wait_share=0.25, eta_s=(self._steps - self._step) * self._script["step_s"],
            )
        )  # fmt: skip
        if self._step % self._script["checkpoint_every"] == 0:
            self._save()

    def _save(self) -> None:
        fence.require_own(self._paths.path)
        name = CheckpointName(self._step, self._launch.attempt)
        folder = self._job.checkpoint(name)
        if folder.exists():
            return
        temporary = folder.with_name(f".{name}")
        temporary.mkdir(parents=True, exist_ok=True)
        (temporary / "state.json").write_text(json.dumps({"step": self._step}))
        temporary.rename(folder)
        self._writer.write(
            events.CheckpointSaved(step=self._step, name=str(name), metrics={"validation/top1": self._step / 1000})
        )

    def _export(self) -> None:
        self._save()
        self._writer.write(events.Stage(stage="exporting"))
        fence.require_own(self._paths.path)
        self._job.export.mkdir(exist_ok=True)
        write_json_atomically(self._job.export / "attune.json", {"class_names": ["cat", "dog"], "templates": ["a {}"]})
        name = str(self._job.published_checkpoints()[-1])
        self._writer.write(
            events.Exported(checkpoint=name, weights="raw", task="clip", metrics={"validation/top1": 0.9})
        )

    def _end(self, status: str, reason: str) -> int:
        fence.require_own(self._paths.path)
        self._writer.close()
        message = f"the drill's worker ended: {reason}"
        ended = {"status": status, "reason": reason, "message": message, "step": self._step, "time": time.time()}
        write_json_atomically(self._paths.exit, ExitRecord.model_validate(ended))
        return 0 if status == "succeeded" else 1
