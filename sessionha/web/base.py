"""What every door to the web shares: the engine behind it, and what it promises its clients."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final, Protocol

from sessionha.errors import InvalidSettings, SessionUnavailable
from sessionha.session.cookies import (
    CookieAttributes,
    SessionCookies,
    application_keys,
    check_key,
)
from sessionha.session.headers import ELSEWHERE, IF_REPEATABLE, RETRY
from sessionha.session.terms import Home, Terms
from sessionha.settings import Settings

log = logging.getLogger("sessionha.web")

UNAVAILABLE: Final = b"The session is not available at the moment. Please try again.\n"
"""What clients are told with a 503: nothing about nodes."""


class Engine(Home, Protocol):
    """The engine of this process, as doors see it. Nothing of it runs before `start`."""

    @property
    def settings(self) -> Settings:
        """The settings it was made with."""

    @property
    def running(self) -> bool:
        """Whether it was started in this very process; False again in a forked child."""

    async def start(self) -> None:
        """Open the store and join the cluster. Does nothing when it runs; callable at once by
        several tasks; without peers it never suspends."""

    async def stop(self) -> None:
        """Hand over, leave and close. Does nothing when it does not run."""

    def readiness(self) -> int:
        """What `/readyz` answers: 200, 404 while it drains, 503 when it cannot serve."""


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


def checked_keys(secret_key: object, settings: Settings) -> tuple[bytes, ...]:
    """The application's keys.

    Raises:
        InvalidSettings: there is none, or a weak one while there are peers.
    """
    keys = application_keys(secret_key)
    if not keys or not all(keys):
        raise InvalidSettings(["`secret_key` is empty: `sessionha secret` prints a good one"])
    problems = [problem for key in keys if (problem := check_key(key))]
    if problems and settings.has_peers:
        raise InvalidSettings(problems)
    return keys


def warn_of_weak_keys(keys: tuple[bytes, ...]) -> None:
    """Say once, at the start, that a key is weak; with peers it would have been refused."""
    for problem in filter(None, map(check_key, keys)):
        log.warning("%s; accepted because there are no peers", problem)
        return


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
        virtual_server=settings.virtual_server,
        max_age=max_age,
        idle_timeout=int(idle * 1000),
        lifetime=0 if math.isinf(lifetime) else int(lifetime * 1000),
        depth=settings.depth,
        session_requests=settings.session_requests,
    )


def health(engine: Engine, path: str) -> tuple[int, bytes] | None:
    """Status and body when `path` is one of the health paths that the settings turn on."""
    prefix = engine.settings.health_path
    if not prefix or not path.startswith(prefix):
        return None
    name = path.removeprefix(prefix).lstrip("/")
    if name == "healthz":
        return 200, b"ok\n"
    if name != "readyz":
        return None
    status = engine.readiness()
    return status, {200: b"ready\n", 404: b"draining\n"}.get(status, b"not ready\n")
