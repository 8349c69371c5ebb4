"""Files, uploads, and what else the official OpenAI Python client reaches, against a running service.

Answers are validated strictly against the client's own types, which forgive nothing.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile

import pytest

openai = pytest.importorskip("openai", reason="the openai client is not installed")


@pytest.fixture
def api(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as api:
        yield api


def strictly(answer):
    """The answer, if each of its fields is what the client's types say, without any conversion."""
    type(answer).model_validate(answer.model_dump(), strict=True)
    return answer


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name in ("cat/1.jpg", "dog/1.jpg"):
            made.writestr(name, b"an image")
    return content.getvalue()


def test_files_through_their_whole_life(api):
    content = b"image\tcaption\n1.jpg\ta cat\n"
    lasting = strictly(api.files.create(file=("a.tsv", content), purpose="fine-tune"))
    passing = api.files.create(
        file=("b.bin", b"123"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert strictly(passing).expires_at == passing.created_at + 3600
    assert strictly(api.files.wait_for_processing(lasting.id)).status == "processed"
    assert api.files.retrieve(lasting.id) == lasting
    assert api.files.content(lasting.id).content == content
    assert [strictly(file).id for file in api.files.list(limit=1)] == [passing.id, lasting.id]
    assert [file.id for file in api.files.list(order="asc", purpose="fine-tune")] == [lasting.id]
    assert strictly(api.files.delete(lasting.id)).deleted is True
    with pytest.raises(openai.NotFoundError):
        api.files.retrieve(lasting.id)


def test_an_upload_in_parts_becomes_the_data_of_a_job(api):
    content = archive()
    half = len(content) // 2
    upload = api.uploads.create(
        bytes=len(content), filename="images.zip", mime_type="application/zip", purpose="fine-tune"
    )
    assert strictly(upload).status == "pending"
    parts = [strictly(api.uploads.parts.create(upload.id, data=piece)) for piece in (content[:half], content[half:])]
    done = api.uploads.complete(upload.id, part_ids=[part.id for part in parts], md5=hashlib.md5(content).hexdigest())
    assert strictly(done).status == "completed"
    assert api.files.content(strictly(done.file).id).content == content
    job = api.fine_tuning.jobs.create(model="ViT-B-32", training_file=done.file.id, extra_body={"recipe": "flyp"})
    assert strictly(job).training_file == done.file.id
    deadline = time.monotonic() + 60
    while (found := strictly(api.fine_tuning.jobs.retrieve(job.id))).finished_at is None:
        assert time.monotonic() < deadline, found.status
        time.sleep(0.05)
    assert found.status == "succeeded"


def test_the_clients_own_chunked_upload(api, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"image,caption\n" + b"1.jpg,a cat\n" * 1000)
    done = api.uploads.upload_file_chunked(file=path, mime_type="text/csv", purpose="fine-tune", part_size=4096)
    assert strictly(done).status == "completed"
    assert api.files.content(done.file.id).content == path.read_bytes()


def test_an_upload_is_given_up(api):
    upload = api.uploads.create(bytes=3, filename="a.csv", mime_type="text/csv", purpose="fine-tune")
    assert strictly(api.uploads.cancel(upload.id)).status == "cancelled"
    with pytest.raises(openai.ConflictError) as caught:
        api.uploads.parts.create(upload.id, data=b"123")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_job_is_created_once_a_key(api, service):
    def create(**given):
        body = {"model": "ViT-B-32", "training_file": str(service.data), "extra_body": {"recipe": "flyp"}, **given}
        return api.fine_tuning.jobs.with_raw_response.create(**body, extra_headers={"Idempotency-Key": "one"})

    first, again = create(), create()
    assert again.parse().id == first.parse().id
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert [job.id for job in api.fine_tuning.jobs.list()] == [first.parse().id]
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        create(seed=5)
    assert caught.value.code == "idempotency_key_reused"


def test_every_answer_of_a_jobs_life_is_of_openais_types(api, service):
    given = {"model": "ViT-B-32", "training_file": str(service.data), "extra_body": {"recipe": "flyp"}}
    waiting = api.fine_tuning.jobs.create(metadata={"end": "wait"}, **given)
    assert strictly(api.fine_tuning.jobs.cancel(waiting.id)).status == "cancelled"
    failed = api.fine_tuning.jobs.create(metadata={"end": "fail"}, **given)
    deadline = time.monotonic() + 60
    while (found := api.fine_tuning.jobs.retrieve(failed.id)).finished_at is None:
        assert time.monotonic() < deadline, found.status
        time.sleep(0.05)
    assert strictly(found).error.code
    for job in strictly(api.fine_tuning.jobs.list(limit=1)):
        strictly(job)
        for event in api.fine_tuning.jobs.list_events(job.id):
            strictly(event)
