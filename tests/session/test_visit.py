"""Visits over a real state manager: how cookies live on, and what they name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from sessionha.errors import StoreFull
from sessionha.identity import NO_VIEW, Epoch, Position, server_name
from sessionha.session.cookies import (
    CookieAttributes,
    Route,
    RouteCookies,
    SessionCookies,
    Ticket,
    cluster_tag,
)
from sessionha.session.terms import Event, Terms
from sessionha.session.visit import Visit
from sessionha.state.manager import GROUP_SESSIONS, StateManager
from sessionha.state.node import Node, Options
from sessionha.state.records import rows
from sessionha.store.memory import MemoryReader, MemoryStore
from sessionha.topology.lone import LoneMembership
from sessionha.view import Member
from tests.simulation.loop import run
from tests.simulation.world import World

WALL = 1_800_000_000.0
MINUTE = 60.0
ROUTES = RouteCookies([b"r" * 32])
COOKIES = SessionCookies([b"k" * 32])


def server_names(*nodes: str) -> tuple[str, ...]:
    return tuple(server_name(node) for node in nodes)


@dataclass
class Place:
    """The engine that visits happen in."""

    state: StateManager
    wall: Callable[[], float]
    route_cookies: RouteCookies | None = ROUTES
    cluster: str = cluster_tag("test")
    engine: str = "0"
    backups: int = 1
    events: Counter[str] = field(default_factory=Counter)

    def now(self) -> float:
        return self.wall()

    def count(self, event: Event) -> None:
        self.events[event] += 1


def terms(idle: float = 30 * MINUTE, lifetime: float = 0) -> Terms:
    return Terms(
        COOKIES,
        CookieAttributes("session"),
        CookieAttributes(ROUTES.name),
        idle_timeout=int(idle * 1000),
        lifetime=int(lifetime * 1000),
    )


@dataclass
class Browser:
    """Keeps what it is told in its jar, and sends all of it."""

    terms: Terms
    jar: dict[str, str] = field(default_factory=dict)

    async def visit(self, place: Place, use: Callable[[Visit], Awaitable[object] | object]) -> None:
        """One request: `use` is the application."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        visit = Visit(place, self.terms, [cookies] if cookies else [])
        if not visit.arrive():
            await visit.acquire()
        used = use(visit)
        if isinstance(used, Awaitable):
            await used
        await visit.respond()
        for _, header in [found for found in visit.headers() if found[0] == "set-cookie"]:
            name, _, value = header.split(";")[0].partition("=")
            self.jar[name] = value
        await visit.end()
        visit.leave()

    async def write(self, place: Place, **values: object) -> None:
        await self.visit(place, lambda visit: visit.session.update(values))

    async def read(self, place: Place, name: str) -> object:
        """The element, None without one."""
        found: list[object] = []
        await self.visit(place, lambda visit: found.append(visit.session.get(name)))
        return found[0]

    def ticket(self, now: float) -> Ticket | None:
        return COOKIES.read(self.jar["session"], now)

    @property
    def route(self) -> Route:
        route = ROUTES.read(self.jar[ROUTES.name])
        assert route is not None
        return route


# --- a node without peers ------------------------------------------------------------------------


class Clock:
    """One clock for both uses."""

    def __init__(self) -> None:
        self.seconds = WALL

    def now(self) -> int:
        return int(self.seconds * 1000)

    def mark(self) -> None: ...


@dataclass
class Alone:
    clock: Clock
    place: Place


@pytest.fixture
def alone() -> Alone:
    clock = Clock()
    store = MemoryStore().open()
    membership = LoneMembership(store, Member("a", store.incarnation, NO_VIEW, peer=""))
    membership.begin()
    state = StateManager(Node("a", store, membership, clock, Options(backups=0)))
    return Alone(clock, Place(state, lambda: clock.seconds, None, backups=0))


@pytest.mark.parametrize("writes", [1, 3], ids=["every request writes", "one request in three"])
async def test_the_cookie_of_an_active_user_never_ends(alone: Alone, writes: int) -> None:
    """R12: the signed deadline is renewed with each recorded use, a commit is one: with a request
    every 30 s the cookie of a session that may idle for 30 minutes is valid for hours, and is not
    written with every response."""
    browser = Browser(terms(idle=30 * MINUTE))
    await browser.write(alone.place, n=0)
    values = {browser.jar["session"]}
    for request in range(1, 241):  # two hours
        alone.clock.seconds += 30
        ticket = browser.ticket(alone.clock.seconds)
        assert ticket is not None
        assert ticket.deadline - alone.clock.seconds >= 28 * MINUTE
        if request % writes == 0:
            await browser.write(alone.place, n=request)
        else:
            assert await browser.read(alone.place, "n") == request // writes * writes
        values.add(browser.jar["session"])
    assert not alone.place.events
    assert 60 <= len(values) <= 121, "at most once a minute"


