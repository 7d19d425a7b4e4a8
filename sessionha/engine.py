"""Builds and wires one engine: store, membership, streams, state manager, upkeep.

Nothing starts at import or construction, so that forks are safe; `start` does it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from sessionha.agreement import (
    OF_A_CLUSTER,
    Nodes,
    leave_settings,
    meet_siblings,
    other_keys,
    prints,
    shown,
)
from sessionha.discovery.base import Found, Proof
from sessionha.discovery.seeker import Own, Seeker
from sessionha.discovery.source import open_source
from sessionha.errors import InvalidSettings, StoreError, StoreFull
from sessionha.identity import NO_VIEW, server_name
from sessionha.keys import ROUTE_LABEL
from sessionha.peer.base import Sender
from sessionha.peer.channel import Limits as StreamLimits
from sessionha.peer.messages import (
    Claim,
    Compare,
    CountCopies,
    Drain,
    DrainProgress,
    Examine,
    Failed,
    Fetch,
    FindCopies,
    FindOld,
    Forward,
    Inspect,
    Inspected,
    Message,
    Promise,
    Push,
    Pushes,
    Relay,
    Revocations,
    Revoke,
    Survey,
    TakeOver,
    Tell,
    Touch,
    Walk,
    Weigh,
    Whose,
)
from sessionha.peer.relay import Relays
from sessionha.peer.streams import Streams
from sessionha.reloading import Following, Reloaded, announce, read_again
from sessionha.session.affinity import Reason, misrouted
from sessionha.session.cookies import RouteCookies, check_key, cluster_tag
from sessionha.session.terms import Event
from sessionha.settings import Settings
from sessionha.siblings import LIMIT, LOOK, Server, Serving, Vigil, told_to_end
from sessionha.state.clock import NodeClock
from sessionha.state.copies import Limits
from sessionha.state.manager import StateManager
from sessionha.state.node import Node, Options
from sessionha.state.upkeep import Upkeep
from sessionha.stopping import Stopping
from sessionha.store import LMDBStore, MemoryStore, choose, durable, is_alive
from sessionha.topology.base import Change
from sessionha.topology.health import NodeState
from sessionha.topology.lone import LoneMembership
from sessionha.topology.manager import TopologyManager
from sessionha.topology.members import holds
from sessionha.topology.rows import Voting
from sessionha.topology.timing import LEASE_MARGIN, Admission, Timing
from sessionha.topology.votefile import DiskVotes
from sessionha.view import Drains, EngineAddress, Member, View
from sessionha.view import Node as Described

log = logging.getLogger("sessionha.engine")

JOIN_PATIENCE = 3.0
"""Seconds beyond the discovery time that a start waits to become a member."""

STOP_PATIENCE = 5.0
"""Seconds a stop waits for tasks that were cancelled."""

DRAIN_ANSWER = 2.0
"""Seconds that a node may take to say how far it is with draining."""

ROUNDS = 4
"""Times that a starting node looks for others in the discovery time: the first round may be before
the others listen, or before DNS knows of them."""

WITNESS_STORE = 4 * 2**20
"""Bytes for what a witness keeps besides its vote: the view, and whom it answered."""

NO_DATA = Failed("NotMember", "a witness holds no sessions")

_DATA = (
    Push, Pushes, Compare, Walk, Claim, TakeOver, Promise, Fetch, Forward, Touch, Whose, Revoke,
    Revocations, Tell, Survey, Weigh, Examine, CountCopies, FindCopies, FindOld,
)  # fmt: skip


class Companion(Protocol):
    """Something that runs beside an engine, as the administration does."""

    def prepare(self) -> None:
        """Do what takes long and needs no engine: peers do not wait for it yet."""

    def start(self) -> None:
        """Begin; the engine runs. Must not suspend: an engine without peers never does."""

    async def stop(self) -> None:
        """End; the engine still runs."""


@dataclass
class _Parts:
    """What exists between start and stop."""

    pid: int
    store: LMDBStore | MemoryStore
    membership: TopologyManager | LoneMembership
    state: StateManager
    streams: Streams | None = None
    seeker: Seeker | None = None
    relays: Relays | None = None
    upkeep: asyncio.Task[None] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    """With peers: where all of it happens."""
    serving: Serving | None = None
    server: Server | None = None
    drain: Stopping | None = None
    """Of a node with peers that holds sessions."""
    warned: bool = False
    """It hears when its server is told to end this process, before the server does."""
    told: bool = False
    """Its server was told to end this process."""
    retiring: asyncio.Task[None] | None = None
    """What it does because of that while the server still serves."""
    stopping: bool = False


class Engine:
    """One process's part in its node. Shared by everything in the process with its settings."""

    def __init__(
        self,
        settings: Settings,
        keys: tuple[bytes, ...],
        companions: tuple[Callable[[Engine], Companion], ...] = (),
    ) -> None:
        """`companions`: made and started with every start of this engine."""
        self.settings = settings
        self.cluster = cluster_tag(settings.cluster)
        self.node_server = server_name(settings.node)
        self.server = _server(settings)
        self.backups = settings.backups if settings.has_peers else 0
        self.events: Counter[str] = Counter()
        self.affinity: Counter[Reason] = Counter()
        """Requests of clients with a session or a route, by how they found their way."""
        self._following: Following | None = None
        self._remarks: _Remarks | None = None
        self._keys = keys
        self._name = _store_name(settings, keys)
        self._parts: _Parts | None = None
        self._starting: asyncio.Lock | None = None
        self._companions = companions
        self._accompanied: list[Companion] = []
        self.route_cookies: RouteCookies | None = None
        if settings.has_peers:
            self.route_cookies = RouteCookies(settings.keys(ROUTE_LABEL), settings.route_cookie)

    # --- what doors ask -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it was started in this very process."""
        return self._parts is not None and self._parts.pid == os.getpid()

    def has_siblings(self) -> bool:
        """Whether another process runs an engine of this node with the same store; to be asked
        before the start. Raises StoreError: there is no place for the store."""
        return self.settings.store != "memory" and is_alive(self._place())

    @property
    def state(self) -> StateManager:
        """The state manager of the running engine."""
        assert self._parts is not None, "the engine was not started"
        return self._parts.state

    @property
    def membership(self) -> TopologyManager | LoneMembership:
        """The topology manager of the running engine."""
        assert self._parts is not None, "the engine was not started"
        return self._parts.membership

    @property
    def streams(self) -> Streams | None:
        """The streams of the running engine; None without peers."""
        return self._parts.streams if self._parts is not None else None

    @property
    def engine(self) -> str:
        """The engine's ID inside its node, as text."""
        return str(self._parts.store.slot) if self._parts is not None else ""

    @property
    def slot(self) -> int:
        """The engine's ID inside its node."""
        assert self._parts is not None, "the engine was not started"
        return self._parts.store.slot

    def now(self) -> float:
        """The wall clock, for deadlines in cookies."""
        return time.time()

    def count(self, event: Event) -> None:
        """Count something that operators want to see."""
        self.events[event] += 1

    def servers(self) -> Mapping[str, tuple[str, NodeState]]:
        """Node ID and state of every node of the view that holds sessions, by server name."""
        own, membership = self.settings.node, self.membership
        return {
            server_name(node): (
                node,
                self.node_state if node == own else membership.node_state(node),
            )
            for node in (member.node for member in membership.view().servers)
        }

    def misrouted(self, server: str) -> Reason:
        """Why a request came here whose route names another server first."""
        membership = self.membership
        named = membership.view().served_as(server)
        return misrouted(named, self.settings.node, membership.node_state)

    def audit(self, reason: Reason) -> None:
        """Count a request by how it found its way."""
        self.affinity[reason] += 1

    @property
    def node_state(self) -> NodeState:
        """The state of this engine's node."""
        parts = self._parts
        if parts is None or not self.running:
            return NodeState.STARTING
        state = parts.membership.node_state(self.settings.node)
        holds = parts.drain is not None
        if holds and state is NodeState.READY and not parts.state.catching_up.is_over:
            return NodeState.CATCHING_UP
        return state

    @property
    def weak_key(self) -> str:
        """What is wrong with a key of the application; empty when nothing is."""
        return next(filter(None, map(check_key, self._keys)), "")

    def view_changed(self, view: View, changes: tuple[Change, ...]) -> None:
        """Cookies name the cluster with its beginning: one that began anew knows no old ones."""
        del changes
        self.cluster = cluster_tag(self.settings.cluster, view.cluster)

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store and join the cluster; without peers it never suspends.

        Raises:
            StoreError, InvalidSettings: what is wrong and the remedy.
        """
        if self.running:
            self._check_loop()
            return
        if not self.settings.has_peers:
            self._start_alone()
            return
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if not self.running:
                await self._start_with_peers()

    def _check_loop(self) -> None:
        """Raises InvalidSettings when it runs on another event loop than the caller's."""
        loop = self._parts.loop if self._parts is not None else None
        if loop is not None and loop is not asyncio.get_running_loop():
            raise InvalidSettings(
                [
                    f"`node` = {self.settings.node!r} runs in this process already, in another"
                    " thread: put one middleware around the whole application, SessionMiddleware"
                    " where the server speaks ASGI, WSGISessionMiddleware where it speaks WSGI"
                ]
            )

    @property
    def is_witness(self) -> bool:
        """Whether this node votes and holds no sessions."""
        return _is_witness(self.settings)

    def _described(self) -> Described:
        """This node, as configured. Raises InvalidSettings: it is not, or not for applications."""
        settings = self.settings
        described = settings.description.node(settings.node)
        if described is None and settings.admission == "dynamic":
            return Described(settings.node, settings.advertise)
        if described is None:
            raise InvalidSettings(
                [f"`node` = {settings.node!r} is not among `nodes`: add it, or correct `node`"]
            )
        if described.role == "witness" and self._keys:
            raise InvalidSettings(
                [
                    f"`node` = {settings.node!r} is described as a witness, which holds no"
                    " sessions and runs no application: run `sessionha witness` there, or give it"
                    " another `role`"
                ]
            )
        return described

    def _start_alone(self) -> None:
        self._prepare()
        settings = self.settings
        store = self._open_store()
        me = Member(settings.node, store.incarnation, NO_VIEW, peer="")
        membership = LoneMembership(store, me)
        membership.begin()
        state = StateManager(self._node(store, _clock(store), membership, None))
        state.begin()
        state.tend = Upkeep(state).tend
        self._parts = _Parts(os.getpid(), store, membership, state)
        self._accompany()

    async def _start_with_peers(self) -> None:
        self._prepare()
        settings = self.settings
        described = self._described()
        store = self._open_store()
        clock = _clock(store)
        me = _member(described, settings, store.incarnation, self._keys)
        meet_siblings(store, settings)
        try:
            topology = self._topology(store, me, clock)
        except StoreError:
            store.close()
            raise
        topology.subscribe(self)
        remarks = _Remarks(me)
        topology.subscribe(remarks)
        streams = Streams(
            settings.node,
            settings.cluster,
            self._handle,
            secrets=lambda: self.settings.secret,
            incarnation=lambda: store.incarnation,
            beginning=lambda: topology.cluster,
            listener=topology,
            limits=StreamLimits(handshake=settings.heartbeat),
        )
        try:
            seeker = self._seeker(topology, streams, store)
        except InvalidSettings:
            store.close()
            raise
        state = StateManager(self._node(store, clock, topology, streams))
        state.begin()
        upkeep = Upkeep(state)
        upkeep.keep_time()  # before anybody can ask for what it drops
        relays = Relays(
            lambda: Sender(settings.node, store.incarnation),
            lambda node, incarnation: holds(topology.view(), node, incarnation),
            streams,
            self._handle,
        )
        parts = _Parts(os.getpid(), store, topology, state, streams, seeker, relays)
        parts.loop, parts.drain = asyncio.get_running_loop(), _stopping(settings, state, topology)
        parts.serving, parts.server = Serving(store, os.getpid()), Server()
        self._parts = parts
        host, _, port = settings.listen.rpartition(":")
        try:
            await streams.start_listening(host.strip("[]"), int(port))
            await topology.start(streams)
            parts.serving.begin()
        except OSError as error:
            self._parts = None
            await streams.close()
            store.close()
            raise InvalidSettings(
                [
                    f"`listen` = {settings.listen!r} cannot be used:"
                    f" {os.strerror(error.errno) if error.errno else error}; end what uses it, or"
                    " give this node another address in `nodes` (or SESSIONHA_LISTEN)"
                ]
            ) from error
        # A view that only holds again after a restart is no news to listeners.
        self.cluster = cluster_tag(settings.cluster, topology.cluster)
        if seeker is not None:
            seeker.start()
        if not self.is_witness:
            parts.upkeep = asyncio.create_task(upkeep.run(), name="sessionha upkeep")
        self._follow(store, topology, remarks)
        self._accompany()
        await self._joined(topology)
        self._remark_alone(topology, remarks)
        log.info(
            "node %s, engine %d, runs in %s mode with %d backups; listening on %s",
            settings.node,
            store.slot,
            settings.consistency,
            settings.backups,
            settings.listen,
            extra={"node": settings.node, "engine": store.slot},
        )

    # --- reloading ------------------------------------------------------------------------------

    def reload(self) -> Reloaded:
        """Read the settings again and take over what can change while it runs; the other engines
        of the node follow.

        Raises:
            InvalidSettings: every mistake; nothing was changed.
            StoreFull: the others could not be told; only this engine has reloaded.
        """
        found = self._reload(logging.INFO)
        if self._following is not None and self._parts is not None:
            self._following.known = announce(self._parts.store)
        return found

    def _follow(
        self, store: LMDBStore | MemoryStore, topology: TopologyManager, remarks: _Remarks
    ) -> None:
        def look() -> None:
            remarks.look_again(topology.view())
            parts = self._parts
            if parts is None or parts.drain is None or parts.told or parts.stopping:
                return
            parts.drain.look()

        self._following = Following(store, lambda: self._reload(logging.DEBUG), look)
        self._remarks = remarks

    def _reload(self, level: int) -> Reloaded:
        found = read_again(self.settings, self.membership.view())
        self._take_over(found.settings)
        what = "; ".join(found.changed) or "nothing has changed"
        log.log(level, "node %s reloaded its settings: %s", self.settings.node, what)
        if found.waiting:
            later = "; ".join(found.waiting)
            log.log(max(level, logging.INFO), "this takes effect with the next start: %s", later)
        return found

    def _take_over(self, settings: Settings) -> None:
        rekeyed = settings.secret != self.settings.secret
        self.settings = settings
        parts, membership = self._parts, self.membership
        if not settings.has_peers or parts is None or isinstance(membership, LoneMembership):
            return
        if rekeyed:
            self.route_cookies = RouteCookies(settings.keys(ROUTE_LABEL), settings.route_cookie)
        self.server = _server(settings)
        self.backups = settings.backups
        parts.state.node.options = self._options()
        parts.state.node.wanting = True  # other copies may be missing now
        me = _member(self._described(), settings, parts.store.incarnation, self._keys)
        if self._remarks is not None:
            self._remarks.change(me)
        with contextlib.suppress(StoreFull):  # sessions need the room more
            leave_settings(parts.store, settings)
        membership.reloaded(settings.description, _admission(settings), me)

    def _remark_alone(self, topology: TopologyManager, remarks: _Remarks) -> None:
        settings = self.settings
        several = len(settings.description.nodes) > 1 or settings.discovery is not None
        if topology.is_member() and len(topology.view().members) == 1 and several:
            remarks.alone = True
            said = (
                "node %s starts alone: it was the last that stopped, and the others are not started"
                " yet; until one joins changes %s"
                if settings.consistency == "quorum"
                else "node %s starts alone: no other node of `nodes` answers yet, and until one"
                " does changes %s"
            )
            refused = "are refused (`min_copies`)" if settings.min_copies else "have no copies"
            log.warning(said, settings.node, refused)

    def _topology(
        self, store: LMDBStore | MemoryStore, me: Member, clock: NodeClock
    ) -> TopologyManager:
        """Raises StoreError: there is no place for the votes."""
        settings = self.settings
        timing = Timing.of(
            heartbeat=settings.heartbeat,
            suspect_after=settings.suspect_after,
            confirm_after=settings.confirm_after,
            discovery_time=settings.discovery_time,
            forget_after=settings.forget_after,
        )
        topology = TopologyManager(
            store,
            me,
            settings.description,
            clock.now,
            timing,
            trust_refused=True if settings.trust_refused == "always" else None,
            admission=_admission(settings),
            voting=_voting(settings, timing),
        )
        topology.kept = self._kept
        return topology

    def _kept(self) -> frozenset[str]:
        """Absent nodes that an operator wants awaited."""
        parts = self._parts
        return frozenset() if parts is None else parts.state.delays.kept()

    async def _joined(self, topology: TopologyManager) -> None:
        """A node should be a member before its first request; bounded, for it may be alone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.discovery_time + JOIN_PATIENCE
        while not topology.is_member() and loop.time() < deadline:
            await topology.wait_change(topology.view().id, 0.1)
        if not topology.is_member() and topology.leads:  # another engine would not know
            log.warning(
                "node %s is not a member of its cluster yet; it waits for %s",
                self.settings.node,
                topology.waiting_for,
            )

    def _prepare(self) -> None:
        self.events.clear()
        self.affinity.clear()
        self._accompanied = [make(self) for make in self._companions]
        for companion in self._accompanied:
            companion.prepare()

    def _accompany(self) -> None:
        if self._following is not None:
            self._accompanied.append(self._following)
        for companion in self._accompanied:
            companion.start()

    # --- stopping -------------------------------------------------------------------------------

    async def drain(self, node: str, how: Drains | None) -> DrainProgress:
        """Let a node of the cluster drain in this way, or (empty) no more, or (None) only tell how
        far it is: that goes on while this returns.

        Raises:
            InvalidSettings: it has nothing to drain, or is no member.
            PeerUnavailable: it does not answer.
        """
        parts = self._parts
        if node == self.settings.node:
            return self._drain_here(how)
        if parts is None or parts.streams is None or not self.membership.view().member(node):
            raise InvalidSettings([f"{node} is no member of the cluster of {self.settings.node}"])
        reply = await parts.streams.call(node, Drain(how), DRAIN_ANSWER)
        if not isinstance(reply, DrainProgress):
            why = reply.reason if isinstance(reply, Failed) else "it answers something else"
            raise InvalidSettings([f"{node} does not drain: {why}"])
        return reply

    def _drain_here(self, how: Drains | None) -> DrainProgress:
        drain = self._parts.drain if self._parts is not None else None
        if drain is None:
            raise InvalidSettings([f"{self.settings.node} has nothing that others could take over"])
        if how is not None:
            drain.begin(how)
        return drain.progress()

    def will_be_told(self) -> None:
        """Whoever calls this calls `retire` before the server ends this process by a signal."""
        if self._parts is not None:
            self._parts.warned = True

    async def retire(self) -> None:
        """The server is about to end this process, and serves until this returns: leave the node
        to its other engines, or drain it where this is the last one. Bounded by `drain_timeout`,
        and by what the last one waits for others; does nothing where there is nobody to drain to.
        A server that stops the engine sooner, of its own accord, ends it.
        """
        parts = self._parts
        if parts is None or parts.drain is None or parts.stopping or parts.told:
            return
        parts.told = True
        work = self._retire(parts, parts.drain)
        parts.retiring = asyncio.create_task(work, name="sessionha retire")
        await asyncio.wait({parts.retiring})
        if not parts.retiring.cancelled():
            parts.retiring.result()

    async def _retire(self, parts: _Parts, drain: Stopping) -> None:
        if await _left_to_sibling(parts):
            await drain.wait_for_routers()
        else:
            await self._drain_last(parts, self.settings.drain_timeout, patiently=True)

    async def _drain_last(self, parts: _Parts, within: float, *, patiently: bool) -> None:
        membership = parts.membership
        if parts.drain is None or isinstance(membership, LoneMembership):
            return
        if membership.is_member() and len(membership.view().servers) > 1:
            how = membership.drains or "returning"
            await parts.drain.carry_out(how, patiently=patiently, within=within)

    async def stop(self) -> None:
        """Leave the node to its other engines; drain and say goodbye when there is none, and close.

        The last one waits while its server starts others, so that the node lives through the
        exchange of its workers. Until then, and until a goodbye is heard, it answers its peers:
        their commits may need this node.
        """
        parts = self._parts
        if parts is None or parts.pid != os.getpid() or parts.stopping:
            return
        parts.stopping = True
        began = time.monotonic()
        last = not await _left_to_sibling(parts)
        if last:
            left = max(began + LIMIT - time.monotonic(), STOP_PATIENCE)
            await self._drain_last(parts, left, patiently=False)
        elif parts.drain is not None:
            parts.drain.leave()  # the server has started others after all
        if parts.retiring is not None:
            parts.retiring.cancel()
            await asyncio.wait({parts.retiring})
        companions, self._accompanied = self._accompanied, []
        for companion in companions:
            await companion.stop()
        if parts.upkeep is not None:
            parts.upkeep.cancel()
            await asyncio.wait({parts.upkeep}, timeout=STOP_PATIENCE)
        if parts.streams is not None:
            await parts.state.stop()
            if parts.seeker is not None:
                await parts.seeker.stop(withdraw=last)
            if last:
                await _say_goodbye(parts, began + LIMIT)
            await parts.membership.stop()
            await parts.streams.close()
        self._parts = None
        self._following = None
        parts.store.close()

    # --- wiring ---------------------------------------------------------------------------------

    def _open_store(self) -> LMDBStore | MemoryStore:
        settings = self.settings
        if settings.store == "memory":
            return MemoryStore(size=settings.store_size).open()
        place = self._place()
        # Allocated whole and mapped writable it is twice as fast, and takes its size in memory at
        # once: right for a node of a cluster, too much for an application on a laptop.
        writemap = None if settings.has_peers else False
        return LMDBStore(place, size=settings.store_size, writemap=writemap).open()

    def _place(self) -> Path:
        settings = self.settings
        return choose(settings.store or None, name=self._name, size=settings.store_size)

    def _node(
        self,
        store: LMDBStore | MemoryStore,
        clock: NodeClock,
        membership: TopologyManager | LoneMembership,
        streams: Streams | None,
    ) -> Node:
        return Node(
            me=self.settings.node,
            store=store,
            membership=membership,
            clock=clock,
            options=self._options(),
            peers=streams,
        )

    def _options(self) -> Options:
        settings = self.settings
        quorum = settings.consistency == "quorum"
        return Options(
            backups=self.backups,
            min_copies=settings.min_copies,
            commit_timeout=settings.commit_timeout,
            acquire_timeout=settings.acquire_timeout,
            heal_after=settings.heal_after,
            urgent=settings.heal_policy == "urgent",
            heal_rate=settings.heal_rate,
            confirmed=settings.reads == "confirmed",
            serial=settings.concurrency == "serialize",
            drill=settings.drill,
            rebalance=settings.rebalance,
            quorum=quorum,
            member_timeout=settings.quorum_timeout if quorum else None,
            limits=Limits(settings.session_bytes, settings.elements),
        )

    def _seeker(
        self, topology: TopologyManager, streams: Streams, store: LMDBStore | MemoryStore
    ) -> Seeker | None:
        """Who finds the nodes, where they are not written down."""
        settings = self.settings
        if settings.discovery is None:
            return None
        return Seeker(
            open_source(settings.discovery, settings.cluster),
            str(settings.discovery),
            streams.identify,
            _Seeking(topology, lambda: Own(settings.node, store.incarnation, settings.advertise)),
            haste=settings.discovery_time / ROUNDS,
        )

    def _handle(
        self, sender: Sender, message: Message
    ) -> Message | Awaitable[Message | None] | None:
        """Pass a peer's message to the manager that it is for."""
        parts = self._parts
        if parts is None:
            return None
        if isinstance(message, _DATA):
            return NO_DATA if self.is_witness else parts.state.handle(sender, message)
        if isinstance(message, Drain):
            try:
                return self._drain_here(message.how)
            except InvalidSettings as error:
                return Failed("InvalidSettings", "; ".join(error.problems))
        if isinstance(message, Inspect):
            return Inspected(round(self.now() * 1000))
        if isinstance(message, Relay) and parts.relays is not None:
            return parts.relays.handle(sender, message)
        return parts.membership.handle(sender, message)


