"""The ASGI middleware: sessions for Starlette, FastAPI and any other ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from copy import copy
from functools import partial
from typing import Any, Final, Literal

from sessionha.errors import InvalidSettings, SessionHAError, SessionUnavailable, StoreFull
from sessionha.session.canaries import REFUSED, Arrived, grant
from sessionha.session.carrier import carry, lay_down
from sessionha.session.cookies import SameSite
from sessionha.session.headers import HOPS, ROUTE, TOKEN
from sessionha.session.session import Session, UnavailableSession
from sessionha.session.visit import Visit, opted_out, visit_of
from sessionha.web.base import (
    ALIVE,
    HEALTHZ,
    SEVERAL_HOSTS,
    UNAVAILABLE,
    Asked,
    Engine,
    Factory,
    agree,
    default_factory,
    health_pages,
    note_late_start,
    readiness,
    refusal_headers,
    refusals,
    warn_of_weak_keys,
)
from sessionha.web.canary import JSON, MARK, answer, wish_here
from sessionha.web.optout import Exclude, OptsOut, opt_out
from sessionha.web.signals import retire_first

log = logging.getLogger("sessionha.web")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OnError = Literal["discard", "commit"]

_STARTS: Final = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)
_TOKEN: Final = TOKEN.encode()
_ROUTE: Final = ROUTE.encode()
_HOPS: Final = HOPS.encode()
_ASKED: Final = frozenset({b"host", _TOKEN, _ROUTE})
_PROTOCOL_ERROR: Final = 1002
_TRY_AGAIN_LATER: Final = 1013  # the close code of websockets that 503 would be for requests


class SessionMiddleware:
    """Gives every request and websocket `scope["session"]`, a dict, and `scope["sessionha"]`.

    Takes the arguments of Starlette's class of this name, and as further keywords the settings of
    sessionha. `exclude`: paths ("/healthz"; "/static/" and all below) and predicates of the scope
    whose requests have an empty session that is forgotten. `on_error`: what happens to changes when
    the application raises: "discard" them, as Starlette does, or "commit" those to a session that
    exists. Responses with a 5xx status commit. `engine`: an engine to use instead of the one that
    the settings describe.

    Wrong arguments and settings stop the server when it starts, with every mistake; where there
    is no lifespan, the first request raises InvalidSettings. (Frameworks construct middleware
    inside the lifespan, where servers take an exception for an application without one.)
    """

    def __init__(
        self,
        app: App,
        /,  # so that no setting can be taken for it: type checkers want to know
        secret_key: object,
        session_cookie: str = "session",
        max_age: int | None = 14 * 24 * 60 * 60,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = False,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        exclude: Exclude = (),
        on_error: OnError = "discard",
        engine: Engine | None = None,
        **settings: object,
    ) -> None:
        self.app = app
        self._on_error: OnError = on_error
        self._engine = engine
        self._factory: Factory = default_factory
        self.invalid: InvalidSettings | None = None
        """What is wrong with the arguments and settings; None: nothing."""
        self._health: Mapping[str, str] = {}
        self._opts_out: OptsOut | None = None
        cookie = {
            "session_cookie": session_cookie, "path": path, "same_site": same_site,
            "https_only": https_only, "domain": domain, "partitioned": partitioned,
        }  # fmt: skip
        try:
            self.settings, self._keys, self.terms, self._choice = agree(
                engine, settings, secret_key, cookie, max_age, on_error, exclude
            )
            self._health = health_pages(self.settings)
            self._opts_out = opt_out(exclude)
        except InvalidSettings as error:
            self.invalid, self._engine = error, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            serve = self._live if kind == "lifespan" else self.app
            await serve(scope, receive, send)
            return
        if scope["path"] in self._health and kind == "http":
            answer = await self._probed(self._health[scope["path"]])
            await _answer(send, *answer, headers=[(b"cache-control", b"no-store")])
            return
        is_canary = kind == "http" and scope.get("query_string", b"").startswith(MARK)
        if is_canary or (self._opts_out is not None and self._opts_out(scope["path"], scope)):
            serve = self._canary if is_canary else self._without
            await serve(scope, receive, send)
            return
        engine = self._engine
        if engine is None or not engine.running:
            engine = await self.running_engine(late=True)
        cookies = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
        secure = scope.get("scheme") in ("https", "wss")
        outside = scope.get("sessionha")
        outer = None if outside is None else visit_of(outside)
        values = None if outer is None else scope.get("session")
        terms = self.terms
        if self._choice is not None:
            if has_several_hosts(scope):
                await _refuse_hosts(scope, receive, send)
                return
            terms, instead = self._choice.choose(asked_of_scope(scope), outer)
            cookies = cookies if instead is None else instead
        visit = Visit(engine, terms, cookies, secure=secure, outer=outer)
        carried = carry(visit)
        try:
            if not visit.arrive():
                await visit.acquire()
            session = scope["sessionha"] = visit.session
            failed = session.failure is not None
            scope["session"] = UnavailableSession(session) if failed else session.as_dict()
            visit.source = partial(scope.get, "session")
            exchange = _Exchange(scope, send, visit)
            try:
                await self.app(scope, receive, exchange.send)
            except Exception as error:
                if not await self._is_answered(error, exchange):
                    raise
            else:
                await visit.end()
        finally:
            lay_down(carried)
            visit.leave()
            if outer is not None:  # frameworks share one scope among the applications they mount
                scope["sessionha"], scope["session"] = outside, values

    async def _canary(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a canary in the application's place; its session is one like any other."""
        engine = self._engine
        if engine is None or not engine.running:
            engine = await self.running_engine(late=True)
        wish = wish_here(engine, scope["query_string"].decode("latin-1"))
        if wish is None:
            await _answer(send, 403, REFUSED, [(b"cache-control", b"no-store")])
            return
        arrived = _arrived_with(scope, self.terms.attributes.path)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
            visit = visit_of(scope["sessionha"])
            assert visit is not None, "the request runs"
            body = answer(engine, visit, arrived)
            grant(visit.session, wish)
            await _answer(send, 200, body, [(b"cache-control", b"no-store")], media_type=JSON)

        twin = copy(self)
        twin.app, twin._opts_out = application, None
        await twin({**scope, "query_string": b""}, receive, send)

    async def _without(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that is opted out."""
        outside, values = scope.get("sessionha"), scope.get("session")
        visit = opted_out(self.made_engine(), self.terms)
        carried = carry(visit)
        try:
            scope["sessionha"], scope["session"] = visit.session, visit.session.as_dict()
            await self.app(scope, receive, send)
        finally:
            lay_down(carried)
            visit.leave()
            if outside is not None:
                scope["sessionha"], scope["session"] = outside, values

    async def _probed(self, page: str) -> tuple[int, bytes]:
        """Status and body of a health page. This loop lives, whether an engine runs or not; where
        nothing else starts one, the question whether it is ready does."""
        if page == HEALTHZ:
            return ALIVE
        engine = self._engine
        if engine is None or not engine.running:
            engine = await self.running_engine(late=True)
        return readiness(engine)

    async def _is_answered(self, error: Exception, exchange: _Exchange) -> bool:
        """Whether the client has an answer, or gets one now, though the application raised this."""
        if exchange.refused:
            log.debug("the application gave up after its response was refused", exc_info=error)
            return True
        if isinstance(error, SessionUnavailable) and not exchange.started:
            refusals.say(error)
            await exchange.refuse(error)
            return True
        if self._on_error == "commit":
            await exchange.visit.end()
        return False

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the lifespan on; the engine starts before the application and stops after it."""
        if self.invalid is not None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self.invalid)})
            raise self.invalid

        async def receive_starting() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.running_engine()
                except SessionHAError as error:
                    # Only this message stops a server: an exception alone passes for an
                    # application without lifespan.
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
            return message

        async def send_stopping(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown.") and self._engine is not None:
                await self._engine.stop()
            await send(message)

        await self.app(scope, receive_starting, send_stopping)

    @asynccontextmanager
    async def lifespan(self, *_: object) -> AsyncIterator[None]:
        """Within it the engine runs: for frameworks that call no middleware for the lifespan.

        Raises:
            StoreError, InvalidSettings: what is wrong and the remedy.
        """
        engine = await self.running_engine()
        try:
            yield
        finally:
            await engine.stop()

    def made_engine(self) -> Engine:
        """The engine, made if need be; it may not run."""
        if self.invalid is not None:
            raise self.invalid
        if self._engine is None:
            self._engine = self._factory(self.settings, self._keys)
        return self._engine

    async def running_engine(self, *, late: bool = False) -> Engine:
        """The engine, started if need be. `late`: a request waits for it.

        Raises:
            StoreError, InvalidSettings: what is wrong and the remedy.
        """
        engine = self.made_engine()
        runs = engine.running
        if not runs:
            warn_of_weak_keys(self._keys)
        await engine.start()  # it also says when it runs for somebody else
        if not runs and engine.settings.has_peers:
            retire_first(engine, asyncio.get_running_loop())
        if late and not runs:
            note_late_start(engine)
        return engine


def asked_of_scope(scope: Scope) -> Asked:
    """What of a request decides about its terms."""
    found = {name: value for name, value in scope["headers"] if name in _ASKED}
    token = found.get(_TOKEN)
    return Asked(
        found.get(b"host", b"").decode("latin-1"),
        scope["path"],
        None if token is None else token.decode("latin-1"),
        found.get(_ROUTE, b"").decode("latin-1"),
    )


def _arrived_with(scope: Scope, session_path: str) -> Arrived:
    """What a canary came with."""
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
    cookies = [value for name, value in headers if name == b"cookie"]
    hops = next((value for name, value in headers if name == _HOPS), "")
    return Arrived(cookies, scope["path"], hops, session_path)


def has_several_hosts(scope: Scope) -> bool:
    """See `SEVERAL_HOSTS`."""
    return [name for name, _ in scope["headers"]].count(b"host") > 1


async def _refuse_hosts(scope: Scope, receive: Receive, send: Send) -> None:
    """See `SEVERAL_HOSTS`."""
    if scope["type"] == "http":
        await _answer(send, 400, SEVERAL_HOSTS, [])
        return
    await receive()  # websocket.connect
    await send({"type": "websocket.close", "code": _PROTOCOL_ERROR})


class _Exchange:
    """What one request sends: the session is committed before the first byte of it."""

    __slots__ = ("_scope", "_send", "refused", "started", "visit")

    def __init__(self, scope: Scope, send: Send, visit: Visit) -> None:
        self.visit = visit
        self.started = False
        self.refused = False
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        kind: str = message["type"]
        if self.refused:
            if message.get("more_body", False) or kind == "websocket.send":
                raise _ResponseRefused("the response was replaced by 503")
            return
        if kind in _STARTS and not self.started:
            try:
                await self.visit.respond()
            except SessionUnavailable as error:
                refusals.say(error)
                await self.refuse(error)
                return
            except StoreFull as error:
                refusals.say(error)
                await self.refuse(SessionUnavailable())
                return
            self.started = True
            self._announce(message)
        elif kind == "websocket.close":
            await self.visit.end()
        await self._send(message)

    def _announce(self, message: Message) -> None:
        """Add our headers to those of the response."""
        vary = self.visit.vary
        if added := self.visit.headers():
            headers = [*message.get("headers", ())]
            headers += [(name.encode(), value.encode()) for name, value in added]
            message["headers"] = self._varying(headers) if vary else headers
        elif vary:
            message["headers"] = self._varying([*message.get("headers", ())])

    def _varying(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers with what the session depends on in `Vary`, beside what the application put
        there."""
        fields = self.visit.terms.vary.encode()
        for index, (name, value) in enumerate(headers):
            if len(name) == 4 and name.lower() == b"vary":
                told = {part.strip().lower() for part in value.split(b",")}
                missing = [each for each in fields.split(b", ") if each.lower() not in told]
                if b"*" in told or not missing:
                    return headers
                joined = b", ".join([value, *missing])
                return [*headers[:index], (name, joined), *headers[index + 1 :]]
        return [*headers, (b"vary", fields)]

    async def refuse(self, why: SessionUnavailable) -> None:
        """Answer 503 with Retry-After, or what a websocket has in its place."""
        self.refused = True
        self.visit.discard()
        told = [*refusal_headers(why), *self.visit.remains()]
        retry = [(name.encode(), value.encode()) for name, value in told]
        if self._scope["type"] == "http":
            await _answer(self._send, 503, UNAVAILABLE, retry)
        elif "websocket.http.response" in self._scope.get("extensions", {}):
            await _answer(self._send, 503, UNAVAILABLE, retry, kind="websocket.http.response")
        else:
            await self._send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})


class _ResponseRefused(OSError):
    """What an application that still streams is told, as after a disconnect."""


async def _answer(
    send: Send,
    status: int,
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    *,
    kind: str = "http.response",
    media_type: str = "text/plain; charset=utf-8",
) -> None:
    about = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": [*about, *headers]})
    await send({"type": f"{kind}.body", "body": body})


def session_from(scope: Mapping[str, Any]) -> Session:
    """The session of the request or websocket with this scope, element by element.

    It is the same session as `scope["session"]`: a change through either is seen in both. A
    `Request` or `WebSocket` of Starlette or FastAPI is a mapping of its scope, and will do. Where
    neither is at hand, `sessionha.current_session` finds the session.

    Raises:
        LookupError: no SessionMiddleware is around the application.
    """
    session = scope.get("sessionha")
    if not isinstance(session, Session):
        raise LookupError("no session here: put sessionha.SessionMiddleware around the application")
    return session
