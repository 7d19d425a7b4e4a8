"""Simulated browsers, and the promises that are checked with every answer they get.

A client appends unique tokens to one element of its session, one request at a time, and renews or
destroys the session now and then. It knows which tokens were acknowledged and which may last.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec

from sessionha.errors import SessionError, SessionRevoked, SessionUnavailable
from sessionha.identity import Position
from sessionha.peer.messages import Batch, Create, SessionChange
from sessionha.state.base import Unsettled
from sessionha.state.manager import StateManager
from tests.simulation.world import World

LIFETIMES = Create(idle_timeout=1_800_000, lifetime=43_200_000)


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Jar:
    """What one browser holds and what it was told."""

    name: str
    group: bytes
    key: bytes = b""
    position: Position | None = None
    tokens: tuple[str, ...] = ()
    """Acknowledged or seen, in order."""
    unknown: set[str] = field(default_factory=set)
    destroyed: set[bytes] = field(default_factory=set)
    made: int = 0
    acknowledged: int = 0
    refused: int = 0
    unconfirmed: int = 0
    served_by: set[str] = field(default_factory=set)

    def check_seen(self, seen: tuple[str, ...]) -> None:
        """What an answer shows against everything this client was told before."""
        expected = list(self.tokens)
        index = 0
        for token in seen:
            if index < len(expected) and token == expected[index]:
                index += 1
            elif token in self.unknown:
                self.unknown.discard(token)
            else:
                raise Violation(f"{self.name}: {token} was never sent, or twice: {seen}")
        if index != len(expected):
            raise Violation(f"{self.name}: lost {expected[index:]}, seen {seen}")
        self.tokens = seen

    def check_position(self, position: Position) -> None:
        if self.position is not None and position < self.position:
            raise Violation(f"{self.name}: {position} after {self.position}")
        self.position = position


async def _open(state: StateManager, jar: Jar) -> tuple[str, ...] | None:
    """The tokens as this node serves them; None: gone."""
    while True:
        held = state.held(jar.group, jar.position)
        if held is None and await state.acquire(jar.group, jar.position) is None:
            return None
        try:
            loaded = state.load(jar.group, jar.key)
        except Unsettled:
            continue
        if loaded is None:
            return None
        jar.check_position(loaded.held.position)
        return tuple(msgspec.json.decode(loaded.elements["tokens"][1]))


def _token_change(jar: Jar, tokens: tuple[str, ...]) -> SessionChange:
    return SessionChange(jar.key, puts=(("tokens", "value", msgspec.json.encode(tokens)),))


async def request(world: World, jar: Jar, node: str, kind: str) -> None:
    """One request of a browser; every answer is checked."""
    host = world.hosts[node]
    if not host.up:
        return
    life = host.life
    work = asyncio.ensure_future(_serve(world, jar, world.engine(node), kind))
    host.tasks[work] = None
    work.add_done_callback(lambda done: host.tasks.pop(done, None))
    try:
        await asyncio.wait({work})
        if work.cancelled() or not host.lives(life):
            if not work.cancelled():
                work.exception()
            return  # the server died: no answer
        work.result()
    except SessionUnavailable:
        jar.refused += 1
    except SessionRevoked:
        jar.refused += 1


async def _serve(world: World, jar: Jar, state: StateManager, kind: str) -> None:
    if not jar.key:
        await _create(jar, state, world)
        return
    seen = await _open(state, jar)
    if seen is None:
        if jar.key not in jar.destroyed:
            raise Violation(f"{jar.name}: gone without having been destroyed")
        jar.key = b""
        return
    if jar.key in jar.destroyed:
        raise Violation(f"{jar.name}: a destroyed session was served")
    jar.check_seen(seen)
    jar.served_by.add(state.node.me)
    if kind == "append":
        await _append(jar, state, seen)
    elif kind == "renew":
        await _renew(jar, state, world)
    elif kind == "destroy":
        await _destroy(jar, state)


async def _create(jar: Jar, state: StateManager, world: World) -> None:
    group = world.random.randbytes(12)
    key = world.random.randbytes(16)
    jar.made += 1
    token = f"{jar.name}-{jar.made}"
    puts = (("tokens", "value", msgspec.json.encode((token,))),)
    batch = Batch(group, (SessionChange(key, create=LIFETIMES, puts=puts),))
    receipt = await state.commit(batch, fresh=True)
    jar.group, jar.key, jar.position = group, key, receipt.position
    jar.tokens, jar.unknown = (token,), set()
    jar.acknowledged += 1


async def _append(jar: Jar, state: StateManager, seen: tuple[str, ...]) -> None:
    jar.made += 1
    token = f"{jar.name}-{jar.made}"
    jar.unknown.add(token)
    batch = Batch(jar.group, (_token_change(jar, (*seen, token)),))
    receipt = await state.commit(batch, fresh=False)
    jar.unknown.discard(token)
    jar.tokens = (*seen, token)
    jar.acknowledged += 1
    jar.check_position(receipt.position)


async def _renew(jar: Jar, state: StateManager, world: World) -> None:
    old, new = jar.key, world.random.randbytes(16)
    batch = Batch(jar.group, (SessionChange(new, replaces=old),))
    try:
        receipt = await state.commit(batch, fresh=False)
    except SessionError:
        jar.key = b""  # which of the two IDs lives is unknown: start again
        raise
    except asyncio.CancelledError:
        jar.key = b""
        raise
    jar.key = new
    jar.destroyed.add(old)
    jar.check_position(receipt.position)


async def _destroy(jar: Jar, state: StateManager) -> None:
    batch = Batch(jar.group, (SessionChange(jar.key, destroy=True),))
    try:
        await state.commit(batch, fresh=False)
    except (SessionError, asyncio.CancelledError):
        jar.key = b""
        raise
    jar.destroyed.add(jar.key)
    # the cookie is kept on purpose: the next request must find the session gone


KINDS = ("append",) * 12 + ("read",) * 6 + ("renew", "destroy")


async def browse(world: World, jar: Jar, requests: int, sticky: float) -> None:
    """Requests one after another, mostly to the cookie's primary, else anywhere."""
    last = ""
    for _ in range(requests):
        names = [host.name for host in world.living if host.membership.is_member()]
        if not names:
            await asyncio.sleep(0.05)
            continue
        if last not in names or world.random.random() > sticky:
            last = world.random.choice(names)
        await request(world, jar, last, world.random.choice(KINDS))
        await asyncio.sleep(world.random.uniform(0, 0.05))
