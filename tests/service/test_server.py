"""When the server says that it is ready, and what it does when its application is not."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from service.server import Server
from service.startup import StartError


def application(*, fails: bool = False) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if fails:
            raise RuntimeError("out of luck")
        yield

    app = FastAPI(lifespan=lifespan)
    app.state.closing = threading.Event()
    app.add_api_route("/", lambda: "hello")
    return app


def test_it_answers_once_it_says_that_it_is_ready() -> None:
    answers: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def ask() -> None:
            answers.append(httpx.get(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout=10).json())
            server.should_exit = True

        app = application()
        on_ready = threading.Thread(target=ask).start
        server = Server(app, uvicorn.Config(app, log_level="error"), on_ready=on_ready)
        server.run(sockets=[listening])
    assert answers == ["hello"]


def test_an_application_that_does_not_start_is_an_error_and_never_ready(caplog: pytest.LogCaptureFixture) -> None:
    ready: list[bool] = []
    app = application(fails=True)
    config = uvicorn.Config(app, log_config=None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(app, config, on_ready=lambda: ready.append(True))
        with pytest.raises(StartError, match="did not start"):
            server.run(sockets=[listening])
    assert ready == []
    assert "out of luck" in caplog.text
