"""What the shop tells about its own sessions: who served, who holds copies, how new they are.

The only place of the demo that uses what the session middleware leaves in the request's scope.
Where it left nothing (a request without session) the answer is shorter, never an error.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sessionha import Session

HEADER = "x-demo-served"


@dataclass(frozen=True)
class Served:
    """Who answered, and from what. Empty fields: the request had no session."""

    node: str = ""
    engine: str = ""
    holders: tuple[str, ...] = ()
    """The primary, then its backups."""
    epoch: str = ""
    """`view.attempt.node`: the term of the primary."""
    version: int = 0
    copies: int | None = None
    """How many other nodes have it."""

    @property
    def backups(self) -> tuple[str, ...]:
        return self.holders[1:]

    def text(self) -> str:
        """As the header carries it."""
        return json.dumps(asdict(self), separators=(",", ":"))


def session_of(scope: Scope) -> Session:
    """The request's session as more than a dict: it can be renewed and destroyed."""
    session: Session = scope["sessionha"]
    return session


def served(scope: Scope) -> Served:
    """What is known now: before the answer starts what was loaded, then what was committed."""
    session: Session | None = scope.get("sessionha")
    node = os.environ.get("SESSIONHA_NODE", "")
    engine = session.served.engine if session is not None and session.served else ""
    state = (session.receipt or session.served) if session is not None else None
    if state is None:
        return Served(node, engine)
    epoch, version = state.position
    dotted = f"{epoch.view}.{epoch.attempt}.{epoch.node}"
    return Served(node, engine, state.holders, dotted, version, len(state.holders) - 1)


class Witness:
    """ASGI middleware around the session middleware: tells what was committed, in a header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = served(scope).text()
            await send(message)

        await self._app(scope, receive, tell if scope["type"] == "http" else send)
