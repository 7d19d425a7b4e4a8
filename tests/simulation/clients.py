"""Simulated browsers, and the promises that are checked with every answer they get.

A browser adds unique tokens to its session, each as two elements of one batch, removes some of
them again, and renews or destroys the session now and then; several requests may run at once. It
knows what was answered, at which position, and what may last.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from sessionha.errors import CommitUnconfirmed, SessionRevoked, SessionUnavailable
from sessionha.identity import Position
from sessionha.peer.messages import Batch, Create, SessionChange
from sessionha.state.base import Loaded, Receipt, Unsettled
from sessionha.state.manager import StateManager
from tests.simulation.world import Engine, World

LIFETIMES = Create(idle_timeout=1_800_000, lifetime=43_200_000)

NEVER = float("inf")


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Effect:
    """One change of the session, and since when it is known to be there."""

    asked: float
    """When its request began; infinite: nobody asked for it."""
    at: Position | None = None
    """A position that has it; None: nobody said so yet."""
    told: float = NEVER
    failed: bool = False
    """Answered with "nothing was changed"."""

    def confirm(self, position: Position, now: float) -> None:
        if self.at is None or position < self.at:
            self.at = position
        self.told = min(self.told, now)

    def is_due(self, position: Position, since: float, strict: bool) -> bool:
        """Whether a state at `position`, read by a request that began at `since`, must have it."""
        return self.at is not None and (self.at <= position or (strict and self.told < since))


@dataclass
class Token:
    put: Effect
    removal: Effect = field(default_factory=lambda: Effect(NEVER))


@dataclass
class Book:
    """What is known of one group, whoever asks."""

    name: str
    group: bytes
    key: bytes
    cookie: Position
    copies: int
    tokens: dict[str, Token]
    ended: dict[bytes, Effect] = field(default_factory=dict)
    """Renewals and destructions of keys."""

    def check_seen(self, seen: set[str], position: Position, since: float, world: World) -> None:
        """What an answer shows, against everything that was told before (G2, G4, I1 to I4)."""
        for name in sorted(seen):
            if name not in self.tokens:
                raise Violation(f"{self.name}: {name} was never sent")
            token = self.tokens[name]
            if token.put.failed:
                raise Violation(f"{self.name}: {name} was answered as never done")
            if token.removal.is_due(position, since, world.strict):
                raise Violation(f"{self.name}: {name} was removed at {token.removal.at}")
            token.put.confirm(position, world.now)
        for name, token in self.tokens.items():
            if name in seen or not token.put.is_due(position, since, world.strict):
                continue
            if token.removal.asked == NEVER or token.removal.failed:
                raise Violation(
                    f"{self.name}: {name} of {token.put.at} is not in the state of {position}"
                )
            token.removal.confirm(position, world.now)

    def check_alive(self, key: bytes, position: Position, since: float, world: World) -> None:
        """G6: destroyed stays destroyed."""
        if key in self.ended and self.ended[key].is_due(position, since, world.strict):
            raise Violation(f"{self.name}: a session ended at {self.ended[key].at} was served")

    def check_gone(self, key: bytes) -> None:
        """G7: gone only what was destroyed or renewed, or may have been."""
        if key not in self.ended or self.ended[key].failed:
            raise Violation(f"{self.name}: gone without having been destroyed")


@dataclass
class Jar:
    """What one browser holds, and what it was told."""

    name: str
    book: Book | None = None
    made: int = 0
    acknowledged: int = 0
    refused: int = 0
    unconfirmed: int = 0
    requests: int = 0
    slowest: float = 0.0

    def token(self) -> str:
        self.made += 1
        return f"{self.name}-{self.made}"


@dataclass
class Visit:
    """One request under way."""

    world: World
    jar: Jar
    book: Book
    engine: Engine
    lost: bool
    """The response never reaches the browser."""
    key: bytes = b""
    floor: Position | None = None
    since: float = 0.0

    def __post_init__(self) -> None:
        self.key, self.floor, self.since = self.book.key, self.book.cookie, self.world.now

    def learn(self, position: Position, *, key: bytes = b"") -> None:
        """The response's cookie reaches the browser: perhaps after that of a later request."""
        if self.floor is not None and position < self.floor:
            raise Violation(f"{self.book.name}: {position} after {self.floor}")
        if self.lost:
            return
        if position > self.book.cookie or self.world.random.random() < 0.5:
            self.book.cookie = position
        if key:
            self.book.key = key


async def request(world: World, jar: Jar, node: str, kind: str, *, lost: bool = False) -> str:
    """One request of a browser, checked; how it ended in a word."""
    host = world.hosts[node]
    if not host.up or not host.engines:
        return "nobody"
    engine = world.engine(node)
    jar.requests += 1
    began = world.now
    work = asyncio.ensure_future(_serve(world, jar, engine, kind, lost))
    engine.tasks[work] = None
    work.add_done_callback(lambda done: engine.tasks.pop(done, None))
    await asyncio.wait({work})
    if work.cancelled() or not engine.alive:
        if not work.cancelled() and isinstance(error := work.exception(), Violation):
            raise error
        return "dead"  # the server died: no answer
    jar.slowest = max(jar.slowest, world.now - began)
    try:
        return work.result()
    except CommitUnconfirmed:
        jar.unconfirmed += 1
        return "unknown"
    except SessionUnavailable:
        jar.refused += 1
        return "refused"


