"""uvicorn, which says when it listens, and tells endless answers to end before it waits for them."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from service.startup import StartError


class Server(uvicorn.Server):
    """Serves one application of `create_app`."""

    def __init__(self, app: FastAPI, config: uvicorn.Config, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """`on_ready` is called once, when requests are being answered."""
        super().__init__(config)
        self._closing = app.state.closing
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen.

        Raises:
            StartError: the application did not start.
        """
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's way to end a process whose application failed, with a code of its own
            raise StartError("the service did not start; its log above says why") from None
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Event and log streams end; clients connect again where they broke off."""
        self._closing.set()
        await super().shutdown(sockets)
