"""`flask.session`: a dict as Flask's own, with what sessionha adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from flask.sessions import SessionMixin

from flask_sessionha.former import GRACE
from sessionha import DictSession, Exchange, Session, SessionError

PERMANENT = "_permanent"
"""The element in which Flask, and extensions that read it, keep the flag."""

FLASHES = "_flashes"
"""The element of messages that the next page shows."""

S = TypeVar("S", bound="ServerSession")


class ServerSession(DictSession, SessionMixin):
    """What sessions of Flask and Quart share. Changes inside values are noticed by themselves."""

    exchange: Exchange
    outlasts = False
    """Whether it is permanent if nobody says anything."""
    was_permanent = False
    """Whether it was, before the request said that it is not."""
    _wanted: bool | None = None
    _forget: Callable[[int], None] | None = None
    _former: frozenset[str] = frozenset()
    """The names of what was taken over."""
    _renewed = False
    logged_out = False
    """Whether what was taken over is gone again, so that the client's old cookie must go too."""

    def __bool__(self) -> bool:
        self.accessed = True
        return self.has_data

    @property
    def has_data(self) -> bool:
        """Whether there is something to be stored; asking is no access."""
        size = dict.__len__(self)
        return size > 1 or (size == 1 and not dict.__contains__(self, PERMANENT))

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlasts the browser, for `PERMANENT_SESSION_LIFETIME`."""
        if self._wanted is not None:
            return self._wanted
        return bool(dict.get(self, PERMANENT, self.outlasts))

    @permanent.setter
    def permanent(self, value: bool) -> None:
        if bool(value) != self.permanent:
            self.was_permanent = self.permanent
            self._wanted = bool(value)
            self.mark_modified()

    def settle(self) -> None:
        """Make ready for the commit. The flag of permanence is stored with data, and by itself it
        is none: applications set it for every visitor, and most of them never get a session. A
        session from which the last of the data was taken ends, as Flask's own does, unless another
        request has put something in meanwhile."""
        if self.has_data:
            if self._wanted is not None:
                self[PERMANENT] = self._wanted
                self._wanted = None
        elif self._forget is not None and self.new:
            self.logged_out = True
            self.clear()  # neither flag nor subject of before is left
        elif self.modified and not self.new and self.subject is None:
            self.pop(PERMANENT, None)
            self.sessionha.end_if_empty()

    def take_over(
        self, former: Mapping[str, Any], subject: str | None, forget: Callable[[int], None]
    ) -> None:
        """Begin with what a former session held. It is forgotten soon after this one is stored, for
        parallel requests bring its cookie too; and at once if this request has taken something out,
        or renewed the ID: that may be a log-out."""
        self.update(former)
        if self.has_data:
            self._former, self._forget = frozenset(former), forget
            self.subject = subject

    def taken_over(self) -> None:
        """What this request did is committed."""
        if self._forget is not None and (self.logged_out or not self.new):
            forget, self._forget = self._forget, None
            lost = self._renewed or self._former - self.keys() - {FLASHES}
            forget(0 if self.logged_out or lost else GRACE)

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether nothing of it is stored yet."""
        return self.sessionha.new

    @property
    def sid(self) -> str | None:
        """The session's ID: a secret. None until it is stored for the first time."""
        return self.sessionha.id

    @property
    def sessionha(self) -> Session:
        """The same session with all that `sessionha.Session` can; for the time of the request."""
        return self.exchange.session

    @property
    def subject(self) -> str | None:
        """Whose session it is, such as "user:42"; set it at log-in. See `Session.subject`."""
        return self.sessionha.subject

    @subject.setter
    def subject(self, subject: str | None) -> None:
        self.sessionha.subject = subject

    def regenerate(self, *, cascade: bool = False) -> None:
        """Give the session a new ID, as every log-in should: the old one is never valid again.
        See `Session.renew_id`."""
        self._renewed = True
        self.sessionha.renew_id(cascade=cascade)

    def destroy(self, *, cascade: bool = False) -> None:
        """End the session for good, on every node. See `Session.destroy`."""
        self._renewed = True
        self.sessionha.destroy(cascade=cascade)

    def increment(self, name: str, by: float = 1) -> Any:
        """Add to a number that requests at the same time may add to. See `Session.increment`."""
        return self.sessionha.increment(name, by)

    def secondary(
        self, name: str, *, idle_timeout: float | None = None, lifetime: float | None = None
    ) -> Session:
        """A further session of the client. See `Session.secondary`."""
        return self.sessionha.secondary(name, idle_timeout=idle_timeout, lifetime=lifetime)


class FlaskSession(ServerSession):
    """The session of a request of Flask."""

    def commit(self) -> None:
        """Commit now, and not only with the response: for streams. See `Session.commit`."""
        self.exchange.wait(self.sessionha.commit())

    def siblings(self) -> Any:
        """Where the session's subject is logged in. See `Session.siblings`."""
        return self.exchange.wait(self.sessionha.siblings())

    def revoke(self, sibling: str) -> Any:
        """End one session of the subject. See `Session.revoke`."""
        return self.exchange.wait(self.sessionha.revoke(sibling))

    def revoke_others(self) -> Any:
        """End the others of the subject. See `Session.revoke_others`."""
        return self.exchange.wait(self.sessionha.revoke_others())

    def revoke_all(self) -> Any:
        """Log the subject out everywhere. See `Session.revoke_all`."""
        return self.exchange.wait(self.sessionha.revoke_all())


class UnavailableSession(SessionMixin):
    """Stands for a session that could not be had: every use of it raises SessionUnavailable, which
    is answered with 503. It is no dict, so that nothing can take it for an empty session."""

    modified = False

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    @property
    def failure(self) -> SessionError:
        """Why it cannot be had."""
        found = self.exchange.session.failure
        assert found is not None, "the session can be used"
        return found

    def _refuse(self) -> NoReturn:
        raise self.failure

    def __getitem__(self, name: str) -> Any:
        self._refuse()

    def __setitem__(self, name: str, value: Any) -> None:
        self._refuse()

    def __delitem__(self, name: str) -> None:
        self._refuse()

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def __len__(self) -> int:
        raise self.failure

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse()


def session_of(kind: type[S], exchange: Exchange, *, outlasts: bool) -> S | UnavailableSession:
    """The session of an exchange as the framework's session."""
    body = exchange.session
    if body.failure is not None:
        return UnavailableSession(exchange)
    session = body.as_dict(kind)
    session.exchange = exchange
    session.outlasts = outlasts
    return session
