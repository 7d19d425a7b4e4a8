"""Sessions of one subject across a cluster: listed honestly, logged out for good."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from sessionha.errors import SessionRevoked, SessionUnavailable
from sessionha.identity import Epoch, Position, encode64
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Batch,
    Found,
    NotPrimary,
    Owner,
    Push,
    Revocations,
    Revoke,
    Revoked,
    SessionChange,
    Theirs,
    Whose,
)
from sessionha.state import owners, subjects
from sessionha.state.base import Siblings, Unsettled
from sessionha.state.subjects import newest
from sessionha.store.memory import MemoryReader
from tests.simulation.scenes import LIFETIMES, Scene, simulated

USER = "user:42"
NAME = b"12345678"
AFTER = (owners.SKEW + 100) / 1000


class Device(NamedTuple):
    """A browser with one session."""

    group: bytes
    key: bytes
    handle: bytes

    @property
    def id(self) -> str:
        return encode64(self.handle)


def device(number: int) -> Device:
    return Device(bytes([number]) * 12, bytes([number]) * 16, bytes([number]) * 12)


def owner(which: Device, subject: str = USER) -> Owner:
    return Owner(subject, "shop", which.handle)


async def log_in(scene: Scene, node: str, number: int, subject: str = USER) -> Device:
    made = device(number)
    change = SessionChange(
        made.key, create=LIFETIMES, puts=(("a", "value", b"1"),), owner=owner(made, subject)
    )
    await scene.at(node).commit(Batch(made.group, (change,)), fresh=True)
    return made


async def is_in(scene: Scene, node: str, which: Device, engine: int = 0) -> bool:
    """What a request of the device meets at a node: its session, or none."""
    state = scene.at(node, engine)
    while True:
        try:
            return state.load(which.group, which.key) is not None
        except Unsettled:
            if await state.acquire(which.group, None) is None:
                return False


async def write(scene: Scene, node: str, which: Device, value: bytes = b"2") -> None:
    """The end of a request that was under way."""
    change = SessionChange(which.key, puts=(("a", "value", value),))
    await scene.at(node).commit(Batch(which.group, (change,)), fresh=False)


def ids(found: Siblings) -> set[str]:
    return {each.id for each in found.sessions}


# --- listing -------------------------------------------------------------------------------------


@simulated()
async def test_a_list_has_each_living_session_once_from_whichever_node(scene: Scene) -> None:
    """Wherever it is asked: its ID for people, its ages, its virtual server, and who serves it."""
    first = await log_in(scene, "n1", 1)
    second = await log_in(scene, "n2", 2)
    await log_in(scene, "n3", 3, "user:7")
    ended = await log_in(scene, "n3", 4)
    await asyncio.sleep(5)
    await scene.at("n3").commit(
        Batch(ended.group, (SessionChange(ended.key, destroy=True),)), fresh=False
    )
    await write(scene, "n2", second)
    for node in ("n1", "n2", "n3"):
        found = await scene.at(node).sessions_of(USER)
        assert [each.id for each in found.sessions] == [second.id, first.id], "the last used first"
        assert [each.node for each in found.sessions] == ["n2", "n1"]
        assert {each.virtual_server for each in found.sessions} == {"shop"}
        assert found.sessions[1].unused >= 5 > found.sessions[0].unused
        assert found.sessions[0].age >= 5
        assert (found.unreachable, found.more) == ((), False)


@simulated()
async def test_a_list_names_the_nodes_that_could_not_be_asked(scene: Scene) -> None:
    """A list that lacks what an absent node may hold says so."""
    there = await log_in(scene, "n1", 1)
    await scene.crash("n3")
    found = await scene.at("n1").sessions_of(USER)
    assert (ids(found), found.unreachable) == ({there.id}, ("n3",))


@simulated()
async def test_a_member_that_is_silent_is_named_too(scene: Scene) -> None:
    await log_in(scene, "n1", 1)
    scene.lose(Found, "n3", "n1")
    found = await scene.at("n1").sessions_of(USER)
    assert found.unreachable == ("n3",)


@simulated()
async def test_an_expired_session_is_not_listed(scene: Scene) -> None:
    await log_in(scene, "n1", 1)
    await asyncio.sleep(LIFETIMES.idle_timeout / 1000 + 1)
    assert (await scene.at("n2").sessions_of(USER)).sessions == ()


@simulated()
async def test_a_copy_from_before_an_absence_does_not_bring_a_destroyed_session_back(
    scene: Scene,
) -> None:
    """The newest position wins, also where the newest copy says that there is no session."""
    which = await log_in(scene, "n1", 1)
    other = await log_in(scene, "n1", 5)
    (backup,) = [name for name in ("n2", "n3") if scene.world.hosts[name].record(which.group)]
    await scene.exclude(backup)
    await scene.at("n1").commit(
        Batch(which.group, (SessionChange(which.key, destroy=True),)), fresh=False
    )
    scene.world.resume(backup)
    await scene.members(backup)
    assert scene.world.hosts[backup].record(which.group) is not None, "its old copy is there"
    for node in scene.world.hosts:
        assert ids(await scene.at(node).sessions_of(USER)) == {other.id}


def test_of_several_copies_the_newest_counts_and_of_equal_ones_the_primary_s() -> None:
    whose = Owner(USER, "shop", b"h")
    old, new = Position(Epoch(1, 1, "n1"), 4), Position(Epoch(2, 1, "n2"), 3)

    def theirs(position: Position, key: bytes = b"k", *, serves: bool = False) -> Theirs:
        return Theirs(b"g", key, whose, 9, 1, position, in_sync=True, serves=serves)

    answers = {
        "n1": Found((theirs(old), theirs(old, b"gone"))),
        "n2": Found((theirs(new, serves=True),)),
        "n3": Found((theirs(new),)),
    }
    positions = [
        (each.group, each.position) for found in answers.values() for each in found.sessions
    ]
    (found,) = newest(answers, positions)
    assert (found.node, found.theirs.key) == ("n2", b"k")
    assert newest({"n1": answers["n1"]}, [(b"g", old), (b"g", new)]) == []


# --- log-out everywhere --------------------------------------------------------------------------


@simulated()
async def test_after_a_log_out_no_node_serves_any_session_of_the_subject(scene: Scene) -> None:
    """Contract G6: log out everywhere; other subjects are not touched."""
    gone = [await log_in(scene, node, number) for number, node in enumerate(("n1", "n2", "n3"), 1)]
    other = await log_in(scene, "n2", 9, "user:7")
    done = await scene.at("n3").revoke(USER, NAME)
    assert (done.ended, done.unreachable) == (3, ())
    for node in ("n1", "n2", "n3"):
        for which in gone:
            assert not await is_in(scene, node, which)
        assert (await scene.at(node).sessions_of(USER)).sessions == ()
    assert await is_in(scene, "n1", other)
    assert scene.at("n3").node.counters.revoked == 3


@simulated()
async def test_all_others_and_one_by_its_id(scene: Scene) -> None:
    """The session of the request that asks stays; one named by another subject's user stays."""
    mine, second, third = [await log_in(scene, "n1", number) for number in (1, 2, 3)]
    stranger = await log_in(scene, "n2", 4, "user:7")
    done = await scene.at("n2").revoke(USER, NAME, only=(second.handle, stranger.handle))
    assert done.ended == 1
    assert ids(await scene.at("n1").sessions_of(USER)) == {mine.id, third.id}
    done = await scene.at("n2").revoke(USER, b"x" * 8, kept=(mine.handle,))
    assert done.ended == 1
    for node in ("n1", "n2", "n3"):
        assert await is_in(scene, node, mine)
        assert await is_in(scene, node, stranger)
        assert not await is_in(scene, node, third)


