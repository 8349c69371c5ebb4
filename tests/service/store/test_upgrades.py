"""An upgrade keeps all rows, from every earlier layout."""

from __future__ import annotations

import json

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from service.store.records import AttemptStatus, JobStatus
from service.store.store import MIGRATIONS, Store


def script_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


EARLIER = [revision.revision for revision in ScriptDirectory.from_config(script_config()).walk_revisions()][1:]

ROWS = {
    "jobs": {
        "id": "ftjob-1",
        "status": "running",
        "spec": json.dumps({"seed": 7}),
        "model": "ViT-B-32",
        "metadata": json.dumps({"team": "birds"}),
        "seed": 7,
        "training_file": "/photos",
        "job_dir": "/jobs/ftjob-1",
        "created_at": 1000.5,
        "cancel_requested": False,
        "num_attempts": 1,
        "num_events": 1,
    },
    "job_metadata": {"job_id": "ftjob-1", "key": "team", "value": "birds"},
    "attempts": {
        "job_id": "ftjob-1",
        "number": 1,
        "status": "running",
        "worker_pids": "[11, 12]",
        "devices": "[0, 3]",
        "resume": False,
        "events_offset": 99,
        "start_step": 0,
        "last_step": 40,
        "made_progress": False,
        "created_at": 1001.0,
    },
    "device_leases": [{"device": d, "job_id": "ftjob-1", "number": 1} for d in (0, 3)],
    "events": {
        "job_id": "ftjob-1",
        "seq": 1,
        "id": "ftevent-1",
        "created_at": 1000.5,
        "level": "info",
        "message": "hello",
        "type": "message",
    },
    "checkpoints": {
        "id": "ftckpt-1",
        "job_id": "ftjob-1",
        "step_number": 40,
        "name": "step-40-attempt-1",
        "metrics": "{}",
        "created_at": 1002.0,
        "fine_tuned_model_checkpoint": "ftjob-1:ckpt-step-40-attempt-1",
    },
    "models": {
        "id": "ft:ViT-B-32:x:1",
        "job_id": "ftjob-1",
        "path": "/jobs/ftjob-1/export",
        "task": "clip",
        "created_at": 1003.0,
        "owned_by": "attune",
        "metrics": "{}",
        "templates": "[]",
    },
}
"""Rows of the first layout, which every later one must still hold."""


def fill(store: Store) -> None:
    with store.database.write() as connection:
        for table, rows in ROWS.items():
            for row in rows if isinstance(rows, list) else [rows]:
                names = ", ".join(row)
                places = ", ".join(f":{name}" for name in row)
                connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), row)


@pytest.mark.parametrize("revision", EARLIER)
def test_rows_of_an_earlier_layout_are_all_there_after_the_upgrade(empty_url: str, revision: str) -> None:
    store, config = Store(empty_url), script_config()
    with store.database.migrate() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    fill(store)
    with store.database.migrate() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    assert not store.layout().up_to_date
    store.upgrade()

    job, (attempt,) = store.jobs.get("ftjob-1"), store.attempts.list("ftjob-1")
    assert job is not None
    assert (job.status, job.seed, job.spec, job.metadata) == (JobStatus.RUNNING, 7, {"seed": 7}, {"team": "birds"})
    assert (job.project_id, job.priority, job.queue_order) == ("default", 50, 1000.5)
    assert (attempt.status, attempt.worker_pids, attempt.last_step) == (AttemptStatus.RUNNING, [11, 12], 40)
    assert attempt.placement == [{"node": "local", "devices": [0, 3]}]
    assert store.attempts.leased_devices() == {("local", 0), ("local", 3)}
    assert [event.message for event in store.events.list("ftjob-1")[0]] == ["hello"]
    assert [model.id for model in store.models.list()] == ["ft:ViT-B-32:x:1"]
    layout = store.layout()
    counts = {table: layout.num_rows[table] for table in ROWS}
    store.close()
    assert layout.up_to_date
    assert counts == {table: len(rows) if isinstance(rows, list) else 1 for table, rows in ROWS.items()}
