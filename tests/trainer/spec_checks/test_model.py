"""Models that no job could train, refused without loading them."""

import pytest
from pydantic import ValidationError

from trainer.spec import JobSpec


def problems(spec):
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(spec)
    return {".".join(map(str, error["loc"])): error["msg"] for error in caught.value.errors()}


def model(name="ViT-B-16/openai", **parts):
    return {"model": {"name": name, **parts}}


def classifier(model_spec, **objective):
    return {**model_spec, "objective": {"name": "classification", "head": "fresh", **objective}}


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        (classifier(model(text={"lock": True})), "model.text.lock", "has no effect: `classification` trains"),
        (classifier(model(text={"adapter": {}})), "model.text.adapter", "has no effect"),
        (classifier(model(image={"head": {}})), "model.image.head", "has no effect"),
        (classifier(model(text={"tower": "hf-hub:a/b"})), "model.text.tower", "only a `zero_shot` head"),
        (classifier(model(image={"tower": "timm/resnet18"})), "model.image.tower", "set model.name to 'timm/resnet18'"),
        (classifier(model(), head="keep"), "objective.head", "needs a trained classifier"),
        (classifier(model(), head="zero_shot", features="mean_patches"), "objective.head", "from text"),
        (classifier(model("timm/resnet18"), features="projected"), "objective.features", "shares with texts"),
        (classifier(model("RN50/openai"), features="mean_patches"), "objective.features", "is a ResNet"),
        (classifier(model("timm/resnet18", text={"context_length": 5})), "model.text.context_length", "no text tower"),
        (model(image={"tower": "resnet18"}), "model.image.tower", "write timm/NAME"),
        (model(image={"tower": "timm/resnet19000"}), "model.image.tower", "is no image model of timm"),
        (model(text={"tower": "roberta-base"}), "model.text.tower", "write hf-hub:ORG/NAME"),
        (model(text={"pooling": "cls"}), "model.text.pooling", "Hugging Face encoder in model.text.tower"),
        (model(text={"context_length": 100}), "model.text.context_length", "positions for 77 tokens"),
        (model("RN50/openai", image={"drop_path": 0.1}), "model.image.drop_path", "is a ResNet of CLIP"),
        (model(image={"lock": True, "drop_path": 0.1}), "model.image.drop_path", "model.image.lock keeps the tower"),
        (model(eval_mode=True, image={"dropout": 0.1}), "model.image.dropout", "model.eval_mode keeps the tower"),
        (
            model(image={"head": {"output_size": 256}}),
            "model.image.head.output_size",
            "gives 256 dimensions and the text tower 512",
        ),
        (model(text={"head": {"output_size": 9}}), "model.text.head.output_size", "gives 512 dimensions"),
        (model(image={"adapter": {"method": "ia3", "rank": 4}}), "model.image.adapter.rank", "`ia3` has none"),
        (model(text={"adapter": {"method": "vera", "alpha": 4}}), "model.text.adapter.alpha", "`vera` has none"),
        (model(text={"adapter": {"targets": []}}), "model.text.adapter.targets", "at least one pattern"),
        (model(text={"tower": "hf-hub:a/b", "prompt": {}}), "model.text.prompt", "needs a text tower of open_clip"),
        (model("roberta-ViT-B-32", text={"prompt": {}}), "model.text.prompt", "needs a text tower of open_clip"),
        (model(text={"prompt": {"length": 75}}), "model.text.prompt.length", "use at most 74"),
        ({**model(), "compat": ["itra-prompt-pooling"]}, "compat", "has no effect without model.text.prompt"),
        (
            {**model(), "objective": {"name": "distillation", "teacher": {"name": "ViT-B-16/openai", "freeze": "*"}}},
            "objective.teacher.freeze",
            "a teacher is not trained",
        ),
        (
            {
                **model(),
                "objective": {"name": "distillation", "teacher": {"name": "ViT-B-16/openai", "image": {"lock": True}}},
            },
            "objective.teacher.image.lock",
            "a teacher is not trained",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_field(spec, field, says):
    found = problems(spec)
    assert list(found) == [field]
    assert says in found[field]


@pytest.mark.parametrize(
    "spec",
    [
        model(image={"lock": True, "head": {"output_size": 64}}, text={"lock": True, "head": {"output_size": 64}}),
        model(image={"drop_path": 0.1, "dropout": 0.1}),
        model("RN50/openai", image={"tower": "timm/vit_tiny_patch16_224", "drop_path": 0.1}),
        model(text={"context_length": 20, "prompt": {"length": 17}}),
        classifier(model(text={"tower": "hf-hub:a/b", "pooling": "cls"}), head="zero_shot"),
        classifier(model("local-dir:/exports/mine"), head="keep", features="projected"),
    ],
)
def test_what_can_be_is_not_refused(spec):
    assert JobSpec.model_validate(spec)
