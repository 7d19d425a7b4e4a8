"""Streams between nodes, over real sockets."""

import asyncio
import base64
import logging
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from sessionha.errors import Fenced, PeerUnavailable
from sessionha.identity import NO_EPOCH, NO_POSITION
from sessionha.keys import PEER_LABEL, hkdf
from sessionha.peer import channel
from sessionha.peer.base import Links, Sender
from sessionha.peer.channel import Dialled, Outbox
from sessionha.peer.link import knock
from sessionha.peer.messages import (
    Confirm,
    Done,
    ElementRow,
    Failed,
    Message,
    Push,
    Pushed,
    Touch,
)
from sessionha.peer.streams import Limits, Streams
from sessionha.peer.transport import TLS, dial
from tests.peer.conftest import QUICK, SECRET, Make, Watcher, at, until

WAIT = 10.0
"""Seconds that a call may take at most when an answer is expected: no test waits so long."""


def push(size: int = 10) -> Push:
    element = ElementRow(b"k" * 16, "cart", 1, "value", b"v" * size)
    return Push(
        b"g" * 12, NO_POSITION, False, NO_EPOCH, 1, 0, (), ("ann",), (1, ""), ("ann",), 0, (),
        (element,),
    )  # fmt: skip


TOUCH = Touch(b"g" * 12, ((b"k" * 16, 1),))


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


async def test_a_call_brings_the_reply_and_tells_the_proven_sender(make: Make) -> None:
    senders = []

    def handler(sender: Sender, message: Message) -> Message:
        senders.append((sender, message))
        return Pushed(7)

    ann, bob = make("ann"), make("bob", handler)
    ann.know({"bob": await at(bob)})

    assert await ann.call("bob", push(), WAIT) == Pushed(7)
    assert senders == [(Sender("ann", "incarnation-of-ann"), push())]


async def test_streams_are_what_the_topology_manager_asks_for(make: Make) -> None:
    links: Links = make("ann")

    assert links is not None


async def test_a_handler_may_answer_later_and_out_of_order(make: Make) -> None:
    gate = asyncio.Event()

    async def later() -> Message:
        await gate.wait()
        return Pushed(1)

    ann = make("ann")
    bob = make("bob", lambda _, message: later() if isinstance(message, Push) else Done())
    ann.know({"bob": await at(bob)})
    slow = asyncio.ensure_future(ann.call("bob", push(), WAIT))

    assert await ann.call("bob", Confirm("x"), WAIT) == Done()
    assert not slow.done()
    gate.set()
    assert await slow == Pushed(1)


async def test_what_is_queued_in_one_turn_travels_in_one_frame(make: Make) -> None:
    ann, bob = make("ann"), make("bob")
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)
    before = ann.counters.frames_out, bob.counters.frames_out

    await asyncio.gather(*(ann.call("bob", push(), WAIT) for _ in range(1000)))

    assert ann.counters.messages_out == 1001
    assert ann.counters.frames_out - before[0] == 1
    assert bob.counters.frames_out - before[1] == 1


@pytest.mark.parametrize("answered", [True, False], ids=["with its answer", "without one"])
async def test_what_comes_while_a_frame_is_unanswered_travels_together(
    make: Make, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    """With the answer, and when that takes long, after a moment."""
    monkeypatch.setattr(channel, "HELD", 60.0 if answered else 0.01)
    gate, reached = asyncio.Event(), asyncio.Event()

    async def later() -> Message:
        reached.set()
        await gate.wait()
        return Pushed(1)

    ann = make("ann")
    bob = make("bob", lambda _, message: later() if isinstance(message, Push) else Done())
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)
    slow = asyncio.ensure_future(ann.call("bob", push(), WAIT))
    await reached.wait()
    before = ann.counters.frames_out
    others = []
    for _ in range(5):
        others.append(asyncio.ensure_future(ann.call("bob", Confirm("x"), WAIT)))
        await asyncio.sleep(0)
    if answered:
        gate.set()
    assert await asyncio.gather(*others) == [Done()] * 5
    assert slow.done() == answered
    assert ann.counters.frames_out - before == 1
    gate.set()
    assert await slow == Pushed(1)


