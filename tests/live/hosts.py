"""Five nodes with two backups, each on a host of its own, and their clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from sessionha.keys import new_secret
from tests.live.cluster import Cluster
from tests.live.namespaces import Network

NAMES = ("n1", "n2", "n3", "n4", "n5")

ANSWER = 5.0
"""Seconds until a client gives an answer up; a stopped node gives none."""


def five(network: Network | None, consistency: str = "quorum", workers: int = 1) -> Cluster:
    """Five nodes; without a network on the loopback.

    `trust_refused`: no firewall is between these hosts, so a refusal means what it says.
    """
    cluster = Cluster(len(NAMES), network=network, workers=workers)
    cluster.tell(consistency=consistency, backups=2, health_path="/")
    if network is not None:
        cluster.tell(secret=new_secret(), trust_refused="always")
    return cluster


@asynccontextmanager
async def clients(network: Network) -> AsyncIterator[aiohttp.ClientSession]:
    """Connections from within the network; each request has its own."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(force_close=True, limit=0, socket_factory=network.client),
        timeout=aiohttp.ClientTimeout(total=ANSWER),
    ) as session:
        yield session
