"""Real balancers in front of real nodes, followed: deaths, drains, newcomers, forged cookies.

One cluster serves all tests of the module, and one balancer those of its kind; each test leaves
both as it found them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from sessionha.balancers.document import document_of
from sessionha.cli import main
from sessionha.identity import Epoch, Position
from sessionha.session.cookies import Route, RouteCookies
from sessionha.settings import Settings
from tests.balancers.fronts import FOLLOWED, Running, running
from tests.balancers.vectors import view_of
from tests.live.clients import ROUTE, ROUTES, Browser
from tests.live.cluster import Cluster, until

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux"),
]

PATIENCE = 3.0
"""Seconds until the balancers here give a server up that does not answer: above what a backup may
wait for a primary that stands still (`suspect_after` + `confirm_after`)."""

FIRST = ("n1", "n2", "n3")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes, and a fourth that is not started; each group has copies on all three."""
    async with Cluster(
        4, late=("n4",), consistency="available", backups=2, health_path="/", drain_delay="1s"
    ) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=FOLLOWED)
async def front(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """A balancer that follows the cluster, and at first knows three nodes."""
    settings = Settings.observe(cluster.environment)
    urls = {name: cluster[name].url for name in FIRST}
    async with running(request.param, settings, patience=PATIENCE) as made:
        await made.tell(document_of(view_of(dict.fromkeys(FIRST, "up"), urls), settings))
        made.follow(cluster.environment)
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Somebody without cookies."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        timeout=aiohttp.ClientTimeout(total=20.0),
    ) as http:
        yield Browser(http)


def named(browser: Browser, *servers: str, key: bytes | None = None) -> Browser:
    """The same with a route cookie that names these; `key`: who signs."""
    routes = ROUTES if key is None else RouteCookies([key])
    other = browser.copy()
    route = Route(servers, b"g" * 12, Position(Epoch(1, 1, "n1"), 1), "cluster")
    other.cookies[ROUTE] = routes.write(route)
    return other


async def begun(front: Running, browser: Browser, primary: str = "") -> str:
    """A session, its primary's name; `primary`: on this node."""
    start = named(browser, primary) if primary else browser
    answer = await start.post(f"{front.url}/increment")
    assert answer.status == 200, answer
    assert answer["n"] == 1
    browser.cookies = start.cookies
    assert len(browser.route.servers) == 3, "two others have a copy"
    return answer.node


async def back(cluster: Cluster, front: Running, browser: Browser, *names: str) -> None:
    """Start nodes again; return when each is served through the front again."""
    await cluster.start(*names)
    for name in names:

        async def served(name: str = name) -> bool:
            return (await named(browser, name).get(f"{front.url}/who")).node == name

        await until(f"{name} gets its clients again", served)


async def test_clients_stay_with_their_primary(front: Running, browser: Browser) -> None:
    for name in FIRST:
        visitor = browser.copy()
        assert await begun(front, visitor, name) == name
        for _ in range(3):
            assert (await visitor.get(f"{front.url}/read")).node == name


async def test_a_client_without_cookie_is_served_and_told_its_servers(
    front: Running, browser: Browser
) -> None:
    assert await begun(front, browser) == browser.primary


async def test_a_forged_cookie_leads_nowhere_and_an_unknown_name_does_no_harm(
    front: Running, browser: Browser
) -> None:
    answer = await named(browser, "n9", "n8").get(f"{front.url}/who")
    assert answer.status == 200
    # Not even by two workers of a balancer that each take servers in turn are these met by chance
    names = [name for name in FIRST for _ in range(5)]
    forged = [await named(browser, name, key=b"f" * 32).get(f"{front.url}/who") for name in names]
    assert {answer.status for answer in forged} == {200}
    if "signature" in front.can:
        assert [answer.node for answer in forged] != names


