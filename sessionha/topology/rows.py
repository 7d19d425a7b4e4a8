"""What the topology manager keeps in the store, so that every engine of the node sees the same."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sessionha.identity import ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Message, decode, encode
from sessionha.store.base import Reader, Store, Writer
from sessionha.topology.members import accepts, holds
from sessionha.view import NO_MEMBERS, Member, View

VIEW = b"\x00view"
KEPT = b"\x00view-kept"
RUN = b"\x00view-run"
GONE = b"\x00view-gone"
FOUND = b"\x00view-found"
INBOX = b"\x00inbox/"

FORGOTTEN = -(1 << 62)
"""Gone since so long ago that it is forgotten whatever `forget_after` is."""

GONE_LIMIT = 1024
"""Nodes that are gone and remembered, above those that the view itself remembers. Where each pod
has a new name there is a new one with every deployment; by then the oldest is long forgotten."""

INBOX_LIMIT = 512
"""Messages for the leader; one more is dropped, and its sender repeats it."""

_encoder = msgspec.msgpack.Encoder()
_views = msgspec.msgpack.Decoder(View)
_times = msgspec.msgpack.Decoder(dict[str, int])
_letters = msgspec.msgpack.Decoder(tuple[str, str, bytes])


class Rows:
    """The rows of one node. Nothing is kept in memory but decoded copies of raw bytes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decoded: tuple[bytes | None, View] = (None, NO_MEMBERS)
        self._gone: tuple[bytes | None, dict[str, int]] = (None, {})

    def view_in(self, reader: Reader) -> View:
        """The view, inside a transaction that acts on it."""
        raw = reader.get(VIEW)
        known, view = self._decoded
        if raw == known:
            return view
        view = NO_MEMBERS if raw is None else _views.decode(raw)
        self._decoded = (raw, view)
        return view

    def view(self) -> View:
        """The view that the node holds now."""
        with self._store.read() as reader:
            return self.view_in(reader)

    def held(self) -> tuple[View, View | None]:
        """The view, and the one set aside until it is verified."""
        with self._store.read() as reader:
            return self.view_in(reader), _kept(reader)

    def raw(self) -> tuple[bytes | None, bytes | None]:
        """What `held` reads, undecoded: equal bytes mean that nothing changed."""
        with self._store.read() as reader:
            return reader.get(VIEW), reader.get(KEPT)

    def begin_run(self, node: str) -> None:
        """Set the view aside when this is the first engine since a restart.

        Until others say that it still holds, the node is in no view. A node whose last view was
        without it comes back in a new incarnation (R7).
        """
        run = str(self._store.run).encode()
        with self._store.write(urgent=True) as writer:
            if writer.get(RUN) == run:
                return
            writer.put(RUN, run)
            view, kept = self.view_in(writer), _kept(writer)
            incarnation = self._store.incarnation
            if holds(view, node, incarnation):
                writer.put(KEPT, _encoder.encode(view))
                writer.put(VIEW, _encoder.encode(View(id=view.id)))
                return
            if kept is not None and holds(kept, node, incarnation):
                return
            writer.delete(KEPT)
        if view.id.number > 0:
            self._store.renew_incarnation()

    def replace(self, base: View, view: View, kept: View | None, now: int) -> bool:
        """Put a view in the place of `base`; False when the store holds another one."""
        with self._store.write(urgent=True) as writer:
            if self.view_in(writer) != base:
                return False
            _put(writer, view, kept, now)
        return True

    def install(self, me: Member, offered: View, now: int) -> View:
        """Install what another node decided, if it applies to this one; the view held then."""
        with self._store.write(urgent=True) as writer:
            held, kept = self.view_in(writer), _kept(writer)
            if not accepts(kept or held, offered, me):
                return held
            _put(writer, offered, None, now)
        return offered

    def post(self, sender: Sender, message: Message) -> None:
        """Leave a message to the leader. A repeated one takes the place of the one before."""
        subject = getattr(message, "node", "")
        key = INBOX + f"{type(message).__name__}/{sender.node}/{subject}".encode()
        letter = _encoder.encode((sender.node, sender.incarnation, encode(message)))
        with self._store.write(urgent=True) as writer:
            if sum(1 for _ in writer.scan(INBOX)) < INBOX_LIMIT:
                writer.put(key, letter)

    def drain(self) -> list[tuple[Sender, Message]]:
        """Take what was left to the leader."""
        with self._store.read() as reader:
            if next(reader.scan(INBOX), None) is None:
                return []
        with self._store.write(urgent=True) as writer:
            rows = list(writer.scan(INBOX))
            for key, _ in rows:
                writer.delete(key)
        letters = [_letters.decode(value) for _, value in rows]
        return [(Sender(node, incarnation), decode(data)) for node, incarnation, data in letters]

    def gone(self) -> dict[str, int]:
        """Nodes that were members and are not now, with the instant (ms) when that was seen."""
        with self._store.read() as reader:
            raw = reader.get(GONE)
        known, times = self._gone
        if raw != known:
            times = _gone(raw)
            self._gone = (raw, times)
        return times

    def found(self) -> dict[str, int]:
        """Nodes that discovery found, with the instant (ms) when it first did."""
        with self._store.read() as reader:
            return _gone(reader.get(FOUND))

    def note_found(self, nodes: Iterable[str], now: int, keep: int) -> None:
        """Discovery finds these nodes; one that it finds no more is known for `keep` ms."""
        before, now_found = self.found(), frozenset(nodes)
        lasting = {n: at for n, at in before.items() if n in now_found or 0 <= now - at < keep}
        times = dict.fromkeys(now_found, now) | lasting
        if times != before:
            with self._store.write(urgent=True) as writer:
                writer.put(FOUND, _encoder.encode(times))

    def forget(self, node: str) -> None:
        """Count the node as forgotten until it is a member again (R18)."""
        with self._store.write(urgent=True) as writer:
            times = _gone(writer.get(GONE)) | {node: FORGOTTEN}
            writer.put(GONE, _encoder.encode(times))

    def alone(self, me: Member) -> View:
        """The view of a node that has no peers; its number outlasts restarts."""
        with self._store.write(urgent=True) as writer:
            held = self.view_in(writer)
            if held.nodes == (me.node,) and holds(held, me.node, me.incarnation):
                return held
            view_id = ViewID(held.id.number + 1, me.node)
            view = View(id=view_id, members=(msgspec.structs.replace(me, joined=view_id),))
            writer.put(VIEW, _encoder.encode(view))
            writer.delete(KEPT)
        return view


def _kept(reader: Reader) -> View | None:
    raw = reader.get(KEPT)
    return None if raw is None else _views.decode(raw)


def _gone(raw: bytes | None) -> dict[str, int]:
    return {} if raw is None else _times.decode(raw)


def _put(writer: Writer, view: View, kept: View | None, now: int) -> None:
    writer.put(VIEW, _encoder.encode(view))
    if kept is None:
        writer.delete(KEPT)
    else:
        writer.put(KEPT, _encoder.encode(kept))
    if not view.members:
        return
    before = _gone(writer.get(GONE))
    times = {node: at for node, at in before.items() if view.member(node) is None}
    times = {node: now for node, _ in view.departed} | times
    if len(times) > GONE_LIMIT:
        recent = {node for node, _ in view.departed}
        old = sorted((node for node in times if node not in recent), key=lambda node: times[node])
        for node in old[: len(times) - GONE_LIMIT]:
            del times[node]
    if times != before:
        writer.put(GONE, _encoder.encode(times))
