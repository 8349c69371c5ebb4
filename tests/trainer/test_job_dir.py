from trainer.job_dir import CheckpointName, ExitRecord, JobDir, write_json_atomically


def test_checkpoints_are_ordered_by_step_then_attempt(tmp_path):
    job = JobDir(tmp_path)
    for name in ("step-9-attempt-1", "step-10-attempt-1", "step-9-attempt-2", ".step-11-attempt-1.partial", "step-x"):
        (job.checkpoints / name).mkdir(parents=True)
    assert [str(n) for n in job.published_checkpoints()] == [
        "step-9-attempt-1",
        "step-9-attempt-2",
        "step-10-attempt-1",
    ]


def test_names_parse_only_if_whole():
    assert CheckpointName.parse("step-40-attempt-2") == CheckpointName(40, 2)
    assert CheckpointName.parse("step-40-attempt-2.partial") is None


def test_attempts_are_listed_in_order(tmp_path):
    for name in ("0010", "0002", "notes"):
        (tmp_path / "attempts" / name).mkdir(parents=True)
    assert [attempt.number for attempt in JobDir(tmp_path).attempts()] == [2, 10]


def test_an_exit_record_is_there_or_not(tmp_path):
    attempt = JobDir(tmp_path).attempt(1)
    assert attempt.read_exit() is None
    record = ExitRecord(status="failed", reason="disk_full", message="no room", step=3, time=1.0)
    write_json_atomically(attempt.exit, record)
    assert attempt.read_exit() == record
    assert [p.name for p in attempt.path.iterdir()] == ["exit.json"]
