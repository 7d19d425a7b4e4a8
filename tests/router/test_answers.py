"""Answers of upstreams, read from bytes: where they end, and what is not taken for one."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest

from sessionha.router.answers import SHORT, Answer, Broken, Flow

LONG = SHORT + 1


def answer_to(method: str = "GET", head_bytes: int = 1000) -> Answer:
    return Answer(method, head_bytes, Mock(spec=Flow), Mock())


def head(*lines: str, start: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([start, *lines, "", ""]).encode()


async def taken(answer: Answer) -> None:
    await answer.ready()
    while not answer.complete:
        await answer.piece()


WHOLE = {
    "a length": (head("Content-Length: 2") + b"ok", b"ok"),
    "no bytes": (head("Content-Length: 0"), b""),
    "chunks": (head("Transfer-Encoding: chunked") + b"1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n", b"ok"),
    "trailers": (head("Transfer-Encoding: Chunked") + b"2\r\nok\r\n0\r\nX: y\r\n\r\n", b"ok"),
    "no content": (head(start="HTTP/1.1 204 No Content"), b""),
    "a length of no content": (head("Content-Length: 2", start="HTTP/1.1 204 No Content"), b""),
    "nothing modified": (head("Content-Length: 2", start="HTTP/1.1 304 Not Modified"), b""),
    "a hint before": (
        head("Link: </a>", start="HTTP/1.1 103 Early Hints") + head("Content-Length: 2") + b"ok",
        b"ok",
    ),
}


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(("sent", "body"), WHOLE.values(), ids=WHOLE)
async def test_an_answer_ends_where_it_says(sent: bytes, body: bytes, size: int) -> None:
    answer = answer_to()
    for start in range(0, len(sent), size):
        assert not answer.complete
        answer.feed(sent[start : start + size])
    await answer.ready()
    assert (answer.complete, answer.keeps, await answer.piece()) == (True, True, body)
    assert b"link" not in dict(answer.headers)
    assert b"x" not in dict(answer.headers)


@pytest.mark.parametrize("sent", [sent for sent, _ in WHOLE.values()], ids=WHOLE)
async def test_what_follows_an_answer_ends_the_connection(sent: bytes) -> None:
    at_once, later = answer_to(), answer_to()
    at_once.feed(sent + head("Content-Length: 4") + b"evil")
    later.feed(sent)
    later.feed(b"H")
    assert (at_once.complete, at_once.keeps) == (later.complete, later.keeps) == (True, False)


async def test_the_answer_to_head_ends_with_its_head() -> None:
    answer = answer_to("HEAD")
    answer.feed(head("Content-Length: 5", "Set-Cookie: a", "Empty:", "X-Y: \xfc"))
    await answer.ready()
    assert (answer.status, answer.complete, answer.keeps) == (200, True, True)
    assert answer.headers == [
        (b"content-length", b"5"), (b"set-cookie", b"a"), (b"empty", b""), (b"x-y", "\xfc".encode())
    ]  # fmt: skip


@pytest.mark.parametrize("begun", ["", "5", "5\r\n", "0\r\n\r\n"])
async def test_what_has_no_body_but_tells_of_chunks_is_the_last_of_its_connection(
    begun: str,
) -> None:
    """The parser takes the size of a chunk in silence; its bytes would be the next answer."""
    answer = answer_to("HEAD")
    answer.feed(head("Transfer-Encoding: chunked") + begun.encode())
    await answer.ready()
    assert (answer.complete, answer.keeps) == (True, False)


async def test_chunks_of_http_1_0_are_the_last_of_their_connection() -> None:
    """RFC 9112, 6.1: they may have come through somebody who does not know them."""
    lines = head("Transfer-Encoding: chunked", "Connection: keep-alive", start="HTTP/1.0 200 OK")
    answer = answer_to()
    answer.feed(lines + b"2\r\nok\r\n0\r\n\r\n")
    assert (answer.complete, answer.keeps, await answer.piece()) == (True, False, b"ok")


@pytest.mark.parametrize("line", ["Connection: close", "X: y"])
async def test_without_a_length_an_answer_ends_with_its_connection(line: str) -> None:
    answer = answer_to()
    answer.feed(head(line) + b"one")
    await answer.ready()
    assert (await answer.piece(), answer.complete) == (b"one", False)
    answer.feed(b"two")
    answer.ended()
    assert (await answer.piece(), answer.complete, answer.keeps) == (b"two", True, False)


CHUNKS = head("Transfer-Encoding: chunked")
BROKEN = {
    "nothing": b"",
    "half a head": head()[:-1],
    "half a body": head("Content-Length: 3") + b"ok",
    "no last chunk": CHUNKS + b"2\r\nok\r\n",
    "a length and chunks": head("Content-Length: 2", "Transfer-Encoding: chunked") + b"ok",
    "chunks and a length": head("Transfer-Encoding: chunked", "Content-Length: 2") + b"ok",
    "two lengths": head("Content-Length: 2", "Content-Length: 2") + b"ok",
    "two codings": head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "another coding": head("Transfer-Encoding: gzip") + b"ok",
    "two codings in a line": head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "another coding at the end": head("Transfer-Encoding: gzip", "X: y") + b"ok",
    "a size that is none": CHUNKS + b"zz\r\nok\r\n",
    "a large head": head("X: " + "y" * 1000, "Content-Length: 0"),
    "many hints": head(start="HTTP/1.1 103 Early Hints") * 40,
    "a hint with a body": head("Content-Length: 2", start="HTTP/1.1 103 Early Hints") + b"ok",
    "large trailers": CHUNKS + b"2\r\nok\r\n0\r\nX: " + b"y" * 1000,
    "a large extension": CHUNKS + b"2;" + b"y" * 1000,
    "another protocol": head("Upgrade: x", "Connection: upgrade", start="HTTP/1.1 101 Switching"),
    "a status of the future": head("Content-Length: 0", start="HTTP/1.1 600 OK"),
    "a folded header": head("X: a", " b", "Content-Length: 0"),
    "a bare line feed": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
}


@pytest.mark.parametrize("size", [7, 5000])
@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_answer_or_half_of_one_is_broken(sent: bytes, size: int) -> None:
    answer = answer_to()
    for start in range(0, len(sent), size):
        answer.feed(sent[start : start + size])
    answer.ended()
    with pytest.raises(Broken):
        await taken(answer)
    assert not answer.keeps


async def test_who_waits_is_told_of_the_end() -> None:
    answer = answer_to()
    waits = asyncio.create_task(answer.ready())
    await asyncio.sleep(0)
    answer.fail("lost")
    with pytest.raises(Broken, match="lost"):
        await waits


async def test_a_short_answer_is_ready_when_it_is_whole_and_a_long_one_with_its_head() -> None:
    for length, ready in ((SHORT, False), (LONG, True)):
        answer = answer_to()
        waits = asyncio.create_task(answer.ready())
        await asyncio.sleep(0)
        answer.feed(head(f"Content-Length: {length}"))
        await asyncio.sleep(0)
        assert waits.done() is ready
        waits.cancel()


async def test_what_is_not_taken_of_a_long_answer_holds_its_server_up() -> None:
    flow = Mock(spec=Flow)
    answer = Answer("GET", 1000, flow, Mock())
    answer.feed(head(f"Content-Length: {2 * LONG}") + b"x" * SHORT)
    flow.pause_reading.assert_not_called()
    answer.feed(b"x")
    flow.pause_reading.assert_called_once()
    assert len(await answer.piece()) == LONG
    flow.resume_reading.assert_called_once()
