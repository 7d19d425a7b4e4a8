"""The sessions of one subject, on every node: listed, and logged out so that they stay so.

A log-out is a small row that every member has before the answer leaves; whoever reads or changes a
session of a subject looks there. So it holds at once wherever a copy lies, and also for copies on
servers that are away: a node that comes back learns the log-outs of the others before it serves a
session that has a subject. The sessions that were found get their tombstones besides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from sessionha.errors import (
    Fenced,
    PeerUnavailable,
    SessionError,
    SessionRevoked,
    SessionUnavailable,
)
from sessionha.identity import NO_VIEW, GroupID, Position, SessionKey, ViewID, encode64
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Batch,
    Found,
    Message,
    Owner,
    Revocation,
    Revocations,
    Revoke,
    Revoked,
    SessionChange,
    Theirs,
    Whose,
)
from sessionha.state import owners
from sessionha.state.base import LoggedOut, Places, Receipt, Sibling, Siblings, Unsettled
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.records import get_group, get_session
from sessionha.store.base import Reader
from sessionha.view import Member, View

log = logging.getLogger("sessionha.state")

CAUGHT_UP: Final = b"\x00log-outs"
"""Store row: which members' log-outs this node has, see `_Mark`."""

MOST: Final = 1_000
"""Sessions of one subject that a member tells of."""

TRY: Final = 0.6
"""Seconds that a member may take for an answer before it is suspected."""

AGAIN: Final = (0.02, 1.0)
"""Seconds before a log-out is told once more to a member that did not answer: at first, at most."""

SIDE_BY_SIDE: Final = 8
"""Sessions that get their tombstones at the same time: requests come first."""

_T = TypeVar("_T")

LOGGED_OUT: Final = "this session was logged out meanwhile; nothing was changed"

ROUNDS: Final = 3
"""Times that a log-out is made; more are needed only while others log the same subject out."""

Commit = Callable[[Batch], Awaitable[Receipt]]


class _Mark(msgspec.Struct, array_like=True, frozen=True):
    """In this run and as the member that joined in view `mine`, the node has asked every member
    that joined in view `upto` or before."""

    run: int
    mine: ViewID
    upto: ViewID


_NO_MARK: Final = _Mark(0, NO_VIEW, NO_VIEW)
_encode = msgspec.msgpack.Encoder().encode
_read_mark = msgspec.msgpack.Decoder(_Mark).decode


class _Session(NamedTuple):
    """A session as the newest copy has it, and where that is."""

    theirs: Theirs
    node: str


