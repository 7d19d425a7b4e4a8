"""Policies, engine types and loops: the router between real clients and real servers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from sessionha.identity import server_name
from sessionha.router.app import Router
from sessionha.router.headers import MOST_HOPS
from sessionha.router.options import Options
from sessionha.router.upstreams import Upstreams
from sessionha.session.cookies import RouteCookies
from sessionha.view import EngineAddress, Member
from tests.router.conftest import (
    KEY,
    Receive,
    Scope,
    Send,
    Upstream,
    World,
    member,
    reply,
    route_cookie,
    serving,
    view_of,
    whole_body,
)


async def two_engines(world: World, node: str, *types: str) -> tuple[Member, list[Upstream]]:
    """A node whose engines 0, 1, … have addresses of their own."""
    found = [await world.node(f"{node}/{slot}") for slot in range(len(types))]
    engines = tuple(
        EngineAddress(str(slot), kind, found[slot].url) for slot, kind in enumerate(types)
    )
    return member(node, engines=engines), found


async def test_both_stages_lead_to_the_engine_that_the_cookie_names(world: World) -> None:
    """System 1 (a): two nodes with engines of equal IDs; 100 requests with the cookie (n2, e1)."""
    n1, _ = await two_engines(world, "n1", "web", "web")
    n2, (other, named) = await two_engines(world, "n2", "web", "web")
    await world.route(n1, n2)
    cookie = route_cookie(server_name("n2", "1"), "n1")
    for _ in range(100):
        assert await world.request("GET", "/", cookie) == (200, "n2/1")
    assert (len(named.seen), len(other.seen)) == (100, 0)


async def test_requests_for_a_type_reach_only_who_has_it_until_none_is_left(world: World) -> None:
    """System 1 (d): also with a cookie that names an engine of another type."""
    n1, (web, api) = await two_engines(world, "n1", "web", "api")
    n2, (web_too,) = await two_engines(world, "n2", "web")
    await world.route(n1, n2, engine_types=(("/api", "api"),))
    for cookie in ((), (route_cookie("n2"),), (route_cookie(server_name("n1", "0"), "n2"),)):
        assert await world.request("POST", "/api/orders", *cookie, data=b"1") == (200, "n1/1")
    assert (len(api.seen), len(web.seen), len(web_too.seen)) == (3, 0, 0)
    world.upstreams.view_changed(view_of(n2, number=2, departed=(("n1", "left"),)))
    status, why = await world.request("GET", "/api/orders")
    assert (status, why) == (503, "Unavailable: no server with engines of type api is known.\n")
    assert await world.request("GET", "/orders") == (200, "n2/0")


async def test_a_server_with_fifty_requests_gets_no_new_client_but_its_own(world: World) -> None:
    """System 1 (e): while an idle one exists."""
    busy, idle = await world.node("busy"), await world.node("idle")
    asked, end = asyncio.Semaphore(0), asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/long":
            asked.release()
            await end.wait()
        await whole_body(receive)
        await reply(send, b"busy")

    busy.respond = wait
    await world.route(member("busy", busy.url), member("idle", idle.url))
    own = route_cookie("busy", "idle")
    async with asyncio.TaskGroup() as tasks:
        held = [tasks.create_task(world.request("GET", "/long", own)) for _ in range(50)]
        for _ in held:
            await asyncio.wait_for(asked.acquire(), 30)
        new = [await world.request("GET", "/") for _ in range(10)]
        mine = await world.request("GET", "/", own)
        end.set()
    assert new == [(200, "idle")] * 10
    assert mine == (200, "busy")
    assert {task.result() for task in held} == {(200, "busy")}


async def test_new_clients_stay_in_the_routers_zone_while_it_has_a_server(world: World) -> None:
    """System 1 (f)"""
    near, far = await world.node("near"), await world.node("far")
    members = member("far", far.url, zone="west"), member("near", near.url, zone="east")
    await world.route(*members, policy=("zone", "round-robin"), zone="east")
    assert [await world.request("GET") for _ in range(4)] == [(200, "near")] * 4
    assert await world.request("GET", "/", route_cookie("far", "near")) == (200, "far")
    world.upstreams.view_changed(view_of(members[0], number=2, departed=(("near", "left"),)))
    assert await world.request("GET") == (200, "far")


async def another(stack: AsyncExitStack) -> tuple[Upstreams, str]:
    """A further router, and its address."""
    upstreams = Upstreams(asyncio.get_running_loop().time)
    router = Router(upstreams, RouteCookies([KEY]), Options())
    await router.start()
    stack.push_async_callback(router.stop)
    return upstreams, await stack.enter_async_context(serving(router))


@pytest.fixture
async def stack() -> Any:
    async with AsyncExitStack() as stack:
        yield stack


async def test_two_routers_with_opposite_views_never_loop(
    world: World, stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """System 1 (l): each takes the other for the server; the request ends, and the log says why."""
    theirs, url = await another(stack)
    await world.route(member("n1", url), member("n2", url))
    theirs.view_changed(view_of(member("n1", world.url), member("n2", world.url)))
    for method in ("GET", "POST"):
        status, why = await world.request(method, "/", route_cookie("n1", "n2"))
        assert (status, why) == (508, f"Loop detected: it has passed {MOST_HOPS} routers.\n")
    assert [
        record.message for record in caplog.records if "from router to router" in record.message
    ]


async def test_each_of_two_routers_that_disagree_serves_every_request_once(
    world: World, stack: AsyncExitStack
) -> None:
    """System 1 (l): one knows only n1 and the other only n2, whatever the cookie says."""
    n1, n2 = await world.node("n1"), await world.node("n2")
    theirs, url = await another(stack)
    await world.route(member("n1", n1.url))
    theirs.view_changed(view_of(member("n2", n2.url)))
    for order in (("n1", "n2"), ("n2", "n1")):
        headers = {"Cookie": route_cookie(*order)}
        assert await world.request("POST", "/", headers=headers, data=b"x") == (200, "n1")
        async with world.client.post(url, headers=headers, data=b"x") as response:
            assert (response.status, await response.text()) == (200, "n2")
    assert (len(n1.seen), len(n2.seen)) == (2, 2)


async def test_a_chain_of_routers_passes_requests_and_counts_them(
    world: World, stack: AsyncExitStack
) -> None:
    n1 = await world.node("n1")
    inner, url = await another(stack)
    inner.view_changed(view_of(member("n1", n1.url)))
    await world.route(member("n1", url))
    assert await world.request("GET", "/", headers={"Sessionha-Hops": "a1"}) == (200, "n1")
    assert n1.headers()["sessionha-hops"] == "2"
    session = aiohttp.ClientTimeout(total=30)
    headers = {"Sessionha-Hops": str(MOST_HOPS)}
    async with world.client.get(world.url, headers=headers, timeout=session) as response:
        assert response.status == 508
