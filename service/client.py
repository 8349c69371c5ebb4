"""The Python client of the service, over REST; what it returns is the JSON that the service sent.

client = AttuneClient("http://127.0.0.1:8321")
job = client.create_job(model="ViT-B-16/openai", recipe="flyp", training_file="/data/flowers")
for event in client.events(job["id"]):
    print(event["message"])
model = client.job(job["id"])["fine_tuned_model"]
client.zero_shot(model, [Path("rose.jpg")], ["rose", "tulip"])

The key of a service that asks for one is `api_key`, or what `ATTUNE_API_KEY` holds.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from httpx_sse import EventSource, connect_sse

from service.client_errors import ApiError, BadKey, ConnectionFailed, ServerError, error_from_response
from service.client_files import Files
from service.client_webhooks import Webhooks

Json = dict[str, Any]
Image = Path | bytes

_RECONNECT_PAUSES_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class AttuneClient:
    """Speaks to one service. Safe to share between threads; close it, or use it in a `with` block."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8321",
        *,
        api_key: str | None = None,
        project: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Connects with the first request.

        Args:
            api_key: None takes `ATTUNE_API_KEY`.
            project: where an operator acts; None takes `ATTUNE_PROJECT`, and without it the key's own.
            timeout_s: limits each request; on streams, the silence between two signs of life.

        Raises:
            BadKey: the key or the project holds characters that cannot be sent.
        """
        self.base_url = base_url.rstrip("/")
        key = _sendable(api_key, "ATTUNE_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if project := _sendable(project, "ATTUNE_PROJECT"):
            headers["OpenAI-Project"] = project
        self._http = httpx.Client(base_url=self.base_url, timeout=timeout_s, headers=headers)
        self.files = Files(self)
        self.webhooks = Webhooks(self)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def create_job(
        self,
        *,
        model: str | None = None,
        training_file: str = "",
        validation_file: str | None = None,
        recipe: str | None = None,
        spec: Mapping[str, Any] | None = None,
        suffix: str | None = None,
        seed: int | None = None,
        metadata: Mapping[str, str] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> Json:
        """Submit a fine-tuning job; `spec` is a partial JobSpec. Returns the job.

        Raises:
            BadRequest: the spec cannot be made; `problems` lists why.
        """
        body = {
            "model": model,
            "training_file": training_file,
            "validation_file": validation_file,
            "recipe": recipe,
            "spec": spec,
            "suffix": suffix,
            "seed": seed,
            "metadata": metadata,
            "hyperparameters": hyperparameters,
        }
        return self.call("POST", "/v1/fine_tuning/jobs", json={k: v for k, v in body.items() if v is not None})

    def job(self, job_id: str) -> Json:
        """One job.

        Raises:
            NotFound: there is no such job.
        """
        return self.call("GET", f"/v1/fine_tuning/jobs/{quote(job_id)}")

    def jobs(
        self, *, after: str | None = None, limit: int = 20, metadata: Mapping[str, str] | None = None
    ) -> tuple[list[Json], bool]:
        """A page of jobs, newest first, that carry all of `metadata`, and whether there are more."""
        filters = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        page = self.call("GET", "/v1/fine_tuning/jobs", params=_given(after=after, limit=limit, **filters))
        return page["data"], page["has_more"]

    def cancel(self, job_id: str) -> Json:
        """Cancel a job that has not ended. Returns the job.

        Raises:
            Conflict: it has ended.
        """
        return self.call("POST", f"/v1/fine_tuning/jobs/{quote(job_id)}/cancel")

    def pause(self, job_id: str) -> Json:
        """Keep a queued job from starting, or stop a running one after it has saved a checkpoint. Returns the job.

        Raises:
            Conflict: it is neither queued nor running.
        """
        return self.call("POST", f"/v1/fine_tuning/jobs/{quote(job_id)}/pause")

    def resume(self, job_id: str) -> Json:
        """Queue a paused job again; it goes on from its latest checkpoint. Returns the job.

        Raises:
            Conflict: it is not paused, or still saving.
        """
        return self.call("POST", f"/v1/fine_tuning/jobs/{quote(job_id)}/resume")

    def change_job(self, job_id: str, **changes: Any) -> Json:
        """Change `priority`, `preemptible`, `deadline` or `max_runtime_s` of a job that has not ended. Returns the job.

        Raises:
            Conflict: it has ended.
        """
        return self.call("PATCH", f"/v1/fine_tuning/jobs/{quote(job_id)}", json=changes)

    def queue(
        self, *, after: str | None = None, limit: int = 20, all_projects: bool = False
    ) -> tuple[list[Json], bool]:
        """A page of the jobs that wait for devices, each with why it waits, and whether there are more."""
        page = self.call("GET", "/v1/queue", params=_given(after=after, limit=limit, all_projects=all_projects))
        return page["data"], page["has_more"]

    def place_in_queue(self, job_id: str) -> Json:
        """Where a job stands in the queue, and why it waits.

        Raises:
            Conflict: it does not wait for devices.
        """
        return self.call("GET", f"/v1/queue/{quote(job_id)}")

    def move_job(self, job_id: str, *, to: str | None = None, before: str | None = None) -> Json:
        """Move a waiting job `to` the `front` or `back` of those of its project and priority, or `before` another.

        Raises:
            Conflict: one of them does not wait, or they are not in one line.
        """
        return self.call("POST", "/v1/queue/reorder", json=_given(job_id=job_id, to=to, before=before))

    def list_events(self, job_id: str, *, after: str | None = None, limit: int = 20) -> tuple[list[Json], bool]:
        """A page of a job's events, newest first, and whether there are more."""
        page = self.call("GET", f"/v1/fine_tuning/jobs/{quote(job_id)}/events", params=_given(after=after, limit=limit))
        return page["data"], page["has_more"]

    def events(self, job_id: str, *, after: str | None = None, reconnect_for_s: float = 60.0) -> Iterator[Json]:
        """A job's events as they happen, oldest first, from after event `after` until the job has ended.

        A lost connection is made again where it broke off: no event is left out and none comes twice.

        Raises:
            NotFound: there is no such job, or no such event.
            ConnectionFailed: the service could not be reached for `reconnect_for_s` seconds.
        """
        last_id, patience = after, _Patience(reconnect_for_s)
        while True:
            try:
                with self._event_stream(job_id, after=last_id) as source:
                    patience.restore()
                    for event in source.iter_sse():
                        if event.event == "done":
                            return
                        if event.data:  # a block that only sets the pause for reconnecting has none
                            last_id = event.id
                            yield json.loads(event.data)
            except (httpx.TransportError, ServerError) as error:
                if patience.is_spent():
                    raise error if isinstance(error, ServerError) else ConnectionFailed(self.base_url, error) from error
            patience.wait()

    def checkpoints(self, job_id: str, *, after: str | None = None, limit: int = 10) -> tuple[list[Json], bool]:
        """A page of a job's checkpoints, newest first, and whether there are more."""
        path = f"/v1/fine_tuning/jobs/{quote(job_id)}/checkpoints"
        page = self.call("GET", path, params=_given(after=after, limit=limit))
        return page["data"], page["has_more"]

    def logs(self, job_id: str, *, attempt: int | None = None, follow: bool = False) -> Iterator[str]:
        """The log of a job's latest attempt, or of `attempt`, in pieces; with `follow`, until the job has ended."""
        path = f"/v1/fine_tuning/jobs/{quote(job_id)}/logs"
        params = _given(attempt=attempt, follow="true" if follow else None)
        try:
            with self._http.stream("GET", path, params=params) as response:
                _raise_for_error(response)
                yield from response.iter_text()
        except httpx.TransportError as error:
            raise ConnectionFailed(self.base_url, error) from error

    def models(self) -> list[Json]:
        """All registered models, newest first."""
        return list(self.call("GET", "/v1/models")["data"])

    def model(self, name: str) -> Json:
        """One registered model.

        Raises:
            NotFound: there is no such model.
        """
        return self.call("GET", f"/v1/models/{quote(name)}")

    def delete_model(self, name: str) -> Json:
        """Take a model off the register; its export folder stays.

        Raises:
            NotFound: there is no such model.
        """
        return self.call("DELETE", f"/v1/models/{quote(name)}")

    def create_sweep(self, request: Mapping[str, Any]) -> Json:
        """Begin a sweep; `request` is the body of `POST /v1/fine_tuning/sweeps`. Returns the sweep.

        Raises:
            BadRequest: the search or a trial's spec cannot be made; `problems` lists why.
        """
        return self.call("POST", "/v1/fine_tuning/sweeps", json=dict(request))

    def sweep(self, sweep_id: str) -> Json:
        """One sweep with its best trial.

        Raises:
            NotFound: there is no such sweep.
        """
        return self.call("GET", f"/v1/fine_tuning/sweeps/{quote(sweep_id)}")

    def cancel_sweep(self, sweep_id: str) -> Json:
        """End a sweep and cancel its jobs. Returns the sweep.

        Raises:
            Conflict: it has ended.
        """
        return self.call("POST", f"/v1/fine_tuning/sweeps/{quote(sweep_id)}/cancel")

    def sweep_results(self, sweep_id: str) -> Json:
        """A sweep's results: the metric, the goal, and a row a trial in `data`."""
        return self.call("GET", f"/v1/fine_tuning/sweeps/{quote(sweep_id)}/results")

    def recipes(self) -> list[Json]:
        """All recipes, without their specs."""
        return list(self.call("GET", "/v1/recipes")["data"])

    def recipe(self, name: str) -> Json:
        """One recipe with its spec.

        Raises:
            NotFound: there is no such recipe.
        """
        return self.call("GET", f"/v1/recipes/{quote(name)}")

    def zero_shot(
        self,
        model: str,
        images: Sequence[Image],
        class_names: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        top_k: int | None = None,
    ) -> list[Json]:
        """Ask which of `class_names` each image shows: `{index, predictions: [{label, index, probability}]}` each."""
        body = _given(class_names=list(class_names), templates=templates and list(templates), top_k=top_k)
        return self._predict("/v1/zero-shot", model, images, body)

    def classify(self, model: str, images: Sequence[Image], *, top_k: int | None = None) -> list[Json]:
        """Ask which of the classes that `model` was trained on each image shows."""
        return self._predict("/v1/classify", model, images, _given(top_k=top_k))

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Json | None = None,
        params: Json | None = None,
        files: Any = None,
        timeout_s: float | None = None,
    ) -> Json:
        """Send any request below the service's address.

        Args:
            json: the body; or `files`, as httpx takes them.
            timeout_s: in place of the client's own.

        Raises:
            ApiError: the service refused it; its subclasses say how.
            ConnectionFailed: nobody answers.
        """
        response = self._send(method, path, json=json, params=params, files=files, timeout_s=timeout_s)
        _raise_for_error(response)
        return _object(response)

    def health(self) -> Json:
        """Whether the service is ready, part by part: `{status, parts: {NAME: {ok, detail}}}`.

        Raises:
            ConnectionFailed: nobody answers.
        """
        response = self._send("GET", "/readyz")
        if response.status_code not in (200, 503):
            _raise_for_error(response)
        return _object(response)

    def _predict(self, path: str, model: str, images: Sequence[Image], body: Json) -> list[Json]:
        encoded = [base64.b64encode(_read(image)).decode() for image in images]
        return list(self.call("POST", path, json={"model": model, "images": encoded, **body})["data"])

    @contextmanager
    def _event_stream(self, job_id: str, *, after: str | None) -> Iterator[EventSource]:
        headers = {"Last-Event-ID": after} if after else {}
        path = f"/v1/fine_tuning/jobs/{quote(job_id)}/events"
        with connect_sse(self._http, "GET", path, headers=headers) as source:
            _raise_for_error(source.response)
            yield source

    def _send(self, method: str, path: str, *, timeout_s: float | None = None, **given: Any) -> httpx.Response:
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        try:
            return self._http.request(method, path, timeout=timeout, **given)
        except httpx.TransportError as error:
            raise ConnectionFailed(self.base_url, error) from error


