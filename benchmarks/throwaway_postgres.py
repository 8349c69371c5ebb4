"""A PostgreSQL server in a temporary folder, for benchmarks and drills: Debian's binaries, default settings."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDERS = "/usr/lib/postgresql"


def find_binaries() -> Path | None:
    """The folder of `initdb`, the newest version's, or None."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = sorted(Path(_FOLDERS).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def throwaway_postgres(*, port: int = 5435, user: str = "pgtest", database: str = "attune") -> Iterator[str]:
    """SQLAlchemy URL of an empty database on a server that ends with the block.

    The server refuses to run as root; then it runs as the system's user `user`, which must be there.
    """
    binaries = find_binaries()
    if binaries is None:
        raise FileNotFoundError(f"no initdb on PATH or below {_FOLDERS}; install postgresql or give --postgres-url")
    folder = Path(tempfile.mkdtemp(prefix="attune-postgres-", dir="/tmp"))
    as_user = pwd.getpwnam(user) if os.geteuid() == 0 else None

    def run(program: str, *arguments: str) -> None:
        identity = {} if as_user is None else {"user": as_user.pw_uid, "group": as_user.pw_gid, "extra_groups": []}
        command = [str(binaries / program), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, **identity)

    try:
        if as_user is not None:
            os.chown(folder, as_user.pw_uid, as_user.pw_gid)
        data, where = str(folder / "data"), ["-h", "127.0.0.1", "-p", str(port), "-U", user]
        run("initdb", "-D", data, "-A", "trust", "-U", user)
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            run("createdb", *where, database)
            yield f"postgresql+psycopg://{user}@127.0.0.1:{port}/{database}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
