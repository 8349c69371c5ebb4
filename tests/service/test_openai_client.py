"""The official OpenAI Python client against a running service."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed")


@pytest.fixture
def sent():
    """Every request that the client sends, its retries included."""
    return []


@pytest.fixture
def api(service, sent):
    http = httpx.Client(event_hooks={"request": [sent.append]}, timeout=20)
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=2, http_client=http) as api:
        yield api


def create(api, service, **given):
    given = {"model": "ViT-B-32", "training_file": str(service.data), "extra_body": {"recipe": "flyp"}, **given}
    return api.fine_tuning.jobs.create(**given)


def wait_for(api, job, condition):
    deadline = time.monotonic() + 30
    while not condition(found := api.fine_tuning.jobs.retrieve(job.id)):
        assert time.monotonic() < deadline, found.status
        time.sleep(0.02)
    return found


def finish(api, job):
    return wait_for(api, job, lambda found: found.finished_at is not None)


def test_a_job_from_its_creation_to_its_model(api, service):
    job = create(
        api,
        service,
        validation_file=str(service.data),
        hyperparameters={"n_epochs": 3, "batch_size": 64, "learning_rate_multiplier": 0.5},
        seed=11,
        suffix="pets",
        metadata={"team": "a"},
        integrations=[],
    )
    assert (job.object, job.status, job.seed, job.error) == ("fine_tuning.job", "validating_files", 11, None)
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, 64)
    assert (job.training_file, job.validation_file) == (str(service.data), str(service.data))
    assert job.model_extra["spec"]["optim"]["lr"] == pytest.approx(0.5e-5)
    done = finish(api, job)
    assert done.status == "succeeded"
    assert done.fine_tuned_model in [model.id for model in api.models.list()]
    model = api.models.retrieve(done.fine_tuned_model)
    assert (model.object, model.owned_by, model.model_extra["task"]) == ("model", "attune", "clip")
    assert api.models.delete(done.fine_tuned_model).deleted is True
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve(done.fine_tuned_model)


def test_every_field_of_a_job_event_and_checkpoint_is_of_openais_type(api, service):
    done = finish(api, create(api, service))
    validate = {"strict": True}
    type(done).model_validate(done.model_dump(), **validate)
    for event in api.fine_tuning.jobs.list_events(done.id):
        type(event).model_validate(event.model_dump(), **validate)
    checkpoints = list(api.fine_tuning.jobs.checkpoints.list(done.id))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [3, 2, 1]
    for checkpoint in checkpoints:
        type(checkpoint).model_validate(checkpoint.model_dump(), **validate)
        assert checkpoint.metrics.step == checkpoint.step_number
    for model in api.models.list():
        type(model).model_validate(model.model_dump(), **validate)


def test_lists_are_paged_by_the_client_itself(api, service):
    made = [create(api, service, training_file="/nowhere").id for _ in range(5)]
    assert [job.id for job in api.fine_tuning.jobs.list(limit=2)] == made[::-1]
    finish(api, api.fine_tuning.jobs.retrieve(made[0]))
    events = list(api.fine_tuning.jobs.list_events(made[0], limit=1))
    assert len(events) >= 2
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)


def test_jobs_are_filtered_by_metadata(api, service):
    wanted = create(api, service, metadata={"team": "a"})
    create(api, service, metadata={"team": "b"})
    assert [job.id for job in api.fine_tuning.jobs.list(metadata={"team": "a"})] == [wanted.id]


def test_a_job_is_cancelled_once(api, service, sent):
    job = create(api, service, metadata={"end": "wait"})
    assert api.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert finish(api, job).status == "cancelled"
    before = len(sent)
    with pytest.raises(openai.ConflictError) as caught:
        api.fine_tuning.jobs.cancel(job.id)
    assert len(sent) == before + 1, "the client tried again"
    assert caught.value.code == "conflict"


def test_a_job_is_paused_and_resumed(api, service, sent):
    job = create(api, service, metadata={"end": "wait"})
    wait_for(api, job, lambda found: found.status == "running")
    assert api.fine_tuning.jobs.pause(job.id).status == "paused"
    before = len(sent)
    with pytest.raises(openai.ConflictError):
        api.fine_tuning.jobs.pause(job.id)
    assert len(sent) == before + 1, "the client tried again"
    wait_for(api, job, lambda found: found.model_extra["attempts"][0]["status"] == "ended")
    assert api.fine_tuning.jobs.resume(job.id).status in ("queued", "running")
    (Path(job.model_extra["job_dir"]) / "go").touch()
    assert finish(api, job).status == "succeeded"


def test_the_data_may_be_named_in_the_spec(api, service):
    table = str(service.data / "captions.csv")
    spec = {"data": {"train": {"format": "csv", "path": table}}, "objective": {"name": "contrastive"}}
    job = api.fine_tuning.jobs.create(model="ViT-B-32", training_file="", extra_body={"spec": spec})
    assert job.training_file == table
    assert job.model_extra["spec"]["objective"]["name"] == "contrastive"


def test_openais_methods_are_refused_with_the_way_out(api, service):
    with pytest.raises(openai.UnprocessableEntityError, match=r"spec\.objective") as caught:
        create(api, service, method={"type": "supervised"})
    assert caught.value.param == "method"


def test_a_bad_spec_names_its_fields(api, service):
    with pytest.raises(openai.BadRequestError, match="Did you mean lr") as caught:
        create(api, service, extra_body={"spec": {"optim": {"lrr": 1}}})
    assert (caught.value.param, caught.value.code) == ("optim.lrr", "invalid_spec")
    assert caught.value.body["problems"][0]["field"] == "optim.lrr"
    assert caught.value.request_id.startswith("req_")
