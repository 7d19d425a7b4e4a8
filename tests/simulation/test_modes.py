"""Reads that every copy confirms, and requests that take turns: each claim in a few lines."""

from __future__ import annotations

import asyncio

import pytest

from sessionha.errors import SessionBusy, SessionUnavailable
from sessionha.identity import Position
from sessionha.peer.base import Sender
from sessionha.peer.messages import Batch, Message, Promise, Push, SessionChange
from sessionha.state.base import Receipt
from sessionha.state.node import Options
from sessionha.state.serial import QUEUES
from sessionha.store.memory import MemoryReader
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene, simulated

CONFIRMED = Options(confirmed=True)
SERIAL = Options(serial=True)
HASTY = Options(serial=True, acquire_timeout=0.5)


# --- reads that every copy confirms --------------------------------------------------------------


async def read(scene: Scene, node: str, *, floor: Position | None = None) -> dict[str, str] | None:
    """What a request sees that arrives at the node."""
    loaded = await scene.at(node).find(GROUP, KEY, floor or scene.cookie)
    if loaded is None:
        return None
    return {name: value.decode() for name, (_, value) in loaded.elements.items()}


@simulated(options=CONFIRMED)
async def test_a_primary_that_was_excluded_and_does_not_know_it_shows_nothing_old(
    scene: Scene,
) -> None:
    """G3, R9, I2: a read locally would show what was there before."""
    await scene.create("n1", a="1")
    old = scene.cookie
    await scene.exclude("n1")
    await scene.put("n2", a="2")
    scene.world.faults.learning = (0.5, 0.5)
    scene.world.resume("n1")
    assert await scene.see("n1", floor=old) == {"a": "1"}, "that is how it would be"
    assert await read(scene, "n1", floor=old) == {"a": "2"}


@simulated(options=CONFIRMED)
async def test_a_holder_that_promised_a_newer_epoch_makes_the_primary_acquire_again(
    scene: Scene,
) -> None:
    """Fenced: acquire again, and load again. The claimant died before it became primary."""
    await scene.create("n1", a="1")
    scene.at("n3").ownership._fresh_epoch(GROUP, scene.cookie, promise=True)
    epoch = scene.world.hosts["n3"].record(GROUP).promise  # type: ignore[union-attr]
    sender = Sender("n3", scene.world.hosts["n3"].incarnation)
    await scene.at("n2").ownership.on_promise(sender, Promise((GROUP,), epoch))
    scene.world.crash("n3")
    assert await read(scene, "n1") == {"a": "1"}
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert record.epoch > epoch
    assert scene.at("n1").node.counters.fenced == 1


@simulated(nodes=4, options=Options(confirmed=True, backups=2))
async def test_a_confirmation_is_one_parallel_round_that_carries_nothing(scene: Scene) -> None:
    await scene.create("n1", a="1" * 1000)
    asked: list[tuple[str, Push]] = []

    def watch(_source: str, target: str, message: Message) -> bool:
        if isinstance(message, Push):
            asked.append((target, message))
        return False

    scene.world.held_back = watch
    assert await read(scene, "n1") == {"a": "1" * 1000}
    assert {target for target, _ in asked} == set(scene.world.hosts["n1"].record(GROUP).holders[1:])  # type: ignore[union-attr]
    assert [(push.sessions, push.elements) for _, push in asked] == [((), ())] * 2


@simulated(options=CONFIRMED)
async def test_a_read_waits_for_the_view_without_a_dead_backup(scene: Scene) -> None:
    """As a commit does."""
    await scene.create("n1", a="1")
    scene.world.crash("n2")
    assert await read(scene, "n1") == {"a": "1"}
    assert scene.world.truth.member("n2") is None


@simulated(options=Options(confirmed=True, acquire_timeout=0.5))
async def test_a_backup_that_stays_silent_ends_in_an_error_that_names_it(scene: Scene) -> None:
    """Bounded by `acquire_timeout`, where no view ever says that it is gone."""
    await scene.create("n1", a="1")
    scene.lose(Push, "n1", "n2")
    began = scene.world.now
    with pytest.raises(SessionUnavailable, match=r"n2 did not confirm .* `reads`"):
        await read(scene, "n1")
    assert scene.world.now - began < 1.0


@simulated(options=CONFIRMED)
async def test_a_backup_whose_store_is_full_confirms_what_it_has(scene: Scene) -> None:
    """Nothing is written for it, so no copy is given up for a read."""
    await scene.create("n1", a="1")
    scene.world.hosts["n2"].memory.size = 1
    assert await read(scene, "n1") == {"a": "1"}
    assert set(scene.copies()) == {"n1", "n2"}


