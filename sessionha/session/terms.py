"""What a visit builds on: the engine it happens in, its door's promises, its request's cookies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, Protocol

from sessionha.peer.messages import Create
from sessionha.session.affinity import Reason
from sessionha.session.cookies import (
    SKEW_SECONDS,
    CookieAttributes,
    Route,
    RouteCookies,
    SessionCookies,
    Ticket,
    cookie_values,
    only_valid,
    remember,
)
from sessionha.state.base import State
from sessionha.values.codec import DEPTH

Event = Literal[
    "session_cookie_refused",
    "session_foreign",
    "session_gone",
    "session_unavailable",
    "session_busy",
    "session_revoked",
    "late_commit_failed",
    "element_unreadable",
    "late_start",
]

SEEN_CHARS: Final = 2048
"""Longest Cookie header that is remembered; browsers may send twice that and more."""

SEEN: Final = 1024
"""Cookie headers that are remembered, at most 2 MB; all are dropped at once when it is full."""

NAMES: Final = 64
"""Names of secondary sessions whose terms are remembered; applications have a few."""


class Home(Protocol):
    """What a visit needs of the engine it happens in."""

    @property
    def state(self) -> State:
        """The state manager."""

    @property
    def route_cookies(self) -> RouteCookies | None:
        """None without peers or cluster secret: then no route cookie is written or read."""

    @property
    def cluster(self) -> str:
        """`cookies.cluster_tag` of this cluster and its incarnation."""

    @property
    def node_server(self) -> str:
        """How route cookies name this engine's node (`identity.server_name`)."""

    @property
    def server(self) -> str:
        """The same; where this engine has an address of its own, how they name the engine."""

    @property
    def engine(self) -> str:
        """This engine's ID inside its node."""

    @property
    def backups(self) -> int:
        """How many copies a commit should have (k)."""

    def now(self) -> float:
        """The wall clock, in seconds: for deadlines in cookies only."""

    def count(self, event: Event) -> None:
        """Count something that operators want to see."""

    def misrouted(self, server: str) -> Reason:
        """Why a request came here whose route names another server first (`affinity`)."""

    def audit(self, reason: Reason) -> None:
        """Count a request of a client with a session or a route, by how it found its way."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What one door promises its clients: cookies and lifetimes. Times are milliseconds."""

    cookies: SessionCookies
    attributes: CookieAttributes
    route_attributes: CookieAttributes
    virtual_server: str = "default"
    max_age: int | None = None
    """Seconds that browsers keep the cookies; None: as long as they run."""
    idle_timeout: int = 30 * 60 * 1000
    """At most 0: sessions end with the response that begins them; nothing is stored."""
    lifetime: int = 0
    """0: no absolute lifetime."""
    depth: int = DEPTH
    in_headers: bool = False
    """Whether clients carry their sessions in headers (`session.tokens`), and not in cookies."""
    vary: str = "Cookie"
    """What responses that depend on the session depend on: the value of `Vary`."""
    session_requests: int = 128
    """Requests and websockets of one session at the same time, in this process; 0: visits are not
    counted, and take no turns, for they are no requests."""
    touches: bool = True
    """Whether a use extends a session; else only a change does."""
    bare: bool = False
    """Whether the framework writes the main session's cookie, with nothing but the ID in it."""
    under_way: dict[str, int] = field(default_factory=dict, repr=False)
    """How many of each session there are: by its ID."""
    reported: set[str] = field(default_factory=set)
    seen: dict[str, Presented] = field(default_factory=dict, repr=False)
    """Cookie headers whose cookies were good, at most `SEEN` of them."""
    named: dict[str, Terms] = field(default_factory=dict, repr=False)
    """The terms of secondary sessions, at most `NAMES` of them."""
    create: Create = field(init=False)
    """What sessions begin with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "create", Create(max(0, self.idle_timeout), self.lifetime))

    def secondary(self, name: str) -> Terms:
        """The same for secondary sessions of this name, with a cookie of their own.

        Raises:
            InvalidSettings: the name makes the cookie's name longer than 128 characters.
        """
        terms = self.named.get(name)
        if terms is None:
            cookies = self.cookies.secondary(name)
            attributes = replace(self.attributes, name=cookies.name)
            terms = replace(
                self, cookies=cookies, attributes=attributes, seen={}, named={}, bare=False,
                touches=True,
            )  # fmt: skip
            remember(self.named, name, terms, NAMES)
        return terms


class Presented(NamedTuple):
    """What the verified cookies of a request say."""

    route: Route | None
    ticket: Ticket | None
    secondary: tuple[tuple[str, Ticket], ...]
    """Names and tickets of secondary sessions."""
    signs: RouteCookies | None
    """Who verified the route."""
    unread: Literal["", "keys_differ", "refused"]
    """Why there is no route, though a cookie of its name came."""
    until: int
    """When the first ticket is over: seconds of the wall clock."""


NOTHING: Final = Presented(None, None, (), None, "", 0)


def presented(home: Home, terms: Terms, headers: Sequence[str], now: float) -> Presented:
    """What the Cookie headers say; of one that was good a moment ago only what may have changed."""
    signs = home.route_cookies
    if len(headers) == 1:
        seen = terms.seen.get(headers[0])
        if seen is not None and seen.signs is signs and now <= seen.until:
            return seen
    return _read(home, terms, headers, now)


def _read(home: Home, terms: Terms, headers: Sequence[str], now: float) -> Presented:
    signs, cookies = home.route_cookies, terms.cookies
    route = None
    unread: Literal["", "keys_differ", "refused"] = ""
    if signs is not None and (values := cookie_values(headers, signs.name)):
        route = only_valid(values, signs.read)
        if route is None:
            unread = "refused" if any(map(signs.knows_key, values)) else "keys_differ"
    good = not unread
    tickets: dict[str, Ticket] = {}
    asked = [("", cookies, cookie_values(headers, cookies.name))]
    for name, values in cookies.secondary_values(headers).items():
        asked.append((name, terms.secondary(name).cookies, values))
    for name, signed, values in asked:
        if (ticket := _ticket(home, signed, values, now)) is not None:
            tickets[name] = ticket
        elif values:
            good = False
    until = min((found.deadline for found in tickets.values()), default=0) + SKEW_SECONDS
    ticket = tickets.pop("", None)
    told = Presented(route, ticket, tuple(tickets.items()), signs, unread, until)
    if good and (ticket or tickets) and len(headers) == 1 and len(headers[0]) <= SEEN_CHARS:
        remember(terms.seen, headers[0], told, SEEN)
    return told


def _ticket(
    home: Home, cookies: SessionCookies, values: Sequence[str], now: float
) -> Ticket | None:
    if not values:
        return None
    ticket = only_valid(values, lambda value: cookies.read(value, now))
    if ticket is None:
        home.count("session_cookie_refused")
    return ticket
