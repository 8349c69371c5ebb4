"""Imports run one way, and the control plane is light. The rules are architecture, so the sources are read for them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import service

ROOT = Path(service.__file__).parents[1]
PACKAGES = ("service", "trainer", "dali_pipelines")

CONTRACT = {
    f"trainer.{name}"
    for name in (
        "spec",
        "spec_checks",
        "resolve",
        "schedules",
        "recipes",
        "events",
        "job_dir",
        "prompts",
        "catalogue",
        "deepspeed_config",
        "errors",
        "fence",
        "evaluation.tables",
        "interpolate.points",
        "interpolate.request",
        "gpu_peaks",
        "plan.memory",
    )
}
"""What the service may know of the trainer; these know nothing of torch themselves."""

WITH_TORCH = {"service.inference.worker", "service.inference.predictor"}
"""The one process below service/ that has torch."""

HEAVY = {"torch", "torchvision", "deepspeed", "open_clip", "timm", "nvidia", "transformers"}
SLOW = {"matplotlib", "sklearn", "pandas", "scipy"}
"""Parts of the command line use them; the service and the other commands must start without."""

ALLOWED_WITHIN_SERVICE = {
    "settings": {"settings"},
    "redaction": {"redaction"},
    "logs": {"logs", "redaction"},
    "errors": {"errors", "redaction", "store.records"},
    "metrics": {"metrics", "launchers.base", "store"},
    "store": {"store", "redaction", "logs"},
    "launchers": {"launchers", "settings", "redaction", "store.records"},
    "jobs": {"jobs", "logs", "launchers", "store", "settings", "errors", "metrics"},
    "sweeps": {"sweeps", "jobs", "files", "launchers", "schemas", "settings", "store"},
    "webhooks": {"webhooks", "jobs.chores", "settings", "store"},
    "inference": {"inference", "launchers.inherited", "store.records", "settings", "errors", "metrics"},
    "estimating": {"estimating", "jobs", "launchers.base", "schemas", "store"},
    "schemas": {"schemas", "store.records", "files.ids", "jobs.scheduling.state"},
    "streams": {"streams", "store", "schemas", "errors"},
    "middleware": {"middleware", "errors", "logs", "metrics", "security"},
    "client": {"client", "client_files", "client_webhooks", "client_errors"},
    "client_webhooks": {"client", "client_webhooks"},
    "client_files": {"client", "client_files", "client_errors"},
    "client_errors": {"client_errors"},
}
"""By room: what it may import of the service. `store.records`, `files.ids` and `jobs.scheduling.state` stand for plain
values."""


@dataclass(frozen=True)
class Import:
    """One imported name, in full, such as `trainer.recipes.RECIPES`."""

    module: str
    name: str
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.module} line {self.line} imports {self.name}"


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_in(module: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deep = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    only_typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and _is_type_checking(node.test)
        for inner in ast.walk(node)
    }
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        at_top = node not in deep and node not in only_typing
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, node.lineno, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [*package.split(".")[: len(package.split(".")) - node.level + 1], base]))
            yield from (Import(module, f"{base}.{alias.name}", node.lineno, at_top) for alias in node.names)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


ALL = [found for module, path in modules().items() for found in imports_in(module, path)]


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def broken(rule) -> list[str]:
    return sorted({str(found) for found in ALL if rule(found)})


def test_the_sources_are_found():
    assert len(modules()) > 40
    assert Import("service.errors", "trainer.resolve.SpecError", 0, True).name in {
        found.name for found in ALL if found.module == "service.errors"
    }


def test_nothing_imports_the_service_but_the_service():
    assert not broken(lambda i: is_in(i.name, "service") and not is_in(i.module, "service"))


def test_the_data_pipelines_know_nothing_of_trainer_and_service():
    assert not broken(lambda i: is_in(i.module, "dali_pipelines") and is_in(i.name, "trainer"))


def test_the_service_knows_the_trainers_contract_only():
    def breaks(found: Import) -> bool:
        if not is_in(found.module, "service") or found.module in WITH_TORCH:
            return False
        if is_in(found.name, "dali_pipelines"):
            return not is_in(found.name, "dali_pipelines.patterns")
        return is_in(found.name, "trainer.") or (
            found.name.startswith("trainer.") and not any(is_in(found.name, allowed) for allowed in CONTRACT)
        )

    assert not broken(breaks)


def test_the_contract_imports_nothing_of_the_trainer_but_itself():
    def breaks(found: Import) -> bool:
        inside = any(is_in(found.module, part) for part in CONTRACT)
        return inside and is_in(found.name, "trainer") and not any(is_in(found.name, part) for part in CONTRACT)

    assert not broken(breaks)


def test_what_needs_a_gpu_stays_out_of_the_service_and_the_contract():
    def breaks(found: Import) -> bool:
        light = is_in(found.module, "service") or any(is_in(found.module, part) for part in CONTRACT)
        return light and found.module not in WITH_TORCH and found.name.split(".")[0] in HEAVY

    assert not broken(breaks)


def test_dali_is_imported_by_the_data_pipelines_only():
    assert not broken(lambda i: is_in(i.name, "nvidia.dali") and not is_in(i.module, "dali_pipelines"))


def test_sql_is_spoken_in_the_store_only():
    sql = ("sqlalchemy", "alembic", "sqlite3", "psycopg")
    assert not broken(lambda i: i.name.split(".")[0] in sql and not is_in(i.module, "service.store"))


def test_routers_start_no_processes():
    assert not broken(
        lambda i: (
            is_in(i.module, "service.routers")
            and (i.name.split(".")[0] in ("subprocess", "multiprocessing", "os") or is_in(i.name, "service.launchers"))
        )
    )


def test_only_the_application_imports_routers_and_only_the_command_line_the_command_line():
    assert not broken(
        lambda i: (
            is_in(i.name, "service.routers") and not (is_in(i.module, "service.routers") or i.module == "service.app")
        )
    )
    assert not broken(lambda i: is_in(i.name, "service.cli") and not is_in(i.module, "service.cli"))


@pytest.mark.parametrize("room", ALLOWED_WITHIN_SERVICE)
def test_each_room_of_the_service_imports_only_those_below_it(room):
    allowed = [f"service.{name}" for name in ALLOWED_WITHIN_SERVICE[room]]
    assert any(is_in(module, f"service.{room}") for module in modules())
    assert not broken(
        lambda i: (
            is_in(i.module, f"service.{room}")
            and is_in(i.name, "service")
            and not any(is_in(i.name, name) for name in allowed)
        )
    )


@pytest.mark.parametrize("module", ["service.app", "service.cli.main", "service.client"])
def test_the_control_plane_starts_light(module):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "service" in loaded
    assert not loaded & (HEAVY | SLOW | {"numpy", "pyarrow"})
