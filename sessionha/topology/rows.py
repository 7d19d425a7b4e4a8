"""What the topology manager keeps in the store, so that every engine of the node sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec

from sessionha.errors import StoreFull
from sessionha.identity import ViewID
from sessionha.peer.base import Sender, Way
from sessionha.peer.messages import (
    Accept,
    Accepted,
    Message,
    Ping,
    Prepare,
    Prepared,
    decode,
    encode,
)
from sessionha.store.base import Reader, Store, Writer
from sessionha.topology.detector import NEVER
from sessionha.topology.effects import Release
from sessionha.topology.members import accepts, holds
from sessionha.topology.votes import NO_BALLOT, Vote, VoteFile
from sessionha.view import NO_MEMBERS, Drains, Member, View

VIEW = b"\x00view"
KEPT = b"\x00view-kept"
RUN = b"\x00view-run"
GONE = b"\x00view-gone"
DETOURS = b"\x00view-detours"
FOUND = b"\x00view-found"
INBOX = b"\x00inbox/"
LEASE = b"\x00lease"
GRANTS = b"\x00lease-given"
BLANK = b"\x00vote-blank"
DRAINS = b"\x00drains"

FORGOTTEN = NEVER
"""Gone since so long ago that it is forgotten whatever `forget_after` is."""

GONE_LIMIT = 1024
"""Nodes that are gone and remembered, above those that the view itself remembers. Where each pod
has a new name there is a new one with every deployment; by then the oldest is long forgotten."""

INBOX_LIMIT = 512
"""Messages for the leader; one more is dropped, and its sender repeats it."""


RUNS_OUT = 2
"""Leases for which an elector grants none to a member that a proposed view leaves out: its last
one, and as long again in which the proposal must be made once more."""


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """When a member was last told that it may serve, and which of its starts."""

    incarnation: str
    run: int
    at: int


class Grants(msgspec.Struct, frozen=True, array_like=True):
    """What this node has answered that others' leases may rest on, as an elector (R9)."""

    since: int = 0
    """Every member counts as answered then: this node started, or other electors decide."""
    given: dict[str, Grant] = {}
    ended: dict[str, Grant] = {}
    """Members that serve no more by proof, up to which of their starts."""
    refused: dict[str, tuple[int, int]] = {}
    """Members that a view of this number leaves out, which this node was asked to accept, and until
    when their leases are let run out for it: who proposed it may have died, or think better of it.
    """
    accepted: int = 0
    """The highest number of a view that this node has accepted."""

    def last(self, member: Member) -> int:
        """When the member may last have been answered."""
        given, ended = self.given.get(member.node), self.ended.get(member.node)
        if ended is not None and ended.incarnation == member.incarnation:
            return NEVER
        if given is None or given.incarnation != member.incarnation:
            return self.since
        return max(given.at, self.since)

    def allows(self, node: str, incarnation: str, run: int, held: View, now: int) -> bool:
        """Whether the member that asks may be told that it may serve under the view held here."""
        number, until = self.refused.get(node, (0, 0))
        if self.accepted > held.id.number or (number > held.id.number and now < until):
            return False
        ended = self.ended.get(node)
        return ended is None or ended.incarnation != incarnation or run > ended.run

    def grant(self, node: str, grant: Grant) -> Grants:
        """With this one given."""
        ended = {name: one for name, one in self.ended.items() if name != node}
        return msgspec.structs.replace(self, given=self.given | {node: grant}, ended=ended)

    def release(self, node: str, incarnation: str, run: int | None, before: int = 0) -> Grants:
        """With what the member was granted void: up to its start `run`, or because its death was
        seen after the instant `before`, unless it was granted something since."""
        given = self.given.get(node)
        mine = given is not None and given.incarnation == incarnation
        latest = given.run if given is not None and mine else 0
        granted = max(given.at if given is not None and mine else NEVER, self.since)
        if granted >= before if run is None else latest > run:
            return self
        ended = Grant(incarnation, latest if run is None else run, NEVER)
        return msgspec.structs.replace(self, ended=self.ended | {node: ended})

    def under(self, view: View, before: View, now: int) -> Grants:
        """With nobody in it but the members of a view that takes the place of `before`. One between
        the two that this node has not seen may have had other electors, and leases rest on them."""
        skipped = view.id.number > before.id.number + 1
        anew = skipped or view.voters != before.voters
        since = now if anew else self.since
        return Grants(
            since,
            {node: one for node, one in self.given.items() if view.member(node)},
            {} if anew else {node: one for node, one in self.ended.items() if view.member(node)},
            {node: one for node, one in self.refused.items() if one[0] > view.id.number},
            self.accepted,
        )


