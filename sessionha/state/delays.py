"""How long absent nodes are awaited before others take their seats, and what operators said of that
(system 7)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, Literal, NamedTuple

import msgspec

from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Message, Tell, Told, Word
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.store.base import Writer
from sessionha.view import View

log = logging.getLogger("sessionha.state")

WORDS: Final = b"\x00delays"
"""Store row: what operators said, by node. It outlives engines and restarts."""

TRY: Final = 0.6
"""Seconds that a member may take to answer what it is told."""

AGAIN: Final = 1_000
"""Milliseconds before members are told again that did not answer."""

MOST: Final = 1_024
"""Nodes of which words are remembered: as many as are remembered to be gone."""

Kind = Literal["hold", "now", "extend"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Word]).decode


class Delay(NamedTuple):
    """How an absent node is awaited. Times are milliseconds."""

    node: str
    since: int
    """How long ago it went."""
    left: int | None
    """Until its seats are given to others; 0: they are; None: not before an operator says so."""
    word: Kind | None
    """What an operator said of it last."""


class Spoken(NamedTuple):
    """Who knows of an operator's word."""

    told: tuple[str, ...]
    unreachable: tuple[str, ...]
    """Members that did not answer; they are told again while they are members."""


class Delays:
    """One engine's knowledge of the delays of its node.

    Each node counts from the moment at which it saw the other one go, so that no clock is compared
    with another. The end of a delay is acted on by primaries, each for its own groups.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._decoded: tuple[bytes | None, dict[str, Word]] = (None, {})
        self._knows: dict[str, tuple[str, bytes]] = {}
        """Members, in their incarnations, with the row that each of them was told."""
        self._telling: asyncio.Task[None] | None = None
        self._next = 0

    # --- questions ------------------------------------------------------------------------------

    def gone_for_good(self) -> frozenset[str]:
        """The absent nodes whose seats go to others now."""
        return frozenset(delay.node for delay in self.running() if delay.left == 0)

    def running(self) -> list[Delay]:
        """Every node that was a member and is not now, by name."""
        away = self._node.membership.away()
        if not away:
            return []
        words, usual = self.words(), self._node.options.heal_after * 1000
        how = dict(self._node.membership.view().departed)
        return [
            _delay(node, away[node], 0 if how.get(node) == "left" else usual, words.get(node))
            for node in sorted(away)
        ]

    def held(self) -> frozenset[str]:
        """Nodes that are to be awaited until they are back, absent or not yet."""
        return frozenset(name for name, word in self.words().items() if word.kind == "hold")

    def kept(self) -> frozenset[str]:
        """Absent nodes that are awaited because an operator said so: what they may hold is no more
        forgotten than their seats are given away."""
        return frozenset(delay.node for delay in self.running() if delay.word and delay.left != 0)

    def words(self) -> Mapping[str, Word]:
        """What operators said, of nodes that have not returned since."""
        node = self._node
        with node.store.read() as reader:
            raw = reader.get(WORDS)
            if raw is None:
                return {}
            return self._valid(raw, node.view_in(reader))

    def _valid(self, raw: bytes | None, view: View) -> dict[str, Word]:
        if raw is None:
            return {}
        known, words = self._decoded
        if raw != known:
            words = _decode(raw)
            self._decoded = (raw, words)
        return {name: word for name, word in words.items() if not _has_returned(name, word, view)}

    # --- operators ------------------------------------------------------------------------------

    async def say(self, name: str, kind: Kind, extra: int = 0) -> Spoken:
        """Let every member know what is to become of a node's seats: `hold` them until the node is
        back, give them to others `now`, or `extend` the delay by so many milliseconds, those of
        the extensions before included (none: as if nothing had been said).

        Raises:
            StoreFull: nothing was said.
        """
        node = self._node
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            words = self._valid(writer.get(WORDS), view)
            before = words.get(name)
            if kind == "extend" and extra and before is not None and before.kind == "extend":
                extra += before.extra
            number = 1 if before is None else before.number + 1
            words[name] = Word(name, kind, number, view.id, node.me, extra)
            _put(writer, words)
        log.info("the delay of %s: an operator said %s", name, kind)
        return await self._tell(view)

    # --- between members ------------------------------------------------------------------------

    def keep_up(self) -> None:
        """Tell members what they may not know yet: they joined since, or did not answer."""
        node = self._node
        if node.peers is None or (self._telling is not None and not self._telling.done()):
            return
        with node.store.read() as reader:
            raw = reader.get(WORDS)
            view = node.view_in(reader)
        if raw is None or node.clock.now() < self._next:
            return
        if len(self._valid(raw, view)) < len(_decode(raw)):
            with suppress(StoreFull):
                self._hear(())  # what has ended need not be kept
        elif not self._ignorant(raw, view):
            return
        self._telling = node.spawn(self._tell_quietly(view))

    async def _tell_quietly(self, view: View) -> None:
        self._next = self._node.clock.now() + AGAIN
        with suppress(StoreFull):
            if not (await self._tell(view)).unreachable:
                self._next = 0

    async def _tell(self, view: View) -> Spoken:
        node = self._node
        with node.store.read() as reader:
            raw = reader.get(WORDS)
        if raw is None or node.peers is None:
            return Spoken((), ())
        names = self._ignorant(raw, view)
        answered = await asyncio.gather(*(self._tell_one(name, raw, view) for name in names))
        silent = [name for name, ok in zip(names, answered, strict=True) if not ok]
        told = [one.node for one in view.servers if one.node not in (*silent, node.me)]
        return Spoken(tuple(told), tuple(silent))

    def _ignorant(self, raw: bytes, view: View) -> list[str]:
        me = self._node.me
        return [
            member.node
            for member in view.servers
            if member.node != me and self._knows.get(member.node) != (member.incarnation, raw)
        ]

    async def _tell_one(self, name: str, raw: bytes, view: View) -> bool:
        node, member = self._node, view.member(name)
        assert node.peers is not None, "who is alone has nobody to tell"
        assert member is not None, "only members are told"
        message = Tell(tuple(_decode(raw).values()))
        try:
            reply = await node.peers.call(name, message, TRY)
        except PeerUnavailable:
            return False
        if not isinstance(reply, Told):
            return False
        self._hear(reply.words)
        self._knows[name] = (member.incarnation, raw)
        return True

    def on_tell(self, sender: Sender, message: Tell) -> Message:
        """Answer a member that tells of operators' words."""
        node = self._node
        with node.store.read() as reader:
            if not node.shares_view(sender, node.view_in(reader)):
                return NOT_TOGETHER
        mine = self._hear(message.words)
        told = {word.node: word for word in message.words}
        return Told(tuple(word for name, word in mine.items() if word != told.get(name)))

    def _hear(self, heard: Iterable[Word]) -> Mapping[str, Word]:
        """Take up what is news; all that holds then."""
        node = self._node
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            words = self._valid(writer.get(WORDS), view)
            for word in heard:
                known = words.get(word.node)
                if known is None or word.supersedes(known):
                    words[word.node] = word
            holds = [w for w in words.values() if not _has_returned(w.node, w, view)]
            words = {word.node: word for word in holds[:MOST]}
            _put(writer, words)
        return words


def _delay(node: str, since: int, usual: float, word: Word | None) -> Delay:
    """`usual`: milliseconds of the setting, which may be infinite; 0 for one that said that it goes
    for good."""
    if word is None:
        return Delay(node, since, _left(usual - since), None)
    match word.kind:
        case "hold":
            return Delay(node, since, None, "hold")
        case "now":
            return Delay(node, since, 0, "now")
        case "extend":
            told: Kind | None = "extend" if word.extra else None  # nothing takes back all words
            return Delay(node, since, _left(usual + word.extra - since), told)


def _left(left: float) -> int | None:
    return None if left == float("inf") else max(int(left), 0)


def _has_returned(name: str, word: Word, view: View) -> bool:
    """Whether the node joined after the word was said: that ends it. Where two sides of a split met
    since, everybody has, though those of one side keep their places."""
    member = view.member(name)
    return member is not None and max(member.joined, view.barrier) > ViewID(*word.view)


def _put(writer: Writer, words: Mapping[str, Word]) -> None:
    before = writer.get(WORDS)
    if words:
        row = _encode(words)
        if row != before:
            writer.put(WORDS, row)
    elif before is not None:
        writer.delete(WORDS)
