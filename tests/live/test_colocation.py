"""System 4 with real processes: a client's sessions are on the same servers."""

from __future__ import annotations

from tests.live.clients import Browser
from tests.live.cluster import Cluster


async def test_the_recovery_server_has_all_sessions_of_its_clients(browser: Browser) -> None:
    """System 4 (e): kill -9 of the primary; the recovery server serves a request that uses three
    sessions and fetches nothing from another node."""
    async with Cluster(4, backups=2) as cluster:
        browsers = [browser, *(browser.copy() for _ in range(4))]
        for each in browsers:
            answer = await each.post(f"{cluster['n1'].url}/several")
            assert (answer["counts"], len(answer.cookies)) == ([1, 1, 1], 4)
        await cluster.kill("n1")
        for each in browsers:
            recovery = each.backups[0]
            answer = await each.post(f"{cluster[recovery].url}/several")
            assert (answer.status, answer["counts"], answer.node) == (200, [2, 2, 2], recovery)
        assert await cluster.counted("fetches") == 0
        assert await cluster.counted("handovers") == 0
        assert await cluster.counted("promotions") == len(browsers)
