"""A continuous drill: would a takeover with the copies that this node keeps for others work?

The leader of a node verifies a few copies every second, all of them in turn: each is in sync, holds
at the primary's position what the primary holds, and every value in it can be decoded here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Final, Literal, NamedTuple

import msgspec

from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import DOMAINS, NO_POSITION, GroupID, Position, SessionKey
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Exam,
    Examine,
    Examined,
    Fetch,
    Fetched,
    Message,
    Push,
    Shown,
)
from sessionha.state import copies, owners
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.records import (
    GroupRecord,
    get_group,
    groups,
    read_element,
    read_session,
    rows,
)
from sessionha.store.base import Reader
from sessionha.values.codec import Undecodable
from sessionha.values.managers import named, read
from sessionha.view import View

log = logging.getLogger("sessionha.state")

Flaw = Literal["differs", "lacks", "undecodable", "unknown", "quarantined"]
"""Why a takeover with a copy would not work. `differs`: other content than the primary's at the
same position; `lacks`: below what all of C acknowledged; `undecodable`: a value that the codec
cannot read; `unknown`: a value of a data manager that is not registered here; `quarantined`: not
in sync though the primary counts on it."""

EVERY: Final = 1_000
"""Milliseconds between two looks."""

ROWS: Final = 128
"""Groups passed in one look: most may be led here, and are not verified."""

BYTES: Final = 256 * 1024
"""Bytes verified in one look, about: some 3 ms of the loop."""

GROUPS_AT_ONCE: Final = 256
"""Groups in one question; a longer one is answered as far as that."""

PATIENCE: Final = 1.0
"""Seconds a primary may take to answer. Nobody is suspected: the next look asks again."""

REMEMBERED: Final = 1_000
"""Flawed copies that are looked at again with every look, before others; more are met in turn."""

SAY_EVERY: Final = 60_000
"""Milliseconds between two log lines about one kind of flaw."""

DIGEST: Final = 16
"""Bytes of a session's digest."""

SAID: Final[Mapping[Flaw, str]] = {
    "differs": "differ from what the primary has at the same position; they are fetched whole."
    " Look at this machine's memory and disk",
    "lacks": "lack changes that were acknowledged; they are fetched whole",
    "undecodable": "have values that cannot be decoded, nor could they after a takeover",
    "unknown": "have values of data managers that are not registered on this node: register them"
    " at import, in every server",
}


class Content(NamedTuple):
    """What one transaction saw of a group's sessions."""

    sessions: tuple[Shown, ...]
    flaw: Flaw | None
    size: int

    @property
    def living(self) -> int:
        """Sessions that have not ended."""
        return sum(session.lives for session in self.sessions)


class _Copy(NamedTuple):
    group: GroupID
    position: Position
    primary: str
    in_sync: bool
    swept: bool
    content: Content


class Recoverable(NamedTuple):
    """How the copies that this node keeps for others fared when they were last verified."""

    sessions: int
    """Sessions in them."""
    flawed: int
    """Those of them that a takeover would not recover, or not whole."""
    flaws: Mapping[str, int]
    """Copies by what is wrong with them."""
    oldest: float
    """Seconds for which the copy that waits longest was not verified, at most."""

    @property
    def percent(self) -> float | None:
        """Sessions that a takeover would recover; None: there is none, or none was looked at."""
        return 100 * (1 - self.flawed / self.sessions) if self.sessions else None


