"""Real servers that nobody told of each other: found through a DNS server, and through Redis."""

from __future__ import annotations

import aiohttp
import pytest
import redis.asyncio

from sessionha.keys import new_secret
from tests.discovery.servers import name_server, redis_server
from tests.live.clients import Browser
from tests.live.cluster import Cluster, until
from tests.live.test_restarts import served

HOSTS = ("127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4")


async def replace_one(cluster: Cluster, browser: Browser) -> None:
    """n2 is killed and n4 started: the session lives, and n2 is awaited for a while."""
    await browser.post(f"{cluster['n2'].url}/increment")
    await cluster.kill("n2")
    await cluster.start("n4")
    answer = await browser.post(f"{cluster['n4'].url}/increment")
    assert (answer.status, answer["n"], answer.headers.get("sessionha-copies")) == (200, 2, None)
    assert (await cluster.ask("n1"))["unproven"] == ["n2"]


async def test_nodes_behind_one_name_form_a_cluster_and_a_router_follows_it(
    browser: Browser,
) -> None:
    """System 3 (a) and (2), with the A records that a headless service of Kubernetes has."""
    async with name_server() as server:
        server.records["shop.test", "A"] = list(HOSTS[:3])
        cluster = Cluster(4, hosts=HOSTS, late={"n4"}, secret=new_secret())
        cluster.tell(nodes=f"dns://shop.test:{cluster.peer_port}?server=127.0.0.1:{server.port}")
        async with cluster:
            server.records["shop.test", "A"] = [HOSTS[0], *HOSTS[2:]]
            await replace_one(cluster, browser)
            front = cluster.launch_router()

            async def through_the_router() -> bool:
                try:
                    answer = await browser.get(f"{front}/read")
                except aiohttp.ClientConnectorError:
                    return False
                return answer.status == 200 and answer.session == {"n": 2}

            await until("the router has found the nodes", through_the_router)


@pytest.mark.needs("redis-server")
async def test_nodes_that_announce_themselves_in_redis_form_a_cluster(browser: Browser) -> None:
    """A node that stops as planned is found no more; one that was killed is, for a while."""
    async with redis_server() as port:
        url = f"redis://127.0.0.1:{port}/0"
        cluster = Cluster(4, late={"n4"}, secret=new_secret())
        cluster.tell(nodes=url)
        async with cluster:
            await replace_one(cluster, browser)
            await cluster.terminate("n3")
            await cluster.settled(["n1", "n4"])
            async with redis.asyncio.from_url(url) as raw:
                names = await raw.smembers("sessionha:{live}:nodes")
            assert names - {b"n2"} == {b"n1", b"n4"}


async def test_a_cluster_that_restarts_as_a_whole_at_other_addresses_is_the_same_one(
    browser: Browser,
) -> None:
    """As pods with new addresses and their old volumes: found, and members as before (R7)."""
    async with name_server() as server:
        server.records["shop.test", "A"] = list(HOSTS[:2])
        cluster = Cluster(2, hosts=HOSTS[:2], secret=new_secret())
        cluster.tell(nodes=f"dns://shop.test:{cluster.peer_port}?server=127.0.0.1:{server.port}")
        async with cluster:
            await browser.post(f"{cluster['n1'].url}/increment")
            before = (await cluster.ask("n1"))["members"]
            await cluster.kill("n1", "n2")
            server.records["shop.test", "A"] = list(HOSTS[2:])
            for name, host in zip(("n1", "n2"), HOSTS[2:], strict=True):
                cluster[name].environment["SESSIONHA_LISTEN"] = f"{host}:{cluster.peer_port}"
            await cluster.start("n1", "n2")
            assert (await cluster.ask("n2"))["members"] == before
            assert await served(cluster, browser, "n2") == {"n": 1}
