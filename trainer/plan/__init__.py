"""What a job would be, before anything is downloaded or a GPU is taken: parameters, groups, steps, FLOPs, memory.

    python -m trainer.plan [--num-train N] [--num-classes C] [--devices N] [--lr-at 0,499] < spec.json

The spec comes in as JSON, whole, and the plan goes out as JSON; `attune plan` is the command for people.
"""
