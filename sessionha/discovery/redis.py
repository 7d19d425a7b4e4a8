"""Nodes found through Redis: each writes its address there, with a time to live."""

from __future__ import annotations

from typing import Any

from redis.asyncio import from_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from sessionha.discovery.base import LEASE
from sessionha.discovery.source import RedisSource, is_address
from sessionha.errors import DiscoveryFailed

PATIENCE = 2.0
"""Seconds for one exchange with a server of the same network."""

_LEASE = int(LEASE * 1000)


class Redis:
    """One key for each node, and a set that names them; all of it vanishes by itself.

    The braces in the keys put them on one server of a Redis cluster.
    """

    def __init__(self, source: RedisSource, cluster: str) -> None:
        """Raises ValueError for a URL that the client cannot read."""
        self._prefix = f"sessionha:{{{cluster}}}:"
        self._nodes = f"{self._prefix}nodes"
        self._announces = False
        # The next round is the repetition; a second layer of them would only delay it.
        self._client: Any = from_url(  # typed for both of its worlds at once
            source.url,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )

    async def find(self) -> frozenset[str]:
        """The addresses that nodes announced and not withdrew.

        Raises:
            DiscoveryFailed: the server does not answer, or refuses.
        """
        try:
            names = sorted(_text(name) for name in await self._client.smembers(self._nodes))
            if not names:
                return frozenset()
            values = await self._client.mget([self._key(name) for name in names])
            gone = [name for name, value in zip(names, values, strict=True) if value is None]
            if gone and self._announces:  # a router may be allowed to read only
                # one that announces itself at this moment does so again in a round
                await self._client.srem(self._nodes, *gone)
        except (RedisError, OSError) as error:
            raise DiscoveryFailed(_cause(error)) from error
        addresses = (_text(value) for value in values if value is not None)
        return frozenset(address for address in addresses if is_address(address))

    async def announce(self, node: str, address: str) -> None:
        """Write this node's address, for LEASE seconds.

        Raises:
            DiscoveryFailed: the server does not answer, or refuses.
        """
        self._announces = True
        try:
            async with self._client.pipeline(transaction=True) as together:
                together.set(self._key(node), address, px=_LEASE)
                together.sadd(self._nodes, node)
                together.pexpire(self._nodes, _LEASE)
                await together.execute()
        except (RedisError, OSError) as error:
            raise DiscoveryFailed(_cause(error)) from error

    async def withdraw(self, node: str) -> None:
        """Remove this node's address.

        Raises:
            DiscoveryFailed: the server does not answer, or refuses.
        """
        try:
            async with self._client.pipeline(transaction=True) as together:
                together.delete(self._key(node))
                together.srem(self._nodes, node)
                await together.execute()
        except (RedisError, OSError) as error:
            raise DiscoveryFailed(_cause(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _key(self, node: str) -> str:
        return f"{self._prefix}node:{node}"


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")


def _cause(error: Exception) -> str:
    """In words without the URL, whose password errors of a connection may repeat."""
    return f"Redis does not answer ({type(error).__name__})"
