"""What of a request and of an answer passes the router, and what it sets itself."""

from __future__ import annotations

import asyncio
import re
from unittest.mock import Mock, call

import pytest

from sessionha.router.front import Gathering
from sessionha.router.headers import Request
from tests.router.conftest import Receive, Scope, Send, World, member, reply


async def exchange(url: str, request: bytes) -> bytes:
    """The whole answer to raw bytes; the request asks for the connection to be closed."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("client", ['6.6.6.6;host="evil', "evil", ""])
def test_only_an_address_becomes_part_of_what_is_forwarded(client: str) -> None:
    """Who is trusted for `X-Forwarded-For` may have taken it from its client as it was."""
    scope = {
        "headers": [(b"host", b"shop")], "raw_path": b"/", "query_string": b"",
        "scheme": "http", "client": (client, 0),
    }  # fmt: skip
    headers = dict(Request(scope, b"hsr").headers)
    assert b"x-forwarded-for" not in headers
    assert headers[b"forwarded"] == b'proto=http;host="shop"'


async def test_forwarded_headers_of_the_client_are_replaced(world: World) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    await exchange(
        world.url,
        b"GET / HTTP/1.1\r\nHost: shop.example:8443\r\nConnection: close\r\n"
        b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /x\r\n"
        b"X_Forwarded_For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n"
        b"Sessionha-Engine: n9\r\nSESSIONHA_ENGINE: n9\r\n\r\n",
    )
    headers = n1.headers()
    assert headers == {
        "host": "shop.example:8443",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "shop.example:8443",
        "forwarded": 'for=127.0.0.1;proto=http;host="shop.example:8443"',
        "sessionha-hops": "1",
    }


async def test_headers_of_the_connection_are_dropped_and_others_pass_unchanged(
    world: World,
) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    await exchange(
        world.url,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Authorization: secret\r\nX-Twice: 1\r\nX-Twice: 2\r\n"
        b"Accept: text/html\r\nCookie: a=1\r\nCookie: b=2\r\nX-Name: gr\xc3\xbc\xc3\x9fe\r\n\r\n",
    )
    got = n1.seen[0]["headers"]
    names = [
        name for name, _ in got if not name.startswith((b"x-forwarded", b"forwarded", b"sessionha"))
    ]
    assert sorted(names) == [
        b"accept", b"cookie", b"cookie", b"host", b"x-name", b"x-twice", b"x-twice",
    ]  # fmt: skip
    assert (b"x-name", "grüße".encode()) in got


@pytest.mark.parametrize("path", ["/a%2Fb/../c//d?x=%20&y=a+b&&z", "/%E2%82%AC?q", "//e/;p=1?"])
async def test_the_target_passes_byte_by_byte(world: World, path: str) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    await exchange(
        world.url,
        f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode(),
    )
    raw, _, query = path.partition("?")
    assert n1.seen[0]["raw_path"] == raw.encode()
    assert n1.seen[0]["query_string"] == query.encode()


@pytest.mark.parametrize(
    "headers",
    [
        b"Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        b"Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        b"Host: a\r\nContent-Length: +1\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"Host: a\r\nHost: b\r\n",
        b'Host: a";for=evil\r\n',
    ],
)
async def test_an_ambiguous_request_is_refused(world: World, headers: bytes) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    answer = await exchange(
        world.url, b"POST / HTTP/1.1\r\nConnection: close\r\n" + headers + b"\r\n0\r\n\r\n"
    )
    assert answer[9:12] in (b"400", b"501")
    assert n1.seen == []


async def test_the_answers_headers_pass_as_often_as_they_came(world: World) -> None:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(
            send, b"\x1f\x8bzip", 200,
            [
                (b"set-cookie", b"a=1; path=/"), (b"set-cookie", b"b=2; path=/"),
                (b"content-encoding", b"gzip"), (b"vary", b"Cookie"), (b"keep-alive", b"x"),
                (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"server", b"mine"),
            ],
        )  # fmt: skip

    n1 = await world.node("n1")
    n1.respond = respond
    await world.route(member("n1", n1.url))
    async with world.client.get(world.url) as response:
        assert await response.read() == b"\x1f\x8bzip"
        assert response.headers.getall("set-cookie") == ["a=1; path=/", "b=2; path=/"]
        assert response.headers.getall("date") == ["Sun, 06 Nov 1994 08:49:37 GMT"]
        assert response.headers.getall("server") == ["mine"]
        assert response.headers["content-encoding"] == "gzip"
        assert "keep-alive" not in response.headers


async def test_redirects_and_cookies_are_the_clients_business(world: World) -> None:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"location", b"http://127.0.0.1:1/"), (b"set-cookie", b"seen=1")]
        await reply(send, b"", 302, headers)

    n1 = await world.node("n1")
    n1.respond = respond
    await world.route(member("n1", n1.url))
    for _ in range(2):
        async with world.client.get(world.url, allow_redirects=False) as response:
            assert response.status == 302
    assert "cookie" not in n1.headers()


@pytest.mark.parametrize(
    ("method", "status", "length"), [("HEAD", 200, b"5"), ("GET", 204, None), ("GET", 304, b"5")]
)
async def test_answers_without_a_body(
    world: World, method: str, status: int, length: bytes | None
) -> None:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if length is None else [(b"content-length", length)]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"hello" if method == "HEAD" else b""})

    n1 = await world.node("n1")
    n1.respond = respond
    await world.route(member("n1", n1.url))
    for _ in range(2):  # the kept connection stays usable
        async with world.client.request(method, world.url) as response:
            assert (response.status, await response.read()) == (status, b"")
            if method == "HEAD":
                assert response.headers["content-length"] == "5"


async def test_expect_100_continue_is_answered_by_the_router(world: World) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    async with world.client.post(world.url, data=b"hello", expect100=True) as response:
        assert await response.text() == "n1"
    assert n1.bodies == [b"hello"]
    assert "expect" not in n1.headers()


async def test_an_answer_of_only_a_head_comes_before_the_refusal_of_what_follows(
    world: World,
) -> None:
    n1 = await world.node("n1")
    await world.route(member("n1", n1.url))
    answer = await exchange(world.url, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"400"]


async def test_the_pieces_of_an_answer_are_written_together_within_a_turn_of_the_loop() -> None:
    transport = Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    answer = Gathering(transport, asyncio.get_running_loop())
    answer.write(b"head ")
    answer.write(b"body")
    transport.write.assert_not_called()
    await asyncio.sleep(0)
    answer.write(b"more")
    answer.close()
    await asyncio.sleep(0)
    assert transport.method_calls == [
        call.is_closing(), call.write(b"head body"),
        call.is_closing(), call.write(b"more"), call.close(),
    ]  # fmt: skip
