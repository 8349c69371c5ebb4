"""What an evaluation tells: a table on the terminal, `results.json`, a list of predictions, and the report folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as RichTable

from dali_pipelines.manifest import Manifest
from trainer.evaluation.calibration import calibration_bins
from trainer.evaluation.domains import by_domain, shift_summary, shift_table
from trainer.evaluation.exports import write_predictions
from trainer.evaluation.metrics import confusion_counts
from trainer.evaluation.report import write_report
from trainer.evaluation.request import Request
from trainer.evaluation.results import MAIN_METRIC, Result, long_table, metrics_table, per_class_table, per_domain_table
from trainer.evaluation.tables import Table
from trainer.job_dir import write_json_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(
    results: Sequence[Result], manifests: Mapping[str, Manifest], request: Request, arguments: argparse.Namespace
) -> None:
    """Write and show everything that the command line asks for; on one rank."""
    document = _document(results, request, arguments)
    if arguments.output is not None:
        write_json_atomically(arguments.output / "results.json", document)
    if arguments.predictions is not None:
        write_predictions(arguments.predictions, results, manifests)
    if arguments.report is not None:
        _write_report(results, document, request, arguments)
    if arguments.json:
        print(json.dumps(document, indent=1))
        return
    _show(long_table(results), title=request.model.name)
    for table in _shift_tables(results, request, whole=False).values():
        _show(table, title=table.title)
    for result in results:
        if result.per_domain:
            _show(per_domain_table(result), title=result.dataset)
        if arguments.per_class and result.per_class:
            _show(per_class_table(result), title=result.dataset)


def _document(results: Sequence[Result], request: Request, arguments: argparse.Namespace) -> dict[str, Any]:
    protocol = request.protocol
    subset = protocol.class_subset
    return {
        "model": request.model.name,
        "templates": list(request.templates),
        "own_templates": {name: list(templates) for name, templates in request.own_templates.items()},
        "precision": arguments.precision,
        "tta": protocol.views,
        "class_subset": subset if subset in (None, "data") else list(subset),
        "predict_over": None if subset is None else protocol.predict_over,
        "linear_probe": {"c": protocol.probe_c} if _measured(results, "linear_probe") else None,
        "knn": {"k": protocol.neighbours, "temperature": protocol.temperature} if _measured(results, "knn") else None,
        "in_distribution": request.in_distribution,
        "shift": {name: table.to_json() for name, table in _shift_tables(results, request).items()},
        "results": [result.to_dict() for result in results],
    }


def _measured(results: Sequence[Result], task: str) -> bool:
    return any(result.task == task for result in results)


def _shift_tables(results: Sequence[Result], request: Request, *, whole: bool = True) -> dict[str, Table]:
    """The summary and, for the `whole`, all metrics of each task; empty without a domain in distribution."""
    chosen = request.in_distribution
    if chosen is None:
        return {}
    domains = {task: by_domain(results, task) for task in dict.fromkeys(result.task for result in results)}
    tasks = [task for task, of in domains.items() if chosen in of and len(of) > 1]
    everywhere = [task for task in tasks if len(domains[task]) == len({result.dataset for result in results})]
    tables = {"shift": shift_summary(results, in_distribution=chosen)} if everywhere else {}
    if whole:
        tables |= {f"shift-{task}": shift_table(results, in_distribution=chosen, task=task) for task in tasks}
    return tables


def _write_report(
    results: Sequence[Result],
    document: Mapping[str, Any],
    request: Request,
    arguments: argparse.Namespace,
) -> None:
    tables = {"results": metrics_table(results)}
    tables |= _shift_tables(results, request)
    tables |= {f"by-domain-{_slug(result)}": per_domain_table(result) for result in results if result.per_domain}
    drawn = list(tables)
    tables |= {f"classes-{_slug(result)}": per_class_table(result) for result in results if result.per_class}
    write_report(
        arguments.report,
        tables=tables,
        figures=_figures(results, request),
        document=document,
        title=f"Evaluation of {request.model.name}",
        drawn=drawn,
    )


def _figures(results: Sequence[Result], request: Request) -> dict[str, Figure]:
    from trainer.evaluation import figures

    drawn: dict[str, Figure] = {}
    for task in dict.fromkeys(result.task for result in results):
        domains = by_domain(results, task)
        if len(domains) > 1:
            drawn[f"domains-{task}"] = figures.domains_figure(
                domains, in_distribution=request.in_distribution, metric=MAIN_METRIC[task], title=f"{task} by domain"
            )
    for result in results:
        outcomes, title = result.outcomes, f"{result.dataset}: {result.task}"
        if outcomes is None:
            continue
        if "ece" in result.metrics:
            bins = calibration_bins(outcomes.confidences, outcomes.correct)
            drawn[f"reliability-{_slug(result)}"] = figures.reliability_diagram(bins, title=title)
        counts = confusion_counts(outcomes, len(result.class_names))
        drawn[f"confusion-{_slug(result)}"] = figures.confusion_figure(counts, result.class_names, title=title)
        drawn[f"by-class-{_slug(result)}"] = figures.per_class_figure(result.per_class, title=title)
    return drawn


def _slug(result: Result) -> str:
    return f"{result.dataset}-{result.task}"


def _show(table: Table, *, title: str) -> None:
    shown = RichTable(title=title)
    for column in table.columns:
        shown.add_column(column.head, justify="left" if column.kind == "text" else "right")
    for row in table.shown():
        shown.add_row(*row)
    Console().print(shown)
