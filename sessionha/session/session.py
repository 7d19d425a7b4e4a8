"""What the application sees of a session: a mapping that knows exactly what was changed.

Two faces, one body. `Session` reads element by element; `DictSession`, for frameworks that promise
a dict, holds every value in the storage of a real dict. When both exist the dict is the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from operator import is_
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar, overload

from sessionha.errors import ElementNotEncodable, ElementNotReadable, SessionError
from sessionha.identity import Position, SessionKey, encode64, group_of
from sessionha.peer.messages import Create, Owner, SessionChange
from sessionha.session.layout import Layout, layout_of
from sessionha.session.subject import NOBODY, Register, checked_subject, log_out, log_out_one
from sessionha.state.base import Elements, Held, LoggedOut, Receipt, Siblings, Stored
from sessionha.values.address import DataAddress
from sessionha.values.codec import DEPTH, IMMUTABLE, Undecodable, encode, is_unchanged
from sessionha.values.managers import COUNTER, VALUE, manager_for, operation_between, read

NAME_BYTES: Final = 256
"""Longest name of an element: it is part of a key of the store, which has 511 bytes."""

LONGEST: Final = 10 * 366 * 86_400
"""Seconds: a longer time is a mistake of units."""

_VALUE: Final = VALUE.name
_NEW: Final = (_VALUE, None)
_MISSING: Final = object()


class Served(NamedTuple):
    """Who serves a session, and from what."""

    engine: str
    """The engine's ID inside its node."""
    position: Position
    holders: tuple[str, ...]
    """Node IDs: the primary, which is this node, then its backups in order."""


class Known(NamedTuple):
    """A session that exists: its ID, what it is stored under, and what was loaded of it."""

    session_id: str
    key: SessionKey
    elements: Mapping[str, tuple[str, bytes]]
    age: int = 0
    """Milliseconds since it was created."""
    idle_timeout: int = 0
    """Milliseconds that it may be unused."""
    life_left: int | None = None
    """Milliseconds until it ends, used or not; None: no absolute lifetime."""
    owner: Owner | None = None
    """Whose it is."""

    def __repr__(self) -> str:
        return f"<Known: {len(self.elements)} elements>"  # never an ID or a value


class Prepared(NamedTuple):
    """Changes that are ready to be committed, and what is known once they are."""

    changes: tuple[SessionChange, ...]
    after: Known | None
    deleted: frozenset[str]
    marks: int
    seen: int
    """How many changes had been made until then."""
    values: Mapping[str, Any]
    """The values behind the changes, as they were when they were encoded."""


class _Notes:
    """What both faces of a session note. They share it, and do not know each other from it: so
    that a request leaves nothing behind that only the garbage collector can free."""

    __slots__ = (
        "begun", "changes", "cleared", "count", "deleted", "destroyed", "emptied", "idle", "renew",
        "subject", "unreadable",
    )  # fmt: skip

    def __init__(self) -> None:
        self.changes = 0
        """Counts every assignment and deletion, and what flags and subject were set for."""
        self.unreadable: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.cleared = False
        self.destroyed = False
        self.renew = False
        self.begun = False
        """Whether it shall exist though nothing is in it."""
        self.idle = 0
        """Milliseconds that it may be unused from now on; 0: as it was."""
        self.emptied = False
        """Whether it shall end if nobody else has put something in."""
        self.subject: str | None = None
        """Whose it shall be; empty: nobody's; None: whose it is."""
        self.count = 0
        """Counts what the flags, the time and the subject were set for, see `Session.settle`."""

    def note_cleared(self) -> None:
        """Every element was dropped, those that cannot be read included."""
        self.unreadable.clear()
        self.deleted.clear()
        self.count += 1
        self.cleared = True
        self.subject = ""

    def reset(self) -> None:
        """What the flags, the time and the subject asked for is done."""
        self.destroyed = self.cleared = self.renew = self.begun = self.emptied = False
        self.idle = 0
        self.subject = None

    def forget_unreadable(self, name: str) -> bool:
        """The application deleted this name; whether an undecodable element had it."""
        return self.unreadable.pop(name, None) is not None

    def refuse_unreadable(self, name: str) -> None:
        """Raise ElementNotReadable when an undecodable element has this name."""
        if name in self.unreadable:
            raise ElementNotReadable(name, self.unreadable[name])


