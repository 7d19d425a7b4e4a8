"""Simulated browsers: what they ask, what they are answered, and what they keep.

A browser adds unique tokens to its session, each as two elements of one batch, removes some of
them again, and renews or destroys the session now and then; several requests may run at once. Each
token also goes into one map that all requests change at the same time, and raises one counter. All
that it sees goes into the history; the checker judges it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sessionha.errors import CommitUnconfirmed, SessionRevoked, SessionUnavailable, StoreFull
from sessionha.identity import Position
from sessionha.peer.messages import Batch, Create, SessionChange
from sessionha.state.base import Loaded, Receipt, Unsettled
from sessionha.state.manager import StateManager
from sessionha.values.codec import decode, encode
from tests.simulation.events import Outcome, Request
from tests.simulation.world import Engine, World

LIFETIMES = Create(idle_timeout=1_800_000, lifetime=43_200_000)

SECRET = "psst!"
"""What no log and no error may contain: it is in every value and every key."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Book:
    """One session, as its browser knows it."""

    tag: str
    group: bytes
    key: bytes
    cookie: Position
    copies: int
    removed: set[str] = field(default_factory=set)
    """Tokens that somebody has tried to remove: nobody tries it twice."""


@dataclass
class Jar:
    """What one browser holds, and what it was told."""

    name: str
    book: Book | None = None
    made: int = 0
    sessions: int = 0
    acknowledged: int = 0
    refused: int = 0
    unconfirmed: int = 0
    requests: int = 0

    def token(self, tag: str) -> str:
        self.made += 1
        return f"{tag}-{self.made}"


@dataclass
class Visit:
    """One request under way."""

    world: World
    jar: Jar
    book: Book
    engine: Engine
    lost: bool
    """The response never reaches the browser."""
    log: Request
    alone: bool = False
    """Whether it has its turn."""

    def learn(self, position: Position, *, key: bytes = b"") -> None:
        """The response's cookie reaches the browser: perhaps after that of a later request."""
        self.log.out = position
        if self.lost:
            return
        if position > self.book.cookie or self.world.random.random() < 0.5:
            self.book.cookie = position
        if key:
            self.book.key = key


async def request(
    world: World,
    jar: Jar,
    node: str,
    kind: str,
    *,
    lost: bool = False,
    patience: float | None = None,
    think: float = 0.0,
) -> str:
    """One request of a browser; how it ended in a word. `patience`: seconds until it hangs up;
    `think`: the application takes so many between reading and committing."""
    host = world.hosts[node]
    if not host.up or not host.engines:
        return "nobody"
    engine = world.engine(node)
    jar.requests += 1
    log = world.begin(jar.name, node)
    work = asyncio.ensure_future(_serve(world, jar, engine, kind, lost, log, think))
    engine.tasks[work] = None
    work.add_done_callback(lambda done: engine.tasks.pop(done, None))
    host.requests += 1
    try:
        done, _ = await asyncio.wait({work}, timeout=patience)
        if not done:
            work.cancel()
            await asyncio.wait({work})
    finally:
        host.requests -= 1
    if work.cancelled() or not engine.alive:
        if not work.cancelled():
            work.exception()
        world.end(log, "dead")  # the server died, or nobody listened any more: no answer
        return "dead"
    return _answered(world, jar, log, work, lost=lost)


def _answered(
    world: World, jar: Jar, log: Request, work: asyncio.Future[str], *, lost: bool
) -> str:
    outcome: Outcome
    try:
        word = work.result()
        outcome = "gone" if word == "gone" else "unknown" if lost and log.changes else "ok"
    except CommitUnconfirmed as error:
        jar.unconfirmed += 1
        word, outcome = "unknown", "unknown"
        world.history.texts.append(repr(error))
    except StoreFull as error:
        word, outcome = "refused", "fail"
        world.history.texts.append(f"{error!r} {error}")
    except SessionUnavailable as error:
        jar.refused += 1
        word, outcome = "refused", "fail" if log.changes else "unavailable"
        world.history.texts.append(f"{error!r} {error}")
    except SessionRevoked as error:
        word, outcome, log.revoked = "refused", "fail", True
        world.history.texts.append(f"{error!r} {error}")
    world.end(log, outcome)
    return word


