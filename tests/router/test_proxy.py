"""The router between real clients and real servers on loopback: retries, order, isolation."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from sessionha.router.upstreams import Upstreams
from sessionha.session.headers import ELSEWHERE, IF_REPEATABLE, RETRY
from sessionha.view import EngineAddress
from tests.router.conftest import (
    RawServer,
    Receive,
    Scope,
    Send,
    Upstream,
    World,
    closed_port,
    member,
    reply,
    route_cookie,
    view_of,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def dead(node: str) -> Any:
    return member(node, f"http://127.0.0.1:{closed_port()}")


async def three(world: World, **options: Any) -> tuple[Upstream, Upstream, Upstream]:
    nodes = [await world.node(name) for name in ("n1", "n2", "n3")]
    await world.route(*(member(node.name, node.url) for node in nodes), **options)
    return nodes[0], nodes[1], nodes[2]


async def test_the_servers_of_the_cookie_are_asked_in_its_order(world: World) -> None:
    await three(world)
    for order in (("n2", "n1"), ("n3", "n1", "n2"), ("n1",)):
        assert await world.request("GET", "/", route_cookie(*order)) == (200, order[0])


async def test_a_dead_primary_costs_nothing_the_first_backup_answers_the_same_request(
    world: World,
) -> None:
    """system 5 (e): and the next ten too."""
    n2, n3 = await world.node("n2"), await world.node("n3")
    await world.route(dead("n1"), member("n2", n2.url), member("n3", n3.url))
    for _ in range(11):
        assert await world.request("GET", "/", route_cookie("n1", "n3", "n2")) == (200, "n3")
    assert n2.seen == []


async def test_a_primary_that_is_not_in_the_view_is_passed_over(world: World) -> None:
    await three(world)
    assert await world.request("GET", "/", route_cookie("old", "n2")) == (200, "n2")


async def test_a_new_view_reroutes_at_once(world: World) -> None:
    _, n2, n3 = await three(world)
    assert await world.request("GET", "/", route_cookie("n1", "n3")) == (200, "n1")
    world.upstreams.view_changed(
        view_of(member("n2", n2.url), member("n3", n3.url), number=2, departed=(("n1", "left"),))
    )
    assert await world.request("GET", "/", route_cookie("n1", "n3")) == (200, "n3")


@pytest.mark.parametrize("size", [0, 5, 200_000, 3_000_000])
async def test_a_refused_post_goes_to_the_next_with_its_whole_body(world: World, size: int) -> None:
    n2 = await world.node("n2")
    await world.route(dead("n1"), member("n2", n2.url))
    status, text = await world.request(
        "POST", "/", route_cookie("n1", "n2"), data=io.BytesIO(b"x" * size)
    )
    assert (status, text) == (200, "n2")
    assert n2.bodies == [b"x" * size]


async def die_after_reading(server: RawServer, reader: asyncio.StreamReader) -> None:
    await server.head(reader)


async def broken_then(world: World, second: Upstream, **options: Any) -> RawServer:
    """n1 reads a request and closes the connection; n2 is healthy."""
    server, url = await world.raw(lambda reader, writer: die_after_reading(server, reader))
    await world.route(member("n1", url), member("n2", second.url), **options)
    return server


async def test_a_post_that_was_sent_is_never_repeated(world: World) -> None:
    """R14"""
    n2 = await world.node("n2")
    n1 = await broken_then(world, n2)
    status, text = await world.request("POST", "/", route_cookie("n1", "n2"), data=b"buy")
    assert status == 502
    assert "127.0.0.1" not in text
    assert (len(n1.heads), n2.seen) == (1, [])


async def test_a_post_never_goes_out_on_a_connection_that_was_idle(world: World) -> None:
    async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await n1.head(reader)
            writer.write(OK)

    n1, url = await world.raw(answer_all)
    await world.route(member("n1", url))
    for method in ("GET", "GET", "POST", "POST"):
        assert await world.request(method) == (200, "ok")
    assert n1.connections == 3


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_an_idempotent_request_that_was_sent_goes_on_to_the_next(
    world: World, method: str
) -> None:
    n2 = await world.node("n2")
    n1 = await broken_then(world, n2)
    body = b"" if method == "GET" else b"state"
    assert await world.request(method, "/", route_cookie("n1", "n2"), data=body) == (200, "n2")
    assert n2.bodies == [body]
    assert len(n1.heads) == 2, "once kept, once on a fresh connection"


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 200), ("POST", 502)])
async def test_a_server_that_dies_in_the_middle_of_a_short_response_is_replaced(
    world: World, method: str, status: int
) -> None:
    """Nothing of the response reached the client yet, so R14 decides as if none had begun."""

    async def cut_short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await n1.head(reader)
        writer.write(OK[:-1])

    n1, url = await world.raw(cut_short)
    n2 = await world.node("n2")
    await world.route(member("n1", url), member("n2", n2.url))
    got, text = await world.request(method, "/", route_cookie("n1", "n2"))
    assert (got, n2.seen != []) == (status, status == 200)
    assert status == 502 or text == "n2"


async def test_an_idempotency_key_makes_a_post_repeatable(world: World) -> None:
    n2 = await world.node("n2")
    await broken_then(world, n2)
    status, text = await world.request(
        "POST", "/", route_cookie("n1", "n2"), data=b"buy", headers={"Idempotency-Key": "k1"}
    )
    assert (status, text, n2.bodies) == (200, "n2", [b"buy"])


async def test_a_body_above_the_limit_is_not_repeated_once_it_was_sent(world: World) -> None:
    async def read_some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await n1.head(reader)
        await reader.readexactly(100_000)

    n2 = await world.node("n2")
    n1, url = await world.raw(read_some)
    await world.route(member("n1", url), member("n2", n2.url), replay_bytes=50_000)
    status, _ = await world.request("PUT", "/", route_cookie("n1", "n2"), data=b"x" * 200_000)
    assert (status, n2.seen) == (502, [])


async def test_a_server_that_closes_an_idle_connection_keeps_its_client(world: World) -> None:
    """A healthy server may tire of a kept connection; its sessions stay where they are."""

    async def one_answer_a_connection(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await n1.head(reader)
        writer.write(OK)
        if n1.connections == 1:
            await n1.head(reader)  # and then it closes without an answer

    n1, url = await world.raw(one_answer_a_connection)
    n2 = await world.node("n2")
    await world.route(member("n1", url), member("n2", n2.url))
    for _ in range(2):
        assert await world.request("GET", "/", route_cookie("n1", "n2")) == (200, "ok")
    assert n2.seen == []


async def test_a_request_that_kills_every_server_does_not_visit_them_all(world: World) -> None:
    async def read_and_close(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))

    heads: list[bytes] = []
    urls = [(await world.raw(read_and_close))[1] for _ in range(5)]
    await world.route(*(member(f"n{number}", url) for number, url in enumerate(urls)))
    assert (await world.request("GET"))[0] == 502
    assert len(heads) == 4


# --- a stopped node ------------------------------------------------------------------------------


async def silent_node(world: World, **options: Any) -> tuple[RawServer, asyncio.Event, Upstream]:
    """n1 reads a request and says nothing, like a stopped process; n2 is healthy."""
    reached = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await n1.head(reader)
        reached.set()
        await reader.read()

    n2 = await world.node("n2")
    n1, url = await world.raw(say_nothing)
    await world.route(member("n1", url), member("n2", n2.url), **options)
    return n1, reached, n2


async def test_a_stopped_node_is_left_when_the_view_excludes_it(world: World) -> None:
    _, reached, n2 = await silent_node(world)
    request = asyncio.create_task(world.request("GET", "/", route_cookie("n1", "n2")))
    await reached.wait()
    failed = view_of(member("n2", n2.url), number=2, departed=(("n1", "failed"),))
    world.upstreams.view_changed(failed)
    assert await request == (200, "n2")


async def test_a_post_at_an_excluded_node_is_not_given_to_another(world: World) -> None:
    """R14: it may have been executed there; its client is told at once that nobody knows."""
    _, reached, n2 = await silent_node(world)
    request = asyncio.create_task(world.request("POST", "/", route_cookie("n1", "n2")))
    await reached.wait()
    world.upstreams.view_changed(view_of(member("n2", n2.url), number=2))
    assert (await request)[0] == 502
    assert n2.seen == []


async def test_a_post_goes_to_another_when_its_node_is_excluded_before_it_accepts(
    world: World,
) -> None:
    """R14: no byte of it was written, so it was certainly not executed."""
    n2 = await world.node("n2")
    with full_backlog() as port:
        await world.route(
            member("n1", f"http://127.0.0.1:{port}"), member("n2", n2.url), connect_timeout=60.0
        )
        request = asyncio.create_task(world.request("POST", "/", route_cookie("n1", "n2")))
        upstream = next(world.upstreams.candidates(("n1",)))
        while not upstream.in_flight:  # noqa: ASYNC110 (a connection that hangs tells nobody)
            await asyncio.sleep(0)
        world.upstreams.view_changed(view_of(member("n2", n2.url), number=2))
        assert await request == (200, "n2")


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port that answers no connection's first packet any more, like a host without power."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as clients:
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_a_node_that_said_goodbye_finishes_its_requests(world: World) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        reached.set()
        await go_on.wait()
        await reply(send, b"finished")

    n1, n2, n3 = await three(world)
    n1.respond = slow
    request = asyncio.create_task(world.request("GET", "/", route_cookie("n1", "n2")))
    await reached.wait()
    others = (member("n2", n2.url), member("n3", n3.url))
    world.upstreams.view_changed(view_of(*others, number=2, departed=(("n1", "left"),)))
    go_on.set()
    assert await request == (200, "finished")


async def test_a_silent_server_that_stays_in_the_view_is_answered_with_504(world: World) -> None:
    _, _, n2 = await silent_node(world, response_timeout=0.05)
    assert (await world.request("GET", "/", route_cookie("n1", "n2")))[0] == 504
    assert n2.seen == []


# --- 503 -----------------------------------------------------------------------------------------


def passing_on(status: int = 503, retry: str = ELSEWHERE) -> Any:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        header = (RETRY.encode(), retry.encode())
        await reply(send, b"not here", status, [header, (b"retry-after", b"1")])

    return application


@pytest.mark.parametrize("retry", [ELSEWHERE, IF_REPEATABLE])
async def test_a_node_that_passes_a_request_on_is_followed_by_the_next(
    world: World, retry: str
) -> None:
    n1, n2, _ = await three(world)
    n1.respond = passing_on(retry=retry)
    assert await world.request("GET", "/", route_cookie("n1", "n2")) == (200, "n2")
    assert (len(n1.seen), len(n2.seen)) == (1, 1)


async def test_an_unsafe_request_is_not_passed_on_and_the_header_stays_inside(
    world: World,
) -> None:
    n1, n2, _ = await three(world)
    n1.respond = passing_on()
    headers = {"Cookie": route_cookie("n1", "n2")}
    async with world.client.post(world.url, headers=headers) as response:
        assert (response.status, await response.text()) == (503, "not here")
        assert response.headers["retry-after"] == "1"
        assert RETRY not in response.headers
    assert n2.seen == []


async def test_when_all_pass_a_request_on_it_is_offered_again_until_one_takes_it(
    world: World,
) -> None:
    nodes = await three(world)
    for node in nodes:
        node.respond = passing_on()

    async def on_second_thought(scope: Scope, receive: Receive, send: Send) -> None:
        await (
            reply(send, b"now") if len(nodes[1].seen) > 1 else passing_on()(scope, receive, send)
        )

    nodes[1].respond = on_second_thought
    assert await world.request("GET", "/", route_cookie("n1", "n2")) == (200, "now")


async def test_the_offer_ends_and_the_503_is_passed_through(world: World) -> None:
    for node in await three(world, elsewhere_timeout=0.05):
        node.respond = passing_on()
    assert await world.request("GET", "/", route_cookie("n1")) == (503, "not here")


async def test_an_ordinary_503_is_the_applications_own(world: World) -> None:
    n1, n2, _ = await three(world)
    n1.respond = lambda scope, receive, send: reply(send, b"mine", 503)
    assert await world.request("GET", "/", route_cookie("n1", "n2")) == (503, "mine")
    assert n2.seen == []


async def test_no_server_left_is_503_with_the_reason_and_retry_after(world: World) -> None:
    await world.route(dead("n1"))
    async with world.client.get(world.url) as response:
        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        assert "no server for this request can be reached" in await response.text()
    world.upstreams.view_changed(view_of(number=2))
    status, text = await world.request("GET")
    assert (status, "no server for this request is known" in text) == (503, True)


async def test_no_server_of_the_wanted_type_is_503_with_the_reason(world: World) -> None:
    """system 1 (d)"""
    n1 = await world.node("n1")
    await world.route(
        member("n1", n1.url, engines=(EngineAddress("0", "web"),)), engine_types=(("/api", "api"),)
    )
    assert await world.request("GET", "/apis") == (200, "n1")
    assert await world.request("GET", "/api/x?y=/") == (
        503, "Unavailable: no server with engines of type api is known.\n",
    )  # fmt: skip
    assert len(n1.seen) == 1


# --- cookies from outside ------------------------------------------------------------------------


async def test_a_forged_cookie_is_no_cookie_and_nothing_else_is_connected_to(
    world: World,
) -> None:
    """system 5 (k), system 1 (j): tampered, foreign, oversized, naming an outside address."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("connected to an address from a cookie")

    outside, url = await world.raw(never)
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    good = route_cookie("n1")
    forged = [
        route_cookie("n1", key=bytes(32)),
        good[:-3] + "AAA",
        good.replace("n1", "n2"),
        f"hsr=1.{url.removeprefix('http://')}.x.y." + "A" * 43,
        "hsr=" + "x" * 6000,
        "hsr=",
        "hsr=\x80\xff",
    ]
    for cookie in forged:
        assert await world.request("GET", "/", cookie) == (200, "n1")
    assert outside.connections == 0


