"""What every door to the web shares: the engine behind it, and what it promises its clients."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from sessionha.errors import InvalidSettings, SessionError, SessionUnavailable
from sessionha.rarely import Rarely
from sessionha.session.cookies import (
    CookieAttributes,
    SessionCookies,
    application_keys,
    check_key,
)
from sessionha.session.headers import ELSEWHERE, IF_REPEATABLE, RETRY, TOKEN
from sessionha.session.terms import Home, Terms
from sessionha.session.tokens import EITHER, as_cookies, in_headers
from sessionha.session.visit import Visit
from sessionha.settings import Settings
from sessionha.topology.health import NodeState
from sessionha.web.optout import Exclude, opt_out

log = logging.getLogger("sessionha.web")

UNAVAILABLE: Final = b"The session is not available at the moment. Please try again.\n"
"""What clients are told with a 503: nothing about nodes."""

SEVERAL_HOSTS: Final = b"Several Host headers.\n"
"""What they are told with the 400 that RFC 9112, 3.2 demands. Some servers let them pass; then an
application may go by another one than the choice of the virtual server, and give one tenant's
session to another."""

SAY_EVERY: Final = 10.0
"""Seconds between two warnings of refused requests for one kind of error: with a full store every
request is one."""


class Engine(Home, Protocol):
    """The engine of this process, as doors see it. Nothing of it runs before `start`."""

    @property
    def settings(self) -> Settings:
        """The settings it was made with."""

    @property
    def running(self) -> bool:
        """Whether it was started in this very process; False again in a forked child."""

    def has_siblings(self) -> bool:
        """Whether another process runs one of the same node with the same store; to be asked before
        the start."""

    async def start(self) -> None:
        """Open the store and join the cluster. Does nothing when it runs; callable at once by
        several tasks; without peers it never suspends."""

    def will_be_told(self) -> None:
        """Whoever calls this calls `retire` before the server ends this process by a signal."""

    async def retire(self) -> None:
        """Hand over, as long as the server serves: it is about to end this process."""

    async def stop(self) -> None:
        """Hand over, leave and close. Does nothing when it does not run."""

    @property
    def node_state(self) -> NodeState:
        """The state of its node."""

    def servers(self) -> Mapping[str, tuple[str, NodeState]]:
        """Node ID and state of every node of its view that holds sessions, by server name."""


def refusal_headers(why: SessionUnavailable) -> list[tuple[str, str]]:
    """What a 503 tells besides its status: when to come back, and whether somewhere else."""
    headers = [("retry-after", str(why.retry_after)), ("cache-control", "no-store")]
    if why.elsewhere:
        headers.append((RETRY, IF_REPEATABLE if why.unknown else ELSEWHERE))
    return headers


Factory = Callable[[Settings, tuple[bytes, ...]], Engine]
"""Makes the engine of these settings and application keys, or finds the one that exists."""


def default_factory(settings: Settings, keys: tuple[bytes, ...]) -> Engine:
    """The engine that this process shares among everything with these settings and keys."""
    # These open LMDB's library: not at import.
    from sessionha.admin.administration import Administration  # noqa: PLC0415
    from sessionha.engine import engine_for  # noqa: PLC0415

    engine: Engine = engine_for(settings, keys, (Administration,))
    return engine


class Asked(NamedTuple):
    """What of a request decides about its terms, beside its cookies."""

    host: str
    """The header of this name; empty without one."""
    path: str
    """As the client sees it."""
    token: str | None
    """`Sessionha-Token`; None without one."""
    route: str
    """`Sessionha-Route`; empty without one."""


class Choice:
    """The terms of a door whose requests have different ones: several virtual servers, or clients
    that carry their sessions in headers."""

    def __init__(self, settings: Settings, terms: Terms) -> None:
        self._servers = settings.virtual_server
        self._always = settings.session_in == "headers"
        self._never = settings.session_in == "cookies"
        if settings.session_in == "both":
            terms = replace(terms, vary=EITHER)
        elif self._always:
            terms = replace(terms, vary=TOKEN.title())
        self._terms = self._of_each(terms)
        self._in_headers = self._of_each(in_headers(terms))

    def _of_each(self, terms: Terms) -> Mapping[str, Terms]:
        return {
            name: replace(terms, virtual_server=name, named={}, under_way={})
            for name in self._servers.names
        }

    def choose(self, asked: Asked, outer: Visit | None) -> tuple[Terms, list[str] | None]:
        """The terms of a request, and what counts as its cookies; None: its cookies do.

        Its token decides: with one, whatever it says, the cookies are not looked at. Of two doors
        around each other only one speaks in headers, for there is one header of the name.
        """
        name = self._servers.of(asked.host, asked.path)
        spoken = not self._never and (self._always or asked.token is not None)
        if not spoken or (outer is not None and outer.terms.in_headers):
            return self._terms[name], None
        terms = self._in_headers[name]
        return terms, as_cookies(terms, asked.token or "", asked.route)


class Agreed(NamedTuple):
    """What a door was made with, checked."""

    settings: Settings
    keys: tuple[bytes, ...]
    terms: Terms
    choice: Choice | None
    """None: all requests have these terms."""


def agree(
    engine: Engine | None,
    settings: Mapping[str, Any],
    secret_key: object,
    cookie: Mapping[str, Any],
    max_age: Any,
    on_error: object,
    exclude: Exclude = (),
) -> Agreed:
    """What a door's arguments and settings mean. `cookie`: the arguments of its attributes, by the
    names that frameworks give them.

    Raises:
        InvalidSettings: every mistake in the arguments and the settings.
    """
    problems = [*_mistakes(cookie, max_age, on_error)]
    well_typed = not problems
    found: Settings | None = None
    keys: tuple[bytes, ...] = ()
    attributes: CookieAttributes | None = None
    try:
        opt_out(exclude)
    except InvalidSettings as error:
        problems += error.problems
    try:
        found = engine.settings if engine else Settings.load(None, **settings)
    except InvalidSettings as error:
        problems += error.problems
    try:
        keys = checked_keys(secret_key, found)
    except InvalidSettings as error:
        problems += error.problems
    try:
        if well_typed:
            attributes = CookieAttributes(
                cookie["session_cookie"],
                cookie["path"],
                cookie["same_site"],
                cookie["https_only"],
                cookie["domain"],
                cookie["partitioned"],
            )
    except InvalidSettings as error:
        problems += error.problems
    if problems or found is None or attributes is None:
        raise InvalidSettings(problems)
    terms = terms_for(found, keys, attributes, max_age)
    alike = len(found.virtual_server.names) == 1 and found.session_in == "cookies"
    return Agreed(found, keys, terms, None if alike else Choice(found, terms))


def _mistakes(cookie: Mapping[str, Any], max_age: Any, on_error: object) -> Iterable[str]:
    """What is wrong with arguments by themselves; what they mean together is checked later."""
    if on_error not in ("discard", "commit"):
        yield f"`on_error` {on_error!r} is not one of discard, commit"
    if max_age is not None and (not isinstance(max_age, int) or isinstance(max_age, bool)):
        yield (
            f"`max_age` {max_age!r} is not a whole number of seconds: write 14 days as 1209600, or"
            " None for cookies that end with the browser"
        )
    if not isinstance(cookie["session_cookie"], str):
        kind = type(cookie["session_cookie"]).__name__  # its value may be a misplaced key
        yield f"`session_cookie` is {kind}, not text: the name of a cookie, such as session"
    path, domain = cookie["path"], cookie["domain"]
    if not isinstance(path, str) or not path.startswith("/"):
        yield f"`path` {path!r} is not text that begins with `/`"
    if domain is not None and not isinstance(domain, str):
        yield f"`domain` {domain!r} is neither text nor None"
    if cookie["same_site"] not in ("lax", "strict", "none"):
        yield f"`same_site` {cookie['same_site']!r} is not one of lax, strict, none"
    for name in ("https_only", "partitioned"):
        if not isinstance(cookie[name], bool):
            yield f"`{name}` {cookie[name]!r} is neither True nor False"


def checked_keys(secret_key: object, settings: Settings | None) -> tuple[bytes, ...]:
    """The application's keys. Whether weak ones will do is not said without settings.

    Raises:
        InvalidSettings: there is none, or a weak one while there are peers.
    """
    keys = application_keys(secret_key)
    if not keys or not all(keys):
        raise InvalidSettings(["`secret_key` is empty: `sessionha secret` prints a good one"])
    problems = [problem for key in keys if (problem := check_key(key))]
    if problems and settings is not None and settings.has_peers:
        raise InvalidSettings(problems)
    return keys


def warn_of_weak_keys(keys: tuple[bytes, ...]) -> None:
    """Say once, at the start, that a key is weak; with peers it would have been refused."""
    for problem in filter(None, map(check_key, keys)):
        log.warning("%s; accepted because there are no peers", problem)
        return


class Refusals:
    """Says in the log why requests are answered with 503: of each kind of error the first, and
    then one in `SAY_EVERY` seconds, with the number of those that were not told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rarely = Rarely[type[SessionError]](SAY_EVERY)
        self._lock = threading.Lock()  # a WSGI server's threads refuse at once

    def say(self, error: SessionError) -> None:
        """Warn of a request that this error ended, unless its kind was told of just now."""
        kind = type(error)
        with self._lock:
            due = self._rarely.due(kind, self._clock())
        if due is None:
            return
        more, since = due
        suffix = f" (and {more} more in {since:.0f} s)" if more else ""
        log.warning("a request was answered with 503: %s%s", str(error) or kind.__name__, suffix)


