"""Where visits of tests happen: a node alone, or nodes of a simulated cluster; and browsers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sessionha.identity import NO_VIEW, server_name
from sessionha.session.affinity import Reason
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
from sessionha.state.manager import StateManager
from sessionha.state.node import Node, Options
from sessionha.store.memory import MemoryStore
from sessionha.topology.lone import LoneMembership
from sessionha.view import Member
from tests.simulation.loop import run
from tests.simulation.world import World

WALL = 1_800_000_000.0
MINUTE = 60.0
ROUTES = RouteCookies([b"r" * 32])
COOKIES = SessionCookies([b"k" * 32])


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
    ways: Counter[Reason] = field(default_factory=Counter)

    @property
    def node_server(self) -> str:
        return server_name(self.state.node.me)

    @property
    def server(self) -> str:
        return self.node_server

    def now(self) -> float:
        return self.wall()

    def count(self, event: Event) -> None:
        self.events[event] += 1

    def misrouted(self, server: str) -> Reason:
        del server
        return "lb_ignored"

    def audit(self, reason: Reason) -> None:
        self.ways[reason] += 1


def terms(
    idle: float = 30 * MINUTE, lifetime: float = 0, name: str = "session", server: str = "default"
) -> Terms:
    """What a door promises; times in seconds."""
    return Terms(
        COOKIES if name == "session" else SessionCookies([b"k" * 32], name),
        CookieAttributes(name),
        CookieAttributes(ROUTES.name),
        virtual_server=server,
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
        try:
            used = use(visit)
            if isinstance(used, Awaitable):
                await used
            await visit.respond()
            for _, header in [found for found in visit.headers() if found[0] == "set-cookie"]:
                self.keep(header)
            await visit.end()
        finally:
            visit.leave()

    def keep(self, header: str) -> None:
        """What a `Set-Cookie` header asks for."""
        name, _, value = header.split(";", maxsplit=1)[0].partition("=")
        self.jar[name] = value
        if "expires=Thu, 01 Jan 1970" in header:
            del self.jar[name]

    async def write(self, place: Place, **values: object) -> None:
        await self.visit(place, lambda visit: visit.session.update(values))

    async def read(self, place: Place, name: str) -> object:
        """The element, None without one."""
        found: list[object] = []
        await self.visit(place, lambda visit: found.append(visit.session.get(name)))
        return found[0]

    def ticket(self, now: float, name: str = "") -> Ticket | None:
        """What the cookie of the main session says, or that of a secondary one."""
        cookies = COOKIES.secondary(name) if name else COOKIES
        return cookies.read(self.jar[cookies.name], now)

    @property
    def route(self) -> Route:
        route = ROUTES.read(self.jar[ROUTES.name])
        assert route is not None
        return route


class Clock:
    """One clock for both uses."""

    def __init__(self) -> None:
        self.seconds = WALL

    def now(self) -> int:
        return int(self.seconds * 1000)

    def mark(self) -> None: ...


@dataclass
class Alone:
    """A node without peers."""

    clock: Clock
    place: Place


def alone() -> Alone:
    """It, with an empty store."""
    clock = Clock()
    store = MemoryStore().open()
    membership = LoneMembership(store, Member("a", store.incarnation, NO_VIEW, peer=""))
    membership.begin()
    state = StateManager(Node("a", store, membership, clock, Options(backups=0)))
    return Alone(clock, Place(state, lambda: clock.seconds, None, backups=0))


def in_world(
    scenario: Callable[[World], Awaitable[None]], nodes: int = 3, backups: int = 1, engines: int = 1
) -> None:
    """Play it in a simulated cluster without faults, in virtual time."""

    async def play() -> None:
        world = World(1, nodes=nodes, backups=backups, engines=engines)
        try:
            await scenario(world)
        finally:
            world.stop()
        assert not world.errors

    run(play())


def place(world: World, node: str, engine: int = 0) -> Place:
    """An engine of a simulated node."""
    state = world.hosts[node].engines[engine].state
    return Place(state, lambda: WALL + world.now, backups=world.options.backups)
