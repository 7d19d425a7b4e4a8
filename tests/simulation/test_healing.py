"""System 6, healing domain by domain: who copies what to whom, and what requests notice of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from unittest import mock

import pytest

from benchmarks import locking
from sessionha.errors import SessionUnavailable
from sessionha.identity import GroupID, Position, domain_of
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Batch,
    FindOld,
    Granted,
    Message,
    Push,
    Pushes,
    SessionChange,
    Walk,
    Walked,
)
from sessionha.state import domains, walking
from sessionha.state.healing import Healer
from sessionha.state.node import Options
from sessionha.state.records import GROUPS
from sessionha.state.replication import REFUSAL
from tests.simulation.histories import Plan, play
from tests.simulation.loop import run
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene, pushes_in, simulated
from tests.simulation.test_delay import Shop
from tests.simulation.world import Engine, Faults, World

AFTER = 5.0
ONE = Options(backups=1, heal_after=AFTER)
TWO = Options(backups=2, heal_after=AFTER)
SLOW = Options(backups=1, heal_after=AFTER, heal_rate=100_000)
BOTH_SLOW = Options(backups=2, heal_after=AFTER, heal_rate=100_000)
VALUE = "x" * 2_000

Seen = Callable[[str, str, Message], None]


def healer(scene: Scene, node: str) -> Healer:
    return scene.world.hosts[node].engines[0].upkeep.healer


async def heal(scene: Scene) -> int:
    """What the leaders of all nodes do next; how many groups that brought to their copies."""
    done = await asyncio.gather(*(healer(scene, host.name).heal() for host in scene.world.living))
    return sum(done)


async def half_way(scene: Scene, node: str) -> None:
    """Wait until the node has healed half of what it has to."""
    for _ in range(20_000):
        await asyncio.sleep(0.01)
        progress = healer(scene, node).progress
        if progress.groups_done * 2 >= progress.groups > 0:
            return
    raise AssertionError("never half-way")


def listen(scene: Scene, seen: Seen, *, lost: bool = False) -> None:
    """Let the scenario have every message on its way; `lost`: the network loses what it raises
    KeyError at."""

    def hears(source: str, target: str, message: Message) -> bool:
        try:
            seen(source, target, message)
        except KeyError:
            assert lost
            return True
        return False

    scene.world.held_back = hears


def trace(world: World) -> list[tuple[str, str, int]]:
    """What every node does to the lock and to the groups that it leads: (node, what, domain)."""
    found: list[tuple[str, str, int]] = []
    wrote, locked = world.wrote, dict[str, int]()

    def writes(engine: Engine, changes: dict[bytes, bytes | None]) -> None:
        name = engine.host.name
        for key, value in changes.items():
            if key == domains.LOCKED:
                if value is not None:
                    locked[name] = domains.read_lock(value).domain
                found.append((name, "release" if value is None else "lock", locked[name]))
            elif key.startswith(GROUPS) and len(key) == 1 + len(GROUP):
                record = engine.host.record(key[1:])
                if record is not None and record.epoch.node == name:
                    found.append((name, "store", domain_of(key[1:])))
        wrote(engine, changes)

    world.wrote = writes  # type: ignore[method-assign]
    return found


# --- what is healed ------------------------------------------------------------------------------


@simulated(options=ONE)
async def test_everything_has_its_copies_again_without_a_request(scene: Scene) -> None:
    """System 6 (a): kill one of three, send no requests: all back to full copies; kill a second: 0
    lost."""
    shop = Shop(scene)
    await shop.create(300)
    shop.begin()
    await shop.crash("n1")
    await asyncio.sleep(AFTER + 5)
    assert set(shop.placement().values()) == {frozenset({"n2", "n3"})}
    await shop.crash("n2")
    await shop.check_nothing_lost()
    progress = healer(scene, "n3").progress
    assert progress.groups_done == progress.groups


@simulated(options=ONE)
async def test_a_domain_is_locked_stored_and_released_before_the_next(scene: Scene) -> None:
    """System 6 (c): the trace shows lock, store, release for each domain, never all."""
    shop = Shop(scene)
    await shop.create(300)
    before = shop.placement()
    await shop.crash("n1")
    await asyncio.sleep(AFTER + 1)
    done = trace(scene.world)
    theirs = sum("n1" in copies for copies in before.values())
    assert await heal(scene) == theirs
    for node in ("n2", "n3"):
        mine = [(what, domain) for name, what, domain in done if name == node]
        begun: list[int] = []
        while mine:
            what, domain = mine.pop(0)
            if what == "store":
                continue  # promoted, which needs no lock: nobody commits before it is done
            assert what == "lock"
            begun.append(domain)
            while mine[0] != ("release", domain):
                assert mine.pop(0) == ("store", domain)
            mine.pop(0)
        assert len(begun) == len(set(begun)), "each domain once, one after the other"
        assert len(begun) > 50


@simulated(options=ONE)
async def test_the_sessions_of_a_group_stay_together(scene: Scene) -> None:
    """System 6 (i): colocation is intact afterwards: both sessions are where the group is."""
    await scene.create("n1", a="1")
    cart = SessionChange(b"\x02" * 16, create=LIFETIMES, puts=(("c", "value", b"2"),))
    await scene.at("n1").commit(Batch(GROUP, (cart,)), fresh=False)
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    assert await heal(scene) == 1
    hosts = scene.world.hosts
    assert {row[0] for row in hosts["n3"].content(GROUP)} == {KEY, b"\x02" * 16}
    assert hosts["n3"].content(GROUP) == hosts["n1"].content(GROUP)
    await scene.crash("n1")
    assert await scene.see("n3") == {"a": "1"}


@simulated(nodes=5, options=TWO)
async def test_two_failures_within_a_second_are_both_healed_and_nothing_twice(
    scene: Scene,
) -> None:
    """System 6 (h): two failures within a second with two backups: both heal, no domain twice."""
    shop = Shop(scene)
    await shop.create(200)
    shop.begin()
    walked: Counter[tuple[str, GroupID]] = Counter()

    def count(_: str, target: str, message: Message) -> None:
        if isinstance(message, Walk):
            walked.update((target, push.group) for push in message.pushes)

    listen(scene, count)
    await shop.crash("n1")
    await asyncio.sleep(0.7)
    await shop.crash("n2")
    await asyncio.sleep(AFTER + 5)
    assert all(len(copies) == 3 for copies in shop.placement().values())
    assert set(walked.values()) == {1}
    await shop.check_nothing_lost()


# --- requests meanwhile --------------------------------------------------------------------------


async def _longest(scene: Scene, shop: Shop, group: GroupID) -> float:
    """The longest wait of requests that write to one group while everything else is healed."""
    healing = scene.start(heal(scene))
    longest = 0.0
    while not healing.done():
        began = scene.world.now
        await shop.write([group], VALUE)
        longest = max(longest, scene.world.now - began)
        await asyncio.sleep(0.005)
    await healing
    return longest


async def _healing(*, one_lock: bool, asked: str) -> tuple[float, float]:
    """The longest wait of a request, and how long healing took."""
    world = World(1, 3, faults=Faults(), options=SLOW)
    scene, shop = Scene(world), Shop(Scene(world))
    await shop.create(120, "n2", value=VALUE)
    await shop.crash("n1")
    await asyncio.sleep(AFTER + 1)
    theirs = [g for g in shop.written if ("n1" in shop.held(g)["n2"].holders) == (asked != "other")]
    began = world.now
    with locking.one_lock() if one_lock else nullcontext():
        longest = await _longest(scene, shop, theirs[len(theirs) // 2])
    took = world.now - began
    world.stop()
    return longest, took


def test_requests_wait_for_the_step_of_their_domain_and_no_others() -> None:
    """System 6 (b): while much is healed, requests to other domains are as fast as ever, and one to
    the domain under copy waits for less than a domain takes; one lock for all shows the stall."""
    elsewhere, took = run(_healing(one_lock=False, asked="other"))
    inside, _ = run(_healing(one_lock=False, asked="healed"))
    stalled, whole = run(_healing(one_lock=True, asked="other"))
    assert took > 1
    assert elsewhere < 0.02, "a round to the backups, as without healing"
    assert inside < 0.05
    assert stalled > whole / 2


@simulated(options=ONE)
async def test_a_write_between_walk_and_step_survives_both(scene: Scene) -> None:
    """System 6 (d): a write to a domain that is not locked yet survives the later copy; seams: an
    update that arrives before the bulk copy is kept."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    writes: list[asyncio.Future[object]] = []
    late: list[Walk] = []

    def hears(source: str, target: str, message: Message) -> None:
        if isinstance(message, Walk) and not late:
            late.append(message)
            writes.append(scene.start(scene.write("n1", a="2")))

    listen(scene, hears)
    assert await heal(scene) == 1
    await asyncio.gather(*writes)
    hosts = scene.world.hosts
    assert hosts["n3"].content(GROUP) == hosts["n1"].content(GROUP)
    answer = scene.at("n3").walking.on_walk(Sender("n1", hosts["n1"].incarnation), late[0])
    assert answer == Walked((False,))
    await scene.crash("n1")
    assert await scene.see("n3") == {"a": "2"}


