"""The contract of applications that have no framework."""

from __future__ import annotations

import sys

import aiohttp
import pytest

from tests.contract.claims import Contract
from tests.contract.site import FIRST, SECOND, ContractCluster, Site, gthread, uvicorn, uwsgi
from tests.live.cluster import until


class TestASGI(Contract):
    command = uvicorn("asgi_app:app")


class TestWSGI(Contract):
    command = gthread("wsgi_app:app")


class TestWSGIUnderUWSGI(Contract):
    command = uwsgi("uwsgi_app:app")


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux")
async def test_uwsgi_that_lets_no_threads_run_is_refused_by_the_option_to_set() -> None:
    """By each worker when it starts, and by each request."""
    told = "start it with the option `enable-threads`"
    command = uwsgi("uwsgi_app:app", "--catch-exceptions")
    async with (
        ContractCluster(command, late=["n1", "n2"]) as cluster,
        aiohttp.ClientSession() as http,
    ):
        cluster.launch(FIRST)

        async def refused() -> bool:
            return told in cluster.output

        await until("the worker is refused", refused)
        answer = await Site(cluster, http).visitor().ask("count")
        assert (answer.status, told in answer.body) == (500, True)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux")
async def test_a_node_of_uwsgi_that_is_stopped_hands_its_groups_over() -> None:
    """Its worker ends with a goodbye: nobody has to find out that it is dead."""
    async with (
        ContractCluster(uwsgi("uwsgi_app:app")) as cluster,
        aiohttp.ClientSession() as http,
    ):
        visitor = Site(cluster, http).visitor()
        await visitor.get("count", node=FIRST)
        await cluster.terminate(FIRST)
        assert await visitor.get("count", node=SECOND) == {"n": 2}
        counts = await cluster.counts(SECOND)
        assert (counts["handovers"], counts["promotions"]) == (1, 0)
