"""What the router bounds: connections, requests at a server, repeats, and the time of clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from sessionha.router.budget import Budget
from sessionha.router.front import ClientConnection
from tests.router.conftest import (
    Receive,
    Scope,
    Send,
    Upstream,
    World,
    member,
    reply,
    route_cookie,
    serving,
    view_of,
    whole_body,
)  # fmt: skip
from tests.router.test_headers import exchange

HALF = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"


class Client:
    """A connection that is used by hand."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def open(self) -> None:
        host, port = self._world.url.removeprefix("http://").split(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))

    async def __aenter__(self) -> Client:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def rest(self) -> bytes:
        """All until the router closes the connection."""
        async with asyncio.timeout(10):
            return await self.reader.read()


def connections(world: World) -> list[ClientConnection]:
    assert world.front is not None
    found = world.front.server_state.connections
    return [each for each in found if isinstance(each, ClientConnection)]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.01)


async def look(world: World) -> None:
    for connection in connections(world):
        connection.look()


# --- clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX: "])
async def test_a_head_that_drips_is_given_up(world: World, sent: bytes) -> None:
    router = await world.route(head_timeout=10.0)
    async with Client(world) as client:
        client.writer.write(sent)
        await until(lambda: any(each._framing.in_head for each in connections(world)))
        await look(world)
        world.now += 9
        client.writer.write(b"E")
        await until(lambda: connections(world)[0]._received == len(sent) + 1)
        await look(world)
        assert len(connections(world)) == 1
        world.now += 1
        await look(world)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
    assert router.counts.refused == {"slow": 1}


async def test_a_body_that_stops_is_given_up_and_ends_at_the_server_too(world: World) -> None:
    n1 = await world.node("n1")
    left = asyncio.Event()

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    n1.respond = respond
    await world.route(member("n1", n1.url), client_timeout=60.0, replay_bytes=0)
    async with Client(world) as client:
        client.writer.write(HALF)
        await until(lambda: bool(n1.seen))
        await look(world)
        world.now += 60
        await look(world)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        await asyncio.wait_for(left.wait(), 10)


async def test_a_client_that_takes_nothing_of_its_answer_is_given_up(world: World) -> None:
    n1 = await world.node("n1")

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"x" * (64 << 20))

    n1.respond = respond
    await world.route(member("n1", n1.url), client_timeout=60.0)
    async with Client(world) as client:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: any(each.flow.write_paused for each in connections(world)))
        await look(world)
        world.now += 59
        await look(world)
        assert connections(world)
        world.now += 1
        await look(world)
        await until(lambda: not connections(world))


async def test_an_idle_connection_between_requests_is_not_given_up_by_these(world: World) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    async with Client(world) as client:
        for _ in range(2):
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.reader.readuntil(b"n1")
            await look(world)
            world.now += 70
            await look(world)


async def test_one_connection_too_many_is_refused(world: World) -> None:
    n1 = await world.node("n1")
    router = await world.route(member("n1", n1.url), connections=1)
    async with Client(world), Client(world) as second:
        assert (await second.rest()).startswith(b"HTTP/1.1 503 ")
    assert router.counts.refused == {"crowded": 1}


async def test_who_expects_to_continue_and_is_refused_is_not_read_further(world: World) -> None:
    """Whether the body follows or the next request is not to be known, so the connection ends."""
    await world.route()
    async with Client(world) as client:
        client.writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n"
        )
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"100 Continue" not in answer


async def test_large_headers_pass_in_both_directions(world: World) -> None:
    large = b"x" * 30_000

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"", 200, [(b"x-large", dict(scope["headers"])[b"x-large"])])

    n1 = await world.node("n1")
    n1.respond = respond
    await world.route(member("n1", n1.url))
    answer = await exchange(
        world.url,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Large: " + large + b"\r\n\r\n",
    )
    assert large in answer


# --- servers -------------------------------------------------------------------------------------


