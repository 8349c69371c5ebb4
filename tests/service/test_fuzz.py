"""Schemathesis against the OpenAPI document: whatever is sent, no answer is a server error or breaks its own schema."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.security import make_key
from service.store.records import Role

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

EXAMPLES = os.environ.get("ATTUNE_FUZZ_EXAMPLES", "2")
"""Random cases an operation; `make fuzz` takes more."""
PHASES = os.environ.get("ATTUNE_FUZZ_PHASES", "examples,coverage")
LEAST_CASES = 500


@pytest.mark.slow
def test_no_request_makes_the_service_fail_or_break_its_word(start_service: Any, tmp_path: Path) -> None:
    service = start_service(requests_per_minute=None, submissions_per_minute=None)
    key, record = make_key(project="default", name="fuzz", role=Role.ADMIN)
    service.app.state.store.keys.create(record)
    assert httpx.get(f"{service.url}/v1/models").status_code == 401
    (tmp_path / "schemathesis.toml").write_bytes(Path(__file__).with_name("schemathesis.toml").read_bytes())
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {key}", "--checks", "all", "--phases", PHASES, "--seed", "1"]
    command += ["--max-examples", EXAMPLES, "--request-timeout", "120", "--no-color", "--continue-on-failure"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    print(found.stdout[-3000:])
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2000:]
    cases = re.search(r"(\d+) generated", found.stdout)
    assert cases is not None
    assert int(cases[1]) >= LEAST_CASES