async def test_a_cast_which_nobody_answers_holds_nothing_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "HELD", 60.0)
    ann, bob = make("ann"), make("bob", lambda _, message: None if message == TOUCH else Done())
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)
    sent = ann.counters.frames_out
    ann.cast("bob", TOUCH)
    await until(lambda: ann.counters.frames_out > sent)
    assert await ann.call("bob", Confirm("x"), WAIT) == Done()


async def test_frames_stay_below_their_limit(make: Make) -> None:
    limits = QUICK._replace(frame_bytes=5_000)
    ann, bob = make("ann", limits=limits), make("bob", limits=limits)
    ann.know({"bob": await at(bob)})

    replies = await asyncio.gather(*(ann.call("bob", push(1000), WAIT) for _ in range(100)))

    assert replies == [Done()] * 100
    assert ann.counters.frames_out >= 25


async def test_a_message_that_fits_no_frame_is_refused_at_its_sender(make: Make) -> None:
    limits = QUICK._replace(frame_bytes=5_000)
    ann, bob = make("ann", limits=limits), make("bob", limits=limits)
    ann.know({"bob": await at(bob)})

    with pytest.raises(PeerUnavailable, match="5000 are allowed") as raised:
        await ann.call("bob", push(6000), WAIT)

    assert not raised.value.sent
    assert await ann.call("bob", Done(), WAIT) == Done()


async def test_a_reply_that_fits_no_frame_is_answered_as_failed(make: Make) -> None:
    limits = QUICK._replace(frame_bytes=5_000)
    ann, bob = make("ann", limits=limits), make("bob", lambda *_: push(6000), limits=limits)
    ann.know({"bob": await at(bob)})

    reply = await ann.call("bob", Done(), WAIT)

    assert isinstance(reply, Failed)
    assert reply.kind == "BadMessage"


async def test_a_frame_above_the_limit_of_the_receiver_closes_the_stream(make: Make) -> None:
    ann = make("ann")
    bob = make("bob", limits=QUICK._replace(frame_bytes=5_000))
    ann.know({"bob": await at(bob)})

    with pytest.raises(PeerUnavailable, match="closed") as raised:
        await ann.call("bob", push(20_000), WAIT)

    assert raised.value.sent
    assert await ann.call("bob", Done(), WAIT) == Done()


async def test_an_unknown_node_is_not_dialled(make: Make) -> None:
    ann = make("ann")
    ann.know({"ann": "127.0.0.1:1"})
    for node in ("bob", "ann"):
        with pytest.raises(PeerUnavailable) as raised:
            await ann.call(node, Done(), WAIT)
        assert not raised.value.sent
        assert not raised.value.refused


async def test_a_refused_dial_fails_at_once_and_says_so(make: Make) -> None:
    watcher = Watcher()
    ann = make("ann", listener=watcher)
    ann.know({"bob": f"127.0.0.1:{free_port()}"})

    with pytest.raises(PeerUnavailable) as raised:
        await ann.call("bob", Done(), WAIT)

    assert raised.value.refused
    assert not raised.value.sent
    assert await watcher.next() == ("down", "bob", True)


async def test_a_lazy_link_that_was_refused_is_dialled_by_the_next_call(make: Make) -> None:
    ann, bob = make("ann"), make("bob")
    port = free_port()
    ann.know({"bob": f"127.0.0.1:{port}"})
    with pytest.raises(PeerUnavailable):
        await ann.call("bob", Done(), WAIT)

    await at(bob, port)

    assert await ann.call("bob", Done(), WAIT) == Done()


async def test_a_node_that_goes_takes_its_calls_along_and_is_known_to_be_refused(
    make: Make,
) -> None:
    watcher, asked = Watcher(), asyncio.Event()

    async def never() -> Message:
        asked.set()
        await asyncio.Event().wait()
        return Done()

    ann, bob = make("ann", listener=watcher), make("bob", lambda *_: never())
    ann.know({"bob": await at(bob)})
    call = asyncio.ensure_future(ann.call("bob", push(), WAIT))
    await asked.wait()

    await bob.close()

    with pytest.raises(PeerUnavailable, match="stream closed") as raised:
        await call
    assert raised.value.sent
    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    assert await watcher.next() == ("down", "bob", True)


