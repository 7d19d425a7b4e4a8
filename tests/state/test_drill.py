"""The continuous drill: corrupt copies are found and fetched again, and sound ones are no alarm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
import pytest

from sessionha.identity import Epoch
from sessionha.peer.messages import Batch, Fetched, Message, SessionChange
from sessionha.state.drill import EVERY, Drill
from sessionha.state.node import Options
from sessionha.state.records import (
    ElementRecord,
    GroupRecord,
    element_key,
    get_element,
    get_group,
    group_key,
    write_record,
)
from sessionha.store.memory import MemoryReader, MemoryStore
from sessionha.values.codec import encode
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene, simulated

LOOK = EVERY / 1000 + 0.1


def drill(scene: Scene, node: str = "n2") -> Drill:
    return scene.at(node).drill


async def create(scene: Scene, *groups: bytes, **values: object) -> None:
    """Groups with values as applications have them, made on n1."""
    puts = tuple((name, "value", encode(value, name)) for name, value in values.items())
    for group in groups or (GROUP,):
        change = SessionChange(KEY, create=LIFETIMES, puts=puts)
        await scene.at("n1").commit(Batch(group, (change,)), fresh=True)


def corrupt(scene: Scene, value: bytes | None, node: str = "n2", manager: str = "value") -> None:
    """Bits fall over: nothing but the bytes of one element changes."""
    store = MemoryStore(scene.world.hosts[node].memory).open()
    with store.write() as writer:
        element = get_element(writer, GROUP, KEY, "cart")
        assert element is not None
        row = ElementRecord(element.version, manager, value)
        writer.put(element_key(GROUP, KEY, "cart"), write_record(row))
    store.close()


def change(scene: Scene, node: str, how: Callable[[GroupRecord], None]) -> None:
    """A group's record becomes what it must never be."""
    store = MemoryStore(scene.world.hosts[node].memory).open()
    with store.write() as writer:
        record = get_group(writer, GROUP)
        assert record is not None
        how(record)
        writer.put(group_key(GROUP), write_record(record))
    store.close()


def value(scene: Scene, node: str) -> bytes | None:
    with MemoryReader(scene.world.hosts[node].memory) as reader:
        element = get_element(reader, GROUP, KEY, "cart")
    return None if element is None else element.value


async def looks(scene: Scene, node: str = "n2") -> int:
    """Let a second pass, or two where the round begins again; how many copies were verified."""
    for _ in range(2):
        await asyncio.sleep(LOOK)
        if done := await drill(scene, node).look():
            return done
    return 0


@simulated()
async def test_a_sound_copy_is_recoverable(scene: Scene) -> None:
    """And the node that leads the group has nothing to verify."""
    await create(scene, cart=["lamp"])
    assert drill(scene).found() is None
    assert await looks(scene) == 1
    found = drill(scene).found()
    assert found is not None
    assert (found.percent, found.sessions, found.flaws) == (100, 1, {})
    assert await looks(scene, "n1") == 0
    led = drill(scene, "n1").found()
    assert led is not None
    assert led.percent is None


@simulated()
async def test_a_copy_that_differs_is_found_and_fetched_again(scene: Scene) -> None:
    """At the primary's position, with bytes that decode: nothing else could notice."""
    await create(scene, cart=["lamp"])
    corrupt(scene, encode(["lamb"], "cart"))
    assert await looks(scene) == 1
    found = drill(scene).found()
    assert found is not None
    assert found.percent == 0
    assert found.flaws == {"differs": 1}
    assert value(scene, "n2") == value(scene, "n1") == encode(["lamp"], "cart")
    counters = scene.at("n2").node.counters
    assert (counters.differing, counters.renewed) == (1, 1)
    await looks(scene)
    found = drill(scene).found()
    assert found is not None
    assert found.percent == 100, "it is looked at again at once"


@simulated()
async def test_a_copy_without_an_element_is_fetched_again(scene: Scene) -> None:
    await create(scene, cart=["lamp"])
    corrupt(scene, None)
    await looks(scene)
    assert value(scene, "n2") == encode(["lamp"], "cart")


@simulated()
async def test_a_row_that_cannot_be_read_is_fetched_again(scene: Scene) -> None:
    await create(scene, cart=["lamp"])
    store = MemoryStore(scene.world.hosts["n2"].memory).open()
    with store.write() as writer:
        writer.put(element_key(GROUP, KEY, "cart"), b"\xc1")
    store.close()
    await looks(scene)
    assert value(scene, "n2") == encode(["lamp"], "cart")


