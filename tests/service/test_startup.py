"""What keeps the service from starting is told in one sentence, without the password."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from service.settings import Settings
from service.startup import StartError, open_store


def refusal(tmp_path: Path, **settings: object) -> str:
    with pytest.raises(StartError) as caught:
        open_store(Settings(**{"data_dir": tmp_path / "attune", **settings}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_store_is_open_and_up_to_date(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "attune")
    for _ in range(2):  # made, and found again
        store = open_store(settings)
        store.check()
        assert store.jobs.list() == ([], False)
        store.close()
    assert settings.jobs_dir.is_dir()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "attune").write_text("mine")
    assert str(tmp_path / "attune") in refusal(tmp_path)
    assert (tmp_path / "attune").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    assert "/proc/attune/jobs" in refusal(tmp_path, data_dir="/proc/attune")


@pytest.mark.parametrize("url", ["nonsense", "postgresql://me:secret@host:port/attune"])
def test_what_is_no_url(tmp_path: Path, url: str) -> None:
    message = refusal(tmp_path, database_url=url)
    assert message.startswith("ATTUNE_DATABASE_URL: this is not the URL of a database; use sqlite:////")
    assert "secret" not in message


def test_a_database_that_is_neither_sqlite_nor_postgresql(tmp_path: Path) -> None:
    message = refusal(tmp_path, database_url="mysql://me:secret@host/attune")
    assert "kind 'mysql' are not supported" in message
    assert "postgresql+psycopg://" in message
    assert "secret" not in message


def test_a_driver_that_is_not_there(tmp_path: Path) -> None:
    if importlib.util.find_spec("pg8000") is not None:
        pytest.skip("pg8000 is installed")
    message = refusal(tmp_path, database_url="postgresql+pg8000://me:secret@127.0.0.1/attune")
    assert "postgresql+pg8000://me:***@127.0.0.1/attune is not installed" in message


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "attune.db").write_text("a letter, rather a long one, to nobody in particular\n" * 20)
    assert refusal(tmp_path, database_url=f"sqlite:///{tmp_path}/attune.db").endswith("file is not a database")


def test_a_folder_that_is_no_database(tmp_path: Path) -> None:
    assert refusal(tmp_path, database_url=f"sqlite:///{tmp_path}").endswith("unable to open database file")


def test_a_database_of_a_later_version(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "attune")
    store = open_store(settings)
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    message = refusal(tmp_path)
    assert "another version of Attune" in message
    assert "9999" in message
