"""A run of a sweep: `JOB_DIR ATTEMPT`. Its accuracy is best at a learning rate of 1e-4; 10 steps, an evaluation each
second one. A job of the model's suffix `slow` waits for the file `go` in the job folder before each evaluation."""

import math
import os
import sys
import time
from pathlib import Path

from trainer.events import Evaluation, EventWriter, Exported, Started
from trainer.job_dir import ExitRecord, JobDir, write_json_atomically

job = JobDir(Path(sys.argv[1]))
attempt = job.attempt(int(sys.argv[2]))
spec = job.read_spec()
accuracy = math.exp(-abs(math.log10(spec.optim.lr) + 4))
shape = {"steps_per_epoch": 10, "num_samples": 10, "world_size": 1, "micro_size": 1, "device": "cpu"}
counts = {"num_parameters": 1, "num_trainable": 1, "pids": [os.getpid()]}
with EventWriter(attempt.events) as writer:
    writer.write(Started(start_step=0, total_steps=10, **shape, **counts))
    for step in (2, 4, 6, 8, 10):
        while spec.metadata.get("pace") == "slow" and step > 4 and not (job.path / "go").exists():
            time.sleep(0.02)
        metrics = {"top1": accuracy * step / 10}
        told = {"dataset": "validation", "task": "zero_shot", "weights": "raw", "num_samples": 1}
        writer.write(Evaluation(step=step, metrics=metrics, **told))
    job.export.mkdir(exist_ok=True)
    (job.export / "attune.json").write_text("{}")
    final = {"validation/top1": accuracy}
    writer.write(Exported(checkpoint="step-10-attempt-1", weights="raw", task="clip", metrics=final))
ended = ExitRecord(status="succeeded", reason="completed", message="done", step=10, time=time.time())
write_json_atomically(attempt.exit, ended)
