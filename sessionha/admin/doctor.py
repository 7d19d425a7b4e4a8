"""The answer of `/v1/doctor`: a node looks at itself, and at every other node it should reach."""

from __future__ import annotations

import asyncio
import stat
import time
from pathlib import Path
from typing import Any, Final

from sessionha.admin.checks import Facts, Finding, Heard, findings, skew
from sessionha.admin.snapshot import store_of, strangers
from sessionha.agreement import OF_A_CLUSTER, shown
from sessionha.engine import Engine
from sessionha.errors import PeerUnavailable
from sessionha.peer.messages import Inspect, Inspected
from sessionha.peer.streams import Streams
from sessionha.settings import Settings
from sessionha.store.lmdb import LMDBStore
from sessionha.store.place import VOLATILE, file_system
from sessionha.topology.description import split_address

PATIENCE: Final = 2.0
"""Seconds that another node may take to answer: a living one takes milliseconds."""

MOST: Final = 64
"""Other nodes that are asked: more streams than that are not worth a look."""


async def examined(engine: Engine) -> dict[str, Any]:
    """What is wrong with this engine's node, and what a look from outside needs."""
    facts = await gathered(engine)
    return {
        "node": engine.settings.node,
        "url": engine.settings.url or _url(engine),
        "health_path": engine.settings.health_path,
        "engines": sorted(store_of(engine).living_slots()),
        "checks": [rows(finding) for finding in findings(facts)],
    }


def rows(finding: Finding) -> dict[str, str]:
    """A finding for programs."""
    return dict(finding._asdict())


async def gathered(engine: Engine) -> Facts:
    """The facts, of which only the answers of other nodes take time."""
    settings, membership, store = engine.settings, engine.membership, store_of(engine)
    heard = await _asked(engine)
    picture = membership.picture()
    place = store.directory if isinstance(store, LMDBStore) else None
    return Facts(
        settings=settings,
        view=membership.view(),
        state=engine.node_state,
        waiting_for=membership.waiting_for,
        differing=picture.differing,
        detours=picture.detours,
        heard=heard,
        agreed=shown(settings, OF_A_CLUSTER),
        late=bool(engine.events["late_start"]),
        weak_key=engine.weak_key,
        secret_mode=_mode(settings.secret_file),
        usage=store.usage(),
        place="" if place is None else str(place),
        shared_memory=place is None or file_system(place) in VOLATILE,
        allocated=place is None or _is_allocated(place, settings),
        state_file_system=file_system(settings.state_dir) if settings.state_dir else "",
        has_lost_votes=membership.has_lost_votes,
        held=tuple(sorted(engine.state.delays.held())),
        awaited=any(delay.left != 0 for delay in engine.state.delays.running()),
        at_risk=engine.state.redundancy.health().at_risk.groups,
        ways=engine.affinity,
        found_by_itself=not settings.advertise or await _listens(settings.advertise),
    )


def _url(engine: Engine) -> str:
    member = engine.membership.view().member(engine.settings.node)
    return member.url if member is not None else ""


async def _asked(engine: Engine) -> dict[str, Heard]:
    """What every other node answers now."""
    streams, view, own = engine.streams, engine.membership.view(), engine.settings.node
    if streams is None:
        return {}
    described = engine.settings.description.addresses
    addresses = {
        node: member.peer if (member := view.member(node)) else described.get(node, "")
        for node in (*view.nodes, *strangers(engine, view))
        if node != own
    }
    known = {node: address for node, address in addresses.items() if address}
    nodes = list(known)[:MOST]
    answers = await asyncio.gather(*(_ask(streams, node, known[node]) for node in nodes))
    return dict(zip(nodes, answers, strict=True))


async def _ask(streams: Streams, node: str, address: str) -> Heard:
    asked = time.time()
    try:
        reply = await streams.call(node, Inspect(), PATIENCE, straight=True)
    except PeerUnavailable as error:
        why = str(error).removeprefix(f"{node}: ")
        listens = not error.refused and await _listens(address)
        if listens:
            why += ", though something accepts connections there"
        return Heard(address, error=why, refused=error.refused, listens=listens)
    answered = time.time()
    if not isinstance(reply, Inspected):
        return Heard(address, error="it answers something else: is it of another version?")
    return Heard(address, skew=skew(reply.now / 1000, asked, answered))


async def _listens(address: str) -> bool:
    host, port = split_address(address)
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def _mode(file: Path | None) -> int:
    """The permissions of a file; those of a private one where there is none."""
    try:
        return 0o600 if file is None else stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return 0o600


def _is_allocated(place: Path, settings: Settings) -> bool:
    try:
        return (place / "data.mdb").stat().st_blocks * 512 >= settings.store_size
    except OSError:
        return True
