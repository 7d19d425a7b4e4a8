"""A simulated cluster: production state managers over a network and a membership made here.

One seed is one world. The network delays, loses, duplicates and cuts; nodes crash and come back
with or without their stores; an oracle gives views as a cluster would that can always agree.
Every message crosses the real codec.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sessionha.errors import PeerUnavailable
from sessionha.identity import ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Message, Push, decode, encode
from sessionha.state.manager import StateManager
from sessionha.state.node import Node, Options
from sessionha.store.base import Reader, Store, Writer
from sessionha.store.memory import Memory, MemoryStore
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
        self._changed = asyncio.Event()

    def install(self, view: View) -> None:
        if view.supersedes(self.current):
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

    def suspect(self, node: str) -> None:
        self.suspected.append(node)

    def subscribe(self, listener: ViewListener) -> None:
        raise NotImplementedError


class SimulatedPeers:
    """One engine's streams."""

    def __init__(self, world: World, host: Host, life: int) -> None:
        self._world = world
        self._host = host
        self._life = life

    async def call(self, node: str, message: Message, timeout: float) -> Message:
        world = self._world
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[bytes | None] = loop.create_future()
        sender = Sender(self._host.name, self._host.incarnation)
        world.trace(f"{self._host.name}->{node} {describe(message)}")
        world.deliver(self._host.name, node, sender, encode(message), reply)
        try:
            async with asyncio.timeout(timeout):
                data = await reply
        except TimeoutError:
            raise PeerUnavailable(node, "silent") from None
        if not self._host.lives(self._life):
            await asyncio.Event().wait()  # the caller is dead: it never hears of it
        if data is None:
            raise PeerUnavailable(node, "refused", refused=True, sent=False)
        return decode(data)

    def cast(self, node: str, message: Message) -> None:
        sender = Sender(self._host.name, self._host.incarnation)
        self._world.deliver(self._host.name, node, sender, encode(message), None)

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


@dataclass
class Host:
    """One simulated node: what outlives its engines."""

    name: str
    memory: Memory
    clock: Clock
    membership: SimulatedMembership
    engines: list[StateManager] = field(default_factory=list)
    up: bool = True
    life: int = 0
    paused: asyncio.Event | None = None
    tasks: dict[asyncio.Task[Any], None] = field(default_factory=dict)

    @property
    def incarnation(self) -> str:
        return self.memory.incarnation

    def lives(self, life: int) -> bool:
        return self.up and self.life == life


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
    ) -> None:
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.options = options or Options(backups=backups)
        self.engines = engines
        self.hosts: dict[str, Host] = {}
        self.forgotten: set[str] = set()
        self.cut: set[tuple[str, str]] = set()
        self.lines: list[str] = []
        self.number = 1
        for index in range(nodes):
            name = f"n{index + 1}"
            host = Host(
                name=name,
                memory=Memory(random=random.Random(self.random.random())),
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
        self.lines.append(f"{asyncio.get_running_loop().time():.4f} {line}")

    # --- the network ----------------------------------------------------------------------------

    def deliver(
        self,
        source: str,
        target: str,
        sender: Sender,
        data: bytes,
        reply: asyncio.Future[bytes | None] | None,
    ) -> None:
        host = self.hosts[target]
        if (source, target) in self.cut or self.random.random() < self.faults.loss:
            return
        receiver = host.incarnation
        copies = 2 if self.random.random() < self.faults.duplicate else 1
        for _ in range(copies):
            self._later(self._arrive, host, receiver, source, sender, data, reply)

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
        source: str,
        sender: Sender,
        data: bytes,
        reply: asyncio.Future[bytes | None] | None,
    ) -> None:
        if not host.up:
            self._answer(host.name, source, reply, None)
            return
        if self.hosts[source].incarnation != sender.incarnation and self.hosts[source].up:
            return  # the stream was bound to the sender's incarnation
        if host.incarnation != receiver:
            return  # and to the receiver's
        task = asyncio.get_running_loop().create_task(
            self._handle(host, source, sender, data, reply)
        )
        host.tasks[task] = None
        task.add_done_callback(lambda done: host.tasks.pop(done, None))

    async def _handle(
        self,
        host: Host,
        source: str,
        sender: Sender,
        data: bytes,
        reply: asyncio.Future[bytes | None] | None,
    ) -> None:
        if host.paused is not None:
            await host.paused.wait()
        life = host.life
        engine = self.random.choice(host.engines)
        result = engine.handle(sender, decode(data))
        answer = await result if isinstance(result, Awaitable) else result
        if answer is not None and host.lives(life):
            self._answer(host.name, source, reply, encode(answer))

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
            return
        self._later(lambda: None if reply.done() else reply.set_result(data))

    # --- life and death -------------------------------------------------------------------------

    def _boot(self, host: Host) -> None:
        host.up = True
        host.life += 1
        life = host.life
        host.engines = []
        for _ in range(self.engines):
            store = GuardedStore(MemoryStore(host.memory).open(), lambda: host.lives(life))
            node = Node(
                me=host.name,
                store=store,
                membership=host.membership,
                clock=host.clock,
                options=self.options,
                peers=SimulatedPeers(self, host, life),
                random=random.Random(self.random.random()),
            )
            host.engines.append(StateManager(node))

    def _member(self, host: Host, joined: ViewID) -> Member:
        return Member(host.name, host.incarnation, joined, peer=f"{host.name}:1")

    def crash(self, name: str) -> None:
        """kill -9 of every engine of a node; the others get a new view after a while."""
        host = self.hosts[name]
        host.up = False
        self.trace(f"crash {name}")
        for task in [*host.tasks, *(t for e in host.engines for t in e.node.tasks)]:
            task.cancel()
        for slot in sorted(host.memory.living):
            host.memory.kill(slot)
        asyncio.get_running_loop().call_later(
            self.random.uniform(*self.faults.detection), self._exclude, name, host.life
        )

    def _exclude(self, name: str, life: int) -> None:
        host = self.hosts[name]
        member = self._truth.member(name)
        if member is None or host.lives(life + 1):
            return
        self._decide(tuple(m for m in self._truth.members if m.node != name))

    def restart(self, name: str, *, kept: bool) -> None:
        """Start a crashed node again; it is a member again once a view says so."""
        host = self.hosts[name]
        assert not host.up
        self.trace(f"restart {name} {'with' if kept else 'without'} its store")
        host.memory.restart(kept=kept)
        known = self._truth.member(name)
        host.membership = SimulatedMembership(self, name)
        if known is None or known.incarnation != host.incarnation:
            if kept:
                host.memory.incarnation = host.memory.new_incarnation()
            members = tuple(m for m in self._truth.members if m.node != name)
            host.membership.current = View()
            self._boot(host)
            self._decide(members, host)
        else:
            host.membership.current = self._truth
            self._boot(host)

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
                asyncio.get_running_loop().call_later(
                    self.random.uniform(0, 0.02), self._install, host, self._truth
                )

    @staticmethod
    def _install(host: Host, view: View) -> None:
        host.membership.install(view)

    @property
    def living(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.up]

    def engine(self, name: str) -> StateManager:
        return self.random.choice(self.hosts[name].engines)
