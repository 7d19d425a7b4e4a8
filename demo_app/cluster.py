"""Starts the demo's nodes and the front on loopback, kills them, starts them again."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

import aiohttp

from demo_app.fronts import FRONTS, SESSIONHA, export_words, follow_words
from demo_app.processes import Group, Ports, Watchdog

logger = logging.getLogger("demo_app.cluster")

Front = Literal["router", "roundrobin", "nginx", "haproxy", "envoy"]
Consistency = Literal["available", "quorum"]
State = Literal["up", "starting", "down"]

HEAL_AFTER = 2.0
"""Seconds until the copies of a killed server are made elsewhere. Short, so that somebody who
kills two of three servers one after the other keeps the cart; 30 in real life."""

STORE_BYTES = 64 * 2**20
"""Room for every session of a full check on each node, three of which fit into most /dev/shm."""

DRAIN_DELAY = 0.5
"""Seconds for which a server that stops says so first. The router learns of it in milliseconds, and
round robin looks every 0.2 s; 4 in real life."""

STOPPED = 60.0
"""Seconds a planned stop may take: as long as a start."""

READY = 90.0
"""Seconds a start may take: four workers importing everything on a busy machine take ten, and a
node that cannot catch up is ready after sixty in any case."""

POLL = 0.05
"""Seconds between two questions whether a server is ready."""


class StartFailed(Exception):
    """Something did not become ready; names it and its log."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to start."""

    nodes: int = 3
    workers: int = 1
    front: Front = "router"
    port: int = 8000
    """Of the front; the other ports follow it. The next free ones are taken."""
    heal_after: float = HEAL_AFTER
    consistency: Consistency = "available"
    """The demo kills two of three servers one after the other and goes on: no majority does."""


