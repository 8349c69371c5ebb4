"""The store: everything that Attune's control plane remembers, and the only place that speaks SQL."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from service.store.attempts import Attempts
from service.store.checkpoints import Checkpoints
from service.store.engine import Database
from service.store.events import Events
from service.store.jobs import Jobs
from service.store.leases import Leases
from service.store.models import Models
from service.store.replicas import Replicas

MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """Repositories on one database. Threads may share a store; processes open their own."""

    def __init__(self, url: str) -> None:
        """Open the database at an SQLAlchemy `url`; run `upgrade` before first use."""
        self.database = Database(url)
        self.jobs = Jobs(self.database)
        self.attempts = Attempts(self.database)
        self.events = Events(self.database)
        self.checkpoints = Checkpoints(self.database)
        self.models = Models(self.database)
        self.leases = Leases(self.database)
        self.replicas = Replicas(self.database)

    def upgrade(self) -> None:
        """Bring the tables to this version's layout. Safe to run again, and from several processes on SQLite."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.database.migrate() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def check(self) -> None:
        """Raise SQLAlchemy's error if the database does not answer or has no tables."""
        with self.database.read() as connection:
            connection.execute(text("SELECT version_num FROM alembic_version")).one()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
