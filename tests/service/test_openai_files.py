"""Files, uploads, and what else the official OpenAI Python client reaches, against a running service.

Answers are validated strictly against the client's own types.
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


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name in ("cat/1.jpg", "dog/1.jpg"):
            made.writestr(name, b"an image")
    return content.getvalue()


def test_files_through_their_whole_life(api, strictly):
    content = b"image\tcaption\n1.jpg\ta cat\n"
    files = api.files.with_raw_response
    lasting = strictly(files.create(file=("a.tsv", content), purpose="fine-tune"))
    passing = strictly(
        files.create(
            file=("b.bin", b"123"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
        )
    )
    assert passing.expires_at == passing.created_at + 3600
    assert api.files.wait_for_processing(lasting.id).status == "processed"
    assert strictly(files.retrieve(lasting.id)) == lasting
    assert api.files.content(lasting.id).content == content
    with api.files.with_streaming_response.content(lasting.id) as streamed:
        assert b"".join(streamed.iter_bytes()) == content
    page = strictly(files.list(limit=1))
    assert ([file.id for file in page.data], page.has_more) == ([passing.id], True)
    assert [file.id for file in api.files.list(limit=1)] == [passing.id, lasting.id]
    assert [file.id for file in api.files.list(order="asc", purpose="fine-tune")] == [lasting.id]
    assert strictly(files.delete(lasting.id)).deleted is True
    for ask in (api.files.retrieve, api.files.content, api.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(lasting.id)


def test_an_upload_in_parts_becomes_the_data_of_a_job(api, strictly):
    content = archive()
    half = len(content) // 2
    uploads = api.uploads.with_raw_response
    upload = strictly(
        uploads.create(bytes=len(content), filename="images.zip", mime_type="application/zip", purpose="fine-tune")
    )
    assert upload.status == "pending"
    sent = [api.uploads.parts.with_raw_response.create(upload.id, data=d) for d in (content[:half], content[half:])]
    done = strictly(
        uploads.complete(upload.id, part_ids=[strictly(part).id for part in sent], md5=hashlib.md5(content).hexdigest())
    )
    assert done.status == "completed"
    assert api.files.content(done.file.id).content == content
    job = api.fine_tuning.jobs.create(model="ViT-B-32", training_file=done.file.id, extra_body={"recipe": "flyp"})
    assert job.training_file == done.file.id
    deadline = time.monotonic() + 60
    while (found := api.fine_tuning.jobs.retrieve(job.id)).finished_at is None:
        assert time.monotonic() < deadline, found.status
        time.sleep(0.05)
    assert found.status == "succeeded"


def test_the_clients_own_chunked_upload(api, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"image,caption\n" + b"1.jpg,a cat\n" * 1000)
    done = api.uploads.upload_file_chunked(file=path, mime_type="text/csv", purpose="fine-tune", part_size=4096)
    assert done.status == "completed"
    assert api.files.content(done.file.id).content == path.read_bytes()


def test_an_upload_is_given_up(api, strictly):
    upload = api.uploads.create(bytes=3, filename="a.csv", mime_type="text/csv", purpose="fine-tune")
    assert strictly(api.uploads.with_raw_response.cancel(upload.id)).status == "cancelled"
    with pytest.raises(openai.ConflictError) as caught:
        api.uploads.parts.create(upload.id, data=b"123")
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_parts_that_do_not_make_the_file_are_refused(api):
    upload = api.uploads.create(bytes=3, filename="a.csv", mime_type="text/csv", purpose="fine-tune")
    part = api.uploads.parts.create(upload.id, data=b"12")
    with pytest.raises(openai.BadRequestError, match="3"):
        api.uploads.complete(upload.id, part_ids=[part.id])
    with pytest.raises(openai.UnprocessableEntityError):
        api.files.create(file=("a.csv", b"1"), purpose="batch")
    with pytest.raises(openai.NotFoundError):
        api.uploads.complete("upload_1", part_ids=[part.id])


def test_a_file_beyond_the_limit_is_refused_once(start_service):
    service = start_service(max_file_bytes=1000)
    with (
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="none") as api,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        api.uploads.create(bytes=1001, filename="a.csv", mime_type="text/csv", purpose="fine-tune")
    assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")


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
    assert caught.value.response.headers.get("retry-after") is None
