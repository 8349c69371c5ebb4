import json

import pytest

from trainer.errors import UnusableSpecError
from trainer.plan.assemble import ASSUMED_CLASSES, Assumptions, make_plan
from trainer.recipes import RECIPES
from trainer.resolve import resolve
from trainer.schedules import build_schedule


def plan(*, recipe=None, assume=None, overrides=(), **sections):
    spec = sections if recipe else {"model": "attune-tiny-32", **sections}
    job = resolve(recipe=recipe, spec=spec, overrides=overrides, runnable=False)
    return make_plan(job, assumptions=Assumptions(**(assume or {})))


def test_a_plan_holds_together():
    made = plan(
        assume={"num_train": 1000, "devices": 2},
        model={"name": "attune-tiny-32", "freeze": ["visual.conv1.*"]},
        batch={"global_size": 50, "micro_size": 5},
        optim={"layer_decay": 0.5, "ema_decay": 0.99},
        schedule={"epochs": 3, "warmup_epochs": 1},
    )
    parameters, groups, schedule = made["parameters"], made["optimizer"]["groups"], made["schedule"]
    assert parameters["total"] == parameters["image"] + parameters["text"]
    assert parameters["total"] - parameters["trainable"] == 3 * 8 * 8 * 96
    assert sum(group["num_parameters"] for group in groups) == parameters["trainable"]
    decayed = [group["num_parameters"] for group in groups if group["weight_decay"]]
    assert sum(decayed) == parameters["weight_decayed"]
    assert {type(group["layer_id"]) for group in groups} == {int}
    assert (schedule["steps_per_epoch"], schedule["total_steps"], schedule["warmup_steps"]) == (20, 60, 20)
    assert list(schedule["lr_at"]) == ["0", "19", "59"]
    assert schedule["lr_at"]["19"] == schedule["peak_lr"]
    memory = made["memory"]
    assert (memory["devices"], memory["micro_size"]) == (2, 5)
    assert memory["stages"]["0"]["weights"] == 4 * parameters["total"]
    assert made["notes"] == []
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize("recipe", [name for name, recipe in RECIPES.items() if not recipe.dataset])
def test_recipes_for_anybodys_data_can_be_planned(recipe):
    model = {"model": {"name": "attune-tiny-32"}}
    made = plan(recipe=recipe, assume={"num_train": 1_000_000, "num_classes": 20}, **model)
    spec = resolve(recipe=recipe, spec=model, runnable=False)
    schedule = build_schedule(spec, steps_per_epoch=made["schedule"]["steps_per_epoch"])
    last = made["schedule"]["total_steps"] - 1
    assert made["schedule"]["lr_at"][str(last)] == schedule.lr_at(last)
    assert 0 < made["parameters"]["trainable"] <= made["parameters"]["total"]
    assert made["compute"]["train_flops_per_image"] >= 2 * made["compute"]["forward_macs_per_image"]


def test_without_data_there_is_a_plan_without_steps_and_a_note():
    made = plan()
    missing = plan(data={"train": "/nowhere"}, objective={"name": "class_prompts"})
    assert "'/nowhere' is not on this machine" in missing["notes"][0]
    assert made["schedule"]["steps_per_epoch"] is made["schedule"]["total_steps"] is made["schedule"]["lr_at"] is None
    assert "--num-train" in made["notes"][0]


def test_steps_that_do_not_depend_on_data_are_known_without():
    made = plan(schedule={"epochs": None, "max_steps": 40, "warmup_steps": 4})["schedule"]
    assert (made["steps_per_epoch"], made["total_steps"], list(made["lr_at"])) == (None, 40, ["0", "3", "39"])


def test_a_head_for_an_unknown_number_of_classes_is_assumed_and_said():
    made = plan(objective={"name": "classification"}, assume={"num_train": 1000})
    assert any(str(ASSUMED_CLASSES) in note and "--num-classes" in note for note in made["notes"])
    known = plan(objective={"name": "classification"}, assume={"num_train": 1000, "num_classes": 10})
    assert made["parameters"]["total"] - known["parameters"]["total"] == (ASSUMED_CLASSES - 10) * (96 + 1)