@simulated(options=ONE)
async def test_a_write_to_a_locked_domain_waits_and_succeeds(scene: Scene) -> None:
    """System 6 (e): here for half a second, because a step is lost; the wait is measured."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    writes: list[asyncio.Future[object]] = []
    began = scene.world.now

    def hears(source: str, target: str, message: Message) -> None:
        if isinstance(message, Pushes) and not writes:
            writes.append(scene.start(scene.write("n1", b="2")))
            raise KeyError

    listen(scene, hears, lost=True)
    await heal(scene)
    receipt = await asyncio.gather(*writes)
    assert scene.world.now - began > 0.4
    counters = scene.at("n1").node.counters
    assert counters.domain_waits == 1
    assert counters.domain_waited > 400
    assert receipt
    await heal(scene)
    await scene.crash("n1")
    assert await scene.see("n3") == {"a": "1", "b": "2"}


@pytest.mark.parametrize("seed", range(3))
def test_the_lock_protects_nothing(seed: int) -> None:
    """It schedules: when nobody heeds it, and every step meets commits, nothing is wrong either."""
    plan = Plan(
        nodes=4, backups=2, engines=2, width=2, troubles="crash+restart", upkeep=True, requests=60
    )
    with mock.patch.object(domains, "is_locked", return_value=False):
        play(seed, plan)


@simulated(nodes=5, options=TWO)
async def test_what_has_one_copy_left_is_healed_first(scene: Scene) -> None:
    """System 7: domains with groups at risk come before those with groups that lack one copy."""
    shop = Shop(scene)
    await shop.create(256)
    before = shop.placement()
    await shop.crash("n1", "n2")
    await asyncio.sleep(AFTER + 1)
    done = trace(scene.world)
    await heal(scene)
    for node in ("n3", "n4", "n5"):
        order = [domain for name, what, domain in done if (name, what) == (node, "lock")]
        left = [len(before[bytes([domain, 0]) + bytes(10)] - {"n1", "n2"}) for domain in order]
        assert left == sorted(left)
        assert set(left) == {1, 2}


@simulated(options=ONE)
async def test_a_lock_ends_by_itself(scene: Scene) -> None:
    """The leader that took it may have died: a commit waits for a second at most."""
    await scene.create("n1", a="1")
    node = scene.at("n1").node
    with node.store.write() as writer:
        domains.lock(writer, domain_of(GROUP), 7, node.clock.now())
    began = scene.world.now
    await scene.put("n1", a="2")
    assert 0.9 < scene.world.now - began < 1.1


async def _undone(scene: Scene, gone: Callable[[], Awaitable[object]]) -> None:
    """n3 gets a walk that was before `gone`, a step, and the walk again, late; n1 dies."""
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    writes: list[asyncio.Future[object]] = []
    late: list[Walk] = []

    def hears(source: str, target: str, message: Message) -> None:
        if isinstance(message, Walk) and not late:
            late.append(message)
            writes.append(scene.start(gone()))

    listen(scene, hears)
    assert await heal(scene) == 1
    await asyncio.gather(*writes)
    scene.at("n3").walking.on_walk(Sender("n1", scene.world.hosts["n1"].incarnation), late[0])
    await scene.crash("n1")


@simulated(options=ONE)
async def test_a_delete_is_not_undone_by_a_walk(scene: Scene) -> None:
    """System 6 (f): neither by the walk that was before it, nor by one that comes late."""
    await scene.create("n1", a="1", b="2")
    await _undone(scene, lambda: scene.delete("n1", "b"))
    assert await scene.see("n3") == {"a": "1"}


@simulated(options=ONE)
async def test_a_log_out_is_not_undone_by_a_walk(scene: Scene) -> None:
    """System 6 (f), G6, R11: a tombstone wins."""
    await scene.create("n1", a="1")
    await _undone(scene, lambda: scene.log_out("n1"))
    assert await scene.see("n3") is None


# --- interruptions -------------------------------------------------------------------------------


@simulated(nodes=4, options=BOTH_SLOW)
async def test_when_a_source_dies_half_way_others_go_on(scene: Scene) -> None:
    """System 6 (g): source killed at 50 %: completes from another copy."""
    shop = Shop(scene)
    await shop.create(120, value=VALUE)
    shop.begin()
    await shop.crash("n1")
    await asyncio.sleep(AFTER)
    await half_way(scene, "n2")
    await shop.crash("n2")
    await asyncio.sleep(AFTER + 20)
    assert set(shop.placement().values()) == {frozenset({"n3", "n4"})}
    await shop.check_nothing_lost()


@simulated(nodes=4, options=SLOW)
async def test_when_a_target_dies_half_way_another_one_is_chosen(scene: Scene) -> None:
    """System 6 (g): target killed: another target, no leftovers, also not when it returns."""
    shop = Shop(scene)
    await shop.create(120, "n1", value=VALUE)
    shop.begin()
    await shop.crash("n2")
    await asyncio.sleep(AFTER)
    await half_way(scene, "n1")
    await shop.crash("n3")
    await asyncio.sleep(AFTER + 20)
    assert set(shop.placement().values()) == {frozenset({"n1", "n4"})}
    scene.world.restart("n3", kept=True)
    scene.world.restart("n2", kept=True)
    await asyncio.sleep(20)
    assert all(len(copies) == 2 for copies in shop.placement().values())
    assert all(len(shop.held(group)) == 2 for group in shop.written), "nothing in quarantine"
    await shop.check_nothing_lost()


@simulated(options=ONE)
async def test_who_returns_gives_up_what_others_have_by_now_and_is_asked_seldom(
    scene: Scene,
) -> None:
    """No leftovers, however many they are; a round trip for each of the 256 domains would keep a
    busy node from being ready for half a minute."""
    shop = Shop(scene)
    await shop.create(100, "n1")
    theirs = sum("n2" in copies for copies in shop.placement().values())
    shop.begin()
    await shop.crash("n2")
    await asyncio.sleep(AFTER + 10)
    asked: Counter[tuple[str, str]] = Counter()

    def count(source: str, target: str, message: Message) -> None:
        if isinstance(message, FindOld):
            asked[source, target] += 1

    listen(scene, count)
    with mock.patch.object(walking, "SEARCHED", 32):
        scene.world.restart("n2", kept=True)
        await asyncio.sleep(10)
    assert all(len(shop.held(group)) == 2 for group in shop.written)
    batches = theirs // 32 + 1
    assert asked == {("n1", "n2"): batches, ("n3", "n2"): batches}
    await shop.check_nothing_lost()


@simulated(options=SLOW)
async def test_a_copy_that_no_step_followed_is_dropped(scene: Scene) -> None:
    """No leftovers; and a step that comes all the same brings everything."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    listen(scene, _losing(Pushes), lost=True)
    await heal(scene)
    scene.world.held_back = None
    sweeper = scene.world.hosts["n3"].engines[0].upkeep
    await sweeper.sweep()
    assert set(scene.copies()) == {"n1", "n3"}
    await asyncio.sleep(walking.LEFT_OVER / 1000)
    await sweeper.sweep()
    assert set(scene.copies()) == {"n1"}
    assert await heal(scene) == 1
    assert set(scene.copies()) == {"n1", "n3"}


