import subprocess
import sys

import pytest

from trainer.recipes import RECIPES
from trainer.resolve import SpecError, read_spec_file, resolve
from trainer.spec import JobSpec


def problems_of(**arguments):
    with pytest.raises(SpecError) as caught:
        resolve(**arguments)
    return {problem.field: problem.message for problem in caught.value.problems}


def with_data(**spec):
    """Captioned images with classes: fit for every objective."""
    return {"data": {"train": {"path": "pairs.csv", "label_column": "class"}}, **spec}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_resolves_and_survives_a_round_trip_through_json(name):
    pairs = {"path": "pairs.csv", "label_column": "class"}
    spec = resolve(recipe=name, spec={"data": {"train": pairs, "validation": pairs}})
    assert spec.recipe == name
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_overrides_win_over_the_spec_which_wins_over_the_recipe():
    base = resolve(recipe="flyp", spec=with_data())
    spec = resolve(recipe="flyp", spec=with_data(optim={"lr": 2e-4, "weight_decay": 0.3}), overrides=["optim.lr=3e-3"])
    assert (base.optim.lr, base.optim.weight_decay) == (1e-5, 0.1)
    assert (spec.optim.lr, spec.optim.weight_decay) == (3e-3, 0.3)
    assert spec.optim.decay_vectors is base.optim.decay_vectors is True


def test_a_recipe_named_inside_the_spec_counts():
    assert resolve(spec={"recipe": "contrastive", **with_data()}).optim.weight_decay == 0.5


def test_a_new_objective_drops_the_old_ones_fields():
    spec = resolve(recipe="contrastive", spec=with_data(objective={"name": "classification"}))
    assert spec.objective.name == "classification"


def test_a_change_within_the_objective_keeps_its_other_fields():
    spec = resolve(
        spec=with_data(model="ViT-B-32", objective={"name": "classification", "head": "fresh"}),
        overrides=["objective.label_smoothing=0.1"],
    )
    assert (spec.objective.head, spec.objective.label_smoothing) == ("fresh", 0.1)


def test_bare_paths_stand_for_sources_by_their_ending():
    spec = resolve(spec={"model": "ViT-B-32", "data": {"train": "pairs.tsv", "validation": {"path": "held"}}})
    assert (spec.data.train.format, spec.data.validation.format) == ("csv", "image_folder")


def test_registered_models_become_local_folders(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    spec = resolve(spec=with_data(model="ft:mine"), registered_models={"ft:mine": str(tmp_path)})
    assert spec.model.name == f"local-dir:{tmp_path}"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("ViT-B-33", "ViT-B-32"),
        ("ViT-B-32/opnai", "openai"),
        ("timm/vit_base_patch16_clip_225", "vit_base_patch16_clip_224"),
        ("local-dir:/nowhere", "/nowhere"),
    ],
)
def test_unknown_models_name_near_ones(name, word):
    assert (
        word
        in problems_of(spec=with_data(model=name, objective={"name": "classification", "head": "fresh"}))["model.name"]
    )


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"optim": {"lrr": 1}}, "optim.lrr", ["Did you mean lr?", "weight_decay"]),
        ({"optim": {"lr": -1}}, "optim.lr", ["greater than 0", "-1"]),
        ({"objective": {"name": "class_prompts", "head": 1}}, "objective.head", ["max_logit_scale, name"]),
        ({"data": {"train": {"path": "x.csv", "colum": 1}}}, "data.train.colum", ["image_column"]),
        (
            {"batch": {"global_size": 100, "micro_size": 8}, "parallel": {"devices": 4}},
            "batch.global_size",
            ["96 or 128"],
        ),
        ({"parallel": {"zero_stage": 1, "offload_parameters": "cpu"}}, "parallel.offload_parameters", ["zero_stage 3"]),
        ({"parallel": {"zero_stage": 3, "offload_optimizer": "nvme"}}, "parallel.nvme_path", ["nvme_path"]),
        ({"parallel": {"zero_stage": 4}}, "parallel.zero_stage", ["less than or equal to 3", "4"]),
        (
            {"data": {"train": "x", "templates": ["a photo"]}},
            "data.templates",
            ["a photo", "{}", "attune prompts list"],
        ),
        ({"model": "timm/vit_base_patch16_224.x"}, "objective.name", ["text tower"]),
        ({"schedule": {"warmup_steps": 9, "max_steps": 5}}, "schedule.warmup_steps", ["9", "5"]),
        (
            {"export": {"wise_ft": {"alpha": 1.5}}},
            "export.wise_ft.alpha",
            ["less than or equal to 1, or 'best', got 1.5"],
        ),
        ({"objective": {"name": "classificatio"}}, "objective.name", ["'classification'", "got 'classificatio'"]),
        ({"export": {"wise_ft": 1}}, "export.wise_ft", ["should be a mapping of fields, got 1"]),
        ({"optim": {"betas": 0.9}}, "optim.betas", ["should be a list, got 0.9"]),
        ({"parallel": {"devices": 0}}, "parallel.devices", ["greater than or equal to 1, or 'auto', got 0"]),
        ({"model": {"text": {"context_length": 2}}}, "model.text.context_length", ["leaves no room", "3 or more"]),
        ({"export": {"weights": "ema"}}, "export.weights", ["optim.ema_decay"]),
        ({"data": {"train": {"format": "csv", "path": "t.csv"}}}, "data.train.label_column", ["class_prompts"]),
    ],
)
def test_bad_specs_name_the_field_and_what_is_allowed(spec, field, words):
    problems = problems_of(recipe="flyp", spec=spec)
    assert field in problems, problems
    for word in words:
        assert word in problems[field]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        ({"data": {"train": "photos"}}, "objective.name", ["contrastive", "class_prompts"]),
        ({"data": {"train": {"path": "a.csv", "caption_column": None}}}, "data.train.caption_column", ["caption"]),
        (with_data(checkpoint={"metric": "validation/top1"}), "checkpoint.metric", ["held-out"]),
        (with_data(parallel={"deepspeed_config": "/nope.json"}), "parallel.deepspeed_config", ["/nope.json"]),
        (
            with_data(objective={"name": "classification"})
            | {"data": {"train": "photos", "validation": "held.csv", "evaluate": {"far": "far.tsv"}}},
            "data.validation.label_column",
            ["class"],
        ),
        (with_data(model="coca_ViT-B-32"), "model.name", ["CoCa"]),
    ],
)
def test_impossible_combinations_are_refused(spec, field, words):
    problems = problems_of(spec={"model": "ViT-B-32", **spec})
    assert field in problems, problems
    for word in words:
        assert word in problems[field]


