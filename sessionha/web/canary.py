"""Answers the canaries of `sessionha doctor` in the place of the application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from sessionha.keys import CANARY_LABEL
from sessionha.session.canaries import QUERY, Arrived, Standing, Wish, report, wish_of

if TYPE_CHECKING:
    from sessionha.session.visit import Visit
    from sessionha.web.base import Engine

MARK: Final = QUERY.encode()
JSON: Final = "application/json"


def wish_here(engine: Engine, query: str) -> Wish | None:
    """What the canary with this query asks for; None: no secret of this node signed it."""
    return wish_of(query, engine.settings.keys(CANARY_LABEL), engine.now())


def answer(engine: Engine, visit: Visit, arrived: Arrived) -> bytes:
    """The body of the response."""
    standing = Standing(engine.settings.node, engine.node_state, engine.servers())
    return msgspec.json.encode(report(visit, arrived, standing, engine.now()))
