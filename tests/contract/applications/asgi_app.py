"""The contract's application behind the ASGI middleware, with no framework."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qsl

from sessionha import SessionMiddleware, current_session
from tests.contract.acts import SECRET_KEY, Done, act, gate


async def _application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    name = scope["path"].strip("/")
    parameters = dict(parse_qsl(scope["query_string"].decode()))
    if name == "static":
        await _answer(send, Done("static"))
        return
    session = scope["session"]
    done = act(name, parameters, session)
    if name == "slow":
        await asyncio.to_thread(gate(parameters).wait)
        done = act(parameters["then"], parameters, session)
    if name == "stream":
        await _start(send)
        await send({"type": "http.response.body", "body": b"one ", "more_body": True})
        session[parameters["token"]] = True
        await send({"type": "http.response.body", "body": b"two"})
        return
    if done.then == "renew":
        current_session().renew_id()
    elif done.then == "destroy":
        current_session().destroy()
    await _answer(send, done)
    if name == "background":
        session[parameters["token"]] = True


async def _start(send: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _answer(send: Any, done: Done) -> None:
    await _start(send)
    await send({"type": "http.response.body", "body": json.dumps(done.said).encode()})


app = SessionMiddleware(_application, SECRET_KEY)
