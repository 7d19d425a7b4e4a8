"""`/v1/healing`, `/v1/heal/…`, `/v1/safe-to-stop/…`: copies, absent nodes, and what a stop would
cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionha.admin.snapshot import delay_rows, health_row
from sessionha.engine import Engine
from sessionha.errors import StoreFull
from sessionha.peer.messages import Health, Weight
from sessionha.quantities import read_duration
from sessionha.state.redundancy import Safety
from sessionha.view import View

NO_STORE: Final = {"cache-control": "no-store"}

COPIES: Final = ("healed", "replaced", "refilled", "moved")
"""Counts of copies, by why they were made."""


@dataclass(frozen=True, slots=True)
class HealingPage:
    """The endpoints of one running engine, which leads its node."""

    engine: Engine

    async def show(self, request: Request) -> Response:  # noqa: ARG002
        """GET: who is awaited, and how many copies the groups have, on every node."""
        engine = self.engine
        found = await engine.state.redundancy.everywhere()
        delays = delay_rows(engine)
        heal_after = engine.settings.heal_after
        counters = engine.state.node.counters
        return _answer(
            {
                "cluster": engine.settings.cluster,
                "node": engine.settings.node,
                "heal_after": None if math.isinf(heal_after) else heal_after,
                "policy": engine.settings.heal_policy,
                "delays": delays,
                "held": sorted(engine.state.delays.held()),
                "nodes": [health_row(node, health) for node, health in found.items()],
                "under_way": self._is_under_way(delays, [h for h in found.values() if h]),
                "counts": {name: getattr(counters, name) for name in COPIES},
            }
        )

    def _is_under_way(self, delays: list[dict[str, Any]], known: list[Health]) -> bool:
        """Whether something goes on, or is about to begin, that ends by itself."""
        if any(each["left"] for each in delays):
            return True
        if any(health.course.under_way or not health.complete for health in known):
            return True
        room = len(self.engine.membership.view().servers) > self.engine.backups
        lacking = sum(health.degraded.groups + health.at_risk.groups for health in known)
        waiting = sum(health.course.passed_over for health in known)
        return room and lacking > waiting and all(each["left"] == 0 for each in delays)

    async def say(self, request: Request) -> Response:
        """POST `?hold`, `?now` or `?extend=DURATION`: what is to become of a node's seats."""
        node, query = request.path_params["node"], request.query_params
        try:
            kind, extra = _word(query)
        except ValueError as error:
            return _refused(str(error))
        membership, delays = self.engine.membership, self.engine.state.delays
        member = membership.view().member(node)
        known = membership.away()
        if node == self.engine.settings.node:
            return _refused(f"ask another node: it is the others that await {node}")
        if not membership.is_member():
            return _refused("ask another node: this one is no member of the cluster now")
        if member is None and node not in known:
            return _refused(f"{node} was never a member here")
        if member is not None and kind == "now":
            return _refused(f"{node} is a member, and has its copies")
        try:
            spoken = await delays.say(node, kind, extra)
        except StoreFull as error:
            return PlainTextResponse(f"nothing was said: {error}\n", 503, NO_STORE)
        rows = [each for each in delay_rows(self.engine) if each["node"] == node]
        return _answer(
            {
                "node": node,
                "word": kind,
                "left": rows[0]["left"] if rows else None,
                "absent": member is None,
                "told": list(spoken.told),
                "unreachable": list(spoken.unreachable),
            }
        )

    async def safe_to_stop(self, request: Request) -> Response:
        """GET, with `?zones=true` for every zone besides: 200 when nothing would be lost, 409 when
        something would be, or is not known."""
        node, engine = request.path_params["node"], self.engine
        if engine.membership.view().member(node) is None:
            return _refused(f"{node} is no member: it holds nothing that is served")
        zones = request.query_params.get("zones", "").lower() in ("true", "1", "yes")
        found = await engine.state.redundancy.safety(node, zones=zones)
        answers = node not in (*found.silent, *found.unknown)
        goes_on = _goes_on(engine.membership.view(), node, found.silent)
        changes = _takes_changes(
            engine.membership.view(), node, found.silent, engine.settings.min_copies
        )
        safe = answers and goes_on and changes
        safe = safe and not found.unknown and not found.alone.sessions
        safe = safe and not any(lost.sessions for lost in found.zones.values())
        told = {"safe": safe, "node": node, "asked": engine.settings.node, "answers": answers}
        told |= {"others_serve": goes_on, "others_change": changes}
        return _answer(told | _safety(found), 200 if safe else 409)


def _word(query: Mapping[str, str]) -> tuple[Any, int]:
    """Raises ValueError: not exactly one word, or an extension that is none."""
    words = [word for word in ("hold", "now", "extend") if word in query]
    if len(words) != 1:
        raise ValueError("say one of hold, now and extend")
    [word] = words
    if word != "extend":
        return word, 0
    seconds = read_duration(query[word])
    if math.isinf(seconds):
        raise ValueError("extend must be a duration; hold is without end")
    return word, round(seconds * 1000)


def _goes_on(view: View, node: str, silent: Collection[str]) -> bool:
    """Whether the other members can serve when the node has said goodbye: where votes decide, a
    majority of those that count then."""
    left = [member for member in view.members if member.node not in (node, *silent)]
    if not view.electors:
        return any(member.role != "witness" for member in left)
    voters = {name for name in view.voters if name != node}
    return 2 * sum(member.node in voters for member in left) > len(voters)


def _takes_changes(view: View, node: str, silent: Collection[str], min_copies: int) -> bool:
    """Whether enough servers are left that each can have its changes copied to as many others."""
    left = [m for m in view.servers if m.ready and m.node not in (node, *silent)]
    return len(left) > min_copies


def _safety(found: Safety) -> dict[str, Any]:
    return {
        "lost": _weight(found.alone),
        "zones": {zone: _weight(lost) for zone, lost in found.zones.items()},
        "unreachable": list(found.silent),
        "unknown": list(found.unknown),
    }


def _weight(lost: Weight) -> dict[str, int]:
    return {"groups": lost.groups, "sessions": lost.sessions, "bytes": lost.bytes}


def _answer(value: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(value, status, headers=NO_STORE)


def _refused(words: str) -> Response:
    return PlainTextResponse(f"{words}\n", 400, NO_STORE)
