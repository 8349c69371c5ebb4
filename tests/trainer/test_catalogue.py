"""The catalogue agrees with the installed libraries, and its check names what is wrong."""

import json
import subprocess
import sys

import pytest

from trainer import catalogue, catalogue_build
from trainer.catalogue import architectures, check_model_name, timm_models


@pytest.fixture(scope="module")
def rebuilt():
    return catalogue_build.build()


def test_the_file_is_what_the_builder_writes(rebuilt):
    stored = json.loads(catalogue.PATH.read_text(encoding="utf-8"))
    if stored["versions"] == rebuilt["versions"]:
        assert catalogue.PATH.read_text(encoding="utf-8") == catalogue_build.to_json(rebuilt)
    for name, entry in stored["open_clip"].items():
        installed = rebuilt["open_clip"][name]
        assert {**entry, "pretrained": None} == {**installed, "pretrained": None}
        assert set(entry["pretrained"]) <= set(installed["pretrained"])
    for name, tags in stored["timm"].items():
        assert set(tags) <= set(rebuilt["timm"][name])


def test_the_file_stays_small():
    assert catalogue.PATH.stat().st_size < 500_000


def test_shapes_are_those_of_the_architecture():
    vit = architectures()["ViT-L-14-336"]
    assert (vit.embed_dim, vit.image_size, vit.context_length) == (768, 336, 77)
    assert (vit.vision["layers"], vit.vision["width"], vit.vision["patch_size"]) == (24, 1024, 14)
    assert "openai" in vit.pretrained
    assert architectures()["ViT-B-32-quickgelu"].quick_gelu


def test_own_architectures_are_listed_without_weights():
    own = architectures()["attune-tiny-32"]
    assert (own.image_size, own.pretrained) == (32, ())


def test_timm_models_have_their_tags():
    assert "openai" in timm_models()["vit_base_patch32_clip_224"]


def test_it_loads_no_library():
    code = (
        "import sys; from trainer.catalogue import check_model_name, timm_models;"
        "assert check_model_name('ViT-B-32') is None and timm_models();"
        "bad = {'torch', 'open_clip', 'timm', 'numpy'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    [
        "ViT-B-32",
        "ViT-L-14/openai",
        "attune-small-64",
        "timm/resnet50",
        "timm/vit_base_patch16_clip_224.openai",
        "hf-hub:laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    ],
)
def test_names_that_can_be(name):
    assert check_model_name(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit-b-32", "Did you mean ViT-B-32"),
        ("ViT-B/32", "Did you mean ViT-B-32 or ViT-B-32/TAG?"),
        ("ViT-L-14/opnai", "has no published weights 'opnai'. Did you mean openai?"),
        ("ViT-L-14/", "has no published weights ''"),
        ("attune-tiny-32/openai", "It has none: use it without a tag"),
        ("resnet50.a1_in1k", "Did you mean timm/resnet50.a1_in1k?"),
        ("timm/resnt50", "Did you mean resnet50"),
        ("timm/resnet18.a9_in1k", "Did you mean a3_in1k or a2_in1k or a1_in1k?"),
        ("hf-hub:laion", "not of the form ORG/NAME"),
        ("hf-hub:../../etc", "not of the form ORG/NAME"),
        ("local-dir:", "folder '' does not exist"),
        ("local-dir:/no/such/folder", "does not exist"),
        ("", "A model's name is ARCHITECTURE"),
    ],
)
def test_names_that_cannot_be(name, says):
    problem = check_model_name(name)
    assert problem is not None
    assert says in problem


def test_a_folder_needs_a_configuration(tmp_path):
    assert "holds no model" in check_model_name(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").touch()
    assert check_model_name(f"local-dir:{tmp_path}") is None


def test_weights_of_ones_own_count(tmp_path):
    assert check_model_name("ViT-B-32/mine") is not None
    (tmp_path / "ViT-B-32" / "mine").mkdir(parents=True)
    assert check_model_name("ViT-B-32/mine", weights_dir=tmp_path) is None
    (tmp_path / "timm" / "resnet18.mine").mkdir(parents=True)
    assert check_model_name("timm/resnet18.mine", weights_dir=tmp_path) is None
    assert check_model_name("timm/resnet18.other", weights_dir=tmp_path) is not None
