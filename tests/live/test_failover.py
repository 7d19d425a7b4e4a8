"""System 5 with real processes: a session outlives the server that had it."""

from __future__ import annotations

import asyncio
import os

import aiohttp
import pytest

from sessionha.identity import Epoch, Position
from tests.live.clients import ROUTE, ROUTES, SESSION, Answer, Browser, RoundRobin
from tests.live.cluster import Cluster, until

ROUNDS = int(os.environ.get("LIVE_ROUNDS", "5"))
"""Kills of a primary right after its response; the full check has 500."""


def elements(copy: dict[str, object]) -> list[object]:
    """What a copy says of elements, each with its version: equal on every holder."""
    rows = copy["rows"]
    assert isinstance(rows, list)
    return [row for row in rows if row[1] is not None]


async def routed(cluster: Cluster, browser: Browser) -> str:
    """The URL of a router that knows the cluster."""
    front = cluster.launch_router()

    async def routes() -> bool:
        try:
            return (await browser.get(f"{front}/who")).status == 200
        except aiohttp.ClientConnectorError:
            return False

    await until("the router knows the cluster", routes)
    return front


async def test_an_increment_outlives_its_server_behind_a_balancer_that_knows_nothing(
    browser: Browser,
) -> None:
    """system 5 (a): three nodes, one backup: the primary dies right after its response, and the
    next request, wherever it goes, sees the increment."""
    async with Cluster(3) as cluster:
        balancer = RoundRobin([server.url for server in cluster.servers.values()])
        done = 0
        for _ in range(ROUNDS):
            done += 1
            answer = await balancer.post(browser, "/increment")
            await cluster.kill(answer.node)
            assert (answer.status, answer["n"]) == (200, done)
            done += 1
            answer = await balancer.post(browser, "/increment")
            assert (answer.status, answer["n"]) == (200, done)
            await cluster.start(*set(cluster.names).difference(cluster.living))


async def test_the_cookie_names_exactly_who_holds_a_copy(browser: Browser) -> None:
    """system 5 (b): the stores of all nodes are asked; before and after a hand-over and a death."""
    async with Cluster(4, backups=2) as cluster:

        async def check(expected: int) -> None:
            copies = await cluster.copies(browser.group)
            assert browser.route.servers == tuple(copies[browser.primary]["holders"])
            assert set(browser.route.servers) == set(copies)
            assert len(copies) == expected
            assert all(copy["in_sync"] for copy in copies.values())
            assert len({str(elements(copy)) for copy in copies.values()}) == 1

        await browser.post(f"{cluster['n1'].url}/increment")
        await check(3)
        (outside,) = set(cluster.names).difference(browser.route.servers)
        answer = await browser.post(f"{cluster[outside].url}/increment")
        assert (answer["n"], browser.primary) == (2, outside)
        await check(3)
        await cluster.kill(browser.primary)
        await browser.post(f"{cluster[browser.backups[1]].url}/increment")
        await check(3)


async def test_the_last_of_three_backups_serves(browser: Browser) -> None:
    """system 5 (c): the primary and two backups are killed at once."""
    async with Cluster(5, backups=3, consistency="available") as cluster:
        answer = await browser.post(f"{cluster['n2'].url}/increment")
        assert (answer["n"], len(browser.backups)) == (1, 3)
        third = browser.backups[2]
        await cluster.kill(browser.primary, *browser.backups[:2])
        answer = await browser.post(f"{cluster[third].url}/increment")
        assert (answer.status, answer["n"], answer.node) == (200, 2, third)


async def test_a_node_that_the_cookie_does_not_name_serves(browser: Browser) -> None:
    """system 5 (d): by one hand-over while the primary lives, by one promotion when it is dead."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        (outside,) = set(cluster.names).difference(browser.route.servers)
        answer = await browser.post(f"{cluster[outside].url}/increment")
        assert (answer.status, answer["n"], answer.node) == (200, 2, outside)
        assert await cluster.counted("handovers") == 1
        assert await cluster.counted("promotions") == 0
        (other,) = set(cluster.names).difference(browser.route.servers)
        await cluster.kill(browser.primary)
        answer = await browser.post(f"{cluster[other].url}/increment")
        assert (answer.status, answer["n"], answer.node) == (200, 3, other)
        assert await cluster.counted("promotions") == 1


async def test_an_older_cookie_does_not_cost_a_promotion(browser: Browser) -> None:
    """contract, section 3: while the primary lives a group is handed over, also when the client's
    cookie still names the node that it asks (requests in parallel carry such cookies)."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        older = browser.copy()
        answer = await browser.post(f"{cluster['n2'].url}/increment")
        assert answer["n"] == 2
        answer = await older.post(f"{cluster['n1'].url}/increment")
        assert (answer.status, answer["n"], answer.node) == (200, 3, "n1")
        assert await cluster.counted("handovers") == 2
        assert await cluster.counted("promotions") == 0