refusals: Final = Refusals()
"""Those of this process, whatever doors it has."""


def terms_for(
    settings: Settings,
    keys: tuple[bytes, ...],
    attributes: CookieAttributes,
    max_age: int | None,
) -> Terms:
    """The terms of a door whose framework says `max_age` (seconds) for the idle timeout.

    None means cookies that end with the browser, and both lifetimes of the settings. A framework's
    own idle timeout brings an absolute lifetime only when `lifetime` was set on purpose.
    """
    idle = settings.idle_timeout if max_age is None else max_age
    chosen = settings.origins.get("lifetime", "default") != "default"
    lifetime = settings.lifetime if max_age is None or chosen else math.inf
    return Terms(
        cookies=SessionCookies(keys, attributes.name),
        attributes=attributes,
        route_attributes=CookieAttributes(
            settings.route_cookie,
            same_site=attributes.same_site,
            secure=attributes.secure,
            domain=attributes.domain,
            partitioned=attributes.partitioned,
        ),
        virtual_server=settings.virtual_server.default,
        max_age=max_age,
        idle_timeout=int(idle * 1000),
        lifetime=0 if math.isinf(lifetime) else int(lifetime * 1000),
        depth=settings.depth,
        session_requests=settings.session_requests,
    )


def note_late_start(engine: Engine) -> None:
    """Say that a request has started the engine: its node was no member of its cluster before."""
    if engine.settings.has_peers:
        engine.count("late_start")
        log.warning(
            "node %s joins its cluster with its first request: let the server run the lifespan, or"
            " a hook of it start the node before (docs/operations.md, WSGI servers)",
            engine.settings.node,
        )


HEALTHZ: Final = "healthz"
"""Whether the process answers: for liveness probes."""
READYZ: Final = "readyz"
"""Whether it should get clients: for balancers."""

ALIVE: Final = (200, b"ok\n")
NOT_READY: Final = (503, b"not ready\n")


def health_pages(settings: Settings) -> Mapping[str, str]:
    """The paths at which health is told, each with its page; none unless settings turn it on."""
    if not settings.health_path:
        return {}
    prefix = settings.health_path.rstrip("/")
    return {f"{prefix}/{page}": page for page in (HEALTHZ, READYZ)}


def readiness(engine: Engine) -> tuple[int, bytes]:
    """Status and body of `READYZ` for anybody; why it is so is told by the administration."""
    status, words = engine.node_state.readiness
    return status, f"{words}\n".encode()
