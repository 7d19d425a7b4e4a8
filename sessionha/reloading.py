"""Settings read again while a node runs: refused whole where something is wrong, and followed by
every engine of the node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from sessionha.errors import InvalidSettings
from sessionha.settings import LIVE, RELATIONS, Settings
from sessionha.store.base import Store
from sessionha.topology.description import changes
from sessionha.view import View

log = logging.getLogger("sessionha.engine")

EVERY: Final = 0.5
"""Seconds between two looks of an engine at whether its node was told to reload."""

ROW: Final = b"\x00reload"


class Reloaded(NamedTuple):
    """What came of reading the settings again."""

    settings: Settings
    """Those of before, with all that takes effect at once as it is now."""
    changed: tuple[str, ...]
    """For people: what took effect."""
    waiting: tuple[str, ...]
    """For people: what takes effect with the next start."""


def read_again(held: Settings, view: View) -> Reloaded:
    """What the sources of `held` say now; for a node that holds this view.

    Raises:
        InvalidSettings: every mistake; nothing shall change.
    """
    found = held.reloaded()
    if problems := [*_moves(held, found, view), *_secrets(held, found)]:
        raise InvalidSettings(problems)
    before = {each.name: each.value for each in held.explain()}
    after = {each.name: each.value for each in found.explain()}
    changed: list[str] = []
    waiting: list[str] = []
    for name, value in after.items():
        if value != before[name] and name not in ("secret", "nodes"):
            words = f"`{name}`: {before[name] or 'not set'} → {value or 'not set'}"
            (changed if name in LIVE else waiting).append(words)
    if found.secret != held.secret:
        changed.append("the cluster secret")
    changed += changes(held.description, found.description)
    taken = replace(
        held,
        description=found.description,
        origins={**held.origins, **{n: o for n, o in found.origins.items() if n in LIVE}},
        **{name: getattr(found, name) for name in LIVE},
    )
    broken = [each.meaning for each in RELATIONS if not each.holds(taken)]
    if broken:
        raise InvalidSettings(
            [f"{each}; what it depends on waits for a restart" for each in broken]
        )
    return Reloaded(taken, tuple(changed), tuple(waiting))


def _moves(held: Settings, found: Settings, view: View) -> list[str]:
    """What of the nodes cannot change while they run."""
    problems = []
    if found.discovery != held.discovery or found.has_nodes != held.has_nodes:
        problems.append("`nodes` cannot change between a list and a place to look: restart")
        return problems
    own, before = found.description.node(held.node), held.description.node(held.node)
    if own is not None and before is not None and own.peer != before.peer:
        problems.append(
            f"the peer address of this node, {held.node}, cannot change while it runs"
            f" ({before.peer} → {own.peer}): stop it first, and reload the others"
        )
    roles = {each.role for each in (own, before) if each is not None}
    if len(roles) > 1 and "witness" in roles:
        problems.append(f"{held.node} cannot become, or cease to be, a witness while it runs")
    for member in view.members:
        described = found.description.node(member.node)
        if member.node != held.node and described and described.peer != member.peer:
            problems.append(
                f"the peer address of {member.node} cannot change while it is a member"
                f" ({member.peer} → {described.peer}): stop it first"
            )
    return problems


def _secrets(held: Settings, found: Settings) -> list[str]:
    if not held.has_peers or set(found.secret) & set(held.secret):
        return []
    return [
        "the cluster secret has none in common with the one in use, so that nodes which have yet to"
        " reload would be shut out: leave the old one behind the new one until all have"
    ]


class Following:
    """Runs beside an engine and reloads when another engine of its node did."""

    def __init__(
        self, store: Store, reload: Callable[[], object], tick: Callable[[], None]
    ) -> None:
        """`reload` reads again and takes over, or raises InvalidSettings; `tick` is called besides
        at every look."""
        self.known = announced(store)
        """How often the node was told to reload, as far as this engine has followed."""
        self._store = store
        self._reload = reload
        self._tick = tick
        self._task: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Nothing."""

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sessionha reload")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                self.look()
                self._tick()
            except Exception:
                log.exception("following a reload failed")

    def look(self) -> None:
        """Follow, if there is something to follow."""
        number = announced(self._store)
        if number == self.known:
            return
        self.known = number
        try:
            self._reload()
        except InvalidSettings as error:
            wrong = "; ".join(error.problems)
            log.error("this process goes on with the settings it has: %s", wrong)


def announced(store: Store) -> int:
    """How often this node was told to reload."""
    with store.read() as reader:
        raw = reader.get(ROW)
    return int.from_bytes(raw) if raw is not None else 0


def announce(store: Store) -> int:
    """Let every other engine of the node read its settings again; how often that was.

    Raises:
        StoreFull: nothing was changed.
    """
    with store.write(urgent=True) as writer:
        raw = writer.get(ROW)
        number = (int.from_bytes(raw) if raw is not None else 0) + 1
        writer.put(ROW, number.to_bytes(8))
    return number
