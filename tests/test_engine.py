"""Engines on the loopback address: what they answer while they stop, and what they do alone."""

from __future__ import annotations

import asyncio
import functools
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from sessionha.agreement import ROW
from sessionha.engine import Engine
from sessionha.errors import CommitUnconfirmed, InvalidSettings
from sessionha.identity import GroupID, SessionKey
from sessionha.peer.base import Sender
from sessionha.peer.channel import Limits as StreamLimits
from sessionha.peer.messages import Batch, Create, Message, SessionChange, Touch
from sessionha.peer.streams import Streams
from sessionha.settings import Settings
from sessionha.state.base import Receipt
from sessionha.state.records import get_group

GROUP = b"\x07" * 12
KEY = b"\x09" * 16
APP_KEYS = (b"an application's key, 32 bytes or more",)


def create(group: GroupID = GROUP, key: SessionKey = KEY, idle: int = 1_800_000) -> Batch:
    puts = (("x", "value", b"1"),)
    return Batch(group, (SessionChange(key, create=Create(idle, 0), puts=puts),))


def put(value: bytes) -> Batch:
    return Batch(GROUP, (SessionChange(KEY, puts=(("x", "value", value),)),))


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    unused = [socket.socket() for _ in range(count)]
    for each in unused:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in unused]
    for each in unused:
        each.close()
    return ports


async def until(reached: Callable[[], bool]) -> None:
    """Turn the event loop until something happened, at most twenty seconds."""
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 — whatever happens has no event of its own
            await asyncio.sleep(0.005)


Pair = tuple[Engine, Engine]
Make = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def pair() -> AsyncIterator[Make]:
    """Starts two nodes that are one cluster; stops them at the end."""
    made: list[Engine] = []

    async def start(
        keys: Sequence[tuple[bytes, ...]] = (APP_KEYS, APP_KEYS),
        differing: Mapping[str, dict[str, object]] = MappingProxyType({}),
        **settings: object,
    ) -> Pair:
        ports = free_ports(2)
        nodes = ",".join(f"n{i}=http://127.0.0.1:{port}" for i, port in enumerate(ports, 1))
        for number, port in enumerate(ports, 1):
            given: dict[str, object] = {
                "cluster": "engines", "node": f"n{number}", "nodes": nodes, "backups": 1,
                "listen": f"127.0.0.1:{port}", "secret": "insecure-loopback",
                "store": "memory", "store_size": "8MB", "admin": "off", "discovery_time": 0.2,
            }  # fmt: skip
            given |= settings | differing.get(f"n{number}", {})
            made.append(Engine(Settings.load({}, **given), keys[number - 1]))
        one, two = made[-2:]
        await asyncio.gather(one.start(), two.start())
        await until(lambda: all(_sees_both(engine) for engine in (one, two)))
        return one, two

    yield start
    for engine in made:
        await engine.stop()


def _sees_both(engine: Engine) -> bool:
    return set(engine.membership.view().nodes) == {"n1", "n2"} and engine.membership.is_member()


def version_at(engine: Engine) -> int:
    with engine.state.node.store.read() as reader:
        record = get_group(reader, GROUP)
    return record.version if record is not None else 0


