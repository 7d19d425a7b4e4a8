"""Where simulated nodes get their views from: an oracle, or the production topology managers.

The oracle agrees as a majority would that can always be reached; the topology managers agree as
they do in available mode, or by the votes of a majority.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import ViewID
from sessionha.peer.base import Sender, Verdict, Way
from sessionha.peer.messages import Message, Push, decode
from sessionha.peer.relay import call_by, wrapped
from sessionha.store.base import Reader
from sessionha.topology.base import Change, ViewListener
from sessionha.topology.description import Description
from sessionha.topology.lone import FOREVER
from sessionha.topology.manager import AFTER_ERROR, TICK, TopologyManager
from sessionha.topology.timing import Timing
from sessionha.topology.votes import Vote
from sessionha.view import Node, Role, View

if TYPE_CHECKING:
    from tests.simulation.world import Engine, Host, World

TIMING = Timing.of(
    heartbeat=0.1, suspect_after=0.4, confirm_after=0.2, discovery_time=0.6, forget_after=30.0
)
"""Faster than the default, so that more happens in a history; the proportions are the same."""

REDIAL = 0.02
"""Seconds between two looks of a simulated stream at the node that it leads to."""


class SimulatedMembership:
    """One node's view, set by the oracle."""

    def __init__(self, world: World, me: str) -> None:
        self._world = world
        self._me = me
        self.current = View()
        self.suspected: list[str] = []
        self._gone: dict[str, float] = {}
        self._changed = asyncio.Event()

    def install(self, view: View) -> None:
        """Hold this view, unless a newer one is known."""
        if not view.supersedes(self.current):
            return
        for name in self.current.nodes or self._world.hosts:  # views say who was a member before
            self._gone.setdefault(name, self._world.now)
        for name in view.nodes:
            self._gone.pop(name, None)
        self.current = view
        self._world.saw(self._me, view)
        self._changed.set()
        self._changed = asyncio.Event()

    def view(self) -> View:
        return self.current

    def view_in(self, reader: Reader) -> View:
        return self.current

    def lease_in(self, reader: Reader) -> int:
        return FOREVER  # whom the oracle leaves out, it leaves out without waiting

    async def wait_change(self, known: ViewID, timeout: float) -> View:
        if self.current.id == known:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                pass
        await self._world.hosts[self._me].running()
        return self.current

    def is_member(self) -> bool:
        member = self.current.member(self._me)
        host = self._world.hosts[self._me]
        return member is not None and member.incarnation == host.incarnation

    def unproven(self) -> tuple[str, ...]:
        return tuple(
            name
            for name in sorted(self._world.hosts)
            if self.current.member(name) is None and name not in self._world.forgotten
        )

    def elsewhere(self) -> tuple[str, ...]:
        return tuple(name for name in sorted(self._world.hosts) if not self.current.member(name))

    def away(self) -> Mapping[str, int]:
        now = self._world.now
        return {name: int((now - since) * 1000) for name, since in self._gone.items()}

    def suspect(self, node: str) -> None:
        self.suspected.append(node)

    def subscribe(self, listener: ViewListener) -> None:
        raise NotImplementedError


