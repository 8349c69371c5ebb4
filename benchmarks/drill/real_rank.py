"""A rank of a real job: `trainer/run.py`, unchanged, in a process that holds its attempt's devices."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[0] = str(_HERE.parents[1])


def main() -> int:
    """Hold the devices of this node's part of the attempt, then train."""
    from benchmarks.drill.device_locks import hold
    from trainer.run import main as train

    job_dir = Path(sys.argv[sys.argv.index("--job-dir") + 1])
    attempt = sys.argv[sys.argv.index("--attempt") + 1]
    locks = Path(os.environ["DRILL_LOCKS"])
    for name in os.environ["DRILL_HELD"].split():
        hold(locks, name, tag=f"{job_dir.name}.{attempt}")
    return train()


if __name__ == "__main__":
    sys.exit(main())