async def test_a_kept_stream_is_made_again_when_its_node_comes_back(make: Make) -> None:
    watcher = Watcher()
    ann, bob = make("ann", listener=watcher), make("bob")
    address = await at(bob)
    ann.keep(["bob", "cat"])
    ann.know({"bob": address})
    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    await bob.close()
    assert await watcher.next() == ("down", "bob", True)

    again = make("bob", incarnation=lambda: "second-life")
    await at(again, int(address.split(":")[1]))

    assert await watcher.next() == ("up", "bob", "second-life")
    assert ann.open_to() == ("bob",)
    assert ann.counters.reconnects == 1


async def test_a_closed_stream_to_a_living_node_is_made_again_without_a_word(make: Make) -> None:
    """A closed stream is not a dead node."""
    watcher = Watcher()
    ann, bob = make("ann", listener=watcher), make("bob")
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)

    bob.drop_all()

    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    assert watcher.news.empty()


async def test_all_streams_shake_hands_again_with_a_new_incarnation(make: Make) -> None:
    lives = ["first", "second"]
    seen = []

    def handler(sender: Sender, _: Message) -> Message:
        seen.append(sender.incarnation)
        return Done()

    ann, bob = make("ann", incarnation=lambda: lives[0]), make("bob", handler)
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)

    lives.pop(0)
    ann.drop_all()
    await until(lambda: not ann.open_to())
    await ann.call("bob", Done(), WAIT)

    assert seen == ["first", "second"]


async def test_a_node_that_moved_is_called_at_its_new_address(make: Make) -> None:
    ann, old = make("ann"), make("bob", lambda *_: Pushed(1))
    new = make("bob", lambda *_: Pushed(2))
    ann.know({"bob": await at(old)})
    assert await ann.call("bob", Done(), WAIT) == Pushed(1)

    ann.know({"bob": await at(new)})

    assert await ann.call("bob", Done(), WAIT) == Pushed(2)


async def test_forgetting_a_node_fails_its_calls(make: Make) -> None:
    asked = asyncio.Event()

    async def never() -> Message:
        asked.set()
        await asyncio.Event().wait()
        return Done()

    ann, bob = make("ann"), make("bob", lambda *_: never())
    ann.know({"bob": await at(bob)})
    call = asyncio.ensure_future(ann.call("bob", Done(), WAIT))
    await asked.wait()

    ann.know({})

    with pytest.raises(PeerUnavailable):
        await call
    assert ann.open_to() == ()


async def test_a_call_ends_at_its_deadline_and_a_late_reply_is_dropped(make: Make) -> None:
    gate = asyncio.Event()

    async def later() -> Message:
        await gate.wait()
        return Pushed(1)

    ann = make("ann", limits=Limits())
    bob = make("bob", lambda _, message: later() if isinstance(message, Push) else Done())
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)

    with pytest.raises(PeerUnavailable, match=r"within 0\.01 s") as raised:
        await ann.call("bob", push(), 0.01)
    gate.set()

    assert raised.value.sent
    assert await ann.call("bob", Done(), WAIT) == Done()


async def test_a_cancelled_call_is_forgotten(make: Make) -> None:
    ann, bob = make("ann"), make("bob")
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)
    call = asyncio.ensure_future(ann.call("bob", push(), WAIT))
    await asyncio.sleep(0)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert await ann.call("bob", Done(), WAIT) == Done()
    assert ann._links["bob"]._pending == {}


