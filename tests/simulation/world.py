"""A simulated cluster: production state managers over a network and a membership made here.

One seed is one world. The network delays, reorders, loses, duplicates and cuts; nodes crash, pause
and come back with or without their stores, engines die one by one; an oracle gives views as a
cluster would that can always agree. Every message crosses the real codec.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sessionha.errors import PeerUnavailable
from sessionha.identity import GroupID, ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Forward, Message, Push, decode, encode
from sessionha.state.manager import StateManager
from sessionha.state.node import Node, Options
from sessionha.state.records import GroupRecord, get_group, read_session, rows
from sessionha.state.upkeep import Upkeep
from sessionha.store.base import Reader, Store, Writer
from sessionha.store.memory import Memory, MemoryReader, MemoryStore
from sessionha.topology.base import ViewListener
from sessionha.view import Member, View


@dataclass
class Faults:
    """How bad the network is; chances per message, delays in seconds."""

    delay: tuple[float, float] = (0.0002, 0.002)
    slow: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    detection: tuple[float, float] = (0.01, 0.06)
    learning: tuple[float, float] = (0.0, 0.02)
    """How long it takes until a node knows of a decided view."""


class GuardedStore:
    """A store that a dead engine cannot touch any more."""

    def __init__(self, inner: Store, alive: Callable[[], bool]) -> None:
        self._inner = inner
        self._alive = alive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        self._check()
        with self._inner.read() as reader:
            yield reader

    @contextmanager
    def write(self, *, urgent: bool = False) -> Iterator[Writer]:
        self._check()
        with self._inner.write(urgent=urgent) as writer:
            yield writer

    def _check(self) -> None:
        if not self._alive():
            raise asyncio.CancelledError("this engine is dead")


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
        for name in self.current.nodes:
            self._gone.setdefault(name, self._world.now)
        for name in view.nodes:
            self._gone.pop(name, None)
        self.current = view
        self._changed.set()
        self._changed = asyncio.Event()

    def view(self) -> View:
        return self.current

    def view_in(self, reader: Reader) -> View:
        return self.current

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

    def away(self) -> Mapping[str, int]:
        now = self._world.now
        return {name: int((now - since) * 1000) for name, since in self._gone.items()}

    def suspect(self, node: str) -> None:
        self.suspected.append(node)

    def subscribe(self, listener: ViewListener) -> None:
        raise NotImplementedError


class SimulatedPeers:
    """One engine's streams."""

    def __init__(self, world: World, host: Host, alive: Callable[[], bool]) -> None:
        self._world = world
        self._host = host
        self._alive = alive

    async def call(self, node: str, message: Message, timeout: float) -> Message:
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

    def cast(self, node: str, message: Message) -> None:
        sender = Sender(self._host.name, self._host.incarnation)
        self._world.deliver(node, sender, message, None)

    def know(self, directory: Mapping[str, str]) -> None:
        raise NotImplementedError


def describe(message: Message) -> str:
    """A message in a trace: its kind, its group and where it leads."""
    batch = getattr(message, "batch", None)
    groups = getattr(message, "groups", None)
    group = getattr(batch or message, "group", groups[0] if groups else b"")
    words = [type(message).__name__, group.hex()[:6]]
    if isinstance(message, Push):
        words.append(f"{message.base.version}..{message.version} {','.join(message.holders)}")
    return " ".join(words)


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
    alive: bool = True
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)

    def die(self) -> None:
        """kill -9: nothing of it runs on, and its locks are free."""
        self.alive = False
        for task in [*self.tasks, *self.state.node.tasks]:
            task.cancel()
        if self.slot in self.host.memory.living:
            self.host.memory.kill(self.slot)


