"""Between database rows and records, and the one way to page through a table."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, cast

from sqlalchemy import Column, Connection, Select, Table

from service.store.records import UnknownId

R = TypeVar("R")
Page = tuple[list[R], bool]
"""Records, and whether there are more."""


def record_of(kind: type[R], row: Any) -> R:
    """The record of class `kind` in a row that has at least its fields as columns."""
    names, values_in = _fields_among(cast(Any, kind), row._fields)
    return kind(**dict(zip(names, values_in(row), strict=True)))


@functools.lru_cache(maxsize=256)
def _fields_among(kind: Any, columns: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[Any], Any]]:
    """A record's field names, and what takes their values out of a row with these columns: asked for each row."""
    names = tuple(field.name for field in fields(kind))
    return names, operator.itemgetter(*map(columns.index, names))


def values_of(record: Any) -> dict[str, Any]:
    """The column values of a record, by name."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def newest_first(
    connection: Connection,
    query: Select[Any],
    *,
    kind: type[R],
    table: Table,
    order: Column[Any],
    after: str | None,
    limit: int,
    noun: str,
) -> Page[R]:
    """One page of `query`, newest first by the column `order`, and whether there is more.

    Raises:
        UnknownId: `after` is no id that the unpaged query would give.
    """
    return paged(
        connection, query, kind=kind, table=table, order=order, after=after, limit=limit, noun=noun, ascending=False
    )


def paged(
    connection: Connection,
    query: Select[Any],
    *,
    kind: type[R],
    table: Table,
    order: Column[Any],
    after: str | None,
    limit: int,
    noun: str,
    ascending: bool,
) -> Page[R]:
    """One page of `query` in the order of the column `order`, and whether there is more.

    Raises:
        UnknownId: `after` is no id that the unpaged query would give.
    """
    if after is not None:
        start = connection.execute(query.with_only_columns(order).where(table.c.id == after)).scalar_one_or_none()
        if start is None:
            raise UnknownId(noun, after)
        query = query.where(order > start if ascending else order < start)
    rows = connection.execute(query.order_by(order.asc() if ascending else order.desc()).limit(limit + 1)).all()
    return [record_of(kind, row) for row in rows[:limit]], len(rows) > limit
