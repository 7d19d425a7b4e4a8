"""`/healthz` and `/readyz` of the administration: a status for probes, reasons for operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionha.admin.tokens import may, role_of
from sessionha.engine import Engine

NO_STORE: Final = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class HealthPage:
    """The endpoints of one running engine, which leads its node."""

    engine: Engine

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002
        """The engine's event loop answers."""
        return PlainTextResponse("ok\n", headers=NO_STORE)

    async def readyz(self, request: Request) -> Response:
        """200, 404 or 503 for anybody, as on the application's port; why, for whoever has a token:
        no stranger learns the names of nodes."""
        engine, membership = self.engine, self.engine.membership
        state = engine.node_state
        status, words = state.readiness
        token = request.headers.get("authorization", "").encode("latin-1")
        if not may(role_of(token, engine.settings), "read"):
            return PlainTextResponse(f"{words}\n", status, NO_STORE)
        reasons = {
            "node": engine.settings.node,
            "state": state,
            "automaton": membership.state,
            "waiting_for": membership.waiting_for,
            "lacks": list(membership.lacks),
        }
        return JSONResponse(reasons, status, NO_STORE)