class SimulatedPeers:
    """One engine's streams, as state manager and topology manager use them."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host
        self.engine: Engine | None = None
        self._wanted: tuple[str, ...] = ()
        self._ways: Mapping[str, Way] = {}
        self._met: dict[str, str] = {}
        """Node to the incarnation that its stream leads to; empty: it refuses."""

    def _alive(self) -> bool:
        return self.engine is not None and self.engine.alive

    async def call(
        self, node: str, message: Message, timeout: float, *, straight: bool = False
    ) -> Message:
        if not straight and (way := self._ways.get(node)) is not None:
            return await call_by(way, self._call_straight, node, message, timeout)
        return await self._call_straight(node, message, timeout)

    async def _call_straight(self, node: str, message: Message, timeout: float) -> Message:
        world, host = self._world, self._host
        await host.running()
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[bytes | None] = loop.create_future()
        sender = Sender(host.name, host.incarnation)
        world.trace(f"{host.name}->{node} {describe(message)}")
        world.deliver(node, sender, message, reply)
        try:
            async with asyncio.timeout(timeout):
                data = await reply
        except TimeoutError:
            await host.running()
            raise PeerUnavailable(node, "silent") from None
        await host.running()
        if not self._alive():
            await asyncio.Event().wait()  # the caller is dead: it never hears of it
        if sender.incarnation != host.incarnation:
            raise PeerUnavailable(node, "closed: this node has a new incarnation")
        if data is None:
            raise PeerUnavailable(node, "refused", refused=True, sent=False)
        return decode(data)

    def cast(self, node: str, message: Message, *, straight: bool = False) -> None:
        if not straight and (way := self._ways.get(node)) is not None:
            node, message = way.via, wrapped(way, node, message)
        sender = Sender(self._host.name, self._host.incarnation)
        self._world.deliver(node, sender, message, None)

    def know(self, directory: Mapping[str, str]) -> None:
        """Names are addresses here."""

    def detour(self, ways: Mapping[str, Way]) -> None:
        self._world.trace(f"{self._host.name} detours {dict(ways)}")
        self._world.detours += len(ways)
        self._ways = ways

    def keep(self, nodes: Collection[str]) -> None:
        self._wanted = tuple(nodes)

    async def probe(self, address: str, timeout: float) -> Verdict:
        host = self._world.hosts[address.partition(":")[0]]
        if not self._world.reach(self._host.name, host.name) or host.paused is not None:
            await asyncio.sleep(timeout)
            return "silent"
        await asyncio.sleep(self._world.random.uniform(*self._world.faults.delay))
        return "alive" if host.up else "refused"

    def drop_all(self) -> None:
        self._met.clear()

    async def dial_forever(self, topology: TopologyManager) -> None:
        """Tell the topology manager what becomes of the streams it wants."""
        while True:
            await self._host.running()
            for node in self._wanted:
                host = self._world.hosts[node]
                if not self._world.reach(self._host.name, node) or host.paused is not None:
                    continue  # silence: only heartbeats show it
                meets = host.incarnation if host.up else ""
                if self._met.get(node) != meets:
                    self._met[node] = meets
                    if meets:
                        topology.link_up(node, meets)
                    else:
                        topology.link_down(node, refused=True)
            await asyncio.sleep(REDIAL)


class _Ordered(dict[Any, None]):
    """What is used of a set, in the order in which things came."""

    def add(self, value: Any) -> None:
        self[value] = None

    def discard(self, value: Any) -> None:
        self.pop(value, None)


class SimulatedTopology(TopologyManager):
    """The production topology manager; it stands still with its node, and hides no
    error but that its store is full, which a simulated store is soon."""

    host: Host

    def repeat(self) -> None:
        """Let what is kept in sets have an order that is the same in every run."""
        self._waiters = cast("set[asyncio.Future[None]]", _Ordered())
        self._tasks = cast("set[asyncio.Task[None]]", _Ordered())

    async def _tick_forever(self) -> None:
        while True:
            await self.host.running()
            pause = TICK
            try:
                self.poll()
            except StoreFull:
                pause = AFTER_ERROR
            await asyncio.sleep(pause)

    def perish(self) -> None:
        """kill -9."""
        for task in list(self._tasks):
            task.cancel()


class Votes:
    """A vote file: what it was told before the node died is there."""

    def __init__(self) -> None:
        self.vote: Vote | None = None

    def load(self) -> Vote | None:
        return self.vote

    def save(self, vote: Vote) -> None:
        self.vote = vote


class ViewLog:
    """Writes down what an engine's listeners are told."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host

    def view_changed(self, view: View, changes: tuple[Change, ...]) -> None:
        words = ", ".join(f"{change.kind} {change.node}" for change in changes)
        self._world.trace(f"{self._host.name} holds view {view.id.number}: {words}")
        self._world.saw(self._host.name, view)


def description(nodes: int, witness: str = "") -> Description:
    """What every node is configured with."""
    names = [f"n{index + 1}" for index in range(nodes)]
    roles: dict[str, Role] = {witness: "witness"}
    return Description(tuple(Node(n, f"{n}:1", host=n, role=roles.get(n, "server")) for n in names))


def describe(message: Message) -> str:
    """A message in a trace: its kind, its group and where it leads."""
    batch = getattr(message, "batch", None)
    groups = getattr(message, "groups", None)
    group = getattr(batch or message, "group", groups[0] if groups else b"")
    words = [type(message).__name__, group.hex()[:6]]
    if isinstance(message, Push):
        words.append(f"{message.base.version}..{message.version} {','.join(message.holders)}")
    return " ".join(words)
