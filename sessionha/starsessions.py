"""For applications that come from starsessions: its middleware's arguments, its functions, and its
sessions, each read once from the store that they are in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from time import time
from typing import Any, Final, NamedTuple, Protocol, TypedDict

import msgspec

from sessionha.session.company import Part
from sessionha.session.cookies import SameSite, cookie_values
from sessionha.session.session import Session
from sessionha.session.visit import Visit, visit_of
from sessionha.web import asgi
from sessionha.web.asgi import App, Message, Receive, Scope, Send, session_from

__all__ = [
    "SessionAutoloadMiddleware",
    "SessionMetadata",
    "SessionMiddleware",
    "get_session_id",
    "get_session_metadata",
    "get_session_remaining_seconds",
    "is_loaded",
    "load_session",
    "regenerate_session_id",
]

_OURS: Final = re.compile(r"[A-Za-z0-9_-]{56}\.[0-9]+\.[A-Za-z0-9_-]{43}")
"""Cookies that this library has written: no store of starsessions need be asked for them."""

_METADATA: Final = "__metadata__"
"""Where starsessions keeps its own notes, among the application's data."""

_MOVED: Final = "__sessionha_moved__"
"""Says in an old session that it was taken over, and ends soon."""

GRACE: Final = 60
"""Seconds that an old session lives on: parallel requests of its browser bring its cookie too."""


SubjectOf = Callable[[Mapping[str, Any]], str | None]
"""Says whose session one with this data is, in the words of `Session.subject`."""


class SessionMetadata(TypedDict):
    """What starsessions tells of a session: seconds, the last two since 1970."""

    lifetime: int
    created: float
    last_access: float


class Store(Protocol):
    """A store of starsessions, as far as the change-over needs it."""

    async def read(self, session_id: str, lifetime: int) -> bytes:
        """What is stored; empty: nothing."""

    async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
        """Store this for `ttl` seconds."""

    async def remove(self, session_id: str) -> None:
        """Forget it."""


class Serializer(Protocol):
    """A serializer of starsessions, as far as the change-over needs it."""

    def serialize(self, data: Any) -> bytes:
        """What to store."""

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """What was stored."""


class _JSON:
    """What starsessions does without a serializer."""

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def deserialize(self, data: bytes) -> dict[str, Any]:
        return dict(msgspec.json.decode(data)) if data else {}


class SessionMiddleware(asgi.SessionMiddleware):
    """`sessionha.SessionMiddleware` with the arguments of starsessions' class.

    `store`, with its `serializer`: where sessions were kept until now. Who comes with a cookie of
    starsessions gets a session of this library with the same data. Leave it out when the old ones
    have expired. `subject_of`: whose session each of those is, by its data, such as "user:42".
    `lifetime`, 0: the cookie ends with the browser, and the session as `idle_timeout`
    and `lifetime` of the settings say. `rolling`: the lifetime counts from the last use, and not
    from the log-in.

    Settings of sessionha are further keywords.
    """

    def __init__(
        self,
        app: App,
        /,
        store: Store | None = None,
        lifetime: int | timedelta = 0,
        rolling: bool = False,
        cookie_name: str = "session",
        cookie_same_site: SameSite = "lax",
        cookie_https_only: bool = True,
        cookie_domain: str | None = None,
        cookie_path: str | None = None,
        serializer: Serializer | None = None,
        *,
        secret_key: object,
        subject_of: SubjectOf | None = None,
        **settings: object,
    ) -> None:
        seconds = int(lifetime.total_seconds() if isinstance(lifetime, timedelta) else lifetime)
        if seconds:
            ends = "never" if rolling else seconds
            settings = {"idle_timeout": seconds, "lifetime": ends, **settings}
        if store is not None:
            source = _Source(store, serializer or _JSON(), subject_of)
            app = _CarriedOver(app, source, cookie_name, seconds)
        super().__init__(
            app,
            secret_key,
            session_cookie=cookie_name,
            max_age=seconds or None,
            path=cookie_path or "/",
            same_site=cookie_same_site,
            https_only=cookie_https_only,
            domain=cookie_domain,
            **settings,  # type: ignore[arg-type]
        )


class _Source(NamedTuple):
    """Where sessions were kept, and how to read them."""

    store: Store
    serializer: Serializer
    subject_of: SubjectOf | None


