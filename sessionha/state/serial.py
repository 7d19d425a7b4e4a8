"""Requests of one session that take turns: a queue for each group, in the node's store.

A queue has one entry for each request that has its turn or waits for it, oldest first, and one for
each hand-over, which needs the whole group for itself. An entry whose engine is dead is void. The
turns of a group are taken where its primary is; what a request does that lost its group all the
same (the node stood still, and others went on) is refused when it commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

import msgspec

from sessionha.errors import SessionBusy, SessionUnavailable, StoreError, StoreFull
from sessionha.identity import GroupID, SessionKey
from sessionha.state.base import Turn
from sessionha.state.node import Node
from sessionha.store.base import Reader, Writer

QUEUES: Final = b"\x00turns/"
"""Store rows: a group's queue each."""

POLL: Final = (0.001, 0.016)
"""Seconds between two looks at what a sibling engine does, which cannot wake this one: at first,
and at most."""

WHOLE_GROUP: Final = b""
"""Stands for the key of a session in a hand-over's entry."""


class Entry(NamedTuple):
    """One who has its turn, or waits for it."""

    slot: int
    life: int
    """Which life of the slot: its engine's, drawn at random."""
    number: int
    key: SessionKey

    def excludes(self, other: Entry) -> bool:
        """Whether both cannot have their turns at the same time."""
        return WHOLE_GROUP in (self.key, other.key) or self.key == other.key


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[Entry]]).decode


class Turns:
    """This engine's part in the queues of its node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._life = node.random.getrandbits(48)
        self._count = 0
        self._waiting: dict[Entry, asyncio.Future[None]] = {}
        self._left: list[tuple[GroupID, Entry]] = []
        """Entries that could not be deleted, because the store has not a single page left."""

    def begin(self) -> None:
        """Void what an engine left behind that had this one's slot."""
        store = self._node.store
        with store.read() as reader:
            queues = [(key, self._entries(reader, key)) for key, _ in reader.scan(QUEUES)]
        for key, entries in queues:
            if any(entry.slot == store.slot for entry in entries):
                with store.write(shrinking=True) as writer:
                    kept = [e for e in self._entries(writer, key) if e.slot != store.slot]
                    self._put(writer, key, kept)

    async def take(
        self,
        group: GroupID,
        key: SessionKey = WHOLE_GROUP,
        *,
        patience: float | None = None,
        beside: Collection[Turn] = (),
    ) -> Taken:
        """Wait for a turn, `patience` seconds (`acquire_timeout`): at a session, or at all sessions
        of the group. Suspends only where somebody else has it. `beside`: turns that the request
        has already.

        Raises:
            SessionBusy: whoever has it did not end in time.
            SessionUnavailable: the store is full.
        """
        if patience is None:
            patience = self._node.options.acquire_timeout
        self._count += 1
        mine = Entry(self._node.store.slot, self._life, self._count, key)
        try:
            others = self._join(group, mine, beside)
        except StoreFull as full:
            raise SessionUnavailable(str(full)) from full
        taken = Taken(self, group, mine)
        if others:
            try:
                async with asyncio.timeout(patience):
                    await self._wait(group, mine, others)
            except TimeoutError:
                taken.end()
                raise SessionBusy(
                    f"another request of this session did not end within {patience:g} s; nothing"
                    " was changed (settings `concurrency` and `acquire_timeout`)"
                ) from None
            except BaseException:
                taken.end()
                raise
        return taken

    async def _wait(self, group: GroupID, mine: Entry, others: list[Entry]) -> None:
        pause = POLL[0]
        while others:
            woken = asyncio.get_running_loop().create_future()
            self._waiting[mine] = woken
            try:
                if any(other.life == self._life for other in others):
                    await woken  # by `end`
                else:
                    await asyncio.wait({woken}, timeout=pause)
                    pause = min(pause * 2, POLL[1])
            finally:
                self._waiting.pop(mine, None)
            others = self._look(group, mine)

    # --- the queue ------------------------------------------------------------------------------

    def _join(self, group: GroupID, mine: Entry, beside: Collection[Turn]) -> list[Entry]:
        """Stand at the end of the queue; who has to end first.

        A request that has a turn in the group already stands before any hand-over: that waits for
        it, and would be waited for.
        """
        with self._node.store.write(urgent=True) as writer:
            entries = self._living(self._entries(writer, QUEUES + group))
            place = len(entries)
            if any(isinstance(turn, Taken) and turn.entry in entries for turn in beside):
                whole = (i for i, entry in enumerate(entries) if entry.key == WHOLE_GROUP)
                place = next(whole, place)
            entries.insert(place, mine)
            self._put(writer, QUEUES + group, entries)
        return list(_before(entries, mine))

    def _look(self, group: GroupID, mine: Entry) -> list[Entry]:
        """Who is before this one now."""
        with self._node.store.read() as reader:
            entries = self._entries(reader, QUEUES + group)
        return self._living(list(_before(entries, mine)))

    def leave(self, group: GroupID, mine: Entry) -> None:
        """Leave the queue, and wake up those of this engine who are to look again."""
        self._left.append((group, mine))
        left, self._left = self._left, []
        entries: list[Entry] = []
        for at, entry in left:
            try:
                entries = self._remove(at, entry)
            except StoreFull:
                self._left.append((at, entry))
            except StoreError:
                return  # closed, and the slot with it: the entry is void
        for entry in entries:
            woken = self._waiting.get(entry)
            if woken is None or woken.done():
                continue
            if all(other.life != self._life for other in _before(entries, entry)):
                woken.set_result(None)

    def _remove(self, group: GroupID, mine: Entry) -> list[Entry]:
        key = QUEUES + group
        with self._node.store.write(shrinking=True) as writer:
            entries = self._entries(writer, key)
            if mine in entries:
                entries.remove(mine)
                self._put(writer, key, entries)
        return entries

    def _entries(self, reader: Reader, key: bytes) -> list[Entry]:
        """The queue, without what is left of another run of the node."""
        row = reader.get(key)
        if row is None:
            return []
        run, entries = _decode(row)
        return entries if run == self._node.store.run else []

    def _put(self, writer: Writer, key: bytes, entries: list[Entry]) -> None:
        if entries:
            writer.put(key, _encode((self._node.store.run, entries)))
        else:
            writer.delete(key)

    def _living(self, entries: list[Entry]) -> list[Entry]:
        """Without those of engines that died; asked only where there are siblings."""
        if all(entry.life == self._life for entry in entries):
            return entries
        slots = self._node.store.living_slots()
        return [entry for entry in entries if entry.slot in slots]


class Taken:
    """Implements `sessionha.state.base.Turn`."""

    __slots__ = ("_group", "_turns", "entry")

    def __init__(self, turns: Turns, group: GroupID, entry: Entry) -> None:
        self._turns: Turns | None = turns
        self._group = group
        self.entry = entry

    def end(self) -> None:
        """See `Turn.end`."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.leave(self._group, self.entry)


def _before(entries: list[Entry], mine: Entry) -> Iterator[Entry]:
    """Whoever must end before `mine` has its turn."""
    for entry in entries:
        if entry == mine:
            return
        if entry.excludes(mine):
            yield entry
