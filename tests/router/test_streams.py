"""Streams through the router, both ways, and websockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from sessionha.session.headers import ELSEWHERE, RETRY
from tests.router.conftest import (
    Receive,
    Scope,
    Send,
    World,
    closed_port,
    member,
    reply,
    route_cookie,
    view_of,
    whole_body,
)

BIG = 8 << 20
"""Far more than all socket buffers between two ends."""


async def start(send: Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def test_pieces_pass_both_ways_as_they_come(world: World) -> None:
    """The answer's first piece arrives while the request's second has not been written."""

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            body = {"type": "http.response.body", "body": message["body"], "more_body": more}
            await send(body)

    n1 = await world.node("n1")
    n1.respond = echo
    await world.route(member("n1", n1.url))
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield await heard.get() + b"-two"
        yield await heard.get() + b"-three"

    async with world.client.post(world.url, data=pieces()) as response:
        assert await response.content.readany() == b"one"
        heard.put_nowait(b"one")
        assert await response.content.readany() == b"one-two"
        heard.put_nowait(b"")
        assert await response.content.read() == b"-three"


async def test_server_sent_events_arrive_one_by_one(world: World) -> None:
    go_on = asyncio.Event()

    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, (b"content-type", b"text/event-stream"))
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    n1 = await world.node("n1")
    n1.respond = events
    await world.route(member("n1", n1.url))
    async with world.client.get(world.url) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert await response.content.readany() == b"data: 1\n\n"
        go_on.set()
        assert await response.content.read() == b"data: 2\n\n"


async def test_a_client_that_leaves_ends_the_request_at_the_upstream(world: World) -> None:
    left = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        await start(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    n1 = await world.node("n1")
    n1.respond = endless
    await world.route(member("n1", n1.url))
    async with world.client.post(world.url, data=b"hello") as response:
        await response.content.readany()
        response.close()
    await asyncio.wait_for(left.wait(), 10)


async def test_a_client_that_leaves_before_the_answer_ends_the_request_too(world: World) -> None:
    reached, left = asyncio.Event(), asyncio.Event()

    async def never_answers(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        reached.set()
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    n1, n2 = await world.node("n1"), await world.node("n2")
    n1.respond = never_answers
    await world.route(member("n1", n1.url), member("n2", n2.url))
    request = asyncio.create_task(world.request("GET", "/", route_cookie("n1")))
    await reached.wait()
    request.cancel()
    await asyncio.wait_for(left.wait(), 10)
    assert n2.seen == []


async def test_a_client_that_leaves_in_the_middle_of_its_body(world: World) -> None:
    left, first = asyncio.Event(), asyncio.Event()

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            assert message["more_body"]
            first.set()
        left.set()

    n1 = await world.node("n1")
    n1.respond = reads
    await world.route(member("n1", n1.url))

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    request = asyncio.create_task(world.request("PUT", "/", data=pieces()))
    await first.wait()
    request.cancel()
    await asyncio.wait_for(left.wait(), 10)


async def test_a_slow_client_slows_the_upstream_down(world: World) -> None:
    """Back-pressure: the router holds a few buffers, never the body."""
    sent = 0

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await start(send, (b"content-length", str(BIG * 4).encode()))
        while sent < BIG * 4:
            sent += 1 << 16
            await send({
                "type": "http.response.body",
                "body": b"x" * (1 << 16),
                "more_body": sent < BIG * 4,
            })  # fmt: skip

    n1 = await world.node("n1")
    n1.respond = pour
    await world.route(member("n1", n1.url))
    async with world.client.get(world.url) as response:
        stalled = -1
        while sent != stalled:  # until the upstream waits for its client
            stalled = sent
            for _ in range(2000):
                await asyncio.sleep(0)
        assert sent < BIG * 4
        total = 0
        async for piece in response.content.iter_any():
            total += len(piece)
        assert total == BIG * 4


async def test_a_large_upload_arrives_whole(world: World) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(128):
            yield bytes([number]) * (BIG // 128)

    assert await world.request("POST", "/", data=pieces()) == (200, "n1")
    assert n1.bodies == [b"".join(bytes([number]) * (BIG // 128) for number in range(128))]


async def test_an_answer_that_breaks_off_breaks_off_for_the_client(world: World) -> None:
    """Nothing is repeated once a long response began, and a cut one never looks whole."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
        await writer.drain()

    server, url = await world.raw(cut)
    n2 = await world.node("n2")
    await world.route(member("n1", url), member("n2", n2.url))
    with pytest.raises(aiohttp.ClientPayloadError):
        await world.request("GET", "/", route_cookie("n1", "n2"))
    assert n2.seen == []


