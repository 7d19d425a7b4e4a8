"""The health of upstreams, learned from the view and from what happens to requests."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, Protocol

from sessionha.balancers.table import Table, Target
from sessionha.router.affinity import in_order
from sessionha.router.balance import ANY, Balance, Preference
from sessionha.topology.health import NodeState
from sessionha.view import NO_MEMBERS, View

logger = logging.getLogger("sessionha.router")

RETRY_AFTER: Final = 1.0
"""Seconds until a suspect is trusted and one request may try a server that refused, where the
view has not told more by then; a dead host then costs one request a second its connect time."""


Entry = Literal["entered", "full", "gone"]
"""What came of asking for a place at a server."""


class Exchange(Protocol):
    """A request or websocket that runs on an upstream."""

    def node_lost(self) -> None:
        """The cluster excluded the node: it may be dead, stopped or cut off."""
        ...


class Upstream:
    """One target and what this router knows of it."""

    __slots__ = (
        "_waiting", "checked", "exchanges", "on_trial", "requests", "retry_at", "shown",
        "target",
    )  # fmt: skip

    def __init__(self, target: Target) -> None:
        self.target = target
        self.shown = NodeState.READY
        """What requests showed."""
        self.checked: NodeState | None = None
        """What its health check told; None: nothing against it."""
        self.exchanges: set[Exchange] = set()
        self.requests = 0
        """Of these, those that are no websockets."""
        self.retry_at = 0.0
        self.on_trial = False
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @property
    def state(self) -> NodeState:
        """Ready, suspect, failed or draining, as far as this router can tell by itself."""
        return self.checked or self.shown

    @property
    def in_flight(self) -> int:
        """Requests and websockets that run there through this router."""
        return len(self.exchanges)

    @property
    def queued(self) -> int:
        """Requests that wait for room."""
        return len(self._waiting)

    async def enter(self, room: int, queue: int, timeout: float) -> Entry:
        """Take one of `room` places, after others that wait for one; `leave` gives it back.

        Who finds `queue` others waiting, or waits for `timeout` seconds, has none.
        """
        if self.requests < room and not self._waiting:
            self.requests += 1
            return "entered"
        if len(self._waiting) >= queue:
            return "full"
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout):
                return "entered" if await turn else "gone"
        except TimeoutError:
            self._give_up(turn)
            return "full"
        except asyncio.CancelledError:
            self._give_up(turn)
            raise

    def leave(self) -> None:
        """Give the place to who waits longest."""
        self.requests -= 1
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self.requests += 1
                turn.set_result(True)
                return

    def _give_up(self, turn: asyncio.Future[bool]) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled() and turn.result():
            self.leave()  # it got its place in the same moment

    def dismiss(self) -> None:
        """The view lost it: who waits shall ask another."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)


class Upstreams:
    """The upstreams of the current view. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.view: View = NO_MEMBERS
        self._clock = clock
        self._table = Table(NO_MEMBERS)
        self._by_name: dict[str, Upstream] = {}
        self._balance = Balance(self._by_name)
        self._ailing: set[Upstream] = set()
        self._changed = asyncio.Event()

    def view_changed(self, view: View) -> None:
        """Follow a new view: newcomers are ready, and what ran on an excluded node is abandoned.

        A node that said goodbye is left alone: it finishes its requests.
        """
        old, before = self.view, self._by_name
        self.view = view
        self._table = Table(view)
        self._by_name = {
            target.name: self._upstream(target, old, before) for target in self._table.targets
        }
        self._balance.know(self._by_name, view.nodes)
        self._ailing.intersection_update(self._by_name.values())
        for upstream in before.values():
            if self._by_name.get(upstream.target.name) is not upstream:
                upstream.dismiss()
            if _was_excluded(view, upstream.target.node):
                for exchange in tuple(upstream.exchanges):
                    exchange.node_lost()
        self._changed.set()
        self._changed = asyncio.Event()

    def _upstream(self, target: Target, old: View, before: dict[str, Upstream]) -> Upstream:
        upstream = before.get(target.name)
        if upstream is None or upstream.target.url != target.url:
            return Upstream(target)
        upstream.target = target
        member, now = old.member(target.node), self.view.member(target.node)
        if member is None or now is None or member.joined != now.joined:
            self._ailing.discard(upstream)
            upstream.shown, upstream.on_trial = NodeState.READY, False
        return upstream

    def all(self) -> tuple[Upstream, ...]:
        """Every upstream of the view."""
        return tuple(self._by_name.values())

    def routable(self) -> bool:
        """Whether the view has anything to connect to."""
        return bool(self._by_name)

    def candidates(self, servers: Sequence[str], prefer: Preference = ANY) -> Iterator[Upstream]:
        """The upstreams to try for a request, the best first (`affinity.in_order`)."""
        if self._ailing:
            self._revive()
        for target in in_order(self._table, servers, self._balance, prefer):
            upstream = self._by_name.get(target.name)
            if upstream is None:
                continue  # the view lost it while others were tried: nothing would end its silence
            if upstream.on_trial:
                self._mark(upstream, NodeState.FAILED)  # until it answers this one request
            yield upstream

    def _revive(self) -> None:
        now = self._clock()
        for upstream in [each for each in self._ailing if now >= each.retry_at]:
            self._ailing.discard(upstream)
            upstream.on_trial = upstream.shown is NodeState.FAILED
            upstream.shown = NodeState.READY

    def _mark(self, upstream: Upstream, state: NodeState) -> None:
        upstream.shown = state
        upstream.on_trial = False
        upstream.retry_at = self._clock() + RETRY_AFTER
        self._ailing.add(upstream)

    def answered(self, upstream: Upstream) -> None:
        """It answered something."""
        if upstream.shown is not NodeState.READY:
            upstream.shown = NodeState.READY
            self._ailing.discard(upstream)
            logger.info("%s answers again", upstream.target.name)

    def refused(self, upstream: Upstream) -> None:
        """It could not be connected to: failed, until a request in a while finds it alive."""
        if upstream.shown is NodeState.READY:
            logger.warning("%s cannot be connected to", upstream.target.name)
        self._mark(upstream, NodeState.FAILED)

    def broke(self, upstream: Upstream) -> None:
        """It closed a connection without an answer: dead, or only one engine of it; suspect."""
        if upstream.shown is not NodeState.FAILED:
            self._mark(upstream, NodeState.SUSPECT)

    def checked(self, upstream: Upstream, state: NodeState) -> None:
        """What its health check told: READY takes back what an earlier one said."""
        found = None if state is NodeState.READY else state
        if found is not upstream.checked:
            upstream.checked = found
            logger.info("%s is %s by its health check", upstream.target.name, state)

    async def changed(self, timeout: float) -> None:
        """Return at the next view, or after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return


def _was_excluded(view: View, node: str) -> bool:
    if view.member(node) is not None:
        return False
    return dict(view.departed).get(node) not in ("left", "returning")
