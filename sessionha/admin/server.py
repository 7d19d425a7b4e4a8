"""Serves the administration on a socket of its own, on the engine's event loop.

Of uvicorn only the HTTP protocol is used: its server would take the signals, and the settings of
its loggers, away from the server that runs the application in the same process.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTIONS: Final = 64
"""More at once are answered with 503: people and scrapers need few."""

BACKLOG: Final = 16

CLOSING: Final = 1.0
"""Seconds that answers under way get when the listener closes."""


class _Quiet(uvicorn.Config):
    """Leaves the logging of the process as it is."""

    def configure_logging(self) -> None:
        """Nothing."""


def bind(address: str) -> socket.socket:
    """A listening socket at `host:port`, of which the host has only one.

    Raises:
        OSError: the address is taken, or is not this host's.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family, backlog=BACKLOG)


class AdminServer:
    """The listener and its connections."""

    def __init__(self, application: Any) -> None:
        self._config = _Quiet(
            application,
            interface="asgi3",
            http=H11Protocol,
            lifespan="off",
            ws="none",
            proxy_headers=False,  # nobody's word about addresses is believed
            server_header=False,
            date_header=False,
            limit_concurrency=CONNECTIONS,
        )
        self._state = ServerState()
        self._listener: asyncio.Server | None = None

    async def start(self, listening: socket.socket) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        self._config.load()
        self._listener = await loop.create_server(self._protocol, sock=listening)

    async def stop(self) -> None:
        """Accept no more, and let answers under way finish, at most for a second."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            _, late = await asyncio.wait(self._state.tasks, timeout=CLOSING)
            for task in late:
                task.cancel()

    def _protocol(self) -> H11Protocol:
        protocol = H11Protocol(self._config, self._state, {})
        protocol.access_log = False  # nothing per request above DEBUG
        return protocol
