"""Random histories: browsers at work while a cluster suffers, then quiet, then everything checked.

In the first phase nothing acknowledged may be lost and nothing destroyed may return; in the second
one faults end, and everything must be served again by every node, with all its copies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from unittest import mock

from sessionha.errors import StoreFull
from sessionha.peer.messages import Create
from sessionha.state import copies, drill, rebalancing
from sessionha.state.delays import Kind
from sessionha.state.node import Options
from sessionha.state.records import LINE_LIMIT
from sessionha.view import Drains
from tests.simulation.checker import Finding, check
from tests.simulation.clients import SECRET, Jar, Manners, Violation, browse, request
from tests.simulation.events import Copy, Level
from tests.simulation.loop import run
from tests.simulation.machine import machines
from tests.simulation.world import Faults, Host, Views, World

CALM_STEPS = 600
"""Hundredths of a second in which every browser must be answered again between two disasters."""

REFUSALS = 20.0
"""Seconds in which a refusal must come: to acquire, to forward, to commit, each in its time, and
a message that was delayed before."""

SHORT = Create(idle_timeout=4_000, lifetime=15_000)
"""Lifetimes that end within a history."""


@dataclass(frozen=True)
class Plan:
    """What kind of world a seed is tried in."""

    nodes: int = 3
    backups: int = 1
    engines: int = 1
    kept: float = 0.5
    """How often a crashed node comes back with its store."""
    troubles: str = "crash"
    """Words of TROUBLES, joined by `+`."""
    clients: int = 5
    width: int = 1
    """Requests that one browser runs at the same time."""
    requests: int = 50
    lossy: float = 0.0
    """How many responses are lost on their way to the browser."""
    upkeep: bool = False
    views: Views = "oracle"
    late: float = 0.0
    """How many messages arrive only after seconds."""
    hasty: float = 0.0
    """How many requests are hung up on."""
    astray: float = 0.0
    """How many requests a router sends to any node."""
    think: float = 0.0
    """Seconds that an application takes at most between reading and committing."""
    short: bool = False
    """Sessions expire within the history."""
    reads: str = "local"
    """local, or confirmed: then every read is judged as current, whatever happened."""
    concurrency: str = "merge"
    urgent: bool = False
    """Groups with one copy left get a temporary one at once."""

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.troubles.split("+"))


EVERYTHING = "crash+pause+expel+cut+engine+restart"
"""What worlds of old knew; the seeds that are kept draw from it."""

TROUBLES = (
    "crash", "pause", "expel", "cut", "engine", "restart", "doom", "majority", "reboot", "weather",
    "full", "split", "link", "drain", "word",
)  # fmt: skip
"""Every kind of disaster, and planned restarts."""

MINGLE = ("pause", "expel", "split", "link", "doom")
"""After these a local read may be old: there are no leases yet."""


SEPARATE = ("split", "cut", "weather", "pause", "link")
"""After these living nodes may have been out of each other's reach: in available mode only
convergence is promised then."""


_SMALL_PATCHES = mock.patch.object(copies, "PATCH_BYTES", 64)
"""Browsers' maps never get as large as elements are of which only operations travel."""


DRILLED = 2.0
"""Seconds within which a drill has looked at all copies."""


LATELY = 0.4
"""Seconds: histories are short, so what was not changed for so long may be moved."""


@contextmanager
def _in_haste() -> Iterator[None]:
    """Drills and moves come often, as histories are short."""
    with (
        mock.patch.object(drill, "EVERY", 250),
        mock.patch.multiple(
            rebalancing, LATELY=int(LATELY * 1000), SETTLED=200, COUNT_EVERY=500, LOOK_EVERY=1000
        ),
    ):
        yield