class Subjects:
    """One engine's part in listing and logging out."""

    def __init__(self, node: Node, commit: Commit) -> None:
        self._node = node
        self._commit = commit
        self._caught_up: View | None = None
        """The view whose members' log-outs are known to be here."""
        self._catching: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asked = NO_VIEW
        """The view in which every member was asked unasked, by this engine."""
        self.behind = False
        """A session could not be served because log-outs that others know may be missing."""

    # --- requests ask ---------------------------------------------------------------------------

    def denies(self, reader: Reader, owner: Owner, view: View) -> bool:
        """Whether the session with this owner was logged out.

        Raises:
            Unsettled: other members may know that; catch up first.
        """
        if self._caught_up is not view and not self._look(reader, view):
            self.behind = True
            raise Unsettled("the log-outs that other servers know of are not known here yet")
        return owners.is_denied(reader, owner)

    async def sessions_of(self, subject: str) -> Siblings:
        """Every living session of the subject, the one used last first."""
        found, unasked, more = await self._find(owners.hash_of(subject))
        listed = sorted(map(_sibling, found), key=lambda each: each.unused)
        return Siblings(tuple(listed), self._elsewhere(unasked), more)

    async def locate(self, subject: str) -> Places:
        """Where every living session of the subject is."""
        found, unasked, _ = await self._find(owners.hash_of(subject))
        ordered = sorted((each.theirs for each in found), key=lambda each: each.owner.handle)
        return Places(tuple((each.group, each.key) for each in ordered), self._elsewhere(unasked))

    async def revoke(
        self,
        subject: str,
        name: bytes,
        *,
        kept: tuple[bytes, ...] = (),
        only: tuple[bytes, ...] = (),
    ) -> LoggedOut:
        """See `State.revoke`. It goes on when the caller is cancelled (R17)."""
        work = self._revoke(owners.hash_of(subject), name, kept, only)
        if self._node.peers is None:
            return await work
        return await asyncio.shield(self._node.spawn(work))

    async def ensure_caught_up(self) -> None:
        """Know the log-outs that the other members know: a session that becomes a subject's notes
        which came before it.

        Raises:
            SessionUnavailable: not every member told them in time.
        """
        if not self._is_caught_up():
            await self.catch_up()

    # --- listing --------------------------------------------------------------------------------

    async def _find(self, subject: bytes) -> tuple[list[_Session], set[str], bool]:
        """The living sessions, who did not answer, and whether there are more."""
        with suppress(SessionUnavailable):  # who does not answer this is told as silent below
            await self.ensure_caught_up()
        answers, silent = await self._ask_all(Whose(subject))
        listed = [theirs for found in answers.values() for theirs in found.sessions]
        positions = [(each.group, each.position) for each in listed]
        if not all(each.in_sync for each in listed):
            # A copy from before an absence: somebody may know better that it has ended.
            groups = tuple(sorted({each.group for each in listed if not each.in_sync}))
            asked, mute = await self._ask_all(Whose(subject, groups))
            silent |= mute
            positions += [pair for found in asked.values() for pair in found.positions]
        more = any(found.more for found in answers.values())
        with self._node.store.read() as reader:  # a member may know less of log-outs than this node
            known = owners.revocations(reader, subject)
        now = self._node.clock.now()
        living = [
            each
            for each in newest(answers, positions)
            if not owners.are_meant(known, owners.aged(each.theirs.owner, now))
        ]
        return living, silent, more

    async def _ask_all(self, question: Whose) -> tuple[dict[str, Found], set[str]]:
        """What every member answers, this node included, and who does not."""
        names = [member.node for member in self._members()]
        replies = await self._each([self._call(name, question) for name in names])
        answers = zip(names, replies, strict=True)
        told = {name: reply for name, reply in answers if isinstance(reply, Found)}
        silent = set(names) - told.keys()
        return {self._node.me: self._answer(question), **told}, silent

    def _answer(self, question: Whose) -> Found:
        node = self._node
        now = node.clock.now()
        with node.store.read() as reader:
            view = node.view_in(reader)
            if question.groups:
                held = ((group, get_group(reader, group)) for group in question.groups)
                positions = (
                    (group, record.position) for group, record in held if record and record.held
                )
                return Found((), tuple(positions))
            keys = list(islice(owners.sessions_of(reader, question.subject), MOST + 1))
            told = (self._tell(reader, view, group, key, now) for group, key in keys[:MOST])
            return Found(tuple(each for each in told if each is not None), (), len(keys) > MOST)

    def _tell(
        self, reader: Reader, view: View, group: GroupID, key: SessionKey, now: int
    ) -> Theirs | None:
        node = self._node
        record, session = get_group(reader, group), get_session(reader, group, key)
        if record is None or session is None or session.owner is None or session.ended(now):
            return None
        if owners.is_denied(reader, session.owner):
            return None
        return Theirs(
            group,
            key,
            owners.aged(session.owner, now),
            now - session.created,
            now - session.touched,
            record.position,
            in_sync=record.synced == node.joined(view) != NO_VIEW,
            serves=node.is_primary(record, view),
        )

    def _elsewhere(self, unasked: Iterable[str]) -> tuple[str, ...]:
        """Who could not be asked: configured, departed, or a member that did not answer."""
        return tuple(sorted({*unasked, *self._node.membership.elsewhere()}))

    # --- logging out ----------------------------------------------------------------------------

    async def _revoke(
        self, subject: bytes, name: bytes, kept: tuple[bytes, ...], only: tuple[bytes, ...]
    ) -> LoggedOut:
        node = self._node
        await node.membership_regained()
        found, unasked, more = await self._find(subject)
        keeping = self._alive(subject, found, kept, sure=not (unasked or more))
        unasked |= {*node.membership.elsewhere()}
        made, told = await self._decree(subject, name, keeping, only)
        node.counters.revocations += 1
        now = node.clock.now()
        ended = [
            each.theirs for each in found if owners.means(made, owners.aged(each.theirs.owner, now))
        ]
        await self.bury([(each.group, each.key) for each in ended])
        node.counters.revoked += len(ended)
        members = {member.node for member in node.membership.view().servers}
        missing = {*self._elsewhere(unasked), *members} - told - {node.me}
        return LoggedOut(len(ended), tuple(sorted(missing)))

    def _alive(
        self, subject: bytes, found: Iterable[_Session], kept: tuple[bytes, ...], *, sure: bool
    ) -> tuple[Owner, ...]:
        """The owners of the sessions that are to be kept. `sure`: every member listed all it has.

        Raises:
            SessionRevoked: one of them is over.
            SessionUnavailable: one of them is not here, and who may have it does not tell.
        """
        node = self._node
        now = node.clock.now()
        living = {each.theirs.owner.handle: owners.aged(each.theirs.owner, now) for each in found}
        if living.keys() >= set(kept):
            return tuple(living[handle] for handle in kept)
        with node.store.read() as reader:
            view = node.view_in(reader)
            known = owners.revocations(reader, subject)
            over = {handle for each in known for handle in each.only}
            for group, key in owners.sessions_of(reader, subject):  # more than are listed
                record, session = get_group(reader, group), get_session(reader, group, key)
                if record is None or session is None or session.ended(now):
                    continue
                owner = session.owner
                if owner is None or owner.handle not in kept:
                    continue
                if owners.are_meant(known, owner):
                    over.add(owner.handle)
                elif node.is_in_sync(record, view):
                    living[owner.handle] = owner
        missing = set(kept) - living.keys()
        if missing and (sure or missing & over):
            raise SessionRevoked(LOGGED_OUT)
        if missing:
            raise SessionUnavailable(
                "not every server told whether this session is alive; nothing was changed"
            )
        return tuple(living[handle] for handle in kept)

    async def _decree(
        self, subject: bytes, name: bytes, kept: tuple[Owner, ...], only: tuple[bytes, ...]
    ) -> tuple[Revocation, set[str]]:
        """Write the log-out and tell it, and who has it then. When somebody knew a later one, it is
        made anew above that: sessions that began knowing that one would be spared else."""
        node = self._node
        deadline = node.clock.now() + int(node.options.commit_timeout * 1000)
        number = 0
        while True:
            number += 1
            with node.store.write(urgent=True) as writer:
                now = node.clock.now()
                known = owners.revocations(writer, subject)
                if number == 1 and any(owners.are_meant(known, owner) for owner in kept):
                    raise SessionRevoked(LOGGED_OUT)  # before anybody was told of this one
                each = name + bytes([number])
                made = owners.decree(writer, subject, each, now, kept=kept, only=only)
            told = await self._spread(subject, made, deadline)
            with node.store.read() as reader:
                if only or number == ROUNDS or owners.is_latest(reader, subject, made):
                    return made, told

    async def _spread(self, subject: bytes, revocation: Revocation, deadline: int) -> set[str]:
        """Tell every member, also those that join meanwhile; who has it. Who has not confirmed it
        at `deadline` is told again and again, until it has left the view: when it comes back it
        asks."""
        node = self._node
        tasks: dict[tuple[str, ViewID], asyncio.Task[bool]] = {}
        while True:
            members = {(each.node, each.joined): each for each in self._members()}
            for name, member in members.items():
                if name not in tasks:
                    tasks[name] = node.spawn(self._insist(member, subject, revocation))
            waited = [task for task in tasks.values() if not task.done()]
            left = deadline - node.clock.now()
            if not waited or left <= 0:
                return {name[0] for name in members if tasks[name].done() and tasks[name].result()}
            await asyncio.wait(waited, timeout=left / 1000, return_when=asyncio.FIRST_COMPLETED)

    async def _insist(self, member: Member, subject: bytes, revocation: Revocation) -> bool:
        """Whether the member has the log-out; False: it is a member no more."""
        node = self._node
        pause, most = AGAIN
        while True:
            view = node.membership.view()
            if not view.holds(member.node, member.joined):
                return False
            told = owners.turned(revocation, node.clock.now())
            reply = await self._call(member.node, Revoke(subject, told))
            if isinstance(reply, Revoked):
                self._learn(reply.rows)
                return True
            await node.membership.wait_change(view.id, pause)
            pause = min(2 * pause, most)

    async def bury(self, sessions: Sequence[tuple[GroupID, SessionKey]]) -> None:
        """Tombstones, which also tell copies that the log-out itself never reaches. What cannot be
        written now is left to the upkeep of the primary."""
        for start in range(0, len(sessions), SIDE_BY_SIDE):
            await self._each(
                [
                    self._destroy(Batch(group, (SessionChange(key, destroy=True),)))
                    for group, key in sessions[start : start + SIDE_BY_SIDE]
                ]
            )

    async def _destroy(self, batch: Batch) -> None:
        try:
            await self._commit(batch)
        except (SessionError, Fenced) as error:
            log.debug("a session that was logged out has no tombstone: %s", error)

    # --- catching up ----------------------------------------------------------------------------

    def keep_up(self) -> None:
        """In a view that is new, begin to ask every member for the log-outs that it knows: also
        those who were members before, for one that left may have died while it told them."""
        node = self._node
        asking = self._asking is not None and not self._asking.done()
        if node.peers is None or asking or not node.membership.is_member():
            return
        view = node.membership.view()
        if view.id != self._asked:
            self._asking = node.spawn(self._ask_everybody(view))

    async def _ask_everybody(self, view: View) -> None:
        learned = await self._each([self._pull(member.node) for member in self._others(view)])
        if all(learned) and self._note(view):
            self._asked = view.id

    def _is_caught_up(self) -> bool:
        with self._node.store.read() as reader:
            return self._look(reader, self._node.view_in(reader))

    async def catch_up(self) -> None:
        """Learn them now.

        Raises:
            SessionUnavailable: not every member answered in time.
        """
        if self._node.peers is not None:
            await asyncio.shield(self._catching or self._begin_to_catch_up())
        self.behind = False

    def _begin_to_catch_up(self) -> asyncio.Task[None]:
        task = self._catching = self._node.spawn(self._catch_up())
        task.add_done_callback(self._caught)
        return task

    def _caught(self, task: asyncio.Task[None]) -> None:
        if self._catching is task:
            self._catching = None

    async def _catch_up(self) -> None:
        node = self._node
        deadline = node.clock.now() + int(node.options.acquire_timeout * 1000)
        while True:
            await node.membership_regained()
            with node.store.read() as reader:
                view = node.view_in(reader)
                mark = self._mark_in(reader, view)
            missing = [member.node for member in self._others(view) if member.joined > mark.upto]
            learned = await self._each([self._pull(name) for name in missing])
            if all(learned) and self._note(view):
                return
            if node.clock.now() >= deadline:
                raise SessionUnavailable("not every server told its log-outs in time")
            await node.membership.wait_change(view.id, AGAIN[0])

    async def _pull(self, member: str) -> bool:
        """Learn every log-out that a member knows; whether it told all."""
        after = b""
        while True:
            reply = await self._call(member, Revocations(after))
            if not isinstance(reply, Revoked):
                return False
            if not reply.rows:
                return True
            self._learn(reply.rows)
            after = reply.rows[-1][0]

    def _learn(self, rows: Iterable[tuple[bytes, tuple[Revocation, ...]]]) -> None:
        now = self._node.clock.now()
        with self._node.store.write(urgent=True) as writer:
            for subject, told in rows:
                owners.learn(writer, subject, (owners.turned(each, now) for each in told))

    def _look(self, reader: Reader, view: View) -> bool:
        """Whether the node has the log-outs of all members of this view."""
        if self._node.peers is not None:
            upto = self._mark_in(reader, view).upto
            if any(member.joined > upto for member in self._others(view)):
                return False
        self._caught_up = view
        return True

    def _mark_in(self, reader: Reader, view: View) -> _Mark:
        """What was noted, if it was by this member and in this run: a restart may have missed what
        a member was told."""
        data = reader.get(CAUGHT_UP)
        mark = _NO_MARK if data is None else _read_mark(data)
        same = (mark.run, mark.mine) == (self._node.store.run, self._node.joined(view))
        return mark if same else _NO_MARK

    def _note(self, view: View) -> bool:
        """Note that all members of the view were asked; False: it is another one by now."""
        node = self._node
        with node.store.write(urgent=True) as writer:
            if node.view_in(writer).id != view.id:
                return False
            upto = max(member.joined for member in view.members)
            writer.put(CAUGHT_UP, _encode(_Mark(node.store.run, node.joined(view), upto)))
        return True

    # --- peers ask ------------------------------------------------------------------------------

    def on_whose(self, sender: Sender, question: Whose) -> Message:
        """Tell what this node's copies say."""
        return self._answer(question) if self._is_known(sender) else NOT_TOGETHER

    def on_revoke(self, told: Revoke) -> Message:
        """Remember a log-out, whoever tells it, and say what is known of the subject."""
        self._learn([(told.subject, (told.revocation,))])
        now = self._node.clock.now()
        with self._node.store.read() as reader:
            known = owners.revocations(reader, told.subject)
        return Revoked(((told.subject, tuple(owners.turned(each, now) for each in known)),))

    def on_revocations(self, sender: Sender, question: Revocations) -> Message:
        """Tell the next log-outs that this node knows of."""
        if not self._is_known(sender):
            return NOT_TOGETHER
        with self._node.store.read() as reader:
            return Revoked(owners.page(reader, question.after, self._node.clock.now()))

    def _is_known(self, sender: Sender) -> bool:
        """Whether the sender is in this node's view: what becomes known here later, the sender is
        told."""
        with self._node.store.read() as reader:
            return self._node.shares_view(sender, self._node.view_in(reader))

    # --- upkeep ---------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Forget log-outs that are old, and mean nothing that is here."""
        node = self._node
        now = node.clock.now()
        with node.store.read() as reader:
            subjects = owners.over(reader, now)
        for subject in subjects:
            with node.store.write(shrinking=True) as writer:
                owners.forget(writer, subject, now)

    # --- members --------------------------------------------------------------------------------

    def _members(self) -> list[Member]:
        """The others that are members now."""
        return self._others(self._node.membership.view())

    def _others(self, view: View) -> list[Member]:
        """The members besides this node that may hold sessions."""
        if self._node.peers is None:
            return []
        me = self._node.me
        return [each for each in view.members if each.node != me and each.role != "witness"]

    async def _call(self, name: str, message: Message) -> Message | None:
        """The reply of a member; None: it is silent, and looked at."""
        node = self._node
        assert node.peers is not None, "nobody is asked without peers"
        try:
            return await node.peers.call(name, message, TRY)
        except PeerUnavailable as error:
            if error.sent or error.refused:
                node.membership.suspect(name)
            return None

    async def _each(self, works: list[Coroutine[Any, Any, _T]]) -> list[_T]:
        """All at once; without peers one after the other, on any kind of event loop."""
        if self._node.peers is None:
            return [await work for work in works]
        return await asyncio.gather(*works)


def newest(
    answers: Mapping[str, Found], positions: Iterable[tuple[GroupID, Position]]
) -> list[_Session]:
    """Each session once, as the newest copy of its group has it; what a newer copy does not have
    is not listed. Of equal copies the primary's counts, for it serves."""
    highest: dict[GroupID, Position] = {}
    for group, position in positions:
        highest[group] = max(position, highest.get(group, position))
    found: dict[tuple[GroupID, SessionKey], _Session] = {}
    for node, answer in answers.items():
        for theirs in answer.sessions:
            name = theirs.group, theirs.key
            known = found.get(name)
            if theirs.position == highest[theirs.group] and not (known and known.theirs.serves):
                found[name] = _Session(theirs, node)
    return list(found.values())


def _sibling(session: _Session) -> Sibling:
    theirs = session.theirs
    return Sibling(
        id=encode64(theirs.owner.handle),
        age=theirs.age / 1000,
        unused=theirs.unused / 1000,
        virtual_server=theirs.owner.virtual_server,
        node=session.node,
    )
