"""Settings that the nodes of a cluster, or the engines of one node, must have in common."""

from __future__ import annotations

import hmac
import logging
import os
from typing import Final

import msgspec

from sessionha.keys import APPLICATION_LABEL
from sessionha.settings import Settings
from sessionha.store.base import Store, Writer
from sessionha.view import View

log = logging.getLogger("sessionha.engine")

OF_A_CLUSTER: Final = (
    "admission",
    "consistency",
    "reads",
    "concurrency",
    "backups",
    "min_copies",
    "session_bytes",
    "elements",
    "depth",
    "route_cookie",
)
"""A session must not change its guarantees or its limits with the node that serves it. Times may
differ: `idle_timeout` and `lifetime` travel with the session, the others are each node's own."""

OF_A_NODE: Final = (
    "cluster",
    "node",
    "nodes",
    "listen",
    "advertise",
    "url",
    "zone",
    "admin",
    *OF_A_CLUSTER,
)
"""Any engine of a node may lead it and speak for it. What belongs to one process is not here."""

PATIENCE: Final = 10.0
"""Seconds for which settings that were alike may differ: a reload goes from node to node."""

MARK: Final = 4
"""Bytes that tell one cluster secret from another in a fingerprint."""

ROW: Final = b"\x00settings/"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, dict[str, str]]).decode


def shown(settings: Settings, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The settings of these names as people read them, without a password."""
    values = {each.name: each.value for each in settings.explain()}
    return tuple((name, values[name]) for name in names)


def prints(settings: Settings, keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Fingerprints of the application's keys, one by each cluster secret, which it begins with a
    mark of. So nobody can try keys who does not know the secret, and it is known what compares."""
    known = settings.keys(APPLICATION_LABEL)
    return tuple(sorted(_mark(by) + _digest(by, key)[:8] for by in known for key in keys))


def other_keys(mine: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> bool:
    """Whether these fingerprints are of other keys. Those that were made with other secrets say
    nothing: a view from before a restart has them, until the node joins again."""
    by = {each[:MARK] for each in mine} & {each[:MARK] for each in theirs}
    return bool(by) and not set(mine) & set(theirs)


def _mark(secret: bytes) -> bytes:
    return _digest(secret, b"")[:MARK]  # no application's key is empty


def _digest(secret: bytes, text: bytes) -> bytes:
    return hmac.digest(secret, text, "sha256")


class Nodes:
    """Warns of each setting in which another node differs: once, and again when it changed.

    At once of a node that never was like this one; where they were alike, when they have differed
    for a while.
    """

    def __init__(self, node: str, own: tuple[tuple[str, str], ...]) -> None:
        self._node = node
        self._own = own
        self._alike: set[tuple[str, str]] = set()
        self._since: dict[tuple[str, str], float] = {}
        self._said: dict[tuple[str, str], str] = {}

    def change(self, own: tuple[tuple[str, str], ...]) -> None:
        """This node has other settings than before."""
        self._own = own
        self._since.clear()
        self._said.clear()

    @property
    def waits(self) -> bool:
        """Whether there is a difference that is not told yet."""
        return bool(self._since)

    def look(self, view: View, now: float) -> None:
        """Compare the members of a view with this node; `now` in seconds of any clock."""
        known = {*view.nodes, *(node for node, _ in view.departed)}
        self._alike = {what for what in self._alike if what[0] in known}
        for member in view.members:
            if member.node == self._node:
                continue  # its siblings' settings: `meet_siblings`
            theirs = dict(member.settings)
            for name, mine in self._own:
                # a node of a version without the setting says nothing of it
                self._compare(member.node, name, theirs.get(name, mine), mine, now)

    def _compare(self, node: str, name: str, value: str, mine: str, now: float) -> None:
        what = (node, name)
        if value == mine:
            self._alike.add(what)
            self._since.pop(what, None)
            self._said.pop(what, None)
        elif self._said.get(what) != value and not self._may_differ(what, now):
            self._since.pop(what, None)
            self._said[what] = value
            log.warning(
                "%s has `%s` = %s, %s has %s: give every node the same",
                node,
                name,
                value,
                self._node,
                mine,
            )

    def _may_differ(self, what: tuple[str, str], now: float) -> bool:
        return what in self._alike and now - self._since.setdefault(what, now) < PATIENCE


def leave_settings(store: Store, settings: Settings) -> None:
    """Let siblings that start see the settings that this engine has now.

    Raises:
        StoreFull: nothing was changed.
    """
    with store.write(urgent=True) as writer:
        _leave(writer, store, _of_engine(settings))


def _of_engine(settings: Settings) -> dict[str, str]:
    own = dict(shown(settings, OF_A_NODE))
    if settings.own_engine is not None:
        del own["url"]  # each has another
    return own


def _leave(writer: Writer, store: Store, own: dict[str, str]) -> None:
    writer.put(ROW + str(store.slot).encode(), _encode((store.run, os.getpid(), own)))


def meet_siblings(store: Store, settings: Settings) -> None:
    """Leave this engine's settings in the node's store, and warn when another living engine has
    others: most often a second node that was started with the ID of the first.

    Raises:
        StoreFull: nothing was changed.
    """
    own = _of_engine(settings)
    living = store.living_slots() - {store.slot}
    with store.write(urgent=True) as writer:
        _leave(writer, store, own)
        rows = [writer.get(ROW + str(slot).encode()) for slot in sorted(living)]
    for run, pid, theirs in (_decode(row) for row in rows if row is not None):
        # of an earlier run: its engine is dead, and the slot's new one has yet to leave its own
        if run == store.run and (found := _differences(theirs, own)):
            log.warning(
                "another process of node %s (PID %d) runs with other settings (%s): give each node"
                " its own SESSIONHA_NODE%s, or each worker of a node the same settings",
                theirs.get("node", settings.node),
                pid,
                found,
                " and SESSIONHA_STORE" if settings.store else "",
            )
            return


def _differences(theirs: dict[str, str], own: dict[str, str]) -> str:
    return "; ".join(
        f"`{name}`: {theirs[name] or 'not set'} there, {mine or 'not set'} here"
        for name, mine in own.items()
        if theirs.get(name, mine) != mine
    )
