"""System 7, delayed healing: what becomes of copies while a node is away, and when it returns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import pytest

from sessionha.identity import GroupID, Position, ViewID
from sessionha.peer.messages import Batch, Message, Push, SessionChange, Word
from sessionha.state.base import Unsettled
from sessionha.state.delays import Delay, _has_returned
from sessionha.state.node import Options
from sessionha.state.records import (
    ElementRecord,
    GroupRecord,
    element_key,
    get_element,
    groups,
    write_record,
)
from sessionha.store.memory import MemoryReader, MemoryStore
from sessionha.view import Member, View
from tests.simulation.histories import agreed
from tests.simulation.loop import run
from tests.simulation.scenes import KEY, LIFETIMES, Scene, simulated
from tests.simulation.world import Faults, World

DELAY = 10.0
TICK = 0.5
"""Seconds in which every leader has looked at least once (`Upkeep` looks every 0.25 s)."""

THREE = Options(backups=1, heal_after=DELAY, rebalance=0, drill=0)
FIVE = Options(backups=2, heal_after=DELAY, rebalance=0, drill=0)
"""No copy moves for balance: what is looked at is where delays and returns bring them."""


@dataclass
class Shop:
    """Many groups in one world, whose nodes look after their stores as in production."""

    scene: Scene
    written: dict[GroupID, str] = field(default_factory=dict)
    """What each group's session has, as its browser knows."""
    cookies: dict[GroupID, Position] = field(default_factory=dict)
    past: Counter[str] = field(default_factory=Counter)
    """What engines that are dead had counted."""

    @property
    def world(self) -> World:
        return self.scene.world

    def begin(self) -> None:
        """Let every node do unasked what it does in production."""
        self.world.upkeep = True
        for host in self.world.hosts.values():
            for engine in host.engines:
                self.world.own(engine, self.world._look_after(engine))

    async def create(self, count: int, *nodes: str, value: str = "1") -> None:
        """So many groups, begun by these nodes in turn (none: by all)."""
        names = nodes or tuple(self.world.hosts)
        for number in range(count):
            group = bytes([number % 256, number // 256]) + bytes(10)
            change = SessionChange(KEY, create=LIFETIMES, puts=(("a", "value", value.encode()),))
            state = self.scene.at(names[number % len(names)])
            receipt = await state.commit(Batch(group, (change,)), fresh=True)
            self.written[group], self.cookies[group] = value, receipt.position

    async def write(self, some: Iterable[GroupID], value: str) -> None:
        """A request for each, at a node that a router would choose."""
        for group in some:
            state = self.scene.at(self.route(group))
            assert await state.acquire(group, self.cookies[group]) is not None
            change = SessionChange(KEY, puts=(("a", "value", value.encode()),))
            receipt = await state.commit(Batch(group, (change,)), fresh=False)
            self.written[group], self.cookies[group] = value, receipt.position

    def route(self, group: GroupID) -> str:
        """The first living holder, the primary before its backups."""
        newest = max(self.held(group).values(), key=lambda record: record.position)
        living = [host.name for host in self.world.living]
        return next(name for name in newest.holders if name in living)

    async def read(self, node: str, group: GroupID) -> str | None:
        state = self.scene.at(node)
        while True:
            if await state.acquire(group, self.cookies[group]) is None:
                return None
            try:
                loaded = state.load(group, KEY, self.cookies[group])
            except Unsettled:
                continue
            return None if loaded is None else loaded.elements["a"][1].decode()

    async def check_nothing_lost(self) -> None:
        """Every browser finds what it was last told."""
        for group, value in self.written.items():
            assert await self.read(self.route(group), group) == value

    def held(self, group: GroupID) -> dict[str, GroupRecord]:
        """Every copy on a living node, in sync or not."""
        found = {host.name: host.record(group) for host in self.world.living}
        return {name: record for name, record in found.items() if record and record.held}

    def in_sync_at(self, node: str) -> set[GroupID]:
        """The groups of which a living node has a copy that is in sync."""
        state, truth = self.scene.at(node).node, self.world.truth
        found = {group: self.held(group).get(node) for group in self.written}
        return {group for group, copy in found.items() if copy and state.is_in_sync(copy, truth)}

    def placement(self) -> dict[GroupID, frozenset[str]]:
        """Who has copies that are in sync; C of each of them must say the same."""
        found = {}
        living = [host.name for host in self.world.living]
        for group in self.written:
            copies = {
                name: record
                for name, record in self.held(group).items()
                if self.scene.at(name).node.is_in_sync(record, self.world.truth)
            }
            for record in copies.values():
                assert {*record.holders} & {*living} == {*copies}, "one C, and nobody outside of it"
                assert record.holders[0] == record.epoch.node
            contents = [self.world.hosts[name].content(group) for name in copies]
            assert all(content == contents[0] for content in contents)
            found[group] = frozenset(copies)
        return found

    def load(self) -> Counter[str]:
        """How many copies each living node holds, whatever they are worth."""
        return Counter(name for group in self.written for name in self.held(group))

    def of(self, node: str) -> list[GroupID]:
        """The groups of which the node has a copy."""
        found = []
        with MemoryReader(self.world.hosts[node].memory) as reader:
            found = [group for group, record in groups(reader) if record.held]
        return found

    def count(self, name: str) -> int:
        """A counter of the state manager, over all nodes and all their lives."""
        living = (engine for host in self.world.living for engine in host.engines)
        counts = (Counter(asdict(engine.state.node.counters)) for engine in living)
        return self.past[name] + sum(each[name] for each in counts)

    async def crash(self, *nodes: str) -> None:
        for node in nodes:
            for engine in self.world.hosts[node].engines:
                self.past.update(asdict(engine.state.node.counters))
        await self.scene.crash(*nodes)

    async def quiet(self) -> None:
        """Wait until nothing moves any more."""
        before = -1
        while len(self.world.lines) != before:
            before = len(self.world.lines)
            await asyncio.sleep(2 * TICK)


@simulated(nodes=5, options=FIVE)
async def test_who_is_back_in_time_keeps_its_copies_and_nobody_else_gets_any(scene: Scene) -> None:
    """System 7 (a): away for 4 s of a delay of 10 s: no copy is made on a third node, what was
    written has one temporary holder meanwhile, and in the end all is where it was, and newest."""
    shop = Shop(scene)
    await shop.create(40)
    shop.begin()
    before = shop.placement()
    theirs = [group for group in shop.of("n2") if shop.route(group) != "n2"][:6]
    await shop.crash("n2")
    await shop.write(theirs, "2")
    await shop.write(theirs, "3")
    assert shop.count("replaced") == len(theirs), "one for each group, however often it is written"
    assert all(len(copies) == 3 for group, copies in shop.placement().items() if group in theirs)
    await asyncio.sleep(4)
    await scene.restart("n2")
    await shop.quiet()
    assert shop.placement() == before
    assert shop.load() == Counter(name for copies in before.values() for name in copies)
    assert shop.count("healed") == 0
    assert shop.count("replaced") == len(theirs)
    assert shop.count("refilled") == sum("n2" in copies for copies in before.values())
    await shop.check_nothing_lost()


@simulated(nodes=4, options=THREE)
async def test_copies_are_made_elsewhere_when_the_delay_ends_and_not_before(scene: Scene) -> None:
    """System 7 (b): not back: copying starts at 10 ± 0.5 s after the failed event."""
    shop = Shop(scene)
    await shop.create(40)
    shop.begin()
    theirs = shop.of("n2")
    await shop.crash("n2")
    failed = scene.world.now
    while scene.world.now < failed + DELAY - TICK:
        assert shop.count("healed") == 0
        [delay] = scene.at("n1").delays.running()
        assert delay.node == "n2"
        assert delay.left is not None
        assert 0 <= DELAY - delay.left / 1000 - (scene.world.now - failed) < 0.2
        await asyncio.sleep(TICK)
    await asyncio.sleep(2 * TICK)
    assert shop.count("healed") > 0
    await shop.quiet()
    assert shop.count("healed") == len(theirs)
    assert all(len(copies) == 2 for copies in shop.placement().values())
    await shop.check_nothing_lost()


@simulated(options=THREE)
async def test_who_was_cut_off_gets_only_what_changed(scene: Scene) -> None:
    """System 7 (c): isolated for 4 s with its data kept, 1 % changed: about that is moved."""
    shop = Shop(scene)
    await shop.create(300, "n1", value="x" * 100)
    shop.begin()
    theirs = shop.of("n2")
    changed = theirs[: len(theirs) // 100 + 1]
    pushed = scene.overhear_pushes("n2")
    await scene.exclude("n2")
    await asyncio.sleep(4)
    await shop.write(changed, "y" * 100)
    pushed.clear()
    scene.world.resume("n2")
    await scene.members("n2")
    await shop.quiet()
    moved = sum(len(row.value or b"") for push in pushed for row in push.elements)
    assert 100 * len(changed) <= moved <= 110 * len(changed)
    assert not any(push.full for push in pushed)
    assert set(shop.of("n2")) == set(theirs)
    await shop.check_nothing_lost()


@simulated(options=THREE)
async def test_who_lost_its_data_is_filled_and_serves_nothing_before(scene: Scene) -> None:
    """System 7 (d): restarted without data: nothing stale and nothing empty is served by it, and it
    gets its own copies, not others."""
    shop = Shop(scene)
    await shop.create(30)
    shop.begin()
    before = shop.placement()
    await shop.crash("n2")
    await shop.write(shop.of("n1"), "2")
    await scene.restart("n2", kept=False)
    for group, value in shop.written.items():
        if "n2" in before[group]:
            assert await shop.read("n2", group) == value
    await shop.quiet()
    after = shop.placement()
    assert {group for group in after if "n2" in after[group]} == {
        group for group in before if "n2" in before[group]
    }
    assert shop.count("healed") == 0


@simulated(nodes=3, options=replace(THREE, drill=50))
async def test_who_returns_with_damaged_copies_gets_these_again_and_no_others(scene: Scene) -> None:
    """System 7, the third: partly corrupt: values that changed while a node was down are found by
    the drill, and their groups fetched whole; the others stay, and no third node gets anything."""
    shop = Shop(scene)
    await shop.create(60)
    shop.begin()
    before = shop.placement()
    damaged = shop.of("n2")[::8]
    await shop.crash("n2")
    store = MemoryStore(scene.world.hosts["n2"].memory).open()
    with store.write() as writer:
        for group in damaged:
            element = get_element(writer, group, KEY, "a")
            assert element is not None
            row = ElementRecord(element.version, element.manager, b"7")
            writer.put(element_key(group, KEY, "a"), write_record(row))
    store.close()
    await asyncio.sleep(2)
    await scene.restart("n2")
    await shop.quiet()
    assert shop.count("renewed") == len(damaged) > 3
    assert shop.placement() == before, "which also compares what the copies contain"
    assert shop.count("healed") == shop.count("replaced") == 0
    await shop.check_nothing_lost()


@pytest.mark.parametrize("seed", range(4))
def test_who_returns_in_the_middle_of_healing_and_who_healed_agree(seed: int) -> None:
    """System 7 (e): back at 10.5 s, while its copies are being made elsewhere: each group has one
    C, of which every member knows, and nothing is lost."""

    async def play() -> None:
        world = World(seed, 4, faults=Faults(delay=(0.005, 0.05)), options=THREE)
        scene = Scene(world)
        shop = Shop(scene)
        await shop.create(80)
        shop.begin()
        await shop.crash("n2")
        failed = world.now
        await shop.write(shop.of("n1")[:5], "2")
        await asyncio.sleep(failed + DELAY + 0.5 - world.now)
        assert shop.count("healed") > 0
        await scene.restart("n2")
        assert shop.count("healed") < len(shop.of("n2"))
        await shop.write(shop.of("n3")[:5], "3")
        await shop.quiet()
        assert all(len(copies) == 2 for copies in shop.placement().values())
        seats = [shop.held(group)[shop.route(group)].seats for group in shop.written]
        assert all(len(each) == 2 for each in seats)
        await shop.check_nothing_lost()
        world.stop()
        assert not world.errors

    run(play())


@simulated(nodes=5, options=FIVE)
async def test_a_rolling_restart_copies_nothing_elsewhere(scene: Scene) -> None:
    """System 7 (f): five nodes are restarted one after another under load: nothing is lost, no
    third node is healed to, and every node holds as much as before."""
    shop = Shop(scene)
    await shop.create(250)
    shop.begin()
    before = shop.placement()
    for turn, node in enumerate(scene.world.hosts):
        await shop.crash(node)
        for beat in range(4):
            await shop.write(list(shop.written)[turn * 4 + beat :: 20], f"{turn}.{beat}")
            await asyncio.sleep(1)
        await scene.restart(node)
        await shop.quiet()
    assert shop.count("healed") == 0
    assert shop.placement() == before
    load = shop.load().values()
    assert max(load) / min(load) <= 1.2
    await shop.check_nothing_lost()


@simulated(nodes=5, options=FIVE)
async def test_two_delays_end_each_at_its_own_time(scene: Scene) -> None:
    """System 7 (g): two overlapping windows are independent, also for a group that lost two."""
    shop = Shop(scene)
    await shop.create(60)
    shop.begin()
    lost: dict[str, list[GroupID]] = {}
    lost["n2"], lost["n3"] = shop.of("n2"), shop.of("n3")
    await shop.crash("n2")
    await asyncio.sleep(DELAY / 2)
    await shop.crash("n3")
    await asyncio.sleep(DELAY / 2 - TICK)
    assert shop.count("healed") == 0
    await asyncio.sleep(DELAY / 2 - TICK)
    assert shop.count("healed") == len(lost["n2"]), "n3 is awaited still"
    assert shop.count("replaced") == 0
    await asyncio.sleep(2 * TICK)
    await shop.quiet()
    assert shop.count("healed") == len(lost["n2"]) + len(lost["n3"])
    assert all(len(copies) == 3 for copies in shop.placement().values())
    await shop.check_nothing_lost()


@simulated(nodes=4, options=replace(THREE, heal_after=0.0))
async def test_without_a_delay_copies_are_made_at_once(scene: Scene) -> None:
    """System 7 (h): delay 0."""
    shop = Shop(scene)
    await shop.create(20)
    shop.begin()
    theirs = shop.of("n2")
    await shop.crash("n2")
    await shop.quiet()
    assert shop.count("healed") == len(theirs)
    assert all(len(copies) == 2 for copies in shop.placement().values())


def test_a_word_ends_where_two_sides_of_a_split_meet() -> None:
    """Whoever is a member then is back, also one that keeps its place because its side was the
    higher one."""
    word = Word("n2", "now", 1, ViewID(7, "n1"), "n1")
    there = Member("n2", "x", ViewID(3, "n1"), "h:1")
    assert not _has_returned("n2", word, View(ViewID(8, "n1"), (there,)))
    met = View(ViewID(10, "n1"), (there,), barrier=ViewID(10, "n1"))
    assert _has_returned("n2", word, met)
    assert not _has_returned("n3", word, met)


def word_of(scene: Scene, node: str, about: str = "n2") -> Delay:
    """What a node knows of the delay of another one."""
    return next(delay for delay in scene.at(node).delays.running() if delay.node == about)


@simulated(nodes=4, engines=2, options=THREE)
async def test_a_node_that_is_held_is_awaited_by_all_until_it_is_back(scene: Scene) -> None:
    """System 7 (h): a maintenance mark, told before the node stops; who joins later learns it, it
    outlives leaders and restarts, and the node's return ends it."""
    shop = Shop(scene)
    await shop.create(30)
    shop.begin()
    for group, copies in shop.placement().items():
        if copies == {"n2", "n3"}:  # both go, and one loses its store
            del shop.written[group]
    before = shop.placement()
    spoken = await scene.at("n1").delays.say("n2", "hold")
    assert spoken == (("n2", "n3", "n4"), ())
    await shop.crash("n2")
    for name in ("n1", "n4"):
        engine = next(
            each for each in scene.world.hosts[name].engines if each.state.node.store.try_lead()
        )
        scene.world.kill_engine(engine)
    await shop.crash("n3")
    await scene.restart("n3", kept=False)
    await asyncio.sleep(10 * DELAY)
    for name in ("n1", "n3", "n4"):
        assert word_of(scene, name).left is None
        assert word_of(scene, name).word == "hold"
    assert shop.count("healed") == 0
    await scene.restart("n2")
    await shop.quiet()
    assert shop.placement() == before
    assert not any(scene.at(name).delays.words() for name in scene.world.hosts)
    await shop.crash("n2")
    assert word_of(scene, "n4").word is None
    await asyncio.sleep(DELAY)
    await shop.quiet()
    assert shop.count("healed") > 0, "the next absence has the usual delay"


@simulated(nodes=4, options=THREE)
async def test_heal_now_ends_a_delay_on_every_node(scene: Scene) -> None:
    """System 7 (h): heal now, also where the delay would never end."""
    shop = Shop(scene)
    await shop.create(30)
    shop.begin()
    theirs = shop.of("n2")
    await shop.crash("n2")
    await scene.at("n1").delays.say("n2", "hold")
    await asyncio.sleep(2 * DELAY)
    assert shop.count("healed") == 0
    await scene.at("n4").delays.say("n2", "now")
    await shop.quiet()
    assert shop.count("healed") == len(theirs)


@simulated(nodes=4, options=THREE)
async def test_a_delay_is_extended_and_who_could_not_be_told_learns_it(scene: Scene) -> None:
    """System 7 (h): extend; extensions add up, and `0` takes all words back."""
    shop = Shop(scene)
    await shop.create(10)
    shop.begin()
    await shop.crash("n2")
    failed = scene.world.now
    scene.world.cut = {("n1", "n4"), ("n4", "n1")}
    assert await scene.at("n1").delays.say("n2", "extend", 20_000) == (("n3",), ("n4",))
    await scene.at("n3").delays.say("n2", "extend", 5_000)
    scene.world.cut = set()
    await asyncio.sleep(3)
    for name in ("n1", "n3", "n4"):
        left = word_of(scene, name).left
        assert left is not None
        assert 31_000 < left <= 32_100
    await scene.at("n1").delays.say("n2", "extend", 0)
    usual = DELAY - (scene.world.now - failed)
    assert word_of(scene, "n4").left == pytest.approx(1000 * usual, abs=100)
    assert word_of(scene, "n4").word is None


def test_words_outlive_a_restart_of_the_whole_cluster() -> None:
    """System 7 (h), 8th: with production topology managers; every store has the word, and the node
    that is held is awaited by those that have just started."""

    async def play() -> None:
        world = World(3, 3, faults=Faults(), options=THREE, views="quorum", upkeep=True)
        scene = Scene(world)
        shop = Shop(scene)
        await agreed(world)
        await shop.create(20)
        await scene.at("n1").delays.say("n2", "hold")
        for node in ("n2", "n1", "n3"):
            world.crash(node)
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        world.restart("n1", kept=True)
        world.restart("n3", kept=True)
        await asyncio.sleep(4 * DELAY)
        for name in ("n1", "n3"):
            assert word_of(scene, name).left is None
            assert scene.at(name).node.membership.unproven() == ("n2",), "for 30 s otherwise"
        world.restart("n2", kept=True)
        await agreed(world)
        await asyncio.sleep(2)
        assert shop.count("healed") == 0
        assert not any(scene.at(name).delays.words() for name in world.hosts)
        await shop.check_nothing_lost()
        world.stop()
        assert not world.errors

    run(play())


@simulated(nodes=4, options=THREE)
async def test_a_flapping_node_makes_no_copy_storm(scene: Scene) -> None:
    """System 7 (i): three times away in 60 s: what moves is what was written meanwhile."""
    shop = Shop(scene)
    await shop.create(60)
    shop.begin()
    before = shop.placement()
    pushed: list[Message] = []

    def hears(_source: str, _target: str, message: Message) -> bool:
        pushed.append(message)
        return False

    scene.world.held_back = hears
    written = 0
    for turn in range(3):
        await shop.crash("n2")
        some = [group for group in shop.of("n2") if shop.route(group) != "n2"][:3]
        await shop.write(some, str(turn))
        written += len(some)
        await asyncio.sleep(8)
        await scene.restart("n2")
        await asyncio.sleep(8)
    await shop.quiet()
    whole = [push for push in pushed if isinstance(push, Push) and push.full]
    assert len(whole) == shop.count("replaced") == written
    assert shop.count("healed") == 0
    assert shop.placement() == before
    await shop.check_nothing_lost()


@simulated(options=THREE)
async def test_who_asks_before_each_stop_loses_nothing_with_any_store(scene: Scene) -> None:
    """`safe-to-stop`: nodes are killed one after another, as soon as it says that nothing would be
    lost, and each comes back without its store. In the end no store is left of those that were
    there, and nothing is lost."""
    shop = Shop(scene)
    await shop.create(60)
    shop.begin()
    waits = 0
    for turn, node in enumerate(scene.world.hosts):
        asked = scene.at("n1" if node != "n1" else "n2").redundancy
        while (await asked.safety(node, zones=False)).alone.sessions:
            waits += 1
            await asyncio.sleep(0.05)
        await shop.crash(node)
        await shop.write(list(shop.written)[turn::7], str(turn))
        await scene.restart(node, kept=False)
    assert waits > 0, "it was not safe at once each time"
    await shop.quiet()
    await shop.check_nothing_lost()


# --- what belongs to it --------------------------------------------------------------------------


@pytest.mark.parametrize("urgent", [False, True])
def test_the_last_copy_waits_or_is_copied_at_once(urgent: bool) -> None:
    """Policy `wait | urgent`: with `urgent` an idle group with one copy left gets a temporary one
    at once, and the owner that returns has its seat again."""

    @simulated(nodes=4, options=replace(THREE, urgent=urgent))
    async def scenario(scene: Scene) -> None:
        shop = Shop(scene)
        await shop.create(30)
        shop.begin()
        before = shop.placement()
        theirs = shop.of("n2")
        await shop.crash("n2")
        await asyncio.sleep(DELAY / 2)
        assert shop.count("replaced") == (len(theirs) if urgent else 0)
        copies = {len(copies) for copies in shop.placement().values()}
        assert copies == ({2} if urgent else {1, 2})
        await scene.restart("n2")
        await shop.quiet()
        assert shop.placement() == before
        assert shop.count("healed") == 0

    scenario()


@simulated(nodes=5, options=replace(FIVE, urgent=True))
async def test_urgent_copies_only_what_has_one_copy_left(scene: Scene) -> None:
    """With two backups the loss of one is not urgent."""
    shop = Shop(scene)
    await shop.create(30)
    shop.begin()
    await shop.crash("n2")
    await asyncio.sleep(DELAY / 2)
    assert shop.count("replaced") == 0
    both = set(shop.of("n2")) & set(shop.of("n3"))
    await shop.crash("n3")
    await asyncio.sleep(DELAY / 4)
    assert shop.count("replaced") == len(both)


@simulated(nodes=4, options=THREE)
async def test_a_seat_goes_to_its_temporary_holder_when_the_delay_ends(scene: Scene) -> None:
    """Or the next short absence of that holder would be healed at once, because it has no seat."""
    shop = Shop(scene)
    await shop.create(1, "n1")
    [group] = shop.written
    [backup] = shop.held(group).keys() - {"n1"}
    shop.begin()
    await shop.crash(backup)
    await shop.write([group], "2")
    await asyncio.sleep(DELAY + 2 * TICK)
    [holder] = shop.held(group).keys() - {"n1"}
    for record in shop.held(group).values():
        assert record.seats == ("n1", holder)
    await shop.crash(holder)
    await asyncio.sleep(DELAY / 2)
    assert shop.placement()[group] == {"n1"}, "it is awaited"
    await scene.restart(backup)
    await asyncio.sleep(2 * TICK)
    assert shop.placement()[group] == {"n1"}, "whoever lost its seat does not get it again"


@simulated(nodes=2, options=THREE)
async def test_a_group_that_began_alone_gets_its_copy_and_keeps_it(scene: Scene) -> None:
    """A pair: the other node takes the free seat; its short absences are then awaited as usual."""
    shop = Shop(scene)
    shop.begin()
    await shop.crash("n2")
    await shop.create(5, "n1")
    await scene.restart("n2")
    await shop.quiet()
    assert all(copies == {"n1", "n2"} for copies in shop.placement().values())
    assert (shop.count("healed"), shop.count("replaced"), shop.count("refilled")) == (0, 0, 5)
    assert all(shop.held(group)["n2"].seats == ("n1", "n2") for group in shop.written)


@simulated(options=THREE)
async def test_a_seat_is_not_given_away_when_its_owner_is_back_already(scene: Scene) -> None:
    """A stale event can never start a copy: the look at who is away was taken before the view."""
    shop = Shop(scene)
    await shop.create(1, "n1")
    [group] = shop.written
    [backup] = shop.held(group).keys() - {"n1"}
    state = scene.at("n1")
    await shop.crash(backup)
    await scene.restart(backup)
    deadline = state.node.clock.now() + 1_000
    away = frozenset({backup})
    record = await state.replication.settle(group, deadline, widen=True, away=away)
    assert record.seats == ("n1", backup)
    assert record.holders == ("n1", backup)
    assert (shop.count("refilled"), shop.count("healed")) == (1, 0)


@simulated(options=THREE)
async def test_a_read_during_the_delay_adds_nobody(scene: Scene) -> None:
    """Only a write gets a temporary copy."""
    shop = Shop(scene)
    await shop.create(1, "n1")
    [group] = shop.written
    [backup] = shop.held(group).keys() - {"n1"}
    shop.begin()
    await shop.crash(backup)
    assert await shop.read("n1", group) == "1"
    await asyncio.sleep(DELAY / 2)
    assert shop.held(group).keys() == {"n1"}
