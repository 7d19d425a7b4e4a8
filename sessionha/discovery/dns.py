"""Nodes found through DNS: the A and AAAA records of a name, or its SRV records."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from dns.asyncresolver import Resolver
from dns.exception import DNSException, Timeout
from dns.resolver import NXDOMAIN, HostAnswers, NoAnswer

from sessionha.discovery.source import DNSSource
from sessionha.errors import DiscoveryFailed

LIFETIME = 2.0
"""Seconds for one question: a name server of the same network answers in milliseconds."""

SIDE_BY_SIDE = 16
"""Questions at the same time, one for each target of SRV records."""


class DNS:
    """Asks anew each time and keeps nothing: the records' time to live is the servers' matter.

    Nobody announces anything: who publishes the records knows which nodes there are.
    """

    def __init__(self, source: DNSSource) -> None:
        self._source = source

    async def find(self) -> frozenset[str]:
        """The addresses that the records give.

        Raises:
            DiscoveryFailed: no such name, no records, no answer.
        """
        source = self._source
        try:
            resolver = self._resolver()
            if source.port:
                hosts = await resolver.resolve_name(source.name, lifetime=LIFETIME, search=True)
                return frozenset(_listeners(hosts, source.port))
            return await self._of_service(resolver)
        except (DNSException, OSError) as error:
            raise DiscoveryFailed(_cause(error)) from error

    async def _of_service(self, resolver: Resolver) -> frozenset[str]:
        """A host and a port for each node; hosts that have no address any more are left out."""
        name = self._source.name
        answer = await resolver.resolve(name, "SRV", lifetime=LIFETIME, search=True)
        free = asyncio.Semaphore(SIDE_BY_SIDE)

        async def listeners(target: str, port: int) -> list[str]:
            async with free:
                try:
                    hosts = await resolver.resolve_name(target, lifetime=LIFETIME)
                except (NXDOMAIN, NoAnswer):
                    return []
                return list(_listeners(hosts, port))

        targets = sorted({(record.target.to_text(), record.port) for record in answer})
        found = await asyncio.gather(*(listeners(*target) for target in targets if target[1]))
        return frozenset(address for addresses in found for address in addresses)

    def _resolver(self) -> Resolver:
        server = self._source.server
        resolver = Resolver(configure=server is None)
        if server is not None:
            resolver.nameservers, resolver.port = [server[0]], server[1]
        return resolver

    async def announce(self, node: str, address: str) -> None:
        """Nothing: who publishes the records does that."""

    async def withdraw(self, node: str) -> None:
        """Nothing, as `announce`."""

    async def close(self) -> None:
        """Nothing is open between two questions."""


def _listeners(hosts: HostAnswers, port: int) -> Iterable[str]:
    for host in hosts.addresses():
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cause(error: Exception) -> str:
    """In words that are the same each time: the library's carry times and whole questions."""
    if isinstance(error, NXDOMAIN):
        return "DNS has no such name"
    if isinstance(error, NoAnswer):
        return "the name has no records of this kind"
    if isinstance(error, Timeout):
        return f"no DNS server answers within {LIFETIME:g} s"
    return f"DNS gives no answer ({type(error).__name__})"
