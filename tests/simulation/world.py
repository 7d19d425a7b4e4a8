"""A simulated cluster: production state managers over a network and a membership made here.

One seed is one world. The network delays, reorders, loses, duplicates and cuts; nodes crash, pause
and come back with or without their stores, engines die one by one. Views come from an oracle or
from the production topology managers (`membership.py`). Every message crosses the real codec.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from sessionha.errors import SessionHAError
from sessionha.identity import GroupID, ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Claim,
    Compare,
    CountCopies,
    Create,
    Exam,
    Examine,
    Failed,
    Fetch,
    Forward,
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
    decode,
    encode,
)
from sessionha.peer.relay import Relays
from sessionha.state.draining import Draining
from sessionha.state.drill import Drill, Flaw
from sessionha.state.manager import StateManager
from sessionha.state.node import Node, Options
from sessionha.state.rebalancing import Rebalancer
from sessionha.state.records import (
    GroupRecord,
    element_key,
    get_group,
    read_element,
    read_session,
    rows,
    write_record,
)
from sessionha.state.upkeep import Upkeep
from sessionha.store.base import Reader, Store, Writer
from sessionha.store.memory import Memory, MemoryReader, MemoryStore, MemoryWriter
from sessionha.topology.members import holds
from sessionha.topology.rows import Voting
from sessionha.topology.timing import LEASE_MARGIN
from sessionha.view import Drains, Member, View
from tests.simulation.events import EventKind, History, Outcome, Request
from tests.simulation.machine import Machine, MachineClock
from tests.simulation.membership import (
    TIMING,
    SimulatedMembership,
    SimulatedPeers,
    SimulatedTopology,
    ViewLog,
    Votes,
    description,
)
from tests.simulation.recorder import Recorder

DATA = (
    Push, Pushes, Compare, Walk, Claim, TakeOver, Promise, Fetch, Forward, Touch, Whose, Revoke,
    Revocations, Tell, Survey, Weigh, Examine, CountCopies,
)  # fmt: skip
"""Messages for state managers; the others are for topology managers."""

Views = Literal["oracle", "available", "quorum"]
Doom = Literal["", "before", "between", "after"]
"""When an engine dies: around the two transactions of its next commit."""


@dataclass
class Faults:
    """How bad the network is; chances per message, delays in seconds."""

    delay: tuple[float, float] = (0.0002, 0.002)
    slow: float = 0.0
    late: float = 0.0
    """Messages that arrive only after 1 to 20 seconds."""
    loss: float = 0.0
    duplicate: float = 0.0
    detection: tuple[float, float] = (0.01, 0.06)
    learning: tuple[float, float] = (0.0, 0.02)
    """How long it takes until a node knows of a decided view."""


DRAIN_TIMEOUT = 20_000
"""Milliseconds for a planned stop, as in production."""


class GuardedStore:
    """A store that a dead engine cannot touch any more, and whose changes are written down."""

    def __init__(self, inner: Store, world: World) -> None:
        self._inner = inner
        self._world = world
        self.engine: Engine | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        self._check()
        with self._inner.read() as reader:
            yield reader

    @contextmanager
    def write(self, *, urgent: bool = False, shrinking: bool = False) -> Iterator[Writer]:
        first = not urgent and not shrinking
        if self.engine is not None and self.engine.doom == "before" and first:
            self._world.fell(self.engine)
        self._check()
        with self._inner.write(urgent=urgent, shrinking=shrinking) as writer:
            yield writer
        assert isinstance(writer, MemoryWriter)
        if self.engine is not None:
            self._world.wrote(self.engine, writer._changes)
            self._check()

    def _check(self) -> None:
        if self.engine is not None and not self.engine.alive:
            raise asyncio.CancelledError("this engine is dead")


class WatchedDrill(Drill):
    """A drill whose findings are written down."""

    def __init__(self, world: World, node: Node) -> None:
        super().__init__(node)
        self._world = world

    def _judge(self, copy: Any, exam: Exam | None) -> Flaw | None:
        flaw = super()._judge(copy, exam)
        if flaw in ("differs", "lacks"):
            self._world.noticed(self._node.me, "alarm", copy.group)
        return flaw


class WatchedRebalancer(Rebalancer):
    """A rebalancer whose moves are written down."""

    def __init__(self, world: World, node: Node, state: StateManager) -> None:
        super().__init__(node, state.replication, state.delays)
        self._world = world

    def _add(self, record: GroupRecord, step: Any, view: View) -> bool:
        added = super()._add(record, step, view)
        if added:
            self._world.noticed(self._node.me, "move", step.group)
        return added


@dataclass
class Clock:
    """A node's clock: the world's time plus an offset of its own."""

    offset: int = 0

    def now(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000) + self.offset

    def mark(self) -> None:
        """Simulated machines do not reboot."""


@dataclass(eq=False)
class Engine:
    """One simulated process of a node."""

    host: Host
    state: StateManager
    upkeep: Upkeep
    slot: int
    topology: SimulatedTopology | None = None
    """None: the oracle gives views."""
    relays: Relays | None = None
    alive: bool = True
    doom: Doom = ""
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)

    def die(self) -> None:
        """kill -9: nothing of it runs on, and its locks are free."""
        self.alive = False
        if self.topology is not None:
            self.topology.perish()
        for task in [*self.tasks, *self.state.node.tasks]:
            task.cancel()
        if self.slot in self.host.memory.living:
            self.host.memory.kill(self.slot)


@dataclass(eq=False)
class Host:
    """One simulated node: what outlives its engines."""

    name: str
    memory: Memory
    clock: Clock | MachineClock
    membership: SimulatedMembership
    """The oracle's; empty where there is none."""
    engines: list[Engine] = field(default_factory=list)
    up: bool = True
    life: int = 0
    paused: asyncio.Event | None = None
    paused_at: float = 0.0
    machine: Machine | None = None
    lost: float = -1.0
    """When its store was last lost."""
    votes: Votes = field(default_factory=Votes)
    """Its vote file."""
    requests: int = 0
    """Requests of browsers under way there."""
    closing: bool = False
    """Routers send nothing more to it."""

    @property
    def incarnation(self) -> str:
        return self.memory.incarnation

    async def running(self) -> None:
        """Returns at once, or when the node's pause ends."""
        while self.paused is not None:
            await self.paused.wait()

    def is_member(self) -> bool:
        """Whether the view that the node holds has it."""
        return bool(self.engines) and self.engines[0].state.node.membership.is_member()

    def view(self) -> View:
        """The view that the node holds."""
        return self.engines[0].state.node.membership.view() if self.engines else View()

    def record(self, group: GroupID) -> GroupRecord | None:
        """What the node's store says of a group, whether the node lives or not."""
        with MemoryReader(self.memory) as reader:
            return get_group(reader, group)

    def lives(self, group: GroupID) -> bool:
        """Whether a session in the node's copy has not ended: others may be swept here already,
        and there not yet."""
        now = self.clock.now()
        with MemoryReader(self.memory) as reader:
            sessions = [
                read_session(row.value) for row in rows(reader, group) if row.element is None
            ]
        return any(not session.ended(now) for session in sessions)

    def content(self, group: GroupID) -> list[tuple[object, ...]]:
        """The group's rows as all of C must have them: everything but the instants."""
        found: list[tuple[object, ...]] = []
        with MemoryReader(self.memory) as reader:
            for row in rows(reader, group):
                if row.element is not None:
                    found.append((row.session, row.element, row.value))
                    continue
                session = read_session(row.value)
                facts = (session.version, session.destroyed, session.size, session.count)
                found.append((row.session, *facts))
        return found


