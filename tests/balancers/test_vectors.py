"""Real balancers pass the vectors of the affinity rule, with the configuration made for them."""

from __future__ import annotations

import aiohttp

from sessionha.balancers.document import document_of
from tests.balancers.fronts import KINDS, Running, kinds, running
from tests.balancers.toys import Toys
from tests.balancers.vectors import Vector, settings, vectors, view_of


@kinds
async def test_the_balancer_tries_the_servers_of_the_vectors(kind: str) -> None:
    can = KINDS[kind].can
    cases = [vector for vector in vectors() if can.issuperset(vector.needs)]
    toys = Toys(*{node for vector in cases for node in vector.nodes})
    async with toys, running(kind, settings()) as balancer, clients() as http:
        for vector in cases:
            try:
                await check(vector, toys, balancer, http)
            except AssertionError as error:
                raise AssertionError(f"{vector.claim}: {error}") from None


async def check(vector: Vector, toys: Toys, balancer: Running, http: aiohttp.ClientSession) -> None:
    """Kill the servers that should come first one after the other, and see who answers."""
    await toys.open()
    await balancer.tell(document_of(view_of(vector.nodes, toys.urls), settings()))
    for headers in vector.requests:
        for dead, first in enumerate(vector.tried):
            assert await answer(http, balancer, headers) == first, f"with {dead} dead"
            if headers is vector.requests[-1]:
                await toys[first].refuse()
    for tier in (vector.others, vector.last):
        if tier:
            for headers in vector.requests:
                assert await answer(http, balancer, headers) in tier
        for node in tier:
            await toys[node].refuse()


async def answer(http: aiohttp.ClientSession, balancer: Running, headers: dict[str, str]) -> str:
    async with http.get(balancer.url, headers=headers) as response:
        text = await response.text()
        assert response.status == 200, f"{response.status} {text}"
        return text.split()[0]


def clients() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(force_close=True),
        timeout=aiohttp.ClientTimeout(total=20),
    )
