"""What clients and nodes log of one history; the checker reads nothing else.

Everything has its place in one log: of two things, the one with the lower place came first. Times
are virtual seconds, positions are those of the group.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sessionha.identity import Position

Outcome = Literal["ok", "fail", "unknown", "gone", "unavailable", "dead"]
"""What became of a request. `fail`: surely no effect, also because the session had ended; `gone`:
the session does not exist; `unavailable`: nothing was tried; `dead`: its server died."""

EventKind = Literal[
    "commit", "apply", "promise", "promote", "drop", "tombstone", "lose", "view", "move", "alarm"
]  # fmt: skip
"""`lose`: the node's store is gone. `move`: it begins to move a copy elsewhere, for balance.
`alarm`: its drill finds that a copy is not what it should be. Other words are the contract's."""


@dataclass(slots=True)
class Request:
    """One request of one browser (jar), as the browser and the application saw it."""

    jar: str
    session: str
    """The session's tag: each of its tokens begins with it."""
    node: str
    began: int
    since: float
    key: bytes = b""
    """The session's key; of a request that makes one, what it makes."""
    floor: Position | None = None
    """What the cookie said."""
    new: bool = False
    """It makes its session."""
    touched: bool = False
    """It was recorded as a use."""

    seen: tuple[str, ...] | None = None
    """The tokens in the session; None: it never got so far."""
    torn: tuple[str, ...] = ()
    """Tokens of which only a part was there."""
    read: Position | None = None
    read_at: int = -1

    put: str = ""
    """The token it adds."""
    removes: str = ""
    """A token that it saw and takes out."""
    ends: bytes = b""
    """The key that is not valid afterwards: destroyed, or renewed."""
    begins: bytes = b""
    """The key that takes its place."""

    outcome: Outcome = "dead"
    revoked: bool = False
    """It failed because the session had ended."""
    ended: int = -1
    until: float = 0.0
    position: Position | None = None
    """Of the commit; None without one."""
    copies: int = 0
    holders: tuple[str, ...] = ()
    out: Position | None = None
    """What the response's cookie says."""
    paused: float = 0.0
    """For how long its node stood still meanwhile."""

    @property
    def changes(self) -> bool:
        """Whether it tried to change something."""
        return bool(self.put or self.removes or self.ends)


class Event(NamedTuple):
    """What a node did to its store, or what became of it."""

    at: int
    time: float
    node: str
    kind: EventKind
    session: str = ""
    position: Position | None = None
    """Of a promise: its epoch at version 0."""
    view: tuple[int, str] = (0, "")
    members: tuple[str, ...] = ()
    joined: tuple[int, ...] = ()
    """The number of the view in which each of them joined."""


class Copy(NamedTuple):
    """A living node's copy of a session when all was quiet."""

    node: str
    session: str
    position: Position
    held: bool
    content: object


class Level(NamedTuple):
    """How full something was."""

    node: str
    what: str
    value: int
    limit: int


@dataclass
class History:
    """One world's log."""

    nodes: int
    backups: int
    strict: bool = True
    """Every read is current: no node was out of the view while it lived, or reads are confirmed."""
    serial: bool = False
    """Requests of one session take turns."""
    whole: bool = True
    """The living could reach each other, so that everything is promised."""
    kept: bool = False
    """No store was lost, so that every tombstone is somewhere."""
    agreed: bool = False
    """A majority decides views, each after the one before."""
    lease: float | None = None
    """Seconds for which a node may serve in a view that a majority has left; None: unlimited."""
    bound: float = 20.0
    """Seconds in which a refusal must come."""
    skew: float = 2.0
    """ε, seconds."""
    rotten_from: int = -1
    """From when on copies were made to rot; -1: never."""
    lately: float = 0.0
    """Seconds without a change after which a session's copies may be moved."""
    idle: float = 1800.0
    lifetime: float = 43_200.0
    quiet_from: int = -1
    """When faults stopped; -1: never."""
    living: int = 0
    """Members when all was quiet."""
    requests: list[Request] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    pauses: list[tuple[str, float, float]] = field(default_factory=list)
    """(node, from, until): it stood still."""
    copies: list[Copy] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Log lines, errors and representations of messages."""
    secrets: tuple[str, ...] = ()
    """What no text may contain."""
    place: int = 0

    def next(self) -> int:
        """The next place in the log."""
        self.place += 1
        return self.place
