"""What adapters of frameworks stand on: the sessions of a request, found and committed for it.

A framework that has its own words for sessions and cookies (Flask, Quart) opens a session at one
point of its request and saves it at another. An `Exchange` is what lies between:

1. `door.enter(environ)`, or `await door.aenter(scope)`: the request's exchange, with its `session`;
2. `exchange.commit()` before the response leaves: the cookies and headers to set. What it raises is
   answered with 503, as `refusal` says it;
3. `exchange.end()` when the body was sent, if the application ran until then; last, `leave()`.

Methods whose names begin with `a` are for frameworks on the server's event loop, the others for
request threads. An exchange that is dropped without `leave` commits nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from sessionha.errors import SessionError, SessionUnavailable, StoreFull
from sessionha.session.canaries import ELEMENT, QUERY, REFUSED, Wish, allowed
from sessionha.session.carrier import NO_REQUEST, Carried, carry, lay_down
from sessionha.session.cookies import remember
from sessionha.session.session import Session
from sessionha.session.visit import Cookie, Told, Visit, opted_out
from sessionha.web.asgi import Scope, asked_of_scope, has_several_hosts
from sessionha.web.base import (
    ALIVE,
    HEALTHZ,
    NOT_READY,
    SEVERAL_HOSTS,
    UNAVAILABLE,
    Agreed,
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
from sessionha.web.canary import JSON, answer, wish_here
from sessionha.web.optout import Exclude, OptsOut, opt_out
from sessionha.web.signals import retire_first
from sessionha.web.threads import EngineSilent, Host, drive, host_for
from sessionha.web.wsgi import acquire, arrived_with, asked_of_environ, doors, joins_hosts

log = logging.getLogger("sessionha.web")

T = TypeVar("T")

PROMISES: Final = 64
"""Combinations of keys, cookie name and lifetime that a door remembers: applications have one, and
tests a few."""

FAILURES: Final = (SessionUnavailable, StoreFull)
"""What `commit` raises that is answered with 503; everything else is the application's mistake."""


class Promise(NamedTuple):
    """What a request's clients are promised, where a framework may change it at any time."""

    secret_key: object
    """One key or a tuple of them; the first signs."""
    session_cookie: str = "session"
    max_age: int | None = None
    """Seconds that a session may be unused; None: `idle_timeout` of the settings."""


class SeveralHosts(SessionUnavailable):
    """Nobody can say whose session the request is to have. Answered as 400."""

    elsewhere = False


class Canary(NamedTuple):
    """The answer to a canary, which must not be cached; and what becomes of its session."""

    status: int
    body: bytes
    media_type: str
    wish: Wish
    """`begin`: put `element` into the session; `end`: end it; `look`: leave it alone."""
    element: str = ELEMENT


