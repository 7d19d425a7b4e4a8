"""One request's visit to the sessions of its client: cookies in, sessions, commit, headers out.

The body that ASGI, WSGI and every adapter share. A door calls, in this order:

1. `arrive()`, and `await acquire()` when it says no;
2. the application, with `session`;
3. `await respond()` before the first byte, then `headers()` and `vary`;
4. `await end()` when the application is done, or `discard()` when it failed; then `leave()`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from sessionha.errors import (
    CommitUnconfirmed,
    SessionError,
    SessionRevoked,
    SessionUnavailable,
    StoreFull,
)
from sessionha.identity import GroupID, Position, server_name
from sessionha.peer.messages import Create
from sessionha.session.affinity import Reason
from sessionha.session.company import Company, Part
from sessionha.session.cookies import (
    SECONDARIES,
    Route,
    RouteCookies,
    Ticket,
    is_session_name,
    same_cluster,
)
from sessionha.session.headers import COPIES, ROUTE, TOKEN
from sessionha.session.session import LONGEST, Session
from sessionha.session.terms import NOTHING, Home, Terms, presented
from sessionha.session.tokens import token_of

log = logging.getLogger("sessionha.session")

CLUSTERS: Final = 1024
"""Lists of holders whose server names are remembered: a cluster has a few at a time."""


@lru_cache(CLUSTERS)
def _server_names(holders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(server_name(node) for node in holders)


class Visit(Part):
    """One request, or one websocket, of one client, at one door: with its main session, of which
    it is the part itself, and perhaps secondary ones.

    `outer`: the visit to a door around this one, that all responses of this one pass. Both share
    the group, where the cookies leave a choice, and then commit as one; the outer one tells the
    client the route.
    """

    started = False
    """Whether the response's headers are gone: no cookie can be set any more."""
    left = False
    """Whether the request is over."""
    foreign = False
    """Whether the client was last served by another cluster, or another life of this one."""
    astray = False
    """Whether that was another cluster altogether, which may have the client's sessions still."""
    unread: Literal["", "keys_differ", "refused"] = ""
    """Why there is no route, though a cookie of its name came."""
    way: Reason | None = None
    """How the request found its way; None: there is no session or route of its client, or it is
    not known yet."""
    refusal: SessionError | None = None
    """Why the response must be refused: a commit at another door, in which its changes were."""
    _outer: Visit | None = None
    _shared = False
    """Whether the outer visit has the group too, and tells the client the route."""
    _told_inside = False
    """Whether a door inside this one, with a group of its own, has told a route."""

    def __init__(
        self,
        home: Home,
        terms: Terms,
        cookie_headers: Sequence[str],
        *,
        secure: bool = False,
        outer: Visit | None = None,
    ) -> None:
        now = home.now()
        self.secure = secure
        self._home = home
        if outer is not None:
            self._outer = outer
        self._secondary: dict[str, Secondary] = {}
        told = presented(home, terms, cookie_headers, now) if cookie_headers else NOTHING
        ticket, route = told.ticket, told.route
        self.route: Route | None = route
        if route is not None and route.cluster != home.cluster:
            self.foreign = True
            self.astray = not same_cluster(route.cluster, home.cluster)
        if told.unread:
            self.unread = told.unread
        Part.__init__(self, terms, ticket, now)
        if ticket is None:
            self.company = company = Company(home, None)
        else:
            self.company = company = Company(home, ticket.group, self._floor(ticket.group))
        company.parts.append(self)
        if told.secondary:
            self._expect(told.secondary)

    def _floor(self, group: GroupID | None) -> Position | None:
        route = self.route
        if route is None or self.foreign or route.group != group:
            return None
        return route.position

    def _expect(self, tickets: Sequence[tuple[str, Ticket]]) -> None:
        """The request brought secondary sessions: each is to be found with those of its group."""
        known = {self.company.group: self.company}
        for name, ticket in tickets:
            group = ticket.group
            company = known.get(group)
            if company is None:
                company = known[group] = Company(self._home, group, self._floor(group))
            part = Secondary(self, self.terms.secondary(name), ticket)
            self._secondary[name] = part
            part.company = company
            company.parts.append(part)

    # --- arriving ---

    @property
    def visit(self) -> Visit:
        """This one."""
        return self

    @property
    def home(self) -> Home:
        """The engine that it happens in."""
        return self._home

    def arrive(self) -> bool:
        """Find the sessions if this node may serve them at once; False: call `acquire`."""
        if not self._secondary:
            found = not self.is_admitted() or self.company.find() or self._is_lost(self.company)
        else:
            found = self._find_all()
        if found and (self._secondary or self._outer is not None):
            self._gather()
        if self._outer is None and (way := self._way(found)) is not None:
            self.way = way
            self._home.audit(way)
        return found

    def _way(self, found: bool) -> Reason | None:
        """`found`: its sessions are here."""
        route, home = self.route, self._home
        if route is None:
            if home.route_cookies is None or not self.terms.session_requests:
                return None
            has_session = self.ticket is not None or self._secondary
            return self.unread or ("no_route" if has_session else None)
        if self.foreign:
            return "foreign"
        if route.servers[0] == home.server:
            return "kept" if found else "stale_cookie"
        return home.misrouted(route.servers[0])

    def _find_all(self) -> bool:
        for part in self.parts():
            part.is_admitted()
        found = [
            company.find() or self._is_lost(company)
            for company in self._companies()
            if company.expected()
        ]
        return all(found)

    def _is_lost(self, company: Company) -> bool:
        """Whether the group is of an earlier life of this cluster, and nowhere in this one. (One of
        another cluster is looked for: several may share a domain, and the one route cookie.)"""
        if not self.foreign or self.astray or company.group is None:
            return False
        if self._home.state.held(company.group, None) is not None:
            return False
        company.lose()
        return True

    async def acquire(self) -> None:
        """Fetch the sessions to this node, and wait for their turns where requests take turns. It
        never raises: a session that cannot be had raises SessionUnavailable when it is used."""
        turns = {part.key: part.turn for part in self._outer_parts() if part.turn is not None}
        try:
            for company in self._companies():
                if company.expected():
                    await company.acquire(turns)
        except BaseException:
            for part in self.parts():
                part.make_room()  # cancelled: nobody will call `leave`
            raise
        self._gather()

    def _outer_parts(self) -> Iterator[Part]:
        outer = self._outer
        while outer is not None:
            yield from outer.parts()
            outer = outer._outer

    def _gather(self) -> None:
        """Choose the group of what begins in this request."""
        if self._secondary and self.session.new and self.session.failure is None:
            self._stand_beside(self._secondary.values())
        if self._outer is not None:
            self._join(self._outer)

    def _stand_beside(self, others: Iterable[Part]) -> None:
        """A new main session goes where secondary ones are."""
        found = [part.company for part in others if part.company.held is not None]
        if not found:
            return
        route = self.route.group if self.route is not None else None
        for company in sorted(found, key=lambda company: company.group != route):
            if company.has_room():
                self.move(company)
                return
        self.move(Company(self._home, None))

    def _join(self, outer: Visit) -> None:
        """Be in the group that the door around this one has in this request."""
        mine, theirs = self.company, outer.company
        if outer._home.state is not self._home.state or theirs.failed or mine.failed:
            return
        if outer.terms.in_headers != self.terms.in_headers:
            return  # each tells its clients the route in its own way
        if outer.terms.virtual_server == self.terms.virtual_server:
            return  # perhaps the same session twice, and then each has to be committed apart
        if mine.group is not None and theirs.group is not None:
            joins = mine.group == theirs.group
        else:
            joins = mine.has_room() and theirs.has_room()
        if joins:
            theirs.take(mine)
            self._shared = True

    # --- what sessions and doors ask ---

    def parts(self) -> Sequence[Part]:
        """The parts of all sessions, the main one first."""
        return (self, *self._secondary.values()) if self._secondary else (self,)

    def secondary(
        self, name: str, idle_timeout: float | None = None, lifetime: float | None = None
    ) -> Session:
        """See `Session.secondary`. Callable from any thread."""
        if self.left:
            raise LookupError("the request is over: ask for its secondary sessions while it runs")
        if not is_session_name(name):
            raise ValueError(
                f"{name!r} cannot name a session: use letters, digits, `-` and `_`, at most 32"
            )
        part = self._secondary.get(name) or self._begin(name)
        if idle_timeout is not None or lifetime is not None:
            part.create = _lifetimes(part.create or part.terms.create, idle_timeout, lifetime)
        return part.session

    def _begin(self, name: str) -> Secondary:
        if len(self._secondary) >= SECONDARIES:
            raise ValueError(
                f"{name!r} would be one more than the {SECONDARIES} secondary sessions that a"
                " client may have in a request"
            )
        company = self.company
        if self.closed is None and not company.has_room():
            begun = (known for known in self._companies() if known.group is None or known.fresh)
            company = next(begun, None) or Company(self._home, None)
        part = Secondary(self, self.terms.secondary(name), None)
        part.company = company
        part.begin_new(self.session.failure)
        part.closed = self.closed
        known = self._secondary.setdefault(name, part)  # another thread may have been faster
        if known is part:
            company.parts.append(part)
        return known

    @property
    def vary(self) -> bool:
        """Whether the response depends on a cookie, so that it needs `Vary: Cookie`."""
        if self.left or self.committed or self.gone or self.session.accessed:
            return True
        return bool(self._secondary) and any(part.told for part in self.parts())

    # --- leaving ---

    async def respond(self) -> None:
        """Commit before the first byte of the response; then ask for `headers`.

        Changes of a session that was destroyed meanwhile are dropped: the log-out wins, and the
        response goes on with those of the others.

        Raises:
            SessionUnavailable, CommitUnconfirmed: answer 503 with Retry-After instead.
            StoreFull: the same; SessionTooLarge, ElementNotEncodable: the application's mistake.
        """
        if self.started or self.left:
            return
        if self.refusal is not None:
            self.started = True
            raise self.refusal
        if self.is_idle() if not self._secondary else self.are_idle():
            self.started = True
            if self.turn is not None or self._secondary:
                self._end_turns()
            return
        companies = self._companies()
        try:
            for company in companies:
                with suppress(SessionRevoked):
                    await company.commit()
        except (SessionUnavailable, StoreFull) as error:
            why = self._refused(error, companies)
            if why is error:
                raise
            raise why from error
        except SessionError as error:
            self.discard(error)  # what is at other doors is not to blame
            raise
        finally:
            self.started = True
            self._end_turns()

    def _refused(
        self, error: SessionUnavailable | StoreFull, companies: Sequence[Company]
    ) -> SessionError:
        """Drop what is not committed, here and at the doors around this one whose changes were in
        the batch. Why the responses are refused."""
        lasting = [company.receipt for company in companies if company.receipt is not None]
        why: SessionError = error
        if lasting and not isinstance(error, CommitUnconfirmed):
            why = CommitUnconfirmed.partly(lasting[-1].copies, error)
        for company in companies:
            for part in company.parts:
                visit = part.visit
                if visit is not self and not visit.started and part.is_changed():
                    visit.refusal = why
                    part.drop(part.session, why)
        self.discard(why)
        return why

    async def end(self) -> None:
        """Commit what was changed after the response started; a failure is logged and counted.

        It cannot be told to anybody else: call `await session.commit()` to be told.
        """
        if self.left:
            return
        self.started = True
        if self.is_idle() if not self._secondary else self.are_idle():
            return
        for company in self._companies():
            try:
                await company.commit()
            except SessionError as error:
                self._home.count("late_commit_failed")
                log.warning(
                    "a session's change after the start of its response was not stored: %s", error
                )

    def leave(self) -> None:
        """Let go of the sessions when the request is over, so that all is freed at once.

        The sessions do not let go: whoever kept one may still commit.
        """
        if self.left:
            return
        self.left = True
        self.company.parts.remove(self)
        self.let_go()
        if self._secondary:
            for part in self._secondary.values():
                part.company.parts.remove(part)
                part.let_go()
            self._secondary.clear()

    def _end_turns(self) -> None:
        for part in self.parts():
            part.end_turn()

    def discard(self, why: SessionError | None = None) -> None:
        """Drop what is not committed; nothing more is committed by this visit.

        `why`: what `Session.commit` raises from now on.
        """
        why = why or SessionUnavailable("the response was refused, and what its request changed")
        for part in self.parts():
            part.drop(part.session, why)

    def remains(self) -> list[tuple[str, str]]:
        """The headers to add to a refusal: those of what was committed before, such as the cookie
        of a session that was renewed."""
        return self.headers() if any(part.committed for part in self.parts()) else []

    def is_alive(self) -> bool:
        """Whether the main session exists, by what this node knows now."""
        known, group = self.session.known, self.company.group
        if known is None or group is None:
            return False
        state = self._home.state
        return state.held(group, None) is not None and state.buried(group, known.key) is None

    def are_idle(self) -> bool:
        """See `is_idle`; of all."""
        return all(part.is_idle() for part in self.parts())

    def _companies(self) -> Sequence[Company]:
        """Those of this visit's sessions, the main one's first: nearly always there is only one."""
        if not self._secondary:
            return (self.company,)
        return [*dict.fromkeys(part.company for part in self.parts())]

    # --- headers ---

    def headers(self) -> list[tuple[str, str]]:
        """The headers to add to the response, after `respond`; `Vary` is told by `vary`."""
        found: list[tuple[str, str]] = []
        if self.left:
            return found
        if self.terms.in_headers:
            self._tell_token(found)
        else:
            for part in self.parts() if self._secondary else (self,):
                if (cookie := part.cookie()) is not None:
                    found.append(("set-cookie", cookie))  # noqa: PERF401 -- faster for none
        if self._shared or self._home.route_cookies is None:
            return found
        companies = self._companies()
        if (value := self._told_route(companies, self._home.route_cookies)) is not None:
            found.append(self._route_header(value))
            if self._outer is not None:
                self._outer._told_inside = True
        found += self._told_copies(companies)
        return found

    def _told_copies(self, companies: Sequence[Company]) -> list[tuple[str, str]]:
        copies = most = self._home.backups
        for company in companies:
            if company.receipt is not None:
                copies = min(copies, company.receipt.copies)
        return [(COPIES, str(copies))] if copies < most else []

    def told_if_idle(self) -> Told | None:
        """`respond` and `told_in_parts` at once, where nothing is to be committed; else None."""
        if self.started or self.left or self.refusal is not None:
            return None
        if not (self.is_idle() if not self._secondary else self.are_idle()):
            return None
        self.started = True
        if self.turn is not None or self._secondary:
            self._end_turns()
        return self.told_in_parts()

    def told_in_parts(self) -> Told:
        """The same as `headers`, for frameworks that write cookies themselves."""
        if self.left or self.terms.in_headers:
            return Told([], self.headers())
        cookies = [
            Cookie(part.terms.cookies.name, news.value, "session")
            for part in self.parts()
            if (news := part.news()) is not None
        ]
        if self._shared or self._home.route_cookies is None:
            return Told(cookies, [])
        companies = self._companies()
        if (value := self._told_route(companies, self._home.route_cookies)) is not None:
            cookies.append(Cookie(self.terms.route_attributes.name, value, "route"))
        return Told(cookies, self._told_copies(companies))

    def _tell_token(self, found: list[tuple[str, str]]) -> None:
        """All sessions in one header, if there is news of one: the client keeps it as it is."""
        parts = {"": self, **self._secondary}
        if all(part.news() is None for part in parts.values()):
            return
        tokens = [(name, token) for name, part in parts.items() if (token := part.token())]
        found.append((TOKEN, token_of(tokens)))
        found.append(("cache-control", "no-store"))  # caches know of cookies only

    def _route_header(self, value: str) -> tuple[str, str]:
        if self.terms.in_headers:
            return ROUTE, value
        attributes, age = self.terms.route_attributes, self.terms.max_age
        return "set-cookie", attributes.set(value, age, secure=self.secure)

    def _told_route(self, companies: Sequence[Company], cookies: RouteCookies) -> str | None:
        """Where the client's sessions are: those of one group, for there is one such cookie."""
        for company in companies:
            if company.used:
                break
        else:
            return None
        if company.held is None:
            return None
        held, group = company.held, company.group
        assert group is not None, "what is held has a group"
        names = _server_names(held.holders)
        home = self._home
        if home.server != home.node_server and names[0] == home.node_server:
            names = (home.server, *names[1:])
        if company.receipt is None:
            if self._told_inside:
                return None
            if not company.extended and self._is_known(names, group, held.position):
                return None
        return cookies.write(Route(names, group, held.position, self._home.cluster))

    def _is_known(self, names: tuple[str, ...], group: GroupID, position: Position) -> bool:
        """Whether the client has this route; a newer version alone is no news without a write."""
        route = self.route
        if route is None or self.foreign:
            return False
        same = route.servers == names and route.group == group
        return same and route.position.epoch == position.epoch