async def history(
    seed: int, plan: Plan, begun: Callable[[World], object] = lambda _: None
) -> World:
    """One seed's life. Raises Violation, or what an engine should never have raised.

    `begun` gets the world at once, so that also a world that failed can be counted.
    """
    with machines() if "reboot" in plan.kinds else nullcontext():
        world = _made(seed, plan)
        begun(world)
        with _SMALL_PATCHES, _in_haste(), _listening(world.history.texts):
            try:
                await _live(world, plan)
            except BaseExceptionGroup as several:
                raise several.exceptions[0] from None
    if world.errors:
        raise world.errors[0]
    found = check(world.history)
    if found:
        raise Violation(_words(found))
    return world


def _made(seed: int, plan: Plan) -> World:
    world = World(
        seed,
        nodes=plan.nodes,
        engines=plan.engines,
        options=Options(
            backups=plan.backups,
            heal_after=0.5,
            urgent=plan.urgent,
            drill=100,
            confirmed=plan.reads == "confirmed",
            serial=plan.concurrency == "serialize",
            quorum=plan.views == "quorum",
            member_timeout=1.0 if plan.views == "quorum" else None,
        ),
        faults=Faults(loss=0.01, duplicate=0.02, slow=0.005, late=plan.late),
        upkeep=plan.upkeep,
        views=plan.views,
        reboots="reboot" in plan.kinds,
        lifetimes=SHORT if plan.short else None,
    )
    log = world.history
    steady = plan.views == "oracle" and not any(kind in plan.kinds for kind in MINGLE)
    log.strict = steady or world.options.confirmed or plan.views == "quorum"
    log.serial = world.options.serial
    log.agreed = plan.views == "quorum"
    log.whole = plan.views != "available" or not any(kind in plan.kinds for kind in SEPARATE)
    log.kept = all(kind in SEPARATE for kind in plan.kinds)
    log.bound, log.secrets = REFUSALS, (SECRET,)
    log.lately = LATELY
    log.idle = world.lifetimes.idle_timeout / 1000
    log.lifetime = world.lifetimes.lifetime / 1000
    return world


@contextmanager
def _listening(texts: list[str]) -> Iterator[None]:
    """Keep what is logged, for I18."""
    logger = logging.getLogger("sessionha")
    listener, before = _Listener(texts), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before)


def play(seed: int, plan: Plan, begun: Callable[[World], object] = lambda _: None) -> World:
    """The same, with a loop of its own."""
    return run(history(seed, plan, begun))


def _words(found: list[Finding]) -> str:
    broken = sorted({finding.invariant for finding in found}, key=lambda name: int(name[1:]))
    besides = f" (broken: {', '.join(broken)})" if broken[1:] else ""
    return f"{found[0].invariant}: {found[0].text}{besides}"


class _Listener(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())


