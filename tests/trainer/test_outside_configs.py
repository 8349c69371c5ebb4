"""Folders of models from outside run no code of theirs and name nothing else to load."""

import copy
import json

import open_clip
import pytest
from safetensors.torch import save_file

from trainer.data_tools.tokenizer import tokenizer_of
from trainer.errors import UnusableSpecError
from trainer.model_sources import in_weights_dir, locate, locate_timm
from trainer.models import load_clip
from trainer.outside_configs import checked_model_cfg
from trainer.spec import ModelSpec


@pytest.fixture(scope="module")
def tiny():
    locate("attune-tiny-32")
    return open_clip.get_model_config("attune-tiny-32"), open_clip.create_model("attune-tiny-32")


def write_model(folder, tiny, *, tokenizer_kwargs=None, proof=None, **text):
    """A model folder in open_clip's layout whose tokenizer is a Python file that leaves `proof`."""
    config, module = copy.deepcopy(tiny[0]), tiny[1]
    config["text_cfg"] |= text | ({"tokenizer_kwargs": tokenizer_kwargs} if tokenizer_kwargs is not None else {})
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    weights = {name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}
    weights["logit_scale"] = weights["logit_scale"].reshape(1)
    save_file(weights, folder / "open_clip_model.safetensors")
    described = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "evil.py").write_text(
        f"open({str(proof)!r}, 'w').write('ran')\n"
        "from transformers import PreTrainedTokenizer\nclass Evil(PreTrainedTokenizer):\n    pass\n"
    )
    return ModelSpec(name=f"local-dir:{folder}")


@pytest.mark.parametrize("options", [{"trust_remote_code": True}, {"code_revision": "x"}, None])
def test_no_tokenizer_of_a_folder_runs_its_python(tmp_path, tiny, monkeypatch, options):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    proof = tmp_path / "ran"
    (tmp_path / "m").mkdir()
    model = write_model(tmp_path / "m", tiny, tokenizer_kwargs=options, proof=proof, hf_tokenizer_name="anything")
    for attempt in (load_clip, tokenizer_of):
        with pytest.raises(UnusableSpecError):
            attempt(model)
    assert not proof.exists()


def test_the_same_folder_without_the_tokenizer_is_loaded(tmp_path, tiny):
    model = write_model(tmp_path, tiny, tokenizer_kwargs={"clean": "lower"}, proof=tmp_path / "ran")
    loaded = load_clip(model)
    assert loaded.tokenize(["a dog"]).shape == (1, 16)
    expected, found = tiny[1].state_dict(), loaded.module.state_dict()
    assert all(bool((found[name] == tensor).all()) for name, tensor in expected.items() if name != "logit_scale")


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("text_cfg", "hf_model_name", "/etc"),
        ("text_cfg", "hf_model_name", "../../theirs"),
        ("text_cfg", "hf_model_name", "nobody/code"),
        ("text_cfg", "hf_tokenizer_name", "/etc"),
        ("text_cfg", "tokenizer_kwargs", {"bpe_path": "/etc/passwd"}),
        ("text_cfg", "tokenizer_kwargs", {"trust_remote_code": True}),
        ("text_cfg", "tokenizer_kwargs", {"strip_sep_token": "yes"}),
        ("vision_cfg", "timm_model_name", "local-dir:/etc"),
        ("vision_cfg", "timm_model_name", "hf-hub:nobody/code"),
        ("vision_cfg", "trust_remote_code", True),
        (None, "trust_remote_code", True),
    ],
)
def test_what_a_repositorys_config_may_not_say(tiny, section, field, value):
    config = copy.deepcopy(tiny[0])
    (config if section is None else config[section])[field] = value
    with pytest.raises(UnusableSpecError, match=field):
        checked_model_cfg(config, origin="hf-hub:some/body")


def test_published_configs_pass():
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        assert checked_model_cfg(config, origin="hf-hub:some/body") == config


@pytest.mark.parametrize(
    "content",
    [
        {"architecture": "local-dir:/etc"},
        {"architecture": "hf-hub:nobody/code"},
        {"architecture": "vit_tiny_patch16_224", "model_args": {"checkpoint_path": "/etc/passwd"}},
        {"architecture": "vit_tiny_patch16_224", "model_args": {"pretrained_cfg": {"file": "/etc/passwd"}}},
        {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"state_dict": {"x": 1}}},
        {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"file": "/etc/passwd"}},
    ],
)
def test_what_timms_config_may_not_say(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UnusableSpecError):
        locate_timm(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("name", ["/etc", "../secret", "org/../../secret", "timm/vit_tiny_patch16_224.x/../../secret"])
def test_names_stay_below_the_weights_folder(tmp_path, monkeypatch, name):
    (tmp_path / "weights").mkdir()
    (tmp_path / "secret").mkdir()
    monkeypatch.setenv("ATTUNE_WEIGHTS_DIR", str(tmp_path / "weights"))
    with pytest.raises(UnusableSpecError, match="no name of a model"):
        in_weights_dir(name)


@pytest.mark.parametrize("tower", ["hf-hub:/etc", "hf-hub:../../x", "hf-hub:a/b/c"])
def test_a_text_tower_of_the_hub_is_no_path(tower):
    with pytest.raises(UnusableSpecError, match=r"model\.text\.tower .*ORG/NAME"):
        load_clip(ModelSpec.model_validate({"name": "attune-tiny-32", "text": {"tower": tower}}), weights=False)


def test_a_text_encoder_with_code_of_its_own_is_refused(tmp_path):
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('ran')\n")
    spec = ModelSpec.model_validate({"name": "attune-tiny-32", "text": {"tower": f"local-dir:{tmp_path}"}})
    with pytest.raises(UnusableSpecError):
        load_clip(spec)
    assert not (tmp_path / "ran").exists()