class _Patience:
    """Pauses between tries to connect again, and when to give up."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.restore()

    def restore(self) -> None:
        """The connection stands."""
        self._lost_at: float | None = None
        self._tries = 0

    def is_spent(self) -> bool:
        """Whether the connection has been lost for too long."""
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        return time.monotonic() - self._lost_at >= self._limit_s

    def wait(self) -> None:
        """Pause, a little longer each time."""
        time.sleep(_RECONNECT_PAUSES_S[min(self._tries, len(_RECONNECT_PAUSES_S) - 1)])
        self._tries += 1


def _sendable(given: str | None, variable: str) -> str:
    text = (os.environ.get(variable, "") if given is None else given).strip()
    if not (text.isascii() and text.isprintable()):
        raise BadKey(f"{variable} holds a character that is not printable ASCII: it was not copied right")
    return text


def _raise_for_error(response: httpx.Response) -> None:
    if response.is_error:
        response.read()
        raise error_from_response(response.status_code, response.content, response.headers)


def _object(response: httpx.Response) -> Json:
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ApiError(f"{response.url} answered something that is no JSON object; is that an Attune service?")
    return content


def _given(**params: Any) -> Json:
    return {name: value for name, value in params.items() if value is not None}


def _read(image: Image) -> bytes:
    return image if isinstance(image, bytes) else image.read_bytes()
