"""All sessions of a client lie on the same nodes, move together, and change together."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sessionha.identity import server_name
from sessionha.peer.messages import Claim, Fetch, Message
from sessionha.session.visit import Visit
from sessionha.state.records import rows
from sessionha.store.memory import MemoryReader
from tests.session.places import Browser, in_world, place, terms
from tests.simulation.world import Doom, Host, World

CLIENTS = 200
ALL = ("", "cart", "wizard")
"""The main session and two secondary ones."""


async def put(world: World, browser: Browser, node: str, engine: int = 0, *, n: int) -> Visit:
    """A request that writes to all three; its visit."""
    visits: list[Visit] = []

    def use(visit: Visit) -> None:
        visits.append(visit)
        for name in ALL:
            (visit.session.secondary(name) if name else visit.session)["n"] = n

    await browser.visit(place(world, node, engine), use)
    return visits[0]


async def see(world: World, browser: Browser, node: str, engine: int = 0) -> list[object]:
    """What a request finds in all three."""
    found: list[object] = []

    def use(visit: Visit) -> None:
        sessions = [visit.session.secondary(name) if name else visit.session for name in ALL]
        found.extend(session.get("n") for session in sessions)

    await browser.visit(place(world, node, engine), use)
    return found


def copies(world: World, group: bytes) -> list[str]:
    """Living nodes with a copy of the group, whoever counts it."""
    return [host.name for host in world.living if has_copy(host, group)]


def has_copy(host: Host, group: bytes) -> bool:
    with MemoryReader(host.memory) as reader:
        return any(True for _ in rows(reader, group))


def holders(world: World, browser: Browser) -> list[str]:
    """Node IDs of the cookie's servers, in order."""
    names = {server_name(name): name for name in world.hosts}
    return [names[server] for server in browser.route.servers]


def check_copies(world: World, browser: Browser, sessions: int = len(ALL)) -> None:
    """Who the cookie names has all sessions, equal, and nobody else has anything."""
    group, named = browser.route.group, holders(world, browser)
    assert sorted(copies(world, group)) == sorted(named)
    contents = [world.hosts[name].content(group) for name in named]
    assert all(content == contents[0] for content in contents)
    living = {row[0] for row in contents[0] if len(row) == 5 and not row[2]}
    assert len(living) == sessions


def count_moves(world: World) -> Counter[type[Message]]:
    """Questions for content, from now on: of a hand-over, and of a promotion."""
    moved: Counter[type[Message]] = Counter()

    def note(source: str, target: str, message: Message) -> bool:
        if isinstance(message, Fetch | Claim):
            moved[type(message)] += 1
        return False

    world.held_back = note
    return moved


def test_three_sessions_of_one_request_have_identical_ordered_backups() -> None:
    """System 4 (a): five nodes, 200 clients, each with three sessions that begin in one request."""

    async def scenario(world: World) -> None:
        browsers = [Browser(terms()) for _ in range(CLIENTS)]
        seen: Counter[tuple[str, ...]] = Counter()
        for number, browser in enumerate(browsers):
            node = f"n{number % 5 + 1}"
            visit = await put(world, browser, node, n=number)
            assert visit.left
            tickets = [browser.ticket(0, name) for name in ALL]
            assert {ticket.group for ticket in tickets if ticket} == {browser.route.group}
            record = world.hosts[node].record(browser.route.group)
            assert record is not None
            assert [*record.holders] == holders(world, browser)
            assert (record.holders[0], len(record.holders)) == (node, 3)
            check_copies(world, browser)
            seen[record.holders] += 1
        assert len(seen) > 20, "clients are spread"

    in_world(scenario, nodes=5, backups=2)