class Refusal(NamedTuple):
    """The answer in the place of a response whose session cannot be had or committed."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def refusal(error: SessionError) -> Refusal:
    """503, when to come back, and a line in the log, once in a while for each kind of error; 400
    where the request itself is at fault."""
    if isinstance(error, SeveralHosts):
        return Refusal(400, [("content-type", "text/plain; charset=utf-8")], SEVERAL_HOSTS)
    refusals.say(error)
    why = error if isinstance(error, SessionUnavailable) else SessionUnavailable()
    about = [("content-type", "text/plain; charset=utf-8")]
    return Refusal(503, [*about, *refusal_headers(why)], UNAVAILABLE)


class Door:
    """The way of one application to its sessions. Nothing runs before the first request, or
    `start`, which `sessionha.start` and the hooks of servers call.

    `exclude`: as of the middlewares. `engine`: an engine to use instead of the one that the
    settings describe.

    Raises:
        InvalidSettings: what is wrong with the promise and the settings, every mistake.
    """

    def __init__(
        self,
        promise: Promise,
        *,
        exclude: Exclude = (),
        engine: Engine | None = None,
        **settings: object,
    ) -> None:
        self._engine = engine
        self._given = settings
        self._factory: Factory = default_factory
        self._making = threading.Lock()  # first requests come at once
        self._host: Host | None = None
        self._promised: dict[Promise, Agreed] = {}
        self._dropped: deque[Visit] = deque()
        self._exclude = exclude
        self._opts_out: OptsOut | None = None
        first = self._agree(promise)
        self.settings = first.settings
        self._keys = first.keys
        self._health = health_pages(self.settings)
        self._opts_out = opt_out(exclude)
        doors.add(self)

    def _agree(self, promise: Promise) -> Agreed:
        cookie = {
            "session_cookie": promise.session_cookie, "path": "/", "same_site": "lax",
            "https_only": promise.session_cookie.lower().startswith(("__host-", "__secure-")),
            "domain": None, "partitioned": False,
        }  # fmt: skip
        found = agree(
            self._engine,
            self._given,
            promise.secret_key,
            cookie,
            promise.max_age,
            "commit",
            self._exclude,
        )
        remember(self._promised, promise, found, PROMISES)
        return found

    # --- the engine ---

    def start(self, *, late: bool = False) -> Host:
        """Start the engine for request threads, unless it runs. `late`: a request waits for it.

        Raises:
            StoreError, InvalidSettings: what is wrong and the remedy.
        """
        with self._making:
            engine = self._made()
        if not engine.running:
            warn_of_weak_keys(self._keys)
        host = host_for(engine)
        if host.start() and late:
            note_late_start(engine)
        self._host = host
        return host

    async def astart(self, *, late: bool = False) -> Engine:
        """The same on the event loop of an ASGI server."""
        engine = self._made()
        runs = engine.running
        if not runs:
            warn_of_weak_keys(self._keys)
        await engine.start()
        if not runs and engine.settings.has_peers:
            retire_first(engine, asyncio.get_running_loop())
        if late and not runs:
            note_late_start(engine)
        return engine

    async def astop(self) -> None:
        """Hand over, leave and close, when the server has stopped. Of request threads the
        server's hook, or the exit of the process, does it."""
        if self._engine is not None and self._engine.running:
            await self._engine.stop()

    def _made(self) -> Engine:
        if self._engine is None:
            self._engine = self._factory(self.settings, self._keys)
        return self._engine

    def health(self, path: str) -> tuple[int, bytes] | None:
        """Status and body of the health page at this path (`health_path`); None: it is none. An
        engine that ran must answer, whatever is asked. The question whether it is ready starts it.

        Raises:
            StoreError, InvalidSettings: what is wrong and the remedy.
        """
        page = self._health.get(path)
        if page is None:
            return None
        host = self._host
        if host is None and page == HEALTHZ:
            return ALIVE
        try:
            if host is None or not host.running:
                host = self.start(late=True)
            engine = host.engine
            return host.call(lambda: ALIVE if page == HEALTHZ else readiness(engine))
        except EngineSilent as error:
            refusals.say(error)
            return NOT_READY

    async def ahealth(self, path: str) -> tuple[int, bytes] | None:
        """The same on the event loop, which lives if it answers."""
        page = self._health.get(path)
        if page is None:
            return None
        if page == HEALTHZ:
            return ALIVE
        engine = self._engine
        if engine is None or not engine.running:
            engine = await self.astart(late=True)
        return readiness(engine)

    @property
    def engine(self) -> Engine | None:
        """The engine that runs; None: none does."""
        return self._engine if self._engine is not None and self._engine.running else None

    @property
    def health_paths(self) -> Sequence[str]:
        """Where health is told; nowhere unless settings turn it on."""
        return tuple(self._health)

    # --- requests ---

    def enter(self, environ: Mapping[str, Any], promise: Promise) -> Exchange:
        """The exchange of the request with this environment of WSGI. A session that cannot be had
        raises SessionUnavailable when it is used.

        Raises:
            InvalidSettings: the promise, or the first start.
        """
        agreed = self._promised.get(promise) or self._agree(promise)
        if self._opts_out is not None or self._health:
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            if self._is_without(path, environ):
                return self._without(agreed)
        if agreed.choice is not None and joins_hosts(environ):
            return Exchange(self, None, None, SeveralHosts())
        header = environ.get("HTTP_COOKIE")
        secure = environ.get("wsgi.url_scheme") == "https"
        try:
            host = self._host
            if host is None or not host.running:
                host = self.start(late=True)
            arrive = partial(
                self._arrived, host.engine, agreed, [header] if header else [], secure,
                partial(asked_of_environ, environ),
            )  # fmt: skip
            visit, found = host.call(arrive)
            if not found:
                acquire(host, visit)
        except EngineSilent as error:
            return Exchange(self, None, None, error)
        return Exchange(self, host, visit)

    async def aenter(self, scope: Scope, promise: Promise) -> Exchange:
        """The same for a request or websocket with this scope of ASGI."""
        agreed = self._promised.get(promise) or self._agree(promise)
        if self._is_without(scope["path"], scope):
            return self._without(agreed)
        if agreed.choice is not None and has_several_hosts(scope):
            return Exchange(self, None, None, SeveralHosts())
        engine = self._engine
        if engine is None or not engine.running:
            engine = await self.astart(late=True)
        cookies = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
        secure = scope.get("scheme") in ("https", "wss")
        visit, found = self._arrived(
            engine, agreed, cookies, secure, partial(asked_of_scope, scope)
        )
        if not found:
            try:
                await visit.acquire()
            except BaseException:
                visit.leave()
                raise
        return Exchange(self, None, visit)

    def _is_without(self, path: str, request: Mapping[str, Any]) -> bool:
        """Whether a request is opted out. A probe is: it must not wait for an engine that starts,
        and `health` answers it before anything else."""
        return path in self._health or (
            self._opts_out is not None and self._opts_out(path, request)
        )

    def _without(self, agreed: Agreed) -> Exchange:
        """The exchange of a request that is opted out."""
        exchange = Exchange(self, None, opted_out(self._made(), agreed.terms))
        exchange.opted_out = True
        return exchange

    def _arrived(
        self,
        engine: Engine,
        agreed: Agreed,
        cookies: list[str],
        secure: bool,
        asked: partial[Asked],
    ) -> tuple[Visit, bool]:
        """The visit of a request, and whether its session was found at once."""
        while self._dropped:
            self._dropped.popleft().leave()
        terms = agreed.terms
        if agreed.choice is not None:
            terms, instead = agreed.choice.choose(asked(), None)
            cookies = cookies if instead is None else instead
        visit = Visit(engine, terms, cookies, secure=secure)
        try:
            return visit, visit.arrive()
        except BaseException:
            visit.leave()
            raise

    def drop(self, visit: Visit) -> None:
        """Let a visit go that nobody will end; from any thread, at any time."""
        self._dropped.append(visit)