class Keeper(Protocol):
    """What a session needs of the request that it is in."""

    async def commit(self, session: Session) -> Receipt | None:
        """See `Session.commit`."""

    def companion(self, name: str, idle_timeout: float | None, lifetime: float | None) -> Session:
        """See `Session.secondary`."""

    def register(self) -> Register:
        """Where the sessions of its subject are known."""

    def companions(self) -> Sequence[Session]:
        """The client's sessions that the request knows, this one included; none when it is over."""


class Session(MutableMapping[str, Any]):
    """The session of one client in one virtual server, for the time of one request.

    Values are plain Python values; changes inside them are noticed by comparing encoded forms, so
    no flag has to be set. Nothing is stored until data is put in, or a subject is set. An element
    that this process cannot decode is not iterated over, but it is `in` the session, raises
    ElementNotReadable when it is read, and stays as it is until it is assigned or deleted.

    Every use of a session that could not be acquired raises SessionUnavailable.
    """

    def __init__(
        self,
        known: Known | None = None,
        *,
        failure: SessionError | None = None,
        now: float = 0.0,
        depth: int = DEPTH,
    ) -> None:
        self._known = known
        self._failure = failure
        self._now = now
        self._depth = depth
        self._values: dict[str, Any] = {}
        self._counters: set[str] = set()  # elements that `increment` makes counters
        self._decoded: dict[str, Any] = {}  # the very objects that the stored forms became
        self._layout: Layout | None = None
        self._changeable: list[Any] = []
        self._notes = _Notes()
        self._face: DictSession | None = None
        self._accessed = False
        self._seen = 0  # changes up to which `prepare` has told what must be committed
        self._receipt: Receipt | None = None
        self.found: tuple[str, Held] | None = None
        self.touched = False
        self.keeper: Keeper | None = None

    # --- the mapping ---

    def __getitem__(self, name: str) -> Any:
        self._use()
        if name in self._values:
            return self._values[name]
        if self._face is None and name in self._stored and name not in self._notes.deleted:
            self._decode(name)
        self._notes.refuse_unreadable(name)
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._change()
        check_name(name)
        self._notes.unreadable.pop(name, None)
        self._notes.deleted.discard(name)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._change()
        self._notes.unreadable.pop(name, None)
        self._values.pop(name, None)
        self._notes.deleted.add(name)

    def __contains__(self, name: object) -> bool:
        self._use()
        if name in self._values or name in self._notes.unreadable:
            return True
        return self._face is None and name in self._stored and name not in self._notes.deleted

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def clear(self) -> None:
        """Drop every element. A session that is still empty at the end of the request ends."""
        self._change()
        if self._face is not None:
            self._face.clear()
        else:
            self._values.clear()
            self._notes.note_cleared()

    def __repr__(self) -> str:
        if self._failure is not None:
            return "<Session: unavailable>"
        return f"<Session: {'new' if self.new else 'known'}>"  # never an ID or a value

    def increment(self, name: str, by: float = 1) -> Any:
        """Add to a number, 0 at first, and return what this request sees then.

        The element becomes a counter: what requests add at the same time adds up, also on several
        servers, and a number that is assigned to it counts as the difference to the one before.

        Raises:
            TypeError: the element is no number.
        """
        value = self.get(name, 0)
        if not COUNTER.accepts(value) or not COUNTER.accepts(by):
            kind = type(by if COUNTER.accepts(value) else value).__name__
            raise TypeError(f"session[{name!r}] cannot be incremented with a {kind}")
        self[name] = value + by
        self._counters.add(name)
        return value + by

    # --- what it is ---

    @property
    def id(self) -> str | None:
        """The session's ID: a secret. None until data was committed for the first time."""
        self._use()
        return self._known.session_id if self._known else None

    def address(self, name: str, *path: str | int) -> str:
        """The address of a committed element, or of what is inside it, for the HTTP data API. It
        is no secret; whoever uses it needs the session's ID too.

        Raises:
            KeyError: no such element was committed so far.
        """
        self._use()
        known = self._known
        if known is None or name not in known.elements:
            raise KeyError(name)
        session = DataAddress(group_of(known.session_id), known.key)
        return str(session.at(known.elements[name][0], name, *path))

    @property
    def known(self) -> Known | None:
        """The session as it is committed; for the doors, it does not count as a use."""
        return self._known

    @property
    def new(self) -> bool:
        """Whether no committed data exists yet."""
        return self._known is None

    @property
    def accessed(self) -> bool:
        """Whether this request used the session, so that its response depends on the cookie."""
        return self._accessed or (self._face is not None and self._face.accessed)

    @property
    def modified(self) -> bool:
        """Whether an element was assigned or deleted, or the session renewed or destroyed."""
        return self._notes.changes > 0

    @property
    def age(self) -> float:
        """Seconds since the session was created, 0 for a new one."""
        self._use()
        return self._known.age / 1000 if self._known else 0.0

    @property
    def created(self) -> datetime | None:
        """When the session was created (UTC, by this node's clock), None for a new one."""
        return datetime.fromtimestamp(self._now - self.age, UTC) if self._known else None

    @property
    def idle_timeout(self) -> float | None:
        """Seconds that the session may be unused; None for a new one that has what is the rule.

        Set it to give this session another: from the commit on it counts, on every node.

        Raises:
            ValueError: it is not from 0 to ten years.
        """
        self._use()
        found = self._notes.idle or (self._known.idle_timeout if self._known is not None else 0)
        return found / 1000 if found else None

    @idle_timeout.setter
    def idle_timeout(self, seconds: float) -> None:
        if not 0 < seconds <= LONGEST:
            raise ValueError(f"`idle_timeout` {seconds} is not from 0 to {LONGEST} seconds")
        wanted = max(1, int(seconds * 1000))
        if self._notes.idle or self._known is None or wanted != self._known.idle_timeout:
            self._change()
            self._notes.count += 1
            self._notes.idle = wanted

    @property
    def subject(self) -> str | None:
        """Whose session it is, in the application's words, such as "user:42"; None: nobody's.

        Set it at log-in: with it the sessions of one user are found, and ended together. It may
        have 128 bytes. It stays when the ID is renewed and goes with `clear`; a new session begins
        by it, as by any data. It is stored and replicated, and never logged.
        """
        self._use()
        if self._notes.subject is not None:
            return self._notes.subject or None
        return self._known.owner.subject if self._known and self._known.owner else None

    @subject.setter
    def subject(self, subject: str | None) -> None:
        wanted = "" if subject is None else checked_subject(subject)
        if subject != self.subject:
            self._change()
            self._notes.count += 1
            self._notes.subject = wanted

    @property
    def served(self) -> Served | None:
        """Where the session was found; None for a new one."""
        return Served(self.found[0], *self.found[1]) if self.found is not None else None

    @property
    def receipt(self) -> Receipt | None:
        """What the last commit of this request achieved: position, holders, copies."""
        return self._receipt

    @property
    def copies(self) -> int | None:
        """How many other nodes confirmed the last commit of this request; None before one."""
        return self._receipt.copies if self._receipt else None

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of elements that were found to be undecodable here."""
        return tuple(self._notes.unreadable)

    @property
    def failure(self) -> SessionError | None:
        """Why the session cannot be used at all, None when it can."""
        return self._failure

    # --- what can be done with it ---

    def begin(self) -> None:
        """Let the session exist, also without data: the commit stores it, and it has an ID."""
        self._change()
        self._notes.count += 1
        self._notes.begun = True

    def renew_id(self, *, cascade: bool = False) -> None:
        """Give the session a new ID, as every log-in should: the old one is never valid again.

        `cascade`: the client's other sessions in this application too, as far as the request
        knows them: those whose cookies it brought, and those that began in it.
        """
        for session in self._reached(cascade):
            session._change()
            session._notes.count += 1
            session._notes.renew = True

    def destroy(self, *, cascade: bool = False) -> None:
        """End the session for good, on every node. What is assigned later begins a new one.

        `cascade`: the client's other sessions as well, as for `renew_id`; without it they go on.
        """
        for session in self._reached(cascade):
            session.clear()
            session._notes.destroyed = True

    invalidate = destroy

    def end_if_empty(self) -> None:
        """End the session with the next commit if nothing is in it then: what other requests have
        put in meanwhile keeps it alive. For frameworks whose empty sessions end."""
        self._change()
        self._notes.count += 1
        self._notes.emptied = True

    def touch(self) -> None:
        """Count this request as a use even if the last one was recorded a moment ago."""
        self._use()
        self.touched = True

    async def commit(self) -> Receipt | None:
        """Commit now, and not only when the response starts or has ended: this session, and with
        it what the request has changed in the client's others.

        For streams, background tasks and websockets. None: there was nothing to commit. Of the
        others, those that were destroyed meanwhile are left out.

        Raises:
            SessionRevoked, SessionUnavailable, CommitUnconfirmed, SessionTooLarge, StoreFull,
            ElementNotEncodable: see there.
            SessionError: the session would begin, or be renewed, after the response has started.
        """
        self._use()
        return await self.keeper.commit(self) if self.keeper else None

    def secondary(
        self, name: str, *, idle_timeout: float | None = None, lifetime: float | None = None
    ) -> Session:
        """The client's further session of this name, with an ID, a cookie and lifetimes of its own.

        For what begins and ends at other times than the main session, which it survives: a cart, a
        wizard. It lies on the same servers, and what a request changes in several sessions is
        committed as one. Nothing is stored until data is put in. Names have letters, digits, `-`
        and `_`, 32 at most, and a request has eight such sessions at most. `idle_timeout` and
        `lifetime` (seconds; `math.inf`: no absolute lifetime) count when the session begins; those
        of the main session are the default.

        Raises:
            ValueError: a wrong name or time, or too many sessions.
            LookupError: the request is over.
        """
        if self.keeper is None:
            raise LookupError("a session has secondary ones in a request only")
        return self.keeper.companion(name, idle_timeout, lifetime)

    # --- the sessions of its subject ---

    async def siblings(self) -> Siblings:
        """The living sessions of this session's subject on every node, itself included, to show a
        user where they are logged in; and the nodes that could not be asked.

        Raises:
            SessionError: the session has no subject.
        """
        found = await self._subjects.state.sessions_of(self._owned_by())
        mine = self._handle_id
        sessions = tuple(each._replace(current=each.id == mine) for each in found.sessions)
        return found._replace(sessions=sessions)

    async def revoke(self, sibling: str) -> LoggedOut:
        """End one session of the subject, by its `id` in `siblings`. An ID that is no session of
        this subject ends nothing.

        Raises:
            SessionError: the session has no subject.
            SessionUnavailable, StoreFull: nothing was changed.
        """
        done = await log_out_one(self._subjects.state, self._owned_by(), sibling)
        if sibling == self._handle_id:
            self.destroy()
        return done

    async def revoke_others(self) -> LoggedOut:
        """End every session of the subject but this one; commits what this request changed.

        Raises:
            SessionError: the session has no subject, or what `commit` raises.
            SessionRevoked: it was ended itself meanwhile; nothing was changed.
            SessionUnavailable, StoreFull: nothing was changed.
        """
        subject = self._owned_by()
        if self._notes.subject is not None:
            await self.commit()
        owner = self._known.owner if self._known is not None else None
        assert owner is not None, "what has a subject and is committed has an owner"
        return await log_out(self._subjects.state, subject, kept=(owner.handle,))

    async def revoke_all(self) -> LoggedOut:
        """End every session of the subject, this one included: log out everywhere.

        Raises:
            SessionError: the session has no subject.
            SessionUnavailable, StoreFull: nothing was changed.
        """
        done = await log_out(self._subjects.state, self._owned_by())
        self.destroy()
        return done

    @property
    def _subjects(self) -> Register:
        self._use()
        assert self.keeper is not None, "a session of a request has a register"
        return self.keeper.register()

    @property
    def _handle_id(self) -> str | None:
        owner = self._known.owner if self._known is not None else None
        return encode64(owner.handle) if owner is not None else None

    def _owned_by(self) -> str:
        if (subject := self.subject) is None:
            raise SessionError(
                "the session has no subject: set session.subject when somebody logs in"
            )
        return subject

    # --- the dict face ---

    @overload
    def as_dict(self) -> DictSession: ...

    @overload
    def as_dict(self, kind: type[Face]) -> Face: ...

    def as_dict(self, kind: type[DictSession] | None = None) -> DictSession:
        """The same session as a real dict, complete; from now on the store of both faces.

        `kind`: a class of a framework's own; only the first call may name one.
        """
        if self._face is None:
            self._decode_rest()
            lent = set(self._values) if self._accessed else set()
            face = (kind or DictSession)(self._notes, self._values, lent)
            self._values = self._face = face
        assert kind is None or isinstance(self._face, kind), "the session has another face"
        return self._face

    def adopt(self, values: Mapping[str, Any]) -> None:
        """Let a mapping that the application put in the dict's place be the session."""
        if self.is_face(values):
            return
        self._change()
        if not values:
            self.clear()
        self._values = dict(values)
        self._face = None
        self._notes.deleted = {name for name in self._stored if name not in self._values}
        self._notes.deleted -= self._notes.unreadable.keys()

    def is_face(self, values: object) -> bool:
        """Whether this is the dict that `as_dict` gave."""
        return values is self._face and values is not None

    # --- what changed ---

    def is_untouched(self) -> bool:
        """Whether surely nothing is to be committed that was not yet; False: `prepare` tells."""
        face, layout, notes = self._face, self._layout, self._notes
        if face is None or layout is None or notes.changes != self._seen:
            return False
        if face.lent or notes.unreadable or layout.odd or [*_keys(face)] != [*self._decoded]:
            return False
        same = all(map(is_, _values(face), self._decoded.values()))
        return same and layout.is_unchanged(self._changeable)

    def prepare(self, mint: Callable[[], tuple[str, SessionKey]], create: Create) -> Prepared:
        """What must be committed so that the session is what the application sees.

        `mint` makes an ID and its key, and is called only for a new or renewed session.

        Raises:
            ElementNotEncodable: nothing was changed.
        """
        known, notes = self._known, self._notes
        marks, deleted, seen = notes.count, frozenset(notes.deleted), notes.changes
        emptied = notes.cleared and not (self._held_names() or notes.subject or notes.begun)
        ended = notes.destroyed or emptied
        changes: tuple[SessionChange, ...] = ()
        if known is not None and ended:
            changes = (SessionChange(known.key, destroy=True),)
            known = None
        if known is not None:
            change, known = self._changed(known, mint)
        else:
            change, known = self._begun(mint, create)
        if change is None:
            if not changes:
                self._seen = seen
            return Prepared(changes, known, deleted, marks, seen, {})
        values = {name: dict.__getitem__(self._values, name) for name in change.written}
        return Prepared((*changes, change), known, deleted, marks, seen, values)

    def settle(self, prepared: Prepared, receipt: Receipt | None) -> None:
        """The prepared changes are committed: what follows is compared with them.

        What another task changed during the commit is kept for the next one.
        """
        self._known = prepared.after
        self._seen = prepared.seen
        if receipt is not None:
            self._receipt = receipt
        if prepared.marks == self._notes.count:
            self._notes.reset()
        self._notes.deleted -= prepared.deleted
        self._decoded.update(prepared.values)
        stored = prepared.after.elements if prepared.after is not None else {}
        if not self._decoded.keys() <= stored.keys():
            self._decoded = {name: self._decoded[name] for name in self._decoded if name in stored}
        if self._face is not None:
            changeable = (
                name for name, value in prepared.values.items() if type(value) not in IMMUTABLE
            )
            self._face.lent.update(changeable)

    def discard(self) -> None:
        """Forget every change of this request that is not committed."""
        self._values = {}
        self._face = None
        self._layout = None
        self._changeable = []
        self._decoded.clear()
        self._notes.deleted.clear()
        self._notes.unreadable.clear()
        self._notes.reset()

    # --- inside ---

    @property
    def _stored(self) -> Mapping[str, tuple[str, bytes]]:
        return {} if self._known is None or self._notes.cleared else self._known.elements

    def _held_names(self) -> list[str]:
        return list(dict.keys(self._values))  # without marking a dict face as accessed

    def refused(self) -> SessionError:
        """Why the session cannot be used; asking counts as a use."""
        self._accessed = True
        assert self._failure is not None, "the session can be used"
        return self._failure

    def _use(self) -> None:
        self._accessed = True
        if self._failure is not None:
            raise self._failure

    def _change(self) -> None:
        self._use()
        self._notes.changes += 1

    def _reached(self, cascade: bool) -> Sequence[Session]:
        """Whom a call is about; all of them can be used."""
        sessions = self.keeper.companions() if cascade and self.keeper else ()
        for session in sessions:
            session._use()
        return sessions or (self,)

    def _names(self) -> list[str]:
        self._use()
        if self._face is None:
            self._decode_rest()
        return list(self._values)

    def _decode_rest(self) -> None:
        stored = self._stored
        if not (self._values or self._notes.deleted or self._notes.unreadable):
            elements = stored if isinstance(stored, Elements) else Elements(stored)
            self._layout = layout_of(elements)
            self._decoded, self._changeable = self._layout.read()
            self._notes.unreadable.update(self._layout.unreadable)
            self._values = self._decoded.copy()
            return
        for name in stored:
            if name not in self._values and name not in self._notes.deleted:
                self._decode(name)

    def _decode(self, name: str) -> None:
        if name in self._notes.unreadable:
            return
        value = read(*self._stored[name])
        if isinstance(value, Undecodable):
            self._notes.unreadable[name] = value.why
            return
        self._values[name] = self._decoded[name] = value

    def _begun(
        self, mint: Callable[[], tuple[str, SessionKey]], create: Create
    ) -> tuple[SessionChange | None, Known | None]:
        elements = {name: self._element(name) for name in self._held_names()}
        owner = self._new_owner(None)
        if not elements and owner is None and not self._notes.begun:
            return None, None
        if self._notes.idle:
            create = Create(self._notes.idle, create.lifetime)
        session_id, key = mint()
        change = SessionChange(key, create=create, puts=_puts(elements), owner=owner)
        life_left = create.lifetime or None
        return change, Known(session_id, key, elements, 0, create.idle_timeout, life_left, owner)

    def _new_owner(self, before: Owner | None) -> Owner | None:
        """What a change says of whose the session is; None: whose it was."""
        noted = self._notes.subject
        if noted is None or noted == (before.subject if before is not None else ""):
            return None
        return self._subjects.owner(noted) if noted else NOBODY

    def _changed(
        self, known: Known, mint: Callable[[], tuple[str, SessionKey]]
    ) -> tuple[SessionChange | None, Known]:
        stored, cleared = known.elements, self._notes.cleared
        asked = None if self._notes.subject is None else self._new_owner(known.owner)
        puts = self._written_beside(stored)
        if cleared and not puts and len(stored) == len(self._held_names()):
            cleared = False  # everything was put back as it was
        if cleared:
            puts = {name: self._element(name) for name in self._held_names()}
            deletes: tuple[str, ...] = ()
            elements = puts
        else:
            deletes = self._dropped(stored)
            idle = self._notes.idle
            if not (puts or deletes or self._notes.renew or idle or asked is not None):
                return None, known
            elements = {**stored, **puts}
            for name in deletes:
                del elements[name]
        session_id, key = mint() if self._notes.renew else (known.session_id, known.key)
        change = SessionChange(
            key,
            replaces=known.key if self._notes.renew else None,
            clear=cleared,
            deletes=deletes,
            owner=asked,
            idle_timeout=self._notes.idle,
            ends_empty=self._notes.emptied and not elements,
            **_changes(puts, {} if cleared else stored),
        )
        owner = known.owner if asked is None else (asked if asked.subject else None)
        idle_timeout = self._notes.idle or known.idle_timeout
        after = Known(session_id, key, elements, known.age, idle_timeout, known.life_left, owner)
        return change, after

    def _written_beside(self, stored: Mapping[str, Stored]) -> dict[str, Stored]:
        """The elements that differ from what is stored."""
        written: dict[str, Stored] = {}
        decoded, lent = self._decoded, self._face.lent if self._face is not None else None
        for name, value in self._suspects():
            manager, before = stored.get(name, _NEW)
            if before is not None and decoded.get(name, _MISSING) is value:
                exactly = lent is None or name in lent
                if is_unchanged(value, before, self._depth, exactly=exactly):
                    continue
            element = self._element(name, manager)
            if element[1] != before or (name in self._counters and element[0] != manager):
                written[name] = element
        return written

    def _suspects(self) -> list[tuple[str, Any]]:
        """The names and values that may differ from what is stored."""
        decoded, layout = self._decoded, self._layout
        items = dict.items(self._values)
        if layout is None or self._face is None or not layout.is_unchanged(self._changeable):
            return [
                item
                for item in items
                if type(item[1]) not in IMMUTABLE or decoded.get(item[0], _MISSING) is not item[1]
            ]
        looked_at = self._face.lent
        if layout.odd:
            looked_at = looked_at | layout.odd.keys()
        return [
            item
            for item in items
            if decoded.get(item[0], _MISSING) is not item[1] or item[0] in looked_at
        ]

    def _dropped(self, stored: Mapping[str, tuple[str, bytes]]) -> tuple[str, ...]:
        if self._face is None:
            deleted = self._notes.deleted
            return tuple(sorted(deleted & stored.keys())) if deleted else ()
        kept = dict.keys(self._face)
        if kept == stored.keys():
            return ()
        return tuple(sorted(stored.keys() - kept - self._notes.unreadable.keys()))

    def _element(self, name: str, present: str = _VALUE) -> Stored:
        """Data manager and encoded value of an element that has the manager `present` so far."""
        check_name(name)
        value = dict.__getitem__(self._values, name)
        if present == _VALUE and type(value) in IMMUTABLE and name not in self._counters:
            return _VALUE, encode(value, name, self._depth)  # as most are
        if name in self._counters and COUNTER.accepts(value):
            return COUNTER.name, encode(value, name, self._depth)
        manager = manager_for(value, present)
        try:
            plain = manager.pack(value)
        except (TypeError, ValueError) as error:
            raise ElementNotEncodable(name, type(value).__qualname__, str(error)) from error
        return manager.name, encode(plain, name, self._depth)