class _Seeking:
    """What the seeker asks of a node's topology manager, and tells it."""

    def __init__(self, topology: TopologyManager, own: Callable[[], Own]) -> None:
        self._topology = topology
        self.own = own
        self.found: Callable[[Mapping[str, Found]], None] = topology.found

    @property
    def seeks(self) -> bool:
        return self._topology.leads

    @property
    def settled(self) -> bool:
        return self._topology.is_member()

    def members(self) -> Mapping[str, Proof]:
        members = self._topology.view().members
        return {member.peer: Proof(member.node, member.incarnation) for member in members}


class _Remarks:
    """Says once what operators should know of the other nodes."""

    def __init__(self, me: Member) -> None:
        self.alone = False
        """Whether it was said that this node is alone."""
        self._node = me.node
        self._keys = me.keys
        self._nodes = Nodes(me.node, me.settings)
        self._strangers: set[str] = set()

    def change(self, me: Member) -> None:
        """This node has other settings than before."""
        self._keys = me.keys
        self._nodes.change(me.settings)

    def look_again(self, view: View) -> None:
        """Time has passed, if that matters."""
        if self._nodes.waits:
            self._nodes.look(view, time.monotonic())

    def view_changed(self, view: View, changes: tuple[Change, ...]) -> None:
        """Look at the members of a view."""
        del changes
        if self.alone and len(view.members) > 1:
            self.alone = False
            others = ", ".join(node for node in view.nodes if node != self._node)
            log.warning("node %s is alone no more: %s joined", self._node, others)
        self._nodes.look(view, time.monotonic())
        for member in view.members:
            if not other_keys(self._keys, member.keys):
                self._strangers.discard(member.node)
            elif member.node not in self._strangers:
                self._strangers.add(member.node)
                log.warning(
                    "%s has another application key than %s, so sessions are lost from one to the"
                    " other: give every node the same `secret_key`",
                    member.node,
                    self._node,
                )