class _CarriedOver:
    """Gives clients that come with a cookie of starsessions the data that it stands for.

    What was taken over lives on for a minute in the old store, so that several requests of a page
    at once all find it. Where one of them takes something out, as a log-out does, it is removed at
    once, and the cookie cleared if nothing is left.
    """

    def __init__(self, app: App, source: _Source, cookie: str, lifetime: int) -> None:
        self._app = app
        self._store, self._serializer, self._subject_of = source
        self._cookie = cookie
        self._lifetime = lifetime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        old = self._old_id(scope) if scope["type"] in ("http", "websocket") else None
        if old is None:
            await self._app(scope, receive, send)
            return
        session = session_from(scope)
        found = await self._read(old)
        moved = found.pop(_MOVED, False)
        notes = found.pop(_METADATA, None)
        visit = visit_of(session)
        if not found or visit is None:
            await self._app(scope, receive, send)
            return
        session.update(found)
        subject = session.subject = self._subject_of(found) if self._subject_of else None
        former = {**found, _METADATA: notes} if notes else found
        removed = False

        async def send_after_removal(message: Message) -> None:
            nonlocal removed
            starts = message["type"] in ("http.response.start", "websocket.accept")
            if starts and _is_emptied(scope, visit):
                await self._store.remove(old)
                if session.subject == subject:
                    session.clear()  # of which a session would begin
                removed = visit.gone = True  # so the client's old cookie is cleared
            await send(message)

        await self._app(scope, receive, send_after_removal)
        if removed or visit.closed is not None:
            return
        if found.keys() - scope["session"].keys():  # perhaps the user: nobody is to find it again
            await self._store.remove(old)
        elif session.known is not None and not moved:
            data = self._serializer.serialize({**former, _MOVED: True})
            await self._store.write(old, data, GRACE, GRACE)

    def _old_id(self, scope: Scope) -> str | None:
        session: Session = scope["sessionha"]
        visit = visit_of(session)
        if session.failure is not None or not session.new or visit is None:
            return None
        if visit.closed is not None:  # the request is opted out
            return None
        headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
        values = cookie_values(headers, self._cookie)
        return next((value for value in values if value and not _OURS.fullmatch(value)), None)

    async def _read(self, old: str) -> dict[str, Any]:
        data = await self._store.read(old, self._lifetime)
        try:
            return self._serializer.deserialize(data)
        except ValueError:  # nothing that starsessions could read either
            return {}


def _is_emptied(scope: Scope, visit: Visit) -> bool:
    """Whether the application took everything out that was taken over: a log-out. What a refused
    response drops is none."""
    return visit.closed is None and not scope["session"]


class SessionAutoloadMiddleware:
    """Does nothing: sessions are there when a request begins. For applications that add it."""

    def __init__(self, app: App, paths: object = None) -> None:
        del paths
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def load_session(connection: Mapping[str, Any]) -> None:
    """Do nothing: the session is there when a request begins. A session that could not be had
    raises SessionUnavailable where it is used."""
    del connection


def is_loaded(connection: Mapping[str, Any]) -> bool:
    """True: sessions are there when a request begins."""
    del connection
    return True


def get_session_id(connection: Mapping[str, Any]) -> str | None:
    """The session's ID, a secret; None until its data was committed for the first time."""
    return session_from(connection).id


def regenerate_session_id(connection: Mapping[str, Any]) -> None:
    """Give the session a new ID; the old one is never valid again.

    The new one is made when the response starts, so there is none yet to be returned.
    """
    session_from(connection).renew_id()


def get_session_metadata(connection: Mapping[str, Any]) -> SessionMetadata:
    """How long the session lives, when it was created and last used (that is now)."""
    session, now = session_from(connection), time()
    created = now if session.created is None else session.created.timestamp()
    idle, life = _times(session)
    return {"lifetime": life or idle, "created": created, "last_access": now}


def get_session_remaining_seconds(connection: Mapping[str, Any]) -> int:
    """Seconds until the session ends, if it is not used any more."""
    session = session_from(connection)
    idle, life = _times(session)
    return min(idle, life - int(session.age)) if life else idle


def _times(session: Session) -> tuple[int, int]:
    """Seconds: how long the session may be unused, and how long it lives in all, or 0."""
    known = session.known
    if known is None:
        create = session.keeper.terms.create if isinstance(session.keeper, Part) else None
        return (create.idle_timeout // 1000, create.lifetime // 1000) if create else (0, 0)
    whole = 0 if known.life_left is None else known.age + known.life_left
    return known.idle_timeout // 1000, whole // 1000
