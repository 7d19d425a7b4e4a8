"""Code anywhere in a request finds the request's session, and after it nobody's."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sessionha import current_session
from sessionha.session.session import Session
from sessionha.web.asgi import Message, Receive, Scope, Send
from tests.session.fakes import FakeEngine
from tests.web.browser import Browser, middleware, receive, reply

INTERLEAVINGS = 1_000


def nobody() -> bool:
    """Whether the code that asks has no session."""
    try:
        current_session()
    except LookupError:
        return True
    return False


async def test_it_is_the_session_of_the_scope() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert current_session() is scope["sessionha"]
        current_session()["a"] = 1
        await reply(send, scope["session"])

    assert nobody()
    assert (await Browser(middleware(app)).get()).json == {"a": 1}
    assert nobody()


def test_where_there_is_no_request_the_error_says_what_is_needed() -> None:
    with pytest.raises(LookupError, match=r"SessionMiddleware.*asyncio\.to_thread"):
        current_session()


# --- no leak between clients ---


async def test_interleaved_requests_never_see_the_session_of_another() -> None:
    """System 4 (b): 1,000 requests at once on one loop and one thread pool; each looks, before and
    after every step, at what its own client put in, and leaves a mark in a session of its own."""
    chance = random.Random(4)

    def look() -> str:
        session = current_session()
        client: str = session["client"]
        assert session.secondary("cart")["client"] == client
        return client

    async def look_later(turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return look()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client = scope["path"].strip("/")
        session = current_session()
        session["client"] = session.secondary("cart")["client"] = client
        steps: list[Callable[[], Awaitable[str]]] = [
            lambda: look_later(chance.randrange(4)),
            lambda: asyncio.create_task(look_later(chance.randrange(4))),
            lambda: asyncio.to_thread(look),
            lambda: run_in_threadpool(look),
        ]
        for step in chance.sample(steps, len(steps)):
            assert look() == client
            assert await step() == client
        await reply(send, look())

    engine = FakeEngine()
    browsers = [Browser(middleware(app, engine)) for _ in range(INTERLEAVINGS)]
    answers = await asyncio.gather(*(b.get(f"/c{i}") for i, b in enumerate(browsers)))
    assert [answer.json for answer in answers] == [f"c{i}" for i in range(INTERLEAVINGS)]
    assert len(engine.state.groups) == len(engine.state.batches) == INTERLEAVINGS
    assert nobody()


# --- empty afterwards ---


async def ask(app: Any, kind: str = "http", receive: Receive = receive) -> None:
    """A request in the very context of the test."""

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            raise OSError("disconnected")

    await app(Browser(app).scope(kind), receive, send)


async def test_after_an_exception_it_is_empty() -> None:
    """System 4 (c)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_session()["a"] = 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await ask(middleware(app))
    assert nobody()


async def test_after_a_cancellation_it_is_empty() -> None:
    """System 4 (c)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_session()["a"] = 1
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await ask(middleware(app))
    assert nobody()


@pytest.mark.parametrize("message", ["websocket.disconnect", "websocket.send"])
async def test_after_a_disconnect_it_is_empty(message: str) -> None:
    """System 4 (c): one that the application is told, and one that breaks its sending."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        current_session()["a"] = 1
        if (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "lost"})

    async def told() -> Message:
        return {"type": message}

    try:
        await ask(middleware(app), "websocket", told)
    except OSError:
        assert message == "websocket.send"
    assert nobody()


async def test_after_an_early_close_by_the_server_it_is_empty() -> None:
    """System 4 (c): a request that is abandoned is closed in whatever context comes by."""

    class Never:
        def __await__(self) -> Any:
            yield

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_session()["a"] = 1
        await Never()

    engine = FakeEngine()
    await engine.start()
    request = ask(middleware(app, engine))
    context = contextvars.copy_context()
    context.run(request.send, None)
    assert not context.run(nobody)
    request.close()
    assert context.run(nobody)
    assert nobody()


async def test_a_task_that_outlives_its_request_has_none() -> None:
    """Neither the one it was started with, nor that of the request that runs by now."""
    leaked: list[asyncio.Task[None]] = []
    over = asyncio.Event()

    async def work() -> None:
        current_session()["a"] = 1
        await over.wait()
        with pytest.raises(LookupError, match="the request that started this task is over"):
            current_session()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not leaked:
            leaked.append(asyncio.create_task(work()))
            await asyncio.sleep(0)
        else:
            over.set()
            await leaked[0]
            assert "a" in current_session()
        await reply(send)

    browser = Browser(middleware(app))
    await browser.get()
    await browser.get()


# --- colocated ---


async def test_what_threads_and_child_tasks_begin_is_colocated() -> None:
    """System 4 (d): sessions that begin in thread pools and in tasks of a request are in its group
    and in its batch."""
    engine = FakeEngine(("n1", "n2", "n3"))

    def put(name: str) -> Session:
        session = current_session().secondary(name)
        session["by"] = name
        return session

    async def child(name: str) -> Session:
        return put(name)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_session()["by"] = "main"
        async with asyncio.TaskGroup() as group:
            group.create_task(child("task"))
            group.create_task(asyncio.to_thread(put, "thread"))
            group.create_task(run_in_threadpool(put, "starlette"))
            group.create_task(anyio.to_thread.run_sync(put, "anyio"))
        await reply(send)

    browser = Browser(middleware(app, engine))
    names = {"task", "thread", "starlette", "anyio"}
    answer = await browser.get()
    assert set(answer.cookies) == {"session", "hsr", *(f"session-{name}" for name in names)}
    (batch,) = engine.state.batches
    assert len(batch.changes) == 5
    (group,) = engine.state.groups.values()
    assert len(group.sessions) == 5


async def test_threads_that_ask_for_one_name_get_one_session() -> None:
    engine = FakeEngine()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        def ask() -> Session:
            return current_session().secondary("cart")

        found = await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(50)))
        assert len({id(session) for session in found}) == 1
        found[0]["n"] = 1
        await reply(send)

    answer = await Browser(middleware(app, engine)).get()
    assert answer.cookies == ["session-cart"]


async def test_frameworks_keep_it_through_their_own_middleware_threads_and_streams() -> None:
    class Around(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, follow: RequestResponseEndpoint) -> Response:
            current_session()["around"] = 1
            return await follow(request)

    def in_a_thread(request: Request) -> Response:
        assert current_session()["around"] == 1
        current_session()["thread"] = 1
        return JSONResponse(request.session)

    async def stream(request: Request) -> Response:
        async def body() -> Any:
            current_session()["stream"] = 1
            yield b"."

        return StreamingResponse(body())

    engine = FakeEngine()
    app = Starlette(
        routes=[Route("/", in_a_thread), Route("/stream", stream)], middleware=[Middleware(Around)]
    )
    browser = Browser(middleware(app, engine))
    asked = {"method": "GET", "root_path": "", "query_string": b"", "asgi": {"spec_version": "2.4"}}
    assert (await browser.get("/", **asked)).json == {"around": 1, "thread": 1}
    await browser.get("/stream", **asked)
    assert (await browser.get("/", **asked)).json == {"around": 1, "thread": 1, "stream": 1}
