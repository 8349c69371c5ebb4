"""Schemathesis against the OpenAPI document: whatever is sent, no answer is a server error or breaks its own schema.

`make fuzz` runs every phase to its end for each role; the test alone makes do with a minute. `ATTUNE_FUZZ_SPECS=1` goes
through every border of every field of a JobSpec as well: each one that is allowed is estimated, in a process.
That takes hours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.security import make_key
from service.store.records import Role

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

LONG = bool(os.environ.get("ATTUNE_FUZZ_EXAMPLES"))
SPECS = bool(os.environ.get("ATTUNE_FUZZ_SPECS"))
EXAMPLES = os.environ.get("ATTUNE_FUZZ_EXAMPLES", "2")
"""Random cases an operation."""
ALL_PHASES = "examples,coverage,fuzzing,stateful"
SHORT_PHASES = {Role.ADMIN: "examples,coverage", Role.MEMBER: "fuzzing,stateful"}
LEAST_CASES = {Role.ADMIN: 500, Role.MEMBER: 100}
WITHOUT_SPECS = """
[[operations]]
include-name = "POST /v1/fine_tuning/estimate"
phases.coverage.enabled = false
"""


@pytest.mark.slow
@pytest.mark.parametrize("role", [Role.ADMIN, Role.MEMBER])
def test_no_request_makes_the_service_fail_or_break_its_word(start_service: Any, tmp_path: Path, role: Role) -> None:
    service = start_service(
        requests_per_minute=None,
        submissions_per_minute=None,
        webhook_allowed_networks=("127.0.0.0/8",),
        allowed_roots=(tmp_path / "data",),
    )
    key, record = make_key(project="default", name="fuzz", role=role)
    other_key, other = make_key(project="default", name="to be found", role=Role.ADMIN)
    for each in (record, other):
        service.app.state.store.keys.create(each)
    assert httpx.get(f"{service.url}/v1/models").status_code == 401
    things = seed(service, key=other_key) | {"keys": [other.id], "projects": ["default"], "recipes": ["flyp"]}
    (tmp_path / "schemathesis.toml").write_text(configuration(things), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {key}", "--checks", "all", "--seed", "1", "--continue-on-failure"]
    command += ["--phases", ALL_PHASES if LONG else SHORT_PHASES[role], "--max-examples", EXAMPLES]
    command += [
        "--request-timeout",
        "120",
        "--max-response-time",
        "60",
        "--no-color",
        "--report-dir",
        os.environ.get("ATTUNE_FUZZ_REPORTS", "."),
    ]
    command += ["--report", "ndjson"] if "ATTUNE_FUZZ_REPORTS" in os.environ else []
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    print(found.stdout if LONG else found.stdout[-3000:])
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2000:]
    assert "Rate limited" not in found.stdout, "the run lost its key"
    cases = re.search(r"(\d+) generated", found.stdout)
    assert cases is not None
    assert int(cases[1]) >= LEAST_CASES[role]


def seed(service: Any, *, key: str) -> dict[str, list[str]]:
    """One of everything, so that not every random request asks for what is not there; ids by what they are of."""
    with httpx.Client(base_url=f"{service.url}/v1", headers={"Authorization": f"Bearer {key}"}, timeout=60) as api:

        def post(path: str, **given: Any) -> Any:
            answer = api.post(path, **given)
            assert answer.status_code == 200, answer.text
            return answer.json()

        body = {"model": "attune-tiny-32", "recipe": "flyp", "training_file": str(service.data)}
        done = post("/fine_tuning/jobs", json=body)["id"]
        job = wait(lambda: (found := api.get(f"/fine_tuning/jobs/{done}").json())["finished_at"] and found)
        waiting = post("/fine_tuning/jobs", json={**body, "metadata": {"end": "wait"}})["id"]
        checkpoints = api.get(f"/fine_tuning/jobs/{done}/checkpoints").json()["data"]
        sweep = {"job": body | {"validation_file": str(service.data)}, "trials": [{"optim.lr": 1e-5}]}
        upload = {"bytes": 4, "filename": "a.csv", "mime_type": "text/csv", "purpose": "fine-tune"}
        webhook = post("/webhooks", json={"url": "http://127.0.0.1:9/"})["id"]
        return {
            "jobs": [done, waiting],
            "checkpoints": [checkpoint["id"] for checkpoint in checkpoints],
            "artifacts": ["spec.json", "export"],
            "models": [job["fine_tuned_model"]],
            "sweeps": [post("/fine_tuning/sweeps", json=sweep)["id"]],
            "files": [post("/files", files={"file": ("a.csv", b"a")}, data={"purpose": "vision"})["id"]],
            "uploads": [post("/uploads", json=upload)["id"]],
            "webhooks": [webhook],
            "deliveries": [post(f"/webhooks/{webhook}/ping")["id"]],
        }


def wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def configuration(things: dict[str, list[str]]) -> str:
    """Schemathesis' settings, with which half of all path parameters name what is there."""
    names = {"artifacts": "path", "models": "model", "recipes": "name", "deliveries": "delivery_id"}
    lines = ["[dictionaries]", *(f"{kind}.values = {json.dumps(ids)}" for kind, ids in things.items()), "[parameters]"]
    for kind in things:
        name = names.get(kind, f"{kind.removesuffix('s')}_id")
        lines.append(f'"path.{name}" = {{ dictionary = "{kind}", probability = 0.5 }}')
    settings = Path(__file__).with_name("schemathesis.toml").read_text(encoding="utf-8")
    return "\n".join(lines) + "\n" + settings + ("" if SPECS else WITHOUT_SPECS)
