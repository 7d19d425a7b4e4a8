"""Brings every group that this node leads, or inherits, to its wanted copies: domain by domain.

Of each domain (US 7,239,605): groups whose primary is gone for good are promoted together; their
content walks to its new holders without any lock; then the domain is locked for one small step of
every group, and released. What needs no lock is done for several small domains together. Nothing is
remembered between two steps but what the groups' rows say, so whoever goes on after an
interruption, here or elsewhere, does what is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from sessionha.errors import Fenced, SessionHAError, StoreFull
from sessionha.identity import (
    NO_POSITION,
    NO_VIEW,
    Epoch,
    GroupID,
    Position,
    ViewID,
    domain_of,
)
from sessionha.peer.messages import Push
from sessionha.state import copies, domains
from sessionha.state.bulk import Bulk, Known
from sessionha.state.manager import StateManager
from sessionha.state.pace import Pace
from sessionha.state.records import GroupRecord, get_group, groups
from sessionha.state.replication import REFUSAL
from sessionha.state.walking import Interrupted
from sessionha.view import View

log = logging.getLogger("sessionha.state")

LOOKED: Final = 32
"""Groups looked at in one turn of the event loop: about 1 ms."""

ASKED: Final = 128
"""Groups in one question to all members: about 3 ms at either end."""

TOGETHER: Final = 32
"""Groups in one step under the lock: about 3 ms at either end, for which requests wait."""

CLAIMING: Final = 5_000
"""Milliseconds for which a member that was promised a group may be about to lead it: longer than it
goes on trying. A later promise fences it, so nothing depends on it."""

CLAIMS: Final = 10_000
"""Claims that are remembered, about 2 MB; with more the oldest begin anew."""

PREPARED: Final = 64
"""Groups whose domains are prepared together, so that a round trip, which takes long where nodes
are busy, is not made for every few groups: two full steps."""

SIDE_BY_SIDE: Final = 8
"""Groups that are settled one by one at the same time, where a step of many had no success."""

BETWEEN: Final = 0.002
"""Seconds between two locks of one domain, so that who waited for it gets in."""


@dataclass(slots=True)
class Share:
    """What one node gets of the healing, in the domains that were looked at so far."""

    groups: int = 0
    done: int = 0
    bytes_done: int = 0


class Todo(NamedTuple):
    """A group that needs something of this node, which leads it."""

    group: GroupID
    position: Position
    targets: tuple[str, ...]
    """Who is to get a copy."""


@dataclass(slots=True)
class Progress:
    """How far the healing of this node's groups has come, for people; of one view."""

    view: ViewID = NO_VIEW
    began: int = 0
    """An instant of the node's clock; 0: never."""
    ended: int = 0
    """0: it is under way, or was interrupted."""
    domains: int = 0
    domains_done: int = 0
    groups: int = 0
    groups_done: int = 0
    passed_over: int = 0
    """Groups that lack a copy for which nobody has room."""
    targets: dict[str, Share] = field(default_factory=dict)
    domain: int | None = None
    """The one that is being healed now."""
    waiting: dict[int, int] = field(default_factory=dict)
    """Domains with groups to do, in the order of healing, each with how many."""
    orphaned: set[int] = field(default_factory=set)
    """Those of them in which groups have no primary."""

    @property
    def bytes(self) -> int:
        """About how many bytes are to be brought to other nodes, judged by what was so far."""
        return self.bytes_done * self.groups // self.groups_done if self.groups_done else 0

    @property
    def bytes_done(self) -> int:
        """How many have been."""
        return sum(share.bytes_done for share in self.targets.values())


