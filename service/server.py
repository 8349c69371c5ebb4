"""uvicorn, which waits for open answers before it stops, telling endless ones to end."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Serves one application of `create_app`."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._closing = app.state.closing

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Event and log streams end; clients connect again where they broke off."""
        self._closing.set()
        await super().shutdown(sockets)