@simulated(nodes=2, options=CONFIRMED)
async def test_a_primary_too_full_to_note_its_new_copies_is_unavailable(scene: Scene) -> None:
    """C changes by a versioned step, which takes a row; a read has nothing else to write."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    scene.world.hosts["n1"].memory.size = 1
    with pytest.raises(SessionUnavailable, match="`store_size`"):
        await read(scene, "n1")


@simulated(nodes=1, options=Options(confirmed=True, backups=0))
async def test_where_nobody_else_has_a_copy_nobody_is_asked(scene: Scene) -> None:
    """It never suspends: the coroutine ends when it is driven once, by hand."""
    await scene.create("n1", a="1")
    vouching = scene.at("n1").replication.vouch(GROUP, scene.cookie.epoch, 0)  # type: ignore[union-attr]
    with pytest.raises(StopIteration) as ended:
        vouching.send(None)
    assert ended.value.value is True
    assert scene.at("n1").node.counters.confirmed == 0


# --- requests that take turns --------------------------------------------------------------------


async def increment(
    scene: Scene, node: str, engine: int = 0, *, work: float = 0.05, key: bytes = KEY
) -> Receipt:
    """A request that reads a number, takes its time, and writes the number after it."""
    state = scene.at(node, engine)
    turn = await state.turn(GROUP, key)
    assert turn is not None
    try:
        loaded = await state.find(GROUP, key, scene.cookie)
        assert loaded is not None
        count = int(loaded.elements["n"][1])
        await asyncio.sleep(work)
        change = SessionChange(key, puts=(("n", "value", str(count + 1).encode()),))
        receipt = await state.commit(
            Batch(GROUP, (change,)), fresh=False, floor=loaded.held.position, alone=True
        )
        scene.cookie = receipt.position
        return receipt
    finally:
        if state.node.store.slot in scene.world.hosts[node].memory.living:
            turn.end()


def queue(scene: Scene, node: str) -> bool:
    """Whether anybody is noted to have a turn, or to wait for one."""
    with MemoryReader(scene.world.hosts[node].memory) as reader:
        return any(reader.scan(QUEUES))


@simulated(engines=2, options=SERIAL)
async def test_increments_on_two_engines_of_a_node_are_both_counted(scene: Scene) -> None:
    await scene.create("n1", n="0")
    await asyncio.gather(increment(scene, "n1", 0), increment(scene, "n1", 1))
    assert await scene.see("n1") == {"n": "2"}
    assert not queue(scene, "n1")


@simulated(options=SERIAL)
async def test_increments_on_two_nodes_are_both_counted(scene: Scene) -> None:
    """The hand-over waits for whoever has its turn."""
    await scene.create("n1", n="0")
    await asyncio.gather(increment(scene, "n1", work=0.3), increment(scene, "n2"))
    assert await scene.see("n3") == {"n": "2"}


@simulated(engines=2, options=Options(serial=True, acquire_timeout=20.0))
async def test_many_increments_anywhere_are_all_counted(scene: Scene) -> None:
    await scene.create("n1", n="0")
    places = [(f"n{1 + i % 3}", i % 2) for i in range(18)]
    await asyncio.gather(*(increment(scene, *place, work=0.01) for place in places))
    assert await scene.see("n1") == {"n": "18"}
    assert not any(queue(scene, node) for node in scene.world.hosts)


@simulated(engines=2, options=SERIAL)
async def test_without_turns_one_of_two_increments_is_lost(scene: Scene) -> None:
    """What the turns are for: the same without them."""
    await scene.create("n1", n="0")

    async def careless(engine: int) -> None:
        seen = await scene.see("n1", engine)
        assert seen is not None
        await asyncio.sleep(0.05)
        await scene.write("n1", engine, n=str(int(seen["n"]) + 1))

    await asyncio.gather(careless(0), careless(1))
    assert await scene.see("n1") == {"n": "1"}


@simulated(engines=2, options=SERIAL)
async def test_the_turn_of_an_engine_that_was_killed_is_void(scene: Scene) -> None:
    """And the next one begins: at a sibling that waits already, and at one that comes."""
    await scene.create("n1", n="0")
    holding = scene.start(increment(scene, "n1", 0, work=9.0))
    await asyncio.sleep(0.01)
    waiting = scene.start(increment(scene, "n1", 1))
    await asyncio.sleep(0.01)
    scene.world.kill_engine(scene.world.hosts["n1"].engines[0])
    holding.cancel()
    await waiting
    assert await scene.see("n1") == {"n": "1"}


@simulated(engines=2, options=SERIAL)
async def test_the_turn_of_an_engine_whose_slot_is_taken_again_is_void(scene: Scene) -> None:
    await scene.create("n1", n="0")
    holding = scene.start(increment(scene, "n1", 0, work=9.0))
    await asyncio.sleep(0.01)
    waiting = scene.start(increment(scene, "n1", 1))
    await asyncio.sleep(0.001)
    old = scene.world.hosts["n1"].engines[0]
    scene.world.kill_engine(old)
    assert scene.world.start_engine("n1").slot == old.slot
    holding.cancel()
    await waiting
    assert await scene.see("n1") == {"n": "1"}


@simulated(options=SERIAL)
async def test_the_turn_of_a_node_that_was_killed_is_void(scene: Scene) -> None:
    """Another node goes on, and so does the node itself when it is back with its store."""
    await scene.create("n1", n="0")
    holding = scene.start(increment(scene, "n1", work=9.0))
    await asyncio.sleep(0.01)
    await scene.crash("n1")
    holding.cancel()
    await increment(scene, "n2")
    await scene.restart("n1")
    assert queue(scene, "n1"), "its store was kept as it was"
    await increment(scene, "n1")
    assert await scene.see("n3") == {"n": "2"}


@simulated(engines=2, options=HASTY)
async def test_waiting_for_a_turn_is_bounded(scene: Scene) -> None:
    """`acquire_timeout`, then an error that names the settings; whoever has its turn keeps it."""
    await scene.create("n1", n="0")
    holding = scene.start(increment(scene, "n1", work=2.0))
    await asyncio.sleep(0.01)
    for engine in (0, 1):
        with pytest.raises(SessionBusy, match=r"0\.5 s.* `concurrency` and `acquire_timeout`"):
            await increment(scene, "n1", engine)
    await holding
    assert await scene.see("n1") == {"n": "1"}
    assert not queue(scene, "n1")


@simulated(options=HASTY)
async def test_waiting_for_a_hand_over_is_bounded(scene: Scene) -> None:
    """On another node it takes as long as claims do, and the primary stays what it is."""
    await scene.create("n1", n="0")
    holding = scene.start(increment(scene, "n1", work=4.0))
    await asyncio.sleep(0.01)
    began = scene.world.now
    with pytest.raises(SessionBusy, match="did not end within"):
        await increment(scene, "n2")
    assert scene.world.now - began < 2.0
    await holding
    assert await scene.see("n2") == {"n": "1"}


@simulated(options=Options(serial=True, acquire_timeout=20.0))
async def test_a_hand_over_has_its_turn_among_others(scene: Scene) -> None:
    """A client that never pauses at one node does not lock out the other nodes."""
    await scene.create("n1", n="0")
    order: list[str] = []

    async def count(node: str) -> None:
        await increment(scene, node, work=0.1)
        order.append(node)

    await asyncio.sleep(0.2)
    tasks = [scene.start(count("n1")) for _ in range(3)]
    await asyncio.sleep(0.01)
    tasks.append(scene.start(count("n2")))
    await asyncio.sleep(0.01)
    tasks += [scene.start(count("n1")) for _ in range(3)]
    await asyncio.gather(*tasks)
    assert order == ["n1", "n1", "n1", "n2", "n1", "n1", "n1"]


@pytest.mark.parametrize("returned", [False, True])
def test_a_request_whose_node_was_thought_dead_does_not_overwrite_others(returned: bool) -> None:
    """Its turn was lost with the group, also where the group is back by now: its change is refused
    and not merged."""

    @simulated(options=SERIAL)
    async def story(scene: Scene) -> None:
        await scene.create("n1", n="0")
        late = scene.start(increment(scene, "n1", work=2.0))
        await asyncio.sleep(0.005)
        await scene.exclude("n1")
        await increment(scene, "n2")
        scene.world.resume("n1")
        await scene.members("n1")
        if returned:
            assert await scene.see("n1") == {"n": "1"}
        with pytest.raises(SessionBusy, match="another server went on"):
            await late
        assert await scene.see("n2") == {"n": "1"}

    story()


@simulated(options=SERIAL)
async def test_a_request_that_is_cancelled_while_it_waits_leaves_the_queue(scene: Scene) -> None:
    await scene.create("n1", n="0")
    holding = scene.start(increment(scene, "n1"))
    await asyncio.sleep(0.01)
    waiting = scene.start(increment(scene, "n1"))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await holding
    assert not queue(scene, "n1")


@simulated(options=SERIAL)
async def test_sessions_of_one_client_do_not_wait_for_each_other(scene: Scene) -> None:
    """Turns are for a session; only the hand-over is for the whole group, and waits for all."""
    other = b"\x02" * 16
    await scene.create("n1", n="0")
    put = (("n", "value", b"0"),)
    await scene._commit("n1", SessionChange(other, create=LIFETIMES, puts=put))
    holding = scene.start(increment(scene, "n1", work=0.5))
    await asyncio.sleep(0.01)
    began = scene.world.now
    await increment(scene, "n1", key=other, work=0.01)
    assert scene.world.now - began < 0.1
    assert not holding.done()
    await increment(scene, "n2", key=other, work=0.01)
    assert holding.done()


@simulated(options=SERIAL)
async def test_a_request_takes_a_second_turn_before_a_hand_over_that_waits_for_its_first(
    scene: Scene,
) -> None:
    """One request with two sessions of its client; otherwise the two would wait for each other."""
    other = b"\x02" * 16
    await scene.create("n1", n="0")
    state = scene.at("n1")
    first = await state.turn(GROUP, KEY)
    assert first is not None
    await asyncio.sleep(0.2)
    elsewhere = scene.start(increment(scene, "n2"))
    await asyncio.sleep(0.05)
    assert not elsewhere.done()
    began = scene.world.now
    second = await state.turn(GROUP, other, [first])
    assert second is not None
    assert scene.world.now == began, "nobody else has it"
    first.end()
    await asyncio.sleep(0.05)
    assert not elsewhere.done(), "the hand-over waits for all turns"
    second.end()
    await elsewhere
    assert not queue(scene, "n1")