@simulated()
async def test_a_copy_that_lacks_what_was_acknowledged_is_fetched_again(scene: Scene) -> None:
    """R1 says that this cannot be; the drill looks all the same."""
    await create(scene, cart=["lamp"])
    await scene.write("n1", more="1")

    def back(record: GroupRecord) -> None:
        record.version -= 1

    change(scene, "n2", back)
    await looks(scene)
    found = drill(scene).found()
    assert found is not None
    assert found.flaws == {"lacks": 1}
    assert scene.copies()["n2"] == scene.copies()["n1"]


@simulated()
async def test_what_nobody_can_decode_is_told_and_stays(scene: Scene) -> None:
    """A sound copy is never replaced by content that cannot be decoded."""
    await create(scene, cart=["lamp"])
    for node in ("n1", "n2"):
        corrupt(scene, b"\xc1", node)
    await looks(scene)
    found = drill(scene).found()
    assert found is not None
    assert found.flaws == {"undecodable": 1}
    corrupt(scene, encode(["lamp"], "cart"))
    await looks(scene)
    assert value(scene, "n2") == encode(["lamp"], "cart")
    assert scene.at("n2").node.counters.renewed == 0


@simulated()
async def test_a_data_manager_that_is_not_registered_here_is_told(scene: Scene) -> None:
    """The application after a takeover would not get the value."""
    await create(scene, cart=["lamp"])
    for node in ("n1", "n2"):
        corrupt(scene, encode(["lamp"], "cart"), node, manager="basket")
    await looks(scene)
    found = drill(scene).found()
    assert found is not None
    assert found.flaws == {"unknown": 1}


@simulated()
async def test_a_copy_in_quarantine_that_is_counted_on_would_not_do(scene: Scene) -> None:
    await create(scene, cart=["lamp"])

    def away(record: GroupRecord) -> None:
        record.synced = type(record.synced)(0, "")

    change(scene, "n2", away)
    await looks(scene)
    found = drill(scene).found()
    assert found is not None
    assert found.flaws == {"quarantined": 1}


@simulated(options=Options(backups=1, commit_timeout=10))
async def test_what_is_under_way_is_no_difference(scene: Scene) -> None:
    """A primary that is ahead, with a change that nobody acknowledged yet."""
    await create(scene, cart=["lamp"])
    scene.catch_pushes("n2")
    writing = scene.start(scene.write("n1", more="1"))
    await looks(scene)
    found = drill(scene).found()
    assert found is not None
    assert found.percent == 100
    scene.world.held_back = None
    await writing


@simulated()
async def test_content_of_a_deposed_primary_is_not_taken(scene: Scene) -> None:
    """R3: what comes from an epoch below the promise changes nothing."""
    await create(scene, cart=["lamp"])
    corrupt(scene, encode(["lamb"], "cart"))

    def promises(source: str, target: str, message: Message) -> bool:
        if isinstance(message, Fetched):
            change(scene, "n2", lambda record: setattr(record, "promise", Epoch(9, 9, "n3")))
        return False

    scene.world.held_back = promises
    await looks(scene)
    assert value(scene, "n2") == encode(["lamb"], "cart")
    assert scene.at("n2").node.counters.renewed == 0


@simulated(options=Options(backups=1, drill=5))
async def test_every_copy_has_its_turn_within_the_budget(scene: Scene) -> None:
    """And how long the one that waits longest has waited is told."""
    made = [bytes([number, 7]) + bytes(10) for number in range(0, 256, 8)]
    await create(scene, *made, cart=1)
    copies = {
        name: sum(bool((r := scene.world.hosts[name].record(g)) and r.held) for g in made)
        for name in ("n2", "n3")
    }
    for name, count in copies.items():
        rounds = -(-count // 5) + 1
        found = [await looks(scene, name) for _ in range(rounds)]
        assert max(found) == 5
        assert sum(found) >= count
        told = drill(scene, name).found()
        assert told is not None
        assert told.sessions == count
        assert told.oldest <= (rounds + 1) * LOOK


@simulated(options=Options(backups=1, drill=0))
async def test_it_can_be_switched_off(scene: Scene) -> None:
    await create(scene, cart=1)
    assert await looks(scene) == 0
    assert drill(scene).found() is None


def test_a_finding_is_logged_without_any_content(caplog: pytest.LogCaptureFixture) -> None:
    """An error that says what to do."""

    @simulated()
    async def scenario(scene: Scene) -> None:
        await create(scene, cart=["secret lamp"])
        corrupt(scene, encode(["lamb"], "cart"))
        await looks(scene)
        corrupt(scene, encode(["limb"], "cart"))
        await looks(scene)

    with caplog.at_level(logging.INFO, logger="sessionha"):
        scenario()
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert "1 verified copies of groups of sessions differ" in said[0].getMessage()
    assert "lamp" not in caplog.text
    assert msgspec.json.encode(caplog.text)