def test_the_recovery_server_has_all_three_when_the_primary_dies() -> None:
    """System 4 (e): a request that uses all three costs it no fetch from another node."""

    async def scenario(world: World) -> None:
        browsers = [Browser(terms()) for _ in range(10)]
        for number, browser in enumerate(browsers):
            await put(world, browser, "n1", n=number)
        world.crash("n1")
        await asyncio.sleep(1)
        moved = count_moves(world)
        for number, browser in enumerate(browsers):
            recovery = holders(world, browser)[1]
            assert await see(world, browser, recovery) == [number] * 3
            assert holders(world, browser)[0] == recovery
        assert not moved
        promotions = [host.engines[0].state.node.counters.promotions for host in world.living]
        assert sum(promotions) == len(browsers), "one for each client, not for each session"

    in_world(scenario, nodes=5, backups=2)


@pytest.mark.parametrize("returns", [False, True])
def test_a_dead_backup_is_replaced_once_for_all(returns: bool) -> None:
    """System 4 (f): one new backup for the three sessions, and no copy that nobody counts, also
    when the dead one comes back with what it had."""

    async def scenario(world: World) -> None:
        browser = Browser(terms())
        await put(world, browser, "n1", n=1)
        before = holders(world, browser)
        world.crash(before[1])
        await asyncio.sleep(1)
        await put(world, browser, "n1", n=2)
        after = holders(world, browser)
        assert len(set(after) - set(before)) == 1
        assert before[1] not in after
        check_copies(world, browser)
        if returns:
            world.restart(before[1], kept=True)
            await asyncio.sleep(1)
            for _ in range(3):
                upkeeps = [host.engines[0].upkeep.repair() for host in world.living]
                await asyncio.gather(*upkeeps)
                await asyncio.sleep(0.25)
            await put(world, browser, "n1", n=3)
            check_copies(world, browser)

    in_world(scenario, nodes=5, backups=2)


@pytest.mark.parametrize("doom", ["before", "between", "after"])
@pytest.mark.parametrize("engines", [1, 2], ids=["node", "engine"])
def test_a_crash_in_the_middle_of_a_commit_leaves_all_or_none(doom: Doom, engines: int) -> None:
    """System 4 (g): the engine, or its whole node, dies before, between or after the two
    transactions of a commit that changes three sessions."""

    async def scenario(world: World) -> None:
        browser = Browser(terms())
        await put(world, browser, "n1", n=1)
        victim = world.hosts["n1"].engines[0]
        victim.doom = doom
        request = asyncio.ensure_future(put(world, browser, "n1", n=2))
        await asyncio.wait({request})
        assert not victim.alive
        await asyncio.sleep(1)
        node = "n1" if engines == 2 else holders(world, browser)[1]
        seen = await see(world, browser, node)
        assert seen in ([1] * 3, [2] * 3)
        if doom != "between":
            assert seen == [1 if doom == "before" else 2] * 3
        assert await see(world, browser, "n3") == seen
        contents = [
            world.hosts[name].content(browser.route.group) for name in holders(world, browser)
        ]
        assert all(content == contents[0] for content in contents)

    in_world(scenario, nodes=3, backups=1, engines=engines)


def test_two_applications_of_a_client_share_backups_and_fail_over_together() -> None:
    """System 4 (h): one domain, two virtual servers, one visited after the other."""

    async def scenario(world: World) -> None:
        portal, shop = terms(server="portal"), terms(name="shop", server="shop")
        browser = Browser(portal)
        await browser.write(place(world, "n1"), n=1)
        first = holders(world, browser)
        browser.terms = shop
        await browser.write(place(world, "n1"), n=2)
        assert holders(world, browser) == first
        check_copies(world, browser, sessions=2)
        world.crash("n1")
        await asyncio.sleep(1)
        moved = count_moves(world)
        assert await browser.read(place(world, first[1]), "n") == 2
        browser.terms = portal
        assert await browser.read(place(world, first[1]), "n") == 1
        assert not moved
        assert world.hosts[first[1]].engines[0].state.node.counters.promotions == 1
        check_copies(world, browser, sessions=2)

    in_world(scenario, nodes=5, backups=2)
