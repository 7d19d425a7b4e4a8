"""Kills servers under load and counts what the clients lost.

Every client keeps its own list of unique tokens and writes them, a third each, with POST, with
POST and an `Idempotency-Key`, and with PUT, without pause. One at a time, a random node gets
SIGKILL at a random moment; the next kill waits until that node has joined again and every client
has written. At the end each session is read through two other nodes. With workers, half of the
kills take one worker instead of its node. With `--rolling` no node is killed: one after the other
is restarted, as a new release is rolled out.

`lost`: acknowledged tokens that are missing at the end or in any later answer. `phantom`: tokens
that a session shows and its client never sent there, or that are there twice. `unknown`: POSTs
without key that were already sent when their node died. `broken`: answers that began and broke off
when their node died, and that the client asked for again, as one does with what may run twice;
`sessionha router` holds short answers back until it has them whole. `errors`: everything else that
is not 2xx. `failover_ms_…`: see `accounting.Failovers`. `healed_to_third`: copies made on nodes
that had no seat, because an absent node was awaited no longer; in rolling restarts that is wrong.
`replacements`: temporary copies made by writes while a node was awaited.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from demo_app.accounting import Death, Report, percentile
from demo_app.clients import Books, Client, Jar, connect
from demo_app.cluster import HEAL_AFTER, Cluster, Consistency, Front, Plan, StartFailed
from demo_app.processes import dead, terminate

EVERYBODY = 60.0
"""Seconds in which every client must write once; more means that the cluster does not recover."""

MOMENT = (0.05, 1.0)
"""Seconds of load before a kill: long enough for every client to be anywhere in its requests."""

AWAITED = 30.0
"""Seconds for which a node that restarts is awaited, as in real life."""

READERS = 16
"""Sessions read at the same time at the end."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to check."""

    kills: int = 10
    rolling: int = 0
    """Planned restarts, in place of kills."""
    clients: int = 8
    seed: int = 1
    nodes: int = 3
    workers: int = 1
    front: Front = "router"
    consistency: Consistency = "available"
    port: int = 0
    history: Path | None = None


class Stuck(Exception):
    """The cluster did not recover; says what was waited for."""


class Check:
    """One run against a cluster that is up."""

    def __init__(self, cluster: Cluster, clients: list[Client], books: Books, rng: Random) -> None:
        self._cluster = cluster
        self._clients = clients
        self._books = books
        self._rng = rng
        self.moved_by_workers = 0
        """Clients that another node served after only a worker of theirs was killed."""
        self.worker_kills = 0

    async def run(self, kills: int, rolling: int = 0) -> None:
        """Load, kill or restart, and read everything at the end.

        Raises:
            Stuck: a killed node did not come back, or a client could not write any more.
        """
        stop = asyncio.Event()
        load = [asyncio.create_task(client.run(stop)) for client in self._clients]
        try:
            await self._everybody_writes()
            for number in range(1, kills + 1):
                await asyncio.sleep(self._rng.uniform(*MOMENT))
                words = await self._kill()
                self._books.report.kills = number
                _say(f"{number}/{kills}: {words}; {_so_far(self._books)}")
            for number in range(1, rolling + 1):
                await asyncio.sleep(self._rng.uniform(*MOMENT))
                node = await self._restart(number)
                _say(f"{number}/{rolling}: restarted {node}; {_so_far(self._books)}")
        finally:
            stop.set()
            await asyncio.gather(*load)
        await self._read_everything()

    async def _restart(self, number: int) -> str:
        names = sorted(self._cluster.nodes)
        node = names[(number - 1) % len(names)]
        try:
            await self._cluster.restart(node)
        except StartFailed as error:
            raise Stuck(str(error)) from error
        await self._everybody_writes()
        return node

    async def _kill(self) -> str:
        node = self._rng.choice(sorted(self._cluster.nodes))
        pid = self._cluster.victim(node, self._rng) if self._rng.random() < 0.5 else None
        if pid is None:
            await self._kill_node(node)
            return node
        await self._kill_worker(node, pid)
        return f"a worker of {node}"

    async def _kill_node(self, node: str) -> None:
        affected = [
            client.name
            for client in self._clients
            if not client.jar.holders or node in client.jar.holders
        ]
        death = self._dies(node, worker=False)
        self._books.failovers.begin(death.at, affected)
        await self._cluster.kill(node)
        self._gone(death)
        self._cluster.revive(node)
        await self._recovered(node)

    async def _kill_worker(self, node: str, pid: int) -> None:
        theirs = [client for client in self._clients if client.jar.node == node]
        jars = {client.name: client.jar for client in theirs}
        death = self._dies(node, worker=True)
        terminate(pid)
        await dead([pid])
        self._gone(death)
        await self._everybody_writes()
        self.worker_kills += 1
        self.moved_by_workers += sum(jar.node != node for jar in jars.values())
        await self._recovered(node)

    def _dies(self, node: str, *, worker: bool) -> Death:
        death = Death(node, time.monotonic_ns(), worker)
        self._books.deaths.append(death)
        return death

    def _gone(self, death: Death) -> None:
        death.dead = time.monotonic_ns()
        self._books.died(death)

    async def _recovered(self, node: str) -> None:
        try:
            await self._cluster.ready(node)
        except StartFailed as error:
            raise Stuck(str(error)) from error
        await self._everybody_writes()

    async def _everybody_writes(self) -> None:
        """Wait until every client has had a write acknowledged that began after now."""
        goal = {client: client.acknowledged + 2 for client in self._clients}
        await _until(
            lambda: all(client.acknowledged >= count for client, count in goal.items()),
            "not every client can write any more",
        )

    async def _read_everything(self) -> None:
        """Read each session through two nodes that did not serve it last."""
        _say(f"reading {sum(len(client.jars) for client in self._clients)} sessions twice")
        limit = asyncio.Semaphore(READERS)

        async def read(client: Client, jar: Jar) -> None:
            async with limit:
                for server in self._others(jar):
                    await client.read(jar, server)

        await asyncio.gather(
            *(read(client, jar) for client in self._clients for jar in client.jars)
        )

    def _others(self, jar: Jar) -> list[str]:
        names = sorted(name for name in self._cluster.nodes if name != jar.node)
        return [
            self._cluster.nodes[name].url for name in self._rng.sample(names, min(2, len(names)))
        ]


