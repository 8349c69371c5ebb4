"""The people of a drill: they submit, cancel, pause and watch jobs over REST while the service dies under them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from benchmarks.drill.plan import Planned
from service.client import AttuneClient

_PATIENCE_S = 180.0
_LONG_PATIENCE_S = 1800.0
"""For what a job's state does not allow yet: it may wait for its turn for long."""
Json = dict[str, Any]


class GaveUp(Exception):
    """The service did not do what was asked, however often."""


class People:
    """Clients that try again at another control plane when one does not answer."""

    def __init__(self, urls: Sequence[str], *, seed: int) -> None:
        self._urls = list(urls)
        self._random = random.Random(seed)
        self._http = httpx.Client(timeout=20.0)
        self._streams = [AttuneClient(url, timeout_s=30.0) for url in urls]
        self._threads: list[threading.Thread] = []
        self._counting = threading.Lock()
        self.job_ids: dict[int, list[str]] = {}
        """The ids that each planned job was answered with."""
        self.answers: Counter[str] = Counter()
        """How often each kind of answer came: a status code, or the kind of a broken connection."""
        self.cancelled: set[int] = set()
        """Planned jobs whose cancellation the service has agreed to."""
        self.seen: dict[int, list[str]] = {}
        """Ids of events as they came over a stream, of the jobs that somebody watches."""
        self.failures: list[str] = []
        """What a client could not get done at all."""

    def submit_all(self, jobs: Sequence[Planned], *, over_s: float, num_watched: int) -> None:
        """Submit `jobs` in the background, spread over `over_s` seconds; watch the events of some."""
        watched = set(self._random.sample([job.number for job in jobs], min(num_watched, len(jobs))))
        arrivals = sorted(self._random.uniform(0, over_s) for _ in jobs)

        def submit() -> None:
            began = time.monotonic()
            for job, at in zip(jobs, arrivals, strict=True):
                time.sleep(max(0.0, began + at - time.monotonic()))
                self._start(self._look_after, job, job.number in watched)

        self._start(submit)

    def wait(self, *, timeout_s: float) -> bool:
        """Until everybody has done what they came for; whether that was so in time."""
        deadline = time.monotonic() + timeout_s
        position = 0
        while position < len(self._threads):
            self._threads[position].join(max(0.0, deadline - time.monotonic()))
            if self._threads[position].is_alive():
                return False
            position += 1
        return True

    def call(self, method: str, path: str, *, body: Json | None = None, key: str | None = None) -> httpx.Response:
        """An answer below 500 that is worth no other try.

        Raises:
            GaveUp: there was none for three minutes.
        """
        headers = {"Idempotency-Key": key} if key else {}
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                answer = self._http.request(method, self._any_url() + path, json=body, headers=headers)
            except httpx.TransportError as error:
                self._count(type(error).__name__)
            else:
                self._count(str(answer.status_code))
                again = answer.headers.get("x-should-retry") == "true"
                if answer.status_code < 500 and answer.status_code != 429 and not again:
                    return answer
            time.sleep(self._random.uniform(0.2, 0.8))
        raise GaveUp(f"{method} {path} had no answer for {_PATIENCE_S:.0f} s")

    def _start(self, action: Callable[..., None], *arguments: Any) -> None:
        def run() -> None:
            try:
                action(*arguments)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _look_after(self, job: Planned, is_watched: bool) -> None:
        self.job_ids[job.number] = []
        if job.twice:
            self._start(self._submit, job)
        job_id = self._submit(job)
        if is_watched:
            self._start(self._watch, job, job_id)
        if job.end == "cancel":
            time.sleep(self._random.uniform(0.0, 25.0))
            self._cancel(job, job_id)
        elif job.end == "pause":
            self._pause_and_resume(job_id)

    def _submit(self, job: Planned) -> str:
        answer = self.call("POST", "/v1/fine_tuning/jobs", body=job.body, key=job.key)
        if answer.status_code != 200:
            raise GaveUp(f"{job.key} was refused: {answer.status_code} {answer.text[:300]}")
        job_id: str = answer.json()["id"]
        self.job_ids[job.number].append(job_id)
        return job_id

    def _cancel(self, job: Planned, job_id: str) -> None:
        answer = self.call("POST", f"/v1/fine_tuning/jobs/{job_id}/cancel")
        if answer.status_code == 200:
            self.cancelled.add(job.number)
        elif answer.status_code != 409:
            raise GaveUp(f"{job.key} could not be cancelled: {answer.status_code} {answer.text[:300]}")

    def _pause_and_resume(self, job_id: str) -> None:
        path = f"/v1/fine_tuning/jobs/{job_id}"
        if self._repeat("POST", f"{path}/pause"):
            time.sleep(self._random.uniform(0.5, 4.0))
            self._repeat("POST", f"{path}/resume")

    def _repeat(self, method: str, path: str) -> bool:
        """Ask until it is done; False if the job has ended, or does what was asked already."""
        deadline = time.monotonic() + _LONG_PATIENCE_S
        while time.monotonic() < deadline:
            answer = self.call(method, path)
            if answer.status_code == 200:
                return True
            status = self.call("GET", path.rpartition("/")[0]).json()["status"]
            if status in ("succeeded", "failed", "cancelled") or (path.endswith("resume") and status != "paused"):
                return False
            if path.endswith("pause") and status == "paused":
                return True  # the answer to the first request was lost
            time.sleep(self._random.uniform(0.2, 1.0))
        raise GaveUp(f"{method} {path} was refused for {_LONG_PATIENCE_S:.0f} s")

    def _watch(self, job: Planned, job_id: str) -> None:
        """Follow a job's events to its end, at whichever control plane answers."""
        seen = self.seen.setdefault(job.number, [])
        ended = False
        while not ended:
            try:
                client = self._random.choice(self._streams)
                for event in client.events(job_id, after=seen[-1] if seen else None, reconnect_for_s=0.0):
                    seen.append(event["id"])
                ended = True
            except Exception as error:  # another control plane may answer
                self._count(f"stream: {type(error).__name__}")
                time.sleep(self._random.uniform(0.3, 1.0))

    def _any_url(self) -> str:
        return self._random.choice(self._urls)

    def _count(self, answer: str) -> None:
        with self._counting:
            self.answers[answer] += 1
