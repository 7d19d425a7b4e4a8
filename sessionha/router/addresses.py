"""Where the upstreams' hosts are: a name is looked up now and then, not for every request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

LASTS: Final = 10.0
"""Seconds until a name is looked up again, which may lead elsewhere now."""

MOST: Final = 1000
"""Names that are remembered; far more than a cluster has."""

Address = tuple[int, int, int, str, Any]
"""As `getaddrinfo` gives them."""


class Addresses:
    """Looks names up, each once at a time. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[tuple[str, int], tuple[float, asyncio.Task[list[Address]]]] = {}

    async def of(self, host: str, port: int) -> list[Address]:
        """Those of a host, at least one. Raises OSError, UnicodeError."""
        now, key = self._clock(), (host, port)
        since, asked = self._found.get(key, (0.0, None))
        if asked is None or (asked.done() and (now - since >= LASTS or _failed(asked))):
            if len(self._found) >= MOST:
                self._found.clear()
            asked = asyncio.create_task(_look_up(host, port))
            asked.add_done_callback(_failed)  # also when nobody waits any more
            self._found[key] = (now, asked)
        return await asyncio.shield(asked)


async def _look_up(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]


def _failed(asked: asyncio.Task[list[Address]]) -> bool:
    return asked.cancelled() or asked.exception() is not None
