"""Follows the cluster's view as an observer: a member of nothing, told everything.

The router asks several nodes at once to tell it when their view differs from its own (`Watch`), so
that one stopped or cut-off node does not keep it in the dark.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Final

from sessionha.errors import PeerError
from sessionha.peer.base import Peers
from sessionha.peer.messages import Done, Installed, Watch
from sessionha.view import NO_MEMBERS, View

logger = logging.getLogger("sessionha.router")

WATCHERS: Final = 3
"""Nodes asked at the same time: one may be stopped and one cut off."""

SILENCE: Final = 2.0
"""Seconds until an unanswered question counts as lost; a node answers after a heartbeat."""

PAUSE: Final = 0.25
"""Seconds before the next question to the cluster when a node had no answer worth having."""

HASTE: Final = 0.02
"""Seconds: a node that says faster that it knows no more is not asked again without a pause."""

OUTLIVED: Final = 5.0
"""Seconds without anybody who holds the followed view until a lower one is followed: then the
whole cluster was started anew and counts from 1 again."""

ALONE: Final = 5.0
"""Seconds without a word of any node until the log says so."""


class Choice:
    """Which of the views that nodes report is the cluster's; pure, `now` in seconds."""

    def __init__(self) -> None:
        self.view: View = NO_MEMBERS
        self._confirmed = 0.0

    def offer(self, view: View, now: float) -> bool:
        """Whether a reported view is followed from now on.

        A node that was excluded, or stood still, reports an older view: it is passed over
        while others know better.
        """
        if view.id == self.view.id:
            self._confirmed = now
            return False
        if not view.supersedes(self.view) and now - self._confirmed < OUTLIVED:
            return False
        self.view = view
        self._confirmed = now
        return True

    def confirm(self, now: float) -> None:
        """A node holds the followed view."""
        self._confirmed = now


class Follower:
    """Keeps asking nodes for their view and tells every new one.

    Args:
        peers: Reaches the nodes; told the addresses of each new view.
        seeds: Node ID to `host:port` of the nodes that are configured; none where they are found.
        changed: Called with each view that is followed, on the event loop.
        chance: Spreads the questions of many routers.
    """

    def __init__(
        self,
        peers: Peers,
        seeds: Mapping[str, str],
        changed: Callable[[View], None],
        chance: random.Random | None = None,
    ) -> None:
        self._peers = peers
        self._seeds = dict(seeds)
        self._changed = changed
        self._chance = chance or random.Random()
        self._choice = Choice()
        self._tasks: list[asyncio.Task[None]] = []
        self._watched: set[str] = set()
        self._asked: dict[str, int] = {}
        self._questions = 0
        self._heard = 0.0
        self._complained = False

    @property
    def view(self) -> View:
        """The view that is followed; empty before the first answer."""
        return self._choice.view

    def start(self) -> None:
        """Begin to follow."""
        self._peers.know(self._seeds)
        self._heard = asyncio.get_running_loop().time()
        self._tasks = [asyncio.create_task(self._watch()) for _ in range(WATCHERS)]

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def seek(self, directory: Mapping[str, str]) -> None:
        """Discovery says where nodes are: where it found a member counts more than the view."""
        self._seeds = dict(directory)
        self._know()

    async def _watch(self) -> None:
        while True:
            node = self._next_node()
            if node is None:
                await asyncio.sleep(PAUSE)
                continue
            self._watched.add(node)
            try:
                while await self._ask(node):
                    pass
            except Exception:
                logger.exception("following the view through %s failed", node)
            finally:
                self._watched.discard(node)
            await asyncio.sleep(PAUSE * self._chance.uniform(0.5, 1.5))

    def _next_node(self) -> str | None:
        """Among the nodes that nobody watches, the one that was asked longest ago."""
        nodes = [*self.view.nodes, *(node for node in self._seeds if node not in self.view.nodes)]
        free = [node for node in nodes if node not in self._watched]
        if not free:
            return None
        node = min(free, key=lambda node: self._asked.get(node, 0))
        self._questions += 1
        self._asked[node] = self._questions
        return node

    async def _ask(self, node: str) -> bool:
        """Whether the node is worth asking again at once."""
        clock = asyncio.get_running_loop().time
        asked = clock()
        number, lowest = self.view.id
        try:
            reply = await self._peers.call(node, Watch((number, lowest)), SILENCE)
        except PeerError as error:
            logger.debug("%s tells no view: %s", node, error)
            self._complain(str(error), clock())
            return False
        now = self._heard = clock()
        if self._complained:
            self._complained = False
            logger.info("%s answers: the cluster can be followed again", node)
        if isinstance(reply, Installed) and self._choice.offer(reply.view, now):
            self._follow(reply.view)
            return True
        if isinstance(reply, Done):
            self._choice.confirm(now)
        return isinstance(reply, Done) and now - asked > HASTE

    def _complain(self, why: str, now: float) -> None:
        """Say once that nobody answers."""
        if self._complained or now - self._heard < ALONE:
            return
        self._complained = True
        logger.warning(
            "no node tells this router the cluster's view (%s): do they run, and are `nodes`,"
            " `cluster` and the secret here the same as theirs?",
            why,
        )

    def _follow(self, view: View) -> None:
        logger.info("following view %d with %s", view.id.number, ", ".join(view.nodes) or "nobody")
        self._know()
        self._changed(view)

    def _know(self) -> None:
        members = {member.node: member.peer for member in self.view.members}
        self._peers.know(members | self._seeds)