def _stopping(
    settings: Settings, state: StateManager, topology: TopologyManager
) -> Stopping | None:
    """The planned stop of a node that has something to hand over."""
    if _is_witness(settings):
        return None
    return Stopping(state, topology, settings.drain_delay, settings.drain_timeout)


def _goes_for_good(membership: TopologyManager | LoneMembership) -> bool:
    return isinstance(membership, TopologyManager) and membership.drains == "leaving"


async def _left_to_sibling(parts: _Parts) -> bool:
    """Wait until another engine of the node serves; False: there will be none."""
    serving, server = parts.serving, parts.server
    if serving is None or server is None or serving.leave():
        return True  # without peers nobody waits for anything
    if not serving.had_siblings:
        return False
    clock = asyncio.get_running_loop().time
    said = told_to_end()
    told = parts.told or (not parts.warned if said is None else said)
    vigil = Vigil(clock(), told=told)
    log.info("the last worker that serves ends; it waits whether the server starts others")
    while vigil.goes_on(clock(), others := server.others(serving.ending if told else ())):
        await asyncio.sleep(LOOK)
        if serving.leave():
            log.info("another worker serves")
            return True
    log.info("no other worker serves (%d live, %d have ended)", others.alive, others.ended)
    return False


async def _say_goodbye(parts: _Parts, limit: float) -> None:
    """The node's last engine does. One that began to end earlier may lead still."""

    def patient() -> bool:
        started = parts.serving is not None and parts.serving.leave()
        return not started and time.monotonic() < limit

    returning = not _goes_for_good(parts.membership)
    await parts.membership.leave(returning=returning, patient=patient)