class Slow(Upstream):
    """Answers when it may."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.go = asyncio.Event()
        self.respond = self._wait

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.bodies.append(await whole_body(receive))
        await self.go.wait()
        await reply(send, self.name.encode())


async def slow(world: World) -> Slow:
    upstream = Slow("n1")
    upstream.url = await world.enter(serving(upstream))
    return upstream


async def test_a_request_waits_for_room_at_its_server(world: World) -> None:
    n1 = await slow(world)
    router = await world.route(member("n1", n1.url), server_requests=1)
    first = asyncio.create_task(world.request("GET"))
    await until(lambda: len(n1.seen) == 1)
    second = asyncio.create_task(world.request("POST", data=b"hello"))
    (upstream,) = router.upstreams.all()
    await until(lambda: upstream.queued == 1)
    assert len(n1.seen) == 1
    n1.go.set()
    assert await first == await second == (200, "n1")
    assert upstream.requests == upstream.queued == 0


@pytest.mark.parametrize(("queue", "timeout"), [(0, 60.0), (1, 0.0)])
async def test_without_room_in_time_the_answer_is_503(
    world: World, queue: int, timeout: float
) -> None:
    n1 = await slow(world)
    router = await world.route(
        member("n1", n1.url), server_requests=1, queue_requests=queue, queue_timeout=timeout
    )
    first = asyncio.create_task(world.request("GET"))
    await until(lambda: len(n1.seen) == 1)
    status, text = await world.request("GET")
    assert (status, "too many requests" in text) == (503, True)
    assert router.counts.full == 1
    n1.go.set()
    assert await first == (200, "n1")
    assert await world.request("GET") == (200, "n1")


async def test_who_waits_for_a_server_that_the_view_loses_goes_to_another(world: World) -> None:
    n1, n2 = await slow(world), await world.node("n2")
    members = member("n1", n1.url), member("n2", n2.url)
    router = await world.route(*members, server_requests=1)
    cookie = route_cookie("n1", "n2")
    first = asyncio.create_task(world.request("POST", "/", cookie, data=b"x"))
    await until(lambda: len(n1.seen) == 1)
    second = asyncio.create_task(world.request("POST", "/", cookie, data=b"y"))
    await until(lambda: router.upstreams.all()[0].queued == 1)
    router.upstreams.view_changed(view_of(members[1], number=2))
    assert await second == (200, "n2")
    assert (await first)[0] == 502, "it was sent, and is not repeated"
    assert n2.bodies == [b"y"]


# --- repeats -------------------------------------------------------------------------------------


def test_a_budget_is_earned_by_requests_and_by_time() -> None:
    budget = Budget(0.0, share=0.5, every_second=1.0, reserve=2.0)
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    budget.earn()
    assert not budget.spend(0.0)
    budget.earn()
    assert budget.spend(0.0)
    assert [budget.spend(1.0), budget.spend(1.0)] == [True, False]
    assert [budget.spend(100.0) for _ in range(3)] == [True, True, False]


async def test_a_handshake_that_fails_everywhere_is_repeated_within_the_budget(
    world: World,
) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)

    server, url = await world.raw(act)
    router = await world.route(*(member(f"n{number}", url) for number in range(5)))
    router._budget = Budget(0.0, share=0.0, every_second=0.0, reserve=2.0)
    with pytest.raises(aiohttp.WSServerHandshakeError) as failed:
        await world.client.ws_connect(world.url)
    assert failed.value.status == 502
    assert len(server.heads) == 3
    assert (router.counts.repeats["broken"], router.counts.denied) == (2, 1)


async def test_when_everything_fails_repeats_are_a_part_of_the_requests(world: World) -> None:
    """The HTTP client's own repeats would be among the requests that the server counts."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)

    server, url = await world.raw(act)
    router = await world.route(member("n1", url))
    router._budget = Budget(0.0, share=0.2, every_second=0.0, reserve=1.0)
    answers = [(await world.request("GET"))[0] for _ in range(20)]
    assert answers == [502] * 20
    assert len(server.heads) == 20 + 1 + 3  # what was saved, and a fifth of the others
    assert router.counts.repeats == {"stale": 4}
    assert router.counts.denied == 16
