"""An application that meets every kind of trouble while everything is logged.

Started by uvicorn as `tests.security.application:app`. What must not be seen in logs comes in
through the environment and through bodies, so that no line of source has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sessionha import SessionMiddleware, SessionTooLarge, session_from

log = logging.getLogger("application")


class Unencodable:
    """A value that no session can hold, and that tells everything."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Unencodable({self.value!r})"


async def body(request: Request) -> str:
    return (await request.body()).decode()


async def put(request: Request) -> Response:
    request.session["value"] = await body(request)
    request.session["nested"] = {"list": [request.session["value"]]}
    return PlainTextResponse(str(os.getpid()))


async def add(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse({"n": request.session["n"], "pid": os.getpid()})


async def get(request: Request) -> Response:
    return PlainTextResponse(request.session.get("value", ""))


async def crash(request: Request) -> Response:
    request.session["value"] = await body(request)
    raise RuntimeError("the application failed")


async def unencodable(request: Request) -> Response:
    request.session["object"] = {"inner": [Unencodable(await body(request))]}
    return PlainTextResponse("")


async def no_text(request: Request) -> Response:
    request.session["text"] = await body(request) + "\ud800"
    return PlainTextResponse("")


async def oversized(request: Request) -> Response:
    request.session["large"] = await body(request) * 4096
    try:
        await session_from(request).commit()
    except SessionTooLarge:
        log.exception("as the application logs it")
        raise
    return PlainTextResponse("")


async def renew(request: Request) -> Response:
    session_from(request).renew_id()
    return PlainTextResponse("")


async def log_in(request: Request) -> Response:
    session = session_from(request)
    session.subject = await body(request)
    session.renew_id()
    with contextlib.suppress(ValueError):
        session.subject = session.subject * 9
    return PlainTextResponse("")


async def devices(request: Request) -> Response:
    session = session_from(request)
    found = await session.siblings()
    log.debug("%r %r", found, await session.revoke_others())
    return PlainTextResponse("")


async def end(request: Request) -> Response:
    session_from(request).destroy()
    return PlainTextResponse("")


async def show(request: Request) -> Response:
    """Log the repr of everything that a debugger or an error reporter would show."""
    session = session_from(request)
    middleware: Any = request.app.middleware_stack
    while not isinstance(middleware, SessionMiddleware):
        middleware = middleware.app
    engine: Any = middleware._engine
    shown: list[object] = [session, session.known, middleware, middleware.settings, engine]
    shown += [vars(middleware)["settings"], middleware.terms, engine._parts, engine.streams]
    shown += [engine.state, engine.state.node, engine.route_cookies, middleware.terms.cookies]
    for each in shown:
        log.debug("%r", each)
    return PlainTextResponse("")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    if "PYTHONASYNCIODEBUG" in os.environ:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)  # whatever the server made of the variable
        loop.slow_callback_duration = 0.0  # so that every callback is logged
    yield


logging.basicConfig(level=logging.NOTSET, format="%(asctime)s %(levelname)s %(name)s %(message)s")

endpoints = (
    put, add, get, crash, unencodable, no_text, oversized, renew, log_in, devices, end, show,
)  # fmt: skip
app = Starlette(
    routes=[Route(f"/{each.__name__}", each, methods=["POST"]) for each in endpoints],
    middleware=[Middleware(SessionMiddleware, secret_key=os.environ["APPLICATION_KEY"])],
    lifespan=lifespan,
)