def test_asked_steps_are_told_and_others_refused():
    made = plan(assume={"num_train": 512, "steps": (3, 7)}, schedule={"epochs": 4})
    assert list(made["schedule"]["lr_at"]) == ["3", "7"]
    with pytest.raises(UnusableSpecError, match=r"--lr-at: there is no step 8; .* 0 to 7"):
        plan(assume={"num_train": 512, "steps": (3, 8)}, schedule={"epochs": 4})


def test_the_published_number_of_devices_gives_way_to_another_batch():
    published = {"recipe": "itra-coco-rn50-baseline", "model": "attune-tiny-32"}
    assert plan(**published)["memory"]["devices"] == 8
    changed = plan(**published, batch={"global_size": 100})["memory"]
    assert (changed["devices"], changed["micro_size"]) == (1, 100)
    with pytest.raises(UnusableSpecError, match=r"batch\.global_size 100 is not divisible by 3 devices"):
        plan(**published, batch={"global_size": 100}, assume={"devices": 3})


def test_each_tower_is_counted_as_often_as_an_image_needs_it():
    towers = plan(
        objective={"name": "class_prompts", "loss": "cross_entropy"},
        batch={"global_size": 64, "micro_size": 32},
        assume={"num_train": 100, "num_classes": 8},
    )["compute"]["towers"]
    assert {name: tower["inputs_per_image"] for name, tower in towers.items()} == {"image": 1, "text": 8 / 32}


def test_features_are_cached_where_a_device_accumulates():
    def flops(devices, **objective):
        made = plan(
            objective={"name": "contrastive", **objective},
            batch={"global_size": 64, "micro_size": 32},
            assume={"num_train": 100, "devices": devices},
        )
        return made["compute"]["train_flops_per_image"]

    assert flops(2, feature_cache=True) == flops(2)
    assert flops(1, feature_cache=True) * 6 == flops(1) * 8


def test_a_teacher_runs_forward_only():
    made = plan(objective={"name": "distillation", "teacher": "attune-small-64", "loss": "rkd", "towers": "image"})
    towers = made["compute"]["towers"]
    assert set(towers) == {"image", "teacher_image"}
    image, teacher = towers["image"]["macs"], towers["teacher_image"]["macs"]
    assert made["compute"]["train_flops_per_image"] == 6 * image + 2 * teacher
    assert not towers["teacher_image"]["trains"]


def test_a_locked_tower_has_no_backward_pass():
    towers = plan(model={"name": "attune-tiny-32", "image": {"lock": True}})["compute"]["towers"]
    assert (towers["image"]["trains"], towers["text"]["trains"]) == (False, True)


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"model": {"name": "attune-tiny-32", "freeze": ["visual.nix"]}}, "model.freeze"),
        (
            {"model": {"name": "attune-tiny-32", "image": {"lock": True, "lock_patterns": ["!nix"]}}},
            "model.image.lock_patterns",
        ),
        (
            {"model": {"name": "attune-tiny-32", "text": {"adapter": {"targets": ["*nix*"]}}}},
            "model.text.adapter.targets",
        ),
        ({"data": {"templates": ["a photo"]}}, "data.templates"),
        (
            {
                "objective": {"name": "class_prompts"},
                "data": {"long_texts": "refuse", "templates": ["a photo " * 50 + "{}"]},
            },
            "data.templates: 1 need more",
        ),
        ({"evaluation": {"wise_ft_alpha": 1.5}}, "evaluation.wise_ft_alpha"),
        ({"export": {"wise_ft": {"alphas": [0.5, -0.1]}}}, "export.wise_ft.alphas"),
        (
            {"objective": {"name": "distillation", "teacher": "ViT-B-32/openai", "loss": "simreg"}},
            "objective.teacher",
        ),
        ({"batch": {"global_size": 2000}}, "batch.global_size"),
        ({"schedule": {"epochs": 1, "warmup_steps": 500}}, "schedule.warmup_steps"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_field(sections, field):
    assume = {} if "data" in sections else {"num_train": 1000}
    with pytest.raises(ValueError, match=field.replace(".", r"\.")):
        plan(assume=assume, **sections)
