"""Active health checks: each second every server is asked whether it takes clients."""

from __future__ import annotations

import asyncio
from typing import Final

from sessionha.router.connections import Connections
from sessionha.router.upstreams import Upstream, Upstreams
from sessionha.topology.health import NodeState

EVERY: Final = 1.0
"""Seconds between two questions to a server; what requests and the view tell comes sooner."""

TIMEOUT: Final = 1.0
"""Seconds for an answer."""

FAILURES: Final = 2
"""So many in a row, since one may be chance."""


class Checks:
    """Asks every upstream of the view at `path`."""

    def __init__(self, upstreams: Upstreams, connections: Connections, path: str) -> None:
        self._upstreams = upstreams
        self._connections = connections
        self._path = path
        self._failures: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await self.round()
            await asyncio.sleep(EVERY)

    async def round(self) -> None:
        """Ask everybody once."""
        upstreams = self._upstreams.all()
        names = {upstream.target.name for upstream in upstreams}
        self._failures = {name: n for name, n in self._failures.items() if name in names}
        await asyncio.gather(*map(self._ask, upstreams))

    async def _ask(self, upstream: Upstream) -> None:
        status = await self._connections.check(upstream.target.url, self._path, TIMEOUT)
        name = upstream.target.name
        self._failures[name] = 0 if status in (200, 404) else self._failures.get(name, 0) + 1
        if status == 200:
            self._upstreams.checked(upstream, NodeState.READY)
        elif status == 404:
            self._upstreams.checked(upstream, NodeState.DRAINING)
        elif self._failures[name] >= FAILURES:
            self._upstreams.checked(upstream, NodeState.FAILED)
