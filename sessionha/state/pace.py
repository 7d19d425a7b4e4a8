"""How fast work in the background goes: so many bytes a second, and requests first."""

from __future__ import annotations

import asyncio
from typing import Final

from sessionha.state.bulk import BATCH

BUSY: Final = 0.002
"""Seconds that one turn of the event loop takes when requests are under way: an idle one takes 50
µs, and one that serves a request 0.1 to 1 ms."""

REST: Final = 4
"""A busy loop gets so many times the turn that it took before the next batch."""

LONGEST_REST: Final = 0.05
"""Seconds of one such rest."""

RESTS: Final = 2
"""Rests after which work goes on in any case: a tenth of a second for a full batch, which takes
3 ms. A node that is never idle has to have its copies again soon as well: another may die
meanwhile. Small batches go together: a domain may have two groups, and 256 domains with a rest each
would keep a busy node from being whole for minutes."""

BURST: Final = 0.1
"""Seconds that may be sent at once after a pause."""


class Pace:
    """A limit of bytes per second for all who spend them. Times are those of the event loop."""

    def __init__(self) -> None:
        self._free_at = 0.0
        self._done = 0.0
        """Batches since requests had their turn."""

    async def spend(self, size: int, rate: float) -> None:
        """Wait until `size` bytes may go, at `rate` bytes a second, and requests have had their
        turn."""
        loop = asyncio.get_running_loop()
        await self.let_requests(size / BATCH)
        now = loop.time()
        begins = max(self._free_at, now - BURST)
        self._free_at = begins + size / rate  # before it waits: others may come meanwhile
        if begins > now:
            await asyncio.sleep(begins - now)

    async def let_requests(self, batches: float) -> None:
        """Before the work of so many batches: with every full one wait until requests have had
        their turn; for a tenth of a second at most."""
        self._done += batches
        if self._done < 1:
            return  # what it is asked for waits for an answer anyway
        self._done = 0.0
        loop = asyncio.get_running_loop()
        for _ in range(RESTS):
            began = loop.time()
            await asyncio.sleep(0)
            turn = loop.time() - began
            if turn < BUSY:
                return
            await asyncio.sleep(min(turn * REST, LONGEST_REST))
