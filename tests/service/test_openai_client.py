"""The official OpenAI Python client against a running service: fine-tuning and models, errors and repetition."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from service.security import make_key
from service.store.records import Role

openai = pytest.importorskip("openai", reason="the openai client is not installed")


@pytest.fixture
def sent():
    """Every request that the client sends, its retries included."""
    return []


@pytest.fixture
def api(service, sent):
    with client_of(service, sent) as api:
        yield api


def client_of(service, sent, *, key="none", **given):
    http = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]}, timeout=20)
    return openai.OpenAI(**{"base_url": f"{service.url}/v1", "api_key": key, "http_client": http, **given})


def job_of(service, **given):
    return {"model": "ViT-B-32", "training_file": str(service.data), "extra_body": {"recipe": "flyp"}, **given}


def create(api, service, **given):
    return api.fine_tuning.jobs.create(**job_of(service, **given))


def wait_for(api, job, condition):
    deadline = time.monotonic() + 60
    while not condition(found := api.fine_tuning.jobs.retrieve(job.id)):
        assert time.monotonic() < deadline, found.status
        time.sleep(0.02)
    return found


def finish(api, job):
    return wait_for(api, job, lambda found: found.finished_at is not None)


def test_a_job_from_its_creation_to_its_model(api, service, strictly):
    jobs, models = api.fine_tuning.jobs.with_raw_response, api.models.with_raw_response
    job = strictly(
        jobs.create(
            **job_of(
                service,
                validation_file=str(service.data),
                hyperparameters={"n_epochs": 3, "batch_size": 64, "learning_rate_multiplier": 0.5},
                seed=11,
                suffix="pets",
                metadata={"team": "a"},
                integrations=[],
            )
        )
    )
    assert (job.object, job.status, job.seed, job.error) == ("fine_tuning.job", "validating_files", 11, None)
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, 64)
    assert (job.training_file, job.validation_file) == (str(service.data), str(service.data))
    assert job.model_extra["spec"]["optim"]["lr"] == pytest.approx(0.5e-5)
    finish(api, job)
    done = strictly(jobs.retrieve(job.id))
    assert done.status == "succeeded"
    assert done.fine_tuned_model in [model.id for model in strictly(models.list())]
    model = strictly(models.retrieve(done.fine_tuned_model))
    assert (model.object, model.owned_by, model.model_extra["task"]) == ("model", "attune", "clip")
    assert strictly(models.delete(done.fine_tuned_model)).deleted is True
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve(done.fine_tuned_model)


def test_events_and_checkpoints_are_of_openais_types_and_paged_by_the_client(api, service, strictly):
    job = finish(api, create(api, service))
    raw = api.fine_tuning.jobs.with_raw_response
    assert len(strictly(raw.list_events(job.id)).data) >= 5
    events = list(api.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len({event.id for event in events}) == len(events) >= 5
    assert [event.created_at for event in events] == sorted((event.created_at for event in events), reverse=True)
    assert {event.type for event in events} == {"message", "metrics"}
    checkpoints = api.fine_tuning.jobs.checkpoints
    page = strictly(checkpoints.with_raw_response.list(job.id, limit=2))
    assert (len(page.data), page.has_more) == (2, True)
    found = list(checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in found] == [3, 2, 1]
    assert [checkpoint.metrics.step for checkpoint in found] == [3, 2, 1]
    assert {checkpoint.fine_tuning_job_id for checkpoint in found} == {job.id}


def test_jobs_are_paged_by_the_client_itself(api, service, strictly):
    made = [create(api, service, training_file="/nowhere").id for _ in range(5)]
    page = strictly(api.fine_tuning.jobs.with_raw_response.list(limit=2))
    assert ([job.id for job in page.data], page.has_more) == (made[:2:-1], True)
    assert [job.id for job in api.fine_tuning.jobs.list(limit=2)] == made[::-1]


def test_jobs_are_filtered_by_metadata(api, service):
    wanted = create(api, service, metadata={"team": "a"})
    create(api, service, metadata={"team": "b"})
    assert [job.id for job in api.fine_tuning.jobs.list(metadata={"team": "a"})] == [wanted.id]


def test_a_job_is_cancelled_once(api, service, sent, strictly):
    job = create(api, service, metadata={"end": "wait"})
    assert strictly(api.fine_tuning.jobs.with_raw_response.cancel(job.id)).status == "cancelled"
    assert finish(api, job).status == "cancelled"
    before = len(sent)
    with pytest.raises(openai.ConflictError) as caught:
        api.fine_tuning.jobs.cancel(job.id)
    assert len(sent) == before + 1, "the client tried again"
    assert caught.value.code == "conflict"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_job_is_paused_and_resumed(api, service, sent, strictly):
    jobs = api.fine_tuning.jobs.with_raw_response
    job = create(api, service, metadata={"end": "wait"})
    wait_for(api, job, lambda found: found.status == "running")
    assert strictly(jobs.pause(job.id)).status == "paused"
    before = len(sent)
    with pytest.raises(openai.ConflictError):
        api.fine_tuning.jobs.pause(job.id)
    assert len(sent) == before + 1, "the client tried again"
    wait_for(api, job, lambda found: found.model_extra["attempts"][0]["status"] == "ended")
    assert strictly(jobs.resume(job.id)).status in ("queued", "running")
    (Path(job.model_extra["job_dir"]) / "go").touch()
    assert finish(api, job).status == "succeeded"


def test_a_failed_job_says_why(api, service, strictly):
    job = finish(api, create(api, service, metadata={"end": "fail"}))
    failed = strictly(api.fine_tuning.jobs.with_raw_response.retrieve(job.id))
    assert (failed.status, failed.error.code, failed.fine_tuned_model) == ("failed", "non_finite_loss", None)


def test_the_data_may_be_named_in_the_spec(api, service):
    table = str(service.data / "captions.csv")
    spec = {"data": {"train": {"format": "csv", "path": table}}, "objective": {"name": "contrastive"}}
    job = api.fine_tuning.jobs.create(model="ViT-B-32", training_file="", extra_body={"spec": spec})
    assert job.training_file == table
    assert job.model_extra["spec"]["objective"]["name"] == "contrastive"


def test_part_of_an_epoch_is_told_in_the_spec_alone(api, service, strictly):
    raw = api.fine_tuning.jobs.with_raw_response
    job = strictly(raw.create(**job_of(service, extra_body={"recipe": "flyp", "spec": {"schedule": {"epochs": 0.5}}})))
    assert job.hyperparameters.n_epochs is None
    assert job.model_extra["spec"]["schedule"]["epochs"] == 0.5


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


def test_what_openai_has_and_attune_has_not_is_not_found(api):
    """Sharing checkpoints between an organisation's projects, and graders."""
    permissions, graders = api.fine_tuning.checkpoints.permissions, api.fine_tuning.alpha.graders
    grader = {"type": "string_check", "name": "a", "input": "a", "reference": "a", "operation": "eq"}
    for ask in (
        lambda: permissions.list("ftckpt-1"),
        lambda: permissions.create("ftckpt-1", project_ids=["a"]).data,
        lambda: permissions.delete("cp_1", fine_tuned_model_checkpoint="ftckpt-1"),
        lambda: graders.validate(grader=grader),
        lambda: graders.run(grader=grader, model_sample="a"),
    ):
        with pytest.raises(openai.NotFoundError, match="there is no .* see /docs"):
            ask()


