"""What an engine knows of its node and its cluster, as plain values; never a session's content."""

from __future__ import annotations

import os
import platform
from collections import Counter
from dataclasses import asdict
from typing import Any, Final

import msgspec

from sessionha import __version__
from sessionha.engine import Engine
from sessionha.peer.messages import Health
from sessionha.store.base import Store
from sessionha.topology.lone import LoneMembership
from sessionha.view import Member, View

LEVELS: Final = ("redundant", "degraded", "at_risk")
"""How many copies a group has: as many as wanted, fewer, or none."""


def store_of(engine: Engine) -> Store:
    """The store of a running engine."""
    return engine.state.node.store


def leads(engine: Engine) -> bool:
    """Whether this engine is the one of its node that acts for all."""
    membership = engine.membership
    if isinstance(membership, LoneMembership):
        return store_of(engine).try_lead()  # nobody else there takes the lead
    return membership.leads


def counts(engine: Engine) -> dict[str, int]:
    """What this engine has done since it started, by `kind/name`."""
    found = {f"state/{name}": count for name, count in asdict(engine.state.node.counters).items()}
    found |= {f"visits/{name}": count for name, count in engine.events.items()}
    found |= {f"affinity/{name}": count for name, count in engine.affinity.items()}
    found |= {f"membership/{name}": count for name, count in engine.membership.counts.items()}
    if engine.streams is not None:
        streams = asdict(engine.streams.counters)
        found |= {f"streams/{name}": count for name, count in streams.items()}
    return found


def status(engine: Engine, total: Counter[str]) -> dict[str, Any]:
    """The answer of `/v1/status`: the node, what it thinks of the cluster, what it has done."""
    settings, membership, store = engine.settings, engine.membership, store_of(engine)
    view = membership.view()
    return {
        "cluster": settings.cluster,
        "node": settings.node,
        "incarnation": store.incarnation,
        "engine": engine.slot,
        "pid": os.getpid(),
        "engines": sorted(store.living_slots()),
        "state": engine.node_state,
        "automaton": membership.state,
        "waiting_for": membership.waiting_for,
        "lacks": list(membership.lacks),
        "member": membership.is_member(),
        "leased": membership.leased(),
        "view": view_row(view),
        "members": [member_row(engine, member) for member in view.members],
        "others": other_rows(engine, view),
        "held": sorted(engine.state.delays.held()),
        "health": health_row(settings.node, engine.state.redundancy.health()),
        "consistency": settings.consistency,
        "backups": engine.backups,
        "min_copies": settings.min_copies,
        "reads": settings.reads,
        "concurrency": settings.concurrency,
        "store": store.usage()._asdict(),
        "recoverable": recoverable(engine),
        "streams": sorted(engine.streams.open_to()) if engine.streams is not None else [],
        "counts": dict(sorted(total.items())),
        "versions": {"sessionha": __version__, "python": platform.python_version()},
    }


def recoverable(engine: Engine) -> dict[str, Any] | None:
    """What the drill has found; None: it has not looked yet."""
    found = engine.state.drill.found()
    if found is None:
        return None
    percent = None if found.percent is None else round(found.percent, 3)
    return {
        "percent": percent,
        "sessions": found.sessions,
        "flawed": found.flawed,
        "flaws": dict(found.flaws),
        "oldest_seconds": round(found.oldest, 1),
    }


def view_row(view: View) -> dict[str, Any]:
    """A view without its members."""
    return {
        "number": view.id.number,
        "lowest": view.id.lowest,
        "barrier": view.barrier.number,
        "electors": list(view.electors),
        "voters": list(view.voters),
        "majority": view.majority if view.electors else 0,
    }


def member_row(engine: Engine, member: Member) -> dict[str, Any]:
    """A member, with its state in the eyes of this node."""
    own = member.node == engine.settings.node
    return {
        "node": member.node,
        "incarnation": member.incarnation,
        "state": engine.node_state if own else engine.membership.node_state(member.node),
        "joined": member.joined.number,
        "peer": member.peer,
        "url": member.url,
        "role": member.role,
        "zone": member.zone,
        "weight": member.weight,
        "settings": dict(member.settings),
    }


def strangers(engine: Engine, view: View) -> list[str]:
    """Nodes that are configured, or were members and are not forgotten, and are not in the view."""
    known = (*engine.settings.description.order, *engine.membership.elsewhere())
    return [node for node in dict.fromkeys(known) if view.member(node) is None]


def other_rows(engine: Engine, view: View) -> list[dict[str, Any]]:
    """The nodes that are not in the view; an awaited one may hold sessions that nobody else has."""
    membership, awaited = engine.membership, engine.membership.unproven()
    delays = {row["node"]: row for row in delay_rows(engine)}
    return [
        {
            "node": node,
            "state": membership.node_state(node),
            "awaited": node in awaited,
            "delay": delays.get(node),
        }
        for node in strangers(engine, view)
    ]


def delay_rows(engine: Engine) -> list[dict[str, Any]]:
    """The absent nodes: for how long, and until when their seats are kept. Times are seconds."""
    return [
        {
            "node": delay.node,
            "state": engine.membership.node_state(delay.node),
            "absent": round(delay.since / 1000, 3),
            "left": None if delay.left is None else round(delay.left / 1000, 3),
            "word": delay.word,
        }
        for delay in engine.state.delays.running()
    ]


def health_row(node: str, health: Health | None) -> dict[str, Any]:
    """How many copies the groups have that a node answers for; None: it did not tell."""
    if health is None:
        return {"node": node, "answers": False}
    shares = {name: getattr(health, name) for name in LEVELS}
    numbers = {name: {"groups": s.groups, "bytes": s.bytes} for name, s in shares.items()}
    course = msgspec.structs.asdict(health.course) | {"ended": health.course.ended.number}
    told = {"old": health.old, "healing": course}
    return {"node": node, "answers": True, "complete": health.complete, **numbers, **told}
