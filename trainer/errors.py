"""What can be wrong with a job that a person can mend. Each carries the reason that `exit.json` gives."""

from __future__ import annotations


class TrainingError(Exception):
    """Base; the text is one sentence that names the field or file and what is allowed."""

    reason = "error"


class UnusableSpecError(TrainingError, ValueError):
    """The spec does not fit the machine, the model or the data."""

    reason = "bad_spec"


class UnusableDataError(TrainingError, ValueError):
    """The data cannot be trained on."""

    reason = "bad_data"


class NonFiniteLossError(TrainingError, ArithmeticError):
    """The loss became infinite or not a number."""

    reason = "non_finite_loss"


class DiskFullError(TrainingError, OSError):
    """There is no room for a checkpoint; those saved before are whole."""

    reason = "disk_full"
