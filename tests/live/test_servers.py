"""Nodes under the servers that people use: their workers come and go, the node stays."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from demo_app.processes import rows
from sessionha.session.cookies import Route
from tests.live.clients import Answer, Browser
from tests.live.cluster import POLL, READY, SOON, Cluster, Server, free_port, until

WSGI = "tests.live.doors:wsgi"
ASGI = "tests.live.doors:asgi"

UVICORN = ["uvicorn", "--no-access-log"]
GUNICORN = ["gunicorn", "--config", "python:sessionha.gunicorn", "--no-control-socket"]
RECYCLED = [*GUNICORN, "--max-requests", "150", "--max-requests-jitter", "150"]
"""Seldom enough that hardly ever all workers end at once: the node might leave, and return."""

KINDS = {
    "uvicorn": [*UVICORN, "--timeout-worker-healthcheck", "30", ASGI],
    "gunicorn-uvicorn": [*RECYCLED, "--worker-class", "uvicorn_worker.UvicornWorker", ASGI],
    "gunicorn-asgi": [*RECYCLED, "--worker-class", "asgi", "--preload", ASGI],
    "gunicorn-sync": [*RECYCLED, "--worker-class", "sync", "--preload", WSGI],
    "gunicorn-gevent": [*RECYCLED, "--worker-class", "gevent", WSGI],
    "gunicorn-gthread": [
        *RECYCLED,
        "--worker-class",
        "gthread",
        "--threads",
        "4",
        "--preload",
        WSGI,
    ],
}

DAY = int(os.environ.get("SERVERS_DAY", time.time() // 86_400))
QUIET = ("gunicorn-gthread", "gunicorn-uvicorn", "gunicorn-asgi")
"""Of which nobody has to be asked before they are members; one of them is tried every day."""


SLOW = ("gunicorn-gevent",)
"""Its old workers wait for their clients' connections; only the full check (LIVE_ROUNDS) has it."""
FULL = "LIVE_ROUNDS" in os.environ

PATIENT = {
    "heartbeat": 1,
    "suspect_after": 4,
    "confirm_after": 4,
    "commit_timeout": 10,
    "acquire_timeout": 10,
}
"""A node whose address refuses is dead at once all the same; silence may be a busy machine's."""


class ServedCluster(Cluster):
    """Nodes of any server. They are watched through their metrics: no request is made."""

    def __init__(
        self, nodes: int, command: Sequence[str], workers: int = 1, late: Collection[str] = ()
    ) -> None:
        super().__init__(nodes, workers=workers, late=late)
        self.tell(**PATIENT)
        self._command = list(command)
        self.admin = {name: f"127.0.0.1:{free_port()}" for name in self.servers}
        for name, server in self.servers.items():
            server.environment["SESSIONHA_ADMIN"] = self.admin[name]

    def _launch(self, server: Server) -> None:
        program, *options, application = self._command
        command = [sys.executable, "-m", program, *options, "--workers", str(server.workers)]
        if program == "uvicorn":
            command += ["--port", str(server.port)]
        elif program == "uwsgi":
            command[:3] = [str(Path(sys.executable).with_name(program))]
            command += ["--http-socket", f"127.0.0.1:{server.port}", "--module"]
        else:
            command += ["--bind", f"127.0.0.1:{server.port}"]
        server.group = self.watchdog.spawn([*command, application], server.environment, server.log)

    def workers(self, name: str) -> list[int]:
        group = self.servers[name].group
        assert group is not None, f"{name} runs"
        if self._command[0] == "uvicorn":
            return group.workers()
        return [row.pid for row in rows() if row.parent == group.pid and row.alive]

    async def changed(self, name: str, number: int, without: Collection[int] = ()) -> None:
        """Wait until the server of this node has so many workers, and none of those."""

        async def has_them() -> bool:
            found = self.workers(name)
            return len(found) == number and not set(without).intersection(found)

        await until(f"{name} has {number} workers", has_them, READY)

    async def settled(self, names: Iterable[str] | None = None) -> None:
        expected = set(self.living if names is None else names)

        async def agreed() -> bool:
            told = await asyncio.gather(*(self.metrics(name) for name in expected))
            return all(
                metrics.get("members") == len(expected)
                and metrics.get("engines") == self.servers[name].workers
                for name, metrics in zip(expected, told, strict=True)
            )

        await until(f"{sorted(expected)} are the members", agreed, READY)

    async def metrics(self, name: str) -> dict[str, float]:
        """The node's counts and gauges without labels; empty while nobody tells them."""
        assert self._http is not None, "entered"
        try:
            async with self._http.get(f"http://{self.admin[name]}/metrics") as response:
                text = await response.text()
        except aiohttp.ClientError:
            return {}
        found: list[tuple[str, str]] = re.findall(
            r"^sessionha_(\w+?)(?:_total)? (\S+)$", text, re.MULTILINE
        )
        return {name: float(value) for name, value in found}

    async def counts(self, name: str) -> dict[str, float]:
        """The same, once somebody tells them: the worker that does may be exchanged just now."""
        found: dict[str, float] = {}

        async def told() -> bool:
            nonlocal found
            found = await self.metrics(name)
            return bool(found)

        await until(f"{name} tells its counts", told)
        return found

    async def status(self, name: str) -> dict[str, Any]:
        """What `sessionha status` says."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sessionha", "status", "--json"),
            *("--url", f"http://{self.admin[name]}"),
            env=self.servers[name].environment,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        found: dict[str, Any] = json.loads(told)
        return found


class Writer:
    """A client that writes one number after the other, as fast as it can, through one node."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._browser = Browser(http)
        self._url = url
        self._expected: dict[str, str] = {}
        self.done = 0
        self.epochs: set[object] = set()
        """Those that its group was ever in."""

    @property
    def route(self) -> Route:
        return self._browser.route

    async def write(self) -> None:
        """The next number; again after a connection that its server broke, as it may: a worker
        that ends resets what it has not read. Every answer must show all that was written."""
        name, number = f"e{self.done % 20}", str(self.done)
        self._expected[name] = number
        await self.put(self._url, **{name: number})
        self.done += 1

    async def put(self, url: str, **elements: str) -> None:
        async with asyncio.timeout(SOON):
            while (  # noqa: ASYNC110 (other processes do not tell)
                answer := await self._answer(f"{url}/put", elements)
            ) is None:
                await asyncio.sleep(POLL)
        assert (answer.status, answer.session) == (200, self._expected), answer
        self.epochs.add(self.route.position.epoch)

    async def _answer(self, url: str, elements: dict[str, str]) -> Answer | None:
        try:
            return await self._browser.request("PUT", url, **elements)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            return None

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.write()


