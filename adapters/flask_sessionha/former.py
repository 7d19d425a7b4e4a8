"""Sessions of before: read once, when their client comes for the first time after the change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import BadSignature, Signer

log = logging.getLogger("sessionha.flask")


GRACE: Final = 60
"""Seconds that a session lives on which was taken over: parallel requests of its browser bring its
cookie too."""


def user_of(found: Mapping[str, Any]) -> str | None:
    """Whose session one of before is: the user of Flask-Login."""
    user = found.get("_user_id")
    return None if user is None else str(user)


SubjectOf = Callable[[Mapping[str, Any]], str | None]
"""Says whose session one with this data is, in the words of `session.subject`; None: nobody's."""


class Former(Protocol):
    """What kept the application's sessions before. Called in the thread of the request."""

    def read(self, app: Any, cookie: str) -> Mapping[str, Any] | None:
        """What the session of this cookie held; None: it is none of these."""

    def forget(self, app: Any, cookie: str, seconds: int) -> None:
        """The session was taken over, or its client logged out: after `seconds`, or sooner, it must
        not be found any more. Who says so again gives it no more time."""


class FormerCookies:
    """Flask's own sessions, which lie in the cookie. Nothing can be forgotten there: a copy of an
    old cookie opens its session again until this is taken out."""

    def __init__(self) -> None:
        self._interface = SecureCookieSessionInterface()

    def read(self, app: Any, cookie: str) -> Mapping[str, Any] | None:
        """See `Former.read`."""
        serializer = self._interface.get_signing_serializer(app)
        if serializer is None:
            return None
        try:
            found = serializer.loads(
                cookie, max_age=int(app.permanent_session_lifetime.total_seconds())
            )
        except BadSignature:
            return None
        return found if isinstance(found, dict) else None

    def forget(self, app: Any, cookie: str, seconds: int) -> None:
        """There is nothing."""


class FormerRedis:
    """Flask-Session's sessions in Redis: those in msgpack or JSON, as it writes them since 0.7.
    Pickled ones are left alone, because reading one runs what is in it.

    `client`: what `SESSION_REDIS` was; `prefix`, `signed`: what `SESSION_KEY_PREFIX` and
    `SESSION_USE_SIGNER` were.
    """

    def __init__(self, client: Any, *, prefix: str = "session:", signed: bool = False) -> None:
        self._client = client
        self._prefix = prefix
        self._signed = signed

    def read(self, app: Any, cookie: str) -> Mapping[str, Any] | None:
        """See `Former.read`. An error of the client is raised: nobody is logged out because Redis
        is away for a moment."""
        key = self._key(app, cookie)
        stored = None if key is None else self._client.get(key)
        if not stored:
            return None
        for decode in (msgspec.msgpack.decode, msgspec.json.decode):
            try:
                found = decode(stored)
            except msgspec.DecodeError:
                continue
            if isinstance(found, dict) and all(isinstance(name, str) for name in found):
                return found
        log.warning("a session of Flask-Session is neither msgpack nor JSON, and is not taken over")
        return None

    def forget(self, app: Any, cookie: str, seconds: int) -> None:
        """See `Former.forget`."""
        if (key := self._key(app, cookie)) is None:
            return
        if not seconds:
            self._client.delete(key)
        elif not 0 <= self._client.ttl(key) <= seconds:  # -1: it would never end
            self._client.expire(key, seconds)

    def _key(self, app: Any, cookie: str) -> str | None:
        if not self._signed:
            return self._prefix + cookie
        try:
            signer = Signer(app.secret_key, salt="flask-session", key_derivation="hmac")
            return self._prefix + signer.unsign(cookie).decode()
        except (BadSignature, UnicodeDecodeError):
            return None
