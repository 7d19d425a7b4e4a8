"""What the kinds share: each has its two nodes for all of its claims."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.contract.site import FIRST, SECOND, ContractCluster, Site


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """The two nodes of a kind, which the class of its claims describes."""
    kind = request.cls
    async with (
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=20.0),
        ) as http,
        ContractCluster(kind.command, **kind.environment) as cluster,
    ):
        site = Site(cluster, http)
        for node in (FIRST, SECOND):
            await site.serving(node)
        yield site