@simulated()
async def test_who_logs_in_again_stays_logged_in(scene: Scene) -> None:
    """Contract G6, its other side: a session that begins after the log-out is untouched by it, at
    once and whichever node it begins on."""
    await log_in(scene, "n1", 1)
    await scene.at("n1").revoke(USER, NAME)
    again = [await log_in(scene, node, n) for n, node in enumerate(("n1", "n2", "n3"), 2)]
    for node in ("n1", "n2", "n3"):
        for which in again:
            assert await is_in(scene, node, which)
            await write(scene, node, which)


@simulated()
async def test_a_slow_request_loses_against_the_log_out(scene: Scene) -> None:
    """Contract G6: "log-out against a slow request": its changes are dropped, also forwarded."""
    which = await log_in(scene, "n1", 1)
    assert await is_in(scene, "n1", which)
    await scene.at("n2").revoke(USER, NAME)
    for node in ("n1", "n2", "n3"):
        with pytest.raises(SessionRevoked):
            await write(scene, node, which)


@simulated()
async def test_it_holds_also_where_the_tombstone_cannot_be_written(scene: Scene) -> None:
    """Contract G6: what is acknowledged is the log-out itself; tombstones come besides."""
    which = await log_in(scene, "n1", 1)
    scene.world.held_back = lambda source, target, message: (
        source == "n1" and isinstance(message, (Push, NotPrimary))
    )
    done = await scene.at("n1").revoke(USER, NAME)
    assert (done.ended, done.unreachable) == (1, ())
    scene.world.held_back = None
    for node in ("n1", "n2", "n3"):
        assert not await is_in(scene, node, which)


