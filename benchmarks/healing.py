"""How long three nodes take to have all copies again after one was killed under load, what that
moves, and what requests notice of it; the same with two simpler ways of locking, side by side.

The nodes are those of the live tests: uvicorn processes on loopback. Clients change sessions of
their own all the time; a third of the groups had a copy on the node that dies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import figures, locking
from benchmarks.processes import NotStarted, Processes
from demo_app.accounting import percentile
from tests.live.clients import Browser
from tests.live.cluster import Cluster, Unexpected, until

TEXT = "x" * 4_000
"""About 4 KB with what surrounds it."""
SEEDERS = 16
"""Requests in flight while the sessions are made."""
CLIENTS = 16
"""Clients that go on changing their sessions meanwhile: as many domains of 256 are asked for."""
BREATH = 0.08
"""Seconds between two requests of one of them: the machine also runs the nodes."""
HEAL_AFTER = 5.0
"""Seconds: the load without healing, but without the dead node, is measured in these."""
QUIET = 10.0
"""Seconds of load before the death."""
PATIENCE = 1_800.0
"""Seconds after which a healing that has not ended is given up."""
MEMORY_GOAL = 32 * 2**20
"""Bytes by which the private memory of a source may grow."""


class Load:
    """Clients at work; what each request took, by when it began."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self.took: list[tuple[float, float]] = []
        self.failures = 0
        self.ends = False

    async def client(self, http: aiohttp.ClientSession, turn: int) -> None:
        """Change one session until it ends; a node that refuses is left for the next."""
        browser = Browser(http)
        while not self.ends:
            began = time.monotonic()
            try:
                answer = await browser.post(f"{self._urls[turn % len(self._urls)]}/increment")
                self.failures += answer.status != 200
                self.took.append((began, time.monotonic() - began))
            except aiohttp.ClientError:
                turn += 1
            await asyncio.sleep(BREATH)

    def between(self, begin: float, end: float) -> dict[str, float]:
        """Milliseconds: the 50th and 99th percentile and the longest, of what was asked then, even
        if it was answered later."""
        took = [
            seconds * 1000
            for began, seconds in self.took
            if began < end and began + seconds > begin
        ]
        words = {"p50_ms": 50, "p99_ms": 99, "max_ms": 100}
        found = {name: percentile(took, percent) or 0.0 for name, percent in words.items()}
        return {name: round(value, 1) for name, value in found.items()} | {"requests": len(took)}


@asynccontextmanager
async def _under_load(load: Load, http: aiohttp.ClientSession) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as clients:
        for turn in range(CLIENTS):
            clients.create_task(load.client(http, turn))
        try:
            yield
        finally:
            load.ends = True


async def _seed(cluster: Cluster, http: aiohttp.ClientSession, count: int) -> int:
    """Make sessions, as many on each node; how many of them have a copy on n3."""
    urls = [cluster[name].url for name in cluster.names]
    turns = iter(range(count))
    held = 0

    async def make() -> None:
        nonlocal held
        for turn in turns:
            browser = Browser(http)
            answer = await browser.post(f"{urls[turn % len(urls)]}/append", token=TEXT)
            if answer.status != 200:
                raise Unexpected(f"a session could not be made: {answer.status}")
            held += "n3" in browser.route.servers

    await asyncio.gather(*(make() for _ in range(SEEDERS)))
    return held


def _private(pid: int) -> int:
    """Bytes of memory that are a process's own: the store is shared."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


async def heal(way: str, count: int) -> dict[str, Any]:
    """Make, kill, wait, measure."""
    size = max(64, count * 3 * 5_000 // 2**20)
    cluster = Cluster(3, heal_after=HEAL_AFTER, consistency="available", store_size=f"{size}MiB")
    cluster.application = locking.WAYS[way]
    connector = aiohttp.TCPConnector(limit=0)
    jar = aiohttp.DummyCookieJar()
    async with cluster, aiohttp.ClientSession(connector=connector, cookie_jar=jar) as http:
        expected = await _seed(cluster, http, count)
        sources = [(await cluster.ask(name))["pid"] for name in ("n1", "n2")]
        load = Load([cluster["n1"].url, cluster["n2"].url])
        async with _under_load(load, http):
            begun = time.monotonic()
            await asyncio.sleep(QUIET)
            killed = time.monotonic()
            await cluster.kill("n3")
            before = [_private(pid) for pid in sources]
            peak = list(before)

            async def counted(goal: int) -> bool:
                for index, pid in enumerate(sources):
                    peak[index] = max(peak[index], _private(pid))
                return await cluster.counted("healed") >= goal

            await until("the healing has begun", lambda: counted(1), HEAL_AFTER + 60)
            began = time.monotonic()
            await until("all copies are there", lambda: counted(expected), PATIENCE)
            ended = time.monotonic()
        waits = await cluster.counted("domain_waits")
        waited = await cluster.counted("domain_waited")
        return {
            "copies_made": expected,
            "bytes": expected * len(TEXT),
            "begun_after_s": round(began - killed, 2),
            "healing_s": round(ended - began, 2),
            "quiet": load.between(begun, killed - 1),
            "healing": load.between(began, ended),
            "refused": load.failures,
            "domain_waits": waits,
            "domain_waited_ms": waited,
            "memory_growth": max(now - then for now, then in zip(peak, before, strict=True)),
            "memory_goal": MEMORY_GOAL,
        }


def text(told: dict[str, Any]) -> str:
    """The tables."""
    healing = [_row(way, found, "healing") for way, found in told["ways"].items()]
    quiet = [_row(way, found, "quiet") for way, found in told["ways"].items()]
    lines = [_line(way, told["groups"], found) for way, found in told["ways"].items()]
    columns = ["requests", "p50", "p99", "longest"]
    return "\n".join(
        [
            *lines,
            f"(`heal_after` {HEAL_AFTER:g} s)\n",
            figures.table(["changes of sessions during the healing (ms)", *columns], healing),
            figures.table(["before the death", *columns], quiet),
        ]
    )


def _row(way: str, found: dict[str, Any], when: str) -> list[str]:
    words = ("requests", "p50_ms", "p99_ms", "max_ms")
    return [way, *(str(found[when][word]) for word in words)]


def _line(way: str, groups: int, found: dict[str, Any]) -> str:
    growth, goal = found["memory_growth"], found["memory_goal"]
    verdict = "met" if growth < goal else "MISSED"
    return (
        f"{way}: {found['copies_made']} copies of {groups} groups,"
        f" {found['bytes'] / 2**20:.1f} MiB of values, made in {found['healing_s']} s, begun"
        f" {found['begun_after_s']} s after the death; {found['domain_waits']} requests waited for"
        f" a lock, {found['domain_waited_ms']} ms in all; {found['refused']} were refused; a source"
        f" grew by {growth / 2**20:.1f} MiB ({verdict}: {goal / 2**20:.0f})"
    )


def main(count: int, *, quiet: bool, save: bool) -> int:
    """Measure and print.

    Raises:
        NotStarted: the nodes did not do what they should.
    """
    told: dict[str, Any] = {"groups": count, "ways": {}}
    with Processes() as processes:
        try:
            for way in locking.WAYS:
                told["ways"][way] = asyncio.run(heal(way, count))
        except Unexpected as error:
            raise NotStarted(str(error)) from error
    told["machine"] = figures.machine()
    told["others_cores"] = figures.significant(processes.others, 2)
    table = text(told) + figures.disturbed(processes.others)
    figures.publish("healing", told, table, quiet=quiet, save=save)
    return 0
