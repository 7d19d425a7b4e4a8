"""The topology manager of one engine: drives the automaton over streams, store and clock."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, TypedDict

import msgspec

from sessionha.discovery.base import Found
from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import ViewID
from sessionha.peer.base import Links, Sender, Way
from sessionha.peer.messages import (
    Confirm,
    Confirmed,
    Describe,
    Described,
    Done,
    Failed,
    Install,
    Installed,
    Join,
    Message,
    Ping,
    Report,
    Watch,
)
from sessionha.store.base import Reader, Store
from sessionha.topology.answers import FOR_THE_LEADER, answer, standing
from sessionha.topology.around import watches
from sessionha.topology.automaton import LEAVE_PATIENCE, Automaton, numbered
from sessionha.topology.available import AvailableAutomaton
from sessionha.topology.base import Change, LastChange, Picture, ViewListener
from sessionha.topology.description import Description
from sessionha.topology.effects import Effect, Lease, Log, Release, Renew, Send, Write
from sessionha.topology.health import NO_SIGNS, NodeState, Signs, state_of
from sessionha.topology.members import changes, holds
from sessionha.topology.quorum import QuorumAutomaton
from sessionha.topology.rows import FORGOTTEN, Rows, Voting
from sessionha.topology.states import State
from sessionha.topology.timing import Admission, Timing
from sessionha.view import NO_MEMBERS, Drains, Member, View

logger = logging.getLogger("sessionha.topology")

TICK = 0.025
"""Seconds between two looks at the store and the clock: a tenth of a heartbeat."""
LEAD_EVERY = 3
"""Ticks between two tries of an engine that does not lead."""
WATCHFUL = 0.005
"""Seconds between two looks at the store while somebody waits for a view."""
LEAVE_TIMEOUT = 2 * LEAVE_PATIENCE / 1000
"""Seconds after which a goodbye ends, should even the automaton not have ended it."""
AFTER_ERROR = 1.0
"""Seconds before the next tick when one failed, so that a broken store is not a flood of logs."""


class TopologyManager:
    """What one engine knows of the membership, and its part in agreeing on it.

    The view lies in the store, so it is the same in every engine. The one that leads runs the
    automaton; any other answers messages from the store and leaves the rest to the leader. All
    but `view`, `view_in`, `is_member` and `unproven` belong to the engine's event loop.
    Construction does nothing.
    """

    def __init__(
        self,
        store: Store,
        me: Member,
        description: Description,
        clock: Callable[[], int],
        timing: Timing | None = None,
        *,
        trust_refused: bool | None = None,
        admission: Admission = "static-only",
        voting: Voting | None = None,
    ) -> None:
        """`clock`: milliseconds of a clock that all engines of the machine share and that runs on
        while the machine sleeps. `trust_refused`: None trusts loopback and the same host.
        `voting`: in quorum mode, where a majority decides views."""
        self._store = store
        self._rows = Rows(store)
        self._me = me
        self._description = description
        self._clock = clock
        self._timing = timing or Timing()
        self._trust_refused = trust_refused
        self._admission: Admission = admission
        self._found: Mapping[str, Found] = {}
        self._voting = voting
        self._links: Links | None = None
        self._automaton: Automaton | None = None
        self._listeners: list[ViewListener] = []
        self._told = NO_MEMBERS
        self._changed: tuple[int, ViewID, tuple[Change, ...]] | None = None
        self._raw: tuple[bytes | None, ...] = ()
        self._incarnation = ""
        self._reach: tuple[Mapping[str, str], tuple[str, ...]] = ({}, ())
        self._ways: Mapping[str, Way] = {}
        self._started = 0
        self._ticks = 0
        self._counts: Counter[str] = Counter()
        self._waiters: set[asyncio.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.kept: Callable[[], Collection[str]] = frozenset
        """Absent nodes that are to be awaited for longer than `forget_after`."""
        self._stopped = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._ended = False

    # --- questions -------------------------------------------------------------------------------

    def view(self) -> View:
        """The view that this node holds now, read from the store."""
        return self._rows.view()

    def view_in(self, reader: Reader) -> View:
        """The same, inside a transaction that acts on it."""
        return self._rows.view_in(reader)

    def lease_in(self, reader: Reader) -> int:
        """Until when this node may serve, inside a transaction that acts on it."""
        return self._rows.lease_in(reader)

    @property
    def cluster(self) -> str:
        """The identity that the cluster got when it began, also before this node is in a view
        again; empty in available mode, and where no view is known."""
        view, kept = self._rows.held()
        return (kept or view).cluster

    def leased(self) -> bool:
        """Whether this node may serve now (R9)."""
        with self._store.read() as reader:
            return self._clock() < self._rows.lease_in(reader)

    def is_member(self) -> bool:
        """Whether the view has this node, in its present incarnation."""
        return holds(self.view(), self._me.node, self._store.incarnation)

    def unproven(self) -> tuple[str, ...]:
        """Nodes out of the view that may hold data which nobody in it has.

        One that was a member, or was found outside the view, counts for `forget_after`, or for as
        long as an operator wants it awaited; one that was never seen, for the discovery time after
        this engine's start.
        """
        now, view = self._clock(), self.view()
        kept = self.kept()
        gone = (self._rows.found() if self._admission == "dynamic" else {}) | self._rows.gone()
        found = []
        for node in dict.fromkeys((*self._description.order, *gone)):
            if node == self._me.node or view.member(node) is not None or self._is_witness(node):
                continue
            if node in gone:
                waiting = self._is_remembered(node, gone[node], now, kept)
            else:
                waiting = now - self._started < self._timing.discovery_time
            if waiting:
                found.append(node)
        return tuple(found)

    def elsewhere(self) -> tuple[str, ...]:
        """Nodes that are configured or were members, and are not in the view. One that may not
        come back is left out when it is forgotten."""
        now, view = self._clock(), self.view()
        returns, kept = self._admission == "dynamic", self.kept()
        gone = [
            node
            for node, at in self._rows.gone().items()
            if returns or self._is_remembered(node, at, now, kept)
        ]
        known = dict.fromkeys((*self._description.order, *gone))
        return tuple(
            each
            for each in known
            if each != self._me.node and not view.member(each) and not self._is_witness(each)
        )

    def _is_remembered(self, node: str, went: int, now: int, kept: Collection[str]) -> bool:
        """Whether a node that went may still bring what nobody else has."""
        if node in kept and went > FORGOTTEN:
            return True
        # An instant of another boot may lie ahead; then the wait begins anew.
        return now - min(went, now) < self._timing.forget_after

    def _is_witness(self, node: str) -> bool:
        """Whether the node never holds anything."""
        described = self._description.node(node)
        return described is not None and described.role == "witness"

    def away(self) -> dict[str, int]:
        """Nodes that were members and are not now: milliseconds since each went; no witnesses."""
        now, view, gone = self._clock(), self.view(), self._rows.gone()
        return {
            name: now - at
            for name, at in gone.items()
            if view.member(name) is None and not self._is_witness(name)
        }

    @property
    def state(self) -> str:
        """The state of the node's automaton; of an engine that does not lead, as far as the store
        shows it."""
        if self._automaton is not None:
            return self._automaton.state
        return standing(*self._rows.held(), self._member())

    def node_state(self, node: str) -> NodeState:
        """The state of this node, or of another as far as this engine knows: what only streams
        tell (suspicions, nodes that start) is known to the engine that leads."""
        return state_of(node, self.view(), self._signs(node))

    def _signs(self, node: str) -> Signs:
        automaton, now = self._automaton, self._clock()
        if node != self._me.node:
            return NO_SIGNS if automaton is None else automaton.signs(node, now)
        member = self.is_member()
        waits = not self.leased() if member else automaton is not None and automaton.outvoted(now)
        state = self.state if member or self.state != State.JOINED else State.CONNECTING
        return Signs(state, self._store.incarnation, waits=waits)

    def picture(self) -> Picture:
        """What people want to see besides; descriptions are compared by the engine that leads."""
        view, order, last = self.view(), self._description.order, None
        if self._changed is not None:
            at, view_id, news = self._changed
            last = LastChange(view_id, news, self._clock() - at)
        return Picture(
            watches(view, order),
            self._description.hash,
            dict(self._automaton.differing) if self._automaton is not None else {},
            {node: way.via for node, way in self._rows.detours().items()},
            last,
        )

    @property
    def leads(self) -> bool:
        """Whether this engine runs the node's automaton."""
        return self._automaton is not None

    @property
    def waiting_for(self) -> str:
        """What the node waits for, for people; empty when it waits for nothing."""
        return self._automaton.waiting_for(self._clock()) if self._automaton is not None else ""

    @property
    def lacks(self) -> tuple[str, ...]:
        """The nodes without which this one cannot serve now, as far as this engine knows."""
        return self._automaton.lacks(self._clock()) if self._automaton is not None else ()

    @property
    def has_lost_votes(self) -> bool:
        """Whether this elector does not vote until a view is decided without its vote (R7a)."""
        return bool(self._rows.blank())

    @property
    def counts(self) -> Counter[str]:
        """views, suspicions, false_suspicions, transitions, dropped, refused_joins, excluded,
        pauses, differing_descriptions, and one for each transition (`joined_to_leaving`, …)."""
        mine = self._automaton.counts if self._automaton is not None else Counter[str]()
        return self._counts + mine

    # --- life ------------------------------------------------------------------------------------

    def subscribe(self, listener: ViewListener) -> None:
        """Tell the listener every view from now on, in order and once."""
        self._listeners.append(listener)

    async def start(self, links: Links) -> None:
        """Take part. `links` must already answer with `handle`, and tell of its streams.

        Raises:
            StoreError: the store cannot be used.
        """
        assert self._links is None, "started once"
        self._links = links
        self._started = self._clock()
        self._rows.begin_run(self._me, self._clock(), self._voting)
        self._incarnation = self._store.incarnation
        _, kept = self._rows.held()
        # What listeners learn next is told against the view before a restart, so that a member
        # that failed meanwhile is news.
        self._told = kept or NO_MEMBERS
        self._reach_out()
        self.poll()
        self._spawn(self._tick_forever())

    async def leave(self, *, returning: bool, patient: Callable[[], bool] = lambda: False) -> None:
        """Say goodbye and wait until the others have a view without this node, at most about a
        second. Only the node's last engine does it.

        `returning`: a restart, the node's seats are kept. `patient`: whether to wait on until an
        engine that ends too gives up the lead; one that cannot lead says nothing.
        """
        while self._automaton is None and not self._take_the_lead():
            if not patient():
                return
            await asyncio.sleep(TICK)
        self._step(lambda automaton, now: automaton.leave(now, returning=returning))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self._stopped.wait()

    async def stop(self) -> None:
        """Take no further part; says nothing to anybody."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for waiter in self._waiters:
            waiter.cancel()
        self._automaton = None
        self._ended = True

    def describe(self, me: Member) -> None:
        """Tell the cluster that this node describes itself anew: ready, weight, zone, url."""
        self._me = me
        self._tell_of_myself()

    def drain(self, how: Drains) -> None:
        """Tell the cluster that this node drains in this way, or (empty) no more.

        Raises:
            StoreFull: nothing was told.
        """
        self._rows.note_drains(how)
        self._tell_of_myself()

    @property
    def drains(self) -> Drains:
        """How this node drains, whichever of its engines was told."""
        return self._rows.drains()

    def _tell_of_myself(self) -> None:
        me = self._member()
        if self._automaton is not None:
            self._step(lambda automaton, now: automaton.describe(now, me))
        else:
            self._post(Join(me=me, view=NO_MEMBERS, served=False))

    def reloaded(self, description: Description, admission: Admission, me: Member) -> None:
        """The description of the cluster is another one now, and this node is described by `me`,
        but for what it says of itself while it runs."""
        self._description, self._admission = description, admission
        if self._voting is not None:
            self._voting = self._voting._replace(electors=description.order)
        kept = self._member()
        self._me = msgspec.structs.replace(
            me,
            incarnation=kept.incarnation,
            ready=kept.ready,
            kept=kept.kept,
            drains=kept.drains,
        )
        if self._automaton is not None:
            self._step(lambda automaton, now: automaton.reloaded(now, description, admission))
            self._step(lambda automaton, now: automaton.describe(now, self._me))
        self._reach_out()

    def found(self, directory: Mapping[str, Found]) -> None:
        """Discovery says where nodes are, this one left out."""
        self._found = directory
        keep = self._timing.forget_after
        self._rows.note_found(directory, self._clock(), keep)
        self._step(lambda automaton, now: automaton.found(now, directory))

    def forget(self, node: str) -> None:
        """Wait no longer for what the node may hold, until it is a member again (R18)."""
        self._rows.forget(node)

    def bootstrap(self, without: tuple[str, ...]) -> bool:
        """Go on without the votes of these electors, by an operator's word; False in available
        mode, where nobody votes. For the engine that leads."""
        if not isinstance(self._automaton, QuorumAutomaton):
            return False
        automaton = self._automaton
        self._step(lambda _, now: automaton.bootstrap(now, without))
        return True

    def suspect(self, node: str) -> None:
        """The data path got no answer from `node`: look at it now."""
        if self._automaton is not None:
            self._step(lambda automaton, now: automaton.suspect(now, node))
        else:
            self._hint(Confirm(node))

    async def wait_change(self, known: ViewID, timeout: float) -> View:
        """The view, as soon as it is not `known` any more, or after `timeout` seconds."""
        view = self.view()
        if view.id != known:
            return view
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        if self._watcher is None:
            self._watcher = self._spawn(self._watch_store())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await waiter
        finally:
            self._waiters.discard(waiter)
        return self.view()

    # --- messages and streams --------------------------------------------------------------------

    def handle(
        self, sender: Sender, message: Message
    ) -> Message | Awaitable[Message | None] | None:
        """Answer a membership message; None for a message that is none."""
        match message:
            case Confirm():
                return self._confirm(message.node)
            case Describe():
                return Described(self._description.nodes)
            case Watch():
                return self._watch(ViewID(*message.view))
        reply = self._answer(sender, message)
        if isinstance(message, FOR_THE_LEADER):
            self._tell_leader(sender, message, reply)
            if isinstance(message, Join) and self._automaton is not None:
                reason = self._automaton.refusal(message)
                reply = Failed("InvalidSettings", reason) if reason else reply
        return reply

    def _answer(self, sender: Sender, message: Message) -> Message | None:
        """The reply to what is answered from the store and the votes, in any engine."""
        return answer(
            sender,
            message,
            self._member(),
            self._rows,
            self._clock(),
            self._description.hash,
            self._voting,
        )

    def _tell_leader(self, sender: Sender, message: Message, reply: Message | None) -> None:
        if self._automaton is not None:
            self._step(lambda automaton, now: automaton.received(now, sender, message))
            return
        self._notice()
        if isinstance(message, Ping) and message.view == self.view().id:
            return
        if isinstance(message, Install) and reply == Installed(message.view):
            return
        self._rows.post(sender, message)

    async def _confirm(self, node: str) -> Message:
        address = self._addresses().get(node)
        if node == self._me.node or self._links is None:
            return Confirmed("alive")
        if address is None:
            return Confirmed("silent")
        return Confirmed(await self._links.probe(address, self._timing.probe / 1000))

    async def _watch(self, view_id: ViewID) -> Message:
        view = await self.wait_change(view_id, self._timing.heartbeat / 1000)
        return Done() if view.id == view_id else Installed(view)

    def link_up(self, node: str, incarnation: str) -> None:
        """A stream that this engine dialled is open."""
        if self._automaton is not None:
            self._step(lambda automaton, now: automaton.link_up(now, node, incarnation))

    def link_down(self, node: str, *, refused: bool) -> None:
        """A stream broke and could not be made again."""
        member = self.view().member(node)
        if self._automaton is not None:
            self._step(lambda automaton, now: automaton.link_down(now, node, refused=refused))
        elif member is not None:
            self._hint(Report(node, member.incarnation, True) if refused else Confirm(node))

    # --- the automaton ---------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        while True:
            pause = TICK
            try:
                self.poll()
            except Exception:
                logger.exception("the topology manager failed; it goes on in %s s", AFTER_ERROR)
                pause = AFTER_ERROR
            await asyncio.sleep(pause)

    def poll(self) -> None:
        """One tick."""
        if self._store.incarnation != self._incarnation:
            self._renewed()
        self._ticks += 1
        if self._automaton is not None or (self._ticks % LEAD_EVERY == 1 and self._take_the_lead()):
            for sender, message in self._rows.drain():
                self._step(_left_by_sibling(sender, message))
            self._step(lambda automaton, now: automaton.tick(now))
        self._notice()

    def _take_the_lead(self) -> bool:
        """Become the engine that runs the automaton, from what the store says: no view changes."""
        if not self._store.try_lead():
            return False
        self._automaton = self._begun()
        logger.info("this engine leads its node; the node is %s", self._automaton.state)
        if self._found:
            self._step(lambda automaton, now: automaton.found(now, self._found))
        return True

    def _begun(self) -> Automaton:
        """An automaton that goes on from what the store says."""
        view, kept = self._rows.held()
        shared = _Shared(
            view=view,
            kept=kept,
            trust_refused=self._trust_refused,
            admission=self._admission,
            run=self._store.run,
            detours=self._rows.detours(),
        )
        now, voting = self._clock(), self._voting
        if voting is None:
            return AvailableAutomaton(
                self._member(), self._description, self._timing, now, **shared
            )
        return QuorumAutomaton(
            self._member(),
            self._description,
            self._timing,
            now,
            electors=voting.electors,
            identity=voting.token(),
            life=voting.token(),
            accepted=self._rows.grants().accepted,
            blank=self._rows.blank(),
            **shared,
        )

    def _step(self, event: Callable[[Automaton, int], list[Effect]]) -> None:
        automaton = self._automaton
        if automaton is None:
            return
        now = self._clock()
        if isinstance(automaton, QuorumAutomaton):
            automaton.accepted, automaton.blank = self._rows.grants().accepted, self._rows.blank()
        view, kept = self._rows.held()
        if (view, kept) != (automaton.view, automaton.kept):
            self._carry_out(automaton, automaton.stored(now, view, kept))
        self._carry_out(automaton, event(automaton, now))
        if automaton.state is State.STOPPED:
            self._stopped.set()
        self._notice()

    def _carry_out(self, automaton: Automaton, effects: list[Effect]) -> None:
        now = self._clock()
        for effect in effects:
            match effect:
                case Send() if effect.node == self._me.node:
                    self._ask_myself(automaton, effect.message)
                case Send():
                    self._spawn(self._call(automaton, effect))
                case Write():
                    if not self._rows.replace(effect.base, effect.view, effect.kept, now):
                        held = self._rows.held()
                        self._carry_out(automaton, automaton.stored(now, *held))
                        return
                case Renew():
                    self._store.renew_incarnation()
                    self._renewed()
                    self._carry_out(automaton, automaton.renewed(now, self._incarnation))
                case Lease():
                    self._rows.lease(effect.until)
                case Release():
                    self._rows.release(effect)
                case Log():
                    logger.log(effect.level, "%s", effect.text)

    def _ask_myself(self, automaton: Automaton, question: Message) -> None:
        """An elector votes on what it proposes like any other."""
        me = Sender(self._me.node, self._store.incarnation)
        reply = self._answer(me, question)
        assert reply is not None, "asked as an elector"
        if isinstance(automaton, QuorumAutomaton):
            automaton.accepted = self._rows.grants().accepted
        effects = automaton.replied(self._clock(), me.node, question, reply)
        self._carry_out(automaton, effects)

    async def _call(self, automaton: Automaton, effect: Send) -> None:
        try:
            await self._call_and_step(automaton, effect)
        except StoreFull as full:
            logger.debug("what %s answered is lost, and asked again: %s", effect.node, full)

    async def _call_and_step(self, automaton: Automaton, effect: Send) -> None:
        assert self._links is not None, "started"
        straight = effect.straight
        try:
            reply = await self._links.call(
                effect.node, effect.message, effect.timeout / 1000, straight=straight
            )
        except PeerUnavailable as error:
            refused = error.refused
            if self._automaton is automaton:
                self._step(lambda a, now: a.unanswered(now, effect.node, refused=refused))
            return
        if self._automaton is automaton:
            self._step(
                lambda a, now: a.replied(now, effect.node, effect.message, reply, straight=straight)
            )

    def _renewed(self) -> None:
        """The node is another incarnation: every stream must say so."""
        self._incarnation = self._store.incarnation
        if self._links is not None:
            self._links.drop_all()

    # --- what the store says ---------------------------------------------------------------------

    def _notice(self) -> None:
        """Tell listeners, waiters and streams when the store has another view than before."""
        raw = self._rows.raw()
        if raw != self._raw:
            self._raw = raw
            view = self.view()
            if self._voting is not None:
                self._rows.swear_in(self._me.node, self._voting.file)
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._reach_out()
            if view.members and view != self._told:
                self._publish(view)
        elif self._automaton is not None:
            self._reach_out()

    def _publish(self, view: View) -> None:
        news = changes(self._told, view)
        self._told = view
        if news:
            self._changed = (self._clock(), view.id, news)
        self._counts["installed"] += 1
        words = ", ".join(f"{change.kind} {change.node}" for change in news) or "as before"
        level = logging.INFO if self.leads else logging.DEBUG
        members = ", ".join(view.nodes)
        logger.log(level, "view %s: %s; members %s", numbered(view.id), words, members)
        for listener in self._listeners:
            listener.view_changed(view, news)

    def _reach_out(self) -> None:
        """Let the streams know where nodes listen, and which of them to hold."""
        automaton = self._automaton
        if automaton is not None:
            reach = (automaton.addresses, automaton.neighbours)
        else:
            reach = (self._addresses(), ())
        if reach != self._reach and self._links is not None:
            self._reach = reach
            self._links.know(reach[0])
            self._links.keep(reach[1])
        ways = automaton.detours if automaton is not None else self._rows.detours()
        if ways != self._ways and self._links is not None:
            self._ways = ways
            self._links.detour(ways)
            if automaton is not None:
                self._rows.note_detours(ways)

    def _addresses(self) -> dict[str, str]:
        found = {member.node: member.peer for member in self.view().members}
        found |= self._description.addresses
        found.pop(self._me.node, None)
        return found

    async def _watch_store(self) -> None:
        """Look more often while somebody waits: another engine may have learnt the view."""
        try:
            while self._waiters:
                await asyncio.sleep(WATCHFUL)
                if self._ended:
                    return  # the store may be closed; a late request waits in vain
                self._notice()
        finally:
            self._watcher = None

    def _member(self) -> Member:
        """This node as it offers itself."""
        if self._me.incarnation != self._store.incarnation:
            self._me = msgspec.structs.replace(self._me, incarnation=self._store.incarnation)
        if self._me.drains != (how := self._rows.drains()):
            self._me = self._me.draining(how)
        return self._me

    def _post(self, message: Message) -> None:
        self._rows.post(Sender(self._me.node, self._store.incarnation), message)

    def _hint(self, message: Message) -> None:
        """Post what heartbeats show as well: where there is no room it is lost. Whoever met it has
        an answer to give that must not be "the store is full"."""
        with contextlib.suppress(StoreFull):
            self._post(message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Shared(TypedDict):
    """What both automata are made with."""

    view: View
    kept: View | None
    trust_refused: bool | None
    admission: Admission
    run: int
    detours: Mapping[str, Way]


def _left_by_sibling(sender: Sender, message: Message) -> Callable[[Automaton, int], list[Effect]]:
    """The event that a message from the inbox is."""
    if isinstance(message, Confirm):
        return lambda automaton, now: automaton.suspect(now, message.node)
    if isinstance(message, Join) and message.me.incarnation == sender.incarnation:
        return lambda automaton, now: (
            automaton.describe(now, message.me)
            if message.me.node == automaton.me.node
            else automaton.received(now, sender, message)
        )
    return lambda automaton, now: automaton.received(now, sender, message)