async def test_an_engine_that_stops_answers_its_peers_until_its_goodbye(pair: Make) -> None:
    """G1: while a node finishes its own work the commits of others get its acknowledgement at
    once; when it has gone they need it no more. No request notices the stop."""
    one, two = await pair()
    assert (await two.state.commit(create(), fresh=True)).copies == 1
    finish = asyncio.Event()
    one.state.node.spawn(_wait(finish))  # a commit that takes its time
    stopping = asyncio.create_task(one.stop())
    for number in range(3):
        receipt = await two.state.commit(put(b"%d" % number), fresh=False)
        assert (receipt.copies, receipt.holders) == (1, ("n2", "n1"))
        assert not stopping.done()
    assert version_at(one) == 4
    finish.set()
    going: list[Receipt] = []
    while not stopping.done():
        going.append(await two.state.commit(put(b"x"), fresh=False))
        await asyncio.sleep(0)
    await stopping
    assert going
    assert not one.running
    last = await two.state.commit(put(b"last"), fresh=False)
    assert (last.copies, last.holders) == (0, ("n2",))


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_a_stop_waits_for_the_companions_while_peers_are_answered(pair: Make) -> None:
    """What runs beside an engine ends first; meanwhile the node is a whole member."""
    one, two = await pair()
    await two.state.commit(create(), fresh=True)
    ending, ended = asyncio.Event(), asyncio.Event()

    class Slow:
        def prepare(self) -> None: ...

        def start(self) -> None: ...

        async def stop(self) -> None:
            ending.set()
            await ended.wait()

    one._accompanied.append(Slow())
    stopping = asyncio.create_task(one.stop())
    await ending.wait()
    assert (await two.state.commit(put(b"2"), fresh=False)).copies == 1
    ended.set()
    await stopping


async def test_a_restarted_engine_knows_how_long_others_are_away(
    pair: Make, tmp_path: Path
) -> None:
    """System 7: the instant at which a node went is in the store, so the delay of healing passes
    although no running engine has seen it go."""
    one, two = await pair(store=str(tmp_path))
    await two.stop()
    await until(lambda: one.membership.view().nodes == ("n1",))
    before = one.membership.away()
    assert set(before) == {"n2"}
    await one.stop()
    await one.start()
    assert one.membership.is_member()
    assert one.membership.away()["n2"] >= before["n2"]


OLD, NEW, OTHER = (bytes([number]) * 32 for number in range(3))


@pytest.mark.parametrize(
    ("one", "two", "told"),
    [((NEW,), (OTHER,), True), ((NEW, OLD), (OLD,), False), ((OLD,), (NEW, OLD), False)],
)
async def test_nodes_that_cannot_read_each_others_cookies_say_so(
    pair: Make, caplog: pytest.LogCaptureFixture, one: bytes, two: bytes, *, told: bool
) -> None:
    """Once each; during a change of keys those with a common one are quiet."""
    await pair((one, two))
    said = [record.getMessage() for record in caplog.records if "secret_key" in record.message]
    names = {line.split()[0] for line in said}
    assert names == ({"n1", "n2"} if told else set())
    assert len(said) == len(names)


