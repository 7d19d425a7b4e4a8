"""The application that the live tests run on every node: small routes, one for each way to change.

Beside the sessions it tells what its node holds and has done, which only tests want to know.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from sessionha import SessionMiddleware, current_session, session_from
from sessionha.admin.administration import Administration
from sessionha.engine import Engine, engine_for
from sessionha.settings import Settings
from sessionha.state.records import get_group, rows

SECRET_KEY = "a7c1-9f0e-53bd-4e21-8c60-d2f8-b94a-716e"  # of the tests' application only
SLOW = 60.0
"""Seconds after which a slow request ends even if nobody opens its gate."""


class Application:
    """The routes, and the engine behind them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._gates: dict[str, asyncio.Event] = {}

    def _answer(self, request: Request, **said: Any) -> JSONResponse:
        served = {"node": self.engine.settings.node, "engine": self.engine.slot}
        return JSONResponse({**served, "pid": os.getpid(), **said})

    async def who(self, request: Request) -> Response:
        """Nothing of a session."""
        return self._answer(request)

    async def read(self, request: Request) -> Response:
        return self._answer(request, session=dict(request.session))

    async def increment(self, request: Request) -> Response:
        request.session["n"] = request.session.get("n", 0) + 1
        return self._answer(request, n=request.session["n"])

    async def put(self, request: Request) -> Response:
        """One element of its own for each token: `?token=`."""
        request.session[request.query_params["token"]] = True
        return self._answer(request)

    async def append(self, request: Request) -> Response:
        """A token at the end of one list: `?token=`."""
        request.session.setdefault("tokens", []).append(request.query_params["token"])
        return self._answer(request, tokens=request.session["tokens"])

    async def several(self, request: Request) -> Response:
        """Count in the main session and two secondary ones, one of them from a thread."""

        def count(name: str) -> int:
            session = current_session().secondary(name) if name else current_session()
            session["n"] = session.get("n", 0) + 1
            n: int = session["n"]
            return n

        counts = [count(""), count("cart"), await asyncio.to_thread(count, "wizard")]
        return self._answer(request, counts=counts)

    async def log_in(self, request: Request) -> Response:
        request.session["user"] = request.query_params["user"]
        session = session_from(request.scope)
        session.subject = request.query_params["user"]
        session.renew_id()
        return self._answer(request)

    async def log_out(self, request: Request) -> Response:
        session_from(request.scope).destroy()
        return self._answer(request)

    async def devices(self, request: Request) -> Response:
        """Where the user of this session is logged in."""
        found = await session_from(request.scope).siblings()
        sessions = [each._asdict() for each in found.sessions]
        return self._answer(request, sessions=sessions, unreachable=found.unreachable)

    async def log_out_everywhere(self, request: Request) -> Response:
        """Of the user of this session."""
        done = await session_from(request.scope).revoke_all()
        return self._answer(request, ended=done.ended, unreachable=done.unreachable)

    async def slow(self, request: Request) -> Response:
        """As `put`, but with the change made when `?gate=` is opened on this node."""
        session = request.session
        gate = self._gates.setdefault(request.query_params["gate"], asyncio.Event())
        async with asyncio.timeout(SLOW):
            await gate.wait()
        session[request.query_params["token"]] = True
        return self._answer(request)

    async def waiting(self, request: Request) -> Response:
        """Whether a request stands before the gate."""
        return self._answer(request, waiting=request.query_params["gate"] in self._gates)

    async def open(self, request: Request) -> Response:
        """Let the requests before the gate go on."""
        self._gates[request.query_params["gate"]].set()
        return self._answer(request)

    async def impatient(self, request: Request) -> Response:
        """Commits wait for `?seconds=` from now on: less than the settings allow, so that the
        deadline ends before a silent backup has left the view."""
        node = self.engine.state.node
        seconds = float(request.query_params["seconds"])
        node.options = replace(node.options, commit_timeout=seconds)
        return self._answer(request)

    async def stream(self, request: Request) -> Response:
        """A change between two pieces of the body."""
        session = session_from(request.scope)
        session["before"] = True

        async def body() -> AsyncIterator[bytes]:
            yield b"one "
            session["within"] = True
            await session.commit()
            yield b"two"

        return StreamingResponse(body(), media_type="text/plain")

    async def background(self, request: Request) -> Response:
        """A change after the response."""
        session = session_from(request.scope)
        session["before"] = True

        async def later() -> None:
            session["after"] = True

        answer = self._answer(request)
        answer.background = BackgroundTask(later)
        return answer

    async def talk(self, websocket: WebSocket) -> None:
        """Each message is a token; it is answered when it is committed."""
        session = session_from(websocket.scope)
        session["talks"] = session.get("talks", 0) + 1
        await websocket.accept()
        async for token in websocket.iter_text():
            session[token] = True
            receipt = await session.commit()
            copies = None if receipt is None else receipt.copies
            await websocket.send_json({"token": token, "copies": copies})

    async def node(self, request: Request) -> Response:
        """What this node knows of its cluster, has done, and holds of the group `?group=` (hex)."""
        engine = self.engine
        state, membership = engine.state, engine.membership
        view = membership.view()
        told = {
            "incarnation": state.node.store.incarnation,
            "member": membership.is_member(),
            "view": list(view.id),
            "members": {member.node: member.incarnation for member in view.members},
            "counters": asdict(state.node.counters),
            "events": dict(engine.events),
            "affinity": dict(engine.affinity),
            "membership": dict(membership.counts),
            "unproven": list(membership.unproven()),
            "engines": sorted(state.node.store.living_slots()),
            "copy": self._copy(bytes.fromhex(request.query_params.get("group", ""))),
        }
        return self._answer(request, **told)

    def _copy(self, group: bytes) -> dict[str, Any] | None:
        node = self.engine.state.node
        with node.store.read() as reader:
            record = get_group(reader, group) if group else None
            if record is None or not record.held:
                return None
            view = node.view_in(reader)
            return {
                "epoch": list(record.epoch),
                "version": record.version,
                "acked": record.acked,
                "promise": list(record.promise),
                "holders": list(record.holders),
                "in_sync": record.synced == node.joined(view),
                "rows": [[r.session.hex(), r.element, r.value.hex()] for r in rows(reader, group)],
            }


def create_app(**arguments: Any) -> Starlette:
    """The application of one process; its settings come from the environment. `arguments`: more of
    the middleware's."""
    engine = engine_for(Settings.load(), (SECRET_KEY.encode(),), (Administration,))
    own = Application(engine)
    routes = [
        Route("/who", own.who),
        Route("/read", own.read),
        Route("/increment", own.increment, methods=["POST"]),
        Route("/put", own.put, methods=["POST"]),
        Route("/append", own.append, methods=["POST"]),
        Route("/several", own.several, methods=["POST"]),
        Route("/log-in", own.log_in, methods=["POST"]),
        Route("/log-out", own.log_out, methods=["POST"]),
        Route("/devices", own.devices),
        Route("/log-out-everywhere", own.log_out_everywhere, methods=["POST"]),
        Route("/slow", own.slow, methods=["POST"]),
        Route("/waiting", own.waiting),
        Route("/open", own.open, methods=["POST"]),
        Route("/impatient", own.impatient, methods=["POST"]),
        Route("/stream", own.stream, methods=["POST"]),
        Route("/background", own.background, methods=["POST"]),
        Route("/node", own.node),
        WebSocketRoute("/talk", own.talk),
    ]
    sessions = Middleware(SessionMiddleware, secret_key=SECRET_KEY, engine=engine, **arguments)
    return Starlette(routes=routes, middleware=[sessions])
