"""Which models and domains a request comes to, and what is refused before anything is computed."""

import json
from pathlib import Path

import pytest

from trainer.catalogue import openai_models
from trainer.errors import TrainingError
from trainer.transfer.benchmarks import BENCHMARKS
from trainer.transfer.request import Request, settle


@pytest.fixture
def pacs(tmp_path):
    """PACS without two of its domains, and one folder more."""
    for domain in ("photo", "sketch", "doodle"):
        for name in ("dog", "guitar_bass"):
            (tmp_path / "pacs" / domain / name).mkdir(parents=True)
    return tmp_path / "pacs"


def settled(root, **fields):
    return settle(Request(root=str(root), output="out", **fields))


def test_openais_nine_are_the_default_and_their_names_mean_their_weights(pacs):
    assert settled(pacs).models == openai_models()
    assert settled(pacs, models=("RN50", "openai/RN101", "fresh=attune-tiny-32")).models == {
        "RN50": "RN50/openai",
        "openai/RN101": "RN101/openai",
        "fresh": "attune-tiny-32",
    }


def test_folders_name_their_rows(pacs, exports, monkeypatch):
    job = exports[0].parent / "my-job" / "export"
    job.parent.mkdir(exist_ok=True)
    if not job.exists():
        job.symlink_to(exports[0])
    monkeypatch.chdir(exports[0].parent)
    made = settled(pacs, models=("local-dir:my-job/export", f"tuned=local-dir:{exports[1]}", "local-dir:model-0"))
    assert list(made.models) == ["my-job", "tuned", "model-0"]
    assert made.models["my-job"] == f"local-dir:{job}"


def test_domains_come_in_the_benchmarks_order_or_by_name(pacs):
    assert list(settled(pacs).domains) == ["doodle", "photo", "sketch"]
    assert list(settled(pacs, domains=("sketch", "photo")).domains) == ["sketch", "photo"]
    for domain in ("cartoon", "art_painting"):
        (pacs / domain).mkdir()
    assert list(settled(pacs, dataset="pacs").domains) == ["art_painting", "cartoon", "photo", "sketch"]


def test_a_benchmarks_short_names_find_their_folders(tmp_path):
    for folder in BENCHMARKS["TerraInc"].values():
        (tmp_path / folder).mkdir()
    made = settled(tmp_path, dataset="TerraInc")
    assert list(made.domains) == ["L38", "L43", "L46", "L100"]
    assert made.domains["L100"].path == str(tmp_path / "location_100")


def test_the_benchmarks_are_the_demos():
    assert {name: len(domains) for name, domains in BENCHMARKS.items()} == {
        "OfficeHome": 4, "Office-31": 3, "VLCS": 4, "PACS": 4, "VisDA": 1, "DomainNet": 6, "TerraInc": 4,
        "ImageNet-R": 1,
    }  # fmt: skip
    assert sum(map(len, BENCHMARKS.values())) == 27  # numbered 0 to 26 there


def test_names_in_prompts(pacs, tmp_path):
    assert settled(pacs).domains["photo"].class_names == {}
    kept = settled(pacs, keep_underscores=True).domains["photo"].class_names
    assert kept == {"dog": "dog", "guitar_bass": "guitar_bass"}
    (tmp_path / "names.json").write_text(json.dumps({"dog": "puppy", "n0123": "tench"}))
    named = settled(pacs, class_names=str(tmp_path / "names.json")).domains["photo"].class_names
    assert named == {"dog": "puppy"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"models": ("ViT-B/33",)}, "--models ViT-B/33: .*Did you mean ViT-B/32"),
        ({"models": ("a=RN50", "a=RN101")}, "two rows are called 'a'"),
        ({"models": ("ViT-B/32", "ViT-B_32=RN50")}, "two rows are called 'ViT-B_32'"),
        ({"models": ("local-dir:/no/such=folder",)}, "folder '/no/such=folder' does not exist"),
        ({"models": ("local-dir:/no/such",)}, "folder '/no/such' does not exist"),
        ({"dataset": "PASC"}, "no benchmark 'PASC'. Did you mean PACS"),
        ({"dataset": "PACS"}, "no domain folder art_painting, cartoon; there are: doodle, photo, sketch. Name those"),
        ({"domains": ("clipart",)}, "no domain folder clipart; there are: doodle, photo, sketch"),
        ({"templates": ("a picture",)}, "--templates: .*exactly one {}"),
        ({"class_names": "no-such.json"}, "--class-names 'no-such.json' cannot be read"),
    ],
)
def test_what_is_wrong_is_named(pacs, fields, says):
    with pytest.raises(TrainingError, match=says):
        settled(pacs, **fields)


def test_a_root_without_domains_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="holds no domain folders; there are: none"):
        settled(tmp_path)
    with pytest.raises(TrainingError, match="there is no folder"):
        settled(tmp_path / "nowhere")


def test_the_page_lists_the_benchmarks():
    page = (Path(__file__).parents[3] / "docs" / "interfaces.md").read_text(encoding="utf-8")
    for name, domains in BENCHMARKS.items():
        assert f"| {name} | {', '.join(domains)} |" in page
        if list(domains) != list(domains.values()):
            assert ", ".join(domains.values()) in page
