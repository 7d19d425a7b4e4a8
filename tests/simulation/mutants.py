"""The rules that concern data, each with a switch: without it, the simulator must see a violation.

Nothing of this is in the product: a switch patches it from here, for as long as it is off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal
from unittest import mock

import msgspec
import pytest

from sessionha.errors import SessionUnavailable
from sessionha.identity import NO_EPOCH, NO_VIEW, Epoch, ViewID
from sessionha.peer.messages import Granted
from sessionha.state import copies, delays, rebalancing, redundancy, sides, upkeep
from sessionha.state.bulk import Bulk
from sessionha.state.delays import Delays
from sessionha.state.draining import Draining
from sessionha.state.drill import Drill
from sessionha.state.manager import StateManager
from sessionha.state.node import Node
from sessionha.state.ownership import ATTEMPTS, Ownership, _Lost
from sessionha.state.readings import Readings
from sessionha.state.rebalancing import Rebalancer
from sessionha.state.records import GROUPS, GroupRecord, get_group, group_key, write_record
from sessionha.state.replication import Replication
from sessionha.state.serial import Turns
from sessionha.state.walking import Walking
from sessionha.store.memory import Memory, MemoryStore
from sessionha.topology.lone import FOREVER
from sessionha.view import View
from tests.simulation import (
    test_draining,
    test_healing,
    test_mended,
    test_quorum,
    test_scenarios,
    test_sides,
)
from tests.simulation.histories import EVERYTHING, Plan, play
from tests.simulation.membership import SimulatedPeers, SimulatedTopology
from tests.simulation.scenes import GROUP, Scene, simulated
from tests.simulation.seeds import swarm
from tests.simulation.test_delay import (
    test_a_node_that_is_held_is_awaited_by_all_until_it_is_back as held,
)
from tests.simulation.test_delay import (
    test_who_asks_before_each_stop_loses_nothing_with_any_store as asks_first,
)
from tests.simulation.test_delay import (
    test_who_is_back_in_time_keeps_its_copies_and_nobody_else_gets_any as returned_in_time,
)
from tests.simulation.world import World
from tests.state import test_drill, test_rebalancing
from tests.topology import test_quorum as votes

Profile = Literal["random", "directed"]

RANDOM, DIRECTED = 500, 200
"""Histories in which a missing rule must show."""


@dataclass(frozen=True)
class Rule:
    """One rule and its switch."""

    text: str
    patches: Callable[[], list[AbstractContextManager[Any]]]
    world: Callable[[int], object]
    """One history, by its seed; raises when something is wrong."""
    profile: Profile = "random"
    plain: Callable[[int], object] | None = None
    """The same history with the rule on, where that is another one."""

    @contextmanager
    def broken(self) -> Iterator[None]:
        """The rule is off inside this block."""
        with ExitStack() as stack:
            for patch in self.patches():
                stack.enter_context(patch)
            yield

    @property
    def limit(self) -> int:
        return RANDOM if self.profile == "random" else DIRECTED


def hunt(rule: Rule, first: int = 0) -> tuple[int, str]:
    """How many histories it took to notice that the rule is off, and how it showed; "": never.

    What goes wrong with the rule on as well is not counted.
    """
    for tried in range(rule.limit):
        with rule.broken():
            words = _wrong(rule.world, first + tried)
        if words and not _wrong(rule.plain or rule.world, first + tried):
            return tried + 1, words
    return rule.limit, ""


def _wrong(world: Callable[[int], object], seed: int) -> str:
    try:
        world(seed)
    except (TypeError, AttributeError, NameError):
        raise  # a switch that does not fit the product any more
    except (Exception, asyncio.CancelledError, pytest.fail.Exception) as error:  # noqa: BLE001
        return f"{type(error).__name__} {error}".strip().splitlines()[0][:90]
    return ""


# --- worlds --------------------------------------------------------------------------------------


def anywhere(seed: int) -> object:
    """What every run of seeds tries."""
    return play(seed, replace(swarm(seed), views="oracle"))


def planned(plan: Plan) -> Callable[[int], object]:
    """Random histories that concentrate on a hazard."""
    return lambda seed: play(seed, plan)


def unaware(seed: int) -> object:
    """Random histories in which who was excluded learns it late, and goes on meanwhile."""

    def begun(world: World) -> None:
        world.faults.learning = (0.0, 0.5)

    return play(seed, STALE, begun)


def scene(scenario: Callable[[], None]) -> Callable[[int], object]:
    """A named scenario."""
    return lambda _: scenario()


def voted(rule: str) -> Rule:
    """A rule of agreeing by votes, in worlds of nothing but nodes that vote (I20, I21)."""
    first = votes.FIRST.get(rule, 0)
    return Rule(
        rule,
        lambda: [*votes.RULES[rule]()],
        lambda seed: votes.live(first + seed),
        "directed",
    )


HARSH = Plan(engines=2, width=2, troubles=EVERYTHING, lossy=0.1)


@simulated()
async def stray(scene: Scene) -> None:
    """A change that was never confirmed leaves with the copy that has it (R8)."""
    await scene.create("n1", a="1")
    await scene.exclude("n1")
    await scene.put("n2", a="2")
    scene.world.faults.learning = (0.05, 0.05)
    scene.world.resume("n1")
    lost = scene.start(scene.write("n1", b="lost"))
    await scene.members("n1")
    await scene.put("n2", c="3")
    await asyncio.wait({lost})
    lost.exception()
    await scene.see("n1")
    assert scene.world.hosts["n1"].content(GROUP) == scene.world.hosts["n2"].content(GROUP)


@simulated()
async def old_copy_without_a_route_cookie(scene: Scene) -> None:
    """A client that lost its route cookie does not get the copy of a node that was away (R4a)."""
    await scene.leave_an_old_copy()
    scene.cookie = None
    try:
        seen = await scene.see("n2")
    except SessionUnavailable:
        return
    raise AssertionError(f"served {seen} from quarantine")


@simulated()
async def backup_without_memory(scene: Scene) -> None:
    """A backup that lost its store, before anybody noticed, is brought up to date (R7)."""
    await scene.create("n1", a="1")
    scene.world.crash("n2")
    scene.world.restart("n2", kept=False)
    await scene.members("n2")
    for host in scene.world.living:
        await host.engines[0].upkeep.repair()
    await scene.crash("n1")
    assert await scene.see("n3") == {"a": "1"}


# --- switches ------------------------------------------------------------------------------------


def _on(target: object, name: str, new: object) -> AbstractContextManager[Any]:
    return mock.patch.object(target, name, new)


def _acknowledge_first() -> list[AbstractContextManager[Any]]:
    async def send(*_: Any) -> list[str]:
        return []

    return [_on(Replication, "_send", send)]


def _drop_silent() -> list[AbstractContextManager[Any]]:
    original = Replication._send

    async def send(self: Replication, plan: Any) -> list[str]:
        await original(self, plan)
        return []

    return [_on(Replication, "_send", send)]


def _give_up_first() -> list[AbstractContextManager[Any]]:
    async def send(self: Replication, plan: Any) -> list[str]:
        missing = await self._bring_all(plan.push, plan.leaving)
        return missing + await self._bring_all(plan.push, plan.backups)

    return [_on(Replication, "_send", send)]


def _views_without_majority() -> list[AbstractContextManager[Any]]:
    original = World.split

    def split(self: World, names: set[str]) -> None:
        before = self.truth
        original(self, names)
        members = tuple(member for member in before.members if member.node in names)
        alone = View(ViewID(before.id.number + 1, min(names)), members)
        for name in names:
            self.hosts[name].membership.install(alone)

    return [_on(World, "split", split)]


def _no_fence() -> list[AbstractContextManager[Any]]:
    original = Replication.accept_in

    def accept(self: Replication, writer: Any, sender: Any, push: Any) -> Any:
        record = get_group(writer, push.group)
        if record is not None and push.epoch < record.promise:
            record.promise = NO_EPOCH
            if push.epoch < record.epoch and record.held:
                record.epoch = push.epoch  # nor order: the older one counts as newer
            writer.put(group_key(push.group), write_record(record))
        return original(self, writer, sender, push)

    return [_on(Replication, "accept_in", accept)]


def _reuse_epochs() -> list[AbstractContextManager[Any]]:
    original = Ownership._fresh_epoch

    def fresh(self: Ownership, group: bytes, floor: Any, *, promise: bool) -> Epoch:
        epoch = original(self, group, floor, promise=False)
        with self._node.store.write(urgent=True) as writer:
            record = get_group(writer, group)
            attempt = record.epoch.attempt + 1 if record is not None else 1
            writer.put(ATTEMPTS, attempt.to_bytes(8))
        return Epoch(epoch.view, attempt, "" if promise else epoch.node)

    return [_on(Ownership, "_fresh_epoch", fresh)]


def _local_knowledge() -> list[AbstractContextManager[Any]]:
    async def ask(*_: Any) -> list[Any]:
        return []

    return [_on(Ownership, "_ask_all", ask)]


def _some_members() -> list[AbstractContextManager[Any]]:
    original = Ownership._ask

    async def ask(self: Ownership, name: str, question: Any, view: Any) -> Any:
        try:
            return await original(self, name, question, view)
        except _Lost:
            return None

    return [_on(Ownership, "_ask", ask)]


def _any_quarantined() -> list[AbstractContextManager[Any]]:
    original = Ownership._standing

    def standing(self: Ownership, record: Any, promised: Epoch, view: View) -> Any:
        told = original(self, record, promised, view)
        return msgspec.structs.replace(told, in_sync=told.held)

    return [_on(Ownership, "_standing", standing)]


def _serve_before_push() -> list[AbstractContextManager[Any]]:
    original = Ownership._crown

    def crown(self: Ownership, writer: Any, group: bytes, record: Any, *rest: Any) -> None:
        original(self, writer, group, record, *rest)
        record.acked = record.version
        writer.put(group_key(group), write_record(record))

    return [_on(Ownership, "_crown", crown)]


def _grant_without_fence() -> list[AbstractContextManager[Any]]:
    original = Ownership._grant

    def grant(self: Ownership, sender: Any, claim: Any, turn: Any) -> Any:
        reply = original(self, sender, claim, turn)
        if isinstance(reply, Granted):
            with self._node.store.write(urgent=True) as writer:
                record = get_group(writer, claim.group)
                assert record is not None
                record.promise = record.epoch
                writer.put(group_key(claim.group), write_record(record))
        return reply

    return [_on(Ownership, "_grant", grant)]


def _serve_quarantined() -> list[AbstractContextManager[Any]]:
    def is_primary(self: Node, record: Any, view: Any) -> bool:
        return bool(record.epoch.node == self.me and self.joined(view) != NO_VIEW)

    return [_on(Node, "is_primary", is_primary)]


def _discard() -> list[AbstractContextManager[Any]]:
    original = World._rejoin

    def rejoin(self: World, host: Any, *, kept: bool = True) -> None:
        store = MemoryStore(host.memory).open()
        with store.write(urgent=True) as writer:
            for key, _ in list(writer.scan(GROUPS)):
                writer.delete(key)
        store.close()
        original(self, host, kept=kept)

    return [_on(World, "_rejoin", rejoin)]


def _amnesia() -> list[AbstractContextManager[Any]]:
    original = Memory.restart

    def restart(self: Memory, *, kept: bool = True, rebooted: bool = False) -> None:
        incarnation = self.incarnation
        original(self, kept=kept, rebooted=rebooted)
        self.incarnation = incarnation

    return [_on(Memory, "restart", restart)]


def _no_base_check() -> list[AbstractContextManager[Any]]:
    return [_on(copies, "fits", lambda _record, _push: True)]


def _version_alone() -> list[AbstractContextManager[Any]]:
    def fits(record: Any, push: Any) -> bool:
        return bool(push.full or (record and record.held and record.version >= push.base.version))

    return [
        _on(copies, "_on_line", lambda record, position: 0 < position.version <= record.version),
        _on(copies, "fits", fits),
    ]


def _last_writer_wins() -> list[AbstractContextManager[Any]]:
    return [_on(copies._Merge, "_overtaken", lambda *_: False)]


def _no_tombstones(of: str) -> Callable[[], list[AbstractContextManager[Any]]]:
    def patches() -> list[AbstractContextManager[Any]]:
        original = copies.content

        def content(*arguments: Any) -> Any:
            push = original(*arguments)
            if of == "elements":
                living = tuple(row for row in push.elements if row.value is not None)
                return msgspec.structs.replace(push, elements=living)
            rows = tuple(row for row in push.sessions if not row.destroyed)
            return msgspec.structs.replace(push, sessions=rows)

        return [_on(copies, "content", content)]

    return patches


def _trimmed() -> list[AbstractContextManager[Any]]:
    original = copies._on_line

    def on_line(record: Any, position: Any) -> bool:
        return original(msgspec.structs.replace(record, trimmed=0), position)

    return [_on(copies, "_on_line", on_line), _on(copies, "ELEMENT_TOMBSTONES", 2)]


def _read_locally() -> list[AbstractContextManager[Any]]:
    async def vouch(*_: Any) -> bool:
        return True

    return [_on(Replication, "vouch", vouch)]


def _all_at_once() -> list[AbstractContextManager[Any]]:
    async def wait(*_: Any) -> None:
        return

    return [_on(Turns, "_wait", wait)]


def _commit_wherever() -> list[AbstractContextManager[Any]]:
    original = StateManager.commit

    async def commit(self: StateManager, batch: Any, *, alone: bool = False, **told: Any) -> Any:
        return await original(self, batch, **told)

    return [_on(StateManager, "commit", commit)]


def _swept_tombstones() -> list[AbstractContextManager[Any]]:
    original = upkeep._is_over

    def is_over(session: Any, now: int) -> bool:
        return session.destroyed or original(session, now)

    return [_on(upkeep, "_is_over", is_over)]


def _not_here_is_gone() -> list[AbstractContextManager[Any]]:
    original = Ownership._acquire

    async def acquire(self: Ownership, group: bytes, *others: Any) -> Any:
        with self._node.store.read() as reader:
            record = get_group(reader, group)
        return None if record is None or not record.held else await original(self, group, *others)

    return [_on(Ownership, "_acquire", acquire)]


def _only_the_view() -> list[AbstractContextManager[Any]]:
    return [_on(Ownership, "_check_nowhere", lambda _self: None)]


def _no_delay() -> list[AbstractContextManager[Any]]:
    def gone(self: Delays) -> frozenset[str]:
        return frozenset(self._node.membership.away())

    return [_on(Delays, "gone_for_good", gone)]


def _safe_with_old_copies() -> list[AbstractContextManager[Any]]:
    def holders(record: Any, view: View, silent: Any = ()) -> tuple[str, ...]:
        return tuple(n for n in record.seats if view.member(n) and n not in silent)

    return [_on(redundancy, "living_holders", holders)]


def _words_for_ever() -> list[AbstractContextManager[Any]]:
    return [_on(delays, "_has_returned", lambda *_: False)]


def _words_to_nobody() -> list[AbstractContextManager[Any]]:
    return [_on(Delays, "_ignorant", lambda *_: [])]


def _dirty_reads() -> list[AbstractContextManager[Any]]:
    original = Ownership.serves

    def serves(self: Ownership, record: Any, view: Any) -> Any:
        record.acked = record.version
        return original(self, record, view)

    return [_on(Ownership, "serves", serves)]


def _sides_apart() -> list[AbstractContextManager[Any]]:
    return [_on(sides, "join", lambda *_: sides.Joined())]


def _older_is_a_side() -> list[AbstractContextManager[Any]]:
    return [
        _on(sides, "follows", lambda *_: False),
        _on(sides, "parting", lambda *_: 0),
    ]


def _told_too_early() -> list[AbstractContextManager[Any]]:
    async def at_once(_self: StateManager, _group: Any) -> None: ...

    return [_on(StateManager, "_end_surely", at_once)]


def _remembered_without_position() -> list[AbstractContextManager[Any]]:
    def elements(self: Readings, session: bytes, _position: Any) -> Any:
        kept = self._sessions.get(session)
        return None if kept is None else kept.elements

    return [_on(Readings, "elements", elements)]


def _no_floor() -> list[AbstractContextManager[Any]]:
    held, acquire = Ownership.held, Ownership.acquire

    def any_held(self: Ownership, group: bytes, _floor: Any) -> Any:
        return held(self, group, None)

    async def acquire_any(self: Ownership, group: bytes, _floor: Any, **others: Any) -> Any:
        return await acquire(self, group, None, **others)

    return [_on(Ownership, "held", any_held), _on(Ownership, "acquire", acquire_any)]


def _one_fate() -> list[AbstractContextManager[Any]]:
    return [_on(asyncio, "shield", lambda work: work)]


def _give_up_at_once() -> list[AbstractContextManager[Any]]:
    return [_on(Ownership, "_check_floor", lambda _self, _position, _floor: None)]


def _extend() -> list[AbstractContextManager[Any]]:
    original = copies._session_record

    def record(row: Any, now: int) -> Any:
        made = original(row, now)
        if not made.destroyed:
            made.deadline, made.lifetime = now + made.idle_timeout, 0
        return made

    return [_on(copies, "_session_record", record)]


def _sweep_early() -> list[AbstractContextManager[Any]]:
    return [_on(upkeep, "grace", lambda idle: -idle)]


def _walked_is_in_sync() -> list[AbstractContextManager[Any]]:
    original = Walking._keep

    def keep(self: Walking, writer: Any, push: Any, view: View) -> bool:
        kept = original(self, writer, push, view)
        record = get_group(writer, push.group)
        if kept and record is not None:
            record.synced = self._node.joined(view)
            writer.put(group_key(push.group), write_record(record))
        return kept

    return [_on(Walking, "_keep", keep)]


def _walk_over_anything() -> list[AbstractContextManager[Any]]:
    def keep(self: Walking, writer: Any, push: Any, view: View) -> bool:
        record = get_group(writer, push.group) or GroupRecord()
        synced = record.synced
        copies.accept(writer, record, push, self._node.clock.now(), synced)
        return True

    return [_on(Walking, "_keep", keep)]


def _step_of_some() -> list[AbstractContextManager[Any]]:
    original = Bulk._send_all

    async def send_all(self: Bulk, steps: Any, whom: str) -> Any:
        await original(self, steps, whom)
        return [], []

    return [_on(Bulk, "_send_all", send_all)]


def _out_for_another() -> list[AbstractContextManager[Any]]:
    original = Node.refusers

    class Everywhere(set[str]):
        """Whoever refused, whatever it holds."""

        def difference(self, *_: Any) -> Any:
            return self

    def refusers(self: Node) -> Any:
        return Everywhere(original(self))

    return [_on(Node, "refusers", refusers)]


def _without_lease() -> list[AbstractContextManager[Any]]:
    return [_on(SimulatedTopology, "lease_in", lambda _self, _reader: FOREVER)]


def _straight_only() -> list[AbstractContextManager[Any]]:
    return [_on(SimulatedPeers, "detour", lambda _self, _ways: None)]


def _majority_of_one() -> list[AbstractContextManager[Any]]:
    return [mock.patch.object(View, "majority", 1)]


def _nobody_absent() -> list[AbstractContextManager[Any]]:
    return [mock.patch.object(View, "voters", property(lambda self: self.electors))]


def _asked_is_handed_over() -> list[AbstractContextManager[Any]]:
    async def ask(self: Draining, target: str, some: Any, unwilling: Any) -> None:
        del target, unwilling
        self._given.update(dict.fromkeys(some))

    return [
        _on(Draining, "_ask", ask),
        _on(Draining, "_is_mine", lambda self, group, *_: group not in self._given),
    ]


def _only_what_it_led() -> list[AbstractContextManager[Any]]:
    original = Draining._is_mine

    def is_mine(self: Draining, group: bytes, record: Any, view: View) -> bool:
        return record.epoch.node == self._node.me and original(self, group, record, view)

    return [_on(Draining, "_is_mine", is_mine)]


def _only_to_backups() -> list[AbstractContextManager[Any]]:
    def target(self: Draining, group: bytes, record: Any, view: View) -> str:
        del group
        found = next(iter(self._node.valid_backups(record, view)), "")
        return found or self._node.me

    return [_on(Draining, "_target", target)]


def _copies_go_with_who_leaves() -> list[AbstractContextManager[Any]]:
    async def give(self: Draining, until: int) -> bool:
        del self, until
        return True

    return [_on(Draining, "give_copies_away", give)]


def _at_any_position() -> list[AbstractContextManager[Any]]:
    original = Drill._judge

    def judge(self: Drill, copy: Any, exam: Any) -> Any:
        if exam is not None:
            exam = msgspec.structs.replace(exam, position=copy.position)
        return original(self, copy, exam)

    return [_on(Drill, "_judge", judge)]


def _never_renewed() -> list[AbstractContextManager[Any]]:
    async def renew(*_: Any) -> bool:
        return False

    return [_on(Drill, "_renew", renew)]


def _from_anybody() -> list[AbstractContextManager[Any]]:
    def take(self: Drill, push: Any) -> bool:
        node = self._node
        with node.store.write() as writer:
            record = get_group(writer, push.group)
            assert record is not None
            joined = node.joined(node.view_in(writer))
            copies.accept(writer, record, push, node.clock.now(), joined)
        return True

    return [_on(Drill, "_take", take)]


def _moved_in_use() -> list[AbstractContextManager[Any]]:
    return [_on(rebalancing, "idle_size", lambda *_: 1)]


def _exchanged_at_once() -> list[AbstractContextManager[Any]]:
    original = Rebalancer._exchange

    def add(self: Rebalancer, record: Any, step: Any, view: View) -> bool:
        record.holders = (*record.holders, step.new)
        with mock.patch.object(Node, "valid_backups", lambda _self, found, _view: found.holders):
            return original(self, record, step, view)

    return [_on(Rebalancer, "_add", add)]


BUSY = Plan(engines=2, width=2, troubles="crash+restart", upkeep=True)
MOVES = Plan(nodes=4, troubles="crash+restart", kept=0.0, upkeep=True)
SHORT = Plan(engines=2, troubles="crash+restart", short=True, upkeep=True)
LATE = Plan(engines=2, width=2, troubles="weather+crash+restart", kept=1.0, late=0.05, requests=80)
STALE = Plan(width=3, troubles="expel", lossy=0.5, requests=90, reads="confirmed")
SERIAL = Plan(engines=2, width=3, troubles="crash+engine", concurrency="serialize", think=0.03)
OUSTED = Plan(width=3, troubles="pause+expel", requests=90, concurrency="serialize", think=0.03)
SWEPT = Plan(nodes=4, backups=2, troubles="crash+expel+cut", kept=1.0, upkeep=True, requests=80)
RULES: dict[str, Rule] = {
    "R1-acknowledge-first": Rule("acknowledge before replication", _acknowledge_first, anywhere),
    "R1-drop-silent": Rule("a primary drops a silent backup itself", _drop_silent, anywhere),
    "R1-give-up-first": Rule(
        "a copy is given up before its replacement exists",
        _give_up_first,
        scene(test_scenarios.test_a_copy_is_given_up_only_when_its_replacement_is_there),
        "directed",
    ),
    "R2-views-without-majority": Rule(
        "both sides of a partition form views",
        _views_without_majority,
        planned(Plan(nodes=5, backups=2, engines=2, troubles="split", requests=80)),
        "directed",
    ),
    "R3-no-fence": Rule(
        "neither fence nor order",
        _no_fence,
        scene(test_scenarios.test_what_an_earlier_primary_sent_and_comes_late_changes_nothing),
        "directed",
    ),
    "R3-grant-without-fence": Rule(
        "who hands a group over may go on committing", _grant_without_fence, anywhere
    ),
    "R3-epochs-reused": Rule(
        "epochs of failed attempts are used again, by anybody", _reuse_epochs, anywhere
    ),
    "R4-local-knowledge": Rule("promotion on local knowledge", _local_knowledge, anywhere),
    "R4-some-members": Rule("promotion though a member is silent", _some_members, anywhere),
    "R4a-any-quarantined": Rule(
        "promotion from any quarantined copy",
        _any_quarantined,
        scene(old_copy_without_a_route_cookie),
        "directed",
    ),
    "R5-serve-before-push": Rule(
        "serve before the push is acknowledged", _serve_before_push, anywhere
    ),
    "R6-serve-quarantined": Rule("serve what is in quarantine", _serve_quarantined, anywhere),
    "R6-discard": Rule("an excluded node discards its copies", _discard, anywhere),
    "R7-amnesia": Rule(
        "a lost store keeps its incarnation", _amnesia, scene(backup_without_memory), "directed"
    ),
    "R8-no-base-check": Rule("changes without base check", _no_base_check, anywhere),
    "R8-version-alone": Rule(
        "difference by version alone", _version_alone, scene(stray), "directed"
    ),
    "R8-element-tombstones": Rule(
        "no tombstones of elements", _no_tombstones("elements"), anywhere
    ),
    "R8-trimmed": Rule(
        "a difference across trimmed tombstones",
        _trimmed,
        planned(Plan(engines=2, troubles="crash+expel", kept=1.0, requests=100)),
        "directed",
    ),
    "R5-last-writer-wins": Rule(
        "a request's elements replace what others made of them", _last_writer_wins, anywhere
    ),
    "R9-local-as-confirmed": Rule(
        "local reads checked as linearizable", _read_locally, unaware, "directed"
    ),
    "R9-read-without-lease": Rule(
        "a node that was left out serves what it has",
        _without_lease,
        scene(test_quorum.test_a_primary_that_was_cut_off_serves_no_old_state),
        "directed",
    ),
    "R1-no-hop": Rule(
        "messages go straight or not at all",
        _straight_only,
        scene(test_quorum.test_a_primary_reaches_its_backup_by_one_hop),
        "directed",
    ),
    "R2-majority-of-one": Rule(
        "an elector alone decides a view",
        _majority_of_one,
        planned(Plan(nodes=5, backups=2, troubles="split", views="quorum", requests=80)),
        "directed",
    ),
    "R2-without-the-accepted-view": voted("vote without the accepted view"),
    "R2-electors-from-the-file": voted("electors from the file"),
    "R2a-proven-deaths-count": Rule(
        "proven deaths eat the majority",
        _nobody_absent,
        votes.test_proven_deaths_do_not_eat_the_majority,
        "directed",
    ),
    "R2a-silence-is-proof": voted("silence counts as proof of a death"),
    "R7-restarted-never-vote": voted("restarted electors never vote"),
    "R7a-forgotten-at-restart": voted("votes forgotten at restart"),
    "R7a-lost-count-as-none": voted("lost votes count as none"),
    "R7a-blank-never-count": voted("blank electors never count"),
    "R9-left-out-at-once": voted("a member is left out before its lease ended"),
    "R9-granted-to-the-left-out": voted("who is left out is told that it may serve"),
    "turns-all-at-once": Rule(
        "nobody waits for a turn", _all_at_once, planned(SERIAL), "directed"
    ),
    "turns-kept-for-ever": Rule(
        "a turn outlasts the loss of its group", _commit_wherever, planned(OUSTED), "directed"
    ),
    "R6-walked-is-in-sync": Rule(
        "what a walk brought counts as in sync",
        _walked_is_in_sync,
        scene(test_healing.test_walked_copies_are_not_counted_on),
        "directed",
    ),
    "R1-refused-another": Rule(
        "who had no room for one group loses its copies of others",
        _out_for_another,
        scene(
            test_mended.test_a_copy_stays_where_it_is_though_its_node_had_no_room_for_another_group
        ),
        "directed",
    ),
    "R1-step-of-some": Rule(
        "a step of many counts though a holder is silent",
        _step_of_some,
        scene(test_healing.test_a_step_counts_when_all_of_c_have_it),
        "directed",
    ),
    "R11-walk-over-anything": Rule(
        "a walk that comes late undoes a log-out",
        _walk_over_anything,
        scene(test_healing.test_a_log_out_is_not_undone_by_a_walk),
        "directed",
    ),
    "drill-at-any-position": Rule(
        "copies are compared at different positions", _at_any_position, planned(BUSY), "directed"
    ),
    "drill-never-renews": Rule(
        "a copy that rots is found and left as it is", _never_renewed, planned(BUSY), "directed"
    ),
    "drill-from-anybody": Rule(
        "a copy is renewed from a primary that was deposed",
        _from_anybody,
        scene(test_drill.test_content_of_a_deposed_primary_is_not_taken),
        "directed",
    ),
    "moves-in-use": Rule(
        "copies of sessions in use are moved", _moved_in_use, planned(MOVES), "directed"
    ),
    "moves-at-once": Rule(
        "a copy is exchanged before the new holder has it",
        _exchanged_at_once,
        scene(test_rebalancing.test_a_new_holder_that_dies_in_the_middle_leaves_the_group_whole),
        "directed",
    ),
    "R11-no-tombstones": Rule("no tombstones of sessions", _no_tombstones("sessions"), anywhere),
    "R11-swept-at-once": Rule(
        "tombstones are swept before their time", _swept_tombstones, planned(SWEPT), "directed"
    ),
    "R12-not-here-is-gone": Rule('"not here" answered as gone', _not_here_is_gone, anywhere),
    "R12-only-the-view": Rule(
        "gone after asking only the view",
        _only_the_view,
        scene(test_scenarios.test_gone_needs_the_word_of_everybody),
        "directed",
    ),
    "R13-dirty-reads": Rule(
        "an engine serves what is not acknowledged",
        _dirty_reads,
        scene(test_scenarios.test_a_sibling_never_serves_what_is_not_acknowledged),
        "directed",
    ),
    "R11-sides-apart": Rule(
        "of two sides that meet the newer history is taken whole, without the other's tombstones",
        _sides_apart,
        scene(partial(test_sides.test_a_log_out_wins_against_what_the_other_side_changed, "n1")),
        "directed",
    ),
    "R8-sides-merged": Rule(
        "what is older than the newest copy is taken for another side",
        _older_is_a_side,
        scene(test_sides.test_an_older_copy_is_no_other_side),
        "directed",
    ),
    "R13-told-too-early": Rule(
        "a request is told of a log-out that is not acknowledged",
        _told_too_early,
        scene(test_mended.test_nobody_is_told_of_an_end_that_may_yet_be_undone),
        "directed",
    ),
    "R13-remembered": Rule(
        "elements are remembered without their position", _remembered_without_position, anywhere
    ),
    "delay-none": Rule(
        "copies are made elsewhere at once", _no_delay, scene(returned_in_time), "directed"
    ),
    "safe-with-old-copies": Rule(
        "whoever has a seat counts as a copy", _safe_with_old_copies, scene(asks_first), "directed"
    ),
    "delay-words-for-ever": Rule(
        "a return does not end what an operator said", _words_for_ever, scene(held), "directed"
    ),
    "delay-words-to-nobody": Rule(
        "who joins does not learn what an operator said", _words_to_nobody, scene(held), "directed"
    ),
    "R16-no-floor": Rule(
        "the cookie's position is no floor",
        _no_floor,
        scene(test_scenarios.test_a_copy_below_the_cookie_is_refused),
        "directed",
    ),
    "R17-one-fate": Rule(
        "who hangs up ends what others wait for",
        _one_fate,
        scene(test_scenarios.test_a_cancelled_acquisition_goes_on_for_others),
        "directed",
    ),
    "R18-give-up-at-once": Rule(
        "a copy below the floor is adopted at once",
        _give_up_at_once,
        scene(test_scenarios.test_a_copy_below_the_cookie_is_refused),
        "directed",
    ),
    "drain-asked-is-done": Rule(
        "what others were asked to take counts as handed over",
        _asked_is_handed_over,
        scene(test_draining.test_a_pair_restarted_one_after_another_without_a_request_loses_nothing),
        "directed",
    ),
    "drain-only-to-backups": Rule(
        "a group without a backup is left where it is",
        _only_to_backups,
        scene(test_draining.test_a_group_without_a_backup_gets_one_first),
        "directed",
    ),
    "drain-only-what-it-led": Rule(
        "the last copy of what a dead node led goes along",
        _only_what_it_led,
        scene(test_draining.test_who_has_the_last_copy_hands_it_over),
        "directed",
    ),
    "drain-copies-not-replaced": Rule(
        "who leaves for good does not wait for copies elsewhere",
        _copies_go_with_who_leaves,
        scene(test_draining.test_a_backup_that_goes_for_good_is_replaced_without_any_delay),
        "directed",
    ),
    "lifetimes-extended": Rule("a failover extends lifetimes", _extend, planned(SHORT), "directed"),
    "lifetimes-swept-early": Rule(
        "sessions are swept before their deadline", _sweep_early, planned(SHORT), "directed"
    ),
}  # fmt: skip