@simulated(engines=2, options=SLOW)
async def test_when_the_leading_engine_dies_its_sibling_goes_on(scene: Scene) -> None:
    """System 6 (g), inside a node: what is done is not done again, and its lock stops nobody."""
    shop = Shop(scene)
    await shop.create(120, "n2", value=VALUE)
    shop.begin()
    walked: Counter[GroupID] = Counter()

    def count(_: str, target: str, message: Message) -> None:
        if isinstance(message, Walk):
            walked.update(push.group for push in message.pushes)

    await shop.crash("n1")
    listen(scene, count)
    await asyncio.sleep(AFTER)
    leader = next(
        engine
        for engine in scene.world.hosts["n2"].engines
        if scene.world.hosts["n2"].memory.leader == engine.slot
    )
    for _ in range(10_000):
        await asyncio.sleep(0.01)
        if leader.upkeep.healer.progress.groups_done > 10:
            break
    scene.world.kill_engine(leader)
    await asyncio.sleep(20)
    assert all(len(copies) == 2 for copies in shop.placement().values())
    assert walked.total() <= len(walked) + 2, "at most the domain that was under way"
    await shop.check_nothing_lost()


@simulated(options=SLOW)
async def test_a_view_change_interrupts_and_nothing_is_done_twice(scene: Scene) -> None:
    """What is left is found again, in the new view: here the absent node returns half-way, and gets
    what nobody has taken its place for (system 7 (e))."""
    shop = Shop(scene)
    await shop.create(120, "n1", value=VALUE)
    shop.begin()
    await shop.crash("n2")
    await asyncio.sleep(AFTER)
    await half_way(scene, "n1")
    done = shop.in_sync_at("n3")  # a step may be on its way just now
    assert 0 < len(done) < 120
    scene.world.restart("n2", kept=True)
    await asyncio.sleep(30)
    placed = shop.placement()
    assert all(len(copies) == 2 for copies in placed.values())
    assert {group for group, copies in placed.items() if "n2" in copies}
    assert done <= {group for group, copies in placed.items() if "n3" in copies}
    await shop.check_nothing_lost()