async def _serve(
    world: World, jar: Jar, engine: Engine, kind: str, lost: bool, log: Request, think: float
) -> str:
    book = jar.book
    if book is not None:
        log.session, log.key, log.floor = book.tag, book.key, book.cookie
    await engine.host.running()
    if book is None:
        return await _create(world, jar, engine, lost, log)
    turn = await engine.state.turn(book.group, log.key)
    try:
        visit = Visit(world, jar, book, engine, lost, log, alone=turn is not None)
        return await _visit(visit, kind, think)
    finally:
        if turn is not None and engine.alive:
            turn.end()


async def _visit(visit: Visit, kind: str, think: float) -> str:
    world, jar, book, engine = visit.world, visit.jar, visit.book, visit.engine
    log, lost = visit.log, visit.lost
    loaded = await _open(visit)
    await engine.host.running()
    if loaded is None:
        if jar.book is book and book.key == log.key and not lost:
            jar.book = None
        return "gone"
    position = loaded.held.position
    seen = _see(visit, loaded)
    if think:
        await asyncio.sleep(think)
    match kind:
        case "add":
            await _add(visit, seen, loaded)
        case "renew":
            await _renew(visit)
        case "destroy":
            log.ends = log.key
            await _commit(visit, SessionChange(log.key, destroy=True))
        case _:
            if loaded.touch_due or world.random.random() < 0.2:
                log.touched = True
                engine.state.touch(book.group, log.key)
            visit.learn(position)
    return "ok"


async def _open(visit: Visit) -> Loaded | None:
    """The session as this node serves it; None: gone."""
    state, group, floor = visit.engine.state, visit.book.group, visit.log.floor
    if not state.local:
        return await state.find(group, visit.log.key, floor)
    while True:
        held = state.held(group, floor)
        if held is None and await state.acquire(group, floor) is None:
            return None
        try:
            return state.load(group, visit.log.key)
        except Unsettled:
            continue


def _see(visit: Visit, loaded: Loaded) -> set[str]:
    names = set(loaded.elements)
    ever, count = _totals(loaded)
    firsts = {name[2:] for name in names if name.startswith("a:")}
    seconds = {name[2:] for name in names if name.startswith("b:")}
    log = visit.log
    values = (loaded.elements[f"a:{name}"][1].decode() for name in sorted(firsts))
    log.seen = tuple(value.removeprefix(SECRET) for value in values)
    torn = (firsts ^ seconds) | (firsts - ever.keys())
    log.torn = tuple(torn) if count == len(ever) else (*torn, f"{count} of {len(ever)}")
    log.read, log.read_at = loaded.held.position, visit.world.history.next()
    return firsts


def _totals(loaded: Loaded) -> tuple[dict[str, int], int]:
    """Every token that the session ever had, and how many: both what many requests change."""
    ever: Any = decode(loaded.elements["map"][1])
    count: Any = decode(loaded.elements["count"][1])
    return ever, count


def _edits(loaded: Loaded, token: str) -> tuple[tuple[str, str, bytes, bytes], ...]:
    """The token into the map and the counter up, as this request sees them."""
    ever, count = _totals(loaded)
    into, up = [["set", [token], 1, 0]], [["increment", [], 1]]
    return (
        ("map", "map", encode(into, "map"), encode({**ever, token: 1}, "map")),
        ("count", "counter", encode(up, "count"), encode(count + 1, "count")),
    )


def _puts(token: str) -> tuple[tuple[str, str, bytes], ...]:
    return ((f"a:{token}", "value", f"{SECRET}{token}".encode()), (f"b:{token}", "value", b"."))


async def _create(world: World, jar: Jar, engine: Engine, lost: bool, log: Request) -> str:
    group, key = world.random.randbytes(12), world.random.randbytes(16)
    jar.sessions += 1
    tag = f"{jar.name}.{jar.sessions}"
    token = jar.token(tag)
    world.tags[group] = tag
    log.session, log.key, log.put, log.new = tag, key, token, True
    begun = ("map", "map", encode({token: 1}, "map")), ("count", "counter", encode(1, "count"))
    change = SessionChange(key, create=world.lifetimes, puts=(*_puts(token), *begun))
    batch = Batch(group, (change,))
    receipt = await engine.state.commit(batch, fresh=True)
    _note(log, receipt)
    log.out = receipt.position
    if not lost:
        jar.book = Book(tag, group, key, receipt.position, receipt.copies)
        jar.acknowledged += 1
    return "ok"


