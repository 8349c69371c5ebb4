"""The tables. Column names are the field names of `service.store.records`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from service.store.records import AttemptStatus, EndReason, JobStatus


class EnumText(TypeDecorator[StrEnum]):
    """A StrEnum kept as text, so that a new member needs no migration."""

    impl = String(32)
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: Any | None, dialect: Dialect) -> StrEnum | None:
        """From the database."""
        return None if value is None else self.kind(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = String(80)
_NAME = String(255)


def _position() -> Column[int]:
    """Order of insertion: lists are paged by it, since two rows may share a second."""
    return Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


jobs = Table(
    "jobs",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("status", EnumText(JobStatus), nullable=False, index=True),
    Column("spec", JSON, nullable=False),
    Column("model", Text, nullable=False),
    Column("suffix", String(64)),
    Column("metadata", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("training_file", Text, nullable=False),
    Column("recipe", _NAME),
    Column("job_dir", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("cancel_requested", Boolean, nullable=False),
    Column("error_code", _NAME),
    Column("error_message", Text),
    Column("error_param", Text),
    Column("fine_tuned_model", _NAME),
    Column("devices_wanted", Integer),
    Column("estimated_finish", Float),
    Column("num_attempts", Integer, nullable=False),
    Column("num_events", BigInteger, nullable=False, default=0),
    sqlite_autoincrement=True,
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("value", Text, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("status", EnumText(AttemptStatus), nullable=False, index=True),
    Column("end_reason", EnumText(EndReason)),
    Column("end_message", Text),
    Column("pid", BigInteger),
    Column("pid_created_at", Float),
    Column("worker_pids", JSON, nullable=False),
    Column("workers_seen_at", Float),
    Column("devices", JSON, nullable=False),
    Column("resume", Boolean, nullable=False),
    Column("events_offset", BigInteger, nullable=False),
    Column("start_step", BigInteger, nullable=False),
    Column("total_steps", BigInteger),
    Column("last_step", BigInteger, nullable=False),
    Column("made_progress", Boolean, nullable=False),
    Column("stop_requested_at", Float),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
)

device_leases = Table(
    "device_leases",
    metadata,
    Column("device", Integer, primary_key=True, autoincrement=False),
    Column("job_id", _ID, nullable=False),
    Column("number", Integer, nullable=False),
    ForeignKeyConstraint(["job_id", "number"], ["attempts.job_id", "attempts.number"]),
)
"""Who holds a device. The primary key is what keeps a device from being given twice."""

events = Table(
    "events",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", _ID, nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("level", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("type", String(16), nullable=False),
    Column("data", JSON(none_as_null=True)),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("job_id", _ID, ForeignKey("jobs.id"), nullable=False),
    Column("step_number", BigInteger, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("fine_tuned_model_checkpoint", _NAME, nullable=False),
    UniqueConstraint("job_id", "name"),
    sqlite_autoincrement=True,
)

models = Table(
    "models",
    metadata,
    _position(),
    Column("id", _NAME, nullable=False, unique=True),
    Column("job_id", _ID, ForeignKey("jobs.id")),
    Column("path", Text, nullable=False),
    Column("task", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("owned_by", _NAME, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("class_names", JSON(none_as_null=True)),
    Column("templates", JSON, nullable=False),
    sqlite_autoincrement=True,
)
