"""A body is read once, given out again up to a limit, and its client's leaving is noticed."""

from __future__ import annotations

from typing import Any

import pytest

from sessionha.router.body import Body, ClientGone, Receive


def channel(*messages: dict[str, Any]) -> Receive:
    """An ASGI channel that gives these messages; asking for more is a mistake."""
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    return receive


def piece(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


async def given(body: Body) -> bytes | None:
    data = await body.open()
    if data is None or isinstance(data, bytes):
        return data
    return b"".join([each async for each in data])


async def test_a_small_body_is_read_whole_and_given_again() -> None:
    body = Body(channel(piece(b"ab", more=True), piece(b"c")), 3, 100)
    assert [await given(body), await given(body)] == [b"abc", b"abc"]
    assert body.replayable


async def test_a_chunked_body_is_given_again_from_its_beginning() -> None:
    body = Body(channel(piece(b"ab", more=True), piece(b"c")), None, 100)
    first = await body.open()
    assert first is not None
    assert not isinstance(first, bytes)
    assert await anext(first) == b"ab"
    await first.aclose()
    assert await given(body) == b"abc"


async def test_above_the_limit_nothing_is_kept() -> None:
    body = Body(channel(piece(b"abc", more=True), piece(b"def")), None, 5)
    assert await given(body) == b"abcdef"
    assert not body.replayable


async def test_no_body_asks_the_server_for_nothing() -> None:
    assert await given(Body(channel(), 0, 100)) is None


async def test_a_client_that_leaves_in_the_middle_is_an_error_of_its_own() -> None:
    body = Body(channel(piece(b"ab", more=True), GONE), 3, 100)
    with pytest.raises(ClientGone):
        await given(body)
    assert body.gone


@pytest.mark.parametrize("messages", [(GONE,), (piece(b""), GONE)])
async def test_leaving_is_noticed(messages: tuple[dict[str, Any], ...]) -> None:
    body = Body(channel(*messages), 0, 100)
    assert await body.disconnected()
    assert body.gone


async def test_a_server_that_never_tells_is_not_asked_for_ever() -> None:
    body = Body(channel(piece(b""), piece(b"")), 0, 100)
    assert not await body.disconnected()
    assert not body.gone
