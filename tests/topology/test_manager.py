"""The topology manager: engines of one node share a view, hand the lead over, and answer alike."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

import msgspec
import pytest

from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import ViewID
from sessionha.peer.base import Sender, Verdict, Way
from sessionha.peer.messages import Done, Installed, Message, Ping, Pong, Watch, decode, encode
from sessionha.store.memory import Memory, MemoryStore
from sessionha.topology.base import Change, Membership
from sessionha.topology.comparison import ASK_UNTIL, PATIENCE
from sessionha.topology.description import Description
from sessionha.topology.lone import LoneMembership
from sessionha.topology.manager import TopologyManager
from sessionha.topology.rows import Voting
from sessionha.topology.timing import LEASE_MARGIN, Timing
from sessionha.view import View
from tests.topology.world import Disk

NODES = "n1=http://127.0.0.1:7001,n2=http://127.0.0.1:7002,n3=http://127.0.0.1:7003"


class Engine:
    """One engine, its listener and its streams."""

    def __init__(self, wire: Wire, node: str, memory: Memory) -> None:
        self.wire = wire
        self.node = node
        self.store = MemoryStore(memory).open()
        described = wire.description.node(node)
        assert described is not None
        self.manager = TopologyManager(
            self.store,
            described.member(self.store.incarnation),
            wire.description,
            lambda: wire.now,
            wire.timing,
            voting=wire.voting(node),
        )
        self.manager.subscribe(self)
        self.told: list[tuple[ViewID, tuple[Change, ...]]] = []
        self.kept: Collection[str] = ()
        self.ways: Mapping[str, Way] = {}
        self.dropped = 0

    def view_changed(self, view: View, changes: tuple[Change, ...]) -> None:
        self.told.append((view.id, changes))

    # --- Links ---

    async def call(
        self, node: str, message: Message, timeout: float, *, straight: bool = False
    ) -> Message:
        await asyncio.sleep(0)
        target = self.wire.answering(node)
        if target is None:
            raise PeerUnavailable(node, "refused", refused=True)
        sender = Sender(self.node, self.store.incarnation)
        reply = target.manager.handle(sender, decode(encode(message)))
        answered = await reply if isinstance(reply, Awaitable) else reply
        assert answered is not None
        return decode(encode(answered))

    def cast(self, node: str, message: Message, *, straight: bool = False) -> None: ...

    def detour(self, ways: Mapping[str, Way]) -> None:
        self.ways = ways

    def know(self, directory: Mapping[str, str]) -> None: ...

    def keep(self, nodes: Collection[str]) -> None:
        self.kept = nodes

    async def probe(self, address: str, timeout: float) -> Verdict:
        return "alive"

    def drop_all(self) -> None:
        self.dropped += 1


class Wire:
    """Engines by node; the last one started answers for its node."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.description = Description.parse(NODES)
        self.timing = Timing()
        self.engines: list[Engine] = []
        self.disks: dict[str, Disk] | None = None
        """Vote files, in quorum mode."""

    def voting(self, node: str) -> Voting | None:
        if self.disks is None:
            return None
        disk, electors = self.disks.setdefault(node, Disk()), self.description.order
        lease = self.timing.lease + LEASE_MARGIN
        return Voting(disk, lambda: f"{random.getrandbits(64):x}", electors, lease)

    def answering(self, node: str) -> Engine | None:
        return next((e for e in reversed(self.engines) if e.node == node), None)

    async def start(self, node: str, memory: Memory | None = None) -> Engine:
        engine = Engine(self, node, memory or Memory())
        self.engines.append(engine)
        await engine.manager.start(engine)
        return engine

    async def kill(self, engine: Engine) -> None:
        self.engines.remove(engine)
        await engine.manager.stop()
        engine.store.kill()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Ticks, each 25 virtual milliseconds, until it is reached."""
        for _ in range(400):
            if reached():
                return
            self.now += 25
            for engine in self.engines:
                engine.manager.poll()
            for _ in range(4):  # calls and their replies pass
                await asyncio.sleep(0)
        raise AssertionError([(e.node, e.manager.state, e.manager.view()) for e in self.engines])

    def agreed(self, *nodes: str) -> bool:
        views = {e.manager.view() for e in self.engines}
        return len(views) == 1 and set(views.pop().nodes) == set(nodes)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    yield made
    for engine in list(made.engines):
        await made.kill(engine)


async def test_a_node_that_is_described_no_more_is_forgotten_in_time(wire: Wire) -> None:
    """It may have sessions that nobody else has, as long as any that went; then it is nobody."""
    first, second, third = [await wire.start(node) for node in ("n1", "n2", "n3")]
    await wire.until(lambda: wire.agreed("n1", "n2", "n3"))
    await wire.kill(third)
    await wire.until(lambda: wire.agreed("n1", "n2"))
    described = Description(wire.description.nodes[:2])
    for engine in (first, second):
        me = described.nodes[0 if engine is first else 1].member(engine.store.incarnation)
        engine.manager.reloaded(described, "static-only", me)
    assert first.manager.unproven() == first.manager.elsewhere() == ("n3",)
    wire.now += wire.timing.forget_after
    assert first.manager.unproven() == first.manager.elsewhere() == ()


async def test_nodes_form_a_view_and_a_dead_one_leaves_it(wire: Wire) -> None:
    first, second, third = [await wire.start(node) for node in ("n1", "n2", "n3")]
    await wire.until(lambda: wire.agreed("n1", "n2", "n3"))
    assert all(e.manager.is_member() for e in wire.engines)
    await wire.kill(third)
    await wire.until(lambda: wire.agreed("n1", "n2"))
    assert first.told[-1][1] == second.told[-1][1] == (Change("failed", "n3"),)
    assert first.manager.unproven() == ("n3",)
    wire.now += wire.timing.forget_after
    assert first.manager.unproven() == ()


async def test_who_is_to_be_awaited_is_not_forgotten_unless_by_name(wire: Wire) -> None:
    """System 7 (h): a node in maintenance may hold what nobody else has, however long it takes."""
    first, _, third = [await wire.start(node) for node in ("n1", "n2", "n3")]
    await wire.until(lambda: wire.agreed("n1", "n2", "n3"))
    await wire.kill(third)
    await wire.until(lambda: wire.agreed("n1", "n2"))
    first.manager.kept = lambda: {"n3"}
    wire.now += wire.timing.forget_after
    assert first.manager.unproven() == ("n3",)
    first.manager.forget("n3")
    assert first.manager.unproven() == ()


async def test_only_one_engine_of_a_node_leads_and_all_are_told_once(wire: Wire) -> None:
    memory = Memory()
    one = await wire.start("n1", memory)
    other = await wire.start("n1", memory)
    await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2") and len(other.told) == len(one.told))
    assert one.manager.leads
    assert not other.manager.leads
    assert other.told[-1] == one.told[-1]
    assert len(dict(other.told)) == len(other.told), "each view once"
    assert one.manager.state == other.manager.state == "joined"
    assert other.kept == ()


async def test_a_suspicion_for_which_there_is_no_room_hides_no_answer(wire: Wire) -> None:
    """G1: who got no answer to a change must say so, and not that the store is full."""
    memory = Memory()
    await wire.start("n1", memory)
    other = await wire.start("n1", memory)
    await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2"))
    memory.size = 1
    with pytest.raises(StoreFull):
        other.manager.describe(other.manager.view().members[0])
    other.manager.suspect("n2")
    other.manager.link_down("n2", refused=True)


async def test_another_engine_takes_the_lead_without_a_new_view(wire: Wire) -> None:
    memory = Memory()
    one = await wire.start("n1", memory)
    other = await wire.start("n1", memory)
    await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2"))
    view = other.manager.view()
    await wire.kill(one)
    await wire.until(lambda: other.manager.leads)
    for _ in range(100):
        wire.now += 25
        await wire.until(lambda: True)
    assert other.manager.view() == view
    assert other.manager.is_member()


async def test_a_node_drains_until_it_is_told_otherwise_or_starts_anew(wire: Wire) -> None:
    """Any of its engines may be told, and the one that leads next knows it."""
    memory = Memory()
    leader, other = [await wire.start("n1", memory) for _ in range(2)]
    second = await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2"))

    def drains(how: str) -> bool:
        member = second.manager.view().member("n1")
        return member is not None and (member.drains, member.ready) == (how, not how)

    other.manager.drain("returning")
    await wire.until(lambda: drains("returning"))
    assert leader.manager.drains == "returning"
    assert second.manager.node_state("n1") == "draining"
    await wire.kill(leader)
    await wire.until(lambda: other.manager.leads)
    for _ in range(100):
        wire.now += 25
        await wire.until(lambda: True)
    assert drains("returning")
    other.manager.drain("")
    await wire.until(lambda: drains(""))
    other.manager.drain("leaving")
    await wire.until(lambda: drains("leaving"))
    assert second.manager.view().leaving == {"n1"}
    await wire.kill(other)
    await wire.start("n1", memory)
    await wire.until(lambda: drains(""))


async def test_a_join_that_reaches_an_engine_that_does_not_lead_is_left_to_the_leader(
    wire: Wire,
) -> None:
    memory = Memory()
    await wire.start("n1", memory)
    follower = await wire.start("n1", memory)
    await wire.until(lambda: wire.agreed("n1"))
    assert wire.answering("n1") is follower
    await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2"))


async def test_a_leader_that_says_goodbye_is_missed_at_once(wire: Wire) -> None:
    one = await wire.start("n1")
    two = await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2"))
    leaving = asyncio.create_task(one.manager.leave(returning=True))
    await wire.until(leaving.done)
    assert two.told[-1][1] == (Change("left", "n1", kept=True),)
    assert one.manager.state == "stopped"
    assert not one.manager.is_member()


async def test_who_says_goodbye_waits_for_a_leader_that_ends_too(wire: Wire) -> None:
    memory = Memory()
    leader = await wire.start("n1", memory)
    last = await wire.start("n1", memory)
    two = await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2"))
    await last.manager.leave(returning=True)
    assert last.manager.is_member()  # nobody says goodbye for a leader that goes on
    leaving = asyncio.create_task(last.manager.leave(returning=True, patient=lambda: True))
    await asyncio.sleep(0)
    assert not leaving.done()
    await wire.kill(leader)
    await wire.until(leaving.done)
    assert two.told[-1][1] == (Change("left", "n1", kept=True),)


async def test_a_restart_tells_listeners_what_failed_meanwhile(wire: Wire) -> None:
    memory = Memory()
    one = await wire.start("n1", memory)
    await wire.start("n2")
    await wire.until(lambda: wire.agreed("n1", "n2"))
    for engine in list(wire.engines):
        await wire.kill(engine)
    again = await wire.start("n1", memory)
    await wire.until(again.manager.is_member)
    assert again.told == [(again.manager.view().id, (Change("failed", "n2"),))]
    assert again.manager.view().id > one.told[-1][0]


async def test_an_observer_is_told_of_a_new_view(wire: Wire) -> None:
    one = await wire.start("n1")
    await wire.until(lambda: wire.agreed("n1"))
    router = Sender("router", "r")
    view = one.manager.view()
    watching = one.manager.handle(router, Watch(view.id))
    assert isinstance(watching, Awaitable)
    watch = asyncio.ensure_future(watching)
    await wire.start("n2")
    await wire.until(lambda: watch.done() and wire.agreed("n1", "n2"))
    assert isinstance(watch.result(), Installed | Done)
    behind = one.manager.handle(router, Watch(view.id))
    assert isinstance(behind, Awaitable)
    assert await behind == Installed(one.manager.view())


async def test_a_heartbeat_is_answered_by_an_engine_that_does_not_lead(wire: Wire) -> None:
    memory = Memory()
    one = await wire.start("n1", memory)
    follower = await wire.start("n1", memory)
    await wire.until(lambda: wire.agreed("n1"))
    me = msgspec.structs.replace(one.manager.view().members[0], node="n2")
    pong = follower.manager.handle(Sender("n2", "x"), Ping(me=me, view=(0, "")))
    assert isinstance(pong, Pong)
    assert pong.newer == one.manager.view()


@pytest.fixture
async def voters(wire: Wire) -> Wire:
    """A cluster where a majority decides; what an engine is asked, the one that leads not."""
    wire.disks = {}
    for node in ("n1", "n2", "n3"):
        memory = Memory()
        await wire.start(node, memory)
        await wire.start(node, memory)
    await wire.until(lambda: wire.agreed("n1", "n2", "n3"))
    return wire


def led(wire: Wire, node: str) -> Engine:
    return next(e for e in wire.engines if e.node == node and e.manager.leads)


async def test_any_engine_votes_and_every_engine_sees_the_lease(voters: Wire) -> None:
    """R2, R9: votes and leases are the node's, not an engine's."""
    assert all(not voters.answering(node).manager.leads for node in ("n1", "n2", "n3"))  # type: ignore[union-attr]
    await voters.until(lambda: all(e.manager.leased() for e in voters.engines))
    assert voters.disks is not None
    assert {disk.vote.number for disk in voters.disks.values() if disk.vote} == {1}
    for engine in [e for e in voters.engines if e.node == "n3"]:
        await voters.kill(engine)
    await voters.until(lambda: voters.agreed("n1", "n2"))
    assert led(voters, "n1").manager.view().absent == ("n3",)
    assert led(voters, "n1").manager.cluster == led(voters, "n2").manager.cluster != ""


async def test_who_would_serve_for_longer_than_an_elector_waits_gets_no_lease(
    voters: Wire,
) -> None:
    """R9: nodes may be configured with different times."""
    elector, asker = led(voters, "n1"), led(voters, "n2")
    me = elector.manager.view().members[1]
    assert me.node == "n2"
    view, lease = elector.manager.view().id, voters.timing.lease
    ping = Ping(me, view, asked=voters.now, lease=lease, run=1)
    sender = Sender("n2", asker.store.incarnation)
    for asked, granted in ((ping, True), (msgspec.structs.replace(ping, lease=lease + 1), False)):
        pong = elector.manager.handle(sender, asked)
        assert isinstance(pong, Pong)
        assert pong.granted == granted


async def test_a_leader_dies_in_the_middle_and_a_sibling_goes_on_voting(voters: Wire) -> None:
    """Votes lie beside the store, not in a process."""
    for engine in [e for e in voters.engines if e.node == "n3"] + [led(voters, "n1")]:
        await voters.kill(engine)
    await voters.until(lambda: voters.agreed("n1", "n2") and led(voters, "n1").manager.leased())


async def test_a_picture_tells_who_watches_whom_what_changed_and_who_is_described_otherwise(
    voters: Wire,
) -> None:
    """System 3 (j): a different description is reported by its hash."""
    for engine in [e for e in voters.engines if e.node == "n3"]:
        await voters.kill(engine)
    await voters.until(lambda: voters.agreed("n1", "n2"))
    voters.now += 400
    manager = led(voters, "n1").manager
    member = manager.view().member("n2")
    assert member is not None
    ping = Ping(member, manager.view().id, description="another")
    for _ in range(2):
        manager.handle(Sender("n2", member.incarnation), ping)
        voters.now += PATIENCE + ASK_UNTIL
        manager.poll()
    picture = manager.picture()
    assert picture.watches == {"n1": ("n2",), "n2": ("n1",)}
    assert picture.description == voters.description.hash
    assert picture.differing == {"n2": "it does not tell in what (another)"}
    assert picture.last_change is not None
    assert picture.last_change.changes == (Change("failed", "n3"),)
    assert picture.last_change.ago >= 400
    manager.handle(
        Sender("n2", member.incarnation),
        msgspec.structs.replace(ping, description=picture.description),
    )
    assert manager.picture().differing == {}


async def test_an_operators_word_is_for_the_leader_of_a_node_that_votes(voters: Wire) -> None:
    for engine in [e for e in voters.engines if e.node != "n2"]:
        await voters.kill(engine)
    for _ in range(80):
        voters.now += 25
        await voters.until(lambda: True)
    assert not led(voters, "n2").manager.leased()
    assert "missing n1, n3" in led(voters, "n2").manager.waiting_for
    assert led(voters, "n2").manager.lacks == ("n1", "n3")
    assert led(voters, "n2").manager.node_state("n2") == "waiting"
    assert led(voters, "n2").manager.bootstrap(("n1", "n3"))
    await voters.until(lambda: voters.agreed("n2") and led(voters, "n2").manager.leased())


def test_a_node_without_peers_has_one_view_and_needs_no_loop() -> None:
    memory = Memory()
    store = MemoryStore(memory).open()
    me = Description.parse("n1=127.0.0.1:7001").nodes[0].member(store.incarnation)
    lone: Membership = LoneMembership(store, me)
    assert isinstance(lone, LoneMembership)
    assert not lone.is_member()
    lone.begin()
    view = lone.view()
    assert (view.id, view.nodes) == ((1, "n1"), ("n1",))
    store.close()
    again = LoneMembership(MemoryStore(memory).open(), me)
    again.begin()
    assert again.view() == view


def test_counts_and_states_are_plain_words() -> None:
    wire = Wire()
    engine = Engine(wire, "n1", Memory())
    assert engine.manager.state == "connecting"
    assert json.loads(json.dumps(engine.manager.counts)) == {}
    membership: Membership = engine.manager
    assert membership.view().members == ()
