"""A client of an application whose handlers do what a test tells them, and what is stored of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from sessionha.admin.app import build
from sessionha.admin.snapshot import store_of
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import tokens
from sessionha.engine import Engine
from sessionha.identity import group_of, session_key
from sessionha.session.session import Session
from sessionha.state.base import Loaded
from sessionha.values.address import DataAddress
from sessionha.web.asgi import Receive, Scope, Send, SessionMiddleware
from tests.web.browser import KEY, Browser, reply

Handler = Callable[[Session], Any]


class Visitor:
    """Somebody with one session, who sends requests to an engine's application."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self._engine = engine
        self._handler: Handler = dict
        self._done: Any = None
        self.browser = Browser(SessionMiddleware(self._application, KEY, engine=engine, **options))
        self.session_id = ""
        self.address = DataAddress(b"", b"")

    async def does(self, handler: Handler) -> Any:
        """One request, whose handler this is; gives what it returns."""
        self._handler = handler
        await self.browser.get()
        return self._done

    async def begins(self, **values: Any) -> DataAddress:
        """The session's first request; gives the session's address."""
        await self.does(lambda session: session.update(values))
        self.session_id = await self.does(lambda session: session.id)
        return self.at(self._engine.settings.virtual_server.default)

    def at(self, virtual_server: str) -> DataAddress:
        """The session's address where that is its virtual server."""
        key = session_key(self.session_id, virtual_server)
        self.address = DataAddress(group_of(self.session_id), key)
        return self.address

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._done = self._handler(scope["sessionha"])
        await reply(send)

    def headers(self, **more: str) -> dict[str, str]:
        """What proves that a client of the data API may use the session."""
        token = tokens(self._engine.settings, "data")[0]
        mine = {"authorization": f"Bearer {token}", "sessionha-session": self.session_id}
        return mine | {name.replace("_", "-"): value for name, value in more.items()}

    async def asks(
        self,
        method: str,
        address: object,
        *,
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """One request to the data API of the engine's node; with `json`, or other `content`."""
        content = json.dumps(body["json"]).encode() if "json" in body else body.get("content")
        headers = headers or self.headers()
        return await ask(self._engine, method, str(address), headers, content=content)

    def stored(self) -> dict[str, tuple[str, bytes]]:
        """Manager and encoded value of each element, as the engine holds them."""
        return dict(self.loaded().elements)

    def loaded(self) -> Loaded:
        """The session as the engine holds it."""
        found = self._engine.state.load(self.address.group, self.address.key)
        assert found is not None
        return found


async def ask(
    engine: Engine, method: str, address: str, headers: dict[str, str], **content: Any
) -> httpx.Response:
    """One request to the data API of a node."""
    transport = httpx.ASGITransport(build(engine, Tally(store_of(engine))))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7947") as client:
        return await client.request(method, f"/v1/data{address}", headers=headers, **content)