# --- what makes it cheap, and safe ---------------------------------------------------------------


@simulated(options=ONE)
async def test_a_domain_that_is_as_it_was_costs_no_content(scene: Scene) -> None:
    """System 7 (3): who returns with its data is asked for digests, and gets no element."""
    shop = Shop(scene)
    await shop.create(300, "n1")
    pushed = scene.overhear_pushes("n2")
    await scene.exclude("n2")
    await asyncio.sleep(1)
    scene.world.resume("n2")
    await scene.members("n2")
    assert await heal(scene) > 100
    assert not any(push.elements for push in pushed)
    assert all(len(copies) == 2 for copies in shop.placement().values())


@simulated(options=ONE)
async def test_walked_copies_are_not_counted_on(scene: Scene) -> None:
    """R6, R10: a copy that only a walk brought is no copy in sync, whatever it has."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    listen(scene, _losing(Pushes, Push), lost=True)
    await heal(scene)
    assert set(scene.copies()) == {"n1", "n3"}
    assert scene.copies()["n1"] > scene.copies()["n3"]
    await scene.crash("n1")
    scene.cookie = None  # as of a client that has lost its route cookie (R4a)
    with pytest.raises(SessionUnavailable):
        await scene.see("n3")


@simulated(nodes=4, options=TWO)
async def test_a_step_counts_when_all_of_c_have_it(scene: Scene) -> None:
    """R1: as long as one of them is silent, the group is not healed, and is looked at again."""
    await scene.create("n1", a="1")
    away, silent = (name for name in scene.copies() if name != "n1")
    await scene.crash(away)
    await asyncio.sleep(AFTER + 1)
    [new] = {"n1", "n2", "n3", "n4"} - {"n1", away, silent}
    listen(scene, _losing(Pushes, Push), lost=True)
    await heal(scene)
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert record.acked < record.version
    scene.world.held_back = None
    assert await heal(scene) == 1
    assert set(scene.copies()) == {"n1", silent, new}
    await scene.crash("n1", silent)
    assert await scene.see(new) == {"a": "1"}


@simulated(options=ONE)
async def test_only_what_all_of_c_have_is_walked(scene: Scene) -> None:
    """A copy beyond C must not be ahead of C: it would be newer than all that is in sync."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    listen(scene, _losing(Push), lost=True)
    write = scene.start(scene.write("n1", a="2"))
    await asyncio.sleep(0.01)
    state = scene.at("n1")
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert record.acked < record.version
    pushes, _ = state.walking._read([GROUP], dict[GroupID, Position]())
    assert pushes == []
    write.cancel()


