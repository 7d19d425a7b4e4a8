"""A cluster of automata joined by a fake wire in virtual time: one seed, one world."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from itertools import pairwise
from random import Random
from typing import TypedDict

from sessionha.discovery.base import Found
from sessionha.identity import ViewID
from sessionha.peer.base import Sender, Verdict
from sessionha.peer.messages import (
    Accepted,
    Confirm,
    Confirmed,
    Describe,
    Described,
    Failed,
    Join,
    Message,
    decode,
    encode,
)
from sessionha.store.memory import Memory, MemoryStore
from sessionha.topology.answers import FOR_THE_LEADER, answer
from sessionha.topology.automaton import Automaton
from sessionha.topology.available import AvailableAutomaton
from sessionha.topology.base import Change
from sessionha.topology.description import Description
from sessionha.topology.effects import Effect, Lease, Log, Release, Renew, Send, Write
from sessionha.topology.members import changes, holds
from sessionha.topology.quorum import QuorumAutomaton
from sessionha.topology.rows import Rows, Voting
from sessionha.topology.timing import LEASE_MARGIN, Admission, Timing
from sessionha.topology.votes import Vote
from sessionha.view import NO_MEMBERS, Node, View

TICK = 25
SEEK = 500
TIMING = Timing()


def describe(count: int) -> Description:
    """n1 … n<count>, in an order that is not that of the IDs."""
    names = [f"n{number}" for number in range(1, count + 1)]
    order = names[count // 2 :] + names[: count // 2]
    return Description(tuple(Node(n, f"10.0.0.{n[1:]}:7946", url=f"http://{n}") for n in order))


class Disk:
    """A vote file that outlives its node, or not."""

    def __init__(self) -> None:
        self.vote: Vote | None = None

    def load(self) -> Vote | None:
        return self.vote

    def save(self, vote: Vote) -> None:
        self.vote = vote


class _Shared(TypedDict):
    """What both automata are made with."""

    view: View
    kept: View | None
    trust_refused: bool | None
    admission: Admission
    run: int


class SimNode:
    """One process of one node: its automaton and the little that drives it."""

    def __init__(self, world: World, node: str, memory: Memory) -> None:
        self.world = world
        self.node = node
        self.store = MemoryStore(memory).open()
        self.rows = Rows(self.store)
        self.voting: Voting | None = None
        if world.quorum:
            electors = tuple(world.description_of(node).order)
            disk = world.disks.setdefault(node, Disk())
            self.voting = Voting(disk, world.token, electors, TIMING.lease + LEASE_MARGIN)
        self.description = Description() if world.dynamic else world.description_of(node)
        described = self.description.node(node) or world.description.node(node)
        assert described is not None
        self.rows.begin_run(described.member(memory.incarnation), world.now, self.voting)
        self.me = described.member(memory.incarnation)  # which may be a new one
        view, kept = self.rows.held()
        shared = _Shared(
            view=view,
            kept=kept,
            trust_refused=world.trust_refused,
            admission="dynamic" if world.dynamic else world.admission,
            run=self.store.run,
        )
        self.automaton: Automaton
        if self.voting is not None:
            self.automaton = QuorumAutomaton(
                self.me,
                self.description,
                TIMING,
                world.now,
                electors=self.voting.electors,
                identity=world.token(),
                life=world.token(),
                **shared,
            )
        else:
            self.automaton = AvailableAutomaton(
                self.me, self.description, TIMING, world.now, **shared
            )
        self.told = kept or view if (kept or view).members else NO_MEMBERS
        self.events: list[tuple[View, tuple[Change, ...]]] = []
        self.log: list[str] = []
        self.alive = True
        self.hung = False
        self.backlog: list[Callable[[], None]] = []

    @property
    def view(self) -> View:
        return self.rows.view()

    @property
    def is_member(self) -> bool:
        member = self.view.member(self.node)
        return member is not None and member.incarnation == self.store.incarnation

    def step(self, event: Callable[[Automaton, int], list[Effect]]) -> None:
        """Give the automaton an event and carry its effects out."""
        self._sync()
        self._run(event(self.automaton, self.world.now))
        self.notice()

    def reload(self, description: Description, admission: Admission = "static-only") -> None:
        """`sessionha reload` with another file."""
        self.description = description
        if self.voting is not None:
            self.voting = self.voting._replace(electors=description.order)
        described = description.node(self.node)
        self.step(lambda automaton, now: automaton.reloaded(now, description, admission))
        if described is not None:
            me = described.member(self.automaton.me.incarnation)
            self.step(lambda automaton, now: automaton.describe(now, me))

    def _sync(self) -> None:
        view, kept = self.rows.held()
        if isinstance(self.automaton, QuorumAutomaton):
            self.automaton.accepted = self.rows.grants().accepted
            self.automaton.blank = self.rows.blank()
        if (view, kept) != (self.automaton.view, self.automaton.kept):
            self._run(self.automaton.stored(self.world.now, view, kept))

    def _run(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.world.send(self, effect)
                case Write():
                    done = self.rows.replace(effect.base, effect.view, effect.kept, self.world.now)
                    assert done, "one engine: nobody else writes"
                case Renew():
                    incarnation = self.store.renew_incarnation()
                    self.me = self.automaton.me
                    self._run(self.automaton.renewed(self.world.now, incarnation))
                    self.me = self.automaton.me
                case Lease():
                    self.rows.lease(effect.until)
                case Release():
                    self.rows.release(effect)
                case Log():
                    self.log.append(f"{self.world.now} {self.node} {effect.text}")

    def receive(self, sender: Sender, message: Message) -> Message | None:
        if isinstance(message, Describe):
            return Described(self.description.nodes)
        me = self.automaton.me
        now, words = self.world.now, self.description.hash
        reply = answer(sender, message, me, self.rows, now, words, self.voting)
        if isinstance(reply, Accepted) and reply.ok and self.voting is not None:
            self.world.check_votes(self.voting.file.load())
        if isinstance(message, FOR_THE_LEADER):
            if isinstance(message, Join) and self.automaton.refusal(message):
                reply = Failed("InvalidSettings", self.automaton.refusal(message))
            self.step(lambda automaton, now: automaton.received(now, sender, message))
        return reply

    def notice(self) -> None:
        """Tell the listener what the row says, as an engine does."""
        view = self.view
        if self.voting is not None:
            self.rows.swear_in(self.node, self.voting.file)
        self.world.check(view)
        if view.members and view.id != self.told.id:
            self.events.append((view, changes(self.told, view)))
            self.told = view

    @property
    def serves(self) -> bool:
        """Whether it may serve now."""
        with self.store.read() as reader:
            leased = self.rows.lease_in(reader) > self.world.now
        return leased and self.alive and self.is_member

    @property
    def kinds(self) -> list[str]:
        return [f"{c.kind} {c.node}" for _, news in self.events for c in news]


class World:
    """Nodes, a wire and a clock. `dynamic`: nobody has a description; nodes are found."""

    def __init__(
        self,
        seed: int,
        count: int,
        *,
        trust_refused: bool = True,
        dynamic: bool = False,
        quorum: bool = False,
    ) -> None:
        self.random = Random(seed)
        self.now = 1_000_000
        self.description = describe(count)
        self.descriptions: dict[str, Description] = {}
        self.admission: Admission = "static-only"
        self.trust_refused = trust_refused
        self.dynamic = dynamic
        self.nodes: dict[str, SimNode] = {}
        self.stores: dict[str, Memory] = {}
        self.impostors: dict[str, SimNode] = {}
        self.cut: set[tuple[str, str]] = set()
        self.dark: set[str] = set()
        """Hosts that are off: they do not even refuse."""
        self.sent = 0
        self.quorum = quorum
        self.disks: dict[str, Disk] = {}
        self.loss = 0.0
        """How many messages, and answers, are lost; as many come twice, and as many late."""
        self.chain: dict[int, View] = {}
        self._views: dict[tuple[ViewID, str], View] = {}
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0

    def token(self) -> str:
        return f"{self.random.getrandbits(64):016x}"

    def description_of(self, node: str) -> Description:
        return self.descriptions.get(node, self.description)

    # --- time ---

    def after(self, delay: int, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + delay, self._serial, action))

    def run(self, duration: int) -> None:
        """Let virtual milliseconds pass."""
        end = self.now + duration
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def run_until(self, reached: Callable[[], bool], limit: int) -> int:
        """How many milliseconds passed until it was reached; fails after `limit`."""
        begin = self.now
        while not reached():
            assert self.now - begin < limit, "\n".join(self.story())
            self.run(5)
        return self.now - begin

    # --- nodes ---

    def start(self, *nodes: str, store: Memory | None = None) -> None:
        for node in nodes:
            assert node not in self.nodes
            if store is not None or node not in self.stores:
                self.stores[node] = store or Memory(random=self.random)
            process = SimNode(self, node, self.stores[node])
            self.nodes[node] = process
            self.after(self.random.randint(0, TICK), lambda p=process: self._tick(p))  # type: ignore[misc]
            if self.dynamic:
                self.after(self.random.randint(0, SEEK), lambda p=process: self._seek(p))  # type: ignore[misc]
                continue
            for other in list(self.description.order):
                if other != node:
                    self._dial(process, other)
                    if other in self.nodes:
                        self._dial(self.nodes[other], node)

    def redescribe(self, node: str, *described: str) -> None:
        """What the node is configured with from now on, running or not."""
        nodes = tuple(each for each in self.description.nodes if each.node in described)
        self.descriptions[node] = Description(nodes)
        if node in self.nodes and not self.nodes[node].hung:
            self.nodes[node].reload(self.descriptions[node])

    def _seek(self, process: SimNode) -> None:
        """A round of discovery: whoever can be reached is found."""
        if not process.alive:
            return
        found = {
            node: Found(peer.me.peer, peer.store.incarnation)
            for node, peer in self.nodes.items()
            if peer is not process and not peer.hung and (process.node, node) not in self.cut
        }
        self.wake(process, lambda: process.step(lambda a, now: a.found(now, found)))
        self.after(SEEK, lambda: self._seek(process))

    def start_impostor(self, node: str) -> SimNode:
        """A second process under the ID of another, at another address: nobody can dial it."""
        process = SimNode(self, node, Memory(random=self.random))
        self.impostors[node] = process
        self.after(1, lambda: self._tick(process))
        return process

    def _dial(self, process: SimNode, other: str) -> None:
        def dialled() -> None:
            if (process.node, other) in self.cut or other in self.dark:
                return
            peer = self.nodes.get(other)
            if peer is None:
                self.wake(process, lambda: process.step(
                    lambda a, now: a.link_down(now, other, refused=True)))  # fmt: skip
            elif not peer.hung:
                incarnation = peer.store.incarnation
                self.wake(process, lambda: process.step(
                    lambda a, now: a.link_up(now, other, incarnation)))  # fmt: skip

        self.after(self.random.randint(1, 20), dialled)

    def redial(self) -> None:
        """Every stream is looked at again."""
        for process in list(self.nodes.values()):
            for other in self.description.order:
                if other != process.node:
                    self._dial(process, other)

    def kill(
        self, *nodes: str, dark: bool = False, lost: bool = False, forgets: bool = False
    ) -> None:
        """kill -9; `dark`: the machine goes too, `lost`: its store, `forgets`: its votes."""
        for node in nodes:
            process = self.nodes.pop(node)
            process.alive = False
            process.store.kill()
            if dark:
                self.dark.add(node)
            if lost:
                del self.stores[node]
            if forgets:
                self.disks.pop(node, None)
        for node in nodes:
            for process in self.nodes.values():
                self._dial(process, node)

    def hang(self, node: str) -> None:
        """SIGSTOP."""
        self.nodes[node].hung = True

    def resume(self, node: str) -> None:
        """SIGCONT."""
        process = self.nodes[node]
        process.hung = False
        backlog, process.backlog = process.backlog, []
        for action in backlog:
            self.after(0, action)

    def split(self, *sides: tuple[str, ...]) -> None:
        """Partition: no message passes between the sides."""
        for one in sides:
            for other in sides:
                if one is not other:
                    self.cut |= {(a, b) for a in one for b in other}

    def heal(self) -> None:
        self.cut.clear()

    def leave(self, node: str, *, returning: bool = False) -> None:
        self.nodes[node].step(lambda a, now: a.leave(now, returning=returning))

    def _tick(self, process: SimNode) -> None:
        if not process.alive:
            return
        if process.hung:
            process.backlog.append(lambda: self._tick(process))
            return
        process.step(lambda automaton, now: automaton.tick(now))
        self.after(TICK, lambda: self._tick(process))

    def wake(self, process: SimNode, action: Callable[[], None]) -> None:
        if process.hung:
            process.backlog.append(action)
        elif process.alive:
            action()

    # --- the wire ---

    def send(self, sender: SimNode, effect: Send) -> None:
        self.sent += 1
        if effect.node == sender.node:
            answered = sender.receive(
                Sender(sender.node, sender.store.incarnation), decode(encode(effect.message))
            )
            assert answered is not None
            sender._run(sender.automaton.replied(self.now, effect.node, effect.message, answered))
            return
        way = sender.automaton.detours.get(effect.node) if not effect.straight else None
        via = None if way is None else way.via
        origin = Sender(sender.node, sender.store.incarnation)
        settled = [False]
        delay = self.random.randint(1, 3)

        def unanswered(refused: bool) -> None:
            if not settled[0]:
                settled[0] = True
                self.wake(sender, lambda: sender.step(
                    lambda a, now: a.unanswered(now, effect.node, refused=refused)))  # fmt: skip

        def arrive() -> None:
            target = self.nodes.get(effect.node)
            if via is not None:
                if self._passes(sender, self.nodes.get(via), target) and target is not None:
                    self._deliver(target, origin, effect.message, reply)
                return
            if (sender.node, effect.node) in self.cut or effect.node in self.dark:
                return
            if target is None:
                unanswered(True)
            else:
                self.wake(target, lambda: self._deliver(target, origin, effect.message, reply))

        def reply(message: Message) -> None:
            def back() -> None:
                if via is not None:
                    way = (self.nodes.get(effect.node), self.nodes.get(via), sender)
                    if settled[0] or not self._passes(*way):
                        return
                elif settled[0] or (effect.node, sender.node) in self.cut:
                    return
                settled[0] = True
                told = (effect.node, effect.message, message)
                self.wake(sender, lambda: sender.step(
                    lambda a, now: a.replied(now, *told, straight=effect.straight)))  # fmt: skip

            if self.random.random() >= self.loss:
                late = self.random.random() < self.loss
                self.after(self.random.randint(1, 400 if late else 3), back)

        if self.random.random() >= self.loss:
            self.after(delay, arrive)
        if self.random.random() < self.loss:
            self.after(self.random.randint(1, 5_000), arrive)
        self.after(effect.timeout, lambda: unanswered(False))

    def _deliver(
        self, target: SimNode, sender: Sender, message: Message, reply: Callable[[Message], None]
    ) -> None:
        crossed = decode(encode(message))
        if isinstance(crossed, Confirm):
            self._probe(target, crossed.node, lambda verdict: reply(Confirmed(verdict)))
            return
        answered = target.receive(sender, crossed)
        if answered is not None:
            reply(decode(encode(answered)))

    def _passes(self, *way: SimNode | None) -> bool:
        """Whether a message passes along these nodes, whose views have the first and the last."""
        for one, other in pairwise(way):
            if one is None or other is None or not (one.alive and other.alive):
                return False
            if other.hung or (one.node, other.node) in self.cut:
                return False
        first, last = way[0], way[-1]
        if not all(each is not None and each.alive for each in way):
            return False
        return all(
            holds(each.view, end.node, end.store.incarnation)
            for each in way[1:]
            for end in (first, last)
            if each is not None and end is not None
        )

    def _probe(self, prober: SimNode, node: str, done: Callable[[Verdict], None]) -> None:
        peer = self.nodes.get(node)
        if (prober.node, node) in self.cut or node in self.dark or (peer and peer.hung):
            self.after(TIMING.probe, lambda: done("silent"))
        else:
            self.after(3, lambda: done("refused" if peer is None else "alive"))

    # --- what must hold ---

    def check(self, view: View) -> None:
        """Two views with one ID are the same view, unless their owner lost its store between."""
        if not view.members:
            return
        if self.quorum:
            self._check_chain(view)
            return
        assert view.id.lowest == min(view.nodes)
        owner = view.member(view.id.lowest)
        assert owner is not None
        known = self._views.setdefault((view.id, owner.incarnation), view)
        assert known == view, "\n".join(self.story())

    def check_votes(self, vote: Vote | None) -> None:
        """A view is decided when a majority has accepted it under one ballot."""
        assert vote is not None
        assert vote.view is not None
        base = vote.base if vote.number > 1 else vote.view
        voters = [n for n in base.electors if n not in base.absent or vote.number == 1]
        same = [
            n
            for n in voters
            if (found := self.disks[n].vote if n in self.disks else None) is not None
            and (found.number, found.accepted) == (vote.number, vote.accepted)
        ]
        if len(same) > len(voters) // 2:
            self._check_chain(vote.view)

    def _check_chain(self, view: View) -> None:
        """I20: every number has one view; and nobody serves whom a decided view leaves out."""
        known = self.chain.setdefault(view.id.number, view)
        assert known == view, "\n".join(["two views of one number", *self.story()])
        before = self.chain.get(view.id.number - 1, view)
        assert len({*before.electors} ^ {*view.electors}) <= 1, "electors change one by one"
        latest = self.chain[max(self.chain)]
        for process in self.nodes.values():
            if process.serves and process.view.id < latest.id:
                held = latest.member(process.node)
                mine = held is not None and held.incarnation == process.store.incarnation
                assert mine, "\n".join([f"{process.node} serves, left out", *self.story()])

    def agreed(self, *nodes: str) -> bool:
        """Whether these nodes are joined in one view of exactly them."""
        wanted = set(nodes or self.nodes)
        views = {self.nodes[node].view for node in wanted}
        return len(views) == 1 and all(
            set(p.view.nodes) == wanted and p.is_member and p.automaton.state == "joined"
            for p in (self.nodes[node] for node in wanted)
        )

    def settle(self, *nodes: str, limit: int = 40_000) -> int:
        """Run until they agree, and see that nothing happens afterwards; the time it took."""
        took = self.run_until(lambda: self.agreed(*nodes), limit)
        before = {node: self.nodes[node].view for node in nodes or self.nodes}
        self.run(3_000)
        assert {n: self.nodes[n].view for n in before} == before, "\n".join(self.story())
        return took

    def views(self) -> Mapping[str, View]:
        return {node: process.view for node, process in self.nodes.items()}

    def story(self) -> list[str]:
        lines = [line for p in self.nodes.values() for line in p.log]
        ends = [f"{n}: {p.automaton.state} {p.view}" for n, p in self.nodes.items()]
        return sorted(lines)[-80:] + ends