async def test_a_router_goes_to_the_recovery_server_directly(browser: Browser) -> None:
    """system 5 (e): the request after the kill and the next ten reach the first backup that the
    cookie names; nobody has to hand anything over."""
    async with Cluster(3) as cluster:
        front = await routed(cluster, browser)
        await browser.post(f"{front}/increment")
        primary, backup = browser.route.servers
        await cluster.kill(primary)
        for expected in range(2, 13):
            answer = await browser.post(f"{front}/increment")
            assert (answer.status, answer.node, answer["n"]) == (200, backup, expected)
        assert await cluster.counted("handovers") == 0
        assert await cluster.counted("promotions") == 1


async def test_a_rolling_restart_behind_a_router_loses_nothing(
    http: aiohttp.ClientSession,
) -> None:
    """contract G11: every node is stopped and started in turn while clients write: no increment is
    lost, and no copy goes to a third node for good (system 7.6). Without draining a POST that
    meets the very moment of a stop is answered 502: it may have been executed, so nobody repeats
    it (R14)."""
    async with Cluster(3) as cluster:
        front = await routed(cluster, Browser(http))
        over = asyncio.Event()

        async def write(browser: Browser) -> int:
            done = unknown = 0
            while not over.is_set():
                answer = await browser.post(f"{front}/increment")
                if answer.status == 502:
                    unknown += 1
                    continue
                assert answer.status == 200
                assert done < answer["n"] <= done + 1 + unknown
                done, unknown = answer["n"], 0
            return done

        browsers = [Browser(http) for _ in range(4)]
        writing = [asyncio.create_task(write(browser)) for browser in browsers]
        for name in cluster.names:
            await cluster.terminate(name)
            await cluster.start(name)
        over.set()
        assert all(done > 3 for done in await asyncio.gather(*writing))
        for browser in browsers:
            copies = await cluster.copies(browser.group)
            assert set(copies) == set(browser.route.servers)
            assert len(browser.route.servers) == 2


async def test_twenty_requests_at_once_take_the_session_over_once(browser: Browser) -> None:
    """system 5 (f): all are answered from the session, and the group is promoted one time."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        before = browser.route.position.epoch
        backup = browser.backups[0]
        await cluster.kill(browser.primary)
        answers = await asyncio.gather(
            *(browser.copy().get(f"{cluster[backup].url}/read") for _ in range(20))
        )
        assert [(answer.status, answer.session) for answer in answers] == [(200, {"n": 1})] * 20
        assert await cluster.counted("promotions") == 1
        assert await cluster.counted("handovers") == 0
        after = (await cluster.copies(browser.group))[backup]["epoch"]
        assert Epoch(*after) > before
        assert after[2] == backup


async def test_survivors_that_are_asked_at_once_agree(browser: Browser) -> None:
    """system 5 (f): the same through both survivors at once: every answer is right, nothing is
    lost, and one of them is primary in the end."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        await cluster.kill(browser.primary)
        living = cluster.living
        answers = await asyncio.gather(
            *(
                browser.copy().post(f"{cluster[living[turn % 2]].url}/put", token=f"t{turn}")
                for turn in range(20)
            )
        )
        assert [answer.status for answer in answers] == [200] * 20
        answer = await browser.get(f"{cluster[living[0]].url}/read")
        assert answer.session == {"n": 1} | {f"t{turn}": True for turn in range(20)}
        copies = await cluster.copies(browser.group)
        assert len({tuple(copy["epoch"]) for copy in copies.values()}) == 1


async def test_copies_are_back_after_a_write_and_the_dead_node_is_out_of_the_cookie(
    browser: Browser,
) -> None:
    """system 5 (g): two backups again, both living, without waiting for the healing delay."""
    async with Cluster(4, backups=2) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        dead = browser.primary
        await cluster.kill(dead)
        answer = await browser.post(f"{cluster[browser.backups[0]].url}/increment")
        assert answer["n"] == 2
        assert dead not in browser.route.servers
        assert len(browser.backups) == 2
        assert "sessionha-copies" not in answer.headers
        copies = await cluster.copies(browser.group)
        assert set(copies) == set(browser.route.servers)