def test_things_that_are_not_there(api):
    for ask in (
        lambda: api.fine_tuning.jobs.retrieve("ftjob-1"),
        lambda: api.fine_tuning.jobs.cancel("ftjob-1"),
        lambda: api.fine_tuning.jobs.list_events("ftjob-1"),
        lambda: api.fine_tuning.jobs.checkpoints.list("ftjob-1"),
        lambda: api.fine_tuning.jobs.list(after="ftjob-1"),
        lambda: api.models.retrieve("ft:nothing"),
        lambda: api.models.delete("ft:nothing"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.type == "invalid_request_error"


def test_every_answer_and_error_carries_its_request(api, service):
    answer = api.fine_tuning.jobs.with_raw_response.list(extra_headers={"X-Request-ID": "mine-1"})
    assert (answer.request_id, answer.status_code, answer.parse().data) == ("mine-1", 200, [])
    assert api.fine_tuning.jobs.create(**job_of(service))._request_id.startswith("req_")


def test_keys_and_roles_are_the_clients_own_errors(start_service, tmp_path):
    service = start_service(allowed_roots=(tmp_path,))
    store = service.app.state.store
    keys = {}
    for role in (Role.VIEWER, Role.MEMBER):
        keys[role], record = make_key(project="default", name=role, role=role)
        store.keys.create(record)
    with client_of(service, [], key="ak-none") as stranger, pytest.raises(openai.AuthenticationError) as caught:
        stranger.models.list()
    assert caught.value.code == "invalid_api_key"
    with client_of(service, [], key=keys[Role.VIEWER]) as viewer:
        assert list(viewer.fine_tuning.jobs.list()) == []
        with pytest.raises(openai.PermissionDeniedError) as refused:
            create(viewer, service)
    assert refused.value.code == "forbidden"
    with client_of(service, [], key=keys[Role.MEMBER], project="elsewhere") as member:
        with pytest.raises(openai.PermissionDeniedError):
            member.models.list()
        assert create(member.with_options(project="default"), service).id


def test_the_client_waits_as_long_as_a_limit_of_requests_asks_it_to(start_service):
    service = start_service(requests_per_minute=60.0)  # ten at once, and then one a second
    key, record = make_key(project="default", name="a", role=Role.MEMBER)
    service.app.state.store.keys.create(record)
    with client_of(service, [], key=key, max_retries=0) as hasty:
        with pytest.raises(openai.RateLimitError) as caught:
            [hasty.models.list() for _ in range(30)]
        assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "1")
    with client_of(service, sent := [], key=key, max_retries=3) as patient:
        began = time.monotonic()
        for _ in range(2):
            patient.models.list()
    assert len(sent) > 2, "nothing was refused"
    assert time.monotonic() - began >= 1.0


def test_the_asynchronous_client_pages_too(service):
    async def use():
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as api:
            made = [(await api.fine_tuning.jobs.create(**job_of(service))).id for _ in range(3)]
            return made, [job.id async for job in api.fine_tuning.jobs.list(limit=2)]

    made, listed = asyncio.run(use())
    assert listed == made[::-1]
