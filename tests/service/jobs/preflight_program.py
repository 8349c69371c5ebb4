"""A stand-in for looking at data: `python preflight_program.py JOB_DIR`. JOB_DIR/preflight.txt says how it ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from trainer.job_dir import DataProblem, JobDir, PreflightReport, write_json_atomically

BAD = DataProblem(field="data.train.path", message="cat/1.jpg cannot be decoded")
ODD = DataProblem(field="data.train.path", message="class owl has one image", fatal=False)


def main(job: JobDir) -> None:
    plan = job.path / "preflight.txt"
    word = plan.read_text() if plan.exists() else "good"
    if word == "crash":
        print("segmentation of pixels", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    while word == "hang":
        time.sleep(0.1)
    problems = {"good": [], "odd": [ODD], "bad": [BAD, ODD]}[word]
    write_json_atomically(job.preflight_report, PreflightReport(ok=word != "bad", problems=problems))


if __name__ == "__main__":
    main(JobDir(Path(sys.argv[1])))
