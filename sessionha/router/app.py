"""The front router: an ASGI application that passes each request to the node its cookie names."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol

from sessionha.errors import SessionHAError
from sessionha.identity import is_below
from sessionha.rarely import Rarely
from sessionha.router.affinity import IDEMPOTENT
from sessionha.router.balance import Preference
from sessionha.router.body import Body, Receive
from sessionha.router.connections import Connections
from sessionha.router.exchange import HttpExchange, answer, unavailable
from sessionha.router.headers import Endless, Malformed, Request
from sessionha.router.options import Options
from sessionha.router.sockets import SocketExchange
from sessionha.router.upstreams import Upstream, Upstreams
from sessionha.session.cookies import RouteCookies, cookie_values, only_valid

logger = logging.getLogger("sessionha.router")

SAY_EVERY: Final = 60.0
"""Seconds between two warnings of requests that go round."""

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Observer(Protocol):
    """What keeps the upstreams at the cluster's view while the router runs."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...


class Beside(Protocol):
    """What runs on the router's event loop for as long as the router does."""

    async def start(self) -> None:
        """Begin. Raises SessionHAError: then the router does not start either."""

    async def stop(self) -> None:
        """End."""


class Router:
    """The ASGI application.

    Args:
        upstreams: Where requests may go.
        cookies: Verifies route cookies; None treats every client as a new one.
        options: Limits and preferences.
        observer: Started and stopped with the router.
        beside: The same; a witness.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        cookies: RouteCookies | None,
        options: Options | None = None,
        observer: Observer | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.upstreams = upstreams
        self.options = options or Options()
        self._cookies = cookies
        self._cookie_name = cookies.name.encode() if cookies is not None else b""
        self._observer = observer
        self._rarely = Rarely[str](SAY_EVERY)
        self._beside = beside
        self._connections: Connections | None = None
        self._anywhere = Preference("", self.options.policy, self.options.zone)
        self._typed = [
            (prefix, self._anywhere._replace(engine_type=engine_type))
            for prefix, engine_type in self.options.engine_types
        ]

    async def start(self) -> None:
        """Open the connection pools and begin to follow the view (ASGI lifespan does it)."""
        self._connections = Connections(self.options)
        if self._observer is not None:
            self._observer.start()
        if self._beside is not None:
            await self._beside.start()

    async def stop(self) -> None:
        """Stop following and close all connections."""
        if self._beside is not None:
            await self._beside.stop()
        if self._observer is not None:
            await self._observer.stop()
        if self._connections is not None:
            await self._connections.close()
            self._connections = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope: `http`, `websocket` or `lifespan`."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except SessionHAError as error:
            await self.stop()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.options.health_path and scope["path"] == self.options.health_path:
            await self._health(send)
            return
        try:
            request = Request(scope, self._cookie_name)
        except Malformed as error:
            await self._refuse(error, send)
            return
        prefer = self._preference(request.target)
        exchange = HttpExchange(
            scope["method"],
            request,
            Body(receive, request.body_length, self.options.replay_bytes),
            send,
            idempotent=scope["method"] in IDEMPOTENT or request.idempotency_key,
            upstreams=self.upstreams,
            connections=self._open(),
            options=self.options,
            wanted=prefer.wanted,
        )
        await exchange.run(partial(self._candidates, request, prefer))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            request = Request(scope, self._cookie_name)
        except Malformed as error:
            self._warn(error)
            await send({"type": "websocket.close", "code": 1002})
            return
        prefer = self._preference(request.target)
        exchange = SocketExchange(
            scope,
            request,
            receive,
            send,
            upstreams=self.upstreams,
            connections=self._open(),
            options=self.options,
            wanted=prefer.wanted,
        )
        await exchange.run(partial(self._candidates, request, prefer))

    async def _refuse(self, error: Malformed, send: Send) -> None:
        self._warn(error)
        if isinstance(error, Endless):
            await answer(send, 508, f"Loop detected: {error}.")
        else:
            await answer(send, 400, f"Bad request: {error}.")

    def _warn(self, error: Malformed) -> None:
        """Of loops only, and rarely: a client may have written the header itself."""
        if isinstance(error, Endless) and self._rarely.due("loop", time.monotonic()) is not None:
            logger.warning(
                "a request went from router to router and came back: is the `url` of a node the"
                " address of a router?"
            )

    async def _health(self, send: Send) -> None:
        if self.upstreams.routable():
            await answer(send, 200, "ready")
        else:
            await unavailable(send, "no server is known yet")

    def _open(self) -> Connections:
        assert self._connections is not None, "the router was not started"
        return self._connections

    def _candidates(self, request: Request, prefer: Preference) -> Iterator[Upstream]:
        """The upstreams for a request by its route, what it needs, and the view."""
        route = None
        if request.route and self._cookies is not None:
            route = self._cookies.read(request.route)
        elif request.cookies and self._cookies is not None:
            values = cookie_values(request.cookies, self._cookies.name)
            route = only_valid(values, self._cookies.read)
        servers = () if route is None else route.servers
        return self.upstreams.candidates(servers, prefer)

    def _preference(self, target: str) -> Preference:
        for prefix, prefer in self._typed:
            if is_below(target.partition("?")[0], prefix):
                return prefer
        return self._anywhere