def _member(
    described: Described, settings: Settings, incarnation: str, keys: tuple[bytes, ...]
) -> Member:
    """This node as it offers itself to a view."""
    member = described.member(incarnation)
    return msgspec.structs.replace(
        member,
        url=member.url if settings.own_engine else settings.url or member.url,
        zone=settings.zone or member.zone,
        engines=member.engines or (EngineAddress("", settings.engine_type),),
        keys=prints(settings, keys),
        settings=shown(settings, OF_A_CLUSTER),
    )


def _server(settings: Settings) -> str:
    """What route cookies call this process."""
    own = settings.own_engine
    return server_name(settings.node, own.engine if own is not None else "")


def _admission(settings: Settings) -> Admission:
    return "dynamic" if settings.admission == "dynamic" else "static-only"


def _clock(store: LMDBStore | MemoryStore) -> NodeClock:
    clock = NodeClock(store)
    clock.begin()
    return clock


def _voting(settings: Settings, timing: Timing) -> Voting | None:
    """What this node votes with, in quorum mode.

    Raises:
        StoreError: there is no place for the votes.
    """
    if settings.consistency != "quorum":
        return None
    place = durable(settings.state_dir, name=f"{settings.cluster}-{settings.node}")
    return Voting(
        DiskVotes(place),
        token=partial(secrets.token_hex, 8),
        electors=settings.description.order,
        lease=timing.lease + LEASE_MARGIN,
    )