async def all_write(writers: Sequence[Writer]) -> None:
    """Wait until each has had an answer to what it began after now."""
    goals = [(writer, writer.done + 2) for writer in writers]

    async def done() -> bool:
        return all(writer.done >= goal for writer, goal in goals)

    await until("every client has written", done)


@asynccontextmanager
async def load(writers: Sequence[Writer]) -> AsyncIterator[None]:
    """While all of them write."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.run(stop))
        try:
            yield
        finally:
            stop.set()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SLOW or FULL])
async def test_workers_come_and_go_under_load_and_the_node_stays(
    http: aiohttp.ClientSession, kind: str
) -> None:
    """Killed with -9, added, taken away, reloaded all at once, under gunicorn recycled after some
    requests as well: nothing is lost, no request fails, and no other node takes a group over. When
    all are stopped at once, the last one hands all groups over, and the node says goodbye."""
    number = 2 if kind == "uvicorn" else 4  # it reloads one after the other
    async with ServedCluster(2, KINDS[kind], workers=number) as cluster:
        writers = [Writer(http, cluster[name].url) for name in ("n1", "n1", "n1", "n2")]
        before = await cluster.counts("n2")

        async def several() -> bool:
            return (await cluster.metrics("n1")).get("engines", 0) >= 2

        async with load(writers):
            await all_write(writers)
            await until("several serve", several)
            victim = cluster.workers("n1")[0]
            os.kill(victim, signal.SIGKILL)
            await cluster.changed("n1", number, without={victim})
            await all_write(writers)
            for told, workers in ((signal.SIGTTIN, number + 1), (signal.SIGTTOU, number)):
                cluster.notify("n1", told)
                await cluster.changed("n1", workers)
                await all_write(writers)
            old = set(cluster.workers("n1"))
            cluster.notify("n1", signal.SIGHUP)
            await cluster.changed("n1", number, without=old)
            await all_write(writers)
        await cluster.settled()
        for name in ("n1", "n2"):
            metrics = await cluster.counts(name)
            assert metrics["view_number"] == before["view_number"]
            assert (metrics["handovers"], metrics["promotions"]) == (0, 0)
        await cluster.terminate("n1")
        await cluster.settled()
        assert ": left n1; members n2" in cluster["n2"].output  # not: failed n1
        assert "node n1 drained: others serve its 3 groups; it returns" in cluster["n1"].output
        for writer in writers:
            assert len(writer.epochs) == 1
            await writer.put(cluster["n2"].url)

        async def counted() -> bool:
            return (await cluster.metrics("n2")).get("handovers", 0) >= 3

        await until("the workers tell what they took over", counted)
        metrics = await cluster.counts("n2")
        assert (metrics["handovers"], metrics["promotions"]) == (3, 0)


@pytest.mark.parametrize("kind", [QUIET[DAY % len(QUIET)]])
async def test_nodes_that_never_had_a_request_are_members_and_get_their_copies(
    http: aiohttp.ClientSession, kind: str
) -> None:
    """A node is a member before its first request, and one that restarts has what was changed
    meanwhile without any, whatever worker it has."""
    async with ServedCluster(3, KINDS[kind]) as cluster:
        assert {each["node"] for each in (await cluster.status("n1"))["members"]} == {
            *cluster.names
        }
        writer = Writer(http, cluster["n1"].url)
        await writer.write()
        (backup,) = writer.route.servers[1:]
        (other,) = {*cluster.names}.difference(writer.route.servers)
        await cluster.kill(backup)
        await writer.write()
        await cluster.start(backup)

        async def caught_up() -> bool:
            return (await cluster.metrics("n1")).get("refilled", 0) > 0

        await until("the copy has what was written meanwhile", caught_up)
        await cluster.kill("n1")
        await writer.put(cluster[other].url)
        await cluster.terminate(other)
        await cluster.settled()