async def test_an_old_primary_that_returns_never_serves_its_older_data(browser: Browser) -> None:
    """system 5 (h): it kept its store; asked first, it answers with what was written meanwhile."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        old = browser.primary
        stale = browser.copy()
        await cluster.kill(old)
        await browser.post(f"{cluster[browser.backups[0]].url}/increment")
        await cluster.start(old)
        # Also for a client whose cookie is as old as the data.
        answer = await stale.get(f"{cluster[old].url}/read")
        assert (answer.status, answer.session, answer.node) == (200, {"n": 2}, old)


async def test_older_data_alone_is_refused_not_served(browser: Browser) -> None:
    """system 5 (h): every node that has the newer state is dead: 503, not the older state; when
    they are back, the newest."""
    async with Cluster(3, consistency="available") as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        old = browser.primary
        await cluster.kill(old)
        await browser.post(f"{cluster[browser.backups[0]].url}/increment")
        assert old not in browser.route.servers
        newer = cluster.living
        await cluster.kill(*newer)
        await cluster.start(old)
        answer = await browser.get(f"{cluster[old].url}/read")
        assert answer.status == 503
        assert "retry-after" in {name.lower() for name in answer.headers}
        await cluster.start(*newer)
        answer = await browser.get(f"{cluster[old].url}/read")
        assert (answer.status, answer.session) == (200, {"n": 2})


async def test_a_paused_primary_that_wakes_up_does_not_serve_what_it_has(browser: Browser) -> None:
    """system 5 (h): stopped, replaced, continued: its first answer is the newer state or 503."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        old = browser.primary
        stale = browser.copy()
        cluster.freeze(old)
        answer = await browser.post(f"{cluster[browser.backups[0]].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
        cluster.thaw(old)
        answer = await stale.get(f"{cluster[old].url}/read")
        assert answer.status == 503 or answer.session == {"n": 2}
        await cluster.settled()
        answer = await stale.get(f"{cluster[old].url}/read")
        assert (answer.status, answer.session) == (200, {"n": 2})


async def test_thirty_requests_of_one_browser_through_all_nodes_lose_nothing(
    browser: Browser,
) -> None:
    """system 5 (i): each writes an element of its own; none is lost, and the session's ID stays."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")

        async def put(turn: int) -> Answer:
            url = cluster[cluster.names[turn % 3]].url
            return await browser.copy().post(f"{url}/put", token=f"t{turn}")

        answers = await asyncio.gather(*(put(turn) for turn in range(30)))
        assert [answer.status for answer in answers] == [200] * 30
        assert not [answer for answer in answers if SESSION in answer.cookies]
        answer = await browser.get(f"{cluster['n2'].url}/read")
        assert answer.session == {"n": 1} | {f"t{turn}": True for turn in range(30)}


async def test_a_change_is_kept_when_its_session_goes_elsewhere_meanwhile(
    browser: Browser,
) -> None:
    """A slow request loses the group to another node before its commit: the primary of then
    merges its change (contract, R5)."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        slow_browser = browser.copy()
        slow = asyncio.create_task(
            slow_browser.post(f"{cluster['n1'].url}/slow", gate="g", token="slow")
        )

        async def waits() -> bool:
            answer = await Browser(browser.http).get(f"{cluster['n1'].url}/waiting", gate="g")
            return bool(answer["waiting"])

        await until("the slow request has begun", waits)
        answer = await browser.post(f"{cluster['n2'].url}/put", token="quick")
        assert (answer.status, answer.node) == (200, "n2")
        await Browser(browser.http).post(f"{cluster['n1'].url}/open", gate="g")
        answer = await slow
        assert answer.status == 200
        assert slow_browser.route.servers == ("n2", "n1")
        answer = await browser.get(f"{cluster['n3'].url}/read")
        assert answer.session == {"n": 1, "quick": True, "slow": True}


async def test_log_out_outlives_a_failover(browser: Browser) -> None:
    """system 5 (j): the old cookies find nothing on any survivor, and nothing comes back with the
    server that held it."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/log-in", user="ann")
        thief = browser.copy()
        primary = browser.primary
        answer = await browser.post(f"{cluster[primary].url}/log-out")
        assert answer.status == 200
        assert SESSION not in browser.cookies
        await cluster.kill(primary)
        for name in cluster.living:
            answer = await thief.copy().get(f"{cluster[name].url}/read")
            assert (answer.status, answer.session) == (200, {})
        await cluster.start(primary)
        answer = await thief.copy().get(f"{cluster[primary].url}/read")
        assert (answer.status, answer.session) == (200, {})


async def test_log_in_gives_a_new_id_that_outlives_a_failover(browser: Browser) -> None:
    """The renewed session is on the backup as well, and its old ID is valid nowhere (I16)."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        before = browser.copy()
        answer = await browser.post(f"{cluster['n1'].url}/log-in", user="ann")
        assert SESSION in answer.cookies
        await cluster.kill("n1")
        for name in cluster.living:
            answer = await browser.get(f"{cluster[name].url}/read")
            assert (answer.status, answer.session) == (200, {"n": 1, "user": "ann"})
            answer = await before.copy().get(f"{cluster[name].url}/read")
            assert (answer.status, answer.session) == (200, {})


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
async def test_a_forged_cookie_that_names_an_outside_host_connects_to_nobody(
    browser: Browser, signed: bool
) -> None:
    """system 5 (k): also when the route bears the cluster's own signature, an address in it is
    only a name, which no member of the view has."""
    asked: list[str] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(str(writer.get_extra_info("peername")))
        writer.close()

    outside = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with outside, Cluster(2) as cluster:
        host, port = outside.sockets[0].getsockname()
        await browser.post(f"{cluster['n1'].url}/increment")
        epoch = browser.route.position.epoch
        address = f"{host}:{port}"
        forged = browser.route._replace(
            servers=(f"{host.replace('.', '-')}-{port}"[:16], "n2"),
            position=Position(Epoch(epoch.view, epoch.attempt, address), 1),
        )
        text = ROUTES.write(forged)
        if not signed:
            text = text[:-43] + "A" * 43
        for name in cluster.names:
            visitor = browser.copy()
            visitor.cookies[ROUTE] = text
            answer = await visitor.get(f"{cluster[name].url}/read")
            if not signed:
                assert (answer.status, answer.session) == (200, {"n": 1})
                told = await cluster.ask(name)
                assert told["affinity"]["refused"] == 1
        assert asked == []


async def test_a_stopped_backup_is_waited_for_and_then_replaced(browser: Browser) -> None:
    """system 5 (m): the request succeeds without it, after one view change, and its cookie names
    the replacement; what was told is true in the stores."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        primary, stopped = browser.route.servers
        (other,) = set(cluster.names).difference(browser.route.servers)
        view = (await cluster.ask(primary))["view"]
        cluster.freeze(stopped)
        answer = await browser.post(f"{cluster[primary].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
        assert browser.route.servers == (primary, other)
        told = await cluster.ask(primary, browser.group)
        assert (told["view"][0], told["copy"]["holders"]) == (view[0] + 1, [primary, other])
        replaced = (await cluster.ask(other, browser.group))["copy"]
        assert elements(replaced) == elements(told["copy"])
        cluster.thaw(stopped)
        await cluster.settled()
        answer = await browser.get(f"{cluster[stopped].url}/read")
        assert answer.session == {"n": 2}


async def test_a_commit_that_runs_out_of_time_is_503_and_never_fewer_copies_than_told(
    browser: Browser,
) -> None:
    """system 5 (m): its deadline ends before the stopped backup leaves the view: the outcome is
    unknown, the browser keeps its cookies, and in the end there is one history on all holders."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        primary, stopped = browser.route.servers
        before = dict(browser.cookies)
        await Browser(browser.http).post(f"{cluster[primary].url}/impatient", seconds="0.3")
        cluster.freeze(stopped)
        answer = await browser.post(f"{cluster[primary].url}/increment")
        assert (answer.status, answer.cookies) == (503, ())
        assert browser.cookies == before
        cluster.thaw(stopped)
        await cluster.settled()

        async def answered() -> bool:
            return (await browser.get(f"{cluster[primary].url}/read")).status == 200

        await until("the session is served again", answered)
        answer = await browser.post(f"{cluster[primary].url}/increment")
        assert answer["n"] in (2, 3)
        copies = await cluster.copies(browser.group)
        assert set(copies) == set(browser.route.servers)
        assert len({str(elements(copy)) for copy in copies.values()}) == 1


async def test_a_commit_never_succeeds_with_fewer_copies_than_the_least(browser: Browser) -> None:
    """system 5 (m), contract G1: with `min_copies` = 1 a pair whose other half stops answers 503;
    it serves again when that is back."""
    async with Cluster(2, min_copies=1) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        cluster.freeze("n2")
        first = await browser.post(f"{cluster['n1'].url}/increment")
        second = await browser.post(f"{cluster['n1'].url}/increment")
        assert (first.status, second.status) == (503, 503)
        cluster.thaw("n2")
        await cluster.settled()
        answer = await browser.post(f"{cluster['n1'].url}/increment")
        assert answer.status == 200
        assert answer["n"] in (2, 3)


async def test_fewer_copies_are_told(browser: Browser) -> None:
    """contract G1: alone, a node goes on serving (`min_copies` = 0) and says `copies` = 0."""
    async with Cluster(2) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        await cluster.kill("n2")
        answer = await browser.post(f"{cluster['n1'].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
        assert answer.headers.get("sessionha-copies") == "0"
        assert browser.route.servers == ("n1",)
