"""Stands where `trainer.preflight` stands: looks whether the training folder is there. `--job-dir DIR`."""

import sys
from pathlib import Path

from trainer.job_dir import DataProblem, JobDir, PreflightReport, write_json_atomically

job = JobDir(Path(sys.argv[2]))
folder = job.read_spec().data.train.path
problems = []
if not Path(folder).is_dir():
    problems.append(DataProblem(field="data.train.path", message=f"folder {folder!r} does not exist"))
print("the data was looked at", flush=True)
write_json_atomically(job.preflight_report, PreflightReport(ok=not problems, problems=problems))
