"""A node's planned stop: it says so, lets routers notice, hands over what it leads, and tells how
far it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import msgspec

from sessionha.errors import StoreFull
from sessionha.peer.messages import DrainProgress, Phase
from sessionha.state.draining import Draining, Left
from sessionha.state.manager import StateManager
from sessionha.store.base import Reader
from sessionha.topology.manager import TopologyManager
from sessionha.view import Drains

log = logging.getLogger("sessionha.engine")

ROW: Final = b"\x00draining"

LOOK: Final = 0.05
"""Seconds between two looks at whether there is anything left to wait for."""

TELL: Final = 0.25
"""Seconds between two notes of how far it is."""


WHETHER: Final = 1_000
"""Milliseconds that an engine which was told to end waits whether the node stops: the servers tell
all their workers at once, and the last of them looks for others before it begins."""


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """What the engines of the node know of its draining. Who carries it out stops when the row is
    gone, or another engine's: so any of them may call it off, or begin anew."""

    run: int
    """The node's start that it belongs to."""
    slot: int
    """The engine that carries it out."""
    begun: int
    """How often the node was told to drain: an engine's slot may be another's after its death."""
    since: int
    """When it was announced (clock)."""
    wished: bool
    """Somebody asked for it; else a server that stops."""
    progress: DrainProgress


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Row).decode