@dataclass
class Node:
    """One server: its addresses, its environment and, while it lives, its processes."""

    name: str
    port: int
    peer: str
    environment: dict[str, str] = field(repr=False)
    log: Path
    state: State = "down"
    group: Group | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Cluster:
    """The running demo. Every process it starts dies with it, also when it is killed itself."""

    def __init__(self, plan: Plan) -> None:
        ports = Ports(plan.port)
        self.plan = plan
        self.front_port = ports.take()
        self.control_port = ports.take()
        self.token = secrets.token_urlsafe(24)
        """Whoever kills or starts a server by HTTP must know it."""
        self.logs = Path(tempfile.mkdtemp(prefix="sessionha-demo-"))
        """Output of every process. Kept by `stop(keep_logs=True)`."""
        self._stores = Path(tempfile.mkdtemp(prefix="sessionha-demo-", dir=_memory(plan.nodes)))
        self._shared = _shared_environment(self)
        self.nodes = {
            name: Node(
                name=name,
                port=ports.take(),
                peer=f"127.0.0.1:{ports.take()}",
                environment=self._own_environment(name, ports.take()),
                log=self.logs / f"{name}.log",
            )
            for name in (f"n{number}" for number in range(1, plan.nodes + 1))
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self._http: aiohttp.ClientSession | None = None
        self._watchdog: Watchdog | None = None
        self._fronts: list[Group] = []
        self._ports = ports

    @property
    def url(self) -> str:
        """Where the shop is."""
        return f"http://127.0.0.1:{self.front_port}"

    async def start(self) -> None:
        """Start everything; return when the shop can be used.

        Raises:
            StartFailed: what did not become ready in time, and where its output is.
        """
        _write_private(Path(self._shared["SESSIONHA_CONFIG"]), self._description())
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.0))
        self._watchdog = Watchdog.start([self._stores])
        for node in self.nodes.values():
            self._launch(node)
        if self.plan.front in FRONTS:
            await self._start_balancer(self._watchdog)
        else:
            log = self.logs / "front.log"
            self._fronts += [self._watchdog.spawn(self._front_command(), self._shared, log)]
        for node in self.nodes.values():
            await self.ready(node.name)
        await self._wait("front", self._fronts[0], lambda: self._answers(f"{self.url}/"))

    async def stop(self, *, keep_logs: bool = False) -> None:
        """Kill everything, remove everything; the logs stay when they are still needed."""
        for task in self._tasks:
            task.cancel()
        groups = [*self._fronts, *(node.group for node in self.nodes.values())]
        await asyncio.gather(*(group.kill() for group in groups if group is not None))
        if self._watchdog is not None:
            await self._watchdog.stop()
        if self._http is not None:
            await self._http.close()
        shutil.rmtree(self._stores, ignore_errors=True)
        if not keep_logs:
            shutil.rmtree(self.logs, ignore_errors=True)

    # --- one server

    async def kill(self, name: str) -> None:
        """SIGKILL all processes of a node; return when they are dead."""
        node = self.nodes[name]
        if (group := node.group) is not None:
            node.state = "down"
            await group.kill()
            if node.group is group:  # else it was started again meanwhile
                node.group = None

    async def restart(self, name: str) -> None:
        """SIGTERM, as a planned stop, and a new start; return when the node serves again.

        Raises:
            StartFailed: it did not end, or did not start again.
        """
        node = self.nodes[name]
        group = node.group
        if group is None:
            raise StartFailed(f"{name} does not run")
        os.kill(group.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(STOPPED):
                await group.ended(POLL)
        except TimeoutError:
            raise StartFailed(f"{name} did not end within {STOPPED:g} s of SIGTERM") from None
        await self.kill(name)
        self._launch(node)
        await self.ready(name)

    async def counted(self, counter: str) -> int:
        """What all nodes have counted of something, their restarts included."""
        assert self._http is not None, "start() comes first"
        total = 0
        for node in self.nodes.values():
            url = f"http://{node.environment['SESSIONHA_ADMIN']}/metrics"
            async with self._http.get(url) as response:
                text = await response.text()
            found = re.search(rf"^sessionha_{counter}_total (\S+)$", text, re.MULTILINE)
            total += int(float(found[1])) if found is not None else 0
        return total

    def victim(self, name: str, rng: Random) -> int | None:
        """The process ID of one worker of a node, by chance; None when it has no workers."""
        group = self.nodes[name].group
        workers = sorted(group.workers()) if group is not None else []
        return rng.choice(workers) if workers else None

    def revive(self, name: str) -> None:
        """Start a dead node again, in the background; nothing when it lives."""
        node = self.nodes[name]
        if node.group is None:
            self._launch(node)
            self._spawn(self._settle(name))

    async def ready(self, name: str) -> None:
        """Wait until a node serves as a member of the cluster, with all its workers.

        Raises:
            StartFailed: it ended, or READY seconds were not enough.
        """
        node = self.nodes[name]
        await self._wait(name, node.group, lambda: self._is_ready(node))
        if node.state == "starting":
            node.state = "up"

    async def _settle(self, name: str) -> None:
        try:
            await self.ready(name)
        except StartFailed as error:
            logger.warning("%s", error)

    def _launch(self, node: Node) -> None:
        assert self._watchdog is not None, "start() comes first"
        node.state = "starting"
        workers = self.plan.workers
        command = [sys.executable, "-m", "uvicorn", "--factory", "demo_app.shop:create_app"]
        command += ["--host", "127.0.0.1", "--port", str(node.port), "--no-access-log"]
        command += ["--log-level", "warning", "--no-server-header"]
        command += ["--workers", str(workers)] if workers > 1 else []
        node.group = self._watchdog.spawn(command, node.environment, node.log)
        self._spawn(self._notice_end(node, node.group))

    async def _notice_end(self, node: Node, group: Group) -> None:
        """A server that ends by itself is down as well."""
        await group.ended()
        if node.group is group:
            await self.kill(node.name)

    async def _is_ready(self, node: Node) -> bool:
        workers = self.plan.workers
        if workers > 1 and (node.group is None or len(node.group.workers()) < workers):
            return False
        return await self._answers(f"{node.url}/readyz")

    async def _answers(self, url: str) -> bool:
        assert self._http is not None, "start() comes first"
        try:
            async with self._http.get(url) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _wait(
        self, what: str, group: Group | None, condition: Callable[[], Awaitable[bool]]
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(READY):
                while group is not None and group.running:
                    if await condition():
                        return
                    await asyncio.sleep(POLL)
        log = self.logs / f"{what}.log"
        raise StartFailed(f"{what} is not ready; its output is in {log}\n{_tail(log)}")

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- what the processes are told

    def _front_command(self) -> list[str]:
        listen = f"127.0.0.1:{self.front_port}"
        if self.plan.front == "router":
            return [sys.executable, "-m", "sessionha", "router", "--listen", listen]
        urls = [node.url for node in self.nodes.values()]
        return [sys.executable, "-m", "demo_app.roundrobin", "--listen", listen, *urls]

    async def _start_balancer(self, watchdog: Watchdog) -> None:
        """A real one, and what keeps it at the cluster's view."""
        place = self.logs / "balancer"
        front = FRONTS[self.plan.front](place, self.front_port, self._ports.take())
        front.prepare()
        describing = ["--cluster", self._shared["SESSIONHA_CONFIG"]]
        made = watchdog.spawn(
            [*SESSIONHA, "export", *export_words(front), *describing],
            self._shared,
            self.logs / "front.log",
        )
        await made.ended(POLL)
        await made.kill()
        for log, command in (
            ("front.log", front.command),
            ("follow.log", [*SESSIONHA, "follow", *follow_words(front)]),
        ):
            self._fronts += [watchdog.spawn(command, self._shared, self.logs / log)]

    def _description(self) -> str:
        """The TOML description that the nodes and the router share."""
        lines = ["[cluster]", 'cluster = "demo"', 'health_path = "/"']
        lines += [f"heal_after = {self.plan.heal_after}", f"store_size = {STORE_BYTES}"]
        lines += [f"drain_delay = {DRAIN_DELAY}"]
        lines += [f'consistency = "{self.plan.consistency}"']
        for node in self.nodes.values():
            lines += ["", "[[node]]", f'id = "{node.name}"']
            lines += [f'peer = "{node.peer}"', f'url = "{node.url}"']
        return "\n".join(lines) + "\n"

    def _own_environment(self, name: str, admin_port: int) -> dict[str, str]:
        return self._shared | {
            "SESSIONHA_NODE": name,
            "SESSIONHA_ADMIN": f"127.0.0.1:{admin_port}",
            "SESSIONHA_STORE": str(self._stores / name),
            "SESSIONHA_STATE_DIR": str(self._stores / f"{name}-state"),
        }


def _shared_environment(cluster: Cluster) -> dict[str, str]:
    """The environment of every process: ours without other clusters' settings, and the secrets."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("SESSIONHA_")
    }
    return inherited | {
        "SESSIONHA_CONFIG": str(cluster.logs / "cluster.toml"),
        "SESSIONHA_SECRET": secrets.token_urlsafe(48),
        "DEMO_SECRET_KEY": secrets.token_urlsafe(48),
        "DEMO_CONTROL_URL": f"http://127.0.0.1:{cluster.control_port}",
        "DEMO_TOKEN": cluster.token,
        "DEMO_HEAL_AFTER": f"{cluster.plan.heal_after:g}",
        "PYTHONUNBUFFERED": "1",
    }


def _memory(nodes: int) -> str | None:
    """Shared memory when the stores fit into it twice, else the place for temporary files."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK):
        return None
    room = os.statvfs(place)
    return str(place) if room.f_bavail * room.f_frsize > 2 * nodes * STORE_BYTES else None


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-20:])
