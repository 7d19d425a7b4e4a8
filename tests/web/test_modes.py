"""The ways in which requests of one session meet, through the middleware and a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sessionha import SessionMiddleware
from sessionha.web.asgi import Receive, Scope, Send
from tests.web.browser import KEY, Browser, reply


class Shop:
    """Counts, and waits where it is told to; behind a middleware with these settings."""

    def __init__(self, **settings: Any) -> None:
        self.gate = asyncio.Event()
        self.before_gate = asyncio.Event()
        self.app = SessionMiddleware(self.answer, secret_key=KEY, store="memory", **settings)
        self.browser = Browser(self.app)

    async def answer(self, scope: Scope, _receive: Receive, send: Send) -> None:
        session = scope["session"]
        match scope["path"]:
            case "/count":
                count = session.get("n", 0)
                await asyncio.sleep(0)
                session["n"] = count + 1
            case "/wait":
                await self.wait()
            case "/fail":
                session["n"] = -1
                raise RuntimeError("as applications do")
            case "/stream":
                session["n"] = session["n"] + 1
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await self.wait()
                await send({"type": "http.response.body", "body": b"{}"})
                return
        await reply(send, dict(session))

    async def wait(self) -> None:
        self.before_gate.set()
        await self.gate.wait()

    @asynccontextmanager
    async def under_way(self, path: str) -> AsyncIterator[asyncio.Task[Any]]:
        """A request of the same client stands before the gate; it goes on afterwards."""
        task = asyncio.create_task(Browser(self.app, dict(self.browser.jar)).get(path))
        await self.before_gate.wait()
        yield task
        self.gate.set()
        await asyncio.wait({task})

    async def count(self) -> int:
        answer = await Browser(self.app, dict(self.browser.jar)).get("/count")
        return int(answer.json["n"])


async def begun(**settings: Any) -> Shop:
    shop = Shop(**settings)
    await shop.browser.get("/count")
    return shop


async def test_requests_that_take_turns_are_all_counted() -> None:
    shop = await begun(concurrency="serialize")
    counts = await asyncio.gather(*(shop.count() for _ in range(50)))
    assert counts == [*range(2, 52)], "in the order in which they came"


async def test_requests_that_do_not_are_not() -> None:
    shop = await begun()
    counts = await asyncio.gather(*(shop.count() for _ in range(50)))
    assert len({*counts}) < 50


async def test_a_body_that_streams_holds_nobody_up() -> None:
    shop = await begun(concurrency="serialize")
    async with shop.under_way("/stream"):
        assert await shop.count() == 3


@pytest.mark.parametrize("on_error", ["discard", "commit"])
async def test_an_application_that_fails_holds_nobody_up(on_error: str) -> None:
    shop = await begun(concurrency="serialize", on_error=on_error)
    with pytest.raises(RuntimeError):
        await shop.browser.get("/fail")
    assert await shop.count() == {"discard": 2, "commit": 0}[on_error]


async def test_a_client_that_hangs_up_holds_nobody_up() -> None:
    """R17: wherever its request is cancelled, in its turn or while it waits for it."""
    shop = await begun(concurrency="serialize")
    async with shop.under_way("/wait") as first:
        waiting = asyncio.create_task(shop.count())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        first.cancel()
        await asyncio.wait({first})
        assert await shop.count() == 2


async def test_a_request_whose_turn_does_not_come_gets_503() -> None:
    shop = await begun(
        concurrency="serialize", acquire_timeout=0.05, suspect_after=0.03, confirm_after=0.01,
        heartbeat=0.01,
    )  # fmt: skip
    async with shop.under_way("/wait"):
        answer = await Browser(shop.app, dict(shop.browser.jar)).get("/count")
        assert (answer.status, answer.get("retry-after")) == (503, "1")
    assert await shop.count() == 2


async def test_a_request_that_outlives_the_engine_ends_as_it_would() -> None:
    shop = await begun(concurrency="serialize")
    async with shop.under_way("/wait") as task:
        engine = shop.app._engine
        assert engine is not None
        await engine.stop()
    assert (await task).json == {"n": 1}


async def test_a_websocket_holds_nobody_up_once_it_is_accepted() -> None:
    accepted, ended = asyncio.Event(), asyncio.Event()

    async def talk(scope: Scope, _receive: Receive, send: Send) -> None:
        session = scope["session"]
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            accepted.set()
            await ended.wait()
            session["said"] = True
            await send({"type": "websocket.close", "code": 1000})
            return
        session["n"] = session.get("n", 0) + 1
        await reply(send, dict(session))

    app = SessionMiddleware(talk, secret_key=KEY, store="memory", concurrency="serialize")
    browser = Browser(app)
    await browser.get()

    async def nothing(*_: Any) -> Any:
        return {"type": "websocket.connect"}

    scope = browser.scope("websocket", "/")
    talking = asyncio.create_task(app(scope, nothing, nothing))
    await accepted.wait()
    assert (await browser.get()).json == {"n": 2}
    ended.set()
    await talking
    assert (await browser.get()).json == {"n": 3, "said": True}


async def test_more_requests_of_a_session_than_the_limit_get_503() -> None:
    """Who needs no session is answered; when one has ended there is room again."""
    shop = await begun(session_requests=1)
    async with shop.under_way("/wait"):
        answer = await Browser(shop.app, dict(shop.browser.jar)).get("/count")
        assert (answer.status, answer.get("retry-after")) == (503, "1")
        assert answer.get("sessionha-retry") is None, "no router shall try it everywhere"
        assert (await Browser(shop.app).get("/count")).json == {"n": 1}
    assert await shop.count() == 2


def test_alone_a_confirmed_read_needs_no_event_loop() -> None:
    """Nobody else has a copy, so nobody is asked: the coroutine ends when it is driven once."""

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["session"]["n"] = scope["session"].get("n", 0) + 1
        await reply(send, dict(scope["session"]))

    browser = Browser(SessionMiddleware(answer, secret_key=KEY, store="memory", reads="confirmed"))
    for count in (1, 2):
        with pytest.raises(StopIteration) as ended:
            browser.get().send(None)
        assert ended.value.value.json == {"n": count}
