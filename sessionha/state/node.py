"""What every part of the state manager works with: this node, its store and its surroundings."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from sessionha.errors import SessionUnavailable
from sessionha.identity import NO_VIEW, ViewID
from sessionha.peer.base import Peers, Sender
from sessionha.peer.messages import Failed
from sessionha.state.copies import Limits
from sessionha.state.records import GroupRecord
from sessionha.store.base import Reader, Store
from sessionha.topology.base import Membership
from sessionha.view import NO_MEMBERS, View

NOT_TOGETHER = Failed("NotMember", "sender and receiver are not in one view")
"""The answer to who is not in this node's view, or when this node is in none."""


class Clock(Protocol):
    """The node's clock: milliseconds that go on while the machine sleeps and never step."""

    def now(self) -> int: ...

    def mark(self) -> None:
        """Remember the present in the store, for a reboot."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of replication; times in seconds."""

    backups: int = 1
    min_copies: int = 0
    commit_timeout: float = 2.0
    acquire_timeout: float = 3.0
    heal_after: float = 30.0
    urgent: bool = False
    """Whether a group with one copy left gets a temporary one before `heal_after` has passed."""
    heal_rate: int = 16 << 20
    """Bytes a second that healing sends."""
    confirmed: bool = False
    """Whether reads are confirmed by every copy."""
    serial: bool = False
    """Whether requests of one session take turns."""
    quorum: bool = False
    """Whether a majority decides views, so that nobody serves apart from it."""
    member_timeout: float | None = None
    """Seconds that a request waits for this node to be a member that may serve; None: as long as
    for a session."""
    drill: int = 10
    """Copies verified in a second, at most; 0: none."""
    rebalance: int = 50
    """Copies of idle groups moved in a second, at most; 0: none."""
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Counters:
    """What the state manager has done since this engine started."""

    commits: int = 0
    handovers: int = 0
    promotions: int = 0
    fetches: int = 0
    forwards: int = 0
    unconfirmed: int = 0
    rolled_back: int = 0
    gone: int = 0
    pushes_in: int = 0
    pushes_full: int = 0
    fenced: int = 0
    touches: int = 0
    swept: int = 0
    repaired: int = 0
    healed: int = 0
    replaced: int = 0
    refilled: int = 0
    moved: int = 0
    merged: int = 0
    conflicts: int = 0
    confirmed: int = 0
    revocations: int = 0
    revoked: int = 0
    fewer_copies: int = 0
    below_min_copies: int = 0
    domain_waits: int = 0
    domain_waited: int = 0
    verified: int = 0
    differing: int = 0
    undecodable: int = 0
    renewed: int = 0


@dataclass(slots=True)
class Node:
    """One engine's hold on its node."""

    me: str
    store: Store
    membership: Membership
    clock: Clock
    options: Options
    peers: Peers | None = None
    """None: configured alone; then nothing here ever suspends."""
    random: random.Random = field(default_factory=random.Random)
    counters: Counters = field(default_factory=Counters)
    refusing: dict[str, int] = field(default_factory=dict)
    """Nodes that said they cannot hold copies, and until when (clock)."""
    wanting: bool = False
    """A group lost a copy though the view is the same: look for others."""
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)

    _joined: tuple[View, ViewID] = (NO_MEMBERS, NO_VIEW)

    def joined(self, view: View) -> ViewID:
        """The view at which this node became a member; NO_VIEW when it is none.

        A store takes a new incarnation only when its view does not hold it any more, so the answer
        belongs to the view object, which is decoded anew whenever its row changes.
        """
        known, joined = self._joined
        if known is view:
            return joined
        member = view.member(self.me)
        joined = NO_VIEW
        if member is not None and member.incarnation == self.store.incarnation:
            joined = member.joined
        self._joined = (view, joined)
        return joined

    def refusers(self) -> set[str]:
        """Nodes that cannot hold copies now, by their own word of a moment ago."""
        now = self.clock.now()
        return {name for name, until in self.refusing.items() if until > now}

    def leased(self, reader: Reader) -> bool:
        """Whether this node may serve what the transaction sees (R9): nobody has left it out."""
        return self.clock.now() < self.membership.lease_in(reader)

    async def membership_regained(self) -> None:
        """Wait until this node is a member and has a lease: after a pause of its own a node that
        was one asks whether it still is, which takes a round trip between busy servers.

        Raises:
            SessionUnavailable: it is none, or hears too few others.
        """
        options = self.options
        patience = options.member_timeout or options.acquire_timeout
        deadline = self.clock.now() + int(patience * 1000)
        while True:
            with self.store.read() as reader:
                view = self.view_in(reader)
                leased = self.leased(reader)
            member = self.joined(view) != NO_VIEW
            if member and leased:
                return
            if self.peers is None or self.clock.now() >= deadline:
                raise SessionUnavailable(
                    "this server hears too few others of its cluster to serve now"
                    if member
                    else "this server is not a member of its cluster now"
                )
            await self.membership.wait_change(view.id, 0.01)

    def is_primary(self, record: GroupRecord, view: View) -> bool:
        """Whether this node may commit to the group: it leads it, and synced it in this run."""
        return record.run == self.store.run and self.leads(record, view)

    def rules(self, record: GroupRecord) -> bool:
        """Whether this node has begun the newest epoch of the group that it knows of."""
        return record.epoch.node == self.me and record.promise == record.epoch

    def leads(self, record: GroupRecord, view: View) -> bool:
        """Whether this node is the group's primary, though perhaps not yet synced in this run: it
        holds the newest epoch it knows of, in sync since it is a member, and no merge of two sides
        came between."""
        return (
            self.rules(record)
            and record.synced != NO_VIEW
            and record.synced == self.joined(view)
            and record.crowned >= view.barrier
        )

    def is_in_sync(self, record: GroupRecord, view: View) -> bool:
        """Whether this node's copy is one that C vouches for."""
        return record.held and record.synced == self.joined(view) != NO_VIEW

    def shares_view(self, sender: Sender, view: View) -> bool:
        """Whether the sender of a message and this node are both members of the view."""
        member = view.member(sender.node)
        known = member is not None and member.incarnation == sender.incarnation
        return known and self.joined(view) != NO_VIEW

    def valid_backups(self, record: GroupRecord, view: View) -> tuple[str, ...]:
        """The holders, this node left out, that have been members since C was formed."""
        return tuple(
            node for node in record.holders if node != self.me and view.holds(node, record.formed)
        )

    def view_in(self, reader: Reader) -> View:
        return self.membership.view_in(reader)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` whatever becomes of the request that started it (R17)."""
        task = asyncio.ensure_future(work)
        self.tasks[task] = None  # a set of tasks has no order that could be repeated
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # whoever waits for the task gets it; nobody must
