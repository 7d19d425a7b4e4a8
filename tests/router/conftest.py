"""Small real servers for the router's tests: upstreams that record, and the router itself."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import uvicorn

from sessionha.identity import Epoch, Position, ViewID
from sessionha.router import front
from sessionha.router.app import Router
from sessionha.router.options import Options
from sessionha.router.upstreams import Upstreams
from sessionha.session.cookies import Route, RouteCookies
from sessionha.view import Departure, Member, View

KEY = bytes(range(32))
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def member(node: str, url: str = "", joined: int = 1, **facts: Any) -> Member:
    return Member(node, f"inc-{node}", ViewID(joined, ""), "127.0.0.1:1", url, **facts)


def view_of(
    *members: Member, number: int = 1, departed: tuple[tuple[str, Departure], ...] = ()
) -> View:
    return View(ViewID(number, ""), tuple(members), departed=departed)


def route_cookie(*servers: str, key: bytes = KEY) -> str:
    route = Route(servers, b"g" * 12, Position(Epoch(1, 1, "n1"), 1), "cluster")
    return f"hsr={RouteCookies([key]).write(route)}"


def closed_port() -> int:
    """A port of this host that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serving(application: Application, http: Any = "auto") -> AbstractAsyncContextManager[str]:
    """The application behind a real uvicorn on a free port of loopback; gives its URL."""
    return running(uvicorn.Server(uvicorn.Config(
        application, http=http, log_config=None, access_log=False, lifespan="off",
        proxy_headers=False, date_header=False, server_header=False, timeout_graceful_shutdown=1,
    )))  # fmt: skip


def front_of(router: Router, clock: Callable[[], float] = time.monotonic) -> front.Front:
    """The server of the router's own."""
    options = replace(router.options, drain_timeout=1.0)
    config = front.config(
        router, options, router.counts, clock=clock, log_config=None, lifespan="off"
    )
    return front.Front(config)


@asynccontextmanager
async def running(server: uvicorn.Server) -> AsyncIterator[str]:
    """The server on a free port of loopback; gives its URL."""
    config = server.config
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await server.shutdown(sockets=[listener])


class Upstream:
    """A node's application: records each request and answers with its own name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = ""
        self.seen: list[Scope] = []
        self.bodies: list[bytes] = []
        self.respond: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        if self.respond is not None:
            await self.respond(scope, receive, send)
            return
        self.bodies.append(await whole_body(receive))
        await reply(send, self.name.encode())

    def headers(self) -> dict[str, str]:
        """The headers of the last request."""
        return {name.decode(): value.decode() for name, value in self.seen[-1]["headers"]}


async def whole_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def reply(
    send: Send, body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({
        "type": "http.response.start", "status": status, "headers": [length, *(headers or [])],
    })  # fmt: skip
    await send({"type": "http.response.body", "body": body})


class RawServer:
    """Accepts connections and does with each what a test wants; counts the requests it read."""

    def __init__(self, act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        self._act = act
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.heads: list[bytes] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            await self._act(reader, writer)
        self._tasks.discard(task)
        writer.close()

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        head: bytes = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        return head

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0, ssl=tls)
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


class World:
    """A router in front of upstreams, and a client."""

    def __init__(self, stack: AsyncExitStack, client: aiohttp.ClientSession) -> None:
        self._stack = stack
        self.client = client
        self.upstreams = Upstreams(asyncio.get_running_loop().time)
        self.url = ""
        self.front: front.Front | None = None
        self.now = 0.0
        """Seconds, for the deadlines of the front."""

    async def enter(self, context: AbstractAsyncContextManager[str]) -> str:
        return await self._stack.enter_async_context(context)

    async def node(self, name: str) -> Upstream:
        upstream = Upstream(name)
        upstream.url = await self.enter(serving(upstream))
        return upstream

    async def raw(
        self, act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
    ) -> tuple[RawServer, str]:
        server = RawServer(act)
        return server, await self.enter(server.listening())

    async def route(self, *members: Member, http: str = "front", **options: Any) -> Router:
        """Start the router with these members in view 1, on its own server or another's parser."""
        router = Router(self.upstreams, RouteCookies([KEY]), Options(**options))
        self.upstreams.view_changed(view_of(*members))
        await router.start()
        self._stack.push_async_callback(router.stop)
        if http == "front":
            self.front = front_of(router, lambda: self.now)
            self.url = await self.enter(running(self.front))
        else:
            self.url = await self.enter(serving(router, http))
        return router

    async def request(
        self, method: str, path: str = "/", *cookies: str, **options: Any
    ) -> tuple[int, str]:
        headers = dict(options.pop("headers", {}))
        if cookies:
            headers["Cookie"] = "; ".join(cookies)
        async with self.client.request(
            method, self.url + path, headers=headers, **options
        ) as response:
            return response.status, await response.text()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)
        )
        yield World(stack, client)