async def test_the_doctor_finds_nothing_wrong(
    cluster: Cluster,
    front: Running,
    browser: Browser,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`sessionha doctor URL`: each server that is named gets its clients, and cookies arrive."""

    async def ready() -> bool:
        """No node catches up any more: it should get no new clients."""
        found = [await browser.copy().get(f"{cluster[name].url}/readyz") for name in FIRST]
        return {answer.status for answer in found} == {200}

    await until("all are ready", ready, timeout=90)  # `state.catching.LONGEST` and some
    monkeypatch.setenv("SESSIONHA_SECRET", cluster.environment["SESSIONHA_SECRET"])
    code = await asyncio.to_thread(main, ["doctor", f"{front.url}/who", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [each for each in checks if each["outcome"] != "ok"] == []
    assert {"balancer", "route keys", "sessions"} <= {each["check"] for each in checks}
    assert code == 0


async def test_a_websocket_goes_to_the_primary(front: Running, browser: Browser) -> None:
    primary = await begun(front, browser, "n2")
    async with browser.http.ws_connect(f"{front.url}/talk", headers=browser.headers()) as talk:
        await talk.send_str("one")
        assert (await talk.receive_json(timeout=20))["token"] == "one"
    answer = await browser.get(f"{front.url}/read")
    assert (answer.node, answer.session["one"]) == (primary, True)


async def test_the_request_that_finds_the_primary_killed_is_answered_by_the_first_backup(
    cluster: Cluster, front: Running, browser: Browser
) -> None:
    """Also a POST, of which nothing was sent: once. Then the first backup dies as well."""
    primary = await begun(front, browser)
    first, second = browser.backups
    await cluster.kill(primary)
    answer = await browser.copy().post(f"{front.url}/increment")
    assert (answer.status, answer.node, answer["n"]) == (200, first, 2)
    await cluster.kill(first)
    answer = await browser.post(f"{front.url}/increment")
    assert (answer.status, answer.node, answer["n"]) == (200, second, 3)
    await back(cluster, front, browser, primary, first)


async def test_a_post_that_was_sent_is_not_repeated(
    cluster: Cluster, front: Running, browser: Browser
) -> None:
    gate = f"{front.front.kind}-{await begun(front, browser)}"
    sent = asyncio.create_task(browser.copy().post(f"{front.url}/slow", token="once", gate=gate))

    async def waiting() -> list[str]:
        """Who has the request."""
        asked = {name: f"{cluster[name].url}/waiting" for name in cluster.living}
        found = {name: await browser.get(url, gate=gate) for name, url in asked.items()}
        return [name for name, answer in found.items() if answer["waiting"]]

    await until("it is somewhere", lambda: waiting() if not sent.done() else sent)
    assert not sent.done(), sent.result()
    (where,) = await waiting()  # nearly always its primary; any node may serve it
    await cluster.kill(where)
    assert (await sent).status == 502
    assert await waiting() == []
    await back(cluster, front, browser, where)


async def test_a_stopped_server_is_passed_over(
    cluster: Cluster, front: Running, browser: Browser
) -> None:
    """By what may run twice, after the response timeout; by everything once the view says so."""
    primary = await begun(front, browser)
    cluster.freeze(primary)
    try:
        answer = await browser.copy().get(f"{front.url}/read")
        assert (answer.status, answer.node) == (200, browser.backups[0])
        await cluster.settled(set(cluster.living) - {primary})
        answer = await browser.copy().post(f"{front.url}/increment")
        assert (answer.status, answer.node, answer["n"]) == (200, browser.backups[0], 2)
    finally:
        cluster.thaw(primary)
    await cluster.settled()


async def test_no_request_fails_while_a_server_drains(
    cluster: Cluster, front: Running, browser: Browser
) -> None:
    primary = await begun(front, browser)
    stopping = asyncio.create_task(cluster.terminate(primary))
    done = 1
    while not stopping.done():
        done += 1
        answer = await browser.post(f"{front.url}/increment")
        assert (answer.status, answer["n"]) == (200, done)
    await stopping
    assert browser.primary != primary
    await back(cluster, front, browser, primary)


async def test_a_server_that_joins_gets_clients_without_a_restart_and_nobody_is_cut_off(
    cluster: Cluster, front: Running, browser: Browser
) -> None:
    before = front.pid
    visitor = browser.copy()
    await begun(front, visitor)
    async with browser.http.ws_connect(
        f"{front.url}/talk", headers=visitor.headers(), heartbeat=0.5
    ) as talk:
        await talk.send_str("before")
        await talk.receive_json(timeout=20)
        await back(cluster, front, browser, "n4")

        async def stays() -> bool:
            return [await begun(front, browser.copy(), "n4") for _ in range(5)] == ["n4"] * 5

        await until("its clients stay with it, when processes of before are gone", stays)
        assert front.pid == before
        await talk.send_str("after")
        assert (await talk.receive_json(timeout=20))["token"] == "after"
    await cluster.kill("n4")
    await cluster.settled()
