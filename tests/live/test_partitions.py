"""Five real nodes on hosts of their own, in quorum mode with two backups, while clients write:
killed, stopped and partitioned, and no acknowledged change is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from demo_app.accounting import Ledger
from sessionha.keys import new_secret
from tests.live.clients import Browser
from tests.live.cluster import Cluster, until
from tests.live.namespaces import Network, Unavailable

NAMES = ("n1", "n2", "n3", "n4", "n5")

WRITERS = 6
PAUSE = 0.01
"""Seconds between two writes of one client: the machine has other things to do."""

TOKENS = 100
"""A client takes a new session after so many, so that answers stay small."""

ANSWER = 5.0
"""Seconds until a client gives an answer up; a stopped node gives none."""


@pytest.fixture
def network() -> Iterator[Network]:
    """Five hosts. Where none can be made the test is skipped, but never in CI."""
    made = Network(NAMES)
    try:
        made.open()
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def http(network: Network) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of clients, from within the network."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(force_close=True, limit=0, socket_factory=network.client),
        timeout=aiohttp.ClientTimeout(total=ANSWER),
    ) as session:
        yield session


def manner(**settings: Any) -> dict[str, Any]:
    """`trust_refused`: no firewall is between these hosts, so a refusal means what it says."""
    return {
        "consistency": "quorum",
        "backups": 2,
        "secret": new_secret(),
        "trust_refused": "always",
        "health_path": "/",
        **settings,
    }


class Writer:
    """A client behind a balancer that knows nothing: one token after the other, each through the
    next node. What it is told must be true for ever."""

    def __init__(self, number: int, http: aiohttp.ClientSession, urls: list[str]) -> None:
        self.sessions = [(Browser(http), Ledger())]
        self.acknowledged = 0
        self._number = number
        self._urls = itertools.cycle(urls[number % len(urls) :] + urls[: number % len(urls)])
        self._tokens = itertools.count(1)

    async def run(self, over: asyncio.Event) -> None:
        """Write until it is over."""
        while not over.is_set():
            await self._write(next(self._urls))
            await asyncio.sleep(PAUSE)

    async def _write(self, url: str) -> None:
        number = next(self._tokens)
        browser, ledger = self.sessions[-1]
        if number % TOKENS == 0:
            browser, ledger = Browser(browser.http), Ledger()
            self.sessions.append((browser, ledger))
        token = f"{self._number}-{number}"
        ledger.send(token)
        try:
            answer = await browser.post(f"{url}/append", token=token)
        except (aiohttp.ClientError, TimeoutError):
            return  # unknown: it may be seen later, or never
        assert answer.status in (200, 503), answer
        if answer.status == 200:
            ledger.acknowledge(token)
            ledger.observe(answer["tokens"])
            self.acknowledged += 1

    async def check(self, urls: list[str]) -> None:
        """Every node shows everything, and nothing else."""
        for (browser, ledger), url in itertools.product(self.sessions, urls):
            if browser.cookies:  # else no answer ever came
                answer = await browser.get(f"{url}/read")
                assert answer.status == 200, (url, answer)
                ledger.observe(answer.session.get("tokens", []))
        lost = set[str]().union(*(ledger.lost for _, ledger in self.sessions))
        phantom = set[str]().union(*(ledger.phantom for _, ledger in self.sessions))
        assert (lost, phantom) == (set(), set())


@asynccontextmanager
async def writing(cluster: Cluster, http: aiohttp.ClientSession) -> AsyncIterator[list[Writer]]:
    """Clients that write meanwhile; at the end everything is read through every node."""
    urls = [server.url for server in cluster.servers.values()]
    writers = [Writer(number, http, urls) for number in range(WRITERS)]
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for writer in writers:
            tasks.create_task(writer.run(over))
        try:
            yield writers
        finally:
            over.set()
    for writer in writers:
        await writer.check(urls)


async def everybody_writes(writers: list[Writer], times: int = 5) -> None:
    """Wait until each has had so many more writes acknowledged."""
    goals = [writer.acknowledged + times for writer in writers]

    async def written() -> bool:
        return all(w.acknowledged >= goal for w, goal in zip(writers, goals, strict=True))

    await until("every client can write", written)


async def ready(cluster: Cluster, browser: Browser, name: str, status: int) -> None:
    """Wait until `/readyz` of the node says this."""

    async def says() -> bool:
        return (await browser.copy().get(f"{cluster[name].url}/readyz")).status == status

    await until(f"{name} answers /readyz with {status}", says)


async def test_nothing_is_lost_by_deaths_pauses_and_partitions(
    network: Network, http: aiohttp.ClientSession
) -> None:
    """system 3 (d), (e), (f), (k), G1, G2, G9: two neighbours killed at once, one node stopped for
    longer than its detection, and a partition of three and two, in which the three accept writes
    and the two refuse them; every client finds all that was acknowledged, through every node."""
    async with (
        Cluster(5, network=network, **manner()) as cluster,
        writing(cluster, http) as writers,
    ):
        await everybody_writes(writers)

        await cluster.kill("n2", "n3")
        await cluster.settled()
        await everybody_writes(writers)
        await cluster.start("n2", "n3")

        before = (await cluster.ask("n5"))["incarnation"]
        cluster.freeze("n5")
        await cluster.settled(["n1", "n2", "n3", "n4"])
        cluster.thaw("n5")
        await cluster.settled()
        assert (await cluster.ask("n5"))["incarnation"] != before

        network.split(("n1", "n2", "n3"), ("n4", "n5"))
        await cluster.settled(["n1", "n2", "n3"])
        await everybody_writes(writers, 2)
        for name in ("n4", "n5"):
            await ready(cluster, Browser(http), name, 503)
            answer = await writers[0].sessions[-1][0].copy().post(f"{cluster[name].url}/increment")
            assert answer.status == 503
        network.mend()
        await cluster.settled()
        for name in NAMES:
            await ready(cluster, Browser(http), name, 200)
        await everybody_writes(writers)


async def test_a_broken_link_is_no_death(network: Network, http: aiohttp.ClientSession) -> None:
    """system 3 (g), R1: what n1 sends to n5 is dropped while the others reach both: they suspect
    each other, are told better, and nobody leaves the view; what they have to say takes one hop, so
    that every client writes."""
    async with Cluster(5, network=network, **manner()) as cluster:
        before = (await cluster.ask("n1"))["view"]
        network.cut(("n1", "n5"))

        async def cleared() -> bool:
            told = [(await cluster.ask(name))["membership"] for name in ("n1", "n5")]
            return all(counts.get("false_suspicions", 0) for counts in told)

        await until("both were told that the other lives", cleared)
        async with writing(cluster, http) as writers:
            await everybody_writes(writers)
        assert [(await cluster.ask(name))["view"] for name in NAMES] == [before] * 5
