"""What the live tests share: clients with connections of their own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.live.clients import Browser

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here starts processes, and needs Linux for the shared store."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.processes)
            if sys.platform != "linux":
                item.add_marker(pytest.mark.skip(reason="the shared store needs Linux"))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of clients: each request has its own, so a dead server refuses it."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        timeout=aiohttp.ClientTimeout(total=20.0),
    ) as session:
        yield session


@pytest.fixture
def browser(http: aiohttp.ClientSession) -> Browser:
    """Somebody who has no cookies yet."""
    return Browser(http)
