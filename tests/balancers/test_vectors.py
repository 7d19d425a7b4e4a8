"""Real balancers pass the vectors of the affinity rule, with the configuration made for them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from sessionha.balancers.document import document_of
from sessionha.session.headers import ELSEWHERE, IF_REPEATABLE
from tests.balancers.fronts import KINDS, Running, kinds, running
from tests.balancers.toys import Toys
from tests.balancers.vectors import Vector, route_cookie, settings, vectors, view_of


@kinds
async def test_the_balancer_tries_the_servers_of_the_vectors(kind: str) -> None:
    can = KINDS[kind].can
    cases = [vector for vector in vectors() if can.issuperset(vector.needs)]
    toys = Toys(*{node for vector in cases for node in vector.nodes})
    async with toys, running(kind, settings()) as balancer, clients() as http:
        for vector in cases:
            try:
                await check(vector, toys, balancer, http, deaths=not KINDS[kind].alike)
            except AssertionError as error:
                raise AssertionError(f"{vector.claim}: {error}") from None


async def check(
    vector: Vector, toys: Toys, balancer: Running, http: aiohttp.ClientSession, *, deaths: bool
) -> None:
    """See who answers; with `deaths` also when those who should come first refuse."""
    await toys.open()
    balancer.fresh = deaths
    await balancer.tell(document_of(view_of(vector.nodes, toys.urls), settings()))
    requests = vector.requests
    tiers = [*([name] for name in vector.tried), vector.others, vector.last]
    tiers = [tier for tier in tiers if tier]
    for dead, tier in enumerate(tiers if deaths else tiers[:1]):
        for headers in requests:
            assert await answer(http, balancer, headers) in tier, f"with {dead} tiers dead"
        for name in tier if deaths else ():
            await toys[name].refuse()


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


@kinds
@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "1"}], ids=["plain", "keyed"])
async def test_a_draining_server_is_found_past_everybody_else(
    kind: str, headers: dict[str, str]
) -> None:
    """The longest way that a request has: a full list, and all but one refuse."""
    states = {"n1": "up", "n2": "up", "n3": "up", "n4": "up", "n5": "spare", "n6": "drain"}
    toys = Toys(*states)
    async with toys, running(kind, settings()) as balancer, clients() as http:
        await balancer.tell(document_of(view_of(states, toys.urls), settings()))
        for name in ("n1", "n2", "n3", "n4", "n5"):
            await toys[name].refuse()
        headers |= {"cookie": f"hsr={route_cookie(['n1', 'n2', 'n3', 'n4'])}"}
        assert await answer(http, balancer, headers) == "n6"


@kinds
async def test_what_was_sent_is_repeated_only_where_that_does_no_harm(kind: str) -> None:
    """A GET, a PUT, and a POST with an Idempotency-Key may run twice; a POST may not, nor may what
    is no method of HTTP. A body that was refused goes to the next server whole."""
    states = {"n1": "up", "n2": "up"}
    toys = Toys(*states)
    body = b"x" * KINDS[kind].repeats
    async with toys, running(kind, settings()) as balancer, clients() as http:
        document = document_of(view_of(states, toys.urls), settings())
        balancer.fresh = True
        for method, key, status, served in (
            ("GET", "", 200, 1),
            ("PUT", "", 200, 1),
            ("POST", "k", 200, 1),
            ("POST", "", 502, 0),
            ("MOVE", "", 502, 0),
        ):
            await balancer.tell(document)
            toys["n1"].dies = True
            for name in states:
                toys[name].heads.clear()
            headers = {"cookie": f"hsr={route_cookie(['n1', 'n2'])}"}
            headers |= {"idempotency-key": key} if key else {}
            async with http.request(
                method, balancer.url, headers=headers, data=b"" if method == "GET" else body
            ) as response:
                assert response.status == status, (method, key)
            assert len(toys["n1"].heads) == 1, "asked once"
            assert len(toys["n2"].heads) == served
        await balancer.tell(document)
        await toys["n1"].refuse()
        headers = {"cookie": f"hsr={route_cookie(['n1', 'n2'])}"}
        async with http.post(balancer.url, headers=headers, data=body) as response:
            assert (await response.text()) == f"n2 {len(body)}"


@kinds
async def test_a_request_that_a_node_passes_on_goes_to_another_only_if_it_may_run_twice(
    kind: str,
) -> None:
    """Its handler may have run before the node found that it cannot have the session."""
    states = {"n1": "up", "n2": "up"}
    toys = Toys(*states)
    headers = {"cookie": f"hsr={route_cookie(['n1', 'n2'])}"}
    async with toys, running(kind, settings()) as balancer, clients() as http:
        await balancer.tell(document_of(view_of(states, toys.urls), settings()))
        for word in (ELSEWHERE, IF_REPEATABLE):
            toys["n1"].passes_on = word
            toys["n2"].heads.clear()
            for more in ({}, {"connection": "upgrade", "upgrade": "websocket"}):
                async with http.post(balancer.url, headers=headers | more) as response:
                    assert response.status >= 400
            assert not [head for head in toys["n2"].heads if head.startswith("POST")]
            async with http.get(balancer.url, headers=headers) as response:
                passed = "passed on" in balancer.can
                assert response.status == (200 if passed else 503)


@kinds
async def test_no_request_turns_into_another_protocol_than_websockets(kind: str) -> None:
    """HTTP/2 inside of the connection would have requests whose headers nobody has read."""
    toys = Toys("n1")
    async with toys, running(kind, settings()) as balancer:
        await balancer.tell(document_of(view_of({"n1": "up"}, toys.urls), settings()))
        for offers in ("h2c", "h2c\r\nupgrade: websocket", "websocket, h2c"):
            reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port)
            toys["n1"].heads.clear()
            writer.write(
                b"GET /mine HTTP/1.1\r\nhost: shop.example\r\n"
                b"connection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
                b"upgrade: %b\r\n\r\n" % offers.encode()
            )
            await reader.readline()
            writer.close()
            heads = "".join(head.lower() for head in toys["n1"].heads if "/mine" in head)
            assert "h2c" not in heads
            assert "\nhttp2-settings:" not in heads


@kinds
async def test_what_clients_say_of_addresses_is_replaced(kind: str) -> None:
    toys = Toys("n1")
    async with toys, running(kind, settings()) as balancer, clients() as http:
        await balancer.tell(document_of(view_of({"n1": "up"}, toys.urls), settings()))
        told = {
            "forwarded": "for=6.6.6.6",
            "x-forwarded-for": "6.6.6.6",
            "x-forwarded-host": "evil",
            "x-forwarded-proto": "gopher",
            "x-forwarded-port": "666",
            "x-forwarded-prefix": "/evil",
            "x-forwarded-protocol": "gopher",
            "x-forwarded-server": "evil",
            "x-forwarded-ssl": "gopher",
            "x-real-ip": "6.6.6.6",
            "x_forwarded_for": "6.6.6.6",
            "x_forwarded-proto": "gopher",
            "sessionha-hops": "3",
            "host": "shop.example:81",
        }
        assert await answer(http, balancer, told) == "n1"
        head = toys["n1"].heads[-1].lower()
        assert "6.6.6.6" not in head
        assert "gopher" not in head
        assert "evil" not in head
        assert "666" not in head
        assert "sessionha-hops" not in head
        assert "x-forwarded-for: 127.0.0.1" in head
        assert "x-forwarded-proto: http\r" in head
        assert "\nhost: shop.example:81" in head
