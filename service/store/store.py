"""The store: everything that Attune's control plane remembers, and the only place that speaks SQL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, inspect, select, text

from service.store.attempts import Attempts
from service.store.audit import Audit
from service.store.checkpoints import Checkpoints
from service.store.engine import Database
from service.store.events import Events
from service.store.files import Files
from service.store.idempotency import IdempotencyKeys
from service.store.jobs import Jobs
from service.store.keys import Keys
from service.store.leases import Leases
from service.store.leftovers import Leftovers
from service.store.models import Models
from service.store.projects import USAGE_HALF_LIFE_S, Projects
from service.store.queue import Queue
from service.store.replicas import Replicas
from service.store.sweeps import Sweeps
from service.store.tables import metadata
from service.store.uploads import Uploads
from service.store.webhooks import WebhookDeliveries, Webhooks

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True)
class Layout:
    """What `attune db check` tells."""

    url: str
    revision: str | None
    """The migration that the tables are at; None for an empty database."""
    head: str
    """The migration that this version needs."""
    num_rows: dict[str, int]
    """By table."""

    @property
    def up_to_date(self) -> bool:
        """Whether this version can work with it."""
        return self.revision == self.head


class Store:
    """Repositories on one database. Threads may share a store; processes open their own."""

    def __init__(self, url: str, *, usage_half_life_s: float = USAGE_HALF_LIFE_S) -> None:
        """Open the database at an SQLAlchemy `url`; run `upgrade` before first use.

        `usage_half_life_s`: seconds after which what a project used counts half.
        """
        self.database = Database(url)
        self.usage_half_life_s = usage_half_life_s
        self.jobs = Jobs(self.database)
        self.queue = Queue(self.database)
        self.attempts = Attempts(self.database, usage_half_life_s=usage_half_life_s)
        self.events = Events(self.database)
        self.checkpoints = Checkpoints(self.database)
        self.models = Models(self.database)
        self.projects = Projects(self.database)
        self.keys = Keys(self.database)
        self.audit = Audit(self.database)
        self.leases = Leases(self.database)
        self.replicas = Replicas(self.database)
        self.files = Files(self.database)
        self.uploads = Uploads(self.database)
        self.idempotency = IdempotencyKeys(self.database)
        self.webhooks = Webhooks(self.database)
        self.deliveries = WebhookDeliveries(self.database)
        self.sweeps = Sweeps(self.database)
        self.leftovers = Leftovers(self.database)

    def upgrade(self) -> None:
        """Bring the tables to this version's layout. Safe to run again, and from several processes."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.database.migrate() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def layout(self) -> Layout:
        """What layout the tables have, and how many rows they hold. The password in the URL is left out.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        head = ScriptDirectory.from_config(config).get_current_head()
        with self.database.read() as connection:
            there = set(inspect(connection).get_table_names())
            revision = MigrationContext.configure(connection).get_current_revision()
            counts = {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in metadata.sorted_tables
                if table.name in there
            }
        shown = self.database.engine.url.render_as_string(hide_password=True)
        return Layout(url=shown, revision=revision, head=str(head), num_rows=counts)

    def check(self, *, wait_s: float = 5.0) -> None:
        """Try whether the database is there, has its tables, and takes a write; nothing is changed.

        Args:
            wait_s: how long others may keep it from being written.

        Raises:
            SQLAlchemyError: it does not.
        """
        with self.database.probe(wait_s=wait_s) as connection:
            connection.execute(text("SELECT version_num FROM alembic_version")).one()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
