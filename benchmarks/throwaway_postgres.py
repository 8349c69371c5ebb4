"""A PostgreSQL server in a temporary folder, for benchmarks and drills."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self


class Postgres:
    """A throw-away PostgreSQL server, of a user who is not root."""

    def __init__(self) -> None:
        self._programs = _postgres_programs()
        self._user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        # Not below a folder that may be root's alone.
        self._folder = Path(tempfile.mkdtemp(prefix="attune-postgres-", dir="/tmp"))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg://attune@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Make the cluster, start the server, and wait until it takes connections.

        Raises:
            RuntimeError: it does not.
        """
        if os.geteuid() == 0:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        made = self._run("initdb", "-D", str(data), "-U", "attune", "-A", "trust", "-E", "UTF8", "--no-instructions")
        if made.wait() != 0:
            raise RuntimeError(f"initdb failed; see {self._folder / 'log'}")
        options = ["-D", str(data), "-p", str(self._port), "-k", str(self._folder), "-c", "listen_addresses=127.0.0.1"]
        self._process = self._run("postgres", *options)
        deadline = time.monotonic() + 60
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)).wait() != 0:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start; see {self._folder / 'log'}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop the server and remove its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self._programs / program), *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user if os.geteuid() == 0 else None,
            )


def _postgres_programs() -> Path:
    # Debian keeps all but a few of them off the PATH.
    found = max(glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=None) or shutil.which("initdb")
    if found is None:
        raise RuntimeError("there is no initdb here: install PostgreSQL's server, or name one with --postgres-url")
    return Path(found).parent


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
