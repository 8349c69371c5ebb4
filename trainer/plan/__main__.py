"""The child process behind `attune plan`: a spec as JSON on standard input, its plan as JSON on standard output.

Exit codes: 0, or 2 for a job that cannot be run as it is described; standard output then says why.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from trainer.errors import TrainingError
from trainer.plan.assemble import Assumptions, make_plan
from trainer.spec import JobSpec


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trainer.plan", description="Plan a job that is given as JSON.")
    parser.add_argument("--num-train", type=int, help="training images, in place of data")
    parser.add_argument("--num-classes", type=int, help="classes of the training data")
    parser.add_argument("--devices", type=int, help="ranks, on all nodes together")
    parser.add_argument("--lr-at", type=_steps, help="steps to tell the learning rate of, such as 0,499")
    given = parser.parse_args()
    assumptions = Assumptions(given.num_train, given.num_classes, given.devices, given.lr_at)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries have to say is no part of the plan
            plan = make_plan(JobSpec.model_validate_json(sys.stdin.read()), assumptions=assumptions)
    except TrainingError as error:
        print(error)
        return 2
    print(json.dumps(plan, indent=1))
    return 0


def _steps(text: str) -> tuple[int, ...]:
    return tuple(int(step) for step in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
