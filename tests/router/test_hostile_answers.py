"""Answers that could be read differently: what follows one never becomes the next request's."""

from __future__ import annotations

import asyncio

import pytest

from tests.router.conftest import World, member

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

ANSWERS = {
    "bytes behind the answer": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + EVIL,
    "a body of a status without": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n" + EVIL,
    "a body of what is not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n" + EVIL,
    "a length of what is not modified": b"HTTP/1.1 304 Not Modified\r\n"
    b"Content-Length: 4\r\n\r\n" + EVIL,
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + EVIL,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nok" + EVIL,
    "a length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok" + EVIL,
    "chunks that end early": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nok\r\n0\r\n\r\n" + EVIL,
    "a size that is none": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok" + EVIL,
    "an early hint": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + EVIL,
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n"
    b"Connection: upgrade\r\n\r\n" + EVIL,
    "a line break in a header": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil\r\n"
    b"Content-Length: 2\r\n\r\nok" + EVIL,
    "no status": b"nonsense\r\n\r\n" + EVIL,
    "a status of the future": b"HTTP/1.1 999 Evil\r\nContent-Length: 2\r\n\r\nok" + EVIL,
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok" + EVIL,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_next_request_gets_its_own_answer(
    world: World, method: str, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await server.head(reader)
            if head.startswith((b"GET /next", b"HEAD /next")):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")
            else:
                writer.write(answer)

    server, url = await world.raw(act)
    await world.route(member("n1", url))
    try:
        status, text = await world.request(method, "/first")
    except ConnectionError:  # an answer that began, and broke off
        status, text = 0, ""
    assert status in (0, 200, 204, 304, 502)
    assert "evil" not in text
    assert await world.request("GET", "/next") == (200, "mine")
    assert not [record for record in caplog.records if record.exc_info]


async def test_chunks_of_an_answer_without_a_body_are_not_the_next_answer(world: World) -> None:
    """A server that answers HEAD as if it were GET: the size of a chunk, and later its bytes."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await server.head(reader)
        if head.startswith(b"HEAD"):
            chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(chunked + b"%x\r\n" % len(EVIL))
            await server.head(reader)
            writer.write(EVIL + b"\r\n0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")

    server, url = await world.raw(act)
    await world.route(member("n1", url))
    assert await world.request("HEAD", "/first") == (200, "")
    assert await world.request("GET", "/next") == (200, "mine")