class Healer:
    """One engine's healing; only that of the engine that leads the node acts."""

    def __init__(self, state: StateManager) -> None:
        self._state = state
        self._node = state.node
        self._bulk: Bulk = state.bulk
        self._pace = Pace()
        self._healed: tuple[ViewID, frozenset[str]] = (NO_VIEW, frozenset())
        self._tidied: dict[str, str] = {}
        """Members, in their incarnations, whose old copies were looked at."""
        self._again = 0
        """When to look again at what could not be done (clock); 0: nothing was left."""
        self._claims: dict[GroupID, tuple[Epoch, int]] = {}
        """Promises to members that do not lead yet, and when they were met (clock)."""
        self._one = asyncio.Lock()
        self.progress = Progress()

    @property
    def ended(self) -> ViewID:
        """The latest view in which nothing was left to do."""
        return self._healed[0]

    async def heal(self) -> int:
        """Do what there is to do in the present view; how many groups were brought to their copies.

        Owners of seats that are back are brought up to date at once. Copies of nodes that stay
        away are made elsewhere when their delay has ended (systems 6 and 7).
        """
        async with self._one:
            return await self._heal()

    async def _heal(self) -> int:
        node = self._node
        view, away = node.membership.view(), self._state.delays.gone_for_good()
        due = 0 < self._again <= node.clock.now()
        if not (node.wanting or due) and self._healed == (view.id, away):
            return 0
        if not node.membership.is_member():
            return 0
        node.wanting, self._again = False, 0
        progress = await self._survey(view, away)
        complete = True
        for some in _together(progress.waiting):
            if node.membership.view().id != view.id:
                complete = False
                break
            try:
                complete &= await self._heal_domains(some, view, away)
            except (Interrupted, StoreFull) as stopped:
                log.debug("domain %d is not healed yet: %r", progress.domain, stopped)
                complete = False
                break
        progress.domain = None
        complete = complete and await self._tidy(view, away)
        if complete and node.membership.view().id == view.id:
            self._healed = (view.id, away)
            progress.ended = node.clock.now()
        else:
            node.wanting = True
        if progress.passed_over:
            self._look_again(node.clock.now() + REFUSAL)
        node.counters.repaired += progress.groups_done
        if progress.groups_done:
            _tell(progress, complete)
        return progress.groups_done

    def _look_again(self, instant: int) -> None:
        self._again = min(self._again or instant, instant)

    # --- what is to do --------------------------------------------------------------------------

    async def _survey(self, view: View, away: frozenset[str]) -> Progress:
        """Count what there is to do; nothing else of it is kept in memory. Domains with the most
        groups that have one copy left come first."""
        found = Progress(view=view.id, began=self._node.clock.now())
        alone: Counter[int] = Counter()
        async for group, record in self._walk_rows(None):
            leads = self._node.leads(record, view)
            if leads and not self._needs(record, view, away):
                continue
            if not leads and not self._inherits(group, record, view, away):
                continue
            domain = domain_of(group)
            found.groups += 1
            found.waiting[domain] = found.waiting.get(domain, 0) + 1
            alone[domain] += not self._node.valid_backups(record, view)
            if not leads:
                found.orphaned.add(domain)
        found.domains = len(found.waiting)
        found.waiting = dict(sorted(found.waiting.items(), key=lambda each: -alone[each[0]]))
        self.progress = found
        return found

    async def _look(self, domain: int, view: View, away: frozenset[str]) -> list[Todo]:
        """What is to do in a domain for the groups that this node leads."""
        node, targets = self._node, self._state.replication.targets
        return [
            Todo(group, record.position, targets(record, group, view, away))
            async for group, record in self._walk_rows(domain)
            if node.leads(record, view) and self._needs(record, view, away)
        ]

    async def _walk_rows(self, domain: int | None) -> AsyncIterator[tuple[GroupID, GroupRecord]]:
        """The rows of groups in one domain or in all, while others have their turn."""
        after: GroupID | None = None
        while True:
            with self._node.store.read() as reader:
                batch = list(islice(groups(reader, after, domain), LOOKED))
            for found in batch:
                yield found
            if len(batch) < LOOKED:
                return
            after = batch[-1][0]
            await asyncio.sleep(0)

    def _needs(self, record: GroupRecord, view: View, away: frozenset[str]) -> bool:
        """Whether a group that this node leads lacks something that can be given to it now, or has
        something under way, also of a request."""
        under_way = bool(record.leaving) or record.acked != record.version
        return under_way or self._lacks(record, view, away)

    def _lacks(self, record: GroupRecord, view: View, away: frozenset[str]) -> bool:
        """Whether its copies are not those that it is to have now."""
        node = self._node
        valid = node.valid_backups(record, view)
        returned = any(
            seat != node.me and seat not in valid and view.member(seat) for seat in record.seats
        )
        missing = [seat for seat in record.seats if view.member(seat) is None]
        others = len(view.servers) - 1
        lacking = not missing and len(valid) < min(node.options.backups, others)
        urgent = node.options.urgent and not valid and min(node.options.backups, others) > 0
        given_up = not away.isdisjoint(missing)
        draining = not view.leaving.isdisjoint(valid)
        return returned or given_up or lacking or urgent or draining

    def _inherits(
        self, group: GroupID, record: GroupRecord, view: View, away: frozenset[str]
    ) -> bool:
        """Whether the group has to be promoted, and this node is the first holder that is left: in
        sync, or if none is, at all.

        Its primary came back as a new member, or has to promote afresh (this node itself), or
        something is to be done that it does not come back to do. Somebody else who was promised the
        group may be about to lead it, for a while.
        """
        if not record.held or self._node.leads(record, view):
            return False
        me, was = self._node.me, record.epoch.node
        if self._is_being_claimed(group, record, view):
            return False
        if was != me and view.holds(was, record.formed):
            return False
        left = [name for name in record.holders if view.holds(name, record.formed)]
        if was != me and view.member(was) is None:
            gone = any(name in away and view.member(name) is None for name in (was, *record.seats))
            alone = len(left) == 1 and len(view.servers) > 1 and self._node.options.urgent
            if not (gone or alone):
                return False
        left = left or [name for name in record.holders if view.member(name)]
        return bool(left) and left[0] == me

    def _is_being_claimed(self, group: GroupID, record: GroupRecord, view: View) -> bool:
        """Whether a member that was promised the group may be about to lead it. One that gave up
        says nothing to anybody."""
        promise = record.promise
        if promise.node in (self._node.me, record.epoch.node) or view.member(promise.node) is None:
            return False
        now = self._node.clock.now()
        known, since = self._claims.get(group, (promise, now))
        if known != promise:
            since = now
        if len(self._claims) >= CLAIMS:
            self._claims.clear()
        self._claims[group] = promise, since
        if now >= since + CLAIMING:
            return False
        self._look_again(since + CLAIMING)
        return True

    # --- some domains ---------------------------------------------------------------------------

    async def _heal_domains(self, some: Sequence[int], view: View, away: frozenset[str]) -> bool:
        """Whether nothing is left to do in them. Raises Interrupted, StoreFull: what is left will
        be found again."""
        progress = self.progress
        progress.domain = some[0]
        orphans = [
            group
            for domain in some
            if domain in progress.orphaned
            async for group, record in self._walk_rows(domain)
            if self._inherits(group, record, view, away)
        ]
        complete = await self._inherit(orphans)
        found = {domain: await self._look(domain, view, away) for domain in some}
        walks = (self._walk(domain, todo) for domain, todo in found.items())
        walked = await asyncio.gather(*walks, return_exceptions=True)
        for (domain, todo), known in zip(found.items(), walked, strict=True):
            progress.domain = domain
            if isinstance(known, BaseException):
                raise known
            complete &= await self._heal_domain(domain, todo, known, view, away)
            progress.domains_done += 1
        return complete

    async def _heal_domain(
        self, domain: int, found: Sequence[Todo], known: Known, view: View, away: frozenset[str]
    ) -> bool:
        """The steps of a domain to which its content has walked; whether nothing is left."""
        complete = True
        for index, some in enumerate(_parts([todo.group for todo in found], TOGETHER)):
            if index:
                await asyncio.sleep(BETWEEN)
            if self._node.membership.view().id != view.id:
                raise Interrupted
            complete &= await self._step(domain, some, away, known)
        for todo in found:
            for target in todo.targets:
                self._share(target).done += 1
        return complete

    async def _inherit(self, some: Sequence[GroupID]) -> bool:
        """Promote groups without a primary, together; one by one what is not plain."""
        complete = True
        for part in _parts(some, ASKED):
            if await self._state.ownership.inherit(part):
                done = await self._bulk.settle(part, widen=False)
                left = [group for group in part if group not in done.done]
            else:
                left = list(part)
            complete &= len(await self._one_by_one(left, frozenset())) == len(left)
        return complete

    async def _walk(
        self, domain: int, found: Sequence[Todo]
    ) -> dict[tuple[str, GroupID], Position]:
        """Bring content to everybody who is to get some of this domain, one after the other."""
        to: dict[str, dict[GroupID, Position]] = {}
        for todo in found:
            for target in todo.targets:
                self._share(target).groups += 1
                to.setdefault(target, {})[todo.group] = todo.position
        known: dict[tuple[str, GroupID], Position] = {}
        for target, some in to.items():
            share = self._share(target)

            def note(size: int, share: Share = share) -> None:
                share.bytes_done += size

            there = await self._state.walking.walk(domain, target, some, self._pace, note)
            known |= {(target, group): there.get(group, NO_POSITION) for group in some}
        return known

    async def _step(
        self,
        domain: int,
        some: Sequence[GroupID],
        away: frozenset[str],
        known: Known,
    ) -> bool:
        """The tail: lock the domain, take every new holder into C, release it."""
        node = self._node
        await self._pace.let_requests(len(some) / TOGETHER)
        with node.store.write(urgent=True) as writer:
            domains.lock(writer, domain, node.store.slot, node.clock.now())
        try:
            outcome = await self._bulk.settle(some, widen=True, away=away, known=known)
        finally:
            with node.store.write(shrinking=True) as writer:
                domains.unlock(writer, node.store.slot)
        done = [*outcome.done, *await self._one_by_one(outcome.odd, away)]
        lacking = self._still_lacking(done, away)
        self.progress.groups_done += len(done) - lacking
        self.progress.passed_over += lacking
        return len(done) == len(some)

    def _still_lacking(self, some: Sequence[GroupID], away: frozenset[str]) -> int:
        """How many of these groups, which are settled, need something that nobody could give."""
        node = self._node
        with node.store.read() as reader:
            view = node.view_in(reader)
            records = [get_group(reader, group) for group in some]
        return sum(
            record is not None and node.leads(record, view) and self._lacks(record, view, away)
            for record in records
        )

    async def _one_by_one(self, some: Sequence[GroupID], away: frozenset[str]) -> list[GroupID]:
        """For what a step of many met in motion: a copy at another place than it was thought, a
        newer promise, a holder that refuses. Each is settled as a request would settle it; which
        of them were."""
        settled: list[GroupID] = []
        for start in range(0, len(some), SIDE_BY_SIDE):
            part = some[start : start + SIDE_BY_SIDE]
            done = await asyncio.gather(*(self._settle(group, away) for group in part))
            settled += [group for group, well in zip(part, done, strict=True) if well]
        return settled

    async def _settle(self, group: GroupID, away: frozenset[str]) -> bool:
        state, node = self._state, self._node
        deadline = node.clock.now() + int(node.options.commit_timeout * 1000)
        try:
            if state.held(group, None) is None:
                await state.acquire(group, None)
            await state.replication.settle(group, deadline, widen=True, away=away)
        except (SessionHAError, Fenced) as error:
            log.debug("a group is not healed yet: %s", error)
            return False
        return True

    # --- old copies -----------------------------------------------------------------------------

    async def _tidy(self, view: View, away: frozenset[str]) -> bool:
        """Let members that came back with their data give up what others have in their place by
        now; whether all of them answered."""
        for member in view.members:
            known = self._tidied.get(member.node) == member.incarnation
            if known or not member.kept or member.node == self._node.me:
                continue
            try:
                async for old in self._state.walking.old_copies(member.node):
                    await self._dismiss(old, member.node, view, away)
            except Interrupted:
                return False
            self._tidied[member.node] = member.incarnation
        return True

    async def _dismiss(
        self, old: Sequence[GroupID], holder: str, view: View, away: frozenset[str]
    ) -> None:
        """Only the primary says so, of groups that lack nothing (R1, R10)."""
        node = self._node
        for some in _parts(old, LOOKED):
            pushes: list[Push] = []
            with node.store.read() as reader:
                if node.view_in(reader).id != view.id:
                    raise Interrupted
                for group in some:
                    record = get_group(reader, group)
                    if record is not None and self._does_without(holder, record, view, away):
                        now = node.clock.now()
                        pushes.append(copies.content(reader, group, record, record.position, now))
            if pushes:
                await self._state.walking.dismiss(holder, pushes)

    def _does_without(
        self, holder: str, record: GroupRecord, view: View, away: frozenset[str]
    ) -> bool:
        """Whether this node leads the group, all of C has its newest version, and no copy is
        missing, also not one that is awaited."""
        leads = self._node.is_primary(record, view) and not self._needs(record, view, away)
        whole = len(self._node.valid_backups(record, view)) >= self._node.options.backups
        return leads and whole and holder not in (*record.holders, *record.seats)

    def _share(self, target: str) -> Share:
        return self.progress.targets.setdefault(target, Share())


def _together(waiting: Mapping[int, int]) -> Iterator[Sequence[int]]:
    """The domains in their order: those with few groups together, every large one by itself."""
    some: list[int] = []
    groups_of_some = 0
    for domain, number in waiting.items():
        if some and groups_of_some + number > PREPARED:
            yield some
            some, groups_of_some = [], 0
        some.append(domain)
        groups_of_some += number
    if some:
        yield some


def _parts(some: Sequence[GroupID], most: int) -> list[Sequence[GroupID]]:
    return [some[start : start + most] for start in range(0, len(some), most)]


def _tell(progress: Progress, complete: bool) -> None:
    """One line for each time that something was healed."""
    log.info(
        "%d groups in %d domains have their copies again; %d bytes went to %s%s",
        progress.groups_done,
        progress.domains_done,
        progress.bytes_done,
        ", ".join(sorted(progress.targets)) or "nobody",
        "" if complete and not progress.passed_over else "; others wait",
        extra={"groups": progress.groups_done, "bytes": progress.bytes_done},
    )