class Stopping:
    """The planned stop of a node, as one of its engines carries it out. Whatever it does may be
    begun again by another one."""

    def __init__(
        self, state: StateManager, membership: TopologyManager, delay: float, timeout: float
    ) -> None:
        """`delay`: seconds in which routers notice that the node drains; `timeout`: seconds for all
        of it."""
        self._state = state
        self._node = state.node
        self._membership = membership
        self._delay = int(delay * 1000)
        self._timeout = int(timeout * 1000)
        self._until = 0
        self._task: asyncio.Task[DrainProgress] | None = None
        self._draining: Draining | None = None
        """What was begun; it goes on where it was when it is begun again."""
        self._row: _Row | None = None
        """What this engine has begun, as it wrote it last."""
        self._noted = False
        """Whether the store had room for it."""
        self._said = Left()
        """What was left when that was told last: the look at the end of a stop tells news only."""

    # --- what others ask ------------------------------------------------------------------------

    def progress(self) -> DrainProgress:
        """How far the node is, whichever of its engines carries it out."""
        row = self._read()
        return DrainProgress(self._node.me) if row is None else row.progress

    @property
    def is_wished(self) -> bool:
        """Whether somebody asked the node to drain."""
        row = self._read()
        return row is not None and row.wished

    def begin(self, how: Drains) -> None:
        """Somebody asks: drain in this way, or (empty) serve on. Does nothing while it is under
        way; what was done before is looked at again."""
        row = self._read()
        if not how:
            self.end()
        elif row is None or row.progress.how != how or not self._is_under_way(row):
            self._start(how, wished=True, patiently=True, until=0)

    def look(self) -> None:
        """Take up what an engine began that lives no more. Called by engines that serve on: where
        nobody asked for it, the node does not stop after all.
        """
        row, store = self._read(), self._node.store
        if row is None or self._is_mine(row):
            return
        if row.slot != store.slot and (row.slot in store.living_slots() or not store.try_lead()):
            return
        if not row.wished:
            self.end()
        elif row.progress.phase != "done":
            self._start(row.progress.how, wished=True, patiently=True, until=0)

    async def carry_out(self, how: Drains, *, patiently: bool, within: float) -> None:
        """The server stops: drain, and return when that is done. One that was begun goes on.

        `patiently`: let routers notice first. `within`: seconds that it may take at most.
        """
        now = self._node.clock.now()
        limit = now + int(within * 1000)
        before = self._until or now + self._timeout
        least = now + int(self._node.options.commit_timeout * 1000)
        until = min(max(before, least), limit)
        task, wished = self._task, self.is_wished
        if task is None or task.done() or not patiently or not self._is_mine(self._read()):
            task = self._start(how, wished=wished, patiently=patiently, until=until)
        await asyncio.wait({task}, timeout=within)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            log.error("draining failed; the stop goes on", exc_info=error)

    async def wait_for_routers(self) -> None:
        """Another engine of the node goes on; if it drains the node, let this one serve until
        routers have noticed: who keeps connections would send requests to a closed one."""
        began = self._node.clock.now()
        while True:
            waited = self._node.clock.now() - began
            phase = self.progress().phase
            if phase not in ("", "announced") or waited >= self._timeout:
                return
            if not phase and waited >= WHETHER:
                return
            await asyncio.sleep(LOOK)

    def leave(self) -> None:
        """This engine ends, and others of the node go on. What somebody asked for is for them to
        take up; what this one began because its server stops is called off."""
        row = self._read()
        if self._is_mine(row) and row is not None and not row.wished:
            self.end()
        elif self._task is not None:
            self._task.cancel()

    def end(self) -> None:
        """Take clients again: the node does not stop, whichever engine was about to."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._until, self._draining, self._row = 0, None, None
        if not self._membership.drains and self._read() is None:
            return
        with contextlib.suppress(StoreFull), self._node.store.write(shrinking=True) as writer:
            writer.delete(ROW)
        self._announce("")
        log.info("node %s does not drain any more", self._node.me)

    # --- draining -------------------------------------------------------------------------------

    def _start(
        self, how: Drains, *, wished: bool, patiently: bool, until: int
    ) -> asyncio.Task[DrainProgress]:
        untold = self._task is not None and not self._task.done()
        if self._task is not None:
            self._task.cancel()
        row, now = self._read(), self._node.clock.now()
        since, moved, draining = now, 0, self._draining
        if row is not None and row.progress.how == how:
            since, moved = row.since, row.progress.moved
        else:
            draining = None
        if draining is None or not self._is_mine(row):
            draining = Draining(self._state, moved)
        self._draining = draining
        self._until = until or now + self._timeout
        told = DrainProgress(self._node.me, how, "announced", moved)
        number, store = row.begun + 1 if row is not None else 1, self._node.store
        self._row = _Row(store.run, store.slot, number, since, wished, told)
        self._noted = self._note(self._row)
        self._announce(how)
        work = self._drain(how, draining, patiently=patiently, news=patiently or untold)
        self._task = asyncio.get_running_loop().create_task(work, name="sessionha draining")
        return self._task

    async def _drain(
        self, how: Drains, draining: Draining, *, patiently: bool, news: bool
    ) -> DrainProgress:
        before, task = draining.moved, asyncio.current_task()
        assert task is not None
        telling = asyncio.create_task(self._keep_telling(how, draining, task))
        try:
            if patiently:
                await self._noticed()
            left = await self._carry_on(how, draining)
        finally:
            telling.cancel()
        self._go_on("done", draining, left)
        self._say(how, draining, left, news=news or draining.moved > before)
        assert self._row is not None
        return self._row.progress

    async def _carry_on(self, how: Drains, draining: Draining) -> Left:
        """Hand over and give away, until a look of its own finds nothing that came back meanwhile;
        what is left."""
        while True:
            self._go_on("handing over", draining)
            done = await draining.hand_over(self._until)
            if how == "leaving":
                self._go_on("copying", draining)
                done = await draining.give_copies_away(self._until)
            left = await draining.left(for_good=how == "leaving")
            if not done or left == Left() or self._node.clock.now() >= self._until:
                return left

    def _announce(self, how: Drains) -> None:
        with contextlib.suppress(StoreFull):  # others learn of it by the goodbye
            if self._membership.drains != how:
                self._membership.drain(how)

    async def _noticed(self) -> None:
        """Wait until routers have noticed, while there is somebody they can send clients to."""
        assert self._row is not None
        enough = min(self._row.since + self._delay, self._until)
        me = self._node.me
        while self._node.clock.now() < enough:
            view = self._membership.view()
            if not any(member.ready for member in view.servers if member.node != me):
                return
            await asyncio.sleep(LOOK)

    def _say(self, how: Drains, draining: Draining, left: Left, *, news: bool) -> None:
        node, moved = self._node.me, draining.moved
        news = news or left != self._said
        self._said = left
        if left.copies:
            log.log(
                logging.WARNING if news else logging.DEBUG,
                "node %s goes for good with its copies of %d groups of sessions: they could not be"
                " made elsewhere",
                node, left.copies,
            )  # fmt: skip
        if left.groups:
            log.log(
                logging.WARNING if news else logging.DEBUG,
                "node %s drained: others serve %d groups of sessions; %d with %d sessions could not"
                " be handed over, of which %d have no copy on another node and are served when"
                " this one is back",
                node, moved, left.groups, left.sessions, left.alone,
            )  # fmt: skip
        else:
            why = "it returns" if how == "returning" else "it goes for good"
            level = logging.INFO if news else logging.DEBUG
            log.log(level, "node %s drained: others serve its %d groups; %s", node, moved, why)

    # --- telling --------------------------------------------------------------------------------

    async def _keep_telling(
        self, how: Drains, draining: Draining, task: asyncio.Task[DrainProgress]
    ) -> None:
        """Write down how far it is, and stop it when it was called off or is another's."""
        while True:
            await asyncio.sleep(TELL)
            phase = self._row.progress.phase if self._row is not None else ""
            if not self._tell(phase, draining):
                task.cancel()
                return
            self._announce(how)  # whoever called an earlier one off may have been slow

    def _go_on(self, phase: Phase, draining: Draining, left: Left | None = None) -> None:
        """Raises CancelledError: the task was called off, or is another engine's by now."""
        if not self._tell(phase, draining, left):
            raise asyncio.CancelledError

    def _tell(self, phase: Phase, draining: Draining, left: Left | None = None) -> bool:
        """Note how far it is; False: it is not this engine's any more."""
        if self._row is None:
            return False
        before = self._row.progress
        told = DrainProgress(
            before.node, before.how, phase, draining.moved, draining.waiting, *(left or Left())
        )
        next_row = msgspec.structs.replace(self._row, progress=told)
        found: _Row | None = self._row
        with contextlib.suppress(StoreFull), self._node.store.write(shrinking=True) as writer:
            if self._noted:
                found = self._row_in(writer)
            if self._is_mine(found):
                writer.put(ROW, _encode(next_row))
        if self._is_mine(found):
            self._row = next_row
            return True
        if found is None:
            self._announce("")  # this engine may have been the last to announce it
        return False

    def _note(self, row: _Row) -> bool:
        try:
            with self._node.store.write(shrinking=True) as writer:
                writer.put(ROW, _encode(row))
        except StoreFull:
            return False
        return True

    def _is_mine(self, row: _Row | None) -> bool:
        mine = self._row
        return (
            row is not None
            and mine is not None
            and (row.slot, row.begun) == (mine.slot, mine.begun)
        )

    def _is_under_way(self, row: _Row) -> bool:
        if row.progress.phase == "done":
            return False
        if self._is_mine(row):
            return self._task is not None and not self._task.done()
        store = self._node.store
        return row.slot != store.slot and row.slot in store.living_slots()

    def _read(self) -> _Row | None:
        with self._node.store.read() as reader:
            return self._row_in(reader)

    def _row_in(self, reader: Reader) -> _Row | None:
        raw = reader.get(ROW)
        row = None if raw is None else _decode(raw)
        return row if row is not None and row.run == self._node.store.run else None
