"""One hop around a broken link, over real sockets."""

import asyncio

import pytest

from sessionha.errors import Fenced, PeerUnavailable
from sessionha.identity import NO_EPOCH
from sessionha.peer.base import Sender, Way
from sessionha.peer.messages import Confirm, Done, Failed, Message, Relay, Relayed, Touch, encode
from sessionha.peer.relay import Relays
from sessionha.peer.streams import Streams
from tests.peer.conftest import Make, at, until

WAIT = 10.0
TOUCH = Touch(b"g" * 12, ((b"k" * 16, 1),))
WAY = Way("mid", "incarnation-of-bob")


class Member:
    """A node that passes messages on, and remembers what was for itself."""

    def __init__(self, make: Make, name: str, members: set[str]) -> None:
        self.heard: list[tuple[Sender, Message]] = []
        self.streams: Streams = make(name, self._handle)
        self._relays = Relays(
            lambda: Sender(name, f"incarnation-of-{name}"),
            lambda node, incarnation: node in members and incarnation == f"incarnation-of-{node}",
            self.streams,
            self._handle,
        )

    def _handle(self, sender: Sender, message: Message):  # type: ignore[no-untyped-def]
        if isinstance(message, Relay):
            return self._relays.handle(sender, message)
        self.heard.append((sender, message))
        if isinstance(message, Confirm) and message.node == "error":
            raise Fenced(NO_EPOCH)
        return Done() if isinstance(message, Confirm) else None


@pytest.fixture
async def three(make: Make) -> list[Member]:
    """ann knows only mid; so does bob."""
    members = {"ann", "mid", "bob"}
    ann, mid, bob = (Member(make, name, members) for name in ("ann", "mid", "bob"))
    ann.streams.know({"mid": await at(mid.streams)})
    mid.streams.know({"bob": await at(bob.streams)})
    return [ann, mid, bob]


async def test_a_message_takes_one_hop_and_its_reply_comes_back(three: list[Member]) -> None:
    """R1: the receiver sees who sent it; the one in between does not look at it."""
    ann, mid, bob = three
    ann.streams.detour({"bob": WAY})
    assert await ann.streams.call("bob", Confirm("x"), WAIT) == Done()
    assert bob.heard == [(Sender("ann", "incarnation-of-ann"), Confirm("x"))]
    assert mid.heard == []
    assert isinstance(await ann.streams.call("bob", Confirm("error"), WAIT), Failed)
    ann.streams.cast("bob", TOUCH)
    await until(lambda: len(bob.heard) == 3)
    assert bob.heard[2] == (Sender("ann", "incarnation-of-ann"), TOUCH)


async def test_a_detour_is_taken_by_no_call_that_goes_straight(three: list[Member]) -> None:
    """What tests the link must not take the way around it."""
    ann, _, bob = three
    ann.streams.detour({"bob": WAY})
    with pytest.raises(PeerUnavailable, match="not known"):
        await ann.streams.call("bob", Confirm("x"), WAIT, straight=True)
    ann.streams.detour({})
    with pytest.raises(PeerUnavailable, match="not known"):
        await ann.streams.call("bob", Confirm("x"), WAIT)
    assert bob.heard == []


async def test_there_is_one_hop_at_most(three: list[Member]) -> None:
    """Neither is a message passed on twice, nor is one taken out of another to be passed on."""
    ann, mid, bob = three
    origin = ("ann", "incarnation-of-ann")
    far = Relay("bob", "incarnation-of-bob", encode(Confirm("x")), 1_000, origin)
    sent = Relay("mid", "incarnation-of-mid", encode(far), 1_000, origin)
    assert isinstance(await ann.streams.call("mid", sent, WAIT), Failed)
    reply = await ann.streams.call("mid", far, WAIT)
    assert isinstance(reply, Relayed)
    assert reply.data is None
    assert bob.heard == mid.heard == []


@pytest.mark.parametrize(
    ("way", "why"),
    [
        (Way("mid", "another"), "no members of one view"),
        (Way("nobody", "incarnation-of-bob"), "cannot be reached through nobody"),
    ],
)
async def test_only_members_are_served(three: list[Member], way: Way, why: str) -> None:
    """A view names both ends in their incarnations."""
    ann, _, bob = three
    ann.streams.detour({"bob": way})
    with pytest.raises(PeerUnavailable, match=why) as caught:
        await ann.streams.call("bob", Confirm("x"), WAIT)
    assert not caught.value.sent
    assert bob.heard == []


async def test_a_stranger_has_nothing_passed_on(three: list[Member], make: Make) -> None:
    """A router has the secret too, and is in no view."""
    ann, _, bob = three
    router = Member(make, "router", set())
    router.streams.know(ann.streams._directory)
    router.streams.detour({"bob": WAY})
    with pytest.raises(PeerUnavailable, match="no members of one view"):
        await router.streams.call("bob", Confirm("x"), WAIT)
    assert bob.heard == []


async def test_silence_beyond_the_hop_is_no_refusal(three: list[Member]) -> None:
    """A refusal proves something only to who met it (R2a)."""
    ann, _, bob = three
    ann.streams.detour({"bob": WAY})
    await bob.streams.close()
    with pytest.raises(PeerUnavailable) as caught:
        await asyncio.wait_for(ann.streams.call("bob", Confirm("x"), 2.0), WAIT)
    assert not caught.value.refused