class World:
    """One seed."""

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        backups: int = 1,
        engines: int = 1,
        faults: Faults | None = None,
        options: Options | None = None,
        *,
        size: int = 256 * 1024 * 1024,
        upkeep: bool = False,
        views: Views = "oracle",
        reboots: bool = False,
        lifetimes: Create | None = None,
        witness: str = "",
    ) -> None:
        self.random = random.Random(seed)
        self.views: Views = views
        self.lifetimes = lifetimes or Create(idle_timeout=1_800_000, lifetime=43_200_000)
        self.faults = faults or Faults()
        self.options = options or Options(backups=backups)
        self.engines = engines
        self.size = size
        self.upkeep = upkeep
        self.history = History(nodes, self.options.backups)
        self.tags: dict[bytes, str] = {}
        """Groups to the names that their sessions have in the history."""
        self.recorder = Recorder(self.history, self.tags)
        self.description = description(nodes, witness)
        self.hosts: dict[str, Host] = {}
        self.zones: dict[str, str] = {}
        """Where nodes are that join from now on."""
        self.forgotten: set[str] = set()
        self.cut: set[tuple[str, str]] = set()
        self.broken: set[tuple[str, str]] = set()
        """Cuts that stay until all is quiet."""
        self.barred: set[str] = set()
        """Nodes that no view may have: a link to them is broken for good."""
        self.apart: set[str] = set()
        """The smaller side of a partition: the oracle cannot tell it anything."""
        self.links: dict[tuple[str, str], Faults] = {}
        """How bad single directions are, where they differ."""
        self.held_back: Callable[[str, str, Message], bool] | None = None
        """A scenario's own loss: (from, to, message) that never arrive."""
        self.lines: list[str] = []
        self.errors: list[BaseException] = []
        """What no engine may ever raise."""
        self.troubles = 0
        """Faults beyond single messages: crashes, pauses, cuts, exclusions, dead engines."""
        self.lost_messages = 0
        self.detours = 0
        """How often a node began to reach another by one hop."""
        self.operations = 0
        """Requests of browsers."""
        self.ended = 0.0
        """Virtual seconds that it lived."""
        for index in range(nodes):
            name = f"n{index + 1}"
            host = Host(
                name=name,
                memory=Memory(size=size, random=random.Random(self.random.random())),
                clock=Clock(self.random.randrange(10**9)),
                membership=SimulatedMembership(self, name),
            )
            if reboots:
                rate = 1 + self.random.uniform(-1e-4, 1e-4)
                host.machine = Machine(name, rate=rate, wall_off=self.random.uniform(-1, 1))
            self.hosts[name] = host
            if views == "oracle":
                self._boot(host)
        if views != "oracle":
            for host in self.hosts.values():
                self._boot(host)
        first = ViewID(1, "n1")
        self._truth = View(first, tuple(self._member(host, first) for host in self.hosts.values()))
        if views == "oracle":
            for host in self.hosts.values():
                host.membership.install(self._truth)

    def trace(self, line: str) -> None:
        self.lines.append(f"{self.now:.4f} {line}")

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    @property
    def truth(self) -> View:
        """The view that the oracle decided last."""
        return self._truth

    # --- the history ----------------------------------------------------------------------------

    def begin(self, jar: str, node: str) -> Request:
        """A request that begins now."""
        request = Request(jar, "", node, self.history.next(), self.now)
        self.history.requests.append(request)
        return request

    def end(self, request: Request, outcome: Outcome) -> None:
        """It ends now."""
        request.outcome, request.ended, request.until = outcome, self.history.next(), self.now

    def saw(self, node: str, view: View) -> None:
        """A node installed a view."""
        members = tuple(f"{member.node}/{member.incarnation}" for member in view.members)
        joined = tuple(member.joined[0] for member in view.members)
        self.recorder.viewed(node, self.now, view.id, members, joined)

    def wrote(self, engine: Engine, changes: dict[bytes, bytes | None]) -> None:
        """An engine committed a transaction; it may have been its last one."""
        host = engine.host
        written = self.recorder.wrote(host.name, self.now, changes)
        if (engine.doom == "between" and written.started) or (
            engine.doom == "after" and written.finished
        ):
            self.fell(engine)

    def noticed(self, node: str, kind: EventKind, group: GroupID) -> None:
        """A node does, or finds, something with a group."""
        self.recorder.noticed(node, self.now, kind, group)

    def rot(self, name: str, group: GroupID, until: float) -> bool:
        """Bits fall over in one element of a node's copy, of a session that does not end within
        `until` seconds: of others nobody looks at what is in them. False: it has none."""
        host = self.hosts[name]
        then = host.clock.now() + int(until * 1000)
        store, lives = MemoryStore(host.memory).open(), False
        try:
            with store.write(urgent=True) as writer:
                for row in rows(writer, group):
                    if row.element is None:
                        lives = not read_session(row.value).ended(then)
                        continue
                    if not lives:
                        continue
                    element = read_element(row.value)
                    if element.value:
                        element.value = bytes([element.value[0] ^ 1]) + element.value[1:]
                        key = element_key(group, row.session, row.element)
                        writer.put(key, write_record(element))
                        self.trace(f"rot {name}")
                        return True
            return False
        finally:
            store.close()

    def fell(self, engine: Engine) -> None:
        """A doomed engine dies; with it its node, if it was the only one."""
        engine.doom = ""
        if len(engine.host.engines) > 1:
            self.kill_engine(engine)
        else:
            self.crash(engine.host.name)

    # --- the network ----------------------------------------------------------------------------

    def deliver(
        self,
        target: str,
        sender: Sender,
        message: Message,
        reply: asyncio.Future[bytes | None] | None,
    ) -> None:
        """Send a message, perhaps in vain, perhaps twice: pushes and questions are sent again by
        those who miss an answer. A forwarded batch is not, and a stream brings a frame once."""
        host, source = self.hosts[target], sender.node
        if not self.passes(source, target) or self.random.random() < self._on(source, target).loss:
            self.lost_messages += 1
            return
        if self.held_back is not None and self.held_back(source, target, message):
            return
        receiver, data = host.incarnation, encode(message)
        faults = self._on(source, target)
        twice = self.random.random() < faults.duplicate and not isinstance(message, Forward | Relay)
        for _ in range(2 if twice else 1):
            self._later(faults, self._arrive, host, receiver, sender, data, reply)

    def passes(self, source: str, target: str) -> bool:
        """Whether anything gets from one node to another."""
        return (source, target) not in self.cut and (source, target) not in self.broken

    def reach(self, one: str, other: str) -> bool:
        """Whether a stream can exist between them."""
        return self.passes(one, other) and self.passes(other, one)

    def _on(self, source: str, target: str) -> Faults:
        return self.links.get((source, target), self.faults) if self.links else self.faults

    def _later(self, faults: Faults, action: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        delay = self.random.uniform(*faults.delay)
        if self.random.random() < faults.slow:
            delay += self.random.uniform(0, 1.0)
        if faults.late and self.random.random() < faults.late:
            delay += self.random.uniform(1.0, 20.0)
        loop.call_later(delay, action, *args)

    def _arrive(
        self,
        host: Host,
        receiver: str,
        sender: Sender,
        data: bytes,
        reply: asyncio.Future[bytes | None] | None,
    ) -> None:
        if not host.up:
            self._answer(host.name, sender.node, reply, None)
            return
        engine = self.random.choice(host.engines)
        self.own(engine, self._handle(engine, receiver, sender, data, reply))

    async def _handle(
        self,
        engine: Engine,
        receiver: str,
        sender: Sender,
        data: bytes,
        reply: asyncio.Future[bytes | None] | None,
    ) -> None:
        host = engine.host
        await host.running()
        source = self.hosts[sender.node]
        if host.incarnation != receiver or (source.up and source.incarnation != sender.incarnation):
            return  # the stream was bound to both incarnations
        answer = await self._reply(engine, sender, decode(data))
        await host.running()
        if answer is not None:
            self._answer(host.name, sender.node, reply, encode(answer))

    async def _reply(self, engine: Engine, sender: Sender, message: Message) -> Message | None:
        """What streams answer: an error of ours by its name; any other is nobody's promise."""
        try:
            result = self._result(engine, sender, message)
            answer: Message | None = await result if isinstance(result, Awaitable) else result
        except SessionHAError as error:
            return Failed(type(error).__name__, str(error))
        return answer

    def _result(
        self, engine: Engine, sender: Sender, message: Message
    ) -> Message | Awaitable[Message | None] | None:
        """What an engine passes on to the one that it is for."""
        if isinstance(message, Relay) and engine.relays is not None:
            return engine.relays.handle(sender, message)
        if isinstance(message, DATA) or engine.topology is None:
            return engine.state.handle(sender, message)
        return engine.topology.handle(sender, message)

    def _answer(
        self,
        source: str,
        target: str,
        reply: asyncio.Future[bytes | None] | None,
        data: bytes | None,
    ) -> None:
        if reply is None or not self.passes(source, target):
            return
        faults = self._on(source, target)
        if data is not None and self.random.random() < faults.loss:
            self.lost_messages += 1
            return
        if (
            data is not None
            and self.held_back is not None
            and self.held_back(source, target, decode(data))
        ):
            return
        self._later(faults, lambda: None if reply.done() else reply.set_result(data))

    # --- life and death -------------------------------------------------------------------------

    def _boot(self, host: Host) -> None:
        host.up, host.closing = True, False
        host.life += 1
        host.engines = []
        for _ in range(self.engines):
            self.start_engine(host.name)

    def start_engine(self, name: str) -> Engine:
        """One more process on a node that is up."""
        host = self.hosts[name]
        inner = MemoryStore(host.memory).open()
        store = GuardedStore(inner, self)
        peers = SimulatedPeers(self, host)
        clock = host.clock
        if host.machine is not None:
            clock = MachineClock(store, host.machine)
            clock.begin()
            host.clock = clock if not host.engines else host.clock
        topology = None
        if self.views != "oracle":
            topology = self._topology(host, store, clock)
        node = Node(
            me=name,
            store=store,
            membership=topology or host.membership,
            clock=clock,
            options=self.options,
            peers=peers,
            random=random.Random(self.random.random()),
        )
        state = StateManager(node)
        state.drill = WatchedDrill(self, node)
        state.rebalancer = WatchedRebalancer(self, node, state)
        state.begin()
        if topology is not None:
            topology.kept = state.delays.kept
        engine = Engine(host, state, Upkeep(state), inner.slot, topology)
        engine.relays = Relays(
            lambda: Sender(name, host.incarnation),
            lambda node, incarnation: holds(host.view(), node, incarnation),
            peers,
            lambda sender, message: self._result(engine, sender, message),
        )
        peers.engine = store.engine = engine
        host.engines.append(engine)
        if topology is not None:
            starting = topology.start(peers)
            try:
                starting.send(None)
            except StopIteration:
                pass
            else:
                raise AssertionError("a start takes no time")
            self.own(engine, peers.dial_forever(topology))
        if self.upkeep:
            self.own(engine, self._look_after(engine))
            self.own(engine, self._verify(engine))
        return engine

    def _topology(
        self, host: Host, store: GuardedStore, clock: Clock | MachineClock
    ) -> SimulatedTopology:
        described = self.description.node(host.name)
        assert described is not None
        topology = SimulatedTopology(
            store,
            described.member(host.incarnation),
            self.description,
            clock.now,
            TIMING,
            trust_refused=True,
            voting=self._voting(host) if self.views == "quorum" else None,
        )
        topology.host = host
        topology.repeat()
        topology.subscribe(ViewLog(self, host))
        return topology

    def _voting(self, host: Host) -> Voting:
        def token() -> str:
            return f"{self.random.getrandbits(64):x}"

        electors = tuple(self.description.order)
        return Voting(host.votes, token, electors, TIMING.lease + LEASE_MARGIN)

    def own(self, engine: Engine, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that dies with its engine, and whose failures are never expected."""
        task = asyncio.get_running_loop().create_task(work)
        engine.tasks[task] = None
        task.add_done_callback(lambda done: self._ended(engine, done))
        return task

    def _ended(self, engine: Engine, task: asyncio.Task[Any]) -> None:
        engine.tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.errors.append(error)

    async def _verify(self, engine: Engine) -> None:
        """The drill, for which nothing else waits, nor does it wait for healing."""
        while True:
            await asyncio.sleep(0.25)
            await engine.host.running()
            if engine.state.node.store.try_lead():
                await engine.state.drill.look()

    async def _look_after(self, engine: Engine) -> None:
        """What `Upkeep.run` does, but no error is forgiven."""
        while True:
            await asyncio.sleep(0.25)
            await engine.host.running()
            if engine.upkeep.learns_what_is_wanting():
                engine.state.delays.keep_up()
                if not await engine.upkeep.repair():
                    await engine.state.rebalancer.look()
                await engine.upkeep.sweep()

    def kill_engine(self, engine: Engine) -> None:
        """kill -9 of one process; its siblings go on."""
        self.troubles += 1
        self.trace(f"kill engine {engine.host.name}/{engine.slot}")
        engine.host.engines.remove(engine)
        engine.die()

    def _member(self, host: Host, joined: ViewID) -> Member:
        zone, peer = self.zones.get(host.name, ""), f"{host.name}:1"
        kept = joined.number > 1  # or with nothing in its store: nobody relies on it
        return Member(host.name, host.incarnation, joined, peer=peer, zone=zone, kept=kept)

    def crash(self, name: str) -> None:
        """kill -9 of every engine of a node; the others get a new view after a while."""
        host = self.hosts[name]
        self.troubles += 1
        self.trace(f"crash {name}")
        host.up = False
        self._go_on(host)
        for engine in host.engines:
            engine.die()
        if self.views == "oracle":
            asyncio.get_running_loop().call_later(
                self.random.uniform(*self.faults.detection), self._exclude, name, host.life
            )

    def _exclude(self, name: str, life: int) -> None:
        host = self.hosts[name]
        if self._truth.member(name) is not None and not (host.up and host.life > life):
            self._decide(tuple(m for m in self._truth.members if m.node != name))

    def restart(self, name: str, *, kept: bool, rebooted: bool = False, votes: bool = True) -> None:
        """Start a crashed node again; it is a member again once a view says so.

        `votes`: whether its votes were kept. `rebooted`: its store is one of another boot. A store
        that is corrupt is set aside, so for everybody else it is lost.
        """
        host = self.hosts[name]
        assert not host.up
        self.trace(f"restart {name} {'with' if kept else 'without'} its store")
        if rebooted and host.machine is not None:
            host.machine.reboot(self.now, self.random)
        host.memory.restart(kept=kept, rebooted=rebooted)
        if not kept:
            host.lost = self.now
            self.recorder.lost(name, self.now)
        if not votes:
            host.votes = Votes()
        if self.views != "oracle":
            self._boot(host)
            return
        known = self._truth.member(name)
        host.membership = SimulatedMembership(self, name)
        self._boot(host)
        if known is not None and known.incarnation == host.incarnation:
            host.membership.install(self._truth)
        else:
            self._rejoin(host, kept=kept)

    def _rejoin(self, host: Host, *, kept: bool = True) -> None:
        if kept:
            host.memory.incarnation = host.memory.new_incarnation()
        if host.name in self.barred:
            return
        self._decide(tuple(m for m in self._truth.members if m.node != host.name), host)

    async def drain(self, name: str, how: Drains) -> bool:
        """A planned stop: say so, hand over, let requests end, say goodbye. Whether others lead
        everything that the node led."""
        host = self.hosts[name]
        self.troubles += 1
        self.trace(f"drain {name} {how}")
        try:
            return await self._hand_over(host, how)
        finally:  # also when the faults stop
            host.up = False
            for engine in host.engines:
                engine.die()
            if self.views == "oracle":
                self._decide(tuple(m for m in self._truth.members if m.node != name))

    async def _hand_over(self, host: Host, how: Drains) -> bool:
        engine = host.engines[0]
        self._announce(engine, how)
        await asyncio.sleep(self.random.uniform(0.0, 0.1))
        host.closing = True
        draining, until = Draining(engine.state), host.clock.now() + DRAIN_TIMEOUT
        await self.own(engine, draining.hand_over(until))
        while host.requests and host.clock.now() < until:  # noqa: ASYNC110 (they do not tell)
            await asyncio.sleep(0.01)
        for other in host.engines[1:]:
            host.engines.remove(other)
            other.die()
        done: bool = await self.own(engine, draining.hand_over(until))
        if how == "leaving":
            await self.own(engine, draining.give_copies_away(until))
            done = not (await self.own(engine, draining.left())).groups
        if engine.topology is not None:
            await engine.topology.leave(returning=how == "returning")
        return done

    def _announce(self, engine: Engine, how: Drains) -> None:
        if engine.topology is not None:
            engine.topology.drain(how)
            return
        mine = engine.host.name
        members = self._truth.members
        self._decide(tuple(m.draining(how) if m.node == mine else m for m in members))

    def pause(self, name: str) -> None:
        """SIGSTOP of every engine: nothing is answered, read or sent until `resume`."""
        self.troubles += 1
        self.trace(f"pause {name}")
        host = self.hosts[name]
        host.paused, host.paused_at = asyncio.Event(), self.now

    def resume(self, name: str) -> None:
        """SIGCONT; the node goes on with what it knew, and learns later what became of it."""
        host = self.hosts[name]
        self.trace(f"resume {name}")
        self._go_on(host)
        if self.views == "oracle":
            self._tell(host)

    def _go_on(self, host: Host) -> None:
        if host.paused is not None:
            self.history.pauses.append((host.name, host.paused_at, self.now))
            host.paused.set()
            host.paused = None

    def expel(self, name: str) -> None:
        """The others decide that a living node is dead; it learns that in its own time."""
        self.troubles += 1
        self.history.strict = self.options.confirmed
        self._decide(tuple(m for m in self._truth.members if m.node != name))

    def _decide(self, members: tuple[Member, ...], new: Host | None = None) -> None:
        """Agree on the next view and let every living member learn of it in its own time."""
        number = self._truth.id.number + 1
        names = [m.node for m in members] + ([new.name] if new else [])
        if not names:
            return
        view_id = ViewID(number, min(names))
        if new is not None:
            members = (*members, self._member(new, view_id))
        ordered = tuple(sorted(members, key=lambda m: (m.joined, m.node)))
        self._truth = View(view_id, ordered)
        self.trace(f"view {number} {','.join(names)}")
        for host in self.hosts.values():
            if host.up:
                self._tell(host)

    def _tell(self, host: Host) -> None:
        asyncio.get_running_loop().call_later(
            self.random.uniform(*self.faults.learning), self._learn, host, host.life
        )

    def _learn(self, host: Host, life: int) -> None:
        if not host.up or host.life != life or host.paused is not None:
            return
        if host.name in self.apart:
            return
        host.membership.install(self._truth)
        if not host.membership.is_member():
            self._rejoin(host)

    # --- links ----------------------------------------------------------------------------------

    def split(self, names: set[str]) -> None:
        """Cut these nodes off from the others; the oracle goes on without them after a while."""
        self.troubles += 1
        self.trace(f"split {','.join(sorted(names))}")
        self.history.strict = self.options.confirmed
        others = set(self.hosts) - names
        self.cut |= {pair for a in names for b in others for pair in ((a, b), (b, a))}
        if self.views == "oracle":
            self.apart = set(names)
            self._decide(tuple(m for m in self._truth.members if m.node not in names))

    def join(self) -> None:
        """The partition ends, and every cut with it."""
        self.trace("join")
        self.cut.clear()
        apart, self.apart = sorted(self.apart), set()
        for name in apart:
            if self.hosts[name].up:
                self._tell(self.hosts[name])

    def break_link(self, one: str, other: str, *, both: bool) -> None:
        """A link that stays broken: the later one of the two must leave the view (R1)."""
        self.troubles += 1
        self.trace(f"break {one}->{other}")
        self.history.strict = self.options.confirmed
        self.broken |= {(one, other), (other, one)} if both else {(one, other)}
        if self.views == "oracle":
            members = [m.node for m in self._truth.members if m.node in (one, other)]
            self.barred.add(members[-1])
            self._decide(tuple(m for m in self._truth.members if m.node not in self.barred))

    def mend(self) -> None:
        """All links are whole again, and nobody is barred."""
        self.links.clear()
        self.broken.clear()
        self.join()
        barred, self.barred = sorted(self.barred), set()
        for name in barred:
            if self.hosts[name].up:
                self._tell(self.hosts[name])

    def stop(self) -> None:
        """Kill everything: a world that is over leaves nothing behind."""
        self.ended = self.now
        for host in self.hosts.values():
            host.up = False
            for engine in host.engines:
                engine.die()

    @property
    def living(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.up]

    def engine(self, name: str) -> Engine:
        """Any engine of a node, as the kernel chooses."""
        return self.random.choice(self.hosts[name].engines)
