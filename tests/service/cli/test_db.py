"""`attune db`, on real databases."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from service.cli.main import run


def test_a_database_is_made_checked_and_found_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(tmp_path)]
    assert run(["db", "check", *where]) == 1
    assert "there is no database" in capsys.readouterr().err
    assert run(["db", "upgrade", *where]) == 0
    capsys.readouterr()
    assert run(["db", "check", "--json", *where]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["up_to_date"] is True
    assert (told["layout"], told["jobs"], told["projects"]) == (told["needed"], 0, 1)


def test_an_old_layout_is_told_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(tmp_path / "attune.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('0001')")
    assert run(["db", "check", "--data-dir", str(tmp_path)]) == 1
    assert "attune db upgrade" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / "attune.db") as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]


def test_a_url_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["db", "check", "--database-url", "mysql://here/attune"]) == 1
    assert "not supported" in capsys.readouterr().err
