"""A node with a listening administration, and a visitor of its application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from sessionha.admin.app import build
from sessionha.admin.server import AdminServer, bind
from sessionha.admin.snapshot import store_of
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import tokens
from sessionha.client import AsyncClient, AsyncRemoteSession, Client, RemoteSession
from sessionha.engine import Engine
from sessionha.keys import new_secret
from sessionha.settings import Settings
from tests.admin.visitors import Visitor
from tests.test_engine import free_ports

SETTINGS = Settings.load({}, store="memory", node="n1", secret=new_secret())
TOKEN = tokens(SETTINGS, "data")[0]


class Node:
    """An engine with its administration, and a visitor of its application."""

    def __init__(self, engine: Engine, url: str) -> None:
        self.engine = engine
        self.url = url
        self.visitor = Visitor(engine)

    async def blocking(self, use: Callable[[RemoteSession], Any], token: str = TOKEN) -> Any:
        """What a program does with the visitor's session, in a thread."""

        def run() -> Any:
            with Client(self.url, token) as client:
                return use(client.session(self.visitor.session_id))

        return await asyncio.to_thread(run)

    async def awaiting(self, use: Callable[[AsyncRemoteSession], Awaitable[Any]]) -> Any:
        """What a program does with it on an event loop."""
        async with AsyncClient(self.url, TOKEN) as client:
            return await use(client.session(self.visitor.session_id))


@asynccontextmanager
async def listening() -> AsyncIterator[Node]:
    """A node that is alone, on a free port; its visitor has no session yet."""
    engine = Engine(SETTINGS, (b"k" * 32,))
    await engine.start()
    address = f"127.0.0.1:{free_ports(1)[0]}"
    server = AdminServer(build(engine, Tally(store_of(engine))))
    await server.start(bind(address))
    try:
        yield Node(engine, f"http://{address}")
    finally:
        await server.stop()
        await engine.stop()
