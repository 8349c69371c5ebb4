"""A request body becomes one partial spec, which `resolve` turns into the job's."""

import functools

import pytest
from pydantic import ValidationError

from service.schemas.job_request import EXAMPLES, JobCreate
from trainer.recipes import RECIPES
from trainer.resolve import SpecError, resolve


def spec_of(**body):
    return resolve(spec=JobCreate.model_validate(body).partial_spec(), runnable=False)


def test_openai_fields_find_their_place():
    spec = spec_of(
        model="ViT-B-32",
        training_file="/data/train",
        validation_file="/data/held-out.csv",
        seed=7,
        metadata={"project": "x"},
        recipe="flyp",
        hyperparameters={"n_epochs": 3, "batch_size": 64},
    )
    assert spec.model.name == "ViT-B-32"
    assert (spec.data.train.format, spec.data.train.path) == ("image_folder", "/data/train")
    assert (spec.data.validation.format, spec.data.validation.path) == ("csv", "/data/held-out.csv")
    assert (spec.seed, spec.metadata, spec.recipe) == (7, {"project": "x"}, "flyp")
    assert (spec.schedule.epochs, spec.batch.global_size) == (3, 64)
    assert spec.objective.name == "class_prompts"


def test_an_empty_training_file_leaves_the_data_to_the_spec():
    assert (
        spec_of(model="ViT-B-32", recipe="flyp", training_file="", spec={"data": {"train": "/d"}}).data.train.path
        == "/d"
    )


def test_auto_hyperparameters_keep_the_recipes_values():
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert spec_of(model="ViT-B-32", recipe="flyp", hyperparameters=auto) == spec_of(model="ViT-B-32", recipe="flyp")


def test_the_learning_rate_multiplier_multiplies_spec_then_recipe_then_default():
    twice = {"learning_rate_multiplier": 2}
    flyp = RECIPES["flyp"].build().optim.lr
    assert spec_of(model="ViT-B-32", recipe="flyp", hyperparameters=twice).optim.lr == 2 * flyp
    in_spec = {"recipe": "flyp", "optim": {"lr": 0.5, "weight_decay": 0.25}}
    assert spec_of(model="ViT-B-32", spec=in_spec, hyperparameters=twice).optim.lr == 1.0
    assert spec_of(model="ViT-B-32", spec=in_spec, hyperparameters=twice).optim.weight_decay == 0.25
    assert spec_of(model="ViT-B-32", hyperparameters=twice).optim.lr == 2e-5


def test_the_model_keeps_what_the_spec_says_about_it():
    spec = spec_of(model="ViT-B-32", spec={"model": {"image_size": 64}})
    assert (spec.model.name, spec.model.image_size) == ("ViT-B-32", 64)


def test_the_recipes_model_counts_if_none_is_given():
    assert spec_of(recipe="flyp").model.name == RECIPES["flyp"].build().model.name


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "a", "spec": {"model": "b"}}, "model"),
        ({"model": "a", "spec": {"model": {"name": "b"}}}, "model"),
        ({"model": "a", "training_file": "/x", "spec": {"data": {"train": "/y"}}}, "training_file"),
        ({"model": "a", "seed": 1, "spec": {"seed": 2}}, "seed"),
        ({"model": "a", "recipe": "flyp", "spec": {"recipe": "contrastive"}}, "recipe"),
        (
            {"model": "a", "hyperparameters": {"n_epochs": 1}, "spec": {"schedule": {"epochs": 2}}},
            "hyperparameters.n_epochs",
        ),
    ],
)
def test_saying_two_things_is_refused(body, field):
    with pytest.raises(SpecError, match="give one of the two") as caught:
        spec_of(**body)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_saying_one_thing_twice_is_not():
    assert spec_of(model="ViT-B-32", seed=3, spec={"model": "ViT-B-32", "seed": 3}).seed == 3


@pytest.mark.parametrize("spec", [{"data": 3}, {"schedule": "long"}, {"optim": {"lr": "fast"}}, {"model": [1]}])
def test_a_section_of_the_wrong_kind_is_left_for_resolve_to_refuse(spec):
    body = {"training_file": "/d", "spec": spec}
    body["hyperparameters"] = {"n_epochs": 2, "learning_rate_multiplier": 2}
    with pytest.raises(SpecError) as caught:
        spec_of(model="ViT-B-32", **body)
    assert caught.value.problems[0].field.split(".")[0] in spec


def test_the_callers_spec_is_not_changed():
    body = JobCreate(model="ViT-B-32", training_file="/d", spec={"data": {"exif": "apply"}})
    body.partial_spec()
    assert body.spec == {"data": {"exif": "apply"}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"method": {"type": "supervised"}}, "spec.objective"),
        ({"integrations": [{"type": "wandb"}]}, "no integration is supported"),
        ({"suffix": "x" * 65}, "64"),
        ({"suffix": "a/b"}, "pattern"),
        ({"metadata": {str(i): "" for i in range(17)}}, "16"),
        ({"metadata": {"k": "x" * 513}}, "512"),
        ({"hyperparameters": {"n_epoch": 1}}, "n_epoch"),
        ({"hyperparameters": {"batch_size": 0}}, "batch_size"),
        ({"colour": "red"}, "colour"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_other_bodies_are_refused(body, words):
    with pytest.raises(ValidationError, match=words):
        JobCreate.model_validate({"model": "ViT-B-32", **body})


def test_all_that_openais_client_may_send_as_empty_is_accepted():
    body = {"method": None, "integrations": [], "suffix": None, "seed": None, "validation_file": None}
    assert spec_of(model="ViT-B-32", training_file="", metadata=None, hyperparameters=None, **body).seed == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"training_file": "\ud800"}, "training_file"),
        ({"training_file": "/d\0"}, "training_file"),
        ({"metadata": {"k": "\0"}}, "metadata.k"),
        ({"spec": {"data": {"templates": ["a {}", "\udfff{}"]}}}, "data.templates.1"),
        ({"spec": {"\ud800": 1}}, "'\\ud800'"),
        ({"spec": functools.reduce(lambda inner, _: {"data": inner}, range(900), {})}, ".".join(["data"] * 17)),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_path(body, field):
    with pytest.raises(SpecError) as caught:
        spec_of(model="ViT-B-32", **body)
    assert [problem.field for problem in caught.value.problems] == [field]
    caught.value.problems[0].model_dump_json()


def test_other_scripts_are_text():
    assert (
        spec_of(model="ViT-B-32", recipe="flyp", training_file="/données/数据/🌷").data.train.path == "/données/数据/🌷"
    )


@pytest.mark.parametrize("recipe", [3, ["flyp"], {"name": "flyp"}])
def test_a_recipe_that_is_no_name_is_refused(recipe):
    with pytest.raises(SpecError, match="recipe"):
        spec_of(model="ViT-B-32", spec={"recipe": recipe})


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_the_examples_of_the_api_page_make_jobs(name):
    assert resolve(spec=JobCreate.model_validate(EXAMPLES[name]["value"]).partial_spec()).data.train is not None
