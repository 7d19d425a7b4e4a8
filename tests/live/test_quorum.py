"""Contract G9 with real processes: only a majority of the configured nodes serves."""

from __future__ import annotations

from typing import Any

from tests.live.clients import Browser
from tests.live.cluster import Cluster, until

MANNER: dict[str, Any] = {"consistency": "quorum", "health_path": "/"}


async def ready(cluster: Cluster, browser: Browser, name: str, status: int) -> None:
    """Wait until `/readyz` of the node says this."""

    async def says() -> bool:
        return (await browser.copy().get(f"{cluster[name].url}/readyz")).status == status

    await until(f"{name} answers /readyz with {status}", says)


async def test_a_minority_answers_503_and_a_majority_goes_on(browser: Browser) -> None:
    """system 3 (k), G9: what two of three wrote while the third stood still is there after it, and
    one that hears nobody serves no session, and says so."""
    async with Cluster(3, **MANNER) as cluster:
        for name in cluster.names:
            await ready(cluster, browser, name, 200)
        answer = await browser.post(f"{cluster['n3'].url}/increment")
        assert (answer.status, answer["n"]) == (200, 1)
        stale = browser.copy()

        cluster.freeze("n3")
        await cluster.settled(["n1", "n2"])
        answer = await browser.post(f"{cluster['n1'].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
        cluster.thaw("n3")
        answer = await stale.get(f"{cluster['n3'].url}/read")
        assert answer.status == 503 or answer.session == {"n": 2}
        await cluster.settled()
        assert (await stale.get(f"{cluster['n3'].url}/read")).session == {"n": 2}

        cluster.freeze("n2")
        cluster.freeze("n3")
        await ready(cluster, browser, "n1", 503)
        answer = await browser.get(f"{cluster['n1'].url}/read")
        assert (answer.status, int(answer.headers["Retry-After"]) > 0) == (503, True)
        assert (await browser.post(f"{cluster['n1'].url}/increment")).status == 503
        assert (await browser.copy().get(f"{cluster['n1'].url}/who")).status == 200
        assert (await browser.copy().get(f"{cluster['n1'].url}/healthz")).status == 200
        cluster.thaw("n2")
        cluster.thaw("n3")
        await cluster.settled()
        for name in cluster.names:
            await ready(cluster, browser, name, 200)
            assert (await browser.get(f"{cluster[name].url}/read")).session == {"n": 2}


async def test_a_dead_node_costs_no_majority_and_all_may_die_at_once(browser: Browser) -> None:
    """R2a, R7: a death by proof is decided at once by those who are left; a whole cluster that is
    killed goes on with what its stores kept, and without stores with what its votes say."""
    async with Cluster(3, workers=2, **MANNER) as cluster:
        answer = await browser.post(f"{cluster['n1'].url}/increment")
        await cluster.kill("n1")
        await cluster.settled()
        answer = await browser.post(f"{cluster['n2'].url}/increment")
        assert (answer.status, answer["n"]) == (200, 2)
        await cluster.start("n1")

        await cluster.kill(*cluster.names)
        await cluster.start(*cluster.names)

        async def served() -> bool:
            answer = await browser.get(f"{cluster['n3'].url}/read")
            return answer.status == 200 and answer.session == {"n": 2}

        await until("the session is there again", served)

        number = (await cluster.ask("n1"))["view"][0]
        await cluster.kill(*cluster.names)
        for name in cluster.names:
            cluster.lose_store(name)
        await cluster.start(*cluster.names)
        assert (await cluster.ask("n1"))["view"][0] > number
        for name in cluster.names:
            await ready(cluster, browser, name, 200)
        fresh = Browser(browser.http)
        answer = await fresh.post(f"{cluster['n2'].url}/increment")
        assert (answer.status, answer["n"]) == (200, 1)


async def test_the_first_of_three_waits_for_the_others(browser: Browser) -> None:
    """system 3: in quorum mode the first alone is live, not ready, and says whom it waits for."""
    async with Cluster(3, late=("n1", "n2", "n3"), **MANNER) as cluster:
        cluster.launch("n1")

        async def says_whom() -> bool:
            return "missing n2, n3" in cluster["n1"].output

        await until("n1 says whom it waits for", says_whom)
        assert (await browser.get(f"{cluster['n1'].url}/healthz")).status == 200
        assert (await browser.get(f"{cluster['n1'].url}/readyz")).status == 503
        cluster.launch("n2")
        cluster.launch("n3")
        await cluster.settled(cluster.names)
        await ready(cluster, browser, "n1", 200)
