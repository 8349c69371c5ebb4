"""What the pages say is so: commands, options, settings, recipes, endpoints, links and the field reference exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from service.app import create_app
from service.cli.main import app
from service.jobs.retry_rules import read_rules
from service.settings import Settings
from trainer.recipes import RECIPES
from trainer.recipes.recipe import NO_RESULT
from trainer.recipes.sweeps import find_sweep
from trainer.resolve import resolve
from trainer.spec import JobSpec

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.md")])
SOURCES = [path for room in ("service", "trainer") for path in (ROOT / room).rglob("*.py")]
COMMAND = typer.main.get_command(app)

NOT_SETTINGS = {
    "ATTUNE_URL",
    "ATTUNE_API_KEY",
    "ATTUNE_PROJECT",
    "ATTUNE_DEBUG",
    "ATTUNE_TEST_DATA",
    "ATTUNE_POSTGRES_PASSWORD",
    "ATTUNE_DATASETS",
} | {
    "ATTUNE_NODE_ADDRESS",
    "ATTUNE_CACHE",
    "ATTUNE_CACHE_MAX_GB",
}
"""Variables that the command line, the data path, the tests and the compose file read themselves."""


def code_in(page: Path) -> Iterator[str]:
    """Every fenced block and every piece of inline code of a page."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    yield from fence.findall(text)
    yield from re.findall(r"`([^`\n]+)`", fence.sub("", text))


def commands_in(page: Path, program: str) -> Iterator[list[str]]:
    """The words of every command line of `program` that a page shows."""
    for code in code_in(page):
        for line in code.replace("\\\n", " ").splitlines():
            for command in re.split(r"[|;]|&&", line.partition(" #")[0]):
                command = command.strip().removeprefix("$ ")
                if command.startswith(f"{program} "):
                    yield shlex.split(command)


def settle(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after it."""
    command: Any = COMMAND
    rest = words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"there is no `{' '.join(words)}`"
        command = command.commands[rest[0]]
        rest = rest[1:]
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands_in(page, "attune"):
        command, rest = settle(words)
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"`{' '.join(words)}` has no {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_name_fields_of_the_spec(page: Path) -> None:
    for program in ("attune", "deepspeed"):
        for words in commands_in(page, program):
            overrides = [after for before, after in zip(words, words[1:], strict=False) if before == "--set"]
            recipe = [after for before, after in zip(words, words[1:], strict=False) if before == "--recipe"]
            if overrides and words[1:3] == ["sweep", "run"]:
                recipe = [find_sweep(words[3]).recipe]
            if overrides:
                resolve(recipe=(recipe or ["flyp"])[0], overrides=overrides, runnable=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_is_a_spec_that_can_be_resolved_or_retry_rules(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        shown = yaml.safe_load(block)
        if isinstance(shown, list):
            read_rules(_written(tmp_path / "rules.yaml", block))
        else:
            resolve(spec=shown)


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_trainers_options_exist() -> None:
    for page in PAGES:
        for words in commands_in(page, "deepspeed"):
            script = next((word for word in words if word.startswith("trainer/")), None)
            if script is None:
                continue
            assert (ROOT / script).exists(), f"{page.name} names {script}"
            source = (ROOT / script).read_text(encoding="utf-8")
            for word in words[words.index(script) :]:
                assert not word.startswith("--") or f'"{word}"' in source, f"{script} has no {word}"


def test_settings_named_anywhere_exist() -> None:
    known = {f"ATTUNE_{name.upper()}" for name in Settings.model_fields} | NOT_SETTINGS
    deployment = [path for path in (ROOT / "deploy").iterdir() if path.is_file()]

    for page in [*PAGES, *deployment]:
        named = set(re.findall(r"\bATTUNE_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name} names {sorted(named - known)}"


def test_variables_that_are_no_settings_are_read_somewhere() -> None:
    read = "".join(path.read_text(encoding="utf-8") for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")])
    read += (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")

    assert {name for name in NOT_SETTINGS if name not in read} == set()


def test_serving_page_lists_the_endpoints_that_there_are(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    there = {
        f"{method.upper()} {path}"
        for path, methods in create_app(Settings(data_dir=tmp_path)).openapi()["paths"].items()
        for method in methods
    }
    listed = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", page))

    assert {shape(endpoint) for endpoint in listed} == {shape(endpoint) for endpoint in there}


def shape(endpoint: str) -> str:
    """An endpoint without its query, with all parameters called the same."""
    return re.sub(r"\{[^}]*\}", "{}", endpoint.partition("?")[0])


def test_recipes_in_the_readme_are_those_for_anybodys_data() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Recipes")[1].split("\n## ")[0]
    general = {name for name, recipe in RECIPES.items() if recipe.published == NO_RESULT}

    assert set(re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE)) == general
    assert len(RECIPES) - len(general) == 17  # as the section says


def test_recipes_own_commands_exist() -> None:
    for recipe in RECIPES.values():
        command, rest = settle(shlex.split(recipe.command))
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {words[1] for page in PAGES for words in commands_in(page, "make")}

    assert {"demo", "test", "lint", "fix", "serve"} <= targets
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_exit_codes_in_the_readme_are_those_of_the_code() -> None:
    from service.cli import exits

    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Exit codes")[1].split("\n## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) ", section, re.MULTILINE)}

    assert codes == {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}


def load_reference() -> ModuleType:
    location = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["spec.md", "serving.md"])
def test_tables_are_up_to_date(name: str) -> None:
    page = ROOT / "docs" / name

    assert load_reference().written_anew(page) == page.read_text(encoding="utf-8"), "run: python docs/reference.py"


def test_field_reference_has_every_field() -> None:
    reference = load_reference().fields()
    schema = JobSpec.model_json_schema()

    for section in [schema, *schema["$defs"].values()]:
        for name in section.get("properties", {}):
            assert f"| `{name}` |" in reference


def test_every_field_has_a_meaning() -> None:
    rows = [line for line in load_reference().fields().splitlines() if line.startswith("| `")]

    assert [row for row in rows if row.endswith("|  |")] == []
