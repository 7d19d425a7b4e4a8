"""Planned stops of real servers: everything is handed over before they go (G11)."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiohttp

from tests.live.clients import Browser
from tests.live.cluster import Cluster, until
from tests.live.test_servers import KINDS, ServedCluster, Writer, all_write, load


async def test_a_pair_restarted_one_after_another_without_a_request_loses_nothing(
    http: aiohttp.ClientSession,
) -> None:
    """G11, system 7 (f): not even where neither finds its store again; nobody has to promote."""
    async with Cluster(2) as cluster:
        browsers = [Browser(http) for _ in range(30)]
        for number, browser in enumerate(browsers):
            await browser.post(f"{cluster[f'n{number % 2 + 1}'].url}/increment")
        for name in ("n1", "n2"):
            await cluster.terminate(name)
            assert "node " + name + " drained: others serve its " in cluster[name].output
            cluster.lose_store(name)
            await cluster.start(name)
        for browser in browsers:
            answer = await browser.get(f"{cluster['n1'].url}/read")
            assert (answer.status, answer.session) == (200, {"n": 1})
        assert await cluster.counted("promotions") == 0


async def test_no_client_notices_that_a_node_drains_and_restarts(
    http: aiohttp.ClientSession,
) -> None:
    """G11: `sessionha drain --restart`, as a preStop hook calls it, then SIGTERM, behind a router
    and under load: no request fails, and every change is there. Called off, it takes clients."""
    cluster = ServedCluster(3, KINDS["uvicorn"], workers=2)
    cluster.tell(drain_delay="300ms", health_path="/")
    async with cluster:
        router, url = cluster.launch_router(), cluster["n1"].url
        await until("the router serves", lambda: _has(http, f"{router}/readyz", 200))
        writers = [Writer(http, router) for _ in range(6)]
        async with load(writers):
            await all_write(writers)
            told = await _drain(cluster, "n1", "--restart")
            assert (told["phase"], told["how"], told["groups"]) == ("done", "returning", 0)
            assert await _has(http, f"{url}/readyz", 404)
            assert (await _drain(cluster, "n1", "--cancel"))["how"] == ""
            await until("it is ready", lambda: _has(http, f"{url}/readyz", 200))
            await all_write(writers)
            await _drain(cluster, "n1", "--restart")
            await cluster.terminate("n1")
            await cluster.start("n1")
            await all_write(writers)
        counts = [await cluster.metrics(name) for name in cluster.names]
        assert sum(metrics["promotions"] for metrics in counts) == 0


async def _has(http: aiohttp.ClientSession, url: str, status: int) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == status
    except aiohttp.ClientError:
        return False


async def _drain(cluster: ServedCluster, name: str, how: str) -> dict[str, Any]:
    """What `sessionha drain` says, asked of another node."""
    asked = next(other for other in cluster.names if other != name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sessionha", "drain", name, how, "--json"),
        *("--url", cluster.admin[asked]),
        env=cluster[name].environment,
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(told)
    return found
