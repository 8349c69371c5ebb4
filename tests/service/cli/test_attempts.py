"""ForegroundRun with small scripts in place of DeepSpeed: real processes, real signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from service.cli.attempts import ForegroundRun
from service.launchers.processes import tagged

SAVES_ON_SIGTERM = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
IGNORES_SIGTERM = SAVES_ON_SIGTERM.replace('pathlib.Path(sys.argv[1], "saved").touch()\n    sys.exit(75)', "pass")
STARTS_AN_ORPHAN = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], start_new_session=True)
"""


def send_soon(folder: Path, number: signal.Signals, *, times: int = 1) -> threading.Thread:
    """Signal this process once the script is ready, as a terminal does on Ctrl-C."""

    def wait_and_send() -> None:
        while not (folder / "ready").exists():
            time.sleep(0.05)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=wait_and_send)
    thread.start()
    return thread


def make_run(folder: Path, script: str, *arguments: str) -> ForegroundRun:
    argv = [sys.executable, "-c", script, str(folder), *arguments]
    return ForegroundRun(argv, tag=str(folder), environment=os.environ)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_workers_save(tmp_path: Path, number: signal.Signals) -> None:
    run = make_run(tmp_path, SAVES_ON_SIGTERM)
    sender = send_soon(tmp_path, number)

    run.run(ranks=list)
    sender.join()

    assert run.stop_requested
    assert (tmp_path / "saved").exists()


def test_ranks_that_named_themselves_are_signalled_instead_of_the_launcher(tmp_path: Path) -> None:
    run = make_run(tmp_path, STARTS_AN_ORPHAN + "import time; time.sleep(3)", SAVES_ON_SIGTERM)
    sender = send_soon(tmp_path, signal.SIGINT)
    started = time.monotonic()

    run.run(ranks=lambda: [p for p, _ in tagged(str(tmp_path)) if SAVES_ON_SIGTERM in p.cmdline()[2]])
    sender.join()

    assert (tmp_path / "saved").exists()
    assert time.monotonic() - started >= 3  # the launcher was left to end by itself


def test_the_second_signal_kills(tmp_path: Path) -> None:
    run = make_run(tmp_path, IGNORES_SIGTERM)
    sender = send_soon(tmp_path, signal.SIGINT, times=2)
    started = time.monotonic()

    run.run(ranks=list)
    sender.join()

    assert time.monotonic() - started < 30


def test_it_waits_for_workers_that_outlive_their_launcher(tmp_path: Path) -> None:
    run = make_run(tmp_path, STARTS_AN_ORPHAN, SAVES_ON_SIGTERM)
    sender = send_soon(tmp_path, signal.SIGINT)

    run.run(ranks=list)
    sender.join()

    assert (tmp_path / "saved").exists()
    assert not any(str(tmp_path) in p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"])


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)

    make_run(tmp_path, "pass").run(ranks=list)

    assert signal.getsignal(signal.SIGINT) is before
