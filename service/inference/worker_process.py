"""A worker process as the control plane sees it: started, asked, ended. Imports no torch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.inference.protocol import PING, encode, is_pong, read_frame
from service.launchers.inherited import child_environment
from service.settings import Settings
from service.store.records import ModelRecord

logger = logging.getLogger(__name__)

PROBE_OPTION = "--probe"
_EXIT_GRACE_S = 5.0


class WorkerDied(Exception):
    """The worker process ended, or was ended because it did not answer."""


class LoadFailed(Exception):
    """The worker says that the model cannot be loaded."""


class Worker:
    """A worker process and the stream to it."""

    def __init__(self, model: ModelRecord, settings: Settings, command: Sequence[str], *, probe: bool = False) -> None:
        """`probe`: load nothing; the process only shows that it can be started."""
        self.model = model
        self._what = PROBE_OPTION if probe else f"--folder={model.path}"
        self.load_s: float | None = None
        """Seconds from the start of the process until the model was ready."""
        self.last_used = time.monotonic()
        self.num_leases = 0
        self._settings = settings
        self._command = command
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._exchange = asyncio.Lock()
        self.ready = asyncio.get_running_loop().create_task(self._start(), name=f"load {model.id}")

    @property
    def pid(self) -> int | None:
        """The process, once it was started."""
        return self._process.pid if self._process else None

    @property
    def is_dead(self) -> bool:
        """Whether it can answer nothing any more."""
        if self.ready.done() and (self.ready.cancelled() or self.ready.exception() is not None):
            return True
        gone = self._process is not None and self._process.returncode is not None
        return gone or (self.ready.done() and self._reader.at_eof())

    async def ask(self, frame: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a batch and wait for its answers.

        Raises:
            WorkerDied: the process is gone, or was killed after `timeout_s` seconds without an answer.
        """
        assert self._writer is not None
        try:
            async with self._exchange, asyncio.timeout(timeout_s):
                self._writer.write(encode(frame))
                await self._writer.drain()
                while is_pong(answer := await read_frame(self._reader)):
                    pass  # of a ping that was given up
                return answer
        except TimeoutError:
            await self.close(grace_s=0)
            raise WorkerDied(f"the worker did not answer within {timeout_s:.0f} s and was killed") from None
        except (EOFError, OSError):
            await self.close(grace_s=1)
            raise WorkerDied(f"the worker process {self._describe_end()}") from None
        except asyncio.CancelledError:
            await self.close(grace_s=0)  # the answer would otherwise be taken for that of the next batch
            raise

    async def answers_ping(self, *, timeout_s: float) -> bool:
        """Whether it gives a sign of life; one that works on a batch is not asked, as the batch has its own limit.

        Raises:
            WorkerDied: the process is gone.
        """
        if self._exchange.locked():
            return True
        assert self._writer is not None
        try:
            async with self._exchange, asyncio.timeout(timeout_s):
                self._writer.write(encode(PING))
                await self._writer.drain()
                while not is_pong(await read_frame(self._reader)):
                    pass
        except TimeoutError:
            return False
        except (EOFError, OSError):
            await self.close(grace_s=1)
            raise WorkerDied(f"the worker process {self._describe_end()}") from None
        return True

    async def close(self, *, grace_s: float = _EXIT_GRACE_S) -> None:
        """End the process and free its memory: by the end of the stream, or by force after `grace_s` seconds."""
        if not self.ready.done():
            self.ready.cancel()
            with contextlib.suppress(asyncio.CancelledError, WorkerDied, LoadFailed):
                await self.ready
        await self._end(grace_s)

    async def _start(self) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.inference_load_timeout_s):
                await self._spawn()
                greeting = await read_frame(self._reader)
        except TimeoutError:
            await self._end(0)
            limit = self._settings.inference_load_timeout_s
            raise LoadFailed(f"model {self.model.id!r} was not ready within {limit:.0f} s") from None
        except (EOFError, OSError) as error:
            await self._end(1)
            why = error if isinstance(error, OSError) else self._describe_end()
            raise WorkerDied(f"the worker process {why} while it loaded {self.model.id!r}") from None
        except asyncio.CancelledError:
            await self._end(0)
            raise
        if "failed" in greeting:
            await self._end(_EXIT_GRACE_S)
            raise LoadFailed(f"model {self.model.id!r} cannot be loaded: {greeting['failed']}")
        self.load_s = time.monotonic() - started
        level = logging.DEBUG if self._what == PROBE_OPTION else logging.INFO
        logger.log(level, "model %s is ready after %.1f s in process %s", self.model.id, self.load_s, self.pid)

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as on_failure:
            on_failure.enter_context(ours)
            with theirs, log_path(self._settings, self.model).open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    *worker_arguments(self._what, self._settings, theirs.fileno()),
                    stdin=DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C in a terminal is for the control plane; it ends the workers
                    env=_environment(self._settings),
                )
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            on_failure.pop_all()

    async def _end(self, grace_s: float) -> None:
        if self._writer is not None:
            self._writer.transport.abort()  # not close(), which waits until the worker has read what was sent
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _describe_end(self) -> str:
        code = self._process.returncode if self._process else None
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return f"{how}; its log is {log_path(self._settings, self.model)}"


def worker_arguments(what: str, settings: Settings, descriptor: int) -> list[str]:
    """What a worker's command line ends with."""
    return [
        f"--socket={descriptor}",
        what,
        f"--device={settings.inference_device}",
        f"--max-batch-size={settings.inference_max_batch_size}",
    ]


def log_path(settings: Settings, model: ModelRecord) -> Path:
    """Where the output of the model's worker goes."""
    folder = settings.data_dir / "inference"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', model.id)}.log"


def _environment(settings: Settings) -> dict[str, str]:
    weights = {"ATTUNE_WEIGHTS_DIR": str(settings.weights_dir)} if settings.weights_dir else {}
    return {**child_environment(settings), **weights}