async def test_several_route_cookies_count_only_when_one_is_valid(world: World) -> None:
    await three(world)
    valid, other, forged = route_cookie("n3"), route_cookie("n2"), route_cookie("n1", key=bytes(32))
    assert await world.request("GET", "/", forged, valid) == (200, "n3")
    assert await world.request("GET", "/", valid, valid) == (200, "n3")
    answers = [(await world.request("GET", "/", valid, other))[1] for _ in range(3)]
    assert sorted(answers) == ["n1", "n2", "n3"], "two valid ones: as a new client, by turns"


@pytest.mark.parametrize("target", ["@evil.example/", "http://evil.example/", "evil", "*", "/#@e/"])
@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_target_never_names_another_host(world: World, target: str, http: str) -> None:
    """Whatever the server's parser lets through: refused, or a path on our own node."""
    if http == "httptools":
        pytest.importorskip("httptools")
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url), http=http)
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    if not status.startswith(b"HTTP/1.1 400"):
        assert status.startswith(b"HTTP/1.1 200")
        assert n1.seen[0]["raw_path"] == b"/"


# --- health of upstreams -------------------------------------------------------------------------


def test_a_refusing_server_is_tried_by_one_request_after_a_while() -> None:
    now = 0.0
    upstreams = Upstreams(lambda: now)
    upstreams.view_changed(view_of(member("n1", "http://n1"), member("n2", "http://n2")))

    def first(*servers: str) -> str:
        return next(upstreams.candidates(servers)).target.name

    upstreams.refused(next(upstreams.candidates(("n1",))))
    assert first("n1") == "n2"
    now = 1.0
    assert [first("n1"), first("n1")] == ["n1", "n2"]
    now = 2.0
    trial = next(upstreams.candidates(("n1",)))
    upstreams.answered(trial)
    assert [first("n1"), first("n1")] == ["n1", "n1"]


