"""Nodes found through a redis-server of Debian's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from sessionha.discovery.redis import Redis
from sessionha.discovery.source import RedisSource
from sessionha.errors import DiscoveryFailed
from tests.discovery.servers import redis_server

pytestmark = [pytest.mark.processes, pytest.mark.needs("redis-server")]


async def test_nodes_announce_themselves_with_a_time_to_live_and_withdraw() -> None:
    """What nobody renews vanishes, its name in the set as well; another cluster is apart."""
    async with redis_server() as port:
        url = f"redis://127.0.0.1:{port}/0"
        ann, bob, router, foreign = (
            Redis(RedisSource(url), cluster) for cluster in ("shop", "shop", "shop", "blog")
        )
        assert await router.find() == frozenset()
        await ann.announce("ann", "10.0.0.1:7946")
        await bob.announce("bob", "10.0.0.2:7946")
        assert await router.find() == {"10.0.0.1:7946", "10.0.0.2:7946"}
        assert await foreign.find() == frozenset()

        async with redis.asyncio.from_url(url) as raw:
            keys = ["sessionha:{shop}:node:ann", "sessionha:{shop}:nodes"]
            assert all([0 < await raw.pttl(key) <= 30_000 for key in keys])
            await raw.delete("sessionha:{shop}:node:ann")  # as if its time to live had passed
            assert await router.find() == {"10.0.0.2:7946"}
            assert len(await raw.smembers("sessionha:{shop}:nodes")) == 2  # a router only reads
            assert await bob.find() == {"10.0.0.2:7946"}
            assert await raw.smembers("sessionha:{shop}:nodes") == {b"bob"}
            await raw.set("sessionha:{shop}:node:bob", b"\xff; no address")
            assert await bob.find() == frozenset()

        await bob.withdraw("bob")
        assert await router.find() == frozenset()
        for each in (ann, bob, router, foreign):
            await each.close()


@pytest.fixture
async def guarded() -> AsyncIterator[int]:
    async with redis_server("--requirepass", "hunter2") as port:
        yield port


async def test_a_server_that_refuses_or_is_gone_is_a_failure_without_its_password(
    guarded: int,
) -> None:
    for url in (f"redis://:wrong-hunter2@127.0.0.1:{guarded}", "redis://:hunter2@127.0.0.1:1"):
        asking = Redis(RedisSource(url), "shop")
        for refused in (asking.find(), asking.announce("n1", "h:1"), asking.withdraw("n1")):
            with pytest.raises(DiscoveryFailed, match="Redis does not answer") as caught:
                await refused
            assert "hunter2" not in str(caught.value)
        await asking.close()