async def test_a_header_that_was_good_is_looked_at_again(alone: Alone) -> None:
    """What is remembered of a Cookie header is no more than its signatures: its deadline, the
    cluster and the key that verified its route are compared with each request."""
    browser = Browser(terms(idle=30 * MINUTE))
    await browser.write(alone.place, n=0)
    header = f"session={browser.jar['session']}"
    route = Route(server_names("a"), b"g" * 12, Position(Epoch(1, 1, "a"), 1), alone.place.cluster)
    header += f"; {ROUTES.name}={ROUTES.write(route)}"
    for _ in range(2):
        assert Visit(alone.place, browser.terms, [header]).arrive()
        assert not alone.place.events
    other = RouteCookies([b"o" * 32])
    for events, place in (
        ({}, replace(alone.place, route_cookies=ROUTES)),
        ({"route_cookie_foreign": 1}, replace(alone.place, route_cookies=ROUTES, cluster="other")),
        ({"route_cookie_refused": 1}, replace(alone.place, route_cookies=other)),
    ):
        for _ in range(2):
            place.events.clear()
            Visit(place, browser.terms, [header])
            assert place.events == events
    alone.clock.seconds += 31 * MINUTE
    alone.place.events.clear()
    Visit(alone.place, browser.terms, [header])
    assert alone.place.events == {"session_cookie_refused": 1}


async def test_a_cookie_never_outlives_the_session(alone: Alone) -> None:
    """Contract, lifetimes: writes renew the idle deadline up to the absolute lifetime."""
    browser = Browser(terms(idle=30 * MINUTE, lifetime=60 * MINUTE))
    await browser.write(alone.place, n=0)
    for _ in range(118):
        alone.clock.seconds += 30
        await browser.write(alone.place, n=1)
        ticket = browser.ticket(alone.clock.seconds)
        assert ticket is not None
        assert ticket.deadline <= WALL + 60 * MINUTE
    alone.clock.seconds = WALL + 60 * MINUTE + 5
    assert await browser.read(alone.place, "n") is None


# --- a node among others -------------------------------------------------------------------------


def in_world(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def play() -> None:
        world = World(1, nodes=3, backups=1)
        try:
            await scenario(world)
        finally:
            world.stop()
        assert not world.errors

    run(play())


def place(world: World, node: str) -> Place:
    return Place(world.hosts[node].engines[0].state, lambda: WALL + world.now)


def test_the_route_cookie_after_a_forwarded_commit_names_the_real_holders() -> None:
    """R5, routing: a request whose group was handed over meanwhile sends its batch there; the
    client is told who holds it now, the primary first."""

    async def scenario(world: World) -> None:
        browser = Browser(terms())
        here = place(world, "n1")
        await browser.write(here, x=1)
        await asyncio.sleep(1)
        group, position = browser.route.group, browser.route.position
        first = world.hosts["n1"].record(group)
        assert first is not None
        assert browser.route.servers == server_names(*first.holders)
        (third,) = set(world.hosts) - set(first.holders)

        async def slow(visit: Visit) -> None:
            visit.session["x"] = 2
            await world.hosts[third].engines[0].state.acquire(group, position)

        await browser.visit(here, slow)
        assert here.state.node.counters.forwards == 1
        now = world.hosts[third].record(group)
        assert now is not None
        assert now.holders[0] == third
        assert browser.route.servers == server_names(*now.holders)
        assert browser.route.position == now.position
        assert await browser.read(place(world, third), "x") == 2

    in_world(scenario)


def test_a_group_takes_only_so_many_sessions_of_one_client() -> None:
    """A client that drops its session cookie and keeps its route cookie begins a group of its
    own again and again, instead of making one grow without limit."""

    async def scenario(world: World) -> None:
        browser = Browser(terms())
        here = place(world, "n1")
        begun: Counter[bytes] = Counter()
        for number in range(3 * GROUP_SESSIONS - 1):
            browser.jar.pop("session", None)
            await browser.write(here, n=number)
            begun[browser.route.group] += 1
        assert [*begun.values()] == [GROUP_SESSIONS, GROUP_SESSIONS, GROUP_SESSIONS - 1]
        with MemoryReader(world.hosts["n1"].memory) as reader:
            for group, sessions in begun.items():
                found = [row for row in rows(reader, group) if row.element is None]
                assert len(found) == sessions
        assert await browser.read(here, "n") == 3 * GROUP_SESSIONS - 2

    in_world(scenario)


@pytest.mark.parametrize("share", [0.85, 0.93, 0.99])
def test_a_full_primary_answers_requests_that_only_read(share: float) -> None:
    """Section 8: a read whose touch is due is answered by a node without room; only writes are
    refused."""

    async def scenario(world: World) -> None:
        browser = Browser(terms())
        here = place(world, "n1")
        await browser.write(here, x=1)
        await asyncio.sleep(2 * MINUTE)
        memory = world.hosts["n1"].memory
        with here.state.node.store.write() as writer:
            writer.put(b"\x00ballast", b"x" * 20_000)
        memory.size = int(memory.used / share)
        for _ in range(3):
            assert await browser.read(here, "x") == 1
            await asyncio.sleep(2 * MINUTE)
        assert not here.events

    in_world(scenario)


@pytest.mark.parametrize("share", [0.85, 0.97, 0.999])
def test_a_full_primary_logs_out(share: float) -> None:
    """What frees space is not refused for want of it."""

    async def scenario(world: World) -> None:
        browser = Browser(terms())
        here = place(world, "n1")
        await browser.write(here, x="y" * 2_000)
        with here.state.node.store.write() as writer:
            writer.put(b"\x00ballast", b"x" * 20_000)
        memory = world.hosts["n1"].memory
        memory.size = int(memory.used / share)
        with pytest.raises(StoreFull):
            await browser.write(here, y=1)
        await browser.visit(here, lambda visit: visit.session.destroy())
        assert memory.used / memory.size < share
        assert await browser.read(here, "x") is None

    in_world(scenario)
