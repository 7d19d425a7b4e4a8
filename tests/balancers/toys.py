"""Small servers on loopback that answer with their name, refuse, stand still, or die."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

BODY = 64 * 1024
"""Bytes read at once."""


class Toy:
    """One server, at an address that stays the same for its life."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heads: list[str] = []
        """Of each request, as it came."""
        self.dies = False
        """Closes the connection when it has read a request."""
        self.passes_on = ""
        """Answers 503 with this in the header by which nodes pass a request on."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Accept connections."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, reuse_address=True
            )

    async def refuse(self) -> None:
        """Close every connection, and accept none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._connections):
            writer.transport.abort()
        while self._connections:  # noqa: ASYNC110 (each ends with its next read)
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        length = 0
        for line in head.splitlines():
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        size = 0
        while size < length:
            size += len(await reader.read(min(BODY, length - size)))
        if self.dies:
            return False
        body = f"{self.name} {size}".encode()
        status = b"200 OK"
        if self.passes_on:
            status = f"503 Unavailable\r\nsessionha-retry: {self.passes_on}".encode()
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        return True


class Toys:
    """Several, by name."""

    def __init__(self, *names: str) -> None:
        self._toys = {name: Toy(name) for name in names}

    def __getitem__(self, name: str) -> Toy:
        return self._toys[name]

    @property
    def urls(self) -> Mapping[str, str]:
        return {name: toy.url for name, toy in self._toys.items()}

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        for toy in self._toys.values():
            await toy.refuse()

    async def open(self) -> None:
        """All accept again."""
        for toy in self._toys.values():
            toy.dies, toy.passes_on = False, ""
            await toy.open()
