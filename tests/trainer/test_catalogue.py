"""The catalogue agrees with the installed libraries, and its check names what is wrong."""

import json
import re
import subprocess
import sys

import open_clip
import pytest
import timm

from trainer import catalogue, catalogue_build
from trainer.catalogue import (
    architectures,
    check_model_name,
    mmpretrain_models,
    openai_models,
    resolve_alias,
    timm_models,
)
from trainer.resolve import SpecError, resolve
from trainer.spec import ModelSpec


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
        "ViT-L/14@336px",
        "openai/RN50x64",
        "vit-base-p16_clip-laion2b-in12k-pre_3rdparty_in1k-384px",
    ],
)
def test_names_that_can_be(name):
    assert check_model_name(name) is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit-b-32", "Did you mean ViT-B-32"),
        ("ViT-L/16", "Did you mean ViT-L-16 or ViT-L-16/TAG?"),
        ("ViT-B/33", "Did you mean ViT-B/32"),
        ("ViT-L/14@336", "Did you mean ViT-L/14@336px"),
        ("openai/RN51", "Did you mean RN50"),
        ("openai/ViT-H/14", "It has: RN50, RN101, RN50x4, RN50x16, RN50x64, ViT-B/32"),
        ("vit-base-p32_clip-openai-pre_3rdparty_in1", "Did you mean vit-base-p32_clip-openai-pre_3rdparty_in1k"),
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


def test_openais_nine_names_mean_openais_weights():
    assert list(openai_models()) == open_clip_openai_names()
    for theirs, ours in openai_models().items():
        architecture, _, tag = ours.partition("/")
        assert tag == "openai"
        assert open_clip.get_pretrained_cfg(architecture, "openai")["quick_gelu"]
        assert resolve_alias(f"openai/{theirs}") == ours
    assert resolve_alias("ViT-L/14@336px") == "ViT-L-14-336/openai"


def open_clip_openai_names():
    """OpenAI's names, put together from open_clip's: `ViT-L-14-336` is `ViT-L/14@336px` there."""
    names = [name for name in open_clip.list_openai_models() if not name.endswith("-quickgelu")]
    return [re.sub(r"^(ViT-[BL])-(\d+)", r"\1/\2", name).replace("-336", "@336px") for name in names]


def test_an_architecture_keeps_its_name_where_openai_has_it_too():
    assert resolve_alias("RN50") == "RN50"
    assert resolve_alias("openai/RN50") == "RN50/openai"
    assert ModelSpec(name="RN50").name == "RN50"


@pytest.mark.parametrize("theirs", mmpretrain_models())
def test_the_weights_behind_mmpretrains_names_exist(theirs):
    ours = resolve_alias(theirs)
    if ours.startswith("timm/"):
        assert timm.is_model_pretrained(ours.removeprefix("timm/"))
        assert ours.removeprefix("timm/") in timm.list_models(pretrained=True)
        size = re.search(r"-(\d+)px", theirs)
        assert timm.get_pretrained_cfg(ours.removeprefix("timm/")).input_size[-1] == int(size[1] if size else 224)
    else:
        architecture, _, tag = ours.partition("/")
        assert tag in open_clip.list_pretrained_tags_by_model(architecture)
    patch = re.search(r"-p(\d+)", theirs)[1]
    assert patch in re.findall(r"\d+", ours)
    for word in ("laion2b", "openai", "in12k"):
        assert (word in ours) == (word in theirs or (word == "openai" and "zeroshot" in theirs))


def test_a_spec_holds_the_resolved_name_wherever_it_names_a_model():
    spec = {
        "model": "openai/ViT-B/16",
        "objective": {"name": "distillation", "teacher": "ViT-B/32"},
        "data": {"train": "images"},
    }
    made = resolve(spec=spec)
    assert (made.model.name, made.objective.teacher.name) == ("ViT-B-16/openai", "ViT-B-32/openai")
    assert resolve(spec=spec, overrides=["model.name=RN101"]).model.name == "RN101"


def test_a_registered_name_comes_before_an_alias(tmp_path):
    (tmp_path / "open_clip_config.json").touch()
    made = resolve(spec={"model": "ViT-B/32"}, registered_models={"ViT-B/32": str(tmp_path)}, runnable=False)
    assert made.model.name == f"local-dir:{tmp_path}"


def test_a_near_alias_is_suggested_at_submission():
    with pytest.raises(SpecError, match="Did you mean ViT-L/14@336px"):
        resolve(spec={"model": "ViT-L/14@336"}, runnable=False)
