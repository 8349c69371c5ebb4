"""Files sent in parts to a running service: whole, interrupted, over a connection that breaks."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from service import client_files
from service.client import AttuneClient
from service.client_errors import BadRequest, NotFound
from service.client_files import ChangedFile

PART = 1000


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_files, "PART_BYTES", PART)
    monkeypatch.setattr(client_files, "_PAUSES_S", (0.0, 0.1))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A file of four and a half parts, of which two are alike."""
    draw = random.Random(0)
    first, second, third = (draw.randbytes(PART) for _ in range(3))
    path = tmp_path / "captions.csv"
    path.write_bytes(first + second + first + third + draw.randbytes(PART // 2))
    return path


def content(client: AttuneClient, file: dict[str, Any]) -> bytes:
    return client._http.get(f"/v1/files/{file['id']}/content").content


def num_parts(client: AttuneClient, upload_id: str) -> int:
    return len(client.call("GET", f"/v1/uploads/{upload_id}/parts")["data"])


def test_a_file_arrives_whole_and_can_be_removed(client: AttuneClient, table: Path) -> None:
    told: list[int] = []
    upload = client.files.begin(table, lifetime_s=7200)
    file = client.files.send(table, upload["id"], on_part=told.append)
    assert told == [1000, 2000, 3000, 4000, 4500]
    assert content(client, file) == table.read_bytes()
    assert (file["filename"], file["purpose"], file["bytes"]) == ("captions.csv", "fine-tune", 4500)
    assert file["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert file["expires_at"] - file["created_at"] == 7200
    assert client.files.send(table, upload["id"]) == file  # it is there already
    assert client.files.page() == ([client.files.get(file["id"])], False)
    assert client.files.delete(file["id"])["deleted"]
    with pytest.raises(NotFound):
        client.files.get(file["id"])


def test_an_interrupted_upload_goes_on_with_what_is_missing(client: AttuneClient, table: Path) -> None:
    upload = client.files.begin(table)["id"]

    def stop(sent: int) -> None:
        if sent == 3 * PART:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.files.send(table, upload, on_part=stop)
    assert num_parts(client, upload) == 3
    assert content(client, client.files.send(table, upload)) == table.read_bytes()
    assert client.files.upload(upload)["status"] == "completed"


def test_a_broken_connection_and_a_lost_answer_cost_no_part(client: AttuneClient, relay: Any, table: Path) -> None:
    with AttuneClient(relay.url, timeout_s=10) as relayed:
        upload = relayed.files.begin(table)["id"]
        after: list[int] = []

        def disturb(sent: int) -> None:
            if sent == PART:
                relay.break_connections()
            elif sent == 2 * PART:  # the answer for a part whose like has arrived before
                relay.loses_next_answer = True
            elif sent == 3 * PART:
                after.append(num_parts(client, upload))

        file = relayed.files.send(table, upload, on_part=disturb)
    assert relay.num_connections >= 3
    assert after == [3], "a part that had arrived was sent again"
    assert content(client, file) == table.read_bytes()


def test_a_file_that_has_changed_is_not_mixed_with_what_was_sent(client: AttuneClient, table: Path) -> None:
    upload = client.files.begin(table)["id"]
    table.write_bytes(table.read_bytes() + b"more")
    with pytest.raises(ChangedFile, match=r"4504 bytes, and upload upload_\w+ is for 4500"):
        client.files.send(table, upload)


def test_what_the_service_does_not_take(client: AttuneClient, table: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="purpose"):
        client.files.begin(table, purpose="fun")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(BadRequest, match="bytes"):
        client.files.begin(tmp_path / "empty.csv")
    with pytest.raises(NotFound):
        client.files.send(table, "upload_none")
