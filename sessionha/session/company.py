"""The sessions of one client in one request: those of a group are loaded and committed at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from sessionha.errors import (
    ElementNotEncodable,
    SessionBusy,
    SessionError,
    SessionRevoked,
    SessionUnavailable,
)
from sessionha.identity import GroupID, Position, SessionKey, new_group, session_key
from sessionha.peer.messages import Batch, Create
from sessionha.session.cookies import REMEMBERED, Ticket
from sessionha.session.session import (
    DictSession,
    Known,
    Prepared,
    Session,
    UnavailableSession,
)
from sessionha.session.subject import Register
from sessionha.session.terms import Home, Terms
from sessionha.state.base import Held, Loaded, Receipt, Turn, Unsettled, touch_interval

if TYPE_CHECKING:
    from sessionha.session.visit import Visit

log = logging.getLogger("sessionha.session")

LATE_MS: Final = 60_000
"""Requests that carry an ID which was renewed or destroyed a moment ago were under way then. They
do not clear the cookie: the browser may hold a newer one by now. A minute outlasts a page load."""

REPORTED: Final = 256
"""Names of undecodable elements that are remembered as reported."""

LOOKS: Final = 8
"""How often several sessions are read again at once because a commit came between."""


class _NobodysSession(Session):
    """A session that cannot be used and keeps nothing: all visits share it."""

    _made = False

    def __init__(self) -> None:
        super().__init__()
        self._made = True

    def __setattr__(self, name: str, value: object) -> None:
        if self._made:
            self._use()
        super().__setattr__(name, value)

    def _use(self) -> NoReturn:
        raise LookupError("the request is over: keep the session itself while it runs")

    def discard(self) -> None:
        """There is nothing."""


NOBODYS: Final[Session] = _NobodysSession()
"""What a visit has before it has found its sessions, and when it is over."""

_stored_under = lru_cache(REMEMBERED)(session_key)


class Part:
    """One session in a visit: what the request brought for it, and what the response must tell."""

    company: Company
    key: SessionKey = b""
    """Under what the session that the request brought is stored."""
    loaded = False
    due = False
    """Whether a use of the session should be recorded."""
    gone = False
    extended = False
    committed = False
    closed: SessionError | None = None
    """Why nothing more is committed."""
    stillborn: str | None = None
    source: Callable[[], object] | None = None
    """Tells what stands where the framework keeps its dict, should the application have put
    another mapping there."""

    turn: Turn | None = None
    counted = ""
    """The session ID under which it counts as under way."""
    create: Create | None = None
    """Lifetimes of its own, should it begin in this request."""

    def __init__(self, terms: Terms, ticket: Ticket | None, now: float) -> None:
        self.terms = terms
        self.ticket = ticket
        self.now = now
        """The wall clock, in seconds."""
        self.session: Session = NOBODYS

    @property
    def visit(self) -> Visit:
        """The visit that it is part of."""
        raise NotImplementedError

    # --- arriving ---

    def begin_new(self, failure: SessionError | None = None) -> None:
        """Begin with a new session, or with one that cannot be had."""
        self.session = Session(failure=failure, now=self.now, depth=self.terms.depth)
        self.session.keeper = self

    def is_admitted(self) -> bool:
        """Whether the request may have the session beside others that have it; it counts then."""
        ticket, terms = self.ticket, self.terms
        if ticket is None:
            self.begin_new()
            return False
        others = terms.under_way.get(ticket.session_id, 0)
        if others >= terms.session_requests:
            if not terms.session_requests:
                self.key = _stored_under(ticket.session_id, terms.virtual_server)
                return True
            self.fail(SessionBusy.crowded(others))
            return False
        self.counted = ticket.session_id
        terms.under_way[self.counted] = others + 1
        self.key = _stored_under(self.counted, terms.virtual_server)
        return True

    def load(self) -> Loaded | None:
        """The stored session; None: it is not there. May raise Unsettled."""
        company = self.company
        assert company.group is not None, "a ticket names a group"
        return company.home.state.load(company.group, self.key, company.floor)

    def meet(self, loaded: Loaded | None) -> None:
        """Begin with what is stored."""
        ticket, company = self.ticket, self.company
        assert ticket is not None, "who was looked for has a ticket"
        if loaded is None:
            self.end_turn()
            assert company.group is not None, "a ticket names a group"
            buried = company.home.state.buried(company.group, self.key)
            if buried is None and self.visit.astray:
                company.home.count("session_foreign")
                self.fail(SessionUnavailable.in_another_cluster())
            else:
                self.lose(clear=buried is None or buried > LATE_MS)
            return
        held = company.held = loaded.held
        company.read = held.position
        self.loaded = True
        self.due = self._is_due(loaded, ticket)
        known = Known(
            ticket.session_id,
            self.key,
            loaded.elements,
            loaded.age,
            loaded.idle_timeout,
            loaded.life_left,
            loaded.owner,
        )
        self.session = session = Session(known, now=self.now, depth=self.terms.depth)
        session.found = company.home.engine, held
        session.keeper = self

    def fail(self, error: SessionError) -> None:
        """Begin with a session that raises `error` when it is used."""
        busy = type(error) is SessionBusy
        self.company.home.count("session_busy" if busy else "session_unavailable")
        self.end_turn()
        self.begin_new(error)

    def lose(self, *, clear: bool = True) -> None:
        """The session is gone: as no cookie; the browser is told to forget it."""
        self.company.home.count("session_gone")
        self.gone = clear
        self.begin_new()

    def _is_due(self, loaded: Loaded, ticket: Ticket) -> bool:
        """Whether a use should be recorded, or the cookie's deadline lags behind recorded ones."""
        if not self.terms.touches:
            return False
        if loaded.touch_due:
            return True
        interval = touch_interval(loaded.idle_timeout) / 1000
        return self._ends(loaded) - ticket.deadline >= max(interval, 1)

    def _ends(self, session: Known | Loaded) -> int:
        left = session.idle_timeout
        if session.life_left is not None:
            left = min(left, session.life_left)
        return int(self.now + left / 1000)

    def move(self, company: Company) -> None:
        """Be in this company from now on."""
        self.company.parts.remove(self)
        self.company = company
        company.parts.append(self)

    # --- what its session asks ---

    async def commit(self, session: Session) -> Receipt | None:
        """See `Session.commit`."""
        receipt = None
        if self.closed is None:
            receipt = await self.company.commit(Member(self, session))
        if self.closed is not None:  # perhaps while it waited
            raise self.closed
        return receipt

    def companion(self, name: str, idle_timeout: float | None, lifetime: float | None) -> Session:
        """See `Session.secondary`."""
        return self.visit.secondary(name, idle_timeout, lifetime)

    def register(self) -> Register:
        """See `Keeper.register`."""
        return Register(self.company.home.state, self.terms.virtual_server)

    def companions(self) -> Sequence[Session]:
        """See `Keeper.companions`."""
        visit = self.visit
        return () if visit.left else [part.session for part in visit.parts()]

    # --- leaving ---

    @property
    def told(self) -> bool:
        """Whether the response depends on the cookie."""
        return self.gone or self.committed or self.session.accessed

    def is_idle(self) -> bool:
        """Whether nothing is to be committed or recorded: the usual end of a request that reads."""
        if self.company.committing:
            return False
        session = self.session
        if session.touched or (self.due and not self.extended):
            return False
        if self.source is None:
            if not session.accessed:
                return True
        elif not session.is_face(self.source()):
            return False
        return session.is_untouched()

    def is_changed(self) -> bool:
        """Whether something of the session is not committed."""
        try:
            return bool(self.session.prepare(_no_id, self.terms.create).changes)
        except ElementNotEncodable:
            return True

    def prepare(self, session: Session) -> Prepared | None:
        """What is to be committed now; None: nothing, and that is recorded where it is news."""
        if self.closed is not None:
            return None
        self._look(session)
        if session.failure is not None or not (session.accessed or session.touched):
            return None
        create = self.create or self.terms.create
        prepared = session.prepare(self._mint, create)
        if session.unreadable:
            self._report_unreadable(session)
        if create.idle_timeout <= 0 and session.new:
            self.stillborn = prepared.after.session_id if prepared.after else None
            return None
        if not prepared.changes:
            self._touch(session)
            return None
        return prepared

    def settle(self, session: Session, prepared: Prepared, receipt: Receipt) -> None:
        """What was prepared is committed."""
        if prepared.changes[-1].ends_empty and self._has_ended(prepared):
            prepared = prepared._replace(after=None)
        session.settle(prepared, receipt)
        self.committed = True
        if self.due or session.touched or prepared.changes[-1].idle_timeout:
            self.extended = True  # a commit is a recorded use

    def _has_ended(self, prepared: Prepared) -> bool:
        group, change = self.company.group, prepared.changes[-1]
        assert group is not None, "what is committed has a group"
        try:
            return self.company.home.state.load(group, change.key, None) is None
        except Unsettled:
            return False  # it has moved on since; whoever comes with the cookie will be told

    def end_turn(self) -> None:
        """Let the next request have the session, where requests take turns."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.end()

    def make_room(self) -> None:
        """The request does not have the session any more."""
        if self.turn is not None:
            self.end_turn()
        if self.counted:
            session_id, self.counted = self.counted, ""
            under_way = self.terms.under_way
            others = under_way.pop(session_id) - 1
            if others:
                under_way[session_id] = others

    def let_go(self) -> None:
        """Forget the session, which does not forget."""
        self.make_room()
        if self.source is not None and self.session.is_face(self.source()):
            self.source = None
        self.session = NOBODYS

    def drop(self, session: Session, why: SessionError) -> None:
        """Drop what is not committed; nothing more is committed, and who asks for it is told."""
        if self.closed is None:
            self.closed = why
        session.discard()
        self.end_turn()

    def _look(self, session: Session) -> None:
        values = self.source() if self.source else None
        if values is None or session.is_face(values):
            return
        if isinstance(values, UnavailableSession | DictSession) or not isinstance(values, Mapping):
            return  # that of another middleware, inside this one, or nothing to be stored
        if session.failure is not None:
            raise session.failure  # there is no session to be replaced
        session.adopt(values)

    def _mint(self) -> tuple[str, SessionKey]:
        if self.visit.started or self.visit.left:
            raise SessionError(
                "a session cannot begin or be renewed after the response has started: its cookie"
                " could not be sent any more; put data in, or renew it, before"
            )
        company = self.company
        if company.group is None:
            company.settle_down(self.visit)
        assert company.group is not None, "a new session has a group"
        session_id = self.terms.cookies.ids.new(company.group)
        return session_id, session_key(session_id, self.terms.virtual_server)

    def _touch(self, session: Session) -> None:
        group, known = self.company.group, session.known
        if not self.loaded or known is None or group is None:
            return
        if session.touched or (self.due and not self.extended and session.accessed):
            session.touched = False
            # Not where it ended meanwhile: its cookie could take the place of a newer one.
            self.extended |= self.company.home.state.touch(group, known.key)

    def cookie(self) -> str | None:
        """The `Set-Cookie` header of the session, None where there is no news."""
        if not (self.committed or self.gone or self.extended or self.stillborn):
            return None  # as `news` would say; nearly every request that reads ends here
        if (news := self.news()) is None:
            return None
        attributes, secure = self.terms.attributes, self.visit.secure
        if news.value is None:
            return attributes.delete(secure=secure)
        return attributes.set(news.value, news.max_age, secure=secure)

    def news(self) -> News | None:
        """What the client is to keep of the session from now on, None where there is no news."""
        if not (self.committed or self.gone or self.extended or self.stillborn):
            return None
        session = self.session
        if not self.committed and (session.failure is not None or self.closed is not None):
            return None
        terms = self.terms
        if terms.bare:
            return None
        if self.stillborn is not None:
            return News(terms.cookies.write(self.stillborn, 0), terms.max_age)
        known = session.known
        if known is None:
            cleared = self.gone or (self.ticket is not None and self.committed)
            return FORGET if cleared else None
        if self._is_announced(known):
            return None
        max_age = terms.max_age
        if max_age is not None and known.idle_timeout != terms.create.idle_timeout:
            max_age = -(-known.idle_timeout // 1000)  # it began with lifetimes of its own
        return News(terms.cookies.write(known.session_id, self._ends(known)), max_age)

    def token(self) -> str | None:
        """What the client has from now on in a header's place of the cookie; None: nothing."""
        if (news := self.news()) is not None:
            return news.value
        ticket = self.ticket
        return (
            None if ticket is None else self.terms.cookies.write(ticket.session_id, ticket.deadline)
        )

    def _is_announced(self, known: Known) -> bool:
        same = self.ticket is not None and self.ticket.session_id == known.session_id
        return same and not self.extended

    def _report_unreadable(self, session: Session) -> None:
        for name in session.unreadable:
            reported = self.terms.reported
            if name not in reported and len(reported) < REPORTED:
                reported.add(name)
                self.company.home.count("element_unreadable")
                log.warning(
                    "element %r of a session cannot be decoded here and is kept as it is: was it"
                    " written by a newer version?",
                    name,
                )


