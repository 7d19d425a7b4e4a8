"""One request's visit to the sessions of its client: cookies in, session, commit, headers out.

The body that ASGI, WSGI and every adapter share. A door calls, in this order:

1. `arrive()`, and `await acquire()` when it says no;
2. the application, with `session`;
3. `await respond()` before the first byte, then `headers()` and `vary`;
4. `await end()` when the application is done, or `discard()` when it failed; then `leave()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, NamedTuple, Protocol

from sessionha.errors import SessionBusy, SessionError, SessionRevoked, SessionUnavailable
from sessionha.identity import (
    GroupID,
    Position,
    SessionKey,
    new_group,
    server_name,
    session_key,
)
from sessionha.peer.messages import Batch, Create
from sessionha.session.cookies import (
    REMEMBERED,
    CookieAttributes,
    Route,
    RouteCookies,
    SessionCookies,
    Ticket,
    cookie_values,
    only_valid,
    remember,
)
from sessionha.session.headers import COPIES
from sessionha.session.session import Known, Prepared, Session, UnavailableSession
from sessionha.session.subject import Register
from sessionha.state.base import Held, Loaded, Receipt, State, Turn, touch_interval
from sessionha.values.codec import DEPTH

log = logging.getLogger("sessionha.session")

Event = Literal[
    "session_cookie_refused",
    "route_cookie_refused",
    "route_cookie_foreign",
    "session_gone",
    "session_unavailable",
    "session_busy",
    "session_revoked",
    "late_commit_failed",
    "element_unreadable",
]

LATE_MS: Final = 60_000
"""Requests that carry an ID which was renewed or destroyed a moment ago were under way then. They
do not clear the cookie: the browser may hold a newer one by now. A minute outlasts a page load."""

REPORTED: Final = 256
"""Names of undecodable elements that are remembered as reported."""

SEEN_CHARS: Final = 2048
"""Longest Cookie header that is remembered; browsers may send twice that and more."""

SEEN: Final = 1024
"""Cookie headers that are remembered, at most 2 MB; all are dropped at once when it is full."""

CLUSTERS: Final = 1024
"""Lists of holders whose server names are remembered: a cluster has a few at a time."""

_stored_under = lru_cache(REMEMBERED)(session_key)


@lru_cache(CLUSTERS)
def _server_names(holders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(server_name(node) for node in holders)


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
    def engine(self) -> str:
        """This engine's ID inside its node."""

    @property
    def backups(self) -> int:
        """How many copies a commit should have (k)."""

    def now(self) -> float:
        """The wall clock, in seconds: for deadlines in cookies only."""

    def count(self, event: Event) -> None:
        """Count something that operators want to see."""


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
    session_requests: int = 128
    """Requests and websockets of one session at the same time, in this process."""
    under_way: dict[str, int] = field(default_factory=dict, repr=False)
    """How many of each session there are: by its ID."""
    reported: set[str] = field(default_factory=set)
    seen: dict[str, _Seen] = field(default_factory=dict, repr=False)
    """Cookie headers whose cookies were good, at most `SEEN` of them."""
    create: Create = field(init=False)
    """What sessions begin with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "create", Create(max(0, self.idle_timeout), self.lifetime))


class _Seen(NamedTuple):
    """What a Cookie header said, and who verified its route."""

    signs: RouteCookies | None
    route: Route | None
    ticket: Ticket


_NOBODYS: Final = Session()  # what a visit has when it is over; it is never used


class Visit:
    """One request, or one websocket, of one client."""

    def __init__(
        self, home: Home, terms: Terms, cookie_headers: Sequence[str], *, secure: bool = False
    ) -> None:
        self.session: Session  # from `arrive` or `acquire` on
        self.started = False
        """Whether the response's headers are gone: no cookie can be set any more."""
        self._home = home
        self._terms = terms
        self._secure = secure
        self._now = home.now()
        self._route: Route | None = None
        self._foreign = False
        """Whether the client was last served by another cluster, or another life of this one."""
        self._ticket = self._read_cookies(cookie_headers) if cookie_headers else None
        self._group = self._ticket.group if self._ticket else None
        self._fresh = False
        self._held: Held | None = None
        self._loaded: Loaded | None = None
        self._read: Position | None = None
        """What the session shows, but for own changes; what is newer, others changed."""
        self._due = False
        self._gone = False
        self._extended = False
        self._stillborn: str | None = None
        self._receipt: Receipt | None = None
        self._closed = False
        self._committing = False
        self._committed: asyncio.Event | None = None
        self._turn: Turn | None = None
        self._counted = ""
        """The session ID under which this visit counts as under way."""
        self.source: Callable[[], object] | None = None
        """Tells what stands where the framework keeps its dict, should the application have put
        another mapping there."""

    # --- arriving ---

    def arrive(self) -> bool:
        """Find the session if this node may serve it at once; False: call `acquire`."""
        ticket = self._ticket
        if ticket is None:
            self._begin(Session(now=self._now, depth=self._terms.depth))
            return True
        terms, session_id = self._terms, ticket.session_id
        others = terms.under_way.get(session_id, 0)
        if others >= terms.session_requests:
            self._fail(SessionBusy.crowded(others))
            return True
        terms.under_way[session_id] = others + 1
        self._counted = session_id
        if self._load(ticket):
            return True
        if self._foreign and self._home.state.held(ticket.group, None) is None:
            self._lose()
            return True
        return False

    async def acquire(self) -> None:
        """Fetch the session to this node, and wait for its turn where requests take turns. It never
        raises: a session that cannot be had raises SessionUnavailable when it is used."""
        ticket = self._ticket
        assert ticket is not None, "nothing to acquire without a session cookie"
        state, key = self._home.state, _stored_under(ticket.session_id, self._terms.virtual_server)
        try:
            self._turn = await state.turn(ticket.group, key)
            self._take(ticket, key, await state.find(ticket.group, key, self._floor))
        except SessionError as error:
            self._fail(error)
        except BaseException:
            self._let_go()  # cancelled: nobody will call `leave`
            raise

    @property
    def vary(self) -> bool:
        """Whether the response depends on the cookie, so that it needs `Vary: Cookie`."""
        return self._gone or self._receipt is not None or self.session.accessed

    # --- leaving ---

    async def respond(self) -> None:
        """Commit before the first byte of the response; then ask for `headers`.

        A change to a session that was destroyed meanwhile is dropped: the log-out wins, and the
        response goes on.

        Raises:
            SessionUnavailable, CommitUnconfirmed: answer 503 with Retry-After instead.
            StoreFull: the same; SessionTooLarge, ElementNotEncodable: the application's mistake.
        """
        if self.started or self._closed or self._left:
            return
        if self._is_idle():
            self.started = True
            if self._turn is not None:
                self._end_turn()
            return
        try:
            if self._committing:
                await self._own_commit()
            if (prepared := self._prepare()) is not None:
                await self._send(prepared)
        except SessionRevoked:
            self._home.count("session_revoked")
            self.discard()
        except SessionError:
            self.discard()
            raise
        finally:
            self.started = True
            self._end_turn()

    async def end(self) -> None:
        """Commit what was changed after the response started; a failure is logged and counted.

        It cannot be told to anybody else: call `await session.commit()` to be told.
        """
        if self._closed or self._left:
            return
        self.started = True
        if self._is_idle():
            return
        try:
            if self._committing:
                await self._own_commit()
            if (prepared := self._prepare()) is not None:
                await self._send(prepared)
        except SessionError as error:
            self._home.count("late_commit_failed")
            log.warning(
                "a session's change after the start of its response was not stored: %s", error
            )

    def leave(self) -> None:
        """Let go of the session when the request is over, so that both are freed at once.

        The session does not let go: whoever kept it may still commit.
        """
        if self._counted:
            self._let_go()
        if self.source is not None and self.session.is_face(self.source()):
            self.source = None
        self.session = _NOBODYS

    @property
    def _left(self) -> bool:
        return self.session is _NOBODYS

    def discard(self) -> None:
        """Drop what is not committed; nothing more is committed by this visit."""
        self._closed = True
        self.session.discard()
        self._end_turn()

    async def commit(self, session: Session) -> Receipt | None:
        """Commit what the session holds now. None: there was nothing to do.

        Raises:
            SessionError: what `Session.commit` lists.
        """
        if self._committing:
            await self._own_commit()
        self.session = session
        prepared = self._prepare()
        return None if prepared is None else await self._send(prepared)

    def _is_idle(self) -> bool:
        """Whether nothing is to be committed or recorded: the usual end of a request that reads."""
        session = self.session
        if self._committing or session.touched or (self._due and not self._extended):
            return False
        if self.source is not None and not session.is_face(self.source()):
            return False
        return session.is_untouched()

    async def _own_commit(self) -> None:
        """Wait until no commit of this visit is under way."""
        while self._committing:
            if self._committed is None:
                self._committed = asyncio.Event()
            await self._committed.wait()

    def _prepare(self) -> Prepared | None:
        """What is to be committed now; None: nothing, and that is recorded where it is news."""
        if self._closed:
            return None
        self._look()
        session = self.session
        if session.failure is not None or not (session.accessed or session.touched):
            return None
        prepared = session.prepare(self._mint, self._terms.create)
        if session.unreadable:
            self._report_unreadable()
        if self._terms.idle_timeout <= 0 and session.new:
            self._stillborn = prepared.after.session_id if prepared.after else None
            return None
        if not prepared.changes:
            self._touch()
            return None
        return prepared

    # --- headers ---

    def headers(self) -> list[tuple[str, str]]:
        """The headers to add to the response, after `respond`; `Vary` is told by `vary`."""
        receipt = self._receipt
        if self._left or (receipt is None and self.session.failure is not None):
            return []
        found = []
        news = receipt is not None or self._gone or self._extended or self._stillborn is not None
        if news and (cookie := self._session_cookie()) is not None:
            found.append(("set-cookie", cookie))
        if self._held is not None and (cookie := self._route_cookie(self._held)) is not None:
            found.append(("set-cookie", cookie))
        if receipt is not None and receipt.copies < self._home.backups:
            found.append((COPIES, str(receipt.copies)))
        return found

    def _session_cookie(self) -> str | None:
        terms, attributes = self._terms, self._terms.attributes
        if self._stillborn is not None:
            value = terms.cookies.write(self._stillborn, 0)
            return attributes.set(value, terms.max_age, secure=self._secure)
        known = self.session.known
        if known is None:
            cleared = self._gone or (self._ticket is not None and self._receipt is not None)
            return attributes.delete(secure=self._secure) if cleared else None
        if not self._is_announced(known):
            value = terms.cookies.write(known.session_id, self._ends(known))
            return attributes.set(value, terms.max_age, secure=self._secure)
        return None

    def _is_announced(self, known: Known) -> bool:
        same = self._ticket is not None and self._ticket.session_id == known.session_id
        return same and not self._extended

    def _route_cookie(self, held: Held) -> str | None:
        cookies = self._home.route_cookies
        if cookies is None or not (self._receipt or self.session.accessed):
            return None
        group = self._group
        assert group is not None, "what is held has a group"
        names = _server_names(held.holders)
        if not (self._receipt or self._extended) and self._is_known(names, group, held.position):
            return None
        route = Route(names, group, held.position, self._home.cluster)
        attributes = self._terms.route_attributes
        return attributes.set(cookies.write(route), self._terms.max_age, secure=self._secure)

    def _is_known(self, names: tuple[str, ...], group: GroupID, position: Position) -> bool:
        """Whether the client has this route; a newer version alone is no news without a write."""
        route = self._route
        if route is None or self._foreign:
            return False
        same = route.servers == names and route.group == group
        return same and route.position.epoch == position.epoch

    # --- inside ---

    def _read_cookies(self, headers: Sequence[str]) -> Ticket | None:
        """Both cookies; of a header that was good a moment ago only what may have changed."""
        seen, signs = self._terms.seen, self._home.route_cookies
        known = seen.get(headers[0]) if len(headers) == 1 else None
        if known is not None and known.signs is signs and not known.ticket.is_over(self._now):
            self._route = known.route
            if known.route is not None:
                self._compare_cluster(known.route)
            return known.ticket
        good = self._read_route(headers)
        ticket = self._read_ticket(headers)
        if good and ticket and len(headers) == 1 and len(headers[0]) <= SEEN_CHARS:
            remember(seen, headers[0], _Seen(signs, self._route, ticket), SEEN)
        return ticket

    def _read_route(self, headers: Sequence[str]) -> bool:
        """Whether it is good, or missing."""
        cookies = self._home.route_cookies
        if cookies is None:
            return True
        values = cookie_values(headers, cookies.name)
        if not values:
            return True
        self._route = route = only_valid(values, cookies.read)
        if route is None:
            self._home.count("route_cookie_refused")
        else:
            self._compare_cluster(route)
        return route is not None

    def _compare_cluster(self, route: Route) -> None:
        if route.cluster != self._home.cluster:
            self._foreign = True
            self._home.count("route_cookie_foreign")

    def _read_ticket(self, headers: Sequence[str]) -> Ticket | None:
        cookies = self._terms.cookies
        values = cookie_values(headers, cookies.name)
        if not values:
            return None
        if len(values) == 1:
            ticket = cookies.read(values[0], self._now)
        else:
            ticket = only_valid(values, lambda value: cookies.read(value, self._now))
        if ticket is None:
            self._home.count("session_cookie_refused")
        return ticket

    @property
    def _floor(self) -> Position | None:
        route = self._route
        if route is None or self._foreign or route.group != self._group:
            return None
        return route.position

    def _register(self) -> Register:
        return Register(self._home.state, self._terms.virtual_server)

    def _begin(self, session: Session) -> None:
        self.session = session
        session.committer = self.commit
        session.registrar = self._register

    def _fail(self, error: SessionError) -> None:
        """Begin with a session that raises `error` when it is used."""
        self._home.count("session_busy" if type(error) is SessionBusy else "session_unavailable")
        self._end_turn()
        self._begin(Session(failure=error))

    def _let_go(self) -> None:
        """Make room for other requests of the session."""
        if self._turn is not None:
            self._end_turn()
        session_id, self._counted = self._counted, ""
        under_way = self._terms.under_way
        others = under_way.pop(session_id) - 1
        if others:
            under_way[session_id] = others

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.end()

    def _load(self, ticket: Ticket) -> bool:
        """Begin with the stored session; False: it must be acquired first."""
        state = self._home.state
        if not state.local:
            return False
        key = _stored_under(ticket.session_id, self._terms.virtual_server)
        try:
            loaded = state.load(ticket.group, key, self._floor)
        except SessionUnavailable:
            return False  # it is elsewhere, or the store fails: `acquire` tells which
        self._take(ticket, key, loaded)
        return True

    def _take(self, ticket: Ticket, key: SessionKey, loaded: Loaded | None) -> None:
        """Begin with what was found; None: the session is gone."""
        if loaded is None:
            self._end_turn()
            buried = self._home.state.buried(ticket.group, key)
            self._lose(clear=buried is None or buried > LATE_MS)
            return
        self._loaded, self._held = loaded, loaded.held
        self._read = loaded.held.position
        self._due = self._is_due(loaded, ticket)
        known = Known(
            ticket.session_id,
            key,
            loaded.elements,
            loaded.age,
            loaded.idle_timeout,
            loaded.life_left,
            loaded.owner,
        )
        session = Session(known, now=self._now, depth=self._terms.depth)
        session.found = self._home.engine, loaded.held
        self._begin(session)

    def _lose(self, *, clear: bool = True) -> None:
        """The session is gone: as no cookie; the browser is told to forget it."""
        self._home.count("session_gone")
        self._gone = clear
        self._group = None
        self._begin(Session(now=self._now, depth=self._terms.depth))

    def _mint(self) -> tuple[str, SessionKey]:
        if self.started:
            raise SessionError(
                "a session cannot begin or be renewed after the response has started: its cookie"
                " could not be sent any more; put data in, or renew it, before"
            )
        if self._group is None:
            self._join()
        assert self._group is not None, "a new session has a group"
        session_id = self._terms.cookies.ids.new(self._group)
        return session_id, session_key(session_id, self._terms.virtual_server)

    def _join(self) -> None:
        """Put a new session beside the client's others if this node serves them, else apart."""
        route = None if self._foreign else self._route
        if route and self._home.state.has_room(route.group, route.position):
            self._group = route.group
        else:
            self._group, self._fresh = new_group(), True

    def _look(self) -> None:
        values = self.source() if self.source else None
        if values is None or self.session.is_face(values):
            return
        if isinstance(values, UnavailableSession) or not isinstance(values, Mapping):
            return
        if self.session.failure is not None:
            raise self.session.failure  # there is no session to be replaced
        self.session.adopt(values)

    def _touch(self) -> None:
        loaded, known, group = self._loaded, self.session.known, self._group
        if loaded is None or known is None or group is None:
            return
        due = self._due and not self._extended and self.session.accessed
        if self.session.touched or due:
            self.session.touched = False
            # Not where it ended meanwhile: its cookie could take the place of a newer one.
            self._extended |= self._home.state.touch(group, known.key)

    async def _send(self, prepared: Prepared) -> Receipt:
        group = self._group
        assert group is not None, "what changed has a group"
        session = self.session
        # Never waited for without peers: then no commit suspends, on any kind of event loop.
        self._committing = True
        try:
            batch = Batch(group, prepared.changes, self._read)
            floor = self._held.position if self._held is not None else None
            receipt = await self._home.state.commit(
                batch, fresh=self._fresh, floor=floor, alone=self._turn is not None
            )
        finally:
            self._committing = False
            if self._committed is not None:
                self._committed.set()
                self._committed = None
        session.settle(prepared, receipt)
        self._fresh = False
        self._receipt = receipt
        self._held = Held(receipt.position, receipt.holders)
        read = self._read
        if read is None or receipt.position == (read.epoch, read.version + 1):
            self._read = receipt.position  # nobody wrote in between
        if self._due or self.session.touched:
            self._extended = True  # a commit is a recorded use
        return receipt

    def _is_due(self, loaded: Loaded, ticket: Ticket) -> bool:
        """Whether a use should be recorded, or the cookie's deadline lags behind recorded ones."""
        if loaded.touch_due:
            return True
        interval = touch_interval(loaded.idle_timeout) / 1000
        return self._ends(loaded) - ticket.deadline >= max(interval, 1)

    def _ends(self, session: Known | Loaded) -> int:
        left = session.idle_timeout
        if session.life_left is not None:
            left = min(left, session.life_left)
        return int(self._now + left / 1000)

    def _report_unreadable(self) -> None:
        for name in self.session.unreadable:
            reported = self._terms.reported
            if name not in reported and len(reported) < REPORTED:
                reported.add(name)
                self._home.count("element_unreadable")
                log.warning(
                    "element %r of a session cannot be decoded here and is kept as it is: was it"
                    " written by a newer version?",
                    name,
                )
