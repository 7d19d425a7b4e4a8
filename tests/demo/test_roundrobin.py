"""The front that knows nothing: what it repeats and what it must not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestClient, TestServer

from demo_app.roundrobin import RoundRobin

Client = TestClient[web.Request, web.Application]


def server(name: str) -> TestServer:
    """A server that says its name, and what it was asked."""

    async def answer(request: web.Request) -> web.Response:
        response = web.Response(text=f"{name} {request.method} {request.raw_path}")
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return TestServer(app)


@asynccontextmanager
async def dying() -> AsyncIterator[str]:
    """A server that dies with each request it has read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /readyz"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        host, port = listening.sockets[0].getsockname()
        yield f"http://{host}:{port}"


def url(of: BaseTestServer) -> str:
    return str(of.make_url("")).rstrip("/")


@asynccontextmanager
async def front(*servers: str) -> AsyncIterator[Client]:
    async with TestClient(TestServer(RoundRobin(servers).application())) as client:
        yield client


async def test_requests_go_to_the_servers_in_turn() -> None:
    async with server("x") as x, server("y") as y, front(url(x), url(y)) as client:
        answers = {await (await client.get("/path?q=%20")).text() for _ in range(4)}
    assert answers == {"x GET /path?q=%20", "y GET /path?q=%20"}


async def test_every_cookie_of_an_answer_arrives() -> None:
    async with server("x") as x, front(url(x)) as client:
        response = await client.get("/")
    assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]


async def test_a_post_is_tried_elsewhere_when_nothing_was_sent(
    unused_tcp_port_factory: Callable[[], int],
) -> None:
    nobody = f"http://127.0.0.1:{unused_tcp_port_factory()}"
    async with server("x") as x, front(nobody, url(x)) as client:
        answers = [await (await client.post("/")).text() for _ in range(3)]
    assert answers == ["x POST /"] * 3


async def test_a_post_that_died_with_its_server_is_not_repeated() -> None:
    async with server("x") as x, dying() as y, front(y, url(x)) as client:
        statuses = [(await client.post("/", data=b"1")).status for _ in range(2)]
    assert sorted(statuses) == [200, 502]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.put("/", data=b"1"),
        lambda client: client.get("/"),
        lambda client: client.post("/", data=b"1", headers={"Idempotency-Key": "k"}),
    ],
)
async def test_what_may_be_repeated_is(
    ask: Callable[[Client], Awaitable[web.Response]],
) -> None:
    async with server("x") as x, dying() as y, front(y, url(x)) as client:
        statuses = [(await ask(client)).status for _ in range(4)]
    assert statuses == [200] * 4


async def test_without_any_server_the_answer_is_503(
    unused_tcp_port_factory: Callable[[], int],
) -> None:
    async with front(f"http://127.0.0.1:{unused_tcp_port_factory()}") as client:
        response = await client.get("/")
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
