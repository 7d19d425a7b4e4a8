"""Pairs and whole clusters that restart, with their stores and without (contract, R7)."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.live.clients import Browser
from tests.live.cluster import Cluster, until
from tests.live.test_failover import elements


async def served(cluster: Cluster, browser: Browser, name: str) -> dict[str, Any]:
    """The session as this node serves it, once it does; 503 until then is allowed."""
    found: dict[str, Any] = {}

    async def read() -> bool:
        try:
            answer = await browser.get(f"{cluster[name].url}/read")
        except aiohttp.ClientConnectorError:
            return False
        assert answer.status in (200, 503)
        if answer.status == 200:
            found.update(answer.session)
        return answer.status == 200

    await until(f"{name} serves the session", read)
    return found


async def test_a_pair_serves_at_once_and_catches_up_by_differences(
    http: aiohttp.ClientSession,
) -> None:
    """contract, a pair: one dies, the other serves; it returns within the delay and gets what was
    changed meanwhile, not everything (system 7)."""
    async with Cluster(2) as cluster:
        browsers = [Browser(http) for _ in range(12)]
        for browser in browsers:
            await browser.post(f"{cluster['n1'].url}/increment")
        await cluster.kill("n1")
        for browser in browsers:
            answer = await browser.get(f"{cluster['n2'].url}/read")
            assert (answer.status, answer.session) == (200, {"n": 1})
        for browser in browsers[:2]:
            answer = await browser.post(f"{cluster['n2'].url}/increment")
            assert (answer["n"], answer.headers.get("sessionha-copies")) == (2, "0")
        await cluster.start("n1")

        async def whole() -> bool:
            pairs = [await cluster.copies(browser.group) for browser in browsers]
            return all(
                len(copies) == 2
                and all(copy["in_sync"] for copy in copies.values())
                and elements(copies["n1"]) == elements(copies["n2"])
                for copies in pairs
            )

        await until("both have every copy again", whole)
        assert (await cluster.ask("n1"))["counters"]["pushes_full"] == 0
        for number, browser in enumerate(browsers):
            answer = await browser.get(f"{cluster['n1'].url}/read")
            assert (answer.status, answer.session) == (200, {"n": 2 if number < 2 else 1})


@pytest.mark.parametrize("how", ["killed", "terminated"])
async def test_a_pair_that_restarts_as_a_whole_still_has_its_sessions(
    browser: Browser, how: str
) -> None:
    """contract, a pair: both restart with their stores: a pause, then both serve (system 7.8)."""
    async with Cluster(2) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        if how == "killed":
            await cluster.kill("n1", "n2")
        else:
            await asyncio.gather(cluster.terminate("n1"), cluster.terminate("n2"))
        await cluster.start("n1", "n2")
        assert await served(cluster, browser, "n2") == {"n": 1}
        answer = await browser.post(f"{cluster['n1'].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
        copies = await cluster.copies(browser.group)
        assert set(copies) == {"n1", "n2"}
        assert elements(copies["n1"]) == elements(copies["n2"])


async def test_a_pair_that_restarts_one_by_one_still_has_its_sessions(browser: Browser) -> None:
    """contract G11: planned restarts, one after the other, lose nothing."""
    async with Cluster(2) as cluster:
        expected = 0
        for name in ("n1", "n2", "n1"):
            expected += 1
            await browser.post(f"{cluster['n1'].url}/increment")
            await cluster.terminate(name)
            (other,) = cluster.living
            expected += 1
            answer = await browser.post(f"{cluster[other].url}/increment")
            assert (answer.status, answer["n"]) == (200, expected)
            await cluster.start(name)
        assert await served(cluster, browser, "n2") == {"n": expected}


@pytest.mark.parametrize("held", ["primary", "backup"])
async def test_a_node_without_its_store_gets_the_copies_of_the_other(
    browser: Browser, held: str
) -> None:
    """contract R7: it comes back as a new member with nothing, serves nothing empty, and has its
    copy again without any request to the session."""
    async with Cluster(2) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        primary, backup = browser.route.servers
        lost = primary if held == "primary" else backup
        await cluster.kill(lost)
        cluster.lose_store(lost)
        await cluster.start(lost)
        assert await served(cluster, browser, lost) == {"n": 1}
        copies = await cluster.copies(browser.group)
        assert set(copies) == {"n1", "n2"}
        assert elements(copies["n1"]) == elements(copies["n2"])


async def test_a_pair_restarts_and_one_store_is_lost(browser: Browser) -> None:
    """contract, a pair: both restart, one without its store: the other's copies are adopted."""
    async with Cluster(2) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        await cluster.kill("n1", "n2")
        cluster.lose_store("n1")
        await cluster.start("n1", "n2")
        assert await served(cluster, browser, "n1") == {"n": 1}
        answer = await browser.post(f"{cluster['n2'].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)


async def test_a_primary_that_restarts_without_its_store_counts_as_unavailable(
    browser: Browser,
) -> None:
    """system 5.7: asked again right after its restart, alone or with its backup, a primary that
    has lost the session says 503 or fetches it, never an empty session."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        await cluster.kill("n1")
        cluster.lose_store("n1")
        cluster.launch("n1")
        assert await served(cluster, browser, "n1") == {"n": 1}


async def test_three_nodes_that_are_all_killed_still_have_their_sessions(
    http: aiohttp.ClientSession,
) -> None:
    """system 7.8: stores that outlived their processes: every session is there, with the latest
    state, wherever it is asked for."""
    async with Cluster(3) as cluster:
        browsers = [Browser(http) for _ in range(9)]
        for turn, browser in enumerate(browsers):
            await browser.post(f"{cluster[f'n{turn % 3 + 1}'].url}/increment")
        await cluster.kill(*cluster.names)
        await cluster.start(*cluster.names)
        for turn, browser in enumerate(browsers):
            name = f"n{(turn + turn // 3) % 3 + 1}"
            assert await served(cluster, browser, name) == {"n": 1}


async def test_missing_copies_are_made_without_any_request(browser: Browser) -> None:
    """system 6: the healing delay ends, nobody asks for the session, and it has a copy on another
    node; then its last holder of before dies, and nothing is lost."""
    async with Cluster(3, heal_after=1.6, consistency="available") as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        primary, backup = browser.route.servers
        (other,) = set(cluster.names).difference(browser.route.servers)
        await cluster.kill(primary)

        async def healed() -> bool:
            copies = await cluster.copies(browser.group)
            return set(copies) == {backup, other} and all(c["in_sync"] for c in copies.values())

        await until("the copy is made elsewhere", healed)
        await cluster.kill(backup)
        answer = await browser.post(f"{cluster[other].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
