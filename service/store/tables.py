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
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

from service.store.records import AttemptStatus, EndReason, JobStatus, Role


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
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    Column("created_by", _ID),
    Column("priority", Integer, nullable=False),
    Column("queue_order", Float, nullable=False),
    Column("queued_at", Float),
    Column("not_before", Float, nullable=False),
    Column("room_made", Boolean, nullable=False),
    Column("nodes", Integer, nullable=False),
    Column("devices_per_node", Integer),
    Column("min_devices", Integer),
    Column("preemptible", Boolean, nullable=False),
    Column("deadline_at", Float),
    Column("max_runtime_s", Float),
    Column("runtime_s", Float, nullable=False),
    Column("retries", JSON, nullable=False),
    Column("overrides", JSON, nullable=False),
    Column("lease_owner", _ID),
    Column("lease_token", _ID),
    Column("lease_expires_at", Float),
    Index("ix_jobs_project_id_position", "project_id", "position"),
    Index("ix_jobs_project_id_status", "project_id", "status"),
    Index("ix_jobs_status_priority_project_id_queue_order", "status", "priority", "project_id", "queue_order"),
    Index("ix_jobs_status_queued_at", "status", "queued_at"),
    Index("ix_jobs_status_cancel_requested_deadline_at", "status", "cancel_requested", "deadline_at"),
    sqlite_autoincrement=True,
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", _ID, ForeignKey("jobs.id"), primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("value", Text, nullable=False),
    Column("project_id", _ID, nullable=False),
    Column("position", BigInteger, nullable=False),
    # With the order of the list in the index, a page costs the same however many jobs carry a note.
    Index("ix_job_metadata_project_id_key_value_position", "project_id", "key", "value", "position"),
    Index("ix_job_metadata_key_value_position", "key", "value", "position"),
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
    Column("engine", String(16), nullable=False),
    Column("placement", JSON, nullable=False),
    Column("engine_ref", JSON(none_as_null=True)),
    Column("overrides", JSON, nullable=False),
    Column("last_step_at", Float),
    Column("last_sign_at", Float),
    Column("stage", String(16)),
    Column("stop_reason", EnumText(EndReason)),
)

device_leases = Table(
    "device_leases",
    metadata,
    Column("node", _NAME, primary_key=True),
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
    Index("ix_checkpoints_job_id_position", "job_id", "position"),
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
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    Index("ix_models_project_id_position", "project_id", "position"),
    Index("ix_models_project_id_job_id", "project_id", "job_id"),
    sqlite_autoincrement=True,
)

projects = Table(
    "projects",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("weight", Float, nullable=False),
    Column("max_devices", Integer),
    Column("max_running_jobs", Integer),
    Column("max_queued_jobs", Integer),
    Column("max_priority", Integer, nullable=False),
    Column("max_disk_bytes", BigInteger),
    Column("disk_bytes", BigInteger),
    Column("device_seconds", Float, nullable=False),
    Column("usage_at", Float, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    Column("name", _NAME, nullable=False),
    Column("role", EnumText(Role), nullable=False),
    Column("hash", String(128), nullable=False, unique=True),
    Column("hint", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("last_used_at", Float),
    sqlite_autoincrement=True,
)

audit_log = Table(
    "audit_log",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("at", Float, nullable=False, index=True),
    Column("project_id", _ID, index=True),
    Column("actor", _NAME, nullable=False),
    Column("action", _NAME, nullable=False),
    Column("target", _NAME),
    Column("outcome", String(16), nullable=False),
    Column("request_id", _NAME),
    Column("detail", JSON(none_as_null=True)),
    sqlite_autoincrement=True,
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("host", _NAME, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
)
"""The control planes that work on this database."""

leases = Table(
    "leases",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("owner", _ID),
    Column("token", _ID),
    Column("expires_at", Float),
)
"""Work that one replica at a time does, such as planning; jobs carry their own lease."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("project_id", _ID, ForeignKey("projects.id"), primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    Column("claimed_at", Float, nullable=False),
    Column("status", Integer),
    Column("headers", JSON(none_as_null=True)),
    Column("body", Text),
)

files = Table(
    "files",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    Column("filename", _NAME, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_details", Text),
    Column("num_bytes", BigInteger, nullable=False),
    Column("unpacked_bytes", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("path", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Index("ix_files_project_id_position", "project_id", "position"),
    sqlite_autoincrement=True,
)

uploads = Table(
    "uploads",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    Column("filename", _NAME, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("mime_type", _NAME, nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("file_lifetime_s", Float),
    Column("file_id", _ID),
    sqlite_autoincrement=True,
)

upload_parts = Table(
    "upload_parts",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("upload_id", _ID, ForeignKey("uploads.id"), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_autoincrement=True,
)

webhooks = Table(
    "webhooks",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("event_types", JSON, nullable=False),
    Column("secrets", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("failing_since", Float),
    Column("disabled_at", Float),
    Column("disabled_reason", Text),
    sqlite_autoincrement=True,
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("webhook_id", _ID, ForeignKey("webhooks.id"), nullable=False),
    Column("event_type", _NAME, nullable=False),
    Column("payload", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("num_tries", Integer, nullable=False),
    Column("next_try_at", Float),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("created_at", Float, nullable=False),
    Column("delivered_at", Float),
    Index("ix_webhook_deliveries_status_next_try_at", "status", "next_try_at"),
    Index("ix_webhook_deliveries_webhook_id_position", "webhook_id", "position"),
    sqlite_autoincrement=True,
)

sweeps = Table(
    "sweeps",
    metadata,
    _position(),
    Column("id", _ID, nullable=False, unique=True),
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    Column("created_by", _ID),
    Column("name", _NAME),
    Column("status", String(16), nullable=False),
    Column("request", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Column("error_message", Text),
    Index("ix_sweeps_project_id_position", "project_id", "position"),
    Index("ix_sweeps_status", "status"),
    sqlite_autoincrement=True,
)

sweep_trials = Table(
    "sweep_trials",
    metadata,
    Column("sweep_id", _ID, ForeignKey("sweeps.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("job_id", _ID, ForeignKey("jobs.id")),
    Column("parameters", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("value", Float),
    Column("detail", JSON(none_as_null=True)),
    Index("ix_sweep_trials_status", "status"),
)
