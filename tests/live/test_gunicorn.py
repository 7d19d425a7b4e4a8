"""gunicorn with its own workers and those of uvicorn, and the hooks of `sessionha.gunicorn`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterable

import aiohttp
import pytest

from demo_app.processes import rows
from tests.live.clients import Browser, RoundRobin
from tests.live.cluster import READY, Cluster, Server, free_port, until

WSGI = "tests.live.doors:wsgi"
ASGI = "tests.live.doors:asgi"


class GunicornCluster(Cluster):
    """Nodes that gunicorn serves. They are watched through their metrics: no request is made."""

    def __init__(self, nodes: int, application: str, *options: str, workers: int = 1) -> None:
        super().__init__(nodes, workers=workers)
        self._options = [*options, application]
        self._admin = {name: f"127.0.0.1:{free_port()}" for name in self.servers}
        for name, server in self.servers.items():
            server.environment["SESSIONHA_ADMIN"] = self._admin[name]

    def _launch(self, server: Server) -> None:
        command = [sys.executable, "-m", "gunicorn", "--config", "python:sessionha.gunicorn"]
        command += ["--bind", f"127.0.0.1:{server.port}", "--workers", str(server.workers)]
        command += ["--no-control-socket", *self._options]
        server.group = self.watchdog.spawn(command, server.environment, server.log)

    def workers(self, name: str) -> list[int]:
        group = self.servers[name].group
        assert group is not None, f"{name} runs"
        return [row.pid for row in rows() if row.parent == group.pid and row.alive]

    async def settled(self, names: Iterable[str] | None = None) -> None:
        expected = set(self.living if names is None else names)

        async def agreed() -> bool:
            told = await asyncio.gather(*(self.gauges(name) for name in expected))
            return all(
                gauges.get("members") == len(expected)
                and gauges.get("engines") == self.servers[name].workers
                for name, gauges in zip(expected, told, strict=True)
            )

        await until(f"{sorted(expected)} are the members", agreed, READY)

    async def gauges(self, name: str) -> dict[str, float]:
        """What the node's metrics say; empty while they do not answer."""
        assert self._http is not None, "entered"
        try:
            async with self._http.get(f"http://{self._admin[name]}/metrics") as response:
                text = await response.text()
        except aiohttp.ClientError:
            return {}
        found = re.findall(r"^sessionha_(members|engines) (\S+)$", text, re.MULTILINE)
        return {gauge: float(value) for gauge, value in found}


@pytest.mark.parametrize(
    "options",
    [
        ("--worker-class", "sync", "--preload", "--max-requests", "9"),
        ("--worker-class", "gthread", "--threads", "4"),
    ],
    ids=["sync", "gthread"],
)
async def test_nothing_is_lost_when_workers_come_and_go_and_a_node_dies(
    browser: Browser, options: tuple[str, ...]
) -> None:
    """Killed with -9, recycled after some requests, added, taken away and reloaded."""
    async with GunicornCluster(2, WSGI, *options, workers=2) as cluster:
        balancer = RoundRobin([server.url for server in cluster.servers.values()])
        done = 0

        async def count(times: int = 1) -> int:
            nonlocal done
            pid = 0
            for _ in range(times):
                answer = await balancer.post(browser, "/increment")
                done += 1
                assert (answer.status, answer["n"]) == (200, done)
                pid = answer["pid"]
            return pid

        await count(10)
        for _ in range(2):
            os.kill(await count(), signal.SIGKILL)
            await count(4)
        before = set(cluster.workers("n1"))
        for number, workers in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGHUP, 2)):
            cluster.notify("n1", number)
            old = before if number == signal.SIGHUP else set()

            # No request meanwhile: a leaving worker of gunicorn resets what it has not read.
            async def changed(number: int = workers, old: set[int] = old) -> bool:
                found = cluster.workers("n1")
                return len(found) == number and old.isdisjoint(found)

            await until(f"{number.name} has changed the workers", changed)
            await count(4)
            before = set(cluster.workers("n1"))
        await cluster.settled()
        await cluster.kill("n1")
        await count(4)


@pytest.mark.parametrize("kind", ["gthread", "uvicorn_worker.UvicornWorker", "asgi"])
async def test_nodes_that_never_had_a_request_are_members_of_one_view(
    browser: Browser, kind: str
) -> None:
    """A node must be a member before its first request, whatever kind of worker it has."""
    application = WSGI if kind == "gthread" else ASGI
    async with GunicornCluster(3, application, "--worker-class", kind) as cluster:
        for number, server in enumerate(cluster.servers.values(), 1):
            answer = await browser.post(f"{server.url}/increment")
            assert (answer.node, answer["n"]) == (server.name, number)
        await cluster.terminate("n3")
        await cluster.settled()
