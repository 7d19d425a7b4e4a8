"""`/v1/forget/…`, `/v1/bootstrap`, `/v1/reload`: what only a person can know of the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionha.engine import Engine
from sessionha.errors import InvalidSettings, StoreFull

NO_STORE: Final = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class MembershipPage:
    """The endpoints of one running engine, which leads its node."""

    engine: Engine

    async def forget(self, request: Request) -> Response:
        """POST: wait no longer for what an absent node may hold (R18)."""
        node = request.path_params["node"]
        membership = self.engine.membership
        if membership.view().member(node) is not None:
            return PlainTextResponse(f"{node} is a member, and serves\n", 400, NO_STORE)
        if node not in membership.away() and node not in membership.unproven():
            return PlainTextResponse(f"{node} was never a member here\n", 400, NO_STORE)
        membership.forget(node)
        return JSONResponse({"forgotten": node}, headers=NO_STORE)

    async def reload(self, request: Request) -> Response:  # noqa: ARG002
        """POST: read the settings again; all mistakes, a line each, where nothing was changed."""
        try:
            found = self.engine.reload()
        except InvalidSettings as error:
            return PlainTextResponse("\n".join([*error.problems, ""]), 400, NO_STORE)
        except StoreFull as error:
            return PlainTextResponse(f"only one process has reloaded: {error}\n", 503, NO_STORE)
        told = {"changed": list(found.changed), "waiting": list(found.waiting)}
        return JSONResponse({"node": self.engine.settings.node, **told}, headers=NO_STORE)

    async def bootstrap(self, request: Request) -> Response:
        """POST `?without=`, one for each: decide the next view without these electors' votes."""
        without = tuple(request.query_params.getlist("without"))
        membership, own = self.engine.membership, self.engine.settings.node
        described = self.engine.settings.description.order
        known = {*described, *membership.view().electors} - {own}
        strangers = ", ".join(sorted(set(without) - known))
        if strangers or not without:
            words = f"not another configured node: {strangers}" if strangers else "without whom?"
            return PlainTextResponse(f"{words}\n", 400, NO_STORE)
        if not membership.bootstrap(without):
            return PlainTextResponse("nobody votes here: `consistency`\n", 400, NO_STORE)
        return JSONResponse({"without": sorted(without)}, headers=NO_STORE)
