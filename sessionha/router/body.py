"""A request's body on its way to an upstream, kept for another attempt up to a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

Receive = Callable[[], Awaitable[dict[str, Any]]]

SMALL: Final = 64 * 1024
"""Bytes of a declared body that are awaited whole: it goes out with the head, in one write."""


class ClientGone(Exception):
    """The client closed its connection while its request was being read."""


class Body:
    """Reads a body once and gives it out as often as `replayable` says.

    Args:
        receive: The ASGI channel.
        length: Bytes declared; None when the body is chunked.
        limit: Bytes kept. A longer body cannot be replayed once it was read past them.
    """

    def __init__(self, receive: Receive, length: int | None, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._length = length
        self._kept: list[bytes] = []
        self._size = 0
        self._reading = asyncio.Lock()
        self.complete = length == 0
        self.replayable = True
        self.gone = False
        self.progress: Callable[[], None] = _nothing
        """Called with each piece, so that a slow upload is not a silent server."""

    async def open(self) -> bytes | AsyncGenerator[bytes, None] | None:
        """The body for one attempt, from its beginning. Raises ClientGone."""
        if self._length == 0:
            return None
        if self._length is not None and self._length <= min(SMALL, self._limit):
            while not self.complete:
                await self._read()
        if self.complete and self.replayable and self._size <= SMALL:
            return b"".join(self._kept)
        return self._stream()

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        async with self._reading:  # the writer of a broken attempt may not have ended yet
            for piece in tuple(self._kept):
                yield piece
            while not self.complete:
                if piece := await self._read():
                    yield piece

    async def _read(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise ClientGone
        piece: bytes = message.get("body", b"")
        self.complete = not message.get("more_body", False)
        self._size += len(piece)
        if self._size > self._limit:
            self._kept.clear()
            self.replayable = False
        elif piece:
            self._kept.append(piece)
        self.progress()
        return piece

    async def disconnected(self) -> bool:
        """Wait until the client closes its connection. Only for a complete body.

        False: the server said something else, so it will not tell.
        """
        message = await self._receive()
        if message["type"] == "http.request":  # the end of a body of no bytes was not read yet
            message = await self._receive()
        self.gone = message["type"] == "http.disconnect"
        return self.gone


def _nothing() -> None:
    return None
