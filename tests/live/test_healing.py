"""Healing and its delay with real processes: copies that are made, and copies that are not."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import Any

import aiohttp

from tests.live.clients import Browser
from tests.live.cluster import Cluster, until
from tests.live.test_failover import elements, routed
from tests.live.test_restarts import served

TEXT = "x" * 6_000
"""Enough of them take seconds at the lowest `heal_rate`: the middle of a healing can be met."""

RATE = "64KiB"


async def visitors(http: aiohttp.ClientSession, cluster: Cluster, count: int) -> list[Browser]:
    """Browsers with sessions of 6 KB, of which every node leads as many."""
    browsers = [Browser(http) for _ in range(count)]
    for browser, name in zip(browsers, cycle(cluster.names), strict=False):
        answer = await browser.post(f"{cluster[name].url}/append", token=TEXT)
        assert answer.status == 200
    return browsers


async def is_whole(cluster: Cluster, browser: Browser) -> bool:
    """Whether two living nodes hold the same of a session."""
    copies = await cluster.copies(browser.group)
    return (
        len(copies) == 2
        and all(copy["in_sync"] for copy in copies.values())
        and len({str(elements(copy)) for copy in copies.values()}) == 1
    )


async def are_whole(cluster: Cluster, browsers: list[Browser]) -> bool:
    return all(await asyncio.gather(*(is_whole(cluster, browser) for browser in browsers)))


async def test_all_copies_are_made_again_without_a_request_and_a_second_death_loses_nothing(
    http: aiohttp.ClientSession,
) -> None:
    """system 6 (a): nobody asks for anything; (b): sessions that are used while others are copied
    are answered, and what was written is in both copies; (f): a log-out in the middle of it is
    not undone by the copy that comes after it."""
    async with Cluster(3, heal_after=1.6, heal_rate=RATE, consistency="available") as cluster:
        browsers = await visitors(http, cluster, 90)
        await cluster.kill("n3")

        async def begun() -> bool:
            return await cluster.counted("healed") > 0

        await until("the healing has begun", begun)
        healed = await cluster.counted("healed")
        writing, leaving, idle = browsers[:9], browsers[9:18], browsers[18:]
        url = cluster["n1"].url
        for browser in writing:
            answer = await browser.post(f"{url}/append", token="later")
            assert (answer.status, len(answer["tokens"])) == (200, 2)
        for browser in leaving:
            assert (await browser.copy().post(f"{url}/log-out")).status == 200
        assert healed < 60, "it went on meanwhile: a third of all had two copies without it"

        async def whole() -> bool:
            return await are_whole(cluster, writing + idle)

        await until("every session has its copy", whole, 40.0)
        await cluster.kill("n2")
        for browser in idle:
            assert await served(cluster, browser, "n1") == {"tokens": [TEXT]}
        for browser in writing:
            assert await served(cluster, browser, "n1") == {"tokens": [TEXT, "later"]}
        for browser in leaving:
            assert await served(cluster, browser, "n1") == {}


async def test_a_node_that_returns_within_the_delay_gets_what_changed_and_nobody_else_anything(
    http: aiohttp.ClientSession,
) -> None:
    """system 7 (a): no copy goes to a third node, placement is as before, the latest values are
    everywhere; (c): with its data kept, it gets the differences and no whole group."""
    async with Cluster(3, consistency="available") as cluster:
        browsers = await visitors(http, cluster, 30)
        before = [sorted(await cluster.copies(browser.group)) for browser in browsers]
        await cluster.kill("n3")
        changed = [b for b, nodes in zip(browsers, before, strict=True) if "n3" in nodes][:3]
        for browser in changed:
            name = next(name for name in browser.route.servers if name != "n3")
            answer = await browser.post(f"{cluster[name].url}/append", token="later")
            assert answer.status == 200
        await cluster.start("n3")

        async def as_before() -> bool:
            now = [sorted(await cluster.copies(browser.group)) for browser in browsers]
            return now == before and await are_whole(cluster, browsers)

        await until("every copy is where it was", as_before)
        assert await cluster.counted("healed") == 0
        told: dict[str, Any] = (await cluster.ask("n3"))["counters"]
        assert told["pushes_full"] == 0
        for browser in changed:
            assert await served(cluster, browser, "n3") == {"tokens": [TEXT, "later"]}


async def test_five_nodes_restart_one_after_another_under_load_and_stay_balanced(
    http: aiohttp.ClientSession,
) -> None:
    """system 7 (f): clients behind a router count on as if nothing happened; no node without a seat
    gets a copy, and in the end every copy is where it was."""
    async with Cluster(5, drain_delay="300ms") as cluster:
        front = await routed(cluster, Browser(http))
        idle = await visitors(http, cluster, 60)
        before = [sorted(await cluster.copies(browser.group)) for browser in idle]
        stop, healed = asyncio.Event(), 0

        async def count() -> None:
            browser, expected = Browser(http), 0
            while not stop.is_set():
                answer = await browser.post(f"{front}/increment")
                expected += 1
                assert (answer.status, answer["n"]) == (200, expected)

        async with asyncio.TaskGroup() as clients:
            for _ in range(4):
                clients.create_task(count())
            for name in cluster.names:
                healed += (await cluster.ask(name))["counters"]["healed"]
                await cluster.terminate(name)
                await cluster.start(name)
            stop.set()

        async def as_before() -> bool:
            now = [sorted(await cluster.copies(browser.group)) for browser in idle]
            return now == before

        await until("every copy is where it was", as_before)
        assert healed + await cluster.counted("healed") == 0
        for browser in idle:
            answer = await browser.get(f"{front}/read")
            assert (answer.status, answer.session) == (200, {"tokens": [TEXT]})