async def test_casts_reach_an_open_stream_and_are_counted_when_there_is_none(make: Make) -> None:
    got: asyncio.Queue[Message] = asyncio.Queue()

    def handler(_: Sender, message: Message) -> Message:
        got.put_nowait(message)
        return Done()

    ann, bob = make("ann"), make("bob", handler)
    ann.know({"bob": await at(bob)})
    touch = Touch(b"g" * 12, ((b"k" * 16, 5),))
    ann.cast("bob", touch)
    ann.cast("cat", touch)
    assert ann.counters.dropped_casts == 2
    await ann.call("bob", Done(), WAIT)

    ann.cast("bob", touch)

    assert [await got.get(), await got.get()] == [Done(), touch]
    assert bob.counters.messages_out == 1


async def test_a_full_queue_refuses_calls_and_drops_casts(make: Make) -> None:
    ann = make("ann", limits=QUICK._replace(queue_bytes=10_000))
    bob = make("bob")
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)

    results = await asyncio.gather(
        *(ann.call("bob", push(3_000), WAIT) for _ in range(10)), return_exceptions=True
    )
    for _ in range(5):
        ann.cast("bob", push(3_000))

    refused = [result for result in results if isinstance(result, PeerUnavailable)]
    assert len(refused) == 7
    assert not any(error.sent for error in refused)
    assert ann.counters.refused_calls == 7
    assert ann.counters.dropped_casts == 2


async def test_pending_calls_are_limited(make: Make) -> None:
    ann, bob = make("ann", limits=QUICK._replace(calls=3)), make("bob")
    ann.know({"bob": await at(bob)})

    results = await asyncio.gather(
        *(ann.call("bob", Done(), WAIT) for _ in range(5)), return_exceptions=True
    )

    assert [isinstance(result, PeerUnavailable) for result in results] == [False] * 3 + [True] * 2


async def test_calls_wait_while_the_socket_takes_no_more(make: Make) -> None:
    """Back-pressure: frames are made when the socket is writable again, none is lost."""
    ann, bob = make("ann"), make("bob", lambda _, message: message)
    ann.know({"bob": await at(bob)})

    for _ in range(3):
        replies = await asyncio.gather(*(ann.call("bob", push(100_000), WAIT) for _ in range(70)))
        assert replies == [push(100_000)] * 70


async def test_an_asker_that_does_not_read_loses_its_stream(make: Make) -> None:
    limits = QUICK._replace(queue_bytes=300_000)
    ann, bob = make("ann"), make("bob", lambda *_: push(200_000), limits=limits)
    address = await at(bob)
    channel = await shaken(ann, address)
    connection = channel._connection
    assert connection is not None
    reading: Any = connection
    reading._transport.underlying_transport.pause_reading()

    number = 0
    while bob.counters.overflows == 0:
        number += 1
        channel._outbox.add((number, 1, b"\x91\xa4Done"))
        channel.flush()
        await asyncio.sleep(0)

    await until(lambda: not bob._accepted)
    channel.abort()
    await channel.ended


async def test_requests_whose_handlers_run_are_limited(make: Make) -> None:
    gate = asyncio.Event()

    async def later() -> Message:
        await gate.wait()
        return Pushed(1)

    ann = make("ann")
    bob = make("bob", lambda *_: later(), limits=QUICK._replace(running=2))
    ann.know({"bob": await at(bob)})
    calls = [asyncio.ensure_future(ann.call("bob", push(), WAIT)) for _ in range(3)]

    await until(lambda: any(call.done() for call in calls))
    gate.set()

    replies = await asyncio.gather(*calls)
    assert replies[:2] == [Pushed(1), Pushed(1)]
    assert isinstance(replies[2], Failed)


@pytest.mark.parametrize("late", [False, True])
async def test_errors_of_the_tree_travel_by_name_and_others_without_their_text(
    make: Make, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Message) -> Message:
        if isinstance(message, Push):
            raise Fenced(NO_EPOCH)
        raise RuntimeError("canary of an internal error")

    async def fail_later(message: Message) -> Message:
        return fail(message)

    ann = make("ann")
    bob = make("bob", lambda _, message: fail_later(message) if late else fail(message))
    ann.know({"bob": await at(bob)})

    fenced = await ann.call("bob", push(), WAIT)
    internal = await ann.call("bob", Done(), WAIT)

    assert isinstance(fenced, Failed)
    assert fenced.kind == "Fenced"
    assert isinstance(internal, Failed)
    assert "canary" not in internal.reason
    assert "Traceback" in caplog.text
    assert "canary of an internal error" in caplog.text


