"""Runs beside an engine: leaves its counts for the node, and serves them while it leads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from sessionha.admin.snapshot import counts, leads, store_of
from sessionha.admin.tally import Tally
from sessionha.engine import Engine
from sessionha.errors import StoreFull

if TYPE_CHECKING:
    from sessionha.admin.server import AdminServer

log = logging.getLogger("sessionha.admin")

TICK: Final = 0.5
"""Seconds between two looks at who leads: how long a node may be without administration, and how
old the counts of its other engines may be."""

TAKEN: Final = 5.0
"""Seconds before an address that was taken is tried again."""


class Administration:
    """The administration of an engine's node, from the engine's start to its stop."""

    def __init__(self, engine: Engine, *, tick: float = TICK) -> None:
        self._engine = engine
        self._tick = tick
        self._can_serve = False
        self._task: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Import what it needs, if it is to serve; when that is not there, say so once."""
        address = self._engine.settings.admin
        asked = "admin" in self._engine.settings.origins
        level = logging.WARNING if asked else logging.INFO
        self._can_serve = bool(address) and _can_serve(address, level)

    def start(self) -> None:
        """Begin, unless `admin` is off or what it needs is not there."""
        if not self._can_serve:
            return
        address = self._engine.settings.admin
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            log.warning("`admin` = %r is not served: this server's loop is not asyncio's", address)
            return
        self._task = loop.create_task(_Serving(self._engine, self._tick).run(), name="admin")

    async def stop(self) -> None:
        """Close the listener and leave the last counts."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


class _Serving:
    """What one run does."""

    def __init__(self, engine: Engine, tick: float) -> None:
        self._engine = engine
        self._tally = Tally(store_of(engine))
        self._tick = tick
        self._server: AdminServer | None = None
        self._again = 0.0
        self._warned = False

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        try:
            while True:
                try:
                    await self._look()
                except Exception:
                    log.exception("the administration failed; it goes on in %s s", TAKEN)
                    await asyncio.sleep(TAKEN)
                await asyncio.sleep(self._tick)
        finally:
            await self._close()
            self._leave()

    async def _look(self) -> None:
        self._leave()
        if leads(self._engine) and self._server is None:
            await self._open()
        elif self._server is not None and not leads(self._engine):
            await self._close()

    def _leave(self) -> None:
        with contextlib.suppress(StoreFull):  # sessions need the room more; the next time
            self._tally.leave(counts(self._engine))

    async def _open(self) -> None:
        from sessionha.admin.app import build  # noqa: PLC0415  (the extra may be absent)
        from sessionha.admin.server import AdminServer, bind  # noqa: PLC0415

        now = asyncio.get_running_loop().time()
        if now < self._again:
            return
        address = self._engine.settings.admin
        try:
            listening = bind(address)
        except OSError as error:
            self._again = now + TAKEN
            if not self._warned:
                log.warning(
                    "`admin` = %r cannot be used (%s): the node goes on without metrics and"
                    " administration; set SESSIONHA_ADMIN to a free address, or to off",
                    address,
                    error.strerror or error,
                )
            self._warned = True
            return
        self._warned = False
        server = AdminServer(build(self._engine, self._tally))
        await server.start(listening)
        self._server = server
        log.info("engine %d serves metrics and administration at %s", self._engine.slot, address)

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()


def _can_serve(address: str, level: int) -> bool:
    """Whether the libraries of the extra are there; said at `level` when not."""
    try:
        import prometheus_client  # noqa: F401, PLC0415
        import starlette  # noqa: F401, PLC0415
        import uvicorn  # noqa: F401, PLC0415

        import sessionha.admin.app  # noqa: PLC0415
        import sessionha.admin.server  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        log.log(
            level,
            "`admin` = %r is not served: %s is not installed; pip install 'sessionha[admin]', or"
            " set SESSIONHA_ADMIN to off",
            address,
            error.name,
        )
        return False
    return True