@simulated(options=ONE)
async def test_who_had_no_room_is_asked_again(scene: Scene) -> None:
    """System 6: capacity is honoured, and nothing waits for another change of the view."""
    await scene.create("n1", a="1")
    memory = scene.world.hosts["n3"].memory
    size, memory.size = memory.size, 1
    await scene.crash("n2")
    await asyncio.sleep(AFTER + 1)
    await heal(scene)
    await heal(scene)
    assert set(scene.copies()) == {"n1"}
    memory.size = size
    assert await heal(scene) == 0
    await asyncio.sleep(REFUSAL / 1000)
    assert await heal(scene) == 1
    assert set(scene.copies()) == {"n1", "n3"}


def _losing(*kinds: type[Message]) -> Seen:
    def hears(source: str, target: str, message: Message) -> None:
        if isinstance(message, kinds) and pushes_in(message):
            raise KeyError

    return hears


# --- what requests and other workers left ---------------------------------------------------------


async def give_up_half_way(scene: Scene, claimant: str, how: str) -> None:
    """A member is promised the group of a request, and does not take it: it has no room, or its
    worker is killed with the grant on its way."""
    host = scene.world.hosts[claimant]
    if how == "no room":
        size, host.memory.size = host.memory.size, host.memory.used + 2_000
        with pytest.raises(SessionUnavailable):
            await scene.see(claimant)
        host.memory.size = size
    else:
        [worker] = [each for each in host.engines if not each.state.node.store.try_lead()]
        scene.lose(Granted, "n1", claimant, times=1)
        request = scene.start(scene.see(claimant, host.engines.index(worker)))
        await asyncio.sleep(0.15)
        scene.world.kill_engine(worker)
        request.cancel()
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert (record.epoch.node, record.promise.node) == ("n1", claimant)