async def shaken(streams: Streams, address: str, expects: str = "") -> Dialled:
    """A stream that was dialled and has shaken hands, with nothing that uses it."""
    channel = Dialled(
        streams._common, Outbox(), expects, replied=lambda *_: None, taken=lambda got: got
    )
    await knock(streams._common, channel, address, WAIT)
    return channel


async def test_a_message_of_a_newer_version_fails_alone(make: Make) -> None:
    ann, bob = make("ann"), make("bob")
    channel = await shaken(ann, await at(bob))
    replies: list[tuple[int, bytes]] = []
    channel._replied = lambda number, data: replies.append((number, data))
    channel._outbox.add((1, 1, b"\x91\xa6Future"))
    channel._outbox.add((2, 1, b"\x91\xa4Done"))

    channel.flush()
    await until(lambda: len(replies) == 2)

    assert b"BadMessage" in replies[0][1]
    assert replies[1] == (2, b"\x91\xa4Done")
    assert bob.counters.bad_messages == 1
    channel.close()
    await channel.ended


@pytest.mark.parametrize("what", ["bit", "replay", "plain", "short"])
async def test_a_frame_with_a_bad_mac_closes_the_stream_unread(make: Make, what: str) -> None:
    """G13: it has no effect besides a counter and a rate-limited log line."""
    handled = []

    def handler(_: Sender, message: Message) -> Message:
        handled.append(message)
        return Done()

    ann, bob = make("ann"), make("bob", handler)
    channel = await shaken(ann, await at(bob))
    assert channel._connection is not None
    assert channel._session is not None
    good = channel._session.sealer.seal(b"\x91\x93\x01\x01\xc4\x06\x91\xa4Done")
    if what == "replay":
        channel._connection.send(good)
    bad = {
        "bit": good[:-1] + bytes([good[-1] ^ 1]),
        "replay": good,
        "plain": good[24:],
        "short": b"",
    }[what]

    channel._connection.send(bad)
    channel._connection.send(good)

    await channel.ended
    assert bob.counters.authentication_failures == 1
    assert len(handled) == (1 if what == "replay" else 0)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x01\x02", b"\x91\x93\x01\x02\xc4\x00"])
async def test_an_authentic_frame_that_makes_no_sense_closes_the_stream(
    make: Make, payload: bytes
) -> None:
    ann, bob = make("ann"), make("bob")
    channel = await shaken(ann, await at(bob))
    assert channel._connection is not None
    assert channel._session is not None

    channel._connection.send(channel._session.sealer.seal(payload))

    await channel.ended
    assert bob.counters.bad_messages == 1


