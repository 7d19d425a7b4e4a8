"""The front router: an ASGI application that passes each request to the node its cookie names."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol

from sessionha.errors import SessionHAError
from sessionha.exposition import CONTENT_TYPE
from sessionha.identity import is_below
from sessionha.rarely import Rarely
from sessionha.router import metrics
from sessionha.router.access import AccessLog
from sessionha.router.affinity import IDEMPOTENT
from sessionha.router.balance import Preference
from sessionha.router.body import Body, Receive
from sessionha.router.budget import Budget
from sessionha.router.checks import Checks
from sessionha.router.connections import Connections
from sessionha.router.counts import BOUNDS, Counts
from sessionha.router.exchange import HttpExchange, answer, unavailable
from sessionha.router.headers import Endless, Malformed, Request
from sessionha.router.options import Options
from sessionha.router.sockets import SocketExchange
from sessionha.router.upgrades import Upgrades
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
        counts: Where what happens is counted.
        access: Writes a line for each request; None: nothing does.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        cookies: RouteCookies | None,
        options: Options | None = None,
        observer: Observer | None = None,
        beside: Beside | None = None,
        counts: Counts | None = None,
        access: AccessLog | None = None,
    ) -> None:
        self.upstreams = upstreams
        self.options = options or Options()
        self.counts = counts or Counts()
        self.access = access
        self.draining = False
        """Told to stop: the health page says so."""
        self.use(cookies)
        self._budget = Budget(time.monotonic())
        self.observer = observer
        self._rarely = Rarely[str](SAY_EVERY)
        self._beside = beside
        self._connections: Connections | None = None
        self._upgrades: Upgrades | None = None
        self._checks: Checks | None = None
        self.prefer(self.options)

    def prefer(self, options: Options) -> None:
        """Choose servers for requests that come from now on by what these say of it."""
        self._by_client = "hash" in options.policy
        self._anywhere = Preference("", options.policy, options.zone)
        self._typed = [
            (prefix, self._anywhere._replace(engine_type=engine_type))
            for prefix, engine_type in options.engine_types
        ]

    def use(self, cookies: RouteCookies | None) -> None:
        """Verify the cookies of requests that come from now on with these."""
        self._cookies = cookies
        self._cookie_name = cookies.name.encode() if cookies is not None else b""

    async def start(self) -> None:
        """Open the connection pools and begin to follow the view (ASGI lifespan does it)."""
        self._connections = Connections(self.options)
        self._upgrades = Upgrades(self.options)
        if self.options.check_path:
            self._checks = Checks(self.upstreams, self._connections, self.options.check_path)
            self._checks.start()
        if self.observer is not None:
            self.observer.start()
        if self._beside is not None:
            await self._beside.start()

    async def stop(self) -> None:
        """Stop following and close all connections."""
        if self._beside is not None:
            await self._beside.stop()
        if self.observer is not None:
            await self.observer.stop()
        if self._checks is not None:
            await self._checks.stop()
            self._checks = None
        if self._connections is not None:
            await self._connections.close()
            self._connections = None
        if self._upgrades is not None:
            await self._upgrades.close()
            self._upgrades = None
        if self.access is not None:
            self.access.close()

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
        if self.options.metrics_port and scope["server"][1] == self.options.metrics_port:
            await self._metrics(scope["path"], send)
            return
        if self.options.health_path and scope["path"] == self.options.health_path:
            await self._health(send)
            return
        began = time.monotonic()
        try:
            request = Request(scope, self._cookie_name)
        except Malformed as error:
            await self._refuse(error, send)
            return
        prefer = self._preference(request.target, scope)
        assert self._connections is not None, "the router was not started"
        exchange = HttpExchange(
            scope["method"],
            request,
            Body(receive, request.body_length, self.options.replay_bytes),
            send,
            idempotent=scope["method"] in IDEMPOTENT or request.idempotency_key,
            upstreams=self.upstreams,
            connections=self._connections,
            options=self.options,
            budget=self._budget,
            counts=self.counts,
            wanted=prefer.wanted,
        )
        try:
            await exchange.run(partial(self._candidates, request, prefer))
        finally:
            self._note(scope, exchange, time.monotonic() - began)

    def _note(self, scope: Scope, exchange: HttpExchange, took: float) -> None:
        """Count what became of a request, and write its line."""
        status, server = exchange.status, exchange.server
        counts = self.counts
        if status:
            counts.answers[server, status // 100] += 1
            counts.seconds += took
            counts.took[bisect_left(BOUNDS, took)] += 1
        else:
            counts.gone += 1
        if self.access is not None:
            self.access.write(scope, status, exchange.sent_bytes, took, server, exchange.attempts)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            request = Request(scope, self._cookie_name)
        except Malformed as error:
            self._warn(error)
            await send({"type": "websocket.close", "code": 1002})
            return
        self.counts.sockets += 1
        prefer = self._preference(request.target, scope)
        assert self._upgrades is not None, "the router was not started"
        exchange = SocketExchange(
            scope,
            request,
            receive,
            send,
            upstreams=self.upstreams,
            upgrades=self._upgrades,
            options=self.options,
            budget=self._budget,
            counts=self.counts,
            wanted=prefer.wanted,
        )
        await exchange.run(partial(self._candidates, request, prefer))

    async def _refuse(self, error: Malformed, send: Send) -> None:
        self._warn(error)
        self.counts.refused["loop" if isinstance(error, Endless) else "head"] += 1
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
        if self.draining:
            await answer(send, 404, "draining")
        elif self.upstreams.routable():
            await answer(send, 200, "ready")
        else:
            await unavailable(send, "no server is known yet")

    async def _metrics(self, path: str, send: Send) -> None:
        if path != "/metrics":
            await answer(send, 404, "Not found.")
            return
        body = metrics.text(self.counts, self.upstreams)
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

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

    def _preference(self, target: str, scope: Scope) -> Preference:
        found = self._anywhere
        for prefix, prefer in self._typed:
            if is_below(target.partition("?")[0], prefix):
                found = prefer
                break
        if self._by_client and scope.get("client"):
            return found._replace(client=scope["client"][0])
        return found
