"""The contract's application in Litestar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, Response, get
from litestar.background_tasks import BackgroundTask
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from litestar_sessionha import CurrentSession, SessionPlugin
from tests.contract.acts import SECRET_KEY, act, gate


@get("/static")
async def static() -> str:
    return "static"


@get("/slow")
async def slow(request: Request[Any, Any, Any]) -> Any:
    """The dict of Litestar."""
    parameters = dict(request.query_params)
    act("slow", parameters, request.session)
    await asyncio.to_thread(gate(parameters).wait)
    return act(parameters["then"], parameters, request.session).said


@get("/stream")
async def stream(token: FromQuery[str], session: CurrentSession) -> Stream:
    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        session[token] = True
        await session.commit()
        yield b"two"

    return Stream(body())


@get("/background")
async def background(token: FromQuery[str], session: CurrentSession) -> Response[None]:
    async def later() -> None:
        session[token] = True

    return Response(None, background=BackgroundTask(later))


@get("/log-out")
async def log_out(request: Request[Any, Any, Any]) -> None:
    """By Litestar's own words."""
    request.clear_session()


@get("/{name:str}", sync_to_thread=True)
def any_other(name: FromPath[str], request: Request[Any, Any, Any], session: CurrentSession) -> Any:
    done = act(name, dict(request.query_params), session)
    if done.then == "renew":
        session.renew_id()
    return done.said


app = Litestar(
    [static, slow, stream, background, log_out, any_other],
    plugins=[SessionPlugin(SECRET_KEY)],
    openapi_config=None,
)
