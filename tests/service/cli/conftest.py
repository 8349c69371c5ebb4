"""The command as people run it: a process, and a real service for it to talk to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Attune = Callable[..., "subprocess.CompletedProcess[str]"]

COMMAND = [sys.executable, "-P", "-m", "service.cli"]


def plain_environment(**more: str) -> dict[str, str]:
    """This environment without settings of Attune, on a wide terminal so that tables do not fold."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")}
    return {**kept, "COLUMNS": "200", **more}


@pytest.fixture
def attune(tmp_path: Path) -> Attune:
    """Run `attune ARGUMENTS...` in a folder of its own."""

    def run(*arguments: object, timeout_s: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=plain_environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    return run


@pytest.fixture
def start_attune(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `attune ARGUMENTS...` and leave it running; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=plain_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real `attune serve`, with a data folder of its own."""
    folder = tmp_path_factory.mktemp("service")
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--json", "--port", "0", "--data-dir", str(folder / "data")],
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "service.log").read_text()
    try:
        yield json.loads(line)["url"]
    finally:
        process.terminate()
        assert process.wait(20) == 0, (folder / "service.log").read_text()


@pytest.fixture
def two_class_folder(tmp_path: Path) -> Path:
    """Eight small JPEG files a class: dark ones and bright ones."""
    generator = np.random.default_rng(0)
    for name, level in (("dark", 60), ("bright", 200)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(generator.normal(level, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return tmp_path / "images"