_encoder = msgspec.msgpack.Encoder()
_views = msgspec.msgpack.Decoder(View)
_times = msgspec.msgpack.Decoder(dict[str, int])
_grants = msgspec.msgpack.Decoder(Grants)
_votes = msgspec.msgpack.Decoder(tuple[str, Vote])
_drains = msgspec.msgpack.Decoder(Drains)
_ways = msgspec.msgpack.Decoder(dict[str, Way])
_letters = msgspec.msgpack.Decoder(tuple[str, str, bytes])


class Voting(NamedTuple):
    """What an elector has besides its store."""

    file: VoteFile
    token: Callable[[], str]
    """Random text that nobody has had before."""
    electors: tuple[str, ...]
    """Who is configured to decide the first view."""
    lease: int
    """Milliseconds for which what was granted binds this node."""


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

    def raw(self) -> tuple[bytes | None, ...]:
        """What `held` and `detours` read, undecoded: equal bytes mean that nothing changed."""
        with self._store.read() as reader:
            return reader.get(VIEW), reader.get(KEPT), reader.get(DETOURS)

    def detours(self) -> dict[str, Way]:
        """Nodes that the engines of this one reach by one hop."""
        with self._store.read() as reader:
            raw = reader.get(DETOURS)
        return {} if raw is None else _ways.decode(raw)

    def note_detours(self, ways: Mapping[str, Way]) -> None:
        """Let every engine of this node take these detours, and no others."""
        with self._store.write(urgent=True) as writer:
            if ways:
                writer.put(DETOURS, _encoder.encode(ways))
            else:
                writer.delete(DETOURS)

    def drains(self) -> Drains:
        """How the node drains, since it started."""
        with self._store.read() as reader:
            raw = reader.get(DRAINS)
        return "" if raw is None else _drains.decode(raw)

    def note_drains(self, how: Drains) -> None:
        """Let every engine of the node say that it drains in this way."""
        with self._store.write(urgent=True) as writer:
            writer.put(DRAINS, _encoder.encode(how))

    def begin_run(self, me: Member, now: int, votes: Voting | None = None) -> None:
        """Set the view aside when this is the first engine since a restart.

        Until others say that it still holds, the node is in no view. A node whose last view was
        without it comes back in a new incarnation (R7), and so does one whose last view was made
        in the other mode, or had it as a witness that is a server now, or the reverse: what others
        take its answers for has changed. `votes`: of an elector; what they know of views is taken
        up, and whoever was answered before the restart counts as answered now.
        """
        run = str(self._store.run).encode()
        with self._store.write(urgent=True) as writer:
            if writer.get(RUN) == run:
                return
            writer.put(RUN, run)
            writer.delete(LEASE)
            writer.delete(DETOURS)
            writer.delete(DRAINS)
            view, kept = self.view_in(writer), _kept(writer)
            number = view.id.number
            incarnation = self._store.incarnation
            if holds(view, me.node, incarnation):
                kept, view = view, View(id=view.id)
            was = kept.member(me.node) if kept is not None else None
            keeps = was is not None and was.incarnation == incarnation
            if was is not None and (was.role == "witness") != (me.role == "witness"):
                keeps = False
            if kept is not None and bool(kept.electors) != (votes is not None):
                keeps = False
            if view.members and bool(view.electors) != (votes is not None):
                view = View(id=view.id)
            if votes is not None and not keeps and not view.members:
                view = NO_MEMBERS
            writer.put(VIEW, _encoder.encode(view))
            if keeps and kept is not None:
                writer.put(KEPT, _encoder.encode(kept))
            else:
                writer.delete(KEPT)
            if votes is not None:
                self._begin_voting(writer, votes, now)
        if number > 0 and not keeps:
            self._store.renew_incarnation()

    def _begin_voting(self, writer: Writer, votes: Voting, now: int) -> None:
        vote = votes.file.load()
        if vote is None:
            writer.put(BLANK, _encoder.encode((votes.token(), Vote())))
        else:
            writer.delete(BLANK)
            if vote.base.supersedes(_kept(writer) or self.view_in(writer)):
                writer.put(VIEW, _encoder.encode(vote.base))
                writer.delete(KEPT)
        accepted = vote.number if vote is not None and vote.view is not None else 0
        writer.put(GRANTS, _encoder.encode(Grants(since=now, accepted=accepted)))

    def replace(self, base: View, view: View, kept: View | None, now: int) -> bool:
        """Put a view in the place of `base`; False when the store holds another one."""
        with self._store.write(urgent=True) as writer:
            if self.view_in(writer) != base:
                return False
            _put(writer, view, kept, now)
            self._decoded = (writer.get(VIEW), view)
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

    # --- leases and votes ------------------------------------------------------------------------

    def lease_in(self, reader: Reader) -> int:
        """Until when this node may serve (R9), inside a transaction that acts on it."""
        raw = reader.get(LEASE)
        return 0 if raw is None else int.from_bytes(raw)

    def lease(self, until: int) -> None:
        """Let this node serve until then; not where the store has no page left."""
        # Replaced by a row as large, so that a full store can serve what it has.
        with suppress(StoreFull), self._store.write(shrinking=True) as writer:
            before = self.lease_in(writer)
            if until > before and _given(writer).accepted > self.view_in(writer).id.number:
                return  # perhaps this node voted itself out: until that is decided, no longer
            writer.put(LEASE, max(until, 0).to_bytes(8))

    def grants(self) -> Grants:
        """What others' leases may rest on."""
        with self._store.read() as reader:
            return _given(reader)

    def grant(self, sender: Sender, ping: Ping, now: int) -> bool:
        """Whether who asks may count this node's answer for its lease; remembered before."""
        try:
            with self._store.write(shrinking=True) as writer:
                view, grants = self.view_in(writer), _given(writer)
                if _blank(writer) is not None:
                    return False  # it may have accepted a later view, and forgotten that
                if ping.view != view.id or not holds(view, sender.node, sender.incarnation):
                    return False
                if not grants.allows(sender.node, sender.incarnation, ping.run, view, now):
                    return False
                given = Grant(sender.incarnation, ping.run, now)
                writer.put(GRANTS, _encoder.encode(grants.grant(sender.node, given)))
        except StoreFull:
            return False
        return True

    def release(self, gone: Release) -> None:
        """A member serves no more, by proof: nobody has to wait for the end of its lease."""
        with suppress(StoreFull), self._store.write(shrinking=True) as writer:
            before = _given(writer)
            grants = before.release(gone.node, gone.incarnation, gone.run, gone.before)
            if grants != before:
                writer.put(GRANTS, _encoder.encode(grants))

    def blank(self) -> str:
        """The token of this elector's lost votes; empty when it has them (R7a)."""
        with self._store.read() as reader:
            found = _blank(reader)
        return found[0] if found is not None else ""

    def swear_in(self, node: str, file: VoteFile) -> None:
        """Vote again, where the view says that it was decided after this node's votes were lost:
        whatever it had voted on was decided by then."""
        with self._store.read() as reader:
            if (found := _blank(reader)) is None:
                return
            view = self.view_in(reader)
        if (node, found[0]) not in view.sworn:
            return
        with self._store.write(urgent=True) as writer:
            if _blank(writer) == found:
                file.save(Vote(view.id.number, base=view))
                writer.delete(BLANK)

    def prepare(self, asked: Prepare, file: VoteFile) -> Prepared:
        """An elector's answer to phase 1; the view that the question is based on is installed."""
        with self._store.write(urgent=True) as writer:
            held, before, blank = self._voting(writer, file)
            vote = before
            if held.id.number == asked.number - 1:
                vote = before.prepare(asked.number, asked.ballot, held)
            if vote != before:
                self._keep(writer, vote, blank, file)
        mine = vote.number == asked.number
        return Prepared(
            vote.promised if mine else NO_BALLOT,
            vote.accepted if mine else NO_BALLOT,
            vote.view if mine else None,
            blank,
            max(held.id.number, vote.number - 1),
        )

    def accept(self, asked: Accept, me: Member, file: VoteFile, now: int, lease: int) -> Accepted:
        """An elector's answer to phase 2. A view that leaves a member out is not accepted before
        `lease` ms after this node last answered that member, unless it serves no more by proof."""
        number = asked.view.id.number
        with self._store.write(urgent=True) as writer:
            held, vote, blank = self._voting(writer, file)
            known = vote.accept(asked.ballot, asked.view, held)
            counts = not blank or (
                (me.node, blank) in asked.tokens and vote.promised == asked.ballot
            )
            if held.id.number != number - 1 or not counts or known.accepted != asked.ballot:
                level = max(held.id.number, vote.number - 1)
                return Accepted(False, vote.promised, 0, level)
            grants = _given(writer)
            wait, refused = _unexpired(held, asked.view, grants, now - lease, me.node)
            if refused:
                until = now + RUNS_OUT * lease
                grants = msgspec.structs.replace(
                    grants, refused=grants.refused | dict.fromkeys(refused, (number, until))
                )
            if not wait:
                self._keep(writer, known, "", file)
                writer.delete(BLANK)
                grants = msgspec.structs.replace(grants, accepted=number)
                if not holds(asked.view, me.node, me.incarnation):
                    writer.put(LEASE, bytes(8))  # it counted itself for its own lease
            writer.put(GRANTS, _encoder.encode(grants))
        return Accepted(not wait, known.promised, wait, held.id.number)

    def _voting(self, reader: Reader, file: VoteFile) -> tuple[View, Vote, str]:
        """The view held, the vote, and the token of its loss."""
        held = _kept(reader) or self.view_in(reader)
        if (found := _blank(reader)) is not None:
            return held, found[1], found[0]
        return held, file.load() or Vote(), ""

    def _keep(self, writer: Writer, vote: Vote, blank: str, file: VoteFile) -> None:
        """A blank elector's promises hold for as long as its token does."""
        if blank:
            writer.put(BLANK, _encoder.encode((blank, vote)))
        else:
            file.save(vote)

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


def _given(reader: Reader) -> Grants:
    raw = reader.get(GRANTS)
    return Grants() if raw is None else _grants.decode(raw)


def _blank(reader: Reader) -> tuple[str, Vote] | None:
    raw = reader.get(BLANK)
    return None if raw is None else _votes.decode(raw)


def _unexpired(
    held: View, proposed: View, grants: Grants, before: int, me: str
) -> tuple[int, list[str]]:
    """How long a member that the proposed view leaves out may still have a lease, and which are
    left out without proof. A member in another incarnation has lost its store, and its lease."""
    out = [m for m in held.members if m.node != me and proposed.member(m.node) is None]
    unproven = [member for member in out if grants.last(member) > NEVER]
    wait = max((grants.last(member) - before for member in unproven), default=0)
    return max(wait, 0), [member.node for member in unproven]


def _put(writer: Writer, view: View, kept: View | None, now: int) -> None:
    before_view = _kept(writer) or _views.decode(writer.get(VIEW) or _encoder.encode(NO_MEMBERS))
    if view.members:
        grants = _given(writer)
        if (fewer := grants.under(view, before_view, now)) != grants:
            writer.put(GRANTS, _encoder.encode(fewer))
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
