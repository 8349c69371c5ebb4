"""Alembic migrations, append-only; `Store.upgrade` runs them."""
