"""The tree of errors.

SessionHAError
├── InvalidSettings          the operator's mistake; lists every problem at once; at start only
├── SessionError             what an application may meet
│   ├── SessionUnavailable     no holder answered in time; nothing was changed
│   ├── SessionBusy            too many requests of the session, or one that does not end
│   ├── StoreError             the store cannot be used: which file, why, and what to do
│   ├── StaleSession           only copies older than the client's last answer are alive
│   ├── CommitUnconfirmed      written here, not confirmed there; who is missing, how many copies
│   ├── SessionRevoked         destroyed or revoked while this request ran
│   │   └── NoSession            the HTTP data API: there is no session with this ID
│   ├── SessionTooLarge        size and limit; nothing was changed
│   ├── ElementNotEncodable    which element, which type; nothing was changed
│   ├── ElementNotReadable     which element, why; the others are fine, and it is kept as it is
│   ├── OperationRefused       which operation on an element, why; nothing was changed
│   │   └── WrongManager         the element has another data manager than its address says
│   └── StoreFull              size and limit, and the setting that raises it; nothing was changed
├── RequestRefused           the HTTP data API: not understood, not allowed, or no node answered
├── DiscoveryFailed          DNS or Redis does not say where nodes are; the last known stay
└── PeerError                a remote fault; never reaches an application
    ├── PeerUnavailable        refused, silent, closed: `refused` tells a proven death
    ├── BadMessage · AuthenticationFailed · ForeignCluster
    └── Fenced                 somebody has a newer epoch
"""

from __future__ import annotations

from typing import Final

from sessionha.identity import Epoch

PLAIN_VALUES: Final = "store plain values (str, int, list, dict, datetime, Decimal, UUID, …)"


class SessionHAError(Exception):
    """The root: everything that sessionha raises on purpose."""


class InvalidSettings(SessionHAError):
    """Every mistake found in the settings, each naming its setting and the remedy."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(["sessionha cannot start:", *(f"  - {p}" for p in problems)]))


class SessionError(SessionHAError):
    """What an application may meet while it uses a session."""


class SessionUnavailable(SessionError):
    """No holder answered in time; nothing was changed. Answered as 503 with Retry-After."""

    retry_after = 1
    elsewhere = True
    """Whether a router may ask another server instead."""
    unknown = False
    """Whether the change may last all the same."""

    @classmethod
    def in_another_cluster(cls) -> SessionUnavailable:
        """Nobody here knows the session, and the client's route is that of another cluster."""
        error = cls(
            "the client was last served by another cluster, which may have its session, and this"
            " one has not: send it there, or give this cluster another `route_cookie`"
        )
        error.elsewhere = False  # no server of this cluster has it
        return error


class SessionBusy(SessionUnavailable):
    """Other requests of the same session are in the way; nothing was changed."""

    elsewhere = False  # they are on every server

    @classmethod
    def crowded(cls, requests: int) -> SessionBusy:
        """There are as many as there may be."""
        return cls(
            f"{requests} requests of this session are under way, and no more may be; nothing was"
            " changed (setting `session_requests`)"
        )


class StaleSession(SessionUnavailable):
    """Only copies older than the client's last answer are alive."""


class CommitUnconfirmed(SessionUnavailable):
    """Written here, not confirmed by every backup: the outcome is unknown."""

    unknown = True

    def __init__(self, missing: tuple[str, ...], copies: int, *, wanted: int = 0) -> None:
        """`wanted`: nobody is missing, but there are fewer copies than this (`min_copies`)."""
        self.missing = missing
        self.copies = copies
        why = f"not confirmed by {', '.join(missing) or 'the new primary'} ({copies} copies)"
        if wanted:
            why = f"it has {copies} copies, which is below `min_copies` = {wanted}"
        super().__init__(f"the change is written but {why}; it may last")

    @classmethod
    def partly(cls, copies: int, rest: SessionError) -> CommitUnconfirmed:
        """What the request committed first lasts, with so many copies; the rest was refused."""
        error = cls((), copies)
        error.args = (f"a first part of the change lasts, and the rest does not: {rest}",)
        error.elsewhere = False  # that part would be done again, or its cookies never arrive
        return error


class SessionRevoked(SessionError):
    """The session was destroyed or revoked while this request ran; its changes were dropped."""


class NoSession(SessionRevoked, LookupError):
    """No session has this ID: it never was, has ended, or lies in another virtual server."""


class SessionTooLarge(SessionError):
    """A session would pass a limit; nothing was changed."""

    def __init__(self, what: str, size: int, limit: int, setting: str) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the session's {what} would be {size}, the limit is {limit}; nothing was changed"
            f" (setting `{setting}`)"
        )


class ElementNotEncodable(SessionError, TypeError):
    """A value has a type that sessions cannot hold; nothing was changed."""

    def __init__(self, element: str, type_name: str, why: str = "") -> None:
        self.element = element
        self.type_name = type_name
        reason = why or PLAIN_VALUES
        super().__init__(
            f"session[{element!r}] cannot be stored, because of its {type_name}; {reason}"
        )


class ElementNotReadable(SessionError):
    """An element cannot be decoded here; it is kept as it is, and the others are usable."""

    def __init__(self, element: str, why: str) -> None:
        self.element = element
        super().__init__(
            f"session[{element!r}] cannot be read: {why}; it stays as it is until this"
            " application, or a newer one, assigns or deletes it"
        )


class OperationRefused(SessionError):
    """An operation on an element is malformed, or does not fit what is there."""

    def __init__(self, operation: str, why: str) -> None:
        super().__init__(f"{operation} {why}; nothing was changed")


class WrongManager(OperationRefused):
    """An element is addressed under a data manager that is not its own."""


class StoreFull(SessionError):
    """The node's store is full; nothing was changed."""

    def __init__(self, used: int, limit: int) -> None:
        self.used = used
        self.limit = limit
        super().__init__(
            f"the session store is full ({used} of {limit} bytes); nothing was changed:"
            " raise `store_size` (SESSIONHA_STORE_SIZE) or shorten `idle_timeout`"
        )


class RequestRefused(SessionHAError):
    """The HTTP data API did not take a request: what was wrong with it; nothing was changed."""


class StoreError(SessionUnavailable):
    """The store cannot be opened or used: which file, why, and what to do."""


class DiscoveryFailed(SessionHAError):
    """Nobody says where nodes are now: the cause, in words that are the same each time."""


class PeerError(SessionHAError):
    """A remote fault; it never reaches an application."""


class PeerUnavailable(PeerError):
    """A peer did not answer. `refused`: its own host refused the connection."""

    def __init__(self, node: str, why: str, *, refused: bool = False, sent: bool = True) -> None:
        self.node = node
        self.refused = refused
        self.sent = sent
        super().__init__(f"{node}: {why}")


class BadMessage(PeerError):
    """A message that cannot be decoded or passes a limit."""


class AuthenticationFailed(PeerError):
    """A handshake or frame whose MAC is wrong."""


class ForeignCluster(PeerError):
    """A peer of another cluster."""


class Fenced(PeerError):
    """Somebody has a newer epoch."""

    def __init__(self, promise: Epoch) -> None:
        self.promise = promise
        super().__init__(f"fenced by epoch {promise}")
