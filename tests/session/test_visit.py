"""Visits over a real state manager: how cookies live on, and what they name."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from sessionha.errors import StoreFull
from sessionha.identity import Epoch, Position, server_name
from sessionha.session.cookies import Route, RouteCookies
from sessionha.session.visit import Visit
from sessionha.state.manager import GROUP_SESSIONS
from sessionha.state.records import rows
from sessionha.store.memory import MemoryReader
from tests.session import places
from tests.session.places import MINUTE, ROUTES, WALL, Alone, Browser, in_world, place, terms
from tests.simulation.world import World


def server_names(*nodes: str) -> tuple[str, ...]:
    return tuple(server_name(node) for node in nodes)


# --- a node without peers ------------------------------------------------------------------------


@pytest.fixture
def alone() -> Alone:
    return places.alone()


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
    for way, elsewhere in (
        ("kept", replace(alone.place, route_cookies=ROUTES)),
        ("foreign", replace(alone.place, route_cookies=ROUTES, cluster="other")),
        ("keys_differ", replace(alone.place, route_cookies=other)),
    ):
        for _ in range(2):
            elsewhere.ways.clear()
            Visit(elsewhere, browser.terms, [header]).arrive()
            assert elsewhere.ways == {way: 1}
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