def test_a_known_metric_is_accepted():
    spec = resolve(
        spec={
            "model": "ViT-B-32",
            "data": {"train": "pairs.csv", "evaluate": {"far": "far.csv"}},
            "checkpoint": {"metric": "far/mean_recall"},
        }
    )
    assert spec.checkpoint.metric == "far/mean_recall"


def test_a_folder_in_timms_layout_has_no_text_tower(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    model = f"local-dir:{tmp_path}"
    assert "text tower" in problems_of(spec=with_data(model=model))["objective.name"]
    problems = problems_of(spec=with_data(model=model, objective={"name": "classification"}))
    assert "fresh" in problems["objective.head"]


def test_an_override_inside_a_plain_path_keeps_the_path():
    spec = resolve(
        recipe="flyp",
        overrides=["data.train=photos", "data.train.limit_per_class=50", "metadata.run=7"],
    )
    assert (spec.data.train.path, spec.data.train.limit_per_class) == ("photos", 50)
    assert spec.metadata == {"run": "7"}


def test_all_problems_are_reported_at_once():
    problems = problems_of(recipe="flyp", spec=with_data(optim={"lr": -1, "nope": 1}, seed=-3))
    assert {"optim.lr", "optim.nope", "seed"} <= set(problems)


def test_a_bad_item_does_not_make_its_list_too_short():
    assert list(problems_of(spec={"model": "ViT-B-32", "export": {"wise_ft": {"alphas": [1.5]}}})) == [
        "export.wise_ft.alphas.0"
    ]


def test_a_recipe_cannot_be_changed_under_the_fields_that_it_set():
    assert "--recipe" in problems_of(recipe="flyp", overrides=["recipe=ft-clip"])["recipe"]
    assert "--recipe" in problems_of(spec={"model": "ViT-B-32"}, overrides=["recipe=flyp"])["recipe"]


def test_unknown_recipes_name_near_ones():
    assert "Did you mean flyp or " in problems_of(recipe="flypp")["recipe"]


def test_training_data_is_needed_to_run_but_not_to_plan():
    assert "data.train" in problems_of(recipe="flyp")
    assert resolve(recipe="flyp", runnable=False).data.train is None


@pytest.mark.parametrize("override", ["optim.lr", "=3", "optim.lr=[1"])
def test_malformed_overrides_are_refused(override):
    assert problems_of(recipe="flyp", spec=with_data(), overrides=[override])


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1", "just text"])
def test_spec_files_must_hold_a_mapping(tmp_path, content):
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(SpecError, match="job.yaml"):
        read_spec_file(path)


def test_a_missing_spec_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nothing\.yaml"):
        read_spec_file(tmp_path / "nothing.yaml")


def test_the_contract_imports_no_torch():
    modules = "trainer.resolve, trainer.events, trainer.job_dir, trainer.schedules"
    code = (
        f"import sys, {modules}; sys.exit(any(m in sys.modules for m in ('torch', 'deepspeed', 'open_clip', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