def opted_out(home: Home, terms: Terms) -> Visit:
    """The visit of a request that shall have no session of its client: with an empty one, of which
    nothing is kept. It looks for nothing, so the engine need not run."""
    visit = Visit(home, terms, ())
    visit.arrive()
    visit.discard(
        SessionError("this request is opted out (`exclude`): nothing of its session is stored")
    )
    return visit


class Cookie(NamedTuple):
    """A cookie that a response sets."""

    name: str
    value: str | None
    """None: the browser is to forget it."""
    kind: Literal["session", "route"]
    """The route cookie is a client's, not an application's: its path is `/`."""


class Told(NamedTuple):
    """What a response tells its client."""

    cookies: list[Cookie]
    headers: list[tuple[str, str]]


class Secondary(Part):
    """A secondary session in a visit."""

    def __init__(self, visit: Visit, terms: Terms, ticket: Ticket | None) -> None:
        Part.__init__(self, terms, ticket, visit.now)
        self._visit = visit

    @property
    def visit(self) -> Visit:
        """The visit that it is part of."""
        return self._visit


def visit_of(session: object) -> Visit | None:
    """The visit of a session that a door left in the request's scope, while it lasts."""
    visit = session.keeper if isinstance(session, Session) else None
    return visit if isinstance(visit, Visit) and not visit.left else None


def _lifetimes(create: Create, idle_timeout: float | None, lifetime: float | None) -> Create:
    """`create` with these in the place of its own, in seconds."""
    idle, life = create.idle_timeout, create.lifetime
    if idle_timeout is not None:
        if not 0 < idle_timeout <= LONGEST:
            raise ValueError(f"`idle_timeout` {idle_timeout} is not from 0 to {LONGEST} seconds")
        idle = int(idle_timeout * 1000)
    if lifetime is not None:
        if not 0 < lifetime <= LONGEST and lifetime != math.inf:
            raise ValueError(f"`lifetime` {lifetime} is not from 0 to {LONGEST} seconds, or inf")
        life = 0 if lifetime == math.inf else int(lifetime * 1000)
    return Create(idle, life)
