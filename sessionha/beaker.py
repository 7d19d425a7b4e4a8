"""For WSGI applications that come from Beaker: its middleware's options, and its session object."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime, timedelta
from time import time
from typing import TYPE_CHECKING, Any, Final

from sessionha.errors import InvalidSettings
from sessionha.session.company import Part
from sessionha.session.session import Session
from sessionha.web.wsgi import WSGISessionMiddleware

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

__all__ = ["BeakerSession", "SessionMiddleware"]

log = logging.getLogger("sessionha.web")

_UNUSED: Final = 14 * 86_400
"""Seconds that a session may be unused where Beaker has no timeout: as long as
`WSGISessionMiddleware` gives it."""

_LONGEST: Final = 400 * 86_400
"""Seconds that browsers keep a cookie at most."""

_MEANT: Final = frozenset(
    {
        "key", "secret", "validate_key", "timeout", "cookie_expires", "cookie_domain",
        "cookie_path", "secure", "samesite",
    }
)  # fmt: skip
"""Options of Beaker that say the same here."""

_WITHOUT_EFFECT: Final = frozenset({"auto", "httponly", "invalidate_corrupt", "save_accessed_time"})
"""Options whose usual value is what is always done here."""


class SessionMiddleware:
    """Gives every request `environ["beaker.session"]`, a `BeakerSession`.

    Takes what Beaker's class of this name takes: `config`, whose keys begin with `session.` or
    `beaker.session.`, and options as keywords. `session.secret` is the application's key. Settings
    of sessionha are keys that begin with `sessionha.`, or come from the environment. What says how
    and where Beaker stores has no meaning here, which the log tells once.

    Raises:
        InvalidSettings: what is wrong with the options and settings, every mistake.
    """

    def __init__(
        self,
        wrap_app: WSGIApplication,
        config: Mapping[str, Any] | None = None,
        environ_key: str = "beaker.session",
        **options: Any,
    ) -> None:
        told = _of(config or {}, "session.") | _of(config or {}, "beaker.session.") | options
        settings = _of(config or {}, "sessionha.")
        _tell_ignored(told)
        key = told.get("secret") or told.get("validate_key")
        if not key:
            raise InvalidSettings(["`session.secret` is missing: `sessionha secret` prints one"])
        self._key = environ_key
        self._app = wrap_app
        self.door = WSGISessionMiddleware(
            self._presented,
            key,
            told.get("key", "beaker.session.id"),
            path=told.get("cookie_path") or "/",
            same_site=str(told.get("samesite") or "lax").lower(),  # type: ignore[arg-type]
            https_only=_is_on(told.get("secure", False)),
            domain=told.get("cookie_domain"),
            **(_times(told) | settings),
        )
        """The middleware that does it all."""

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return self.door(environ, start_response)

    def _presented(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ[self._key] = BeakerSession(environ[self.door.environ_key])
        return self._app(environ, start_response)


class BeakerSession(MutableMapping[str, Any]):
    """A session with the words of Beaker. Changes are kept with and without `save()`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        """The same one, with the words and abilities of sessionha."""

    def __getitem__(self, name: str) -> Any:
        return self.session[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.session[name] = value

    def __delitem__(self, name: str) -> None:
        del self.session[name]

    def __contains__(self, name: object) -> bool:
        return name in self.session

    def __iter__(self) -> Iterator[str]:
        return iter(self.session)

    def __len__(self) -> int:
        return len(self.session)

    def __repr__(self) -> str:
        return f"<BeakerSession: {self.session!r}>"

    def has_key(self, name: str) -> bool:
        """Whether the session has it."""
        return name in self.session

    @property
    def id(self) -> str | None:
        """The session's ID: a secret. None until data was committed for the first time."""
        return self.session.id

    @property
    def is_new(self) -> bool:
        """Whether no committed data exists yet."""
        return self.session.new

    @property
    def created(self) -> float:
        """When the session was created, in seconds since 1970; a new one: now."""
        return time() - self.session.age

    @property
    def last_accessed(self) -> float | None:
        """When a use of it was last recorded before this request, at most a minute late, in seconds
        since 1970; None for a new one."""
        known, part = self.session.known, self.session.keeper
        ticket = part.ticket if isinstance(part, Part) else None
        if known is None or ticket is None:
            return None
        return max(self.created, ticket.deadline - known.idle_timeout / 1000)

    def save(self) -> None:
        """Nothing needs to be done: changes are committed with the response."""

    def revert(self) -> None:
        """Forget what this request has changed."""
        self.session.discard()

    def delete(self) -> None:
        """End the session for good."""
        self.session.destroy()

    def invalidate(self) -> None:
        """End the session for good; what is stored from now on begins a new one."""
        self.session.destroy()

    def regenerate_id(self) -> None:
        """Give the session a new ID; the old one is never valid again."""
        self.session.renew_id()

    def accessed(self) -> bool:
        """Whether this request has used it."""
        return self.session.accessed


def _of(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The options with this prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in config.items()
        if name.startswith(prefix)
    }


def _tell_ignored(options: Mapping[str, Any]) -> None:
    if ignored := sorted(options.keys() - _MEANT - _WITHOUT_EFFECT):
        log.warning(
            "options of Beaker that have no meaning here: %s; take them out when you have moved",
            ", ".join(ignored),
        )


def _times(options: Mapping[str, Any]) -> dict[str, Any]:
    """Beaker's `timeout` and `cookie_expires`, as what they mean for cookie and session."""
    unused = int(options.get("timeout") or 0)
    expires = options.get("cookie_expires", True)
    if isinstance(expires, str):
        expires = _is_on(expires) if not expires.isdigit() else int(expires)
    if isinstance(expires, datetime):
        raise InvalidSettings(
            ["`session.cookie_expires` is a date, after which no session could begin: give the"
             " number of seconds that a cookie is kept"]
        )  # fmt: skip
    if expires is True:
        return {
            "max_age": None, "idle_timeout": unused or _UNUSED, "lifetime": "never"
        }  # fmt: skip
    if isinstance(expires, timedelta):
        expires = int(expires.total_seconds())
    kept = _LONGEST if expires is False else int(expires)
    return {"max_age": min(kept, unused or kept)}


def _is_on(value: object) -> bool:
    """Whether a switch is on; the files of PasteDeploy have text."""
    if isinstance(value, str):
        return value.strip().lower() in ("true", "yes", "on", "1")
    return bool(value)