async def run(options: Options) -> int:
    """Run the check; print progress to stderr and the result as the last line of stdout.

    Returns 0 when nothing was lost, invented or refused, else 1.
    """
    rng = Random(options.seed)
    port = options.port or Random().randrange(10_000, 30_000)  # beside other runs
    cluster = Cluster(
        Plan(
            nodes=options.nodes,
            workers=options.workers,
            front=options.front,
            port=port,
            consistency=options.consistency,
            heal_after=AWAITED if options.rolling else HEAL_AFTER,
        )
    )
    passed = False
    try:
        await cluster.start()
        with ExitStack() as stack:
            history = None
            if options.history is not None:
                history = stack.enter_context(options.history.open("w", encoding="utf-8"))
            passed = await _run_on(cluster, options, Books(history), rng)
    except StartFailed as error:
        _say(str(error))
    finally:
        await cluster.stop(keep_logs=not passed)
        if not passed:
            _say(f"the servers' output is in {cluster.logs}")
    return 0 if passed else 1


async def _run_on(cluster: Cluster, options: Options, books: Books, rng: Random) -> bool:
    async with connect() as http:
        clients = [Client(n, http, cluster.url, books) for n in range(options.clients)]
        check = Check(cluster, clients, books, rng)
        whole = True
        try:
            await check.run(0 if options.rolling else options.kills, options.rolling)
        except Stuck as error:
            whole = False
            _say(f"stopped: {error}")
    line: dict[str, object] = asdict(_closed(books, clients))
    follows = options.front != "roundrobin"  # else clients wander from node to node anyway
    if options.workers > 1:
        moved = check.moved_by_workers if follows else None
        line |= {"worker_kills": check.worker_kills, "worker_failovers": moved}
    healed = await cluster.counted("healed")
    line |= {"healed_to_third": healed, "replacements": await cluster.counted("replaced")}
    if options.rolling:
        line |= {"restarts": options.rolling}
        whole = whole and not healed
    print(json.dumps(line), flush=True)
    calm = check.moved_by_workers == 0 or not follows
    return whole and calm and books.report.passed


def _closed(books: Books, clients: list[Client]) -> Report:
    """The report with what only the end can tell."""
    report = books.report
    ledgers = [jar.ledger for client in clients for jar in client.jars]
    report.lost = sum(len(ledger.lost) for ledger in ledgers)
    report.phantom = sum(len(ledger.phantom) for ledger in ledgers)
    times = books.failovers.milliseconds
    report.failover_ms_p50 = _rounded(percentile(times, 50))
    report.failover_ms_p99 = _rounded(percentile(times, 99))
    return report


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


async def _until(condition: Callable[[], bool], else_: str) -> None:
    try:
        async with asyncio.timeout(EVERYBODY):
            while not condition():  # noqa: ASYNC110 (clients count; they do not know who waits)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise Stuck(f"{else_} after {EVERYBODY:g} s") from None


def _so_far(books: Books) -> str:
    report = books.report
    return f"{report.acknowledged} acknowledged, {report.unknown} unknown, {report.errors} errors"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