async def _add(visit: Visit, seen: set[str], loaded: Loaded) -> None:
    """Add a token; now and then remove one that was seen."""
    world, book, log = visit.world, visit.book, visit.log
    log.put = token = visit.jar.token(book.tag)
    deletes: tuple[str, ...] = ()
    if len(seen) > 3 and world.random.random() < 0.5:
        victim = world.random.choice(sorted(seen))
        if victim not in book.removed:
            book.removed.add(victim)
            log.removes = victim
            deletes = (f"a:{victim}", f"b:{victim}")
    edits = _edits(loaded, token)
    await _commit(visit, SessionChange(log.key, puts=_puts(token), deletes=deletes, edits=edits))


async def _renew(visit: Visit) -> None:
    log = visit.log
    log.ends, log.begins = log.key, visit.world.random.randbytes(16)
    await _commit(visit, SessionChange(log.begins, replaces=log.key), key=log.begins)


async def _commit(visit: Visit, change: SessionChange, *, key: bytes = b"") -> None:
    book = visit.book
    batch, state = Batch(book.group, (change,), visit.log.read), visit.engine.state
    if visit.alone:
        receipt = await state.commit(batch, fresh=False, floor=visit.log.read, alone=True)
    else:
        receipt = await state.commit(batch, fresh=False)
    _note(visit.log, receipt)
    if not visit.lost:
        book.copies = receipt.copies
        visit.jar.acknowledged += 1
    visit.learn(receipt.position, key=key)


def _note(log: Request, receipt: Receipt) -> None:
    log.position, log.copies, log.holders = receipt.position, receipt.copies, receipt.holders


def check_receipt(world: World, group: bytes, receipt: Receipt, began: float) -> None:
    """I10 for scenarios: when a change is acknowledged every other holder has it."""
    for name in receipt.holders[1:]:
        host = world.hosts[name]
        record = host.record(group)
        if host.lost < began and (record is None or record.position < receipt.position):
            raise Violation(f"{name} does not have {receipt.position} of {group.hex()[:6]}")


def state_of(world: World, node: str) -> StateManager:
    """The state manager of a node's first engine."""
    return world.hosts[node].engines[0].state


KINDS = ("add",) * 12 + ("read",) * 7 + ("renew", "destroy")


@dataclass(frozen=True)
class Manners:
    """How browsers and the routers before them behave; chances per request."""

    sticky: float = 0.95
    lossy: float = 0.0
    """A response is lost on its way to the browser."""
    hasty: float = 0.0
    """It hangs up within 50 ms."""
    astray: float = 0.0
    """A router sends it anywhere, also to a node that is in no view."""
    think: float = 0.0
    """Seconds that the application takes at most between reading and committing."""
    naps: tuple[float, float] = (0.0, 0.0)
    """It stays away for so many seconds, after one request in twenty."""


async def browse(world: World, jar: Jar, requests: int, manners: Manners) -> None:
    """Requests one after another, mostly to the same node, else anywhere."""
    last = ""
    random = world.random
    for _ in range(requests):
        names = [host.name for host in world.living if host.is_member() and not host.closing]
        if manners.astray and random.random() < manners.astray:
            names = [host.name for host in world.living]
        if not names:
            await asyncio.sleep(0.05)
            continue
        if last not in names or random.random() > manners.sticky:
            last = random.choice(names)
        lost = random.random() < manners.lossy
        kind, patience = random.choice(KINDS), None
        if manners.hasty and random.random() < manners.hasty:
            patience = random.uniform(0, 0.05)
        think = random.uniform(0, manners.think) if manners.think else 0.0
        outcome = await request(world, jar, last, kind, lost=lost, patience=patience, think=think)
        if outcome != "ok":
            last = ""  # a router tries another node
        await asyncio.sleep(random.uniform(0, 0.05))
        if manners.naps[1] and random.random() < 0.05:
            await asyncio.sleep(random.uniform(*manners.naps))