async def _serve(world: World, jar: Jar, engine: Engine, kind: str, lost: bool) -> str:
    book = jar.book
    await engine.host.running()
    if book is None:
        return await _create(world, jar, engine, lost)
    visit = Visit(world, jar, book, engine, lost)
    loaded = await _open(visit)
    await engine.host.running()
    if loaded is None:
        book.check_gone(visit.key)
        if jar.book is book and book.key == visit.key and not lost:
            jar.book = None
        return "gone"
    position = loaded.held.position
    seen = _tokens(book, loaded)
    book.check_alive(visit.key, position, visit.since, world)
    book.check_seen(seen, position, visit.since, world)
    match kind:
        case "add":
            await _add(visit, seen)
        case "renew":
            await _renew(visit)
        case "destroy":
            await _destroy(visit)
        case _:
            if loaded.touch_due or world.random.random() < 0.2:
                engine.state.touch(book.group, visit.key)
            visit.learn(position)
    return "ok"


async def _open(visit: Visit) -> Loaded | None:
    """The session as this node serves it; None: gone."""
    state, group = visit.engine.state, visit.book.group
    while True:
        held = state.held(group, visit.floor)
        if held is None and await state.acquire(group, visit.floor) is None:
            return None
        try:
            return state.load(group, visit.key)
        except Unsettled:
            continue


def _tokens(book: Book, loaded: Loaded) -> set[str]:
    names = set(loaded.elements)
    firsts = {name[2:] for name in names if name.startswith("a:")}
    seconds = {name[2:] for name in names if name.startswith("b:")}
    if firsts != seconds:
        raise Violation(f"{book.name}: half a batch: {sorted(firsts ^ seconds)}")  # G5
    return firsts


def _puts(token: str) -> tuple[tuple[str, str, bytes], ...]:
    return ((f"a:{token}", "value", token.encode()), (f"b:{token}", "value", b"."))


async def _create(world: World, jar: Jar, engine: Engine, lost: bool) -> str:
    group, key = world.random.randbytes(12), world.random.randbytes(16)
    token, began = jar.token(), world.now
    batch = Batch(group, (SessionChange(key, create=LIFETIMES, puts=_puts(token)),))
    receipt = await engine.state.commit(batch, fresh=True)
    effect = Effect(began)
    effect.confirm(receipt.position, world.now)
    check_receipt(world, group, receipt, began)
    if not lost:
        jar.book = Book(
            jar.name, group, key, receipt.position, receipt.copies, {token: Token(effect)}
        )
        jar.acknowledged += 1
    return "ok"


async def _add(visit: Visit, seen: set[str]) -> None:
    """Add a token; now and then remove one that was seen."""
    world, book = visit.world, visit.book
    token = visit.jar.token()
    put = Effect(visit.since)
    book.tokens[token] = Token(put)
    effects = [put]
    deletes: tuple[str, ...] = ()
    if len(seen) > 3 and world.random.random() < 0.5:
        victim = world.random.choice(sorted(seen))
        removal = book.tokens[victim].removal
        if removal.asked == NEVER:
            removal.asked = visit.since
            effects.append(removal)
            deletes = (f"a:{victim}", f"b:{victim}")
    change = SessionChange(visit.key, puts=_puts(token), deletes=deletes)
    await _commit(visit, change, effects)


async def _renew(visit: Visit) -> None:
    new = visit.world.random.randbytes(16)
    effect = visit.book.ended.setdefault(visit.key, Effect(visit.since))
    effect.failed = False
    await _commit(visit, SessionChange(new, replaces=visit.key), [effect], key=new)


async def _destroy(visit: Visit) -> None:
    effect = visit.book.ended.setdefault(visit.key, Effect(visit.since))
    effect.failed = False
    await _commit(visit, SessionChange(visit.key, destroy=True), [effect])


async def _commit(
    visit: Visit, change: SessionChange, effects: list[Effect], *, key: bytes = b""
) -> None:
    world, book, state = visit.world, visit.book, visit.engine.state
    began = world.now
    try:
        receipt = await state.commit(Batch(book.group, (change,)), fresh=False)
    except CommitUnconfirmed:
        raise
    except SessionRevoked:
        book.check_gone(visit.key)
        if not change.destroy and not change.replaces:
            effects[0].failed = True
        raise SessionUnavailable("log in again") from None
    except SessionUnavailable:
        if not change.destroy and not change.replaces:
            effects[0].failed = True
        raise
    check_receipt(world, book.group, receipt, began)
    if not visit.lost:
        for effect in effects:
            effect.confirm(receipt.position, world.now)
        book.copies = receipt.copies
        visit.jar.acknowledged += 1
    visit.learn(receipt.position, key=key)


def check_receipt(world: World, group: bytes, receipt: Receipt, began: float) -> None:
    """I10: when a change is acknowledged every other holder has it, unless it lost its store."""
    for name in receipt.holders[1:]:
        host = world.hosts[name]
        record = host.record(group)
        if host.lost < began and (record is None or record.position < receipt.position):
            raise Violation(f"{name} does not have {receipt.position} of {group.hex()[:6]}")


def state_of(world: World, node: str) -> StateManager:
    """The state manager of a node's first engine."""
    return world.hosts[node].engines[0].state


KINDS = ("add",) * 12 + ("read",) * 7 + ("renew", "destroy")


async def browse(world: World, jar: Jar, requests: int, sticky: float, lossy: float) -> None:
    """Requests one after another, mostly to the same node, else anywhere."""
    last = ""
    for _ in range(requests):
        names = [host.name for host in world.living if host.membership.is_member()]
        if not names:
            await asyncio.sleep(0.05)
            continue
        if last not in names or world.random.random() > sticky:
            last = world.random.choice(names)
        lost = world.random.random() < lossy
        outcome = await request(world, jar, last, world.random.choice(KINDS), lost=lost)
        if outcome != "ok":
            last = ""  # a router tries another node
        await asyncio.sleep(world.random.uniform(0, 0.05))