def test_a_server_that_left_the_view_is_not_tried_by_requests_from_before() -> None:
    """R16: no view would ever tell a request that begins there now that it is lost."""
    upstreams = Upstreams(lambda: 0.0)
    members = [member(name, f"http://{name}") for name in ("n1", "n2", "n3")]
    upstreams.view_changed(view_of(*members))
    candidates = upstreams.candidates(("n1", "n2"))
    assert next(candidates).target.name == "n1"
    moved = member("n3", "http://n3-elsewhere", joined=2)
    upstreams.view_changed(view_of(members[0], moved, number=2, departed=(("n2", "failed"),)))
    assert [candidate.target.url for candidate in candidates] == ["http://n3-elsewhere"]


def test_a_suspect_is_trusted_again_after_a_while() -> None:
    now = 0.0
    upstreams = Upstreams(lambda: now)
    upstreams.view_changed(view_of(member("n1", "http://n1"), member("n2", "http://n2")))
    upstreams.broke(next(upstreams.candidates(("n1",))))
    assert {next(upstreams.candidates(())).target.name for _ in range(4)} == {"n2"}
    now = 1.0
    assert {next(upstreams.candidates(())).target.name for _ in range(4)} == {"n1", "n2"}


def test_a_member_that_joined_anew_is_up() -> None:
    upstreams = Upstreams(lambda: 0.0)
    upstreams.view_changed(view_of(member("n1", "http://n1"), member("n2", "http://n2")))
    upstreams.refused(next(upstreams.candidates(("n1",))))
    newcomer = member("n1", "http://n1", joined=2)
    upstreams.view_changed(view_of(member("n2", "http://n2"), newcomer, number=2))
    assert next(upstreams.candidates(("n1",))).target.name == "n1"