def _no_id() -> tuple[str, SessionKey]:
    """What a session would have for an ID and a key that only shall tell whether it changed."""
    return "", b""


class News(NamedTuple):
    """What a client is told of a session."""

    value: str | None
    """Of the cookie; None: it is to be forgotten."""
    max_age: int | None = None
    """Seconds that a browser keeps it; None: as long as it runs."""


FORGET: Final = News(None)


class Member(NamedTuple):
    """A session whose changes are to be committed. Its part forgets it when the request is over,
    which may be while the commit waits or is under way."""

    part: Part
    session: Session


class Ready(NamedTuple):
    """What one session brings into a batch."""

    part: Part
    session: Session
    prepared: Prepared

    @property
    def needs(self) -> SessionKey | None:
        """Under what the session must be stored for it; None: it need not be."""
        for change in self.prepared.changes:
            if change.create is None and not change.destroy:
                return change.replaces or change.key
        return None


class Company:
    """The sessions of one group that are in a request: one position, one batch, one receipt.

    Middlewares around each other share it, so it is here that a session which begins in the inner
    application finds the group of the outer one's.
    """

    held: Held | None = None
    read: Position | None = None
    """What the sessions show, but for own changes; what is newer, others changed."""
    fresh = False
    """Whether the group was made in this request, and nothing of it is committed."""
    receipt: Receipt | None = None
    committing = False
    _committed: asyncio.Event | None = None

    def __init__(self, home: Home, group: GroupID | None, floor: Position | None = None) -> None:
        self.home = home
        self.group = group
        """None: whoever of them begins first decides."""
        self.floor = floor
        self.parts: list[Part] = []

    # --- arriving ---

    def expected(self) -> Sequence[Part]:
        """Those whose sessions are still to be found."""
        return [part for part in self.parts if part.session is NOBODYS]

    def find(self) -> bool:
        """Begin with the stored sessions; False: they must be acquired."""
        state, group = self.home.state, self.group
        if not state.local or group is None:
            return False
        try:
            if len(self.parts) == 1:
                part = self.parts[0]
                part.meet(state.load(group, part.key, self.floor))
            elif not self._find_all(self.expected()):
                return False
        except SessionUnavailable:
            return False  # it is elsewhere, or the store fails: `acquire` tells which
        if self.held is None:
            self.group = None
        return True

    def _find_all(self, parts: Sequence[Part]) -> bool:
        """Find several sessions as they were at one position: what one of them shows, and another
        does not yet, is never seen."""
        for _ in range(LOOKS):
            found = [part.load() for part in parts]
            positions = {loaded.held.position for loaded in found if loaded is not None}
            if not positions or positions == self._position():
                self._meet(parts, found)
                return True
        return False

    def _position(self) -> set[Position]:
        """Where the group is now: so what was found there before is there still."""
        assert self.group is not None, "a ticket names a group"
        held = self.home.state.held(self.group, self.floor)
        return set() if held is None else {held.position}

    def _meet(self, parts: Sequence[Part], found: Sequence[Loaded | None]) -> None:
        for part, loaded in zip(parts, found, strict=True):
            part.meet(loaded)

    async def acquire(self, outside: Mapping[SessionKey, Turn]) -> None:
        """Fetch the sessions to this node, and wait for their turns where requests take turns. It
        never raises: a session that cannot be had raises SessionUnavailable when it is used.

        `outside`: the turns that visits around this one have, by session.
        """
        state, group, parts = self.home.state, self.group, self.expected()
        assert group is not None, "nothing to acquire without a session cookie"
        turns = dict(outside)
        try:
            for part in sorted(parts, key=lambda part: part.key):  # in one order, so nobody waits
                if part.key not in turns and part.terms.session_requests:  # for whom waits for him
                    part.turn = await state.turn(group, part.key, [*turns.values()])
                    if part.turn is not None:
                        turns[part.key] = part.turn
            await self._acquire(group, parts)
        except SessionError as error:
            for part in parts:
                part.fail(error)
            return
        if self.held is None:
            self.group = None

    async def _acquire(self, group: GroupID, waiting: Sequence[Part]) -> None:
        state, looks = self.home.state, LOOKS
        while waiting:
            first, rest = waiting[0], waiting[1:]
            loaded = await state.find(group, first.key, self.floor)
            if loaded is None:
                first.meet(None)
                waiting = rest
                continue
            try:
                found = [loaded, *(part.load() for part in rest)]
            except Unsettled:
                found = []
            # What was found at the position that is vouched for is vouched for as well. What was
            # not found has no position: it was gone then if the group is still where it was.
            positions = {one.held.position for one in found if one is not None}
            if positions == {loaded.held.position} and (
                None not in found or positions == self._position()
            ):
                self._meet(waiting, found)
                return
            if not (looks := looks - 1):
                raise SessionUnavailable("the client's sessions are in use without pause")

    def lose(self) -> None:
        """The group is nowhere."""
        for part in self.expected():
            part.lose()
        self.group = None

    # --- who belongs to it ---

    @property
    def used(self) -> bool:
        """Whether the request has used it, so that its response tells where it is."""
        if self.receipt is not None:
            return True
        for part in self.parts:  # noqa: SIM110 -- this and the next are faster for one
            if part.session.accessed:
                return True
        return False

    @property
    def extended(self) -> bool:
        """Whether a use of one of them was recorded."""
        for part in self.parts:  # noqa: SIM110
            if part.extended:
                return True
        return False

    @property
    def failed(self) -> bool:
        """Whether its sessions could not be had."""
        return any(part.session.failure is not None for part in self.parts)

    def has_room(self) -> bool:
        """Whether one more session may begin in it."""
        if self.group is None or self.fresh:
            return True
        floor = self.held.position if self.held is not None else None
        try:
            return self.home.state.has_room(self.group, floor)
        except SessionUnavailable:
            return False  # the store fails, as the commit will tell

    def take(self, other: Company) -> None:
        """Let the sessions of another company, which were found later, belong to this one."""
        for part in other.parts:
            part.company = self
        self.parts += other.parts
        other.parts = []
        if self.group is None:
            self.group, self.floor, self.read = other.group, other.floor, other.read
        if other.held is not None:
            self.held = other.held

    def settle_down(self, visit: Visit) -> None:
        """Choose the group: beside the client's other sessions if this node serves them."""
        route = None if visit.foreign else visit.route
        if route is not None and self.home.state.has_room(route.group, route.position):
            self.group = route.group
        else:
            self.group, self.fresh = new_group(), True

    # --- committing ---

    async def commit(self, asks: Member | None = None) -> Receipt | None:
        """Commit what the sessions hold now, all in one batch. None: there was nothing to do.

        Sessions that were destroyed meanwhile are left out, and their changes dropped: what the
        others hold is stored all the same.

        `asks`: whose commit it is; when its request is over, it alone is committed.

        Raises:
            SessionRevoked: it was destroyed, and may begin anew; or all that had changes were.
            SessionError: what `Session.commit` lists.
        """
        members = self._members(asks)
        if self.committing:
            members = await self._turn(members, asks)
        ready = []
        for part, session in members:
            if (prepared := part.prepare(session)) is not None:
                ready.append(Ready(part, session, prepared))
        if not ready:
            return None
        revoked = None
        # Never waited for without peers: then no commit suspends, on any kind of event loop.
        self.committing = True
        try:
            receipt = await self._store(ready)
        except SessionRevoked as error:
            ready, receipt, revoked = await self._store_living(ready, error, asks)
        finally:
            self.committing = False
            if self._committed is not None:
                self._committed.set()
                self._committed = None
        for part, session, prepared in ready:
            part.settle(session, prepared, receipt)
        self.fresh = False
        self.receipt = receipt
        self.held = Held(receipt.position, receipt.holders)
        read = self.read
        if read is None or receipt.position == (read.epoch, read.version + 1):
            self.read = receipt.position  # nobody wrote in between
        if revoked is not None:
            raise revoked
        return receipt

    def _members(self, asks: Member | None) -> list[Member]:
        if asks is not None and asks.part not in self.parts:
            return [asks]  # the request is over; whoever kept its session may still commit
        return [Member(part, part.session) for part in self.parts]

    async def _turn(self, members: list[Member], asks: Member | None) -> list[Member]:
        """Wait until the commit that is under way has ended; who is to be committed then. Those
        whose request ended meanwhile are among them: their commit was asked for before."""
        while self.committing:
            if self._committed is None:
                self._committed = asyncio.Event()
            await self._committed.wait()
        present = self._members(asks)
        parts = [member.part for member in present]
        return present + [member for member in members if member.part not in parts]

    def _store(self, ready: Sequence[Ready]) -> Awaitable[Receipt]:
        group = self.group
        assert group is not None, "what changed has a group"
        changes = ready[0].prepared.changes
        for other in ready[1:]:
            changes += other.prepared.changes
        batch = Batch(group, changes, self.read)
        floor = self.held.position if self.held is not None else None
        state = self.home.state
        alone = not state.local and any(part.turn is not None for part in self.parts)
        return state.commit(batch, fresh=self.fresh, floor=floor, alone=alone)

    async def _store_living(
        self, ready: Sequence[Ready], error: SessionRevoked, asks: Member | None
    ) -> tuple[list[Ready], Receipt, SessionRevoked | None]:
        """Leave out the sessions that were destroyed: to the others it is as if that had come
        right after. What was stored, the receipt, and what is to be told to who asks."""
        told = None
        while True:
            gone = await self._gone(ready)
            for part, session, _ in gone:
                if asks is not None and part is asks.part:
                    told = error
                    continue
                self.home.count("session_revoked")
                part.drop(session, SessionRevoked(str(error)))
            ready = [one for one in ready if one not in gone]
            if not ready:
                raise error
            try:
                return ready, await self._store(ready), told
            except SessionRevoked as another:
                error = another

    async def _gone(self, ready: Sequence[Ready]) -> Sequence[Ready]:
        """Which of them brought about that the batch was refused."""
        needing = [one for one in ready if one.needs is not None]
        if len(needing) <= 1:
            return needing or ready
        group, state = self.group, self.home.state
        assert group is not None, "what was refused has a group"
        found = [await state.find(group, one.needs, None) for one in needing if one.needs]
        return [one for one, at in zip(needing, found, strict=True) if at is None] or ready
