"""For tests of applications: sessions in memory, a client's session from outside, and faults.

No framework and no test runner is needed; everything is a context manager.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.message import Message as Headers
from http.cookiejar import CookieJar
from typing import Any, Final
from unittest import mock
from urllib.request import Request

from sessionha.errors import CommitUnconfirmed, SessionUnavailable
from sessionha.session.company import Company
from sessionha.session.session import Session
from sessionha.session.visit import Visit
from sessionha.settings import ENVIRONMENT
from sessionha.web.asgi import SessionMiddleware
from sessionha.web.threads import drive
from sessionha.web.wsgi import WSGISessionMiddleware

__all__ = ["in_memory", "session_of", "unavailable", "unconfirmed"]

_INSIDE: Final = ("middleware_stack", "door", "wsgi_app", "asgi_app", "app", "application")
"""Where frameworks and middleware keep what is inside them."""

Door = SessionMiddleware | WSGISessionMiddleware

DEEPEST: Final = 100
"""Middleware around each other; more than that goes round in circles."""


@contextmanager
def in_memory() -> Iterator[None]:
    """Applications that are made within keep their sessions in this process alone, whatever the
    environment says: no files, no peers, and nothing that outlasts the application."""
    others = {name: text for name, text in os.environ.items() if not name.startswith(ENVIRONMENT)}
    settings = {ENVIRONMENT + "STORE": "memory", ENVIRONMENT + "ADMIN": "off"}
    with mock.patch.dict(os.environ, others | settings, clear=True):
        yield


@contextmanager
def session_of(client: Any, app: Any = None) -> Iterator[Session]:
    """The session of a test client, to be read and changed from outside; committed at the end.

        with session_of(client) as session:
            session["user"] = "ada"

    `client` has `cookies` as httpx's and requests' clients have: the test clients of Starlette,
    FastAPI and Litestar among them. `app`: the application, or its session middleware, where the
    client does not know it (`client.app`). (Flask's and Django's own test clients have their own
    words for this.) Changes are dropped when the block raises. Only without peers.

    Raises:
        LookupError: the application has no session middleware.
        SessionError: what `Session.commit` raises.
    """
    door = _door_of(app if app is not None else getattr(client, "app", None))
    url = str(getattr(client, "base_url", "") or "http://testserver/")
    jar: CookieJar = getattr(client.cookies, "jar", client.cookies)
    request = Request(url)
    jar.add_cookie_header(request)
    visit = _begun(door, request)
    try:
        yield visit.session
        drive(visit.respond())
        told = _Told(visit.headers())
    finally:
        visit.leave()
    jar.extract_cookies(told, request)  # type: ignore[arg-type]


@contextmanager
def unavailable() -> Iterator[None]:
    """Within it no server has the sessions: each raises SessionUnavailable at its first use."""

    def arrive(visit: Visit) -> bool:
        for part in visit.parts():
            part.begin_new(SessionUnavailable("made unavailable by sessionha.testing"))
        return True

    with mock.patch.object(Visit, "arrive", arrive):
        yield


@contextmanager
def unconfirmed() -> Iterator[None]:
    """Within it no change is confirmed by another server: each commit of one raises
    CommitUnconfirmed, which becomes 503 where the application does not catch it. (It is not stored
    either; in a cluster it may last.)"""

    def store(company: Company, ready: object) -> Any:
        del company, ready
        raise CommitUnconfirmed(("sessionha.testing",), 0)

    with mock.patch.object(Company, "_store", store):
        yield


class _Told:
    """A response, as cookie jars look at one."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        self._headers = Headers()
        for name, value in headers:
            self._headers[name] = value

    def info(self) -> Headers:
        """Its headers."""
        return self._headers


def _begun(door: Door, request: Request) -> Visit:
    """A request that consists of nothing but its session."""
    engine = door.made_engine()
    if not engine.running:
        drive(engine.start())
    cookies = request.get_header("Cookie")
    secure = request.type == "https"
    visit = Visit(engine, door.terms, [cookies] if cookies else [], secure=secure)
    if not visit.arrive():
        drive(visit.acquire())
    return visit


def _door_of(app: Any) -> Door:
    """The session middleware of this application."""
    for _ in range(DEEPEST):
        if app is None or isinstance(app, SessionMiddleware | WSGISessionMiddleware):
            break
        make = getattr(app, "build_middleware_stack", None)
        if make is not None and app.middleware_stack is None:
            app.middleware_stack = make()  # as the first request would
        inside = (getattr(app, name, None) for name in _INSIDE)
        app = next((each for each in inside if each is not None), None)
    if not isinstance(app, SessionMiddleware | WSGISessionMiddleware):
        raise LookupError("no session middleware is around the application: give it as `app`")
    return app
