"""Plans of jobs, made by `python -m trainer.plan` in processes of their own, as that takes torch."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from service.errors import InvalidRequest, TooManyRequests, Unavailable
from trainer.spec import JobSpec

Plan = dict[str, Any]

_COMMAND = (sys.executable, "-P", "-m", "trainer.plan")
_UNUSABLE = 2
_MAX_WAITING = 16
_RETRY_AFTER_S = 10.0
_CACHED = 128
_CACHE_S = 300.0  # the data on disk may change


class Planner:
    """Makes plans, a few at a time, and remembers the latest."""

    def __init__(self, *, max_running: int, timeout_s: float, environment: Mapping[str, str] = os.environ) -> None:
        """`max_running`: processes at once. `timeout_s`: until a plan is given up."""
        self._slots = asyncio.Semaphore(max_running)
        self._waiting = 0
        self._timeout_s = timeout_s
        self._environment = {**environment, "CUDA_VISIBLE_DEVICES": ""}  # a plan takes no GPU
        self._made: OrderedDict[str, tuple[float, Plan]] = OrderedDict()

    async def plan(
        self, spec: JobSpec, *, devices: int, num_train: int | None = None, num_classes: int | None = None
    ) -> Plan:
        """The plan of a job (`trainer.plan.assemble.make_plan`).

        Args:
            spec: the job.
            devices: ranks, on all nodes together.
            num_train: training images, in place of the data's own number.
            num_classes: classes, likewise.

        Raises:
            InvalidRequest: the job cannot be run as it is described.
            TooManyRequests: too many plans are waiting.
            Unavailable: it took too long, or its process died.
        """
        options = {"--devices": devices, "--num-train": num_train, "--num-classes": num_classes}
        arguments = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        content = spec.model_dump_json().encode()
        key = hashlib.sha256(content + repr(arguments).encode()).hexdigest()
        made_at, plan = self._made.get(key, (-_CACHE_S, {}))
        if time.monotonic() - made_at >= _CACHE_S:
            plan = await self._make(content, arguments)
            self._made[key] = time.monotonic(), plan
        self._made.move_to_end(key)
        while len(self._made) > _CACHED:
            self._made.popitem(last=False)
        return plan

    async def _make(self, content: bytes, arguments: list[str]) -> Plan:
        if self._waiting >= _MAX_WAITING:
            raise TooManyRequests("too many estimates are waiting; try again", retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with self._slots:
                code, output, complaint = await self._run(content, arguments)
        finally:
            self._waiting -= 1
        if code == _UNUSABLE:
            raise InvalidRequest(output.decode().strip() or complaint, code="unusable_job")
        if code:
            raise Unavailable(f"the plan could not be made: {complaint}", code="plan_failed")
        plan: Plan = json.loads(output)
        return plan

    async def _run(self, content: bytes, arguments: list[str]) -> tuple[int, bytes, str]:
        """Exit code, standard output, and the last line of standard error."""
        child = await asyncio.create_subprocess_exec(
            *_COMMAND,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        try:
            output, complaints = await asyncio.wait_for(child.communicate(content), self._timeout_s)
        except TimeoutError:
            message = f"the plan was not made within {self._timeout_s:g} seconds"
            raise Unavailable(message, code="plan_timeout") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        lines = complaints.decode(errors="replace").strip().splitlines()
        return child.returncode or 0, output, lines[-1] if lines else "its process ended without a word"
