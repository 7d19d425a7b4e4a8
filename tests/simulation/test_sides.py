"""Two sides of a split, available mode: what each did is brought together when they meet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from sessionha.errors import SessionTooLarge
from sessionha.identity import NO_POSITION, Position
from sessionha.peer.messages import Owner, SessionChange
from sessionha.state import copies
from sessionha.state.copies import Limits
from sessionha.state.node import Options
from sessionha.state.records import LINE_LIMIT
from sessionha.values.codec import decode, encode
from sessionha.values.managers import manager_for
from tests.simulation.histories import agreed
from tests.simulation.loop import run
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene
from tests.simulation.world import Faults, World


class Split(Scene):
    """n1 and n2 hold the group; the network parts n1 from the others, and both sides serve."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.parted: Position | None = None
        """The cookie of every browser at the split."""
        self.cookies: dict[str, Position | None] = {}
        """What browsers have got since, by where their requests went."""

    async def part(self) -> None:
        self.world.split({"n1"})
        hosts = self.world.hosts
        sides = {("n1",), ("n2", "n3")}
        await self._until(lambda: {hosts[name].view().nodes for name in hosts} == sides)

    async def meet(self) -> None:
        self.world.join()
        await agreed(self.world)

    async def change(self, node: str, change: SessionChange) -> None:
        """A request of the browser that has been on this side since the split."""
        self.cookie = self.cookies.get(node, self.parted)
        assert await self.shown(node, self.cookie) is not None
        await self._commit(node, change)
        self.cookies[node] = self.cookie

    async def put_on(self, node: str, **values: object) -> None:
        """Change elements; their types choose the data managers."""
        puts = ((name, manager_for(v).name, encode(v, name)) for name, v in values.items())
        await self.change(node, SessionChange(KEY, puts=tuple(puts)))

    async def everywhere(self, **expected: object) -> None:
        """What every node shows, one after the other, to both browsers."""
        for node in ("n1", "n2", "n3", "n1"):
            for cookie in self.cookies.values():
                assert await self.shown(node, cookie) == expected

    async def shown(self, node: str, floor: Position | None) -> dict[str, object] | None:
        loaded = await self.at(node).find(GROUP, KEY, floor)
        if loaded is None:
            return None
        return {name: decode(value) for name, (_, value) in loaded.elements.items()}

    @property
    def conflicts(self) -> int:
        return sum(self.at(node).node.counters.conflicts for node in ("n1", "n2", "n3"))

    def _all_know(self) -> bool:
        return True