class Drill:
    """Verifies this node's copies, and answers those who verify theirs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._next = 0
        self._after: GroupID | None = None
        self._entered = 0
        self._checked: list[int] = []
        """Since when every copy of a domain has been verified, by domain."""
        self._sessions = [0] * DOMAINS
        """Those in the copies of a domain, by domain."""
        self._met = 0
        """Those that were met in the present domain so far."""
        self._flawed: dict[GroupID, tuple[Flaw, int]] = {}
        """Copies with a flaw, each with the number of its sessions."""
        self._said: dict[Flaw, int] = {}

    # --- what it has found ----------------------------------------------------------------------

    def found(self) -> Recoverable | None:
        """What was found so far; None: this engine has not looked yet."""
        if not self._checked:
            return None
        flawed = sum(sessions for _, sessions in self._flawed.values())
        oldest = (self._node.clock.now() - min(self._checked)) / 1000
        flaws = Counter(str(flaw) for flaw, _ in self._flawed.values())
        return Recoverable(max(sum(self._sessions), flawed), flawed, flaws, oldest)

    # --- verifying ------------------------------------------------------------------------------

    async def look(self) -> int:
        """Verify the next few copies, when it is time; how many."""
        node, now = self._node, self._node.clock.now()
        most = node.options.drill
        if not most or now < self._next or node.peers is None or not node.membership.is_member():
            return 0
        self._next = now + EVERY
        return await self.verify(self._sample(most, now))

    def _sample(self, most: int, now: int) -> list[_Copy]:
        """The flawed copies again, and as many others as the budget allows, in the order of
        their random IDs."""
        if not self._checked:
            self._checked = [now] * DOMAINS
            self._after = bytes([self._node.random.randrange(DOMAINS)]) + bytes(11)
            self._entered = now
        found: list[_Copy] = []
        size = 0
        with self._node.store.read() as reader:
            view = self._node.view_in(reader)
            for group in list(islice(self._flawed, (most + 1) // 2)):
                record = get_group(reader, group)
                if record is None or not self._is_copy(record):
                    del self._flawed[group]
                else:
                    found.append(self._seen(reader, group, record, view, now))
            passed = 0
            for group, record in islice(groups(reader, self._after), ROWS):
                if len(found) >= most or size >= BYTES:
                    return found
                passed += 1
                self._pass(group, now)
                if group in self._flawed:
                    self._met += self._flawed[group][1]
                elif self._is_copy(record):
                    found.append(self._seen(reader, group, record, view, now))
                    size += found[-1].content.size
                    self._met += found[-1].content.living
        if passed < ROWS:
            self._pass(None, now)
        return found

    def _pass(self, group: GroupID | None, now: int) -> None:
        """Go on to a group; None: there is none above, so the next round begins."""
        domain = DOMAINS if group is None else group[0]
        before = self._after[0] if self._after is not None else 0
        if domain != before:
            self._checked[before], self._sessions[before] = self._entered, self._met
            for empty in range(before + 1, domain):
                self._checked[empty], self._sessions[empty] = now, 0
            self._entered, self._met = now, 0
        self._after = group

    def _is_copy(self, record: GroupRecord) -> bool:
        """Whether it is kept for another node, and nobody is about to take the group over."""
        led = record.promise.node == self._node.me
        return record.held and not led and record.promise == record.epoch

    def _seen(
        self, reader: Reader, group: GroupID, record: GroupRecord, view: View, now: int
    ) -> _Copy:
        in_sync = self._node.is_in_sync(record, view)
        seen = content(reader, group, now, decode=True)
        return _Copy(group, record.position, record.promise.node, in_sync, record.swept, seen)

    async def verify(self, found: Iterable[_Copy]) -> int:
        """Ask the primaries of these copies, and judge each; how many there were."""
        node = self._node
        by_primary: dict[str, list[_Copy]] = {}
        for copy in found:
            by_primary.setdefault(copy.primary, []).append(copy)
        asked = (self._ask(primary, some) for primary, some in by_primary.items())
        answers = dict(zip(by_primary, await asyncio.gather(*asked), strict=True))
        flaws: Counter[Flaw] = Counter()
        renewed = 0
        for primary, some in by_primary.items():
            for copy, shown in zip(some, answers[primary], strict=True):
                flaw = self._judge(copy, shown)
                if flaw is None:
                    self._flawed.pop(copy.group, None)
                    continue
                if self._flawed.pop(copy.group, None) is None:
                    flaws[flaw] += 1
                if len(self._flawed) < REMEMBERED:  # as the last: others have their turn before
                    self._flawed[copy.group] = flaw, max(copy.content.living, 1)
                if flaw in ("differs", "lacks"):
                    renewed += await self._renew(copy, primary)
        counted = sum(map(len, by_primary.values()))
        node.counters.verified += counted
        node.counters.renewed += renewed
        self._count(flaws)
        return counted

    async def _ask(self, primary: str, some: list[_Copy]) -> list[Exam | None]:
        """What the primary has of each; None: it does not say."""
        node = self._node
        nothing: list[Exam | None] = [None] * len(some)
        assert node.peers is not None, "without peers there are no copies"
        if node.membership.view().member(primary) is None:
            return nothing
        question = Examine(tuple(copy.group for copy in some))
        try:
            reply = await node.peers.call(primary, question, PATIENCE)
        except PeerUnavailable:
            return nothing
        if not isinstance(reply, Examined):
            return nothing
        told = {each.group: each for each in reply.groups}
        return [told.get(copy.group) for copy in some]

    # --- judging --------------------------------------------------------------------------------

    def _judge(self, copy: _Copy, exam: Exam | None) -> Flaw | None:
        """What is wrong with a copy, in the light of what its primary has."""
        if exam is None:
            return copy.content.flaw if copy.in_sync else None  # nobody can say more now
        if not exam.counted:
            return None  # left over from before: nobody counts on it
        if not copy.in_sync:
            return "quarantined" if self._still(copy) else None
        if copy.position == exam.position:
            if _differ(copy, exam):
                return "differs"
        elif exam.position.epoch == copy.position.epoch and self._still(copy, below=exam.acked):
            return "lacks"  # all of C had it when it was acknowledged
        return copy.content.flaw

    def _still(self, copy: _Copy, below: int | None = None) -> bool:
        """Whether the copy is in the state in which it was seen, now that its primary has told
        what it has; and at a version `below` this one."""
        node = self._node
        with node.store.read() as reader:
            record = get_group(reader, copy.group)
            view = node.view_in(reader)
        if record is None or record.epoch != copy.position.epoch or not self._is_copy(record):
            return False
        same = node.is_in_sync(record, view) == copy.in_sync
        return same and (below is None or record.version < below)

    def _count(self, flaws: Counter[Flaw]) -> None:
        """Count what was found, and say it: not the same every second."""
        counters, now = self._node.counters, self._node.clock.now()
        counters.differing += flaws["differs"] + flaws["lacks"]
        counters.undecodable += flaws["undecodable"]
        for flaw, count in flaws.items():
            if flaw in SAID and now >= self._said.get(flaw, now):
                self._said[flaw] = now + SAY_EVERY
                level = logging.WARNING if flaw == "unknown" else logging.ERROR
                log.log(level, "%d verified copies of groups of sessions %s", count, SAID[flaw])

    # --- mending --------------------------------------------------------------------------------

    async def _renew(self, copy: _Copy, primary: str) -> bool:
        """Take the whole group again, as the primary has it; but nothing that cannot be decoded
        in the place of what can."""
        node = self._node
        assert node.peers is not None, "a primary answered"
        try:
            reply = await node.peers.call(primary, Fetch(copy.group, NO_POSITION), PATIENCE)
        except PeerUnavailable:
            return False
        if not isinstance(reply, Fetched) or reply.content is None:
            return False
        if copy.content.flaw != "undecodable" and not _is_sound(reply.content):
            log.error(
                "%s leads a group of sessions that cannot be decoded; the copy stays", primary
            )
            return False
        try:
            return self._take(reply.content)
        except StoreFull:
            return False  # the next look tries again

    def _take(self, push: Push) -> bool:
        """Write it, if this node is a holder still and knows of no newer epoch: then it is what
        the primary would have pushed."""
        node = self._node
        with node.store.write() as writer:
            view = node.view_in(writer)
            record = get_group(writer, push.group)
            if record is None or not self._is_copy(record) or not node.is_in_sync(record, view):
                return False
            newer = record.epoch != push.epoch or record.version > push.version
            if newer or not push.full or node.me not in push.holders:
                return False
            copies.accept(writer, record, push, node.clock.now(), node.joined(view))
        return True

    # --- the other side -------------------------------------------------------------------------

    def on_examine(self, sender: Sender, question: Examine) -> Message:
        """Tell a holder of copies where these groups are here, and what is in them."""
        node = self._node
        exams = []
        with node.store.read() as reader:
            view, now = node.view_in(reader), node.clock.now()
            if not node.shares_view(sender, view):
                return NOT_TOGETHER
            for group in question.groups[:GROUPS_AT_ONCE]:
                record = get_group(reader, group)
                if record is None or not node.is_primary(record, view):
                    continue
                shown = content(reader, group, now, decode=False).sessions
                counted = sender.node in record.holders and view.holds(sender.node, record.formed)
                exams.append(Exam(group, record.position, record.acked, counted, shown))
        return Examined(tuple(exams))


def content(reader: Reader, group: GroupID, now: int, *, decode: bool) -> Content:
    """A digest of each session, and (`decode`) whether everything in them can be read.

    Deadlines are left out: they are no part of a position. So are deleted elements, and sessions
    of a subject that is logged out, which end where that is known.
    """
    hashes: dict[SessionKey, blake2b] = {}
    living: dict[SessionKey, bool] = {}
    denied: set[SessionKey] = set()
    flaw: Flaw | None = None
    size = 0
    try:
        for row in rows(reader, group):
            size += len(row.value)
            if row.element is None:
                session = read_session(row.value)
                told = (session.version, session.destroyed, session.size, session.count)
                hashes[row.session] = blake2b(repr(told).encode(), digest_size=DIGEST)
                living[row.session] = not session.ended(now)
                if session.owner is not None and owners.is_denied(reader, session.owner):
                    denied.add(row.session)
                continue
            element = read_element(row.value)
            if element.value is None or row.session not in hashes:
                continue
            facts = (row.element, element.version, element.manager, len(element.value))
            hashes[row.session].update(repr(facts).encode())
            hashes[row.session].update(element.value)
            if decode and living[row.session]:
                found = _flaw_of(element.manager, element.value)
                flaw = found if found and flaw != "undecodable" else flaw
    except (msgspec.DecodeError, UnicodeDecodeError):
        flaw = "undecodable"  # a row itself: whatever is in the group cannot be used
        hashes = {key: blake2b(digest_size=DIGEST) for key in hashes}
    shown = (
        Shown(key, b"" if key in denied else made.digest(), living.get(key, True))
        for key, made in hashes.items()
    )
    return Content(tuple(shown), flaw, size)


def _flaw_of(manager: str, value: bytes) -> Flaw | None:
    if named(manager) is None:
        return "unknown"
    return "undecodable" if isinstance(read(manager, value), Undecodable) else None


def _is_sound(push: Push) -> bool:
    values = ((each.manager, each.value) for each in push.elements if each.value is not None)
    return all(_flaw_of(manager, value) != "undecodable" for manager, value in values)


def _differ(copy: _Copy, exam: Exam) -> bool:
    """Whether copy and primary, at one position, have different sessions. Either may have swept
    what ended, and only one of them may know of a log-out."""
    mine = {session.key: session for session in copy.content.sessions}
    its = {session.key: session for session in exam.sessions}
    for key, session in its.items():
        own = mine.get(key)
        lives = session.lives or (own is not None and own.lives)
        if not lives or not session.digest or copy.swept:
            continue
        if own is None or (own.digest and own.digest != session.digest):
            return True
    return any(own.lives and own.digest and key not in its for key, own in mine.items())