class Exchange:
    """One request of a framework's, from `enter` until `leave`."""

    CANARY: Final = QUERY
    """What the query of a canary begins with: for a framework in which asking for the session, to
    have `canary` look, already counts as a use of it."""
    left = False
    """Whether it is over."""
    opted_out = False
    """Whether nothing of its session is kept (`exclude`)."""
    told: Told | None = None
    """What `commit` told; for a framework that makes a second response after an error."""

    def __init__(
        self,
        door: Door,
        host: Host | None,
        visit: Visit | None,
        failure: SessionError | None = None,
    ) -> None:
        """`host`: None on an event loop. `visit`: None: there is only a `failure`."""
        self._door = door
        self._host = host
        self._visit = visit
        self._failed = Session(failure=failure) if visit is None else None
        self._carried: Carried | None = carry(_Weakly(self))

    def __del__(self) -> None:
        if not self.left and self._visit is not None:
            self._door.drop(self._visit)

    @property
    def session(self) -> Session:
        """The session; that of an exchange that has left raises LookupError at every use."""
        if self._visit is None:
            assert self._failed is not None, "without a visit there is a failure"
            return self._failed
        return self._visit.session

    @property
    def secure(self) -> bool:
        """Whether the request came by https, so that its cookies should be `Secure`."""
        return self._visit is not None and self._visit.secure

    @property
    def vary(self) -> str:
        """What of the request the response depends on, for `Vary`; empty: on nothing of ours."""
        visit = self._visit
        return visit.terms.vary if visit is not None and visit.vary else ""

    def begun(self) -> None:
        """The response has started, or cannot have cookies: no session begins any more."""
        if self._visit is not None:
            self._visit.started = True

    def cookie(self) -> Cookie | None:
        """The session's cookie as it was, for frameworks that tell it again without news; None:
        there is none, or it may have become another one meanwhile."""
        visit, host = self._visit, self._host
        if visit is None:
            return None
        return _cookie(visit) if host is None else host.call(partial(_cookie, visit))

    def canary(self, environ: Mapping[str, Any]) -> Canary | None:
        """The answer to a canary of `sessionha doctor`, in the application's place; None: the
        request is none. `environ`: of WSGI, or what is in it of a canary."""
        query: str = environ.get("QUERY_STRING", "")
        if self.opted_out or not query.startswith(QUERY):
            return None
        engine, visit, host = self._door.engine, self._visit, self._host
        wish = None if engine is None or visit is None else wish_here(engine, query)
        if wish is None or engine is None or visit is None:
            return Canary(403, REFUSED, "text/plain; charset=utf-8", "look")
        told = partial(answer, engine, visit, arrived_with(environ))
        body = told() if host is None else host.call(told)
        return Canary(200, body, JSON, allowed(visit.session, wish))

    # --- in request threads ---

    def commit(self) -> Told:
        """Commit what the request changed; what the response must tell.

        Raises:
            SessionUnavailable, StoreFull: answer with `refusal`; the changes are dropped, and
                `told` is what was committed before.
            SessionTooLarge, ElementNotEncodable: the application's mistake; so are they.
        """
        host, visit = self._host, self._visit
        if visit is None or host is None:
            return self._tell(Told([], []))
        try:
            # What an idle visit does concerns no other request, but for the end of its turn.
            told = host.call(visit.told_if_idle) if host.serial else visit.told_if_idle()
            if told is not None:
                return self._tell(told)
            return self._tell(host.wait(told_of(visit)))
        except FAILURES:
            self._tell(Told([], []))
            self._tidy(partial(self._drop_changes, visit))
            raise

    def end(self) -> None:
        """Commit what was changed after `commit`; a failure is logged and counted."""
        host, visit = self._host, self._visit
        if visit is None or host is None or self.left:
            return
        try:
            if not host.looped or not host.call(visit.are_idle):
                host.wait(visit.end())
        except EngineSilent as error:
            log.warning(
                "a session's change after the start of its response was not stored: %s", error
            )

    def close(self) -> None:
        """`end` and `leave`."""
        self.end()
        self.leave()

    def leave(self) -> None:
        """The request is over."""
        if not self.left:
            self.left = True
            self._lay_down()
            if self._visit is not None:
                self._tidy(self._visit.leave)

    def _lay_down(self) -> None:
        """Once: the request's own may be carried since."""
        carried, self._carried = self._carried, None
        if carried is not None:
            lay_down(carried)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of a session, such as `session.siblings()`, to its end.

        Raises:
            SessionUnavailable: the engine does not answer; else what the coroutine raises.
        """
        if self._host is not None:
            return self._host.wait(work)
        if self._failed is None:
            return drive(work)  # of a request that is opted out: it is refused at once
        work.close()
        raise self._failed.refused()

    def _tidy(self, step: Callable[[], object]) -> None:
        """Do what the response does not depend on; an engine that is silent is not waited for."""
        if self._host is None:
            step()
            return
        try:
            self._host.call(step)
        except EngineSilent:
            self._host.post(step)

    def _drop_changes(self, visit: Visit) -> None:
        visit.discard()
        if any(part.committed for part in visit.parts()):
            self.told = visit.told_in_parts()

    def _tell(self, told: Told) -> Told:
        self.told = told
        return told

    # --- on the event loop ---

    async def acommit(self) -> Told:
        """As `commit`."""
        if self._visit is None:
            return self._tell(Told([], []))
        try:
            return self._tell(await told_of(self._visit))
        except FAILURES:
            self._tell(Told([], []))
            self._drop_changes(self._visit)
            raise

    async def aend(self) -> None:
        """As `end`."""
        if self._visit is not None:
            await self._visit.end()


class _Weakly:
    """What the code of a request carries of its exchange: a framework may drop a request without
    an end, and a context variable must not keep it."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = weakref.ref(exchange)

    @property
    def left(self) -> bool:
        """Whether the request is over; where it was dropped, there is none."""
        return self._known.left

    @property
    def session(self) -> Session:
        """The session."""
        return self._known.session

    @property
    def _known(self) -> Exchange:
        exchange = self._exchange()
        if exchange is None:
            raise LookupError(NO_REQUEST)
        return exchange


def _cookie(visit: Visit) -> Cookie | None:
    if visit.left or visit.terms.in_headers or not visit.is_alive():
        return None
    value = visit.token()
    return None if value is None else Cookie(visit.terms.cookies.name, value, "session")


async def told_of(visit: Visit) -> Told:
    """Commit, and tell what the response must tell."""
    await visit.respond()
    return visit.told_in_parts()
