"""Which Ray clusters must not be used: those that take requests without a token."""

from __future__ import annotations

import os
import subprocess
import sys


class Refused(Exception):
    """The cluster is one that must not or cannot be used, whatever happens later; the text says why."""


def refuse_open_cluster(address: str) -> None:
    """A cluster that answers without a token would run anybody's code, beside ours and with its data.

    Asked by a process without the token, as Ray reads its mode once.

    Raises:
        Refused: it does.
        ConnectionError: nothing answers there.
    """
    probe = (
        "import sys; from ray._raylet import GcsClient\n"
        "try: GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None, timeout=10)\n"
        "except Exception as error: sys.exit(0 if type(error).__name__ == 'AuthenticationError' else 3)\n"
        "sys.exit(4)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", probe, address], env=environment, capture_output=True, timeout=60)
    if done.returncode == 4:
        raise Refused(
            f"the Ray cluster at {address} takes requests without a token: anybody who reaches it could run code on "
            "its machines. Start every node with RAY_AUTH_MODE=token and the token in RAY_AUTH_TOKEN_PATH"
        )
    if done.returncode != 0:
        raise ConnectionError(f"no Ray cluster answers at {address}")
