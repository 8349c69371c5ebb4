from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

Attune = Callable[..., "subprocess.CompletedProcess[str]"]
StartAttune = Callable[..., "subprocess.Popen[str]"]


def first_line(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    line: dict[str, str] = json.loads(process.stdout.readline())
    return line


def test_port_in_use_is_named(attune: Attune, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        ended = attune("serve", "--port", port, "--data-dir", tmp_path / "data")

    assert ended.returncode == 2
    assert f"port {port} of 127.0.0.1 is in use" in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2
    assert not (tmp_path / "data").exists()


def test_an_address_that_is_not_ours_is_refused(attune: Attune) -> None:
    ended = attune("serve", "--host", "192.0.2.1", "--port", "0", ATTUNE_ALLOW_UNAUTHENTICATED="1")

    assert ended.returncode == 2
    assert "192.0.2.1" in ended.stderr


def test_listening_for_strangers_needs_a_word(attune: Attune) -> None:
    ended = attune("serve", "--host", "0.0.0.0")

    assert ended.returncode == 2
    assert "attune keys create" in ended.stderr
    assert "ATTUNE_ALLOW_UNAUTHENTICATED" in ended.stderr


def test_impossible_setting_is_named(attune: Attune) -> None:
    ended = attune("serve", ATTUNE_POLL_INTERVAL_S="-1")

    assert ended.returncode == 2
    assert "ATTUNE_POLL_INTERVAL_S" in ended.stderr


@pytest.mark.parametrize("json", [(), ("--json",)])
@pytest.mark.parametrize(
    ("data_dir", "url", "word"),
    [
        ("taken", "", "taken"),
        ("data", "nonsense", "ATTUNE_DATABASE_URL"),
        ("data", "sqlite:////proc/attune/attune.db", "/proc/attune"),
    ],
)
def test_what_cannot_start_announces_nothing(
    attune: Attune, tmp_path: Path, data_dir: str, url: str, word: str, json: tuple[str, ...]
) -> None:
    (tmp_path / "taken").write_text("mine")

    ended = attune("serve", "--port", "0", "--data-dir", data_dir, *json, ATTUNE_DATABASE_URL=url)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert word in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_people_read_its_address_once_it_listens(start_attune: StartAttune, tmp_path: Path) -> None:
    process = start_attune("serve", "--port", "0", "--data-dir", tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    url = line.split()[3]

    assert f"data in {tmp_path}" in line
    assert httpx.get(f"{url}/readyz", timeout=2).json()["status"] == "ready"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(start_attune: StartAttune, tmp_path: Path, number: signal.Signals) -> None:
    process = start_attune("serve", "--json", "--port", "0", "--data-dir", tmp_path)
    httpx.get(first_line(process)["url"] + "/healthz", timeout=30)

    process.send_signal(number)
    _, errors = process.communicate(timeout=20)

    assert process.returncode == 0
    assert "Traceback" not in errors


BARE = "import os, alembic.command, fastapi, httpx, sqlalchemy, uvicorn; print(sum(os.times()[:2]))"


def test_ready_soon_after_what_it_stands_on(start_attune: StartAttune, tmp_path: Path) -> None:
    """Processor time, beside that of the bare libraries: the clock says nothing on a busy machine."""
    bare_s = float(subprocess.run([sys.executable, "-c", BARE], check=True, capture_output=True, text=True).stdout)
    process = start_attune("serve", "--json", "--port", "0", "--data-dir", tmp_path)
    answer = httpx.get(first_line(process)["url"] + "/healthz", timeout=30)
    spent = psutil.Process(process.pid).cpu_times()

    assert answer.status_code == 200
    assert spent.user + spent.system < 7 * bare_s


def test_the_service_has_no_torch(start_attune: StartAttune, tmp_path: Path) -> None:
    process = start_attune("serve", "--json", "--port", "0", "--data-dir", tmp_path)
    httpx.get(first_line(process)["url"] + "/readyz", timeout=30)
    mapped = {Path(mapping.path).name for mapping in psutil.Process(process.pid).memory_maps()}

    assert not any(name.startswith(("libtorch", "libcuda", "libnvidia", "libdali")) for name in mapped)
    assert any(name.startswith("libsqlite") or "sqlite" in name for name in mapped)  # the look into it works