async def test_a_stream_of_an_excluded_node_ends(world: World) -> None:
    """So that an event source connects again, to a backup."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await receive()
        await receive()

    n1 = await world.node("n1")
    n1.respond = stream
    await world.route(member("n1", n1.url))
    async with world.client.get(world.url) as response:
        assert await response.content.readany() == b"x"
        world.upstreams.view_changed(view_of(number=2, departed=(("n1", "failed"),)))
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


# --- websockets ----------------------------------------------------------------------------------


async def echo_socket(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    protocols = scope["subprotocols"]
    await send({
        "type": "websocket.accept",
        "subprotocol": protocols[-1] if protocols else None,
        "headers": [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
    })  # fmt: skip
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "end":
            await send({"type": "websocket.close", "code": 4001, "reason": "done"})
            return
        await send({**message, "type": "websocket.send"})


def socket_url(world: World) -> str:
    return world.url.replace("http", "ws") + "/chat?room=1"


async def test_websocket_messages_pass_both_ways_and_the_close_code_too(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    n1.respond = n2.respond = echo_socket
    await world.route(member("n1", n1.url), member("n2", n2.url))
    headers = {"Cookie": route_cookie("n2", "n1"), "Origin": "http://shop.example"}
    async with world.client.ws_connect(
        socket_url(world), headers=headers, protocols=("v1", "v2")
    ) as ws:
        assert ws.protocol == "v2"
        await ws.send_str("grüße")
        assert await ws.receive_str() == "grüße"
        await ws.send_bytes(b"\x00" * 300_000)
        assert await ws.receive_bytes() == b"\x00" * 300_000
        await ws.send_str("")
        assert await ws.receive_str() == ""
        await ws.send_str("end")
        close = await ws.receive()
        assert (close.data, close.extra) == (4001, "done")
    assert n1.seen == []
    scope = n2.seen[0]
    assert (scope["path"], scope["query_string"]) == ("/chat", b"room=1")
    assert n2.headers()["origin"] == "http://shop.example"
    assert n2.headers()["x-forwarded-for"] == "127.0.0.1"


async def test_the_cookies_of_a_handshake_reach_the_client(world: World) -> None:
    n1 = await world.node("n1")
    n1.respond = echo_socket
    await world.route(member("n1", n1.url))
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 101")
    assert head.lower().count(b"set-cookie: ") == 2


async def test_a_client_that_closes_its_websocket_closes_the_upstreams(world: World) -> None:
    closed: asyncio.Queue[Any] = asyncio.Queue()

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        closed.put_nowait(await receive())

    n1 = await world.node("n1")
    n1.respond = watch
    await world.route(member("n1", n1.url))
    async with world.client.ws_connect(socket_url(world)) as ws:
        await ws.close(code=4002, message=b"bye")
    message = await asyncio.wait_for(closed.get(), 10)
    assert (message["type"], message["code"]) == ("websocket.disconnect", 4002)


async def test_a_websocket_for_a_dead_primary_goes_to_the_first_backup(world: World) -> None:
    n2 = await world.node("n2")
    n2.respond = echo_socket
    await world.route(member("n1", f"http://127.0.0.1:{closed_port()}"), member("n2", n2.url))
    headers = {"Cookie": route_cookie("n1", "n2")}
    async with world.client.ws_connect(socket_url(world), headers=headers) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


async def test_a_websocket_of_an_excluded_node_ends_as_going_away(world: World) -> None:
    n1 = await world.node("n1")
    n1.respond = echo_socket
    await world.route(member("n1", n1.url))
    async with world.client.ws_connect(socket_url(world)) as ws:
        await ws.send_str("hello")
        await ws.receive_str()
        world.upstreams.view_changed(view_of(number=2, departed=(("n1", "failed"),)))
        assert (await ws.receive()).data == 1001


async def test_a_refused_handshake_is_passed_on_and_no_redirect_is_followed(
    world: World,
) -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"location", b"http://127.0.0.1:1/evil")]
        await send({"type": "websocket.http.response.start", "status": 302, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})

    n1 = await world.node("n1")
    n1.respond = refuse
    await world.route(member("n1", n1.url))
    url = world.url + "/chat"
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with world.client.get(url, headers=headers, allow_redirects=False) as response:
        assert response.status == 302
        assert response.headers["location"] == "http://127.0.0.1:1/evil"


async def test_a_node_that_passes_a_handshake_on_is_followed_by_the_next(world: World) -> None:
    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(RETRY.encode(), ELSEWHERE.encode())]
        await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})

    n1, n2 = await world.node("n1"), await world.node("n2")
    n1.respond, n2.respond = pass_on, echo_socket
    await world.route(member("n1", n1.url), member("n2", n2.url))
    headers = {"Cookie": route_cookie("n1", "n2")}
    async with world.client.ws_connect(socket_url(world), headers=headers) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


async def test_no_server_for_a_websocket_is_503(world: World) -> None:
    await world.route()
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await world.client.ws_connect(socket_url(world))
    assert caught.value.status == 503


async def test_the_routers_own_health(world: World) -> None:
    n1 = await world.node("n1")
    n1.respond = lambda scope, receive, send: reply(send, b"", 500)
    await world.route(member("n1", n1.url), health_path="/router/readyz")
    assert (await world.request("GET", "/router/readyz"))[0] == 200
    world.upstreams.view_changed(view_of(number=2))
    assert (await world.request("GET", "/router/readyz"))[0] == 503
    assert n1.seen == []