@pytest.mark.parametrize("how", ["no room", "killed"])
def test_a_group_whose_claimant_gave_up_is_healed_all_the_same(how: str) -> None:
    """System 6, 1st: nobody leads it, and no request asks for it."""

    @simulated(nodes=4, engines=2, options=ONE)
    async def scenario(scene: Scene) -> None:
        Shop(scene).begin()
        receipt = await scene.create("n1", a="1" * 5_000)
        backup = receipt.holders[1]
        await asyncio.sleep(1)
        await give_up_half_way(scene, min({"n2", "n3", "n4"} - {backup}), how)
        await scene.crash(backup)
        await asyncio.sleep(AFTER + 10)
        assert len(scene.copies()) == 2

    scenario()


async def lose_a_copy(scene: Scene, size: int, engine: int = 0) -> None:
    """n2 has no room for a change, so the group of n1 goes on without it; then n2 has room."""
    memory = scene.world.hosts["n2"].memory
    before, memory.size = memory.size, int(memory.used / 0.99)
    receipt = await scene.write("n1", engine=engine, a="2" * size)
    assert receipt.copies == 0
    memory.size = before


@simulated(nodes=2, engines=2, options=ONE)
async def test_a_copy_that_a_worker_lost_is_made_again_by_the_one_that_leads(scene: Scene) -> None:
    """Only that one heals, and only the other one knows."""
    Shop(scene).begin()
    await scene.create("n1", a="1")
    await asyncio.sleep(2)
    engines = scene.world.hosts["n1"].engines
    [worker] = [engine for engine in engines if not engine.state.node.store.try_lead()]
    await lose_a_copy(scene, 100, engines.index(worker))
    await asyncio.sleep(REFUSAL / 1000 + 15)
    record = scene.world.hosts["n2"].record(GROUP)
    assert record is not None
    assert scene.at("n2").node.is_in_sync(record, scene.world.truth)


@simulated(options=Options(backups=2, heal_after=AFTER, heal_rate=5_000, rebalance=0, drill=0))
async def test_what_was_passed_over_is_looked_at_again_however_long_the_healing_takes(
    scene: Scene,
) -> None:
    """Longer than a node that had no room is left alone."""
    shop = Shop(scene)
    await shop.create(60, "n1", value=VALUE)
    await scene.create("n1", a="1")
    await shop.crash("n3")
    shop.begin()
    await asyncio.sleep(1)
    await lose_a_copy(scene, 3_000)
    await scene.restart("n3", kept=False)
    await asyncio.sleep(REFUSAL / 1000)
    assert healer(scene, "n1").progress.domain is not None, "it goes on"
    await asyncio.sleep(60)
    assert all(len(copies) == 3 for copies in shop.placement().values())
    assert scene.copies().keys() == {"n1", "n2", "n3"}


@simulated(nodes=2, options=ONE)
async def test_what_nobody_had_room_for_is_not_called_healed(scene: Scene) -> None:
    """Nor is it under way for ever: it is counted apart, and looked at again."""
    Shop(scene).begin()
    scene.world.hosts["n2"].memory.size = 1
    await scene.create("n1", a="1")
    await asyncio.sleep(30)
    assert scene.copies().keys() == {"n1"}
    assert scene.at("n1").node.counters.repaired == 0
    progress = healer(scene, "n1").progress
    assert (progress.groups, progress.groups_done, progress.passed_over) == (1, 0, 1)
