"""Whether a node has caught up since it joined: probes call it ready from then on (system 7)."""

from __future__ import annotations

from typing import Final

import msgspec

from sessionha.errors import StoreFull
from sessionha.identity import NO_VIEW, ViewID
from sessionha.state.node import Node
from sessionha.state.redundancy import Redundancy

ROW: Final = b"\x00caught-up"
"""Store row: the view at which the node joined, once it had caught up since then."""

LONGEST: Final = 60_000
"""Milliseconds after which a node counts as caught up anyway: where its store has no room for its
copies, or a member is stuck, a rolling restart shall go on. Its health tells what lacks."""

_encode = msgspec.msgpack.Encoder().encode


class CatchingUp:
    """One engine's knowledge of it. Only the engine that leads the node asks the others."""

    def __init__(self, node: Node, redundancy: Redundancy) -> None:
        self._node = node
        self._redundancy = redundancy
        self._over = NO_VIEW
        """The view at which it joined, when it has caught up since."""
        self._noted = NO_VIEW
        """The same, when the other engines can know."""
        self._since = NO_VIEW
        self._until = 0

    @property
    def is_over(self) -> bool:
        """Whether every member has brought its groups to their copies since this node joined, and
        so given it what it is to hold. True for a node that is no member."""
        joined = self._joined
        if joined != self._over:
            with self._node.store.read() as reader:
                if reader.get(ROW) == _encode(joined):
                    self._over = self._noted = joined
        return joined == self._over

    async def look(self) -> None:
        """Ask the others, unless it is over."""
        joined = self._joined
        if not self.is_over:
            now = self._node.clock.now()
            if joined != self._since:
                self._since, self._until = joined, now + LONGEST
            if now < self._until and not await self._others_are_through(joined):
                return
            self._over = joined
        if self._noted != joined:
            self._note(joined)

    def _note(self, joined: ViewID) -> None:
        try:
            with self._node.store.write(urgent=True) as writer:
                writer.put(ROW, _encode(joined))
        except StoreFull:
            return  # this engine knows; the others learn it when there is room
        self._noted = joined

    async def _others_are_through(self, since: ViewID) -> bool:
        found = await self._redundancy.everywhere()
        return all(each is not None and each.course.ended >= since for each in found.values())

    @property
    def _joined(self) -> ViewID:
        return self._node.joined(self._node.membership.view())