class Stranger:
    """A client of the transport that has no key."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = frames
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def opened(self, connection: Any) -> None:
        for frame in self.frames:
            connection.send(frame)

    def received(self, frame: memoryview) -> None:
        raise AssertionError("nothing is answered to a stranger")

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def closed(self, *, rejected: bool) -> None:
        self.ended.set_result(rejected)


@pytest.mark.parametrize("frame", [b"", b"\x91\x93\x01\x01\xc4\x06\x91\xa4Done", b"x" * 50_000])
async def test_a_client_that_speaks_garbage_is_rejected_without_an_answer(
    make: Make, frame: bytes
) -> None:
    bob = make("bob")
    stranger = Stranger(frame, frame)

    await dial(await at(bob), stranger, frame_bytes=100_000)

    assert await stranger.ended is True
    assert bob.counters.bad_messages == 1
    assert not bob._accepted


async def test_a_client_that_says_nothing_is_dropped_and_strangers_are_limited(
    make: Make,
) -> None:
    bob = make("bob", limits=QUICK._replace(strangers=2))
    address = await at(bob)
    strangers = [Stranger(), Stranger()]
    for stranger in strangers:
        await dial(address, stranger, frame_bytes=100)

    with pytest.raises(ConnectionError):
        await dial(address, Stranger(), frame_bytes=100)

    assert bob.counters.turned_away == 1
    for stranger in strangers:
        await stranger.ended


@pytest.mark.parametrize(
    ("options", "counter"),
    [
        ({"cluster": "bank"}, "foreign_cluster"),
        ({"secrets": lambda: (b"another secret",)}, "authentication_failures"),
    ],
)
async def test_a_foreign_peer_gets_no_stream_and_both_sides_say_why(
    make: Make, options: dict[str, Any], counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = Watcher()
    ann, bob = make("ann", listener=watcher, **options), make("bob")
    ann.know({"bob": await at(bob)})

    with pytest.raises(PeerUnavailable) as raised:
        await ann.call("bob", Done(), WAIT)

    assert not raised.value.sent
    assert await watcher.next() == ("down", "bob", False)
    assert getattr(bob.counters, counter) == QUICK.attempts
    assert "do cluster ID and secret agree?" in caplog.text
    assert caplog.text.count("closed a peer stream") == 1, "rate-limited"
    if counter == "foreign_cluster":
        assert "cluster bank; this node is of cluster shop" in caplog.text


async def test_a_peer_of_a_cluster_that_began_another_time_is_counted(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """R7a: both sides say so, and what to do."""
    ann, bob = make("ann", beginning=lambda: "one"), make("bob", beginning=lambda: "two")
    ann.know({"bob": await at(bob)})

    with pytest.raises(PeerUnavailable):
        await ann.call("bob", Done(), WAIT)

    assert bob.counters.foreign_cluster == QUICK.attempts
    assert "delete its store and its vote" in caplog.text


async def test_secrets_are_rotated_without_an_interruption(make: Make) -> None:
    secrets: dict[str, tuple[bytes, ...]] = {"ann": (b"old",), "bob": (b"old",)}
    ann = make("ann", secrets=lambda: secrets["ann"])
    bob = make("bob", secrets=lambda: secrets["bob"])
    ann.know({"bob": await at(bob)})
    for node, after in [
        ("ann", (b"old", b"new")),
        ("bob", (b"new", b"old")),
        ("ann", (b"new",)),
        ("bob", (b"new",)),
    ]:
        secrets[node] = after
        ann.drop_all()
        await until(lambda: not ann.open_to())
        assert await ann.call("bob", Done(), WAIT) == Done()
    assert bob.counters.authentication_failures == 0


async def test_another_node_at_the_address_does_not_get_the_calls(make: Make) -> None:
    ann, cat = make("ann"), make("cat")
    ann.know({"bob": await at(cat)})

    with pytest.raises(PeerUnavailable) as raised:
        await ann.call("bob", Done(), WAIT)

    assert not raised.value.sent
    assert cat.counters.messages_in == 0


async def test_a_node_does_not_dial_itself_by_another_name(make: Make) -> None:
    ann = make("ann")
    ann.know({"bob": await at(ann)})

    with pytest.raises(PeerUnavailable):
        await ann.call("bob", Done(), WAIT)


async def test_two_engines_of_a_node_share_one_address(make: Make) -> None:
    one = make("bob", lambda *_: Pushed(1))
    two = make("bob", lambda *_: Pushed(2))
    address = await at(one)
    await at(two, int(address.split(":")[1]))
    seen = set()

    for number in range(200):
        asker = make(f"n{number}")
        asker.know({"bob": address})
        reply = await asker.call("bob", Done(), WAIT)
        await asker.close()
        assert isinstance(reply, Pushed)
        seen.add(reply.version)
        if len(seen) == 2:
            break

    assert seen == {1, 2}


async def test_when_one_engine_ends_its_siblings_go_on_for_the_node(make: Make) -> None:
    watcher = Watcher()
    one, two = make("bob", lambda *_: Pushed(1)), make("bob", lambda *_: Pushed(2))
    ann = make("ann", listener=watcher)
    address = await at(one)
    ann.know({"bob": address})
    assert await ann.call("bob", Done(), WAIT) == Pushed(1)
    await at(two, int(address.split(":")[1]))

    await one.close()

    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    assert await ann.call("bob", Done(), WAIT) == Pushed(2)


@pytest.fixture
def mute() -> Any:
    """An address whose host accepts connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_node_whose_handshakes_stay_unanswered_is_silent_and_not_refused(
    make: Make, mute: str
) -> None:
    watcher = Watcher()
    ann = make("ann", listener=watcher, limits=QUICK._replace(handshake=0.02))
    ann.know({"bob": mute})

    with pytest.raises(PeerUnavailable) as raised:
        await ann.call("bob", Done(), WAIT)

    assert not raised.value.refused
    assert not raised.value.sent
    assert await watcher.next() == ("down", "bob", False)


