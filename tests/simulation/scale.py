"""Membership of very many nodes: the production automata and answers on a wire in virtual time.

What is left out is what every node has for itself, whatever the number: the store (a view is an
attribute here) and the handshakes of streams (a dial is one message). Messages cross the codec;
those that carry a view of a thousand members do so once, and are shared then, as nobody changes
them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from sessionha.peer.base import Sender, Verdict
from sessionha.peer.messages import (
    Confirm,
    Confirmed,
    Failed,
    Install,
    Installed,
    Join,
    Message,
    Ping,
    Pong,
    decode,
    encode,
)
from sessionha.topology.answers import FOR_THE_LEADER, answer
from sessionha.topology.automaton import Automaton
from sessionha.topology.available import AvailableAutomaton
from sessionha.topology.description import Description
from sessionha.topology.effects import Effect, Renew, Send, Write
from sessionha.topology.members import accepts, holds
from sessionha.topology.rows import Rows
from sessionha.topology.states import State
from sessionha.topology.timing import Timing
from sessionha.view import NO_MEMBERS, Member, Node, View

TIMING = Timing()
TICK = 125
"""Milliseconds between two ticks: half a heartbeat, and five times what it is in production, where
a thousand nodes do not share one core."""

GRADUAL = 5_000
"""Milliseconds in which every second node starts, when the first half is there."""

QUIET = 5_000
"""Milliseconds in which messages are counted while nothing happens."""

PATIENCE = 120_000
"""Milliseconds after which a cluster that has no common view will never have one."""

DEAD = 0.01
"""How many nodes die at once; at least one does."""

MINORITY = 0.4


class Held:
    """The rows of one node, as far as available mode has any."""

    def __init__(self, me: str) -> None:
        self._me = me
        self.view = NO_MEMBERS
        self.kept: View | None = None

    def held(self) -> tuple[View, View | None]:
        return self.view, self.kept

    def install(self, me: Member, offered: View, _now: int) -> View:
        if not accepts(self.kept or self.view, offered, me):
            return self.view
        self.view, self.kept = offered, None
        return offered

    def grant(self, sender: Sender, ping: Ping, _now: int) -> bool:
        return ping.view == self.view.id and holds(self.view, sender.node, sender.incarnation)


@dataclass
class Process:
    """One node."""

    node: str
    automaton: Automaton
    rows: Held
    side: int = 0
    streams: set[str] = field(default_factory=set)
    lives: int = 1

    @property
    def joined(self) -> bool:
        return self.automaton.state is State.JOINED


class Cluster:
    """Nodes of one description, on a wire that may be split in two."""

    def __init__(self, seed: int, count: int) -> None:
        self.random = Random(seed)
        self.now = 1_000_000
        self.nodes: dict[str, Process] = {}
        self.dark: set[str] = set()
        self.messages = 0
        self.bytes = 0
        self.largest = 0
        self.views = 0
        self.log: list[str] = []
        names = [f"n{number:04}" for number in range(count)]
        self.random.shuffle(names)
        self.description = Description(
            tuple(
                Node(name, f"10.{int(name[1:]) // 256}.{int(name[1:]) % 256}.1:7946")
                for name in names
            )
        )
        self._queue: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0
        self._sizes: dict[int, tuple[View, int]] = {}

    # --- time ---

    def after(self, delay: int, action: Callable[..., object], *given: Any) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + delay, self._serial, action, given))

    def run(self, duration: int) -> None:
        end = self.now + duration
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, action, given = heapq.heappop(queue)
            action(*given)
        self.now = end

    def run_until(self, reached: Callable[[], bool]) -> float | None:
        """Seconds until it was reached; None: it never was."""
        begin = self.now
        while not reached():
            if self.now - begin > PATIENCE:
                return None
            self.run(50)
        return (self.now - begin) / 1000

    # --- nodes ---

    def start(self, node: str) -> None:
        described = self.description.node(node)
        assert described is not None
        rows = Held(node)
        me = described.member(f"{node}/1")
        automaton = AvailableAutomaton(me, self.description, TIMING, self.now, view=NO_MEMBERS)
        process = self.nodes[node] = Process(node, automaton, rows)
        self.after(self.random.randint(0, TICK), self._tick, process)

    def kill(self, node: str, *, dark: bool) -> None:
        """kill -9; `dark`: its machine goes too, and nobody is refused."""
        del self.nodes[node]
        if dark:
            self.dark.add(node)
        for process in self.nodes.values():
            if node in process.streams and not dark:
                process.streams.discard(node)
                self.after(self.random.randint(1, 3), self._broken, process, node)

    def split(self, away: set[str]) -> None:
        for node, process in self.nodes.items():
            process.side = int(node in away)

    def agreed(self) -> bool:
        """Whether all on each side are joined in one view of exactly them."""
        sides: dict[int, list[Process]] = {}
        for process in self.nodes.values():
            if not process.joined:
                return False
            sides.setdefault(process.side, []).append(process)
        for side in sides.values():
            view = side[0].rows.view
            if len(view.members) != len(side) or any(p.rows.view.id != view.id for p in side):
                return False
            if not all(view.member(p.node) for p in side):
                return False
        return True

    def _tick(self, process: Process) -> None:
        if self.nodes.get(process.node) is process:
            self.step(process, process.automaton.tick(self.now))
            self.after(TICK, self._tick, process)

    def _broken(self, process: Process, node: str) -> None:
        self.step(process, process.automaton.link_down(self.now, node, refused=True))

    def step(self, process: Process, effects: list[Effect]) -> None:
        automaton, rows = process.automaton, process.rows
        for effect in effects:
            match effect:
                case Send():
                    self._send(process, effect)
                case Write():
                    rows.view, rows.kept = effect.view, effect.kept
                    self.views += 1
                case Renew():
                    process.lives += 1
                    process.streams.clear()
                    name = f"{process.node}/{process.lives}"
                    self.step(process, automaton.renewed(self.now, name))
                case _:
                    pass

    def _receive(self, process: Process, sender: Sender, message: Message) -> Message | None:
        automaton, rows = process.automaton, process.rows
        reply = answer(
            sender, message, automaton.me, cast(Rows, rows), self.now, self.description.hash
        )
        if isinstance(message, FOR_THE_LEADER):
            if isinstance(message, Join) and automaton.refusal(message):
                reply = Failed("InvalidSettings", automaton.refusal(message))
            if rows.view is not automaton.view:
                self.step(process, automaton.stored(self.now, rows.view, rows.kept))
            self.step(process, automaton.received(self.now, sender, message))
        return reply

    # --- the wire ---

    def _reaches(self, process: Process, node: str) -> bool:
        other = self.nodes.get(node)
        if other is None:
            return node not in self.dark
        return other.side == process.side

    def _cross(self, message: Message) -> Message:
        """Count a message, and take it through the codec."""
        self.messages += 1
        view = _carried(message)
        if view is None or not view.members:
            data = encode(message)
            self.bytes += len(data)
            return decode(data)
        held = self._sizes.get(id(view))
        if held is None or held[0] is not view:
            held = self._sizes[id(view)] = (view, len(encode(message)))
            self.largest = max(self.largest, held[1])
        self.bytes += held[1]
        return message

    def _send(self, sender: Process, asked: Send) -> None:
        call = _Call(self, sender, asked)
        if not self._reaches(sender, asked.node):
            if asked.node not in sender.streams:
                self.messages += 1
            self.after(asked.timeout, call.unanswered, False)
            return
        delay = self.random.randint(1, 3)
        if asked.node not in sender.streams:
            self.messages += 1
            if asked.node not in self.nodes:
                self.after(delay, call.unanswered, True)
                return
            sender.streams.add(asked.node)
            peer = self.nodes[asked.node]
            self.step(sender, sender.automaton.link_up(
                self.now, asked.node, peer.automaton.me.incarnation))  # fmt: skip
        self.after(asked.timeout, call.unanswered, False)
        self.after(delay, call.arrive, self._cross(asked.message))


class _Call:
    """A request on its way, and its reply."""

    __slots__ = ("asked", "cluster", "origin", "sender", "settled")

    def __init__(self, cluster: Cluster, sender: Process, asked: Send) -> None:
        self.cluster = cluster
        self.sender = sender
        self.asked = asked
        self.origin = Sender(sender.node, sender.automaton.me.incarnation)
        self.settled = False

    def _alive(self) -> bool:
        return self.cluster.nodes.get(self.sender.node) is self.sender

    def unanswered(self, refused: bool) -> None:
        if not self.settled and self._alive():
            self.settled = True
            self.sender.streams.discard(self.asked.node)
            automaton = self.sender.automaton
            self.cluster.step(self.sender, automaton.unanswered(
                self.cluster.now, self.asked.node, refused=refused))  # fmt: skip

    def arrive(self, message: Message) -> None:
        cluster = self.cluster
        target = cluster.nodes.get(self.asked.node)
        if target is None or target.side != self.sender.side:
            return
        if isinstance(message, Confirm):
            self._probe(target, message.node)
            return
        reply = cluster._receive(target, self.origin, message)
        if reply is not None:
            cluster.after(cluster.random.randint(1, 3), self.replied, cluster._cross(reply))

    def _probe(self, prober: Process, node: str) -> None:
        cluster = self.cluster
        cluster.messages += 1
        if not cluster._reaches(prober, node):
            cluster.after(TIMING.probe, self.replied, Confirmed("silent"))
            return
        verdict: Verdict = "alive" if node in cluster.nodes else "refused"
        cluster.messages += 1
        cluster.after(3, self.replied, Confirmed(verdict))

    def replied(self, message: Message) -> None:
        if self.settled or not self._alive():
            return
        target = self.cluster.nodes.get(self.asked.node)
        if target is None or target.side != self.sender.side:
            return
        self.settled = True
        automaton, rows = self.sender.automaton, self.sender.rows
        if rows.view is not automaton.view:
            self.cluster.step(self.sender, automaton.stored(self.cluster.now, rows.view, rows.kept))
        self.cluster.step(self.sender, automaton.replied(
            self.cluster.now, self.asked.node, self.asked.message, message))  # fmt: skip


def _carried(message: Message) -> View | None:
    match message:
        case Install() | Installed() | Join():
            return message.view
        case Pong():
            return message.newer
        case _:
            return None


@dataclass
class Story:
    """What became of one cluster."""

    nodes: int
    converged: bool
    messages_per_node_second: float
    seconds_to_converge: float
    """The longest of these."""
    seconds: dict[str, float | None]
    """For each thing that happened; None: never."""
    messages: int
    """In all its life."""
    kilobytes_per_node_second: float
    largest_message_kilobytes: float


def play(nodes: int, seed: int = 1, say: Callable[[str], None] = lambda _: None) -> Story:
    """Half of the nodes start at once, in random order, the others one after the other; when all
    is quiet messages are counted; some die at once; the rest is split in 60 and 40 of 100, and
    joined again."""
    cluster = Cluster(seed, nodes)
    seconds: dict[str, float | None] = {}

    def settle(phase: str) -> None:
        seconds[phase] = cluster.run_until(cluster.agreed)
        say(f"{nodes} nodes, {phase}: {seconds[phase]} s, {cluster.messages} messages,"
            f" {cluster.bytes >> 20} MB, {cluster.views} views installed")  # fmt: skip

    names = sorted(cluster.description.order)
    cluster.random.shuffle(names)
    half = -(-nodes // 2)
    for name in names[:half]:
        cluster.start(name)
    settle("started at once")
    rest = names[half:]
    for name in rest:
        cluster.after(cluster.random.randint(0, GRADUAL), cluster.start, name)
    cluster.run(GRADUAL)
    settle("joined one by one")
    cluster.run(QUIET)
    before, bytes_before = cluster.messages, cluster.bytes
    cluster.run(QUIET)
    quiet = cluster.messages - before
    quiet_bytes = cluster.bytes - bytes_before
    dead = cluster.random.sample(names, max(1, round(nodes * DEAD)))
    for index, name in enumerate(dead):
        cluster.kill(name, dark=index % 2 == 1)
    settle("deaths")
    living = sorted(cluster.nodes)
    cluster.split(set(cluster.random.sample(living, round(len(living) * MINORITY))))
    settle("split")
    cluster.split(set())
    settle("healed")
    converged = [took for took in seconds.values() if took is not None]
    return Story(
        nodes=nodes,
        converged=len(converged) == len(seconds),
        messages_per_node_second=round(quiet * 1000 / QUIET / nodes, 2),
        seconds_to_converge=max(converged, default=0.0),
        seconds=seconds,
        messages=cluster.messages,
        kilobytes_per_node_second=round(quiet_bytes / QUIET / nodes, 2),
        largest_message_kilobytes=round(cluster.largest / 1000, 1),
    )
