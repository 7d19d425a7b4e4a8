"""`/v1/drain/…`: planned stops of nodes, this one or any other member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionha.engine import Engine
from sessionha.errors import InvalidSettings, PeerUnavailable
from sessionha.view import Drains

NO_STORE: Final = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class DrainingPage:
    """The endpoints of one running engine, which leads its node."""

    engine: Engine

    async def begin(self, request: Request) -> Response:
        """POST: drain to go for good, `?restart` to come back. It goes on when this is answered."""
        restarts = "restart" in request.query_params
        return await self._told(request, "returning" if restarts else "leaving")

    async def end(self, request: Request) -> Response:
        """DELETE: drain no more; the node takes clients again."""
        return await self._told(request, "")

    async def show(self, request: Request) -> Response:
        """GET: how far it is."""
        return await self._told(request, None)

    async def _told(self, request: Request, how: Drains | None) -> Response:
        try:
            progress = await self.engine.drain(request.path_params["node"], how)
        except InvalidSettings as error:
            return PlainTextResponse("\n".join([*error.problems, ""]), 400, NO_STORE)
        except PeerUnavailable as error:
            return PlainTextResponse(f"{error}\n", 503, NO_STORE)
        return JSONResponse(msgspec.structs.asdict(progress), headers=NO_STORE)
