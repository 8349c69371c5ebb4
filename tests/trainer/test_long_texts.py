"""Texts over the context are counted before training, and refused where that is asked for."""

import pytest
import torch

from dali_pipelines.manifest import Manifest
from trainer.additions import added
from trainer.errors import UnusableDataError
from trainer.long_texts import count_long, find_long_texts, refuse_long_texts
from trainer.models import load_clip
from trainer.spec import JobSpec, ModelSpec


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return load_clip(ModelSpec(name="attune-tiny-32"))


def test_exactly_the_texts_that_are_cut_count(model):
    """A text fits if the tokenizer's cut makes no difference to it."""
    room = model.tokenize.context_length
    texts = [" ".join(["cat"] * words) for words in range(room - 4, room + 3)] + ["é" * (room + 5), "short"]
    wide = model.tokenize(texts, context_length=4 * room)
    cut = [(row != 0).sum().item() > room for row in wide]
    assert 2 < sum(cut) < len(texts) - 2
    count, longest = count_long(texts, tokenize=model.tokenize, room=room)
    assert count == sum(cut)
    assert longest == max((text for text, is_cut in zip(texts, cut, strict=True) if is_cut), key=len)


def data(captions):
    return {"train": Manifest.from_columns("/x", paths=["a", "b"], sizes=[(1, 1)] * 2, captions=captions)}


def test_captions_are_counted_and_a_learned_prompt_takes_room(model):
    room = model.tokenize.context_length
    manifests = data([["a cat", " ".join(["cat"] * (room - 2))], [" ".join(["dog"] * 2 * room)]])
    spec = JobSpec(model=ModelSpec(name="attune-tiny-32"))
    (remark,) = find_long_texts(spec, model=model, manifests=manifests)
    assert remark.startswith(f"1 captions of train need more than the text tower's {room} tokens, such as 'dog dog")
    prompted = JobSpec.model_validate({"model": {"name": "attune-tiny-32", "text": {"prompt": {"length": 4}}}})
    with_prompt = added(load_clip(prompted.model), prompted.model, unshifted_pooling=False, structure=False)
    (remark,) = find_long_texts(prompted, model=with_prompt, manifests=manifests)
    assert remark.startswith(f"2 captions of train need more than the text tower's {room - 4} tokens")


def test_prompts_are_counted_for_every_class_and_template(model):
    long = "very " * model.tokenize.context_length
    manifest = Manifest.from_columns("/x", paths=["a"], sizes=[(1, 1)], labels=[0], class_names=("cat", long))
    spec = JobSpec.model_validate(
        {"model": "attune-tiny-32", "objective": {"name": "class_prompts"}, "data": {"templates": ["a {}.", "the {}."]}}
    )
    (remark,) = find_long_texts(spec, model=model, manifests={"train": manifest})
    assert remark.startswith("2 prompts")


def test_remarks_stop_the_job_where_it_refuses():
    spec = JobSpec.model_validate({"model": "attune-tiny-32", "data": {"long_texts": "refuse"}})
    refuse_long_texts(spec, remarks=[])
    with pytest.raises(UnusableDataError, match=r"data\.long_texts is `refuse`: 3 captions"):
        refuse_long_texts(spec, remarks=["3 captions of train need more"])
    refuse_long_texts(JobSpec(model=ModelSpec(name="attune-tiny-32")), remarks=["3 captions"])
