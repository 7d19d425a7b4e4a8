"""Milliseconds from the death of one of five nodes until all the others have a view without it.

The nodes are those of the live tests: uvicorn processes, with the default times. They die in turn,
each in every way: SIGKILL, after which the host refuses what reaches the node; SIGSTOP, after which
nothing answers; and, with `--namespaces`, an unplugged cable. The end is when the last of the
others wrote into its log that it has the view.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, NamedTuple

from benchmarks import figures
from benchmarks.processes import NotStarted, Processes
from demo_app.accounting import percentile
from sessionha.topology.timing import Timing
from tests.live.cluster import SOON, Cluster, Unexpected, until
from tests.live.hosts import NAMES, five
from tests.live.namespaces import Network, Unavailable

REFUSED_GOAL = 300
"""Milliseconds for a death that the node's own host proves."""
SILENT_GOAL = 300
"""Milliseconds on top of `suspect_after` + `confirm_after` for one that only silence shows."""

INSTALLED = re.compile(r"^(\S+ \S+) \d+ INFO \S+ view \d.*; members (.*)$")
"""A line of a node's log: when, and who is in the view that it installed."""

Found = dict[str, list[float]]
"""By the way to die: milliseconds, one for each death."""


class Way(NamedTuple):
    """One way to die, and back."""

    die: Callable[[str], None]
    revive: Callable[[str], Awaitable[None]]


class Deaths:
    """A cluster whose nodes die and return."""

    def __init__(self, cluster: Cluster, network: Network | None) -> None:
        self._cluster = cluster
        self._network = network

    @property
    def ways(self) -> dict[str, Way]:
        """By their names in the report."""
        cluster, network = self._cluster, self._network

        async def thaw(name: str) -> None:
            cluster.thaw(name)

        async def restart(name: str) -> None:
            await cluster.kill(name)
            cluster.launch(name)

        ways = {
            "SIGKILL": Way(lambda name: cluster.notify(name, signal.SIGKILL), restart),
            "SIGSTOP": Way(cluster.freeze, thaw),
        }
        if network is not None:

            async def mend(_: str) -> None:
                network.mend()

            ways["unplugged"] = Way(lambda name: network.split([name], _others(name)), mend)
        return ways

    async def one(self, way: Way, victim: str) -> float:
        """Milliseconds until the last of the others is without the victim; it is back afterwards.

        Raises:
            Unexpected: they were not without it in time, or it did not return.
        """
        logs = {name: self._cluster[name].log for name in _others(victim)}
        ends = {name: log.stat().st_size for name, log in logs.items()}
        began = time.time()
        way.die(victim)
        times: dict[str, float] = {}

        async def all_know() -> bool:
            for name, log in logs.items():
                told = installed_without(victim, log.read_bytes()[ends[name] :].decode())
                times.update({} if told is None else {name: told})
            return len(times) == len(logs)

        await until(f"a view without {victim}", all_know, SOON)
        await way.revive(victim)
        await self._cluster.settled(NAMES)
        return (max(times.values()) - began) * 1000


def _others(victim: str) -> list[str]:
    return [name for name in NAMES if name != victim]


def installed_without(victim: str, log: str) -> float | None:
    """When, in seconds of the wall clock; None: not yet."""
    for line in log.splitlines():
        found = INSTALLED.match(line)
        if found is not None and victim not in found[2].split(", "):
            return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
    return None


async def deaths(rounds: int, *, namespaces: bool, consistency: str) -> Found:
    """Every node dies `rounds` times in each way."""
    async with AsyncExitStack() as stack:
        network = stack.enter_context(Network(NAMES)) if namespaces else None
        cluster = await stack.enter_async_context(five(network, consistency=consistency))
        every = Deaths(cluster, network)
        found: Found = {name: [] for name in every.ways}
        for _ in range(rounds):
            for victim in NAMES:
                for name, way in every.ways.items():
                    found[name].append(await every.one(way, victim))
        return found


def goal(way: str) -> float:
    """Milliseconds that the 99th percentile must not exceed."""
    if way == "SIGKILL":
        return REFUSED_GOAL
    timing = Timing()
    return timing.suspect_after + timing.confirm_after + SILENT_GOAL


def report(found: Found, consistency: str, *, namespaces: bool) -> dict[str, Any]:
    """The JSON: percentiles of milliseconds for each way to die."""
    return {
        "detection": {
            way: {
                "deaths": len(times),
                "p50_ms": _at(times, 50),
                "p99_ms": _at(times, 99),
                "max_ms": _at(times, 100),
                "goal_ms": goal(way),
                "met": _at(times, 99) <= goal(way),
            }
            for way, times in found.items()
        },
        "nodes": len(NAMES),
        "consistency": consistency,
        "namespaces": namespaces,
        "machine": figures.machine(),
    }


def _at(times: list[float], percent: float) -> float:
    at = percentile(times, percent)
    assert at is not None, "at least one death"
    return round(at, 1)


def text(told: dict[str, Any]) -> str:
    """The table."""
    header = ["ms until all the others know", "deaths", "p50", "p99", "max", "goal (p99)"]
    return figures.table(
        header,
        [
            [
                way,
                *(str(each[key]) for key in ("deaths", "p50_ms", "p99_ms", "max_ms")),
                f"{each['goal_ms']:g} {'met' if each['met'] else 'MISSED'}",
            ]
            for way, each in told["detection"].items()
        ],
    )


def main(rounds: int, *, namespaces: bool, consistency: str, quiet: bool, save: bool) -> int:
    """Measure and print.

    Raises:
        NotStarted: the nodes did not do what they should; or there are no namespaces here.
    """
    with Processes() as processes:
        try:
            found = asyncio.run(deaths(rounds, namespaces=namespaces, consistency=consistency))
        except (Unexpected, Unavailable) as error:
            raise NotStarted(str(error)) from error
    told = report(found, consistency, namespaces=namespaces)
    told["others_cores"] = figures.significant(processes.others, 2)
    table = text(told) + figures.disturbed(processes.others)
    figures.publish("detection", told, table, quiet=quiet, save=save)
    return 0