async def test_a_call_that_was_never_sent_says_so_at_its_deadline(make: Make, mute: str) -> None:
    ann = make("ann")
    ann.know({"bob": mute})

    with pytest.raises(PeerUnavailable) as raised:
        await ann.call("bob", Done(), 0.02)

    assert not raised.value.sent


async def test_a_stream_that_went_silent_is_dialled_again(make: Make) -> None:
    """SO_REUSEPORT may have given us an engine that is stopped; a sibling may answer."""
    watcher = Watcher()
    mute = [False]

    def handler(_: Sender, __: Message) -> Message | None:
        return None if mute[0] else Done()

    ann, bob = make("ann", listener=watcher), make("bob", handler)
    ann.know({"bob": await at(bob)})
    await ann.call("bob", Done(), WAIT)

    mute[0] = True
    with pytest.raises(PeerUnavailable) as raised:
        await ann.call("bob", Done(), 0.1)
    mute[0] = False

    assert raised.value.sent
    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    assert await watcher.next() == ("up", "bob", "incarnation-of-bob")
    assert await ann.call("bob", Done(), WAIT) == Done()


async def test_a_probe_tells_alive_refused_and_silent_apart(make: Make, mute: str) -> None:
    ann, bob, foreign = make("ann"), make("bob"), make("cat", cluster="bank")

    assert await ann.probe(await at(bob), WAIT) == "alive"
    assert await ann.probe(f"127.0.0.1:{free_port()}", WAIT) == "refused"
    assert await ann.probe(mute, 0.05) == "silent"
    assert await ann.probe(await at(foreign), 0.05) == "silent"
    await until(lambda: not bob._accepted)


