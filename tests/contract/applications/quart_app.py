"""The contract's application in Quart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, Response, jsonify, request, session, stream_with_context

from flask_sessionha.quart import Session
from tests.contract.acts import SECRET_KEY, act, gate

app = Quart(__name__, static_folder=None)
app.config.update(SECRET_KEY=SECRET_KEY, SESSION_COOKIE_SAMESITE="Lax")
Session(app)


@app.get("/static")
async def static() -> Response:
    return jsonify("static")


@app.get("/slow")
async def slow() -> Response:
    act("slow", request.args, session)
    await asyncio.to_thread(gate(request.args).wait)
    return jsonify(act(request.args["then"], request.args, session).said)


@app.get("/stream")
async def stream() -> Response:
    @stream_with_context
    async def body() -> AsyncIterator[str]:
        yield "one "
        session[request.args["token"]] = True
        yield "two"

    return Response(body(), mimetype="text/plain")


@app.get("/background")
async def background() -> Response:
    """What outlives its request keeps the session itself, and commits."""
    mine: Any = session
    kept, token = mine.sessionha, request.args["token"]

    async def later() -> None:
        kept[token] = True
        await kept.commit()

    app.add_background_task(later)
    return jsonify(None)


@app.get("/<name>")
async def any_other(name: str) -> Response:
    done = act(name, request.args, session)
    mine: Any = session
    if done.then == "renew":
        mine.regenerate()
    elif done.then == "destroy":
        session.clear()
    return jsonify(done.said)