@simulated()
async def test_it_survives_the_death_of_who_made_it_and_of_the_primary(scene: Scene) -> None:
    """Contract G6: "log-out against failover"."""
    which = await log_in(scene, "n2", 2)
    assert scene.world.hosts["n3"].record(which.group) is not None, "it has the copy"
    scene.world.held_back = lambda _source, _target, message: isinstance(message, Push)
    asking = scene.start(scene.at("n1").revoke(USER, NAME))
    await asyncio.sleep(0.2)  # every member has the log-out; no backup has the tombstone
    scene.world.held_back = None
    await scene.crash("n1", "n2")
    asking.cancel()
    assert not await is_in(scene, "n3", which)


@simulated(engines=2)
async def test_engines_of_one_node_need_not_tell_each_other(scene: Scene) -> None:
    """A log-out that one process made holds in its siblings, and on other nodes' processes."""
    which = await log_in(scene, "n1", 1)
    for engine in (0, 1):
        assert await is_in(scene, "n1", which, engine)
    await scene.at("n2", 1).revoke(USER, NAME)
    for node in ("n1", "n2", "n3"):
        for engine in (0, 1):
            assert not await is_in(scene, node, which, engine)


@simulated()
async def test_who_is_logged_out_cannot_log_the_others_out(scene: Scene) -> None:
    """Two devices that log each other out do not both stay."""
    mine, other = await log_in(scene, "n1", 1), await log_in(scene, "n2", 2)
    await scene.at("n2").revoke(USER, NAME, kept=(other.handle,))
    with pytest.raises(SessionRevoked):
        await scene.at("n1").revoke(USER, b"x" * 8, kept=(mine.handle,))
    assert await is_in(scene, "n3", other)


@simulated()
async def test_a_session_that_was_logged_out_cannot_keep_itself(scene: Scene) -> None:
    """Contract G6: whoever is silent, or lists less than it has; the node goes by what it knows."""
    stolen, second, third = [await log_in(scene, "n1", number) for number in (1, 2, 3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subjects, "MOST", 0)
        await scene.at("n2").revoke(USER, NAME, only=(stolen.handle,))
        scene.lose(Found, "n2", "n1", times=1)
        for node in ("n1", "n2", "n3"):
            with pytest.raises(SessionRevoked):
                await scene.at(node).revoke(USER, b"x" * 8, kept=(stolen.handle,))
        await scene.at("n1").revoke(USER, b"y" * 8, kept=(second.handle,))
        with pytest.raises(SessionRevoked):
            await scene.at("n1").revoke(USER, b"z" * 8, kept=(third.handle,))
    for node in ("n1", "n2", "n3"):
        assert await is_in(scene, node, second)
        assert not await is_in(scene, node, stolen)
        assert not await is_in(scene, node, third)


@simulated()
async def test_who_cannot_be_proven_alive_logs_nobody_out(scene: Scene) -> None:
    """In doubt nothing is changed, and the request may be tried again."""
    mine, other = await log_in(scene, "n1", 1), await log_in(scene, "n1", 2)
    (third,) = [name for name in ("n2", "n3") if not scene.world.hosts[name].record(mine.group)]
    scene.lose(Found, "n1", third)
    with pytest.raises(SessionUnavailable):
        await scene.at(third).revoke(USER, NAME, kept=(b"nobody knows",))
    scene.world.held_back = None
    assert await is_in(scene, third, mine)
    assert await is_in(scene, third, other)


# --- for longer than log-outs are remembered -----------------------------------------------------


def remembered(scene: Scene) -> int:
    """How many nodes know of a log-out."""
    count = 0
    for host in scene.world.hosts.values():
        with MemoryReader(host.memory) as reader:
            count += any(reader.scan(owners.LOG_OUTS))
    return count


async def sweep(scene: Scene) -> None:
    """What the leaders of all nodes do now and then, in any order."""
    for _ in range(2):
        for host in reversed(scene.world.living):
            await host.engines[0].upkeep.repair()
            await host.engines[0].upkeep.sweep()


@simulated()
async def test_a_session_that_no_log_out_found_gets_its_tombstone_later(scene: Scene) -> None:
    """Contract G6, R10: its primary writes it, before the log-out is forgotten."""
    which = await log_in(scene, "n1", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owners, "REMEMBERED", 20_000)
        patch.setattr(subjects, "MOST", 0)
        assert (await scene.at("n2").revoke(USER, NAME)).ended == 0
        assert remembered(scene) == 3
        await asyncio.sleep(30)
        await sweep(scene)
        assert remembered(scene) == 0
        for node in ("n1", "n2", "n3"):
            assert not await is_in(scene, node, which)


@simulated()
async def test_holders_that_were_all_away_end_what_was_logged_out_meanwhile(scene: Scene) -> None:
    """Contract G6: the log-out is forgotten after they are back, and the session stays ended."""
    which = await log_in(scene, "n1", 1)
    (backup,) = [name for name in ("n2", "n3") if scene.world.hosts[name].record(which.group)]
    (third,) = {"n2", "n3"} - {backup}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owners, "REMEMBERED", 60_000)
        await scene.crash("n1", backup)
        await scene.at(third).revoke(USER, NAME)
        await scene.restart(backup, "n1")
        for node in (backup, "n1"):
            scene.at(node).subjects.keep_up()
        await asyncio.sleep(120)
        await sweep(scene)
        assert remembered(scene) == 0
        for node in (third, backup, "n1"):
            assert not await is_in(scene, node, which)


