"""The first layout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("suffix", sa.String(64)),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("training_file", sa.Text(), nullable=False),
        sa.Column("recipe", sa.String(255)),
        sa.Column("job_dir", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float()),
        sa.Column("finished_at", sa.Float()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("error_code", sa.String(255)),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_param", sa.Text()),
        sa.Column("fine_tuned_model", sa.String(255)),
        sa.Column("devices_wanted", sa.Integer()),
        sa.Column("estimated_finish", sa.Float()),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
        sa.Column("num_events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_status", "jobs", ["status"])

    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("end_reason", sa.String(32)),
        sa.Column("end_message", sa.Text()),
        sa.Column("pid", sa.BigInteger()),
        sa.Column("pid_created_at", sa.Float()),
        sa.Column("worker_pids", sa.JSON(), nullable=False),
        sa.Column("workers_seen_at", sa.Float()),
        sa.Column("devices", sa.JSON(), nullable=False),
        sa.Column("resume", sa.Boolean(), nullable=False),
        sa.Column("events_offset", sa.BigInteger(), nullable=False),
        sa.Column("start_step", sa.BigInteger(), nullable=False),
        sa.Column("total_steps", sa.BigInteger()),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("made_progress", sa.Boolean(), nullable=False),
        sa.Column("stop_requested_at", sa.Float()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
    )
    op.create_index("ix_attempts_status", "attempts", ["status"])

    op.create_table(
        "checkpoints",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("step_number", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("fine_tuned_model_checkpoint", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_checkpoints_job_id"),
        sa.PrimaryKeyConstraint("position", name="pk_checkpoints"),
        sa.UniqueConstraint("id", name="uq_checkpoints_id"),
        sa.UniqueConstraint("job_id", "name", name="uq_checkpoints_job_id_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("data", sa.JSON()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
        sa.UniqueConstraint("id", name="uq_events_id"),
    )
    op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_metadata_job_id"),
        sa.PrimaryKeyConstraint("job_id", "key", name="pk_job_metadata"),
    )
    op.create_table(
        "models",
        sa.Column("position", POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("job_id", sa.String(80)),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("task", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("owned_by", sa.String(255), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("class_names", sa.JSON()),
        sa.Column("templates", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_models_job_id"),
        sa.PrimaryKeyConstraint("position", name="pk_models"),
        sa.UniqueConstraint("id", name="uq_models_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "device_leases",
        sa.Column("device", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "number"], ["attempts.job_id", "attempts.number"], name="fk_device_leases_job_id_number"
        ),
        sa.PrimaryKeyConstraint("device", name="pk_device_leases"),
    )


def downgrade() -> None:
    for table in ("device_leases", "models", "job_metadata", "events", "checkpoints", "attempts", "jobs"):
        op.drop_table(table)
