"""Fine-tune a model: the DeepSpeed entry point.

    deepspeed trainer/run.py --spec job.yaml [--set optim.lr=1e-5 ...] [--job-dir DIR] [--resume]

Writes the job folder drawn in `trainer.job_dir`. The exit code counts for one process only: the `deepspeed`
launcher reports its own, so read `attempts/NNNN/exit.json`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # a script's own folder would shadow other modules


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; `--local_rank` is the launcher's."""
    parser = argparse.ArgumentParser(prog="deepspeed trainer/run.py", description="Fine-tune a CLIP-family model.")
    parser.add_argument("--spec", type=Path, help="YAML or JSON job spec")
    parser.add_argument("--recipe", help="recipe to start from")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="PATH=VALUE")
    parser.add_argument("--job-dir", type=Path, help="job folder; by default jobs/<time> in the current folder")
    parser.add_argument("--attempt", type=int, help="number of this attempt; by default the next one")
    parser.add_argument("--resume", action="store_true", help="go on from the latest checkpoint in the job folder")
    parser.add_argument("--deepspeed_config", help="DeepSpeed JSON file in place of parallel.zero_stage")
    parser.add_argument("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> int:
    """Run one attempt; 0 succeeded, 1 failed, 2 bad spec or data, 75 interrupted."""
    from trainer.attempt import run_attempt

    return run_attempt(parse_arguments())


if __name__ == "__main__":
    sys.exit(main())
