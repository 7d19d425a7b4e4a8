"""The interface between sessions and the state manager: groups in, bytes out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sessionha.errors import SessionUnavailable
from sessionha.identity import GroupID, Position, SessionKey
from sessionha.peer.messages import Batch, Owner

Stored = tuple[str, bytes]
"""Data manager and encoded value of an element."""

Puts = Sequence[tuple[str, str, bytes]]
"""Element name, data manager and encoded value of each element that a change writes."""


class Held(NamedTuple):
    """A group that this node may serve now, as primary."""

    position: Position
    holders: tuple[str, ...]
    """Node IDs that hold this position: the primary (this node), then its backups in order."""


class Reading(Protocol):
    """What a session made of elements; kept with them, so that the next request need not."""

    def after(self, puts: Puts, deletes: Sequence[str], changed: Elements) -> Reading | None:
        """The same for `changed`, which a change made of the elements; None: read them anew."""
        ...


class Elements(dict[str, Stored]):
    """Element name to (data manager, encoded value): a session as it is at one position.

    Every request that finds the session there gets the same object, so nobody changes it.
    """

    __slots__ = ("reading",)

    def __init__(self, found: Mapping[str, Stored] | Iterable[tuple[str, Stored]]) -> None:
        dict.__init__(self, found)
        self.reading: Reading | None = None

    def after(self, puts: Puts, deletes: Sequence[str]) -> Elements:
        """What a change makes of them; names that are new are not in name order."""
        changed = Elements(self)
        for name, manager, value in puts:
            changed[name] = manager, value
        for name in deletes:
            changed.pop(name, None)
        if self.reading is not None:
            changed.reading = self.reading.after(puts, deletes, changed)
        return changed

    def __repr__(self) -> str:
        return f"<Elements: {len(self)}>"  # never a value


class Loaded(NamedTuple):
    """One session as one read transaction saw it. Times are milliseconds."""

    held: Held
    age: int
    idle_timeout: int
    idle_left: int
    life_left: int | None
    """None: no absolute lifetime."""
    touch_due: bool
    """The last recorded touch is old enough for another one (contract: lifetimes)."""
    elements: Elements
    owner: Owner | None = None
    """Whose it is."""

    def __repr__(self) -> str:
        """Without the values: it may end in a log or a traceback."""
        return f"<Loaded: {len(self.elements)} elements, {self.held}>"


class Receipt(NamedTuple):
    """What a commit achieved."""

    position: Position
    holders: tuple[str, ...]
    copies: int
    """How many other nodes acknowledged (the contract's d)."""


class Sibling(NamedTuple):
    """One session of a subject, as lists of devices show it."""

    id: str
    """Names the session to `revoke` and opens nothing; it stays when the session is renewed."""
    age: float
    """Seconds since the session was created."""
    unused: float
    """Seconds since its last recorded use."""
    virtual_server: str
    node: str
    """The node that serves it, or would."""
    current: bool = False
    """Whether it is the session of the request that asks."""


class Siblings(NamedTuple):
    """The living sessions of a subject, the one used last first."""

    sessions: tuple[Sibling, ...]
    unreachable: tuple[str, ...] = ()
    """Nodes that are configured or were members and could not be asked: they may hold more."""
    more: bool = False
    """Whether there are more than are listed."""

    def __repr__(self) -> str:
        return f"<Siblings: {len(self.sessions)}, unreachable {self.unreachable}>"


class LoggedOut(NamedTuple):
    """What a log-out achieved."""

    ended: int
    """Living sessions that were found and are over."""
    unreachable: tuple[str, ...] = ()
    """Nodes that could not be told now. They learn it when they return, before they serve a session
    of any subject; until then, if they serve at all, they are cut off from the others."""


class Places(NamedTuple):
    """Where the living sessions of a subject are, in one order on every node."""

    sessions: tuple[tuple[GroupID, SessionKey], ...]
    unreachable: tuple[str, ...] = ()
    """As of `Siblings`."""


TOUCH_EVERY = 60_000
"""Milliseconds between two recorded touches at most; a twentieth of the idle timeout if less."""


def touch_interval(idle_timeout: int) -> int:
    """How old the last recorded touch must be before another is recorded, milliseconds."""
    return min(TOUCH_EVERY, idle_timeout // 20)


class Unsettled(SessionUnavailable):
    """The group may not be served here at this moment: acquire it, then load again."""


class Turn(Protocol):
    """A request's turn at a session: until it ends, no other request of the session begins."""

    def end(self) -> None:
        """Let the next one begin. Does nothing the second time."""
        ...


class State(Protocol):
    """The state manager, as sessions see it.

    Without peers no method but `turn` ever suspends on an event loop: any coroutine here can be
    driven by any loop, or by hand.
    """

    @property
    def local(self) -> bool:
        """Whether a request may begin with `load`; else with `turn` and `find`."""
        ...

    async def turn(
        self, group: GroupID, key: SessionKey, beside: Collection[Turn] = ()
    ) -> Turn | None:
        """Wait for a turn at the session. None: its requests do not take turns. `beside`: turns
        that the same request has already; take them in one order of the keys.

        Raises:
            SessionBusy: another request of the session did not end in time.
            SessionUnavailable: the store is full.
        """
        ...

    async def find(self, group: GroupID, key: SessionKey, floor: Position | None) -> Loaded | None:
        """The session, its group acquired if need be, and confirmed by every copy where reads are.
        None: destroyed, expired, or proven to be nowhere.

        Raises:
            SessionUnavailable: no holder answered in time; nothing was changed.
            StaleSession: only copies older than `floor` are alive.
        """
        ...

    def held(self, group: GroupID, floor: Position | None) -> Held | None:
        """The group, if this node may serve it at once; otherwise acquire it first. Local."""
        ...

    async def acquire(self, group: GroupID, floor: Position | None) -> Held | None:
        """Become primary of the group by hand-over or promotion. None: proven to be nowhere.

        Raises:
            SessionUnavailable: no holder answered in time; nothing was changed.
            StaleSession: only copies older than `floor` are alive.
        """
        ...

    def load(self, group: GroupID, key: SessionKey, floor: Position | None = None) -> Loaded | None:
        """The session, in one read transaction. None: destroyed, expired, or never here.

        Raises:
            Unsettled: the group may not be served here at this moment; acquire it, and load again.
        """
        ...

    async def commit(
        self, batch: Batch, *, fresh: bool, floor: Position | None = None, alone: bool = False
    ) -> Receipt:
        """Apply the batch on top of what is committed and wait for every backup.

        `fresh`: the group ID was made in this request, so no other node can know it. `floor`: what
        the request has read; it is never applied on top of something older. `alone`: the request
        has its turn, so its batch is refused where the group was elsewhere since it read.

        Raises:
            SessionBusy: it was; nothing was changed.
            SessionRevoked: a session of the batch was destroyed meanwhile; nothing was changed.
            SessionTooLarge, StoreFull: nothing was changed.
            SessionUnavailable: nothing was changed.
            CommitUnconfirmed: the outcome is unknown.
        """
        ...

    def has_room(self, group: GroupID, floor: Position | None) -> bool:
        """Whether a new session may join the group: it is held, and has few sessions yet. Local.

        A client that drops its session cookie and keeps its route cookie must not make a group
        grow without limit.
        """
        ...

    def touch(self, group: GroupID, key: SessionKey) -> bool:
        """Record that the session was used; told to the backups without waiting.

        False: it was not recorded. The session ended while the request ran, or has no room.
        """
        ...

    async def sessions_of(self, subject: str) -> Siblings:
        """The sessions of a subject, on all nodes that can be asked."""
        ...

    async def locate(self, subject: str) -> Places:
        """Where the sessions of a subject are, on all nodes that can be asked."""
        ...

    async def revoke(
        self,
        subject: str,
        name: bytes,
        *,
        kept: tuple[bytes, ...] = (),
        only: tuple[bytes, ...] = (),
    ) -> LoggedOut:
        """Log out the sessions with the handles `only`, or else all of the subject but those
        `kept`; also those that only nodes hold which are away. `name`: eight random bytes.

        Raises:
            SessionUnavailable, StoreFull: nothing was changed.
            SessionRevoked: a session to be kept is over itself; nothing was changed.
        """
        ...

    def buried(self, group: GroupID, key: SessionKey) -> int | None:
        """Milliseconds since the session was destroyed or renewed here; None: not, or long ago.

        Local, like `load`: it tells a request that was under way at a log-in from a stale cookie.
        """
        ...
