from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[3]
Attune = Callable[..., "subprocess.CompletedProcess[str]"]


def test_help_names_every_command(attune: Attune) -> None:
    ended = attune("--help")

    assert ended.returncode == 0
    for command in ("serve", "demo", "train", "jobs", "models", "predict", "evaluate", "recipes"):
        assert f" {command} " in ended.stdout


def test_version_is_the_distributions(attune: Attune) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert attune("--version").stdout.strip() == project["version"]


def test_unknown_command_says_which_is_near(attune: Attune) -> None:
    ended = attune("jobs", "lst")

    assert ended.returncode == 2
    assert "Did you mean 'list'?" in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2


def test_unknown_option_is_a_usage_error(attune: Attune) -> None:
    ended = attune("recipes", "list", "--jsn")

    assert ended.returncode == 2
    assert "--jsn" in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2


def test_group_without_command_shows_its_help_only(attune: Attune) -> None:
    ended = attune("jobs")

    assert ended.returncode == 2
    assert "create" in ended.stdout + ended.stderr
    assert "error:" not in ended.stderr


def test_closed_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -P -m service.cli recipes show flyp | head -n 1"
    ended = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)

    assert ended.stderr == ""


def test_command_line_imports_no_torch() -> None:
    heavy = ("torch", "deepspeed", "open_clip", "sklearn", "matplotlib")
    code = f"import sys, service.cli.main; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"


def test_recipes_list_as_json(attune: Attune) -> None:
    recipes = json.loads(attune("recipes", "list", "--json").stdout)

    assert {"flyp", "contrastive", "classification"} <= {recipe["name"] for recipe in recipes}
    assert all(recipe["paper"] and recipe["source"] and recipe["published"] for recipe in recipes)


def test_a_recipe_is_shown_with_its_paper_result_and_command(attune: Attune) -> None:
    shown = attune("recipes", "show", "itra-coco-rn50-partial").stdout

    for part in ("https://github.com/ChenDelong1999/ITRA", "76.02", "8 x RTX 2080 Ti", "118,287 samples", "!layer4"):
        assert part in shown
    assert "attune train --recipe itra-coco-rn50-partial --set data.train=coco/train.csv" in shown


def test_recipe_shown_as_json_is_a_whole_spec(attune: Attune) -> None:
    from trainer.spec import JobSpec

    recipe = json.loads(attune("recipes", "show", "flyp", "--json").stdout)

    assert JobSpec.model_validate(recipe["spec"]).objective.name == "class_prompts"


def test_unknown_recipe_exits_4_and_names_near_ones(attune: Attune) -> None:
    ended = attune("recipes", "show", "flip")

    assert ended.returncode == 4
    assert "Did you mean flyp" in ended.stderr