def _store_name(settings: Settings, keys: tuple[bytes, ...]) -> str:
    """What a store's directory is called: a node's engines share one, two projects do not."""
    if settings.has_peers:
        return f"{settings.cluster}-{settings.node}"
    words = f"{settings.cluster}/{settings.node}/{settings.virtual_server}".encode()
    return "alone-" + hmac.digest(keys[0], b"sessionha store " + words, "sha256")[:12].hex()


def _is_witness(settings: Settings) -> bool:
    described = settings.description.node(settings.node)
    return described is not None and described.role == "witness"


def witness_of(
    settings: Settings, companions: tuple[Callable[[Engine], Companion], ...] = ()
) -> Engine:
    """The engine of a node that votes and holds no sessions.

    Raises:
        InvalidSettings: the node is described as something else.
    """
    if not _is_witness(settings):
        raise InvalidSettings(
            [
                f"`node` = {settings.node!r} is not described as a witness: give it a [[node]]"
                ' table with role = "witness" in the file that every node reads (`config`)'
            ]
        )
    return Engine(_small(settings), (), companions)


def _small(settings: Settings) -> Settings:
    """The settings of a witness, also when they are read again."""
    return replace(settings, store_size=WITNESS_STORE, source=lambda: _small(settings.reloaded()))


_engines: dict[tuple[object, ...], Engine] = {}


def engine_for(
    settings: Settings,
    keys: tuple[bytes, ...],
    companions: tuple[Callable[[Engine], Companion], ...] = (),
) -> Engine:
    """The engine that this process shares among everything with these settings and keys.

    With peers there is one for each node ID, because it owns the peer listener; without, one for
    each application key and virtual server. `memory` is private to whoever asks.
    """
    if settings.store == "memory" and not settings.has_peers:
        return Engine(settings, keys, companions)
    if settings.has_peers:
        key: tuple[object, ...] = (settings.cluster, settings.node, settings.listen)
    else:
        key = (settings.store, _store_name(settings, keys))
    engine = _engines.get(key)
    if engine is None:
        # Two threads may come at once; the engine that loses has done nothing yet.
        engine = _engines.setdefault(key, Engine(settings, keys, companions))
    return engine
