"""The wheel works without the checkout: everything it reads is inside, and the command runs from any folder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("service", "trainer", "dali_pipelines", "ds_configs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel itself; its dependencies come from this one, this checkout does not."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", wheel], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    # A plain line adds the folder only: the .pth file of the editable checkout in it is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run_installed(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ATTUNE_", "PYTHON"))}
    program, *arguments = command
    return subprocess.run(
        [folder / "bin" / program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def data_files() -> set[str]:
    """Every tracked or new file of the packages that is no Python source and no cache."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_data_files_are_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = data_files()

    assert {
        "trainer/prompt_sets.json",
        "ds_configs/zero2.json",
        "trainer/architectures/attune-tiny-32.json",
    } <= expected
    assert expected <= inside
    assert any(name.startswith("service/store/migrations/versions/0001") for name in inside)
    assert not any(name.startswith(("tests/", "docs/", "benchmarks/")) for name in inside)


@pytest.mark.slow
def test_installed_command_uses_the_installed_files(installed: Path) -> None:
    where = run_installed(
        installed, "python", "-c", "import service, trainer; print(service.__file__, trainer.__file__)"
    )
    help_text = run_installed(installed, "attune", "--help")
    recipes = run_installed(installed, "attune", "recipes", "list")

    assert str(ROOT) not in where.stdout
    assert where.stdout.count(str(installed)) == 2
    assert help_text.returncode == 0, help_text.stderr
    assert "flyp" in recipes.stdout


@pytest.mark.slow
def test_installed_service_can_make_its_database(installed: Path) -> None:
    code = (
        "from service.store.store import Store; s = Store('sqlite:///x.db'); s.upgrade(); s.check();"
        "from trainer.prompts import published_sets; print(sorted(published_sets()))"
    )
    ended = run_installed(installed, "python", "-c", code)

    assert ended.returncode == 0, ended.stderr
    assert "imagenet" in ended.stdout


def test_constraints_are_what_is_tested_here() -> None:
    """Each pin is the version in this environment, so the file says what the tests ran with."""
    pins = dict(line.split("==") for line in lines_of("constraints.txt"))

    assert pins == {name: version(name) for name in pins}


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines_of("constraints.txt")}

    assert {canonicalize_name(Requirement(text).name) for text in wanted} - pinned == set()


def test_constraints_name_no_index_and_no_file() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][\w.]*", line) for line in lines_of("constraints.txt"))


def test_every_third_party_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(text for extra in extras if extra != "dev" for text in extras[extra])]
    declared = {canonicalize_name(Requirement(text).name) for text in wanted}
    distributions = packages_distributions()
    undeclared = {
        name
        for name in imported_names()
        if name not in sys.stdlib_module_names
        and name not in PACKAGES
        and not declared & {canonicalize_name(d) for d in distributions.get(name, [name])}
    }

    assert undeclared - COME_WITH_A_DEPENDENCY == set()


COME_WITH_A_DEPENDENCY = {"starlette", "pydantic_core", "httpcore"}
"""Parts of fastapi, pydantic and httpx, whose version those choose."""


def imported_names() -> set[str]:
    """Top-level names that the sources import, wherever in a file."""
    names: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def lines_of(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