# --- nodes that were away ------------------------------------------------------------------------


@simulated()
async def test_a_session_that_only_an_absent_node_held_is_dead_when_it_returns(
    scene: Scene,
) -> None:
    """Contract G6: "rejoin with old data": the log-out found nothing, and holds all the same."""
    which = await log_in(scene, "n1", 1)
    (backup,) = [name for name in ("n2", "n3") if scene.world.hosts[name].record(which.group)]
    (third,) = {"n2", "n3"} - {backup}
    await scene.crash("n1", backup)
    done = await scene.at(third).revoke(USER, NAME)
    assert (done.ended, done.unreachable) == (0, tuple(sorted(("n1", backup))))
    await scene.restart(backup, "n1")
    for node in (backup, "n1", third):
        assert not await is_in(scene, node, which)
        assert (await scene.at(node).sessions_of(USER)).sessions == ()


@simulated()
async def test_a_node_that_returns_serves_no_subject_before_it_has_asked(scene: Scene) -> None:
    """Contract G6: what others know is not ignored because it was not told yet; a session without
    a subject does not wait."""
    await scene.create("n1", a="1")
    which = await log_in(scene, "n1", 1)
    (backup,) = [name for name in ("n2", "n3") if scene.world.hosts[name].record(which.group)]
    (third,) = {"n2", "n3"} - {backup}
    await scene.crash("n1", backup)
    await scene.at(third).revoke(USER, NAME)
    scene.lose(Revoked, third, "n1")
    await scene.restart("n1", backup)
    assert await scene.see("n1") == {"a": "1"}
    asking = scene.start(is_in(scene, "n1", which))
    await asyncio.sleep(1)
    assert not asking.done()
    scene.world.held_back = None
    assert await asking is False


@simulated(nodes=4)
async def test_log_outs_of_both_sides_are_known_to_both_after_a_split(scene: Scene) -> None:
    """Contract G6: both directions: whoever stays asks those who come."""
    here, there = await log_in(scene, "n1", 1), await log_in(scene, "n1", 2, "user:7")
    scene.world.split({"n4"})
    await asyncio.sleep(1)
    lonely = scene.world.hosts["n4"]
    with MemoryReader(lonely.memory) as reader:
        assert not [*reader.scan(owners.LOG_OUTS)]
    store = scene.at("n4").node.store
    with store.write() as writer:  # the other side's own log-out
        owners.decree(writer, owners.hash_of("user:7"), NAME, scene.at("n4").node.clock.now())
    await scene.at("n1").revoke(USER, NAME)
    scene.world.join()
    await scene.members("n4")
    for node in ("n1", "n2", "n3", "n4"):
        assert not await is_in(scene, node, here)
        assert not await is_in(scene, node, there)


