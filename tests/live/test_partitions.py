"""Five real nodes on hosts of their own, in quorum mode with two backups, while clients write:
killed, stopped and partitioned, and no acknowledged change is lost."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.live.clients import Browser
from tests.live.cluster import Cluster, until
from tests.live.hosts import NAMES, clients, five
from tests.live.load import Writer, everybody_writes, writing
from tests.live.namespaces import Network, Unavailable


@pytest.fixture
def network() -> Iterator[Network]:
    """Five hosts. Where none can be made the test is skipped, but never in CI."""
    try:
        made = Network(NAMES).__enter__()
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with made:
        yield made


@pytest.fixture
async def http(network: Network) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of clients, from within the network."""
    async with clients(network) as session:
        yield session


def urls(cluster: Cluster) -> list[str]:
    return [server.url for server in cluster.servers.values()]


def nothing_is_missing(writers: list[Writer]) -> bool:
    return all((writer.lost, writer.phantom) == (set(), set()) for writer in writers)


async def ready(cluster: Cluster, browser: Browser, name: str, status: int) -> None:
    """Wait until `/readyz` of the node says this."""

    async def says() -> bool:
        return (await browser.get(f"{cluster[name].url}/readyz")).status == status

    await until(f"{name} answers /readyz with {status}", says)


async def test_nothing_is_lost_by_deaths_pauses_and_partitions(
    network: Network, http: aiohttp.ClientSession
) -> None:
    """system 3 (d), (e), (f), (k), G1, G2, G9: two neighbours killed at once, one node stopped for
    longer than its detection, and a partition of three and two, in which the three accept writes
    and the two refuse them; every client finds all that was acknowledged, through every node."""
    async with five(network) as cluster:
        async with writing(http, urls(cluster)) as writers:
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
            client = writers[0].sessions[-1][0].copy()
            for name in ("n4", "n5"):
                await ready(cluster, Browser(http), name, 503)
                assert (await client.post(f"{cluster[name].url}/increment")).status == 503
            network.mend()
            await cluster.settled()
            for name in NAMES:
                await ready(cluster, Browser(http), name, 200)
            await everybody_writes(writers)
        assert nothing_is_missing(writers)


async def test_a_broken_link_is_no_death(network: Network, http: aiohttp.ClientSession) -> None:
    """system 3 (g), R1: what n1 sends to n5 is dropped while the others reach both: they suspect
    each other, are told better, and nobody leaves the view; what they have to say takes one hop, so
    that every client writes."""
    async with five(network) as cluster:
        before = (await cluster.ask("n1"))["view"]
        network.cut(("n1", "n5"))

        async def cleared() -> bool:
            told = [(await cluster.ask(name))["membership"] for name in ("n1", "n5")]
            return all(counts.get("false_suspicions", 0) for counts in told)

        await until("both were told that the other lives", cleared)
        async with writing(http, urls(cluster)) as writers:
            await everybody_writes(writers)
        assert nothing_is_missing(writers)
        assert [(await cluster.ask(name))["view"] for name in NAMES] == [before] * 5
