from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from service.cli.main import app
from trainer import evaluate

Attune = Callable[..., "subprocess.CompletedProcess[str]"]

MODEL = ("--model", "attune-tiny-32")  # fresh weights: what is tested is the way to the numbers


def test_its_options_are_those_of_the_trainers_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[argparse.ArgumentParser] = []
    parse = argparse.ArgumentParser.parse_args

    def remember(parser: argparse.ArgumentParser, *arguments: object) -> argparse.Namespace:
        parsers.append(parser)
        return parse(parser, [])

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", remember)
    evaluate.parse_arguments([])
    theirs = {option for action in parsers[0]._actions for option in action.option_strings} - {"--local_rank", "-h"}
    command = typer.main.get_command(app).commands["evaluate"]
    ours = {option for parameter in command.params for option in parameter.opts}

    assert ours - {"--devices"} == theirs - {"--help"}


@pytest.mark.slow
def test_missing_folder_exits_2_and_is_named(attune: Attune, tmp_path: Path) -> None:
    ended = attune("evaluate", *MODEL, "--data", tmp_path / "nowhere")

    assert ended.returncode == 2
    assert f"{tmp_path}/nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_two_processes_find_what_one_finds(attune: Attune, two_class_folder: Path, tmp_path: Path) -> None:
    data = ("--data", f"pairs={two_class_folder}", "--batch-size", "5")
    one = attune("evaluate", *MODEL, *data, "--json", timeout_s=120)
    two = attune("evaluate", *MODEL, *data, "--devices", "2", "--output", "out", timeout_s=180)

    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    (result,) = json.loads(one.stdout)["results"]
    assert result["dataset"] == "pairs"
    assert result["num_samples"] == 16
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["results"][0]["num_samples"] == 16
    assert "pairs" in two.stdout
