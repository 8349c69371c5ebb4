"""The inference endpoints over HTTP, on the real application."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from service.inference.gateway import Gateway

CLASSES = ["rose", "tulip", "dog"]


@pytest.fixture
def serve(start_service, record, tiny_clip, make_settings, monkeypatch):
    """Start a service with the models `tiny` (trained on two classes), `bare` and `classes-only`."""

    def start(**settings):
        monkeypatch.setenv("ATTUNE_INFERENCE_DEVICE", "cpu")
        service = start_service(**settings)
        models = service.app.state.store.models
        models.add(record(tiny_clip, id="tiny", class_names=["cat", "dog"], templates=["the {}"]))
        models.add(record(tiny_clip, id="bare"))
        models.add(record("nowhere", id="classes-only", task="classifier", class_names=["a", "b"]))
        return service

    return start


@pytest.fixture
def http(serve):
    with httpx.Client(base_url=serve().url, timeout=120) as client:
        yield client


@pytest.fixture
def texts_of(encoded):
    """Base64 of pictures by seed."""
    return lambda *seeds: [base64.b64encode(encoded(seed)).decode() for seed in seeds]


@pytest.mark.slow
def test_zero_shot_and_classify_answer_json_and_forms_alike(http, encoded, texts_of):
    body = {"model": "tiny", "images": texts_of(0, 1), "class_names": CLASSES, "templates": ["a {}.", "my {}"]}
    answer = http.post("/v1/zero-shot", json={**body, "top_k": 2}).raise_for_status().json()
    assert (answer["object"], answer["model"], answer["usage"]) == ("list", "tiny", {"num_images": 2})
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert [len(item["predictions"]) for item in answer["data"]] == [2, 2]
    best = answer["data"][0]["predictions"][0]
    assert CLASSES[best["index"]] == best["label"]
    assert 1 / 3 <= best["probability"] < 1

    files = [("image", (f"{seed}.png", encoded(seed))) for seed in (0, 1)]
    fields = {"model": "tiny", "class_names": CLASSES, "templates": ["a {}.", "my {}"], "top_k": "2"}
    assert http.post("/v1/zero-shot", data=fields, files=files).raise_for_status().json() == answer
    with_commas = {**fields, "class_names": "rose, tulip,dog"}
    assert http.post("/v1/zero-shot", data=with_commas, files=files).raise_for_status().json() == answer

    own = http.post("/v1/classify", json={"model": "tiny", "images": texts_of(0)[0]}).raise_for_status().json()
    same = http.post("/v1/zero-shot", json={"model": "tiny", "images": texts_of(0), "class_names": ["cat", "dog"]})
    spelt_out = {"model": "tiny", "images": texts_of(0), "class_names": ["cat", "dog"], "templates": ["the {}"]}
    assert own == same.json() == http.post("/v1/zero-shot", json=spelt_out).json()
    assert sum(p["probability"] for p in own["data"][0]["predictions"]) == pytest.approx(1)
    form = http.post("/v1/classify", data={"model": "tiny"}, files=[("image", ("0.png", encoded(0)))])
    assert form.json() == own

    truncated = base64.b64encode(encoded(format="JPEG", size=(200, 200))[:1500]).decode()
    bad = http.post("/v1/classify", json={"model": "tiny", "images": [*texts_of(0), truncated]})
    assert bad.status_code == 400
    assert bad.json()["error"]["param"] == "images.1"
    assert bad.json()["error"]["message"].startswith("image 1 cannot be decoded: ")

    metrics = http.get("/metrics").text
    assert "attune_inference_batch_size_count" in metrics
    assert "attune_inference_decode_seconds_bucket" in metrics


@pytest.mark.slow
def test_the_openai_client_gets_embeddings(serve, encoded, texts_of):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{serve().url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        one = client.embeddings.create(model="tiny", input="a dog")
        assert (one.object, one.model, one.data[0].object, one.data[0].index) == ("list", "tiny", "embedding", 0)
        assert one.usage.prompt_tokens == one.usage.total_tokens == 4  # start, a, dog, end
        two = client.embeddings.create(model="tiny", input=["a dog", "a cat"], encoding_format="float", dimensions=64)
        vectors = np.array([item.embedding for item in two.data])
        assert vectors.shape == (2, 64)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(one.data[0].embedding, vectors[0], atol=1e-6)
        data_uri = f"data:image/png;base64,{texts_of(1)[0]}"
        mixed = client.embeddings.create(model="tiny", input=[{"image": texts_of(0)[0]}, "a dog", data_uri])
        np.testing.assert_allclose(mixed.data[1].embedding, vectors[0], atol=1e-5)
        assert not np.allclose(mixed.data[0].embedding, mixed.data[2].embedding, atol=0.01)
        with pytest.raises(openai.BadRequestError, match="this model's features have 64"):
            client.embeddings.create(model="tiny", input="a dog", dimensions=32)
        truncated = base64.b64encode(encoded(format="JPEG", size=(200, 200))[:1500]).decode()
        with pytest.raises(openai.BadRequestError, match="image 1 cannot be decoded"):
            client.embeddings.create(model="tiny", input=["a dog", {"image": truncated}])


def error_of(response: httpx.Response) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return response.status_code, error["param"], error["message"]


def test_an_unknown_model_is_not_found_and_near_names_are_given(http, texts_of):
    status, param, message = error_of(http.post("/v1/classify", json={"model": "tinny", "images": texts_of(0)}))
    assert (status, param) == (404, "model")
    assert "tiny" in message


def test_questions_that_do_not_fit_the_model_point_elsewhere(http, texts_of):
    no_classes = http.post("/v1/classify", json={"model": "bare", "images": texts_of(0)})
    assert error_of(no_classes)[:2] == (400, "model")
    assert "/v1/zero-shot" in error_of(no_classes)[2]
    body = {"model": "classes-only", "images": texts_of(0), "class_names": CLASSES}
    assert "/v1/classify" in error_of(http.post("/v1/zero-shot", json=body))[2]
    assert error_of(http.post("/v1/embeddings", json={"model": "classes-only", "input": "a dog"}))[0] == 400


@pytest.mark.parametrize(
    ("change", "status", "param", "words"),
    [
        ({"class_names": []}, 400, "class_names", "is empty"),
        ({"class_names": ["dog", "dog"]}, 400, "class_names", "more than once"),
        ({"class_names": ["dog", ""]}, 400, "class_names.1", "blank"),
        ({"class_names": [str(n) for n in range(10_001)]}, 400, "class_names", "10,001 names; at most 10,000"),
        ({"class_names": ["d" * 501]}, 422, "class_names.0", "at most 500 characters"),
        ({"templates": ["a photo"]}, 400, "templates", "exactly one {}"),
        ({"top_k": 0}, 422, "top_k", "greater than or equal to 1"),
        ({"images": []}, 400, "images", "at least one image"),
        ({"images": ["https://example.com/a.png"]}, 400, "images.0", "URLs are not fetched"),
        ({"images": ["RGVhciByZWFkZXI="]}, 400, "images.0", "image 0 is not an image"),
        ({"images": 5}, 422, "images", "array"),
        ({"class_name": ["dog"]}, 422, "class_name", "no such field"),
        ({"model": ""}, 422, "model", "at least 1 character"),
    ],
)
def test_a_faulty_question_is_refused_with_its_field(http, texts_of, change, status, param, words):
    body = {"model": "tiny", "images": texts_of(0), "class_names": CLASSES, **change}
    found = error_of(http.post("/v1/zero-shot", json=body))
    assert found[:2] == (status, param)
    assert words in found[2]
    assert len(found[2]) < 500, "what was sent is not sent back whole"


def test_a_missing_field_a_syntax_error_and_another_content_type_are_told_apart(http):
    assert error_of(http.post("/v1/classify", json={"model": "tiny"}))[:2] == (422, "images")
    status, _, message = error_of(
        http.post("/v1/classify", content=b'{"model": ', headers={"content-type": "application/json"})
    )
    assert status == 400
    assert "not valid JSON" in message


def test_files_in_forms_are_checked_like_base64(http, encoded):
    fields = {"model": "tiny", "class_names": "a,b"}

    def send(*contents: bytes, **more: str) -> tuple[int, str | None, str]:
        files = [("image", (f"{n}.jpg", content)) for n, content in enumerate(contents)]
        return error_of(http.post("/v1/zero-shot", data={**fields, **more}, files=files))

    status, param, message = send(encoded(), b"a text file named .jpg")
    assert (status, param) == (400, "image.1")
    assert "image 1 is not an image" in message
    assert send(*[encoded()] * 65)[0] == 413
    assert send(encoded(), colour="red")[:2] == (422, "colour")
    assert send(encoded(), top_k="many")[:2] == (422, "top_k")
    status, param, _ = error_of(http.post("/v1/zero-shot", data={**fields, "image": "text"}, files={"x": b"y"}))
    assert status in (400, 422)
    nothing = http.post("/v1/zero-shot", data=fields, files=[("model", (None, "tiny"))])
    assert "at least one image" in error_of(nothing)[2]


def test_limits_on_bytes_and_pixels_come_from_the_settings(serve, encoded, texts_of):
    with httpx.Client(base_url=serve(max_image_bytes=2000, max_image_pixels=1000).url) as http:
        many_pixels = error_of(http.post("/v1/classify", json={"model": "tiny", "images": texts_of(0)}))
        assert many_pixels[0] == 413
        assert "60 x 48 = 2,880 pixels; at most 1,000" in many_pixels[2] or "bytes; at most 2,000" in many_pixels[2]
        large = [("image", ("a.png", encoded(size=(300, 300))))]
        found = error_of(http.post("/v1/classify", data={"model": "tiny"}, files=large))
        assert found[0] == 413
        assert "bytes; at most 2,000 are allowed" in found[2]


@pytest.mark.parametrize("item", [[1, 2, 3], {"image": 5}, {"image": "x", "detail": "low"}, "", "a" * 2001])
def test_inputs_that_cannot_be_embedded_are_refused(http, item):
    status, param, _ = error_of(http.post("/v1/embeddings", json={"model": "tiny", "input": ["a dog", item]}))
    assert (status, param) == (422, "input.1")


def test_the_number_of_inputs_is_limited(http, texts_of):
    assert error_of(http.post("/v1/embeddings", json={"model": "tiny", "input": ["a"] * 2049}))[0] == 413
    images = [{"image": text} for text in texts_of(0) * 65]
    assert error_of(http.post("/v1/embeddings", json={"model": "tiny", "input": images}))[0] == 413
    assert error_of(http.post("/v1/embeddings", json={"model": "tiny", "input": []}))[0] == 422


def with_plain_workers(service, command):
    """Have the service use workers without a model."""
    service.app.state.gateway = Gateway(service.app.state.settings, command=command)


def test_overload_answers_429_with_retry_after_and_lateness_504(serve, plain_worker):
    service = serve(inference_queue_limit=1, inference_max_batch_size=1, inference_request_timeout_s=2.0)
    with_plain_workers(service, plain_worker)
    with httpx.Client(base_url=service.url, timeout=30) as http, ThreadPoolExecutor(4) as threads:

        def embed(text: str) -> httpx.Response:
            return http.post("/v1/embeddings", json={"model": "tiny", "input": text, "encoding_format": "base64"})

        assert embed("warm up").status_code == 200
        running = threads.submit(embed, "sleep 1")
        time.sleep(0.3)
        waiting = threads.submit(embed, "sleep 0.1")
        time.sleep(0.3)
        refused = embed("one too many")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert running.result().status_code == waiting.result().status_code == 200
        late = embed("sleep 4")
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_the_openapi_page_shows_both_ways_to_ask(http):
    paths = http.get("/openapi.json").json()["paths"]
    content = paths["/v1/zero-shot"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert set(content["application/json"]["schema"]["required"]) == {"model", "images", "class_names"}
    assert set(content["multipart/form-data"]["schema"]["required"]) == {"model", "image", "class_names"}
    example = content["application/json"]["example"]
    assert "".join(error_of(http.post("/v1/zero-shot", json=example))[2].split()).startswith("nomodel")
