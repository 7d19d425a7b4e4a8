"""A state manager and an engine in one dict, that keep the protocol and can be told to fail."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from sessionha.errors import SessionError, SessionRevoked
from sessionha.identity import Epoch, GroupID, Position, SessionKey, server_name
from sessionha.peer.messages import Batch, Owner, SessionChange
from sessionha.session.affinity import Reason
from sessionha.session.cookies import RouteCookies, cluster_tag
from sessionha.session.terms import Event
from sessionha.settings import Settings
from sessionha.state.base import (
    Elements,
    Held,
    Loaded,
    LoggedOut,
    Places,
    Receipt,
    Siblings,
    Turn,
    Unsettled,
)
from sessionha.topology.health import NodeState

WALL = 1_800_000_000.0  # seconds: where every test's wall clock begins


def written(change: SessionChange) -> dict[str, tuple[str, bytes]]:
    """Data manager and encoded value of what a change gives a value, where nobody else did."""
    found = {name: (manager, value) for name, manager, value in change.puts}
    for name, manager, _, after in change.edits:
        assert after is not None
        found[name] = manager, after
    return found


@dataclass
class Clock:
    """One clock for both uses: wall seconds, and milliseconds inside."""

    seconds: float = WALL

    def __call__(self) -> float:
        return self.seconds

    @property
    def ms(self) -> int:
        return int(self.seconds * 1000)


@dataclass
class Record:
    """One session."""

    created: int
    idle_timeout: int
    lifetime: int
    used: int
    elements: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    owner: Owner | None = None


@dataclass
class Group:
    """All sessions of one client."""

    position: Position
    sessions: dict[SessionKey, Record] = field(default_factory=dict)
    buried: dict[SessionKey, int] = field(default_factory=dict)


class FakeTurn:
    """Remembers whether it has ended."""

    ended = False

    def end(self) -> None:
        self.ended = True


class FakeState:
    """Groups in a dict. `holders` names the nodes that are said to have every copy."""

    def __init__(self, clock: Clock, holders: tuple[str, ...] = ("n1",)) -> None:
        self.clock = clock
        self.holders = holders
        self.groups: dict[GroupID, Group] = {}
        self.away: set[GroupID] = set()
        """Groups that another node serves: they must be acquired."""
        self.failure: SessionError | None = None
        """What the next acquisitions and commits raise."""
        self.before_commit: Callable[[Batch], None] | None = None
        self.batches: list[Batch] = []
        self.fresh: list[bool] = []
        self.touches: list[SessionKey] = []
        self.acquired: list[GroupID] = []
        self.local = True
        self.siblings = Siblings(())
        self.log_outs: list[tuple[str, tuple[bytes, ...], tuple[bytes, ...]]] = []
        """Subject, handles kept and handles meant of every log-out."""
        self.turns: list[FakeTurn] | None = None
        """Every turn that was taken; None: nobody takes turns."""

    def held(self, group: GroupID, floor: Position | None) -> Held | None:
        found = self.groups.get(group)
        if found is None or group in self.away or (floor and found.position < floor):
            return None
        return Held(found.position, self.holders)

    def has_room(self, group: GroupID, floor: Position | None) -> bool:
        return self.held(group, floor) is not None

    async def acquire(self, group: GroupID, floor: Position | None) -> Held | None:
        self.acquired.append(group)
        if self.failure is not None:
            raise self.failure
        self.away.discard(group)
        found = self.groups.get(group)
        if found is None:
            return None
        epoch = found.position.epoch
        found.position = found.position._replace(epoch=epoch._replace(attempt=epoch.attempt + 1))
        return self.held(group, floor)

    async def turn(
        self, group: GroupID, key: SessionKey, beside: Collection[Turn] = ()
    ) -> Turn | None:
        if self.turns is None:
            return None
        self.turns.append(FakeTurn())
        return self.turns[-1]

    async def find(self, group: GroupID, key: SessionKey, floor: Position | None) -> Loaded | None:
        held = await self.acquire(group, floor)
        return None if held is None else self.load(group, key, floor)

    def load(self, group: GroupID, key: SessionKey, floor: Position | None = None) -> Loaded | None:
        if self.held(group, floor) is None:
            raise Unsettled("not held here")
        found = self.groups[group]
        record = found.sessions.get(key)
        if record is None or self._ended(record):
            return None
        now = self.clock.ms
        left = record.created + record.lifetime - now if record.lifetime else None
        return Loaded(
            Held(found.position, self.holders),
            now - record.created,
            record.idle_timeout,
            record.used + record.idle_timeout - now,
            left,
            now - record.used > min(60_000, record.idle_timeout // 20),
            Elements(sorted(record.elements.items())),
            record.owner,
        )

    def buried(self, group: GroupID, key: SessionKey) -> int | None:
        found = self.groups.get(group)
        when = found.buried.get(key) if found else None
        return None if when is None else self.clock.ms - when

    async def commit(
        self, batch: Batch, *, fresh: bool, floor: Position | None = None, alone: bool = False
    ) -> Receipt:
        if self.before_commit is not None:
            self.before_commit(batch)
        if self.failure is not None:
            raise self.failure
        if fresh:
            assert batch.group not in self.groups, "a fresh group was known"
        found = self.groups.setdefault(batch.group, Group(Position(Epoch(1, 1, "n1"), 0)))
        for change in batch.changes:
            asked = change.replaces or change.key
            if change.create is None and asked not in found.sessions:
                raise SessionRevoked("destroyed meanwhile")
        for change in batch.changes:
            self._apply(found, change)
        found.position = found.position._replace(version=found.position.version + 1)
        self.batches.append(batch)
        assert alone == any(not turn.ended for turn in self.turns or ())
        self.fresh.append(fresh)
        return Receipt(found.position, self.holders, len(self.holders) - 1)

    def touch(self, group: GroupID, key: SessionKey) -> bool:
        self.touches.append(key)
        record = self.groups[group].sessions.get(key)
        if record is None:
            return False
        record.used = self.clock.ms
        return True

    async def sessions_of(self, subject: str) -> Siblings:
        return self.siblings

    async def locate(self, subject: str) -> Places:
        return Places(())

    async def revoke(
        self,
        subject: str,
        name: bytes,
        *,
        kept: tuple[bytes, ...] = (),
        only: tuple[bytes, ...] = (),
    ) -> LoggedOut:
        self.log_outs.append((subject, kept, only))
        return LoggedOut(len(only))

    def _apply(self, group: Group, change: SessionChange) -> None:
        now = self.clock.ms
        asked = change.replaces or change.key
        emptied = change.ends_empty and group.sessions[asked].elements.keys() <= {*change.deletes}
        if change.destroy or emptied:
            del group.sessions[asked]
            group.buried[asked] = now
            return
        if change.replaces is not None:
            group.sessions[change.key] = group.sessions.pop(change.replaces)
            group.buried[change.replaces] = now
        if change.create is not None:
            assert change.key not in group.sessions, "created twice"
            create = change.create
            group.sessions[change.key] = Record(now, create.idle_timeout, create.lifetime, now)
        record = group.sessions[change.key]
        record.used = now
        if change.idle_timeout:
            record.idle_timeout = change.idle_timeout
        if change.owner is not None:
            record.owner = change.owner if change.owner.subject else None
        if change.clear:
            record.elements.clear()
        for name in change.deletes:
            record.elements.pop(name, None)
        record.elements.update(written(change))

    def _ended(self, record: Record) -> bool:
        now = self.clock.ms
        if record.lifetime and now > record.created + record.lifetime:
            return True
        return now > record.used + record.idle_timeout


class FakeEngine:
    """An engine around a FakeState; with `holders` of several nodes it writes route cookies."""

    def __init__(
        self,
        holders: tuple[str, ...] = ("n1",),
        *,
        settings: Settings | None = None,
        backups: int | None = None,
    ) -> None:
        self.clock = Clock()
        self.state = FakeState(self.clock, holders)
        self.settings = settings or Settings()
        self.route_cookies = RouteCookies([b"r" * 32]) if len(holders) > 1 else None
        self.cluster = cluster_tag("test")
        self.engine = "0"
        self.own_engine = ""
        """Its ID, where it has an address of its own."""
        self.backups = len(holders) - 1 if backups is None else backups
        self.running = False
        self.starts = 0
        self.node_state = NodeState.READY
        self.counts: list[str] = []
        self.ways: list[Reason] = []

    def has_siblings(self) -> bool:
        """It is the only one."""
        return False

    @property
    def node(self) -> str:
        """Whoever serves stands first."""
        return self.state.holders[0]

    @property
    def node_server(self) -> str:
        return server_name(self.node)

    @property
    def server(self) -> str:
        return server_name(self.node, self.own_engine)

    def now(self) -> float:
        return self.clock()

    def count(self, event: Event) -> None:
        self.counts.append(event)

    def servers(self) -> dict[str, tuple[str, NodeState]]:
        return {server_name(node): (node, self.node_state) for node in self.state.holders}

    def misrouted(self, server: str) -> Reason:
        del server
        return "lb_ignored"

    def audit(self, reason: Reason) -> None:
        self.ways.append(reason)

    async def start(self) -> None:
        self.running = True
        self.starts += 1

    def will_be_told(self) -> None: ...

    async def retire(self) -> None:
        """It has no peers."""

    async def stop(self) -> None:
        self.running = False
