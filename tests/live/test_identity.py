"""System 1 with real processes: what clients present as identity, and engines of one node."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from demo_app.processes import dead
from sessionha.identity import SessionIDs, new_group
from sessionha.session.cookies import SessionCookies
from tests.live.app import SECRET_KEY
from tests.live.clients import ROUTE, SESSION, Browser
from tests.live.cluster import Cluster, free_port, until


async def test_the_address_is_told_once(browser: Browser) -> None:
    """system 1 (b): the first response sets it, one that changes nothing does not."""
    async with Cluster(2) as cluster:
        url = cluster["n2"].url
        answer = await browser.post(f"{url}/increment")
        assert set(answer.cookies) == {SESSION, ROUTE}
        assert browser.primary == "n2"
        answer = await browser.get(f"{url}/read")
        assert (answer.session, answer.cookies) == ({"n": 1}, ())
        answer = await browser.get(f"{url}/who")
        assert answer.cookies == ()


async def test_another_engine_of_the_node_answers_when_one_is_killed(browser: Browser) -> None:
    """system 1 (i): of the two engines of n2 each is killed once, also the one that leads the
    node: the sibling answers with the session, nobody takes it over, the view stays."""
    async with Cluster(2, workers=2) as cluster:
        url = cluster["n2"].url
        await browser.post(f"{url}/increment")
        copy = (await cluster.ask("n2", browser.group))["copy"]
        before = await cluster.ask("n1")
        first = cluster.workers("n2")
        expected = 1
        for victim in first:
            os.kill(victim, signal.SIGKILL)
            await dead([victim])
            expected += 1
            answer = await browser.post(f"{url}/increment")
            assert (answer.status, answer["n"], answer.node) == (200, expected, "n2")
            assert answer["pid"] != victim
            await cluster.settled()  # uvicorn has started another in its place

            async def both_serve() -> bool:
                answers = await asyncio.gather(
                    *(Browser(browser.http).get(f"{url}/who") for _ in range(16))
                )
                workers = set(cluster.workers("n2"))
                return len(workers) == 2 and {answer["pid"] for answer in answers} == workers

            await until("both engines serve", both_serve)
        assert set(cluster.workers("n2")).isdisjoint(first)
        after = await cluster.ask("n1")
        assert (after["view"], after["members"]) == (before["view"], before["members"])
        assert (await cluster.ask("n2", browser.group))["copy"]["epoch"] == copy["epoch"]


async def test_ids_that_are_none_are_as_no_id(browser: Browser) -> None:
    """system 1 (j): tampered, unknown and oversized cookies: a new session, no error, and nobody
    outside is connected to. Only a valid ID that nobody holds costs a search."""
    async with Cluster(2) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        session, route = browser.cookies[SESSION], browser.cookies[ROUTE]
        unknown = SessionCookies((SECRET_KEY.encode(),))
        nobody = SessionIDs((SECRET_KEY.encode(),)).new(new_group())
        sent = [
            {SESSION: _flipped(session, 3)},  # the group
            {SESSION: _flipped(session, 20)},  # the secret
            {SESSION: _flipped(session, -2)},  # the signature
            {SESSION: session[:40]},
            {SESSION: "A" * 3000},
            {SESSION: "../../n1@127.0.0.1:1", ROUTE: route},
            {ROUTE: "1.n1~n2." + "A" * 1500},
            {ROUTE: _flipped(route, -2)},
            {SESSION: unknown.write(nobody, 4_000_000_000)},
            {SESSION: unknown.write(nobody, 4_000_000_000), ROUTE: route},
        ]
        for name in cluster.names:
            for cookies in sent:
                visitor = Browser(browser.http, dict(cookies))
                answer = await visitor.get(f"{cluster[name].url}/read")
                assert (answer.status, answer.session) == (200, {}), cookies
                answer = await visitor.post(f"{cluster[name].url}/increment")
                assert (answer.status, answer["n"]) == (200, 1), cookies
        assert await cluster.counted("handovers") == 0
        answer = await browser.get(f"{cluster['n2'].url}/read")
        assert answer.session == {"n": 1}


def _flipped(text: str, at: int) -> str:
    """The text with one character changed."""
    at %= len(text)
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


async def test_a_restarted_node_is_the_same_node(browser: Browser) -> None:
    """system 1 (k): n2 is n2 again, with the session that it had."""
    async with Cluster(2) as cluster:
        await browser.post(f"{cluster['n2'].url}/increment")
        await cluster.terminate("n2")
        await cluster.start("n2")
        answer = await browser.post(f"{cluster['n2'].url}/increment")
        assert (answer.node, answer["n"], browser.primary) == ("n2", 2, "n2")


@pytest.mark.parametrize("port", ["own", "shared"])
async def test_a_second_claimant_of_a_node_id_is_refused(browser: Browser, port: str) -> None:
    """system 1 (k): while n2 lives, another process that says it is n2 never becomes a member and
    is told why; the real one goes on, also when both listen on one port for peers."""
    async with Cluster(2) as cluster:
        await browser.post(f"{cluster['n2'].url}/increment")
        before = await cluster.ask("n1")
        listen = {"SESSIONHA_LISTEN": f"127.0.0.1:{free_port()}"} if port == "own" else {}
        cluster.launch_claimant("n2", **listen)

        async def refused() -> bool:
            return "the node ID n2 belongs to a living member" in cluster["n1"].output

        await until("n1 refuses the second n2", refused)
        for expected, name in enumerate(("n1", "n2", "n1", "n2"), start=2):
            answer = await browser.post(f"{cluster[name].url}/increment")
            assert (answer.status, answer["n"]) == (200, expected)
        after = await cluster.ask("n1")
        assert (after["view"], after["members"]) == (before["view"], before["members"])