async def test_nodes_with_different_settings_say_so(
    pair: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Each names the other, its setting and both values; the engine's own log, once."""
    await pair(differing={"n1": {"concurrency": "serialize"}, "n2": {"session_bytes": "1KiB"}})
    said = [message for message in caplog.messages if "give every node the same" in message]
    assert sorted(said) == [
        "n1 has `concurrency` = serialize, n2 has merge: give every node the same",
        "n1 has `session_bytes` = 64 KiB, n2 has 1 KiB: give every node the same",
        "n2 has `concurrency` = merge, n1 has serialize: give every node the same",
        "n2 has `session_bytes` = 1 KiB, n1 has 64 KiB: give every node the same",
    ]


async def test_an_engine_that_starts_meets_the_others_of_its_node(pair: Make) -> None:
    """What it leaves for them is what `tests/test_agreement.py` compares."""
    one, _ = await pair()
    with one.state.node.store.read() as reader:
        (row,) = reader.scan(ROW)
    assert row[0] == ROW + one.engine.encode()


async def test_who_started_alone_says_when_it_is_alone_no_more(
    pair: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await pair()
    await two.stop()
    await one.stop()
    await one.start()
    assert "node n1 starts alone" in caplog.text
    assert "alone no more" not in caplog.text
    await two.start()
    await until(lambda: "node n1 is alone no more: n2 joined" in caplog.text)


async def test_a_message_that_fits_no_frame_makes_nobody_suspicious(
    pair: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detection watches the data path, but what was never sent says nothing of its receiver: it
    stays a member, and only this change is unconfirmed. The same for a batch that is forwarded."""
    small = functools.partial(StreamLimits, frame_bytes=20_000)
    monkeypatch.setattr("sessionha.engine.StreamLimits", small)
    one, two = await pair()
    await one.state.commit(create(), fresh=True)
    suspected: list[str] = []
    for engine in (one, two):
        monkeypatch.setattr(engine.membership, "suspect", suspected.append)
    with pytest.raises(CommitUnconfirmed) as unconfirmed:
        await one.state.commit(put(b"x" * 30_000), fresh=False)
    assert unconfirmed.value.missing == ("n2",)
    assert suspected == []
    assert one.streams is not None
    assert one.streams.counters.refused_calls > 0
    forwarded = await two.state._forward(put(b"y" * 30_000), "n1")
    assert not isinstance(forwarded, Receipt)
    assert suspected == []
    receipt = await one.state.commit(put(b"small"), fresh=False)
    assert receipt.copies == 1


async def test_a_cast_without_a_stream_dials_one() -> None:
    """Touches are only cast: between nodes that call each other for nothing else the first is
    dropped and counted, and makes the stream for the next."""
    got: asyncio.Queue[Message] = asyncio.Queue()

    def handler(_: Sender, message: Message) -> None:
        got.put_nowait(message)

    def streams(node: str) -> Streams:
        return Streams(
            node,
            "engines",
            handler,
            secrets=lambda: (b"s" * 32,),
            incarnation=lambda: f"incarnation-of-{node}",
            chance=random.Random(1),
        )

    here, there = streams("n1"), streams("n2")
    host, port = await there.start_listening("127.0.0.1", 0)
    here.know({"n2": f"{host}:{port}"})
    try:
        here.cast("n2", Touch(GROUP, ((KEY, 1),)))
        assert here.counters.dropped_casts == 1
        await until(lambda: here.open_to() == ("n2",))
        here.cast("n2", Touch(GROUP, ((KEY, 2),)))
        async with asyncio.timeout(20):
            assert await got.get() == Touch(GROUP, ((KEY, 2),))
        assert here.counters.dropped_casts == 1
    finally:
        await here.close()
        await there.close()


def by_hand(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what never suspends, without an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it suspended")


def test_a_node_without_peers_sweeps_ended_sessions_while_it_commits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No task and no event loop runs there: commits delete a few of those that ended, and the
    store does not fill up with sessions that nobody can read."""
    uptime = 1_000_000
    monkeypatch.setattr("sessionha.state.clock.boottime", lambda: uptime)
    engine = Engine(Settings.load({}, store="memory", store_size="8MB"), APP_KEYS)
    by_hand(engine.start())
    store = engine.state.node.store
    ended = [number.to_bytes(12) for number in range(1, 201)]
    for group in ended:
        by_hand(engine.state.commit(create(group, idle=60_000), fresh=True))
    living = b"\xff" * 12
    used = store.usage().used
    uptime += 120_000
    by_hand(engine.state.commit(create(living), fresh=True))
    for _ in range(90):
        uptime += 1_000
        change = SessionChange(KEY, puts=(("x", "value", b"%d" % uptime),))
        by_hand(engine.state.commit(Batch(living, (change,)), fresh=False))
    with store.read() as reader:
        assert [group for group in (*ended, living) if get_group(reader, group)] == [living]
    assert store.usage().used < used / 10
    assert engine.state.node.counters.swept >= len(ended)
    assert engine.state.load(living, KEY) is not None
    by_hand(engine.stop())


async def test_a_witness_runs_no_application(tmp_path: Path) -> None:
    """It would look for sessions that are not there."""
    file = tmp_path / "cluster.toml"
    tables = [f'[[node]]\nid = "n{n}"\npeer = "127.0.0.{n}:7946"\n' for n in (1, 2, 3)]
    file.write_text("".join(tables) + 'role = "witness"\n', encoding="utf-8")
    settings = Settings.load({}, config=file, node="n3", secret="insecure-loopback")
    engine = Engine(settings, APP_KEYS)
    with pytest.raises(InvalidSettings, match="run `sessionha witness` there"):
        await engine.start()
    assert not engine.running
