"""Affinity for clients that keep no cookies: the router, and two nodes that share nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sessionha.session.cookies import RouteCookies
from sessionha.settings import Settings
from sessionha.web.asgi import SessionMiddleware
from tests.router.conftest import KEY, World, member, route_cookie, serving
from tests.session.fakes import FakeEngine
from tests.web import browser

TOKEN, ROUTE = "sessionha-token", "sessionha-route"


class Node:
    """A real application whose sessions nobody else has."""

    def __init__(self, name: str, *others: str) -> None:
        self.name = name
        self.engine = FakeEngine((name, *others), settings=Settings.load({}, session_in="both"))
        self.engine.route_cookies = RouteCookies([KEY])
        self.application: Any = SessionMiddleware(browser.shop, browser.KEY, engine=self.engine)


@pytest.fixture
async def nodes(world: World) -> list[Node]:
    found = [Node("n1", "n2"), Node("n2", "n3"), Node("n3", "n1")]
    urls = [await world.enter(serving(node.application)) for node in found]
    await world.route(*(member(node.name, url) for node, url in zip(found, urls, strict=True)))
    return found


async def ask(world: World, kept: dict[str, str], path: str) -> str:
    """One request of a client that keeps what it is told in headers."""
    async with world.client.get(world.url + path, headers=kept) as response:
        assert "set-cookie" not in response.headers
        kept |= {
            name: response.headers[name] for name in (TOKEN, ROUTE) if name in response.headers
        }
        return await response.text()


async def test_clients_without_cookies_keep_their_server_and_their_session(
    world: World, nodes: list[Node]
) -> None:
    """System 1 (c): on another node the session would begin anew."""
    clients = [{TOKEN: "none"} for _ in range(6)]
    for count in (1, 2, 3):
        for kept in clients:
            assert await ask(world, kept, "/count") == f'{{"n": {count}}}'
    assert [len(node.engine.state.groups) for node in nodes] == [2, 2, 2]


@pytest.mark.parametrize(
    "forged", ["", "x" * 5000, "1.n1~n2.AAAA.k." + "A" * 43, "http://10.0.0.1/", "none"]
)
async def test_a_forged_route_is_none(world: World, nodes: list[Node], forged: str) -> None:
    """System 1 (j): any server of the view answers, and no other is connected to."""
    assert await ask(world, {TOKEN: forged or "none", ROUTE: forged}, "/count") == '{"n": 1}'


async def test_the_header_counts_more_than_the_cookie(world: World, nodes: list[Node]) -> None:
    kept = {TOKEN: "none"}
    await ask(world, kept, "/count")
    beside = {"Cookie": route_cookie("n3"), **kept}
    assert await ask(world, beside, "/count") == '{"n": 2}'
