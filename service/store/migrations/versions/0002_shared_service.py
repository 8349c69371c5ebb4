"""Many projects, several replicas and engines: keys, leases, files, webhooks, sweeps, and an audit log."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _new_tables()
    now = time.time()
    op.execute(
        sa.text(
            "INSERT INTO projects (id, name, created_at, weight, max_priority, device_seconds, usage_at) "
            "VALUES ('default', 'default', :now, 1.0, 100, 0.0, :now)"
        ).bindparams(now=now)
    )
    _more_of_jobs()
    _more_of_attempts()
    _devices_by_node()
    with op.batch_alter_table("models") as table:
        table.add_column(sa.Column("project_id", sa.String(80), nullable=False, server_default="default"))
        table.create_foreign_key("fk_models_project_id", "projects", ["project_id"], ["id"])
    op.create_index("ix_models_project_id_position", "models", ["project_id", "position"])
    op.create_index("ix_models_project_id_job_id", "models", ["project_id", "job_id"])
    op.create_index("ix_checkpoints_job_id_position", "checkpoints", ["job_id", "position"])


def _more_of_jobs() -> None:
    with op.batch_alter_table("jobs") as table:
        table.add_column(sa.Column("project_id", sa.String(80), nullable=False, server_default="default"))
        table.add_column(sa.Column("created_by", sa.String(80)))
        table.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="50"))
        table.add_column(sa.Column("queue_order", sa.Float(), nullable=False, server_default="0"))
        table.add_column(sa.Column("queued_at", sa.Float()))
        table.add_column(sa.Column("not_before", sa.Float(), nullable=False, server_default="0"))
        table.add_column(sa.Column("room_made", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("nodes", sa.Integer(), nullable=False, server_default="1"))
        table.add_column(sa.Column("devices_per_node", sa.Integer()))
        table.add_column(sa.Column("min_devices", sa.Integer()))
        table.add_column(sa.Column("preemptible", sa.Boolean(), nullable=False, server_default=sa.true()))
        table.add_column(sa.Column("deadline_at", sa.Float()))
        table.add_column(sa.Column("max_runtime_s", sa.Float()))
        table.add_column(sa.Column("runtime_s", sa.Float(), nullable=False, server_default="0"))
        table.add_column(sa.Column("retries", sa.JSON(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("overrides", sa.JSON(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("lease_owner", sa.String(80)))
        table.add_column(sa.Column("lease_token", sa.String(80)))
        table.add_column(sa.Column("lease_expires_at", sa.Float()))
        table.create_foreign_key("fk_jobs_project_id", "projects", ["project_id"], ["id"])
    op.execute("UPDATE jobs SET queue_order = created_at, queued_at = created_at")
    _settle_devices()
    op.create_index("ix_jobs_project_id_position", "jobs", ["project_id", "position"])
    op.create_index("ix_jobs_project_id_status", "jobs", ["project_id", "status"])
    queue = ["status", "priority", "project_id", "queue_order"]
    op.create_index("ix_jobs_status_priority_project_id_queue_order", "jobs", queue)
    op.create_index("ix_jobs_status_queued_at", "jobs", ["status", "queued_at"])
    limits = ["status", "cancel_requested", "deadline_at"]
    op.create_index("ix_jobs_status_cancel_requested_deadline_at", "jobs", limits)
    _order_of_notes()


def _order_of_notes() -> None:
    """A job's notes know its project and its place in the list, so that an index can hold them in that order."""
    with op.batch_alter_table("job_metadata") as table:
        table.add_column(sa.Column("project_id", sa.String(80), nullable=False, server_default="default"))
        table.add_column(sa.Column("position", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE job_metadata SET position = (SELECT position FROM jobs WHERE jobs.id = job_metadata.job_id)")
    of_project = ["project_id", "key", "value", "position"]
    op.create_index("ix_job_metadata_project_id_key_value_position", "job_metadata", of_project)
    op.create_index("ix_job_metadata_key_value_position", "job_metadata", of_project[1:])


def _settle_devices() -> None:
    """What planning needs of a spec becomes columns."""
    numbers = (sa.column(name, sa.Integer) for name in ("nodes", "devices_per_node"))
    jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("spec", sa.JSON), *numbers)
    connection = op.get_bind()
    for id, spec in connection.execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        parallel = spec.get("parallel", {})
        devices = parallel.get("devices", "auto")
        wanted = {"nodes": parallel.get("nodes", 1), "devices_per_node": None if devices == "auto" else devices}
        connection.execute(jobs.update().where(jobs.c.id == id).values(**wanted))


def _more_of_attempts() -> None:
    with op.batch_alter_table("attempts") as table:
        table.add_column(sa.Column("engine", sa.String(16), nullable=False, server_default="local"))
        table.add_column(sa.Column("placement", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("engine_ref", sa.JSON()))
        table.add_column(sa.Column("overrides", sa.JSON(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("last_step_at", sa.Float()))
        table.add_column(sa.Column("last_sign_at", sa.Float()))
        table.add_column(sa.Column("stage", sa.String(16)))
        table.add_column(sa.Column("stop_reason", sa.String(32)))
    attempts = sa.table(
        "attempts",
        sa.column("job_id", sa.String),
        sa.column("number", sa.Integer),
        sa.column("devices", sa.JSON),
        sa.column("placement", sa.JSON),
    )
    connection = op.get_bind()
    for job_id, number, devices in connection.execute(
        sa.select(attempts.c.job_id, attempts.c.number, attempts.c.devices)
    ).all():
        this = sa.and_(attempts.c.job_id == job_id, attempts.c.number == number)
        placement = [{"node": "local", "devices": devices}] if devices else []
        connection.execute(attempts.update().where(this).values(placement=placement))


def _devices_by_node() -> None:
    held = op.get_bind().execute(sa.text("SELECT device, job_id, number FROM device_leases")).all()
    op.drop_table("device_leases")
    created = op.create_table(
        "device_leases",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("device", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "number"], ["attempts.job_id", "attempts.number"], name="fk_device_leases_job_id"
        ),
        sa.PrimaryKeyConstraint("node", "device", name="pk_device_leases"),
    )
    if held:
        op.bulk_insert(created, [{"node": "local", **row._mapping} for row in held])


def _new_tables() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("max_devices", sa.Integer()),
        sa.Column("max_running_jobs", sa.Integer()),
        sa.Column("max_queued_jobs", sa.Integer()),
        sa.Column("max_priority", sa.Integer(), nullable=False),
        sa.Column("max_disk_bytes", sa.BigInteger()),
        sa.Column("disk_bytes", sa.BigInteger()),
        sa.Column("device_seconds", sa.Float(), nullable=False),
        sa.Column("usage_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "api_keys",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("project_id", sa.String(80), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("hash", sa.String(128), nullable=False),
        sa.Column("hint", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float()),
        sa.Column("revoked_at", sa.Float()),
        sa.Column("last_used_at", sa.Float()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_api_keys_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_api_keys"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
        sa.UniqueConstraint("id", name="uq_api_keys_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit_log",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("project_id", sa.String(80)),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("action", sa.String(255), nullable=False),
        sa.Column("target", sa.String(255)),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("request_id", sa.String(255)),
        sa.Column("detail", sa.JSON(none_as_null=True)),
        sa.PrimaryKeyConstraint("position", name="pk_audit_log"),
        sa.UniqueConstraint("id", name="uq_audit_log_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    op.create_index("ix_audit_log_project_id", "audit_log", ["project_id"])
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(80)),
        sa.Column("token", sa.String(80)),
        sa.Column("expires_at", sa.Float()),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.String(80), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("claimed_at", sa.Float(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", sa.JSON(none_as_null=True)),
        sa.Column("body", sa.Text()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_idempotency_keys_project_id"),
        sa.PrimaryKeyConstraint("project_id", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "files",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("project_id", sa.String(80), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_details", sa.Text()),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("unpacked_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_files_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_files"),
        sa.UniqueConstraint("id", name="uq_files_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "uploads",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("project_id", sa.String(80), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("mime_type", sa.String(255), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("file_lifetime_s", sa.Float()),
        sa.Column("file_id", sa.String(80)),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_uploads_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_uploads"),
        sa.UniqueConstraint("id", name="uq_uploads_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "upload_parts",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("upload_id", sa.String(80), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="fk_upload_parts_upload_id"),
        sa.PrimaryKeyConstraint("position", name="pk_upload_parts"),
        sa.UniqueConstraint("id", name="uq_upload_parts_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "webhooks",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("project_id", sa.String(80), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", sa.JSON(), nullable=False),
        sa.Column("secrets", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("failing_since", sa.Float()),
        sa.Column("disabled_at", sa.Float()),
        sa.Column("disabled_reason", sa.Text()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_webhooks_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_webhooks"),
        sa.UniqueConstraint("id", name="uq_webhooks_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("webhook_id", sa.String(80), nullable=False),
        sa.Column("event_type", sa.String(255), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("num_tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.Float()),
        sa.Column("last_status", sa.Integer()),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("delivered_at", sa.Float()),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_webhook_deliveries_webhook_id"),
        sa.PrimaryKeyConstraint("position", name="pk_webhook_deliveries"),
        sa.UniqueConstraint("id", name="uq_webhook_deliveries_id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_webhook_deliveries_status_next_try_at", "webhook_deliveries", ["status", "next_try_at"], unique=False
    )
    op.create_index("ix_webhook_deliveries_webhook_id_position", "webhook_deliveries", ["webhook_id", "position"])
    op.create_table(
        "sweeps",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("project_id", sa.String(80), nullable=False),
        sa.Column("created_by", sa.String(80)),
        sa.Column("name", sa.String(255)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float()),
        sa.Column("error_message", sa.Text()),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="fk_sweeps_project_id"),
        sa.PrimaryKeyConstraint("position", name="pk_sweeps"),
        sa.UniqueConstraint("id", name="uq_sweeps_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sweep_trials",
        sa.Column("sweep_id", sa.String(80), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(80)),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("value", sa.Float()),
        sa.Column("detail", sa.JSON(none_as_null=True)),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_sweep_trials_job_id"),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_sweep_trials_sweep_id"),
        sa.PrimaryKeyConstraint("sweep_id", "number", name="pk_sweep_trials"),
    )
    op.create_index("ix_files_project_id_position", "files", ["project_id", "position"])
    op.create_index("ix_sweeps_project_id_position", "sweeps", ["project_id", "position"])
    op.create_index("ix_sweeps_status", "sweeps", ["status"])
    op.create_index("ix_sweep_trials_status", "sweep_trials", ["status"])