@pytest.mark.needs("openssl")
async def test_streams_run_over_mutual_tls(make: Make, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    process = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "1", "-subj", "/CN=peer", "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", str(key), "-out", str(certificate), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    client = ssl.create_default_context(cafile=certificate)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (client, server):
        context.load_cert_chain(certificate, key)
    tls = TLS(client, server)
    ann, bob, plain = make("ann", tls=tls), make("bob", tls=tls), make("cat")
    address = await at(bob)
    for streams in (ann, plain):
        streams.know({"bob": address})

    assert await ann.call("bob", push(100_000), WAIT) == Done()
    with pytest.raises(PeerUnavailable) as raised:
        await plain.call("bob", Done(), WAIT)
    assert not raised.value.refused


async def test_closing_ends_everything_and_later_calls_fail_at_once(make: Make) -> None:
    started = asyncio.Event()
    cancelled = []

    async def never() -> Message:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return Done()

    ann, bob = make("ann"), make("bob", lambda *_: never())
    ann.know({"bob": await at(bob)})
    call = asyncio.ensure_future(ann.call("bob", Done(), WAIT))
    await started.wait()

    await ann.close()
    await bob.close()

    with pytest.raises(PeerUnavailable):
        await call
    with pytest.raises(PeerUnavailable):
        await ann.call("bob", Done(), WAIT)
    assert cancelled == [True]
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_construction_needs_no_event_loop_and_starts_nothing() -> None:
    streams = Streams(
        "ann", "shop", lambda *_: None, secrets=lambda: (), incarnation=lambda: "first"
    )

    assert streams.open_to() == ()


async def test_no_secret_and_no_value_is_ever_logged(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """I18, with every logger at its lowest level, the WebSocket library's included."""
    caplog.set_level(1)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(1, name)
    ann, bob = make("ann"), make("bob", lambda _, message: message)
    stranger = make("cat", secrets=lambda: (b"wrong-canary-secret",))
    address = await at(bob)
    for streams in (ann, stranger):
        streams.know({"bob": address})
    value = b"canary-of-a-session-value"
    message = Confirm(value.decode())
    await ann.call("bob", message, WAIT)
    with pytest.raises(PeerUnavailable):
        await stranger.call("bob", message, WAIT)
    channel = await shaken(ann, address)
    assert channel._connection is not None
    channel._connection.send(b"garbage" + value)
    await channel.ended

    text = caplog.text + "".join(repr(record.__dict__) for record in caplog.records)
    root = hkdf(SECRET, PEER_LABEL)
    assert "sessionha.peer" in text
    for canary in (SECRET, b"wrong-canary-secret", value, root):
        for shown in (canary, canary.hex().encode(), base64.b64encode(canary)):
            assert shown.decode("latin-1") not in text
            assert repr(shown)[2:-1] not in text
    for thing in (ann, ann._common, ann._keys(), channel):
        assert SECRET.decode() not in repr(thing)


PEER_PROGRAM = """
import asyncio, sys
from sessionha.peer.messages import Done
from sessionha.peer.streams import Streams

async def main():
    streams = Streams("bob", "shop", lambda *_: Done(), secrets=lambda: (sys.argv[1].encode(),),
                      incarnation=lambda: "first")
    host, port = await streams.start_listening("127.0.0.1", int(sys.argv[2]))
    print(port, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_process(port: int = 0) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PEER_PROGRAM, SECRET.decode(), str(port),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    return process, f"127.0.0.1:{int(line)}"


@pytest.mark.processes
async def test_a_killed_process_is_refused_at_once(make: Make) -> None:
    """system 3 (d), its first step: a kill −9 closes the streams and the next dial is refused."""
    watcher = Watcher()
    ann = make("ann", listener=watcher)
    process, address = await start_process()
    ann.keep(["bob"])
    ann.know({"bob": address})
    assert await watcher.next() == ("up", "bob", "first")

    process.kill()

    assert await watcher.next() == ("down", "bob", True)
    await process.wait()


@pytest.mark.processes
async def test_a_stopped_engine_does_not_hide_its_living_sibling(make: Make) -> None:
    """Handshakes that the kernel gives to the stopped engine are tried again."""
    stopped, address = await start_process()
    living, _ = await start_process(int(address.split(":")[1]))
    stopped.send_signal(signal.SIGSTOP)
    ann = make("ann", limits=QUICK._replace(handshake=0.1, attempts=20))
    try:
        for _ in range(4):
            ann.know({"bob": address})
            assert await ann.call("bob", Done(), WAIT) == Done()
            ann.know({})
    finally:
        for process in (stopped, living):
            process.kill()
            await process.wait()


async def test_who_lives_at_an_address_is_proven_without_knowing_whom_to_expect(
    make: Make, mute: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also this node itself, which then is neither taken for another of its name nor reported."""
    ann, bob = make("ann"), make("bob")
    assert await ann.identify(await at(bob)) == ("bob", "incarnation-of-bob")
    assert await ann.identify(await at(ann)) == ("ann", "incarnation-of-ann")
    assert caplog.records == []
    assert await ann.identify(f"127.0.0.1:{free_port()}") is None
    assert await ann.identify(mute) is None


async def test_nobody_without_the_secret_or_of_another_cluster_is_identified(make: Make) -> None:
    ann = make("ann")
    stranger = make("bob", secrets=lambda: (b"another-secret-0123456789-0123456789",))
    foreign = make("eve", cluster="blog")
    assert await ann.identify(await at(stranger)) is None
    assert await ann.identify(await at(foreign)) is None
    assert await stranger.identify(await at(ann)) is None
