"""Streams of several nodes in one process, over real sockets on the loopback address."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sessionha.peer.base import Handler, Sender
from sessionha.peer.messages import Done, Message
from sessionha.peer.streams import Limits, Streams

SECRET = b"canary-of-the-cluster-secret-0123456789"

QUICK = Limits(handshake=0.2, retry_first=0.01, retry_last=0.05, silence=0.05)
"""Shorter times than in production, so that what must time out does so soon."""


class Watcher:
    """A link listener whose news can be awaited."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    def link_up(self, node: str, incarnation: str) -> None:
        self.news.put_nowait(("up", node, incarnation))

    def link_down(self, node: str, *, refused: bool) -> None:
        self.news.put_nowait(("down", node, refused))

    async def next(self) -> tuple[Any, ...]:
        async with asyncio.timeout(10):
            return await self.news.get()


def done(_sender: Sender, _message: Message) -> Message:
    return Done()


Make = Callable[..., Streams]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Builds streams; closes them all at the end."""
    made: list[Streams] = []

    def build(
        node: str, handler: Handler = done, *, cluster: str = "shop", **options: Any
    ) -> Streams:
        options.setdefault("secrets", lambda: (SECRET,))
        options.setdefault("incarnation", lambda: f"incarnation-of-{node}")
        options.setdefault("limits", QUICK)
        streams = Streams(node, cluster, handler, chance=random.Random(1), **options)
        made.append(streams)
        return streams

    yield build
    for streams in made:
        await streams.close()


async def at(streams: Streams, port: int = 0) -> str:
    """Make streams listen on the loopback address; where."""
    host, bound = await streams.start_listening("127.0.0.1", port)
    return f"{host}:{bound}"


async def until(happened: Callable[[], bool]) -> None:
    """Turn the event loop until something happened, at most ten seconds."""
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 — whatever happens has no event of its own
            await asyncio.sleep(0)
