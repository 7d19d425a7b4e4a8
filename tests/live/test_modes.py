"""Real servers that confirm reads, and that let requests of one session take turns."""

from __future__ import annotations

import asyncio
import os
import signal

import aiohttp
import pytest

from tests.live.clients import Browser
from tests.live.cluster import Cluster, until


@pytest.fixture
async def stranger(browser: Browser) -> Browser:
    """Somebody without a session: nobody waits for it."""
    return Browser(browser.http)


async def test_a_confirmed_read_is_never_old_when_its_server_wakes_up(browser: Browser) -> None:
    """G3, R9: what was answered elsewhere, while the primary was stopped, is in what it shows."""
    async with Cluster(3, reads="confirmed") as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        before, primary = browser.copy(), browser.primary
        assert (await browser.get(f"{cluster[primary].url}/read")).session == {"n": 1}
        assert (await cluster.ask(primary))["counters"]["confirmed"] >= 1
        cluster.freeze(primary)
        answer = await browser.post(f"{cluster[browser.backups[0]].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
        cluster.thaw(primary)
        shown: list[int] = []

        async def served() -> bool:
            answer = await before.copy().get(f"{cluster[primary].url}/read")
            if answer.status == 200:
                shown.append(answer.session["n"])
            return bool(shown)

        await until("the server that woke up serves again", served)
        assert shown == [2]
        await cluster.settled()


async def test_increments_at_the_same_time_are_all_counted(
    browser: Browser, stranger: Browser
) -> None:
    """On processes of one node and on two nodes; and a worker that is killed in the middle of its
    turn holds nobody up."""
    async with Cluster(2, workers=2, concurrency="serialize", acquire_timeout=15) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        urls = [f"{cluster[name].url}/increment" for name in ("n1", "n2") for _ in range(12)]
        answers = await asyncio.gather(*(browser.copy().post(url) for url in urls))
        assert {answer.status for answer in answers} == {200}
        assert sorted(answer["n"] for answer in answers) == [*range(2, len(urls) + 2)]

        node = cluster["n1"].url
        await browser.get(f"{node}/read")
        slow = asyncio.ensure_future(browser.copy().post(f"{node}/slow", gate="g", token="t"))
        holders: list[int] = []

        async def has_its_turn() -> bool:
            answer = await stranger.get(f"{node}/waiting", gate="g")
            if answer["waiting"]:
                holders.append(answer["pid"])
            return bool(holders)

        await until("a request has its turn", has_its_turn)
        waiting = asyncio.ensure_future(browser.copy().post(f"{node}/increment"))
        os.kill(holders[0], signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await slow
        try:
            answer = await waiting
        except aiohttp.ClientError:  # the kernel had given it to the same worker
            answer = await browser.copy().post(f"{node}/increment")
        assert (answer.status, answer["n"]) == (200, len(urls) + 2)
