"""The answer of `/v1/topology`: the view and its members, who watches and who decides."""

from __future__ import annotations

from typing import Any

from sessionha.admin.snapshot import member_row, other_rows, view_row
from sessionha.engine import Engine
from sessionha.topology.base import LastChange


def topology(engine: Engine) -> dict[str, Any]:
    """What this engine's node knows of the topology of its cluster."""
    settings, membership = engine.settings, engine.membership
    view, picture = membership.view(), membership.picture()
    return {
        "cluster": settings.cluster,
        "node": settings.node,
        "consistency": settings.consistency,
        "state": engine.node_state,
        "waiting_for": membership.waiting_for,
        "lacks": list(membership.lacks),
        "view": view_row(view),
        "members": [
            member_row(engine, member)
            | {
                "host": member.host,
                "watches": list(picture.watches.get(member.node, ())),
                "engines": [
                    {"engine": each.engine, "type": each.type, "url": each.url}
                    for each in member.engines
                ],
            }
            for member in view.members
        ],
        "others": other_rows(engine, view),
        "held": sorted(engine.state.delays.held()),
        "absent": list(view.absent),
        "description": {
            "hash": picture.description,
            "nodes": list(settings.description.order),
            "differing": dict(picture.differing),
        },
        "detours": dict(picture.detours),
        "last_change": _told(picture.last_change),
    }


def _told(last: LastChange | None) -> dict[str, Any] | None:
    if last is None:
        return None
    return {
        "view": last.view.number,
        "seconds_ago": round(last.ago / 1000, 3),
        "changes": [{"node": change.node, "kind": change.kind} for change in last.changes],
    }
