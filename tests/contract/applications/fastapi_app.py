"""The contract's application in FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse

from fastapi_sessionha import CurrentSession
from sessionha import SessionMiddleware
from tests.contract.acts import SECRET_KEY, act, gate

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=SECRET_KEY)


@app.get("/static")
async def static() -> str:
    return "static"


@app.get("/slow")
async def slow(request: Request) -> Any:
    """The dict of Starlette."""
    parameters = request.query_params
    act("slow", parameters, request.session)
    await asyncio.to_thread(gate(parameters).wait)
    return act(parameters["then"], parameters, request.session).said


@app.get("/stream")
async def stream(token: str, session: CurrentSession) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"one "
        session[token] = True
        await session.commit()
        yield b"two"

    return StreamingResponse(body(), media_type="text/plain")


@app.get("/background")
async def background(token: str, session: CurrentSession, tasks: BackgroundTasks) -> None:
    def later() -> None:
        session[token] = True

    tasks.add_task(later)


@app.get("/{name}")
def any_other(name: str, request: Request, session: CurrentSession) -> Any:
    """In a thread."""
    done = act(name, request.query_params, session)
    if done.then == "renew":
        session.renew_id()
    elif done.then == "destroy":
        session.destroy()
    return done.said