def parted(scenario: Callable[[Split], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a scenario in a cluster of three that agree by themselves."""

    async def play() -> None:
        world = World(1, nodes=3, views="available", faults=Faults())
        scene = Split(world)
        try:
            await agreed(world)
            await scenario(scene)
        finally:
            world.stop()
        assert not world.errors

    def test() -> None:
        run(play())

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


async def begin(scene: Split, **values: object) -> None:
    """A session from before the split."""
    puts = tuple((name, manager_for(v).name, encode(v, name)) for name, v in values.items())
    await scene._commit("n1", SessionChange(KEY, create=LIFETIMES, puts=puts), fresh=True)
    scene.parted = scene.cookie
    await scene.part()


@parted
async def test_what_changed_on_one_side_only_is_taken(scene: Split) -> None:
    await begin(scene, a=1, b=1, c=1, d=1)
    await scene.put_on("n1", a=2, here=1)
    await scene.change("n1", SessionChange(KEY, deletes=("c",)))
    await scene.put_on("n2", b=2, there=1)
    await scene.change("n2", SessionChange(KEY, deletes=("d",)))
    await scene.meet()
    await scene.everywhere(a=2, b=2, here=1, there=1)
    assert scene.conflicts == 0


@parted
async def test_what_changed_on_both_sides_is_for_its_data_manager_and_counted(
    scene: Split,
) -> None:
    """Of a value the newer history's stays; sets and maps have what either has; and where one
    side deleted an element, the tombstone wins."""
    await begin(scene, a=1, gone=1, tags={"x"}, cart={"tea": 1})
    await scene.put_on("n1", a=2, gone=2, tags={"x", "y"}, cart={"tea": 1, "mug": 1})
    await scene.put_on("n2", a=3, tags={"x", "z"}, cart={"tea": 2, "pot": 1})
    await scene.change("n2", SessionChange(KEY, deletes=("gone",)))
    await scene.meet()
    await scene.everywhere(a=3, tags={"x", "y", "z"}, cart={"tea": 2, "pot": 1, "mug": 1})
    assert scene.conflicts == 3


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_log_out_wins_against_what_the_other_side_changed(node: str) -> None:
    """G6: tombstones win, whichever side has the newer history."""

    @parted
    async def scenario(scene: Split) -> None:
        await begin(scene, a=1)
        other = "n2" if node == "n1" else "n1"
        for number in range(3):
            await scene.put_on(other, a=number)
        await scene.change(node, SessionChange(KEY, destroy=True))
        await scene.meet()
        for name in ("n1", "n2", "n3"):
            for cookie in scene.cookies.values():
                assert await scene.shown(name, cookie) is None
        assert scene.conflicts == 1

    scenario()


@parted
async def test_a_log_out_counts_also_where_the_histories_have_nothing_in_common(
    scene: Split,
) -> None:
    """More epochs began on each side than a group remembers: what differs is counted, and the
    newer history's stays; a session that was logged out stays so."""
    await begin(scene, a=1, b=1)
    await scene.put_on("n1", a=2)
    for number in range(LINE_LIMIT):
        await asyncio.sleep(0.2)
        await scene.put_on("n2" if number % 2 else "n3", b=number)
        scene.cookies["n2"] = scene.cookies["n3"] = scene.cookie
    await scene.meet()
    await scene.everywhere(a=1, b=LINE_LIMIT - 1)
    assert scene.conflicts == 1


@parted
async def test_sessions_of_both_sides_are_there(scene: Split) -> None:
    """Also one that began in a group that both have; and the three nodes end up with equal
    copies, as many as are wanted."""
    await begin(scene, a=1)
    new = b"\x02" * 16
    begun = SessionChange(new, create=LIFETIMES, puts=(("n", "value", encode(7, "n")),))
    await scene.change("n1", begun)
    await scene.put_on("n2", a=2)
    await scene.meet()
    await scene.everywhere(a=2)
    loaded = await scene.at("n3").find(GROUP, new, scene.cookies["n1"])
    assert loaded is not None
    assert {name: decode(value) for name, (_, value) in loaded.elements.items()} == {"n": 7}
    copies = scene.copies()
    assert len(copies) == 2
    assert len(set(copies.values())) == 1


@parted
async def test_an_older_copy_is_no_other_side(scene: Split) -> None:
    """What one side never changed has its history inside the other's: nothing is merged."""
    await begin(scene, a=1, b=1)
    await scene.put_on("n2", a=2)
    await scene.change("n2", SessionChange(KEY, deletes=("b",)))
    await scene.meet()
    scene.cookies["n1"] = scene.parted
    await scene.everywhere(a=2)
    merged = sum(scene.at(node).node.counters.merged for node in ("n1", "n2", "n3"))
    assert (merged, scene.conflicts) == (0, 0)


def _log_in(who: str) -> SessionChange:
    put = ("user", "value", encode(who, "user"))
    return SessionChange(KEY, owner=Owner(who, "default", who.encode() * 4), puts=(put,))


@parted
async def test_log_outs_of_a_subject_find_a_log_in_of_the_other_side(scene: Split) -> None:
    """G6: whose the session became is taken with what was done in it."""
    await begin(scene, a=1)
    await scene.change("n1", _log_in("anne"))
    await scene.put_on("n2", a=2)
    await scene.meet()
    await scene.everywhere(a=2, user="anne")
    done = await scene.at("n2").revoke("anne", b"n" * 8)
    assert (done.ended, done.unreachable) == (1, ())
    assert await scene.shown("n3", scene.cookies["n1"]) is None


@parted
async def test_a_session_that_two_people_logged_in_to_is_nobodys(scene: Split) -> None:
    """G8: one browser can show only one of them, and must not show what is the other's."""
    await begin(scene, a=1)
    await scene.change("n1", _log_in("anne"))
    await scene.change("n2", _log_in("bert"))
    await scene.meet()
    for node in ("n1", "n2", "n3"):
        assert await scene.shown(node, scene.cookies["n2"]) is None
    assert scene.conflicts == 1


@parted
async def test_what_is_over_a_limit_afterwards_may_shrink(scene: Split) -> None:
    """Nothing that was acknowledged is dropped for a limit, and nobody is locked out by one."""
    await begin(scene, a=1)
    for number in range(3):
        await scene.put_on("n1", **{f"x{number}": "x" * 20_000})
        await scene.put_on("n2", **{f"y{number}": "y" * 20_000})
    await scene.meet()
    await scene.change("n2", SessionChange(KEY, deletes=("x0",)))
    with pytest.raises(SessionTooLarge):
        await scene.put_on("n2", more=1)
    shown = await scene.shown("n1", scene.cookies["n2"])
    assert shown is not None
    assert set(shown) == {"a", "x1", "x2", "y0", "y1", "y2"}


@parted
async def test_a_group_stays_small_enough_to_travel(scene: Split) -> None:
    """What does not fit into one message is counted and dropped: a group without copies would
    be worse."""
    await begin(scene, a=1)
    for node in ("n1", "n2"):
        for number in range(2):
            key = node.encode() * 4 + bytes([number]) * 8
            big = ("big", "value", encode(b"x" * 1_000_000, "big"))
            scene.at(node).node.options = Options(limits=Limits(session_bytes=1 << 20))
            await scene.change(node, SessionChange(key, create=LIFETIMES, puts=(big,)))
    await scene.meet()
    assert await scene.shown("n2", scene.cookies["n2"]) == {"a": 1}
    assert scene.conflicts == 1
    record = scene.world.hosts["n2"].record(GROUP)
    assert record is not None
    with scene.at("n2").node.store.read() as reader:
        push = copies.content(reader, GROUP, record, NO_POSITION, 0)
    assert len(msgspec.msgpack.encode(push)) < 4 << 20
