"""The transfer table: scores by model and domain, and the mean over the domains of what was measured, not of what is
shown."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.evaluation.tables import Column, Table


def transfer_table(scores: Mapping[str, Mapping[str, float]], *, title: str) -> Table:
    """A row a model and a column a domain, with the mean of its row.

    Args:
        scores: top-1 accuracy (0 to 1) by domain, by model; every model has the same domains.

    Raises:
        ValueError: the domains differ.
    """
    domains = list(next(iter(scores.values())))
    rows = []
    for model, own in scores.items():
        if list(own) != domains:
            raise ValueError(f"{model} has the domains {', '.join(own)}, the first model {', '.join(domains)}")
        rows.append((model, *own.values(), sum(own.values()) / len(own)))
    columns = (Column("backbone"), *(Column(domain, "fraction") for domain in domains), Column("mean", "fraction"))
    return Table(columns, tuple(rows), title)
