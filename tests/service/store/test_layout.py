"""The tables that the migrations make are those that the code describes."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from service.store.store import Store
from service.store.tables import metadata


def test_migrations_make_the_tables_that_the_code_describes(store: Store) -> None:
    with store.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
        assert compare_metadata(context, metadata) == []


def test_migrations_make_the_same_indexes(store: Store) -> None:
    with store.database.read() as connection:
        found = inspect(connection)
        for table in metadata.sorted_tables:
            made = {index["name"]: index["column_names"] for index in found.get_indexes(table.name)}
            unique = {constraint["name"] for constraint in found.get_unique_constraints(table.name)}
            described = {str(index.name): [column.name for column in index.columns] for index in table.indexes}
            assert {name: columns for name, columns in made.items() if name not in unique} == described, table.name
