"""What `attune transfer` runs: `python -m trainer.transfer.command REQUEST`, where REQUEST is JSON (`Request`).

    OUTPUT/results.{json,csv,md,png}     the table, unless only features were asked for
    OUTPUT/feat/fe_MODEL_DOMAIN.csv      features
    OUTPUT/jobs.json, splits/, jobs/     fine-tuning

Exit codes: 0, or 2 for a model, data or a setting that cannot be used.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trainer.errors import TrainingError
from trainer.evaluation.report import write_report
from trainer.resolve import SpecError
from trainer.transfer import fine_tune, measure
from trainer.transfer.request import Request, Settled, settle
from trainer.transfer.table import transfer_table

_TITLES = {"zero-shot": "Zero-shot top-1 by domain", "fine-tune": "Top-1 after fine-tuning, by test domain"}


def carry_out(request: Request) -> None:
    """Do what one request asks for.

    Raises:
        TrainingError: a model, data or a setting cannot be used.
        SpecError: a job's spec is wrong.
    """
    settled = settle(request)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if request.mode == "features":
        measure.write_features(settled, request, device=device)
    elif request.mode == "zero-shot":
        _report(measure.accuracies(settled, request, device=device), settled, request)
    elif request.step == "prepare":
        fine_tune.prepare(settled, request)
    else:
        _report(fine_tune.accuracies(settled, request, device=device), settled, request)


def _report(scores: measure.Scores, settled: Settled, request: Request) -> None:
    table = transfer_table(scores, title=_TITLES[request.mode])
    document = {
        "mode": request.mode,
        "root": str(Path(request.root).absolute()),
        "models": settled.models,
        "domains": {domain: source.path for domain, source in settled.domains.items()},
        "templates": list(settled.templates),
        "leave_one_out": request.leave_one_out if request.mode == "fine-tune" else None,
    }
    write_report(Path(request.output), tables={"results": table}, document=document, title="Transfer")


def main(arguments: list[str]) -> int:
    """Run one request; 0 done, 2 refused."""
    request = Request.model_validate_json(arguments[0])
    try:
        carry_out(request)
    except (TrainingError, SpecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