class DictSession(dict[str, Any]):
    """A session as a real dict, with `accessed`, `modified` and their marks as Starlette has them.

    Unlike there, every kind of reading marks it accessed, so that `Vary: Cookie` is never missed.
    """

    def __init__(self, notes: _Notes, values: Mapping[str, Any], lent: set[str]) -> None:
        dict.__init__(self, values)
        self._notes = notes
        self.lent = lent
        """Names of the changeable values that the application got hold of."""
        self.accessed = False
        self._overlooked = 0  # changes up to which `modified` was set to False

    @property
    def modified(self) -> bool:
        """Whether an element was assigned or deleted. May be set, as frameworks ask for; changes
        are committed all the same."""
        return self._notes.changes > self._overlooked

    @modified.setter
    def modified(self, value: bool) -> None:
        if value:
            self.mark_modified()
        else:
            self._overlooked = self._notes.changes

    def mark_accessed(self) -> None:
        """The response depends on the session."""
        self.accessed = True

    def mark_modified(self) -> None:
        """The session was changed (changes are found by comparison; this is for frameworks)."""
        self.accessed = True
        self._notes.changes += 1

    def _lend(self) -> None:
        self.accessed = True
        self.lent.update(dict.keys(self))

    def __missing__(self, name: str) -> Any:
        self._notes.refuse_unreadable(name)
        raise KeyError(name)

    def __getitem__(self, name: str) -> Any:
        self.accessed = True
        value = _get(self, name)
        if type(value) not in IMMUTABLE:
            self.lent.add(name)
        return value

    def __contains__(self, name: object) -> bool:
        self.accessed = True
        return _has(self, name) or name in self._notes.unreadable

    def __iter__(self) -> Iterator[str]:
        self.accessed = True
        return super().__iter__()

    def __len__(self) -> int:
        self.accessed = True
        return super().__len__()

    def __eq__(self, other: object) -> bool:
        self.accessed = True
        return super().__eq__(other)

    def __or__(self, other: Any, /) -> dict[str, Any]:  # type: ignore[override]
        self._lend()
        merged: dict[str, Any] = dict(super().items()) | other
        return merged

    def __ror__(self, other: Any, /) -> dict[str, Any]:  # type: ignore[override]
        self._lend()
        merged: dict[str, Any] = other | dict(super().items())
        return merged

    def __reversed__(self) -> Any:
        self.accessed = True
        return super().__reversed__()

    __hash__ = None

    def get(self, name: str, default: Any = None) -> Any:
        if _has(self, name):
            return self[name]
        self.accessed = True
        self._notes.refuse_unreadable(name)
        return default

    def keys(self) -> Any:
        self.accessed = True
        return super().keys()

    def values(self) -> Any:
        self._lend()
        return super().values()

    def items(self) -> Any:
        self._lend()
        return super().items()

    def copy(self) -> dict[str, Any]:
        self._lend()
        return dict(super().items())

    def __setitem__(self, name: str, value: Any) -> None:
        self.accessed = True
        self._notes.changes += 1
        _set(self, name, value)

    def __delitem__(self, name: str) -> None:
        self.mark_modified()
        if not self._notes.forget_unreadable(name) or super().__contains__(name):
            super().__delitem__(name)

    def clear(self) -> None:
        self.mark_modified()
        self._notes.note_cleared()
        super().clear()

    def pop(self, name: str, *default: Any) -> Any:
        self.accessed = True
        if _has(self, name):
            self.mark_modified()
            self.lent.add(name)
        else:
            self._notes.refuse_unreadable(name)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        self.accessed = True
        item = super().popitem()
        self.mark_modified()
        self.lent.add(item[0])
        return item

    def setdefault(self, name: str, default: Any = None) -> Any:
        self.accessed = True
        if not _has(self, name):
            self._notes.refuse_unreadable(name)
            self.mark_modified()
        self.lent.add(name)
        return super().setdefault(name, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.mark_modified()
        super().update(*args, **kwargs)

    def __ior__(self, other: Any, /) -> DictSession:  # type: ignore[override]
        self.mark_modified()
        super().update(other)
        return self


Face = TypeVar("Face", bound=DictSession)

_get: Final = dict[str, Any].__getitem__
_set: Final = dict[str, Any].__setitem__
_has: Final = dict[str, Any].__contains__
_keys: Final = dict[str, Any].keys
_values: Final = dict[str, Any].values


class UnavailableSession(MutableMapping[str, Any]):
    """Stands where a framework keeps its dict when the session could not be acquired.

    It is no dict, so that no C code can take it for an empty session; every use of it raises.
    """

    def __init__(self, body: Session) -> None:
        self._body = body

    def mark_accessed(self) -> None:
        """Raise why there is no session: Starlette's `request.session` asks for this first."""
        self._refuse()

    mark_modified = mark_accessed

    def __getitem__(self, name: str) -> Any:
        self._refuse()

    def __setitem__(self, name: str, value: Any) -> None:
        self._refuse()

    def __delitem__(self, name: str) -> None:
        self._refuse()

    def __contains__(self, name: object) -> bool:
        self._refuse()

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def __len__(self) -> int:
        raise self._body.refused()

    def __repr__(self) -> str:
        return "<UnavailableSession>"

    @property
    def accessed(self) -> bool:
        """Whether it was used, in vain."""
        return self._body.accessed

    modified = False

    def _refuse(self) -> NoReturn:
        raise self._body.refused()


def _puts(elements: Mapping[str, Stored]) -> tuple[tuple[str, str, bytes], ...]:
    return tuple((name, manager, value) for name, (manager, value) in elements.items())


def _changes(written: Mapping[str, Stored], stored: Mapping[str, Stored]) -> dict[str, Any]:
    """What is written, as the fields of a SessionChange: operations where the elements' data
    managers have them, so that they can be done to what other requests made of the elements."""
    puts: list[tuple[str, str, bytes]] = []
    edits: list[tuple[str, str, bytes, bytes]] = []
    for name, (manager, value) in written.items():
        operation = None
        if manager != _VALUE:
            before = stored.get(name, _NEW)[1]
            operation = operation_between(manager, before, value)
        if operation is None:
            puts.append((name, manager, value))
        else:
            edits.append((name, manager, operation, value))
    return {"puts": tuple(puts), "edits": tuple(edits)}


def check_name(name: object) -> None:
    """Raise ElementNotEncodable for what cannot name an element."""
    if not isinstance(name, str):
        raise ElementNotEncodable(repr(name)[:40], type(name).__qualname__, "names are text")
    if name.isascii():
        size = len(name)
    else:
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise ElementNotEncodable(ascii(name)[:40], "name", "it is no Unicode text") from error
    if size > NAME_BYTES:
        raise ElementNotEncodable(
            f"{name[:40]}…", "name", f"names have at most {NAME_BYTES} bytes; nothing was changed"
        )