@dataclass(eq=False)
class Host:
    """One simulated node: what outlives its engines."""

    name: str
    memory: Memory
    clock: Clock
    membership: SimulatedMembership
    engines: list[Engine] = field(default_factory=list)
    up: bool = True
    life: int = 0
    paused: asyncio.Event | None = None
    lost: float = -1.0
    """When its store was last lost."""

    @property
    def incarnation(self) -> str:
        return self.memory.incarnation

    async def running(self) -> None:
        """Returns at once, or when the node's pause ends."""
        while self.paused is not None:
            await self.paused.wait()

    def record(self, group: GroupID) -> GroupRecord | None:
        """What the node's store says of a group, whether the node lives or not."""
        with MemoryReader(self.memory) as reader:
            return get_group(reader, group)

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
    ) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.options = options or Options(backups=backups)
        self.engines = engines
        self.upkeep = upkeep
        self.strict = True
        """No node was ever excluded while it lived, so every read is current."""
        self.hosts: dict[str, Host] = {}
        self.forgotten: set[str] = set()
        self.cut: set[tuple[str, str]] = set()
        self.held_back: Callable[[str, str, Message], bool] | None = None
        """A scenario's own loss: (from, to, message) that never arrive."""
        self.lines: list[str] = []
        self.errors: list[BaseException] = []
        """What no engine may ever raise."""
        self.troubles = 0
        """Faults beyond single messages: crashes, pauses, cuts, exclusions, dead engines."""
        self.lost_messages = 0
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
            self.hosts[name] = host
            self._boot(host)
        first = ViewID(1, "n1")
        self._truth = View(first, tuple(self._member(host, first) for host in self.hosts.values()))
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
        """The view that was decided last."""
        return self._truth

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
        if (source, target) in self.cut or self.random.random() < self.faults.loss:
            self.lost_messages += 1
            return
        if self.held_back is not None and self.held_back(source, target, message):
            return
        receiver, data = host.incarnation, encode(message)
        twice = self.random.random() < self.faults.duplicate and not isinstance(message, Forward)
        for _ in range(2 if twice else 1):
            self._later(self._arrive, host, receiver, sender, data, reply)

    def _later(self, action: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        delay = self.random.uniform(*self.faults.delay)
        if self.random.random() < self.faults.slow:
            delay += self.random.uniform(0, 1.0)
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
        result = engine.state.handle(sender, decode(data))
        answer = await result if isinstance(result, Awaitable) else result
        await host.running()
        if answer is not None:
            self._answer(host.name, sender.node, reply, encode(answer))

    def _answer(
        self,
        source: str,
        target: str,
        reply: asyncio.Future[bytes | None] | None,
        data: bytes | None,
    ) -> None:
        if reply is None or (source, target) in self.cut:
            return
        if data is not None and self.random.random() < self.faults.loss:
            self.lost_messages += 1
            return
        if (
            data is not None
            and self.held_back is not None
            and self.held_back(source, target, decode(data))
        ):
            return
        self._later(lambda: None if reply.done() else reply.set_result(data))

    # --- life and death -------------------------------------------------------------------------

    def _boot(self, host: Host) -> None:
        host.up = True
        host.life += 1
        host.engines = []
        for _ in range(self.engines):
            self.start_engine(host.name)

    def start_engine(self, name: str) -> Engine:
        """One more process on a node that is up."""
        host = self.hosts[name]
        inner = MemoryStore(host.memory).open()

        def alive() -> bool:
            return engine.alive

        node = Node(
            me=name,
            store=GuardedStore(inner, alive),
            membership=host.membership,
            clock=host.clock,
            options=self.options,
            peers=SimulatedPeers(self, host, alive),
            random=random.Random(self.random.random()),
        )
        state = StateManager(node)
        engine = Engine(host, state, Upkeep(state), inner.slot)
        host.engines.append(engine)
        if self.upkeep:
            self.own(engine, self._look_after(engine))
        return engine

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

    async def _look_after(self, engine: Engine) -> None:
        """What `Upkeep.run` does, but no error is forgiven."""
        while True:
            await asyncio.sleep(0.25)
            await engine.host.running()
            if engine.state.node.store.try_lead():
                await engine.upkeep.repair()
                await engine.upkeep.sweep()

    def kill_engine(self, engine: Engine) -> None:
        """kill -9 of one process; its siblings go on."""
        self.troubles += 1
        self.trace(f"kill engine {engine.host.name}/{engine.slot}")
        engine.host.engines.remove(engine)
        engine.die()

    def _member(self, host: Host, joined: ViewID) -> Member:
        return Member(host.name, host.incarnation, joined, peer=f"{host.name}:1")

    def crash(self, name: str) -> None:
        """kill -9 of every engine of a node; the others get a new view after a while."""
        host = self.hosts[name]
        self.troubles += 1
        self.trace(f"crash {name}")
        host.up = False
        if host.paused is not None:
            host.paused.set()
            host.paused = None
        for engine in host.engines:
            engine.die()
        asyncio.get_running_loop().call_later(
            self.random.uniform(*self.faults.detection), self._exclude, name, host.life
        )

    def _exclude(self, name: str, life: int) -> None:
        host = self.hosts[name]
        if self._truth.member(name) is not None and not (host.up and host.life > life):
            self._decide(tuple(m for m in self._truth.members if m.node != name))

    def restart(self, name: str, *, kept: bool) -> None:
        """Start a crashed node again; it is a member again once a view says so."""
        host = self.hosts[name]
        assert not host.up
        self.trace(f"restart {name} {'with' if kept else 'without'} its store")
        host.memory.restart(kept=kept)
        if not kept:
            host.lost = self.now
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
        self._decide(tuple(m for m in self._truth.members if m.node != host.name), host)

    def pause(self, name: str) -> None:
        """SIGSTOP of every engine: nothing is answered, read or sent until `resume`."""
        self.troubles += 1
        self.trace(f"pause {name}")
        self.hosts[name].paused = asyncio.Event()

    def resume(self, name: str) -> None:
        """SIGCONT; the node goes on with what it knew, and learns later what became of it."""
        host = self.hosts[name]
        self.trace(f"resume {name}")
        if host.paused is not None:
            host.paused.set()
            host.paused = None
        self._tell(host)

    def expel(self, name: str) -> None:
        """The others decide that a living node is dead; it learns that in its own time."""
        self.troubles += 1
        self.strict = False
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
        host.membership.install(self._truth)
        if not host.membership.is_member():
            self._rejoin(host)

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