@simulated()
async def test_who_began_on_the_other_side_long_after_the_log_out_stays(scene: Scene) -> None:
    """A session that began after the log-out is untouched, though its node knew of none."""
    early, late = device(1), device(2)
    state = scene.at("n1")
    await scene.at("n2").revoke(USER, NAME)
    await state.sessions_of(USER)
    with state.node.store.write() as writer:  # as if it had been away: it knows of nothing
        writer.delete(owners.LOG_OUTS + owners.hash_of(USER))
    await log_in(scene, "n1", 1)
    await asyncio.sleep(AFTER)
    await log_in(scene, "n1", 2)
    await scene.exclude("n1")
    scene.world.resume("n1")
    await scene.members("n1")
    assert not await is_in(scene, "n1", early), "in doubt it is over"
    assert await is_in(scene, "n1", late)


@simulated()
async def test_a_restart_that_nobody_noticed_may_have_missed_a_log_out(scene: Scene) -> None:
    """R7: it goes on as the same member, but asks again before it serves a subject."""
    which = await log_in(scene, "n1", 1)
    assert await is_in(scene, "n1", which)
    scene.world.faults.detection = (30.0, 30.0)
    scene.world.crash("n1")
    done = await scene.at("n3").revoke(USER, NAME)
    assert "n1" in done.unreachable
    assert scene.world.truth.member("n1") is not None, "no view was without it"
    scene.world.restart("n1", kept=True)
    scene.world.held_back = lambda _source, _target, message: isinstance(message, Revoke)
    assert not await is_in(scene, "n1", which)


@simulated()
async def test_a_member_that_was_silent_is_told_again(scene: Scene) -> None:
    scene.lose(Revoke, "n1", "n2", 5)
    done = await scene.at("n1").revoke(USER, NAME)
    assert done.unreachable in ((), ("n2",))
    await asyncio.sleep(5)
    with MemoryReader(scene.world.hosts["n2"].memory) as reader:
        assert len(owners.revocations(reader, owners.hash_of(USER))) == 1


@simulated()
async def test_a_member_that_was_never_told_asks_when_the_teller_is_gone(scene: Scene) -> None:
    """Contract G6: whoever told the log-out died before it had told everybody."""
    scene.lose(Revoke, "n1", "n3")
    asking = scene.start(scene.at("n1").revoke(USER, NAME))
    await asyncio.sleep(0.1)
    await scene.crash("n1")
    asking.cancel()
    scene.at("n3").subjects.keep_up()
    await asyncio.sleep(0.1)
    with MemoryReader(scene.world.hosts["n3"].memory) as reader:
        assert len(owners.revocations(reader, owners.hash_of(USER))) == 1


@simulated()
async def test_a_log_out_stands_above_those_that_its_maker_did_not_know(scene: Scene) -> None:
    """Contract G6: a session that began knowing a later log-out is not spared by that."""
    await scene.at("n1").revoke(USER, NAME)
    which = await log_in(scene, "n1", 1)
    await scene.at("n3").sessions_of(USER)
    with scene.at("n3").node.store.write() as writer:
        writer.delete(owners.LOG_OUTS + owners.hash_of(USER))
    await scene.at("n3").revoke(USER, b"x" * 8)
    for node in ("n1", "n2", "n3"):
        assert not await is_in(scene, node, which)


@simulated()
async def test_who_logs_in_where_nothing_is_known_yet_stays_logged_in(scene: Scene) -> None:
    """A node that has just joined asks for the log-outs before a session begins there."""
    await scene.exclude("n3")
    await scene.at("n1").revoke(USER, NAME)
    scene.world.resume("n3")
    await scene.members("n3")
    which = await log_in(scene, "n3", 1)
    for node in ("n1", "n2", "n3"):
        assert await is_in(scene, node, which)


# --- costs ---------------------------------------------------------------------------------------


@simulated()
async def test_sessions_without_a_subject_cause_no_message(scene: Scene) -> None:
    asked = []

    def notes(_source: str, _target: str, message: object) -> bool:
        asked.append(type(message))
        return False

    scene.world.held_back = notes
    await scene.create("n1", a="1")
    await scene.see("n2")
    await scene.put("n3", b="2")
    assert not {Whose, Revoke, Revocations} & set(asked)


@simulated()
async def test_log_outs_are_not_told_to_who_is_no_member(scene: Scene) -> None:
    stranger = Sender("n9", "0")
    for question in (Whose(owners.hash_of(USER)), Revocations(b"")):
        reply = scene.at("n1").handle(stranger, question)
        assert type(reply).__name__ == "Failed"
