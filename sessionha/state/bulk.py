"""Steps of many groups in few messages: what healing does under the lock of a domain.

Each push is the ordinary one, and is accepted or not by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Final, NamedTuple

from sessionha.errors import Fenced, PeerUnavailable, StoreFull
from sessionha.identity import GroupID, Position
from sessionha.peer.base import Sender
from sessionha.peer.messages import Answers, CannotHold, Failed, Message, Push, Pushed, Pushes
from sessionha.state import copies
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.records import epoch_at, get_group, group_key, read_group
from sessionha.state.replication import Replication, Round
from sessionha.store.base import Reader
from sessionha.view import View

BATCH: Final = 128 * 1024
"""Bytes of one message, which its receiver writes in one transaction: about 2 ms."""

TRY: Final = 0.5
"""Seconds a message with many pushes may take before its receiver is suspected."""

PUSH_BYTES: Final = 300
"""About what a push takes besides its elements."""

Known = Mapping[tuple[str, GroupID], Position]
"""Where the copies of nodes are that are not in C yet; NO_POSITION: nothing is known of them."""


def size_of(push: Push) -> int:
    """About how many bytes the push takes."""
    return PUSH_BYTES + sum(len(row.name) + len(row.value or b"") for row in push.elements)


class Step(NamedTuple):
    """One group's round, and what each receiver gets of it."""

    round: Round
    to: dict[str, Push]


class Outcome(NamedTuple):
    """What became of groups that were to be settled together."""

    done: tuple[GroupID, ...]
    odd: tuple[GroupID, ...]
    """What has to be looked at one by one."""
    sent: int
    """Bytes, about."""


class Bulk:
    """Settles many groups at once, and answers those who do."""

    def __init__(self, node: Node, replication: Replication) -> None:
        self._node = node
        self._replication = replication

    async def settle(
        self,
        some: Sequence[GroupID],
        *,
        widen: bool,
        away: Set[str] | None = None,
        known: Known | None = None,
    ) -> Outcome:
        """As `Replication.settle` of each, with one attempt. Groups that are neither done nor odd
        wait for somebody who is silent: the next view, or the next attempt, has them."""
        done, begun = self._begin(some, widen=widen, away=away)
        steps, odd = self._steps(begun, known or {})
        sent = sum(size_of(push) for step in steps for push in step.to.values())
        for whom in ("backups", "leaving"):  # a copy is given up when its replacement exists
            failed, silent = await self._send_all(steps, whom)
            odd += failed
            steps = [step for step in steps if step.round.push.group not in {*failed, *silent}]
        done += self._acknowledge(steps)
        return Outcome(tuple(done), tuple(odd), sent)

    def _begin(
        self, some: Sequence[GroupID], *, widen: bool, away: Set[str] | None
    ) -> tuple[list[GroupID], list[GroupID]]:
        """Those that are settled already, and those whose round has begun."""
        node = self._node
        done: list[GroupID] = []
        begun: list[GroupID] = []
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            for group in some:
                record = get_group(writer, group)
                if record is None or not node.leads(record, view):
                    continue
                step = self._replication.step(writer, group, record, view, widen=widen, away=away)
                (done if step is None else begun).append(group)
        return done, begun

    def _steps(self, begun: Sequence[GroupID], known: Known) -> tuple[list[Step], list[GroupID]]:
        node = self._node
        steps, odd = [], []
        with node.store.read() as reader:
            view = node.view_in(reader)
            for group in begun:
                step = self._step(reader, group, view, known)
                if step is None:
                    odd.append(group)
                else:
                    steps.append(step)
        return steps, odd

    def _step(self, reader: Reader, group: GroupID, view: View, known: Known) -> Step | None:
        """What everybody gets; None: the group has moved on meanwhile."""
        node = self._node
        row = reader.get(group_key(group))
        record = None if row is None else read_group(row)
        if row is None or record is None or not node.leads(record, view):
            return None
        now = node.clock.now()
        acknowledged = Position(epoch_at(record.line, record.acked), record.acked)
        push = copies.content(reader, group, record, acknowledged, now)
        made = {acknowledged: push}
        to: dict[str, Push] = {}
        for target in record.holders[1:]:
            base = known.get((target, group), acknowledged)
            if base not in made:
                made[base] = copies.content(reader, group, record, base, now)
            to[target] = made[base]
        to |= dict.fromkeys(record.leaving, push)
        backups = record.holders[1:]
        return Step(Round(push, backups, record.leaving, view.id, record, row), to)

    async def _send_all(
        self, steps: Sequence[Step], whom: str
    ) -> tuple[list[GroupID], list[GroupID]]:
        """Groups that a receiver did not take, and groups of which one was silent."""
        todo: dict[str, list[Push]] = {}
        for step in steps:
            for target in step.round.leaving if whom == "leaving" else step.round.backups:
                todo.setdefault(target, []).append(step.to[target])
        sends = [self._send(to, pushes) for to, pushes in todo.items()]
        # One alone needs no task, which would wait for a turn of a busy loop at either end.
        outcomes = [await sends[0]] if len(sends) == 1 else await asyncio.gather(*sends)
        failed = dict.fromkeys(group for some, _ in outcomes for group in some)
        silent = dict.fromkeys(group for _, some in outcomes for group in some)
        return [*failed], [*silent]

    async def _send(
        self, target: str, pushes: Sequence[Push]
    ) -> tuple[list[GroupID], list[GroupID]]:
        """The same of one receiver."""
        node = self._node
        assert node.peers is not None, "a group without peers has no targets"
        failed: list[GroupID] = []
        silent: list[GroupID] = []
        batches = list(in_batches(pushes))
        for index, batch in enumerate(batches):
            try:
                reply = await node.peers.call(target, Pushes(batch), TRY)
            except PeerUnavailable as error:
                if error.sent or error.refused:
                    node.membership.suspect(target)
                silent += [push.group for batch in batches[index:] for push in batch]
                break
            answers = reply.answers if isinstance(reply, Answers) else ()
            for number, push in enumerate(batch):
                answer = answers[number] if number < len(answers) else NOT_TOGETHER
                if isinstance(answer, CannotHold):
                    self._replication.refused(target, push.group, answer.reason)
                if isinstance(answer, Failed):
                    silent.append(push.group)  # it has yet to learn of the view, or to be left out
                elif not isinstance(answer, Pushed):
                    failed.append(push.group)
        return failed, silent

    def _acknowledge(self, steps: Sequence[Step]) -> list[GroupID]:
        done = []
        with self._node.store.write(shrinking=True) as writer:
            for step in steps:
                push = step.round.push
                try:
                    record = self._replication.acknowledge(writer, step.round)
                except Fenced:
                    continue
                if record.holders == push.holders:
                    done.append(push.group)
        return done

    # --- the other side -------------------------------------------------------------------------

    def on_pushes(self, sender: Sender, asked: Pushes) -> Message:
        """Accept what can be accepted, in one transaction."""
        accept = self._replication
        try:
            with self._node.store.write() as writer:
                answers = [accept.accept_in(writer, sender, push) for push in asked.pushes]
        except StoreFull:
            answers = [accept.accept(sender, push) for push in asked.pushes]
        return Answers(tuple(answers))


def in_batches(pushes: Sequence[Push]) -> Iterator[tuple[Push, ...]]:
    """The pushes in messages of about `BATCH` bytes."""
    batch: list[Push] = []
    size = 0
    for push in pushes:
        batch.append(push)
        size += size_of(push)
        if size >= BATCH:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)