async def _live(world: World, plan: Plan) -> None:
    jars = [Jar(f"c{index}") for index in range(plan.clients)]
    manners = Manners(
        sticky=world.random.choice((0.0, 0.5, 0.95)),
        lossy=plan.lossy,
        hasty=plan.hasty,
        astray=plan.astray,
        think=plan.think,
        naps=(2.0, 6.0) if plan.short else (0.0, 0.0),
    )
    if plan.views != "oracle":
        await agreed(world)
    suffering = asyncio.create_task(_suffer(world, jars, plan))
    try:
        async with asyncio.TaskGroup() as group:
            for jar in jars:
                for _ in range(plan.width):
                    group.create_task(browse(world, jar, plan.requests // plan.width, manners))
        suffering.cancel()
        await asyncio.wait({suffering})
        if not suffering.cancelled() and (error := suffering.exception()):
            raise error
        for host in world.living:
            world.resume(host.name)
            for engine in host.engines:
                engine.doom = ""  # it had not come to a commit
        for host in world.hosts.values():
            if not host.up:
                world.restart(host.name, kept=True)
        await quiet(world, jars, plan)
    finally:
        suffering.cancel()
        world.operations = sum(jar.requests for jar in jars)
        world.stop()


# --- what happens to it --------------------------------------------------------------------------


async def _suffer(world: World, jars: list[Jar], plan: Plan) -> None:
    """One disaster after the other; the next one only when every session was written again."""
    while True:
        await asyncio.sleep(world.random.uniform(0.1, 0.5))
        await _disaster(world, plan, world.random.choice(plan.kinds))
        await asyncio.sleep(0.05)  # every member holds the view with the returned nodes
        if plan.views != "oracle":
            await agreed(world)
        if not await _calm(jars, plan):
            return


async def _disaster(world: World, plan: Plan, kind: str) -> None:  # noqa: PLR0912 - a table
    match kind:
        case "crash":
            await _crash(world, plan)
        case "pause":
            await _pause(world, plan)
        case "expel":
            world.expel(world.random.choice(world.living).name)
            await asyncio.sleep(0.1)
        case "cut":
            await _cut(world)
        case "engine":
            await _lose_engine(world)
        case "doom":
            await _doom(world)
        case "majority":
            await _restart_some(world, len(world.hosts) // 2 + 1)
        case "reboot":
            await _reboot(world)
        case "weather":
            await _weather(world)
        case "full":
            await _fill(world)
        case "split":
            await _split(world)
        case "link":
            await _break(world, plan)
        case "drain":
            await _drain(world, plan)
        case "word":
            await _say(world)
        case _:
            await _restart_some(world, len(world.living))


async def _calm(jars: list[Jar], plan: Plan) -> bool:
    """Wait until every browser has had a change confirmed with all its copies (G1: only then
    another crash is not simultaneous). False: a browser is done, so nothing may happen any more."""
    before = {jar.name: jar.acknowledged for jar in jars}
    for _ in range(CALM_STEPS * (3 if plan.short or plan.late else 1)):
        if all(
            jar.acknowledged > before[jar.name]
            and jar.book is not None
            and jar.book.copies >= plan.backups
            for jar in jars
        ):
            return True
        await asyncio.sleep(0.01)
    return False


async def _crash(world: World, plan: Plan) -> None:
    """As many nodes at once as there are copies besides the primary's."""
    count = world.random.randint(1, min(plan.backups, plan.nodes - 1))
    names = [host.name for host in world.random.sample(world.living, count)]
    for name in names:
        world.crash(name)
    for name in names:
        await asyncio.sleep(world.random.uniform(0.0, 0.6))
        kept = world.random.random() < plan.kept
        # One at a time: a majority that forgets what it decided has decided nothing (R7a).
        forgets = plan.views == "quorum" and count == 1 and len(world.hosts) > 2
        votes = not (forgets and world.random.random() < 0.3)
        world.restart(name, kept=kept, votes=votes)


async def _pause(world: World, plan: Plan) -> None:
    """A pause of any length: the others may or may not exclude the node meanwhile."""
    name = world.random.choice(world.living).name
    world.pause(name)
    await asyncio.sleep(world.random.uniform(0.0, 0.3))
    if world.random.random() < 0.6:
        if plan.views == "oracle":
            world.expel(name)
        await asyncio.sleep(world.random.uniform(0.0, 0.5))
    world.resume(name)
    await asyncio.sleep(0.05)


async def _cut(world: World) -> None:
    """One direction between two nodes, for less time than would change the view."""
    one, other = world.random.sample([host.name for host in world.living], 2)
    world.troubles += 1
    world.trace(f"cut {one}->{other}")
    world.cut.add((one, other))
    await asyncio.sleep(world.random.uniform(0.0, 1.0))
    world.cut.clear()


async def _lose_engine(world: World) -> None:
    host: Host = world.random.choice(world.living)
    if len(host.engines) > 1:
        world.kill_engine(world.random.choice(host.engines))
        await asyncio.sleep(world.random.uniform(0.0, 0.3))
        world.start_engine(host.name)


async def _doom(world: World) -> None:
    """An engine dies before, between or after the two transactions of its next commit."""
    host: Host = world.random.choice(world.living)
    engine = world.random.choice(host.engines)
    engine.doom = world.random.choice(("before", "between", "after"))
    world.trace(f"doom {host.name}/{engine.slot} {engine.doom}")
    for _ in range(50):
        await asyncio.sleep(0.02)
        if not engine.alive:
            break
    engine.doom = ""
    await asyncio.sleep(world.random.uniform(0.0, 0.3))
    if not host.up:
        world.restart(host.name, kept=True)
    elif not engine.alive:
        world.start_engine(host.name)


async def _restart_some(world: World, count: int) -> None:
    """Nodes are killed together and come back with their stores, in any order (R7, R13)."""
    names = [host.name for host in world.living][:]
    if count < len(names):
        names = world.random.sample(names, count)
    for name in names:
        world.crash(name)
        await asyncio.sleep(world.random.choice((0.0, 0.0, 0.02)))
    world.random.shuffle(names)
    for name in names:
        await asyncio.sleep(world.random.uniform(0.0, 0.2))
        world.restart(name, kept=True)


async def _reboot(world: World) -> None:
    """A machine is off for a moment: its store is kept, of another boot, its clock begins anew."""
    name = world.random.choice(world.living).name
    world.crash(name)
    await asyncio.sleep(world.random.uniform(0.0, 0.6))
    world.restart(name, kept=True, rebooted=True)


async def _weather(world: World) -> None:
    """Some directions lose, double, delay and reorder a lot for a while."""
    world.troubles += 1
    names = list(world.hosts)
    for one in names:
        for other in names:
            if one != other and world.random.random() < 0.4:
                world.links[one, other] = Faults(
                    delay=(0.0, world.random.choice((0.002, 0.05, 0.4))),
                    loss=world.random.choice((0.0, 0.2, 0.6)),
                    duplicate=world.random.choice((0.0, 0.5)),
                )
    await asyncio.sleep(world.random.uniform(0.1, 1.5))
    world.links.clear()


async def _fill(world: World) -> None:
    """A store is full for a while; the group's other copies go elsewhere."""
    memory = world.random.choice(world.living).memory
    world.troubles += 1
    memory.size = max(int(memory.used / world.random.choice((0.93, 0.99))), 1)
    try:
        await asyncio.sleep(world.random.uniform(0.1, 0.8))
    finally:
        memory.size = world.size  # whatever else fills it meanwhile, and when the faults stop


async def _split(world: World) -> None:
    """A partition: the smaller side cannot be told anything."""
    names = sorted(host.name for host in world.living)
    most = max((len(names) - 1) // 2, 1)
    world.split(set(world.random.sample(names, world.random.randint(1, most))))
    await asyncio.sleep(world.random.uniform(0.1, 2.0))
    world.join()


async def _break(world: World, plan: Plan) -> None:
    """One link for good, once, and only where the copies fit on the nodes that stay."""
    if world.broken or len(world.hosts) < plan.backups + 2:
        return
    one, other = world.random.sample([host.name for host in world.living], 2)
    world.break_link(one, other, both=world.random.random() < 0.5)


async def _drain(world: World, plan: Plan) -> None:
    """A planned restart of one node, or of all in turn without waiting for any client. What was
    handed over may be lost with the node's store."""
    names = [host.name for host in world.living]
    count = len(names) if world.random.random() < 0.3 else 1
    for name in world.random.sample(names, count):
        how: Drains = world.random.choice(("returning", "leaving"))
        done = await world.drain(name, how)
        await asyncio.sleep(world.random.uniform(0.0, 0.6))
        world.restart(name, kept=not done or world.random.random() < plan.kept)
        await agreed(world)


async def _say(world: World) -> None:
    """An operator says something about the delay of a node, mostly of one that goes then."""
    node = world.random.choice(list(world.hosts))
    engine = world.engine(world.random.choice(world.living).name)
    kind: Kind = world.random.choice(("hold", "now", "extend"))
    extra = world.random.randrange(2_000)
    world.trace(f"{engine.host.name} is told: {kind} {node}")

    async def said() -> None:
        with suppress(StoreFull):
            await engine.state.delays.say(node, kind, extra)

    world.own(engine, said())
    if world.random.random() < 0.7 and world.hosts[node].up:
        world.crash(node)
        await asyncio.sleep(world.random.uniform(0.0, 2.0))
        world.restart(node, kept=True)
        await agreed(world)


# --- and when it is over -------------------------------------------------------------------------


async def agreed(world: World) -> None:
    """Wait until all living nodes are members of one view, but those that none may have."""
    for _ in range(3_000):
        living = [host for host in world.living if host.name not in world.barred]
        if len({host.view().id for host in living}) == 1 and all(h.is_member() for h in living):
            return
        await asyncio.sleep(0.01)
    raise Violation("I21: the living nodes do not agree on a view")


async def quiet(world: World, jars: list[Jar], plan: Plan) -> None:
    """When faults stop every session is served again, by every node, with all its copies (G12)."""
    log = world.history
    world.faults = Faults()
    world.cut.clear()
    world.mend()
    if plan.views != "oracle":
        await agreed(world)
    if "full" in plan.kinds:
        await asyncio.sleep(11.0)  # until full nodes are asked again
    await asyncio.sleep(0.5)
    log.quiet_from = log.next()
    log.living = len(world.living)
    for jar in jars:
        for host in world.living:
            await _served(world, jar, host)
    if plan.upkeep:
        await _rot(world, jars)
    await _at_rest(world, jars)
    for jar in jars:
        _note_copies(world, jar)
    _note_levels(world)
    if sum(jar.acknowledged for jar in jars) < plan.clients * 3:
        raise Violation("hardly anything was answered")


async def _rot(world: World, jars: list[Jar]) -> None:
    """A copy of each session's group rots in the end. The drill mends it, or I11 is broken."""
    world.history.rotten_from = world.history.next()
    for group in [jar.book.group for jar in jars if jar.book is not None]:
        records = {host.name: host.record(group) for host in world.living}
        led = [r for name, r in records.items() if r and r.held and r.epoch.node == name]
        holders = max(led, key=lambda record: record.position).holders[1:] if led else ()
        copies = [name for name in holders if name in records]
        if copies:
            world.rot(world.random.choice(copies), group, 2 * DRILLED)
    await asyncio.sleep(DRILLED)


async def _at_rest(world: World, jars: list[Jar]) -> None:
    """Let steps come to their end that have just begun, such as a move for balance."""
    groups = [jar.book.group for jar in jars if jar.book is not None]
    for _ in range(100):
        found = [(host.name, host.record(group)) for host in world.living for group in groups]
        led = [
            r for name, r in found if r and r.held and r.promise == r.epoch and r.epoch.node == name
        ]
        if all(record.acked == record.version and not record.leaving for record in led):
            return
        await asyncio.sleep(0.01)


async def _served(world: World, jar: Jar, host: Host) -> None:
    for _ in range(20):
        if await request(world, jar, host.name, "add") in ("ok", "gone"):
            return
        await asyncio.sleep(0.2)


def _note_copies(world: World, jar: Jar) -> None:
    book = jar.book
    if book is None or not any(host.lives(book.group) for host in world.living):
        return
    for host in world.living:
        record = host.record(book.group)
        if record is not None:
            content = host.content(book.group) if record.held else None
            world.history.copies.append(
                Copy(host.name, book.tag, record.position, record.held, content)
            )


def _note_levels(world: World) -> None:
    levels = world.history.levels
    for host in world.living:
        levels.append(Level(host.name, "bytes", host.memory.used, host.memory.size))
        for group in world.tags:
            record = host.record(group)
            if record is not None:
                levels.append(Level(host.name, "epochs", len(record.line), LINE_LIMIT))
        for engine in host.engines:
            tasks = len(engine.state.node.tasks)
            levels.append(Level(host.name, "tasks", tasks, 4 * len(world.tags)))
