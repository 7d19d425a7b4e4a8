"""Real clusters for the live tests: uvicorn processes on loopback, started, stopped and killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from demo_app.processes import Group, Ports, Watchdog
from tests.live.namespaces import Network

READY = 60.0
"""Seconds a start may take on a machine that is busy with something else."""

SOON = 20.0
"""Seconds in which anything a test waits for must have happened."""

POLL = 0.02
"""Seconds between two looks."""


def first_port() -> int:
    """Below the outgoing connections' range, and so that neither test runs at the same time nor the
    workers of one come near each other: the port of a node that is down must be free when it
    returns."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    run = os.getppid() if worker else os.getpid()
    return 21_000 + (run * 16 + int(worker.removeprefix("gw") or 0) * 1_000) % 8_000


_ports = Ports(first_port())

SETTINGS = {
    "SESSIONHA_SECRET": "insecure-loopback",
    "SESSIONHA_ADMIN": "off",
    "SESSIONHA_CLUSTER": "live",
    "SESSIONHA_STORE_SIZE": "8MiB",
    "SESSIONHA_DISCOVERY_TIME": "1s",
    "SESSIONHA_DRAIN_DELAY": "0s",
}


class Unexpected(AssertionError):
    """Something did not happen in time, or a process ended."""


async def until(
    what: str, condition: Callable[[], Awaitable[object]], timeout: float = SOON
) -> None:
    """Look again and again until `condition` holds.

    Raises:
        Unexpected: it did not within `timeout` seconds.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while not await condition():  # noqa: ASYNC110 (other processes do not tell)
                await asyncio.sleep(POLL)
            return
    raise Unexpected(f"not within {timeout} s: {what}")


@dataclass
class Server:
    """One node: its addresses and, while it lives, its processes."""

    name: str
    host: str
    port: int
    peer: str
    environment: dict[str, str] = field(repr=False)
    store: Path
    log: Path
    workers: int = 1
    group: Group | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def alive(self) -> bool:
        return self.group is not None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Cluster:
    """Nodes n1, n2, …; everything it starts and writes is gone when it is closed.

    `hosts`: one for each node, which then all listen at the same port. `network`: has a host for
    each node, of its name, that nobody outside reaches. `late`: nodes that are not started in the
    beginning.
    """

    application = "tests.live.app:create_app"
    """The factory of what uvicorn serves on each node."""

    def __init__(
        self,
        nodes: int = 3,
        *,
        workers: int = 1,
        hosts: Sequence[str] = (),
        network: Network | None = None,
        late: Collection[str] = (),
        **settings: object,
    ) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="sessionha-live-", dir=_memory()))
        self._watchdog: Watchdog | None = None
        self._http: aiohttp.ClientSession | None = None
        self._others: list[Group] = []
        self._refused: set[str] = set()
        names = [f"n{number}" for number in range(1, nodes + 1)]
        self._late = late
        self._network = network
        if network is not None:
            hosts = [network.address(name) for name in names]
        peers = {name: f"127.0.0.1:{_ports.take()}" for name in names}
        if hosts:
            self.peer_port = _ports.take()
            peers = dict(zip(names, (f"{host}:{self.peer_port}" for host in hosts), strict=True))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SESSIONHA_")}
        given = {f"SESSIONHA_{name.upper()}": str(value) for name, value in settings.items()}
        nodes_text = ",".join(f"{name}=http://{peer}" for name, peer in peers.items())
        self.environment = {**inherited, **SETTINGS, "SESSIONHA_NODES": nodes_text, **given}
        self.servers = {name: self._server(name, peers[name], workers) for name in names}

    def _server(self, name: str, peer: str, workers: int) -> Server:
        host = "127.0.0.1" if self._network is None else self._network.address(name)
        port = _ports.take()
        own = {
            "SESSIONHA_NODE": name,
            "SESSIONHA_LISTEN": peer,
            "SESSIONHA_URL": f"http://{host}:{port}",
            "SESSIONHA_STORE": str(self._place / name),
            "SESSIONHA_STATE_DIR": str(self._place / f"{name}-state"),
        }
        environment = {**self.environment, **own}
        log = self._place / f"{name}.log"
        return Server(name, host, port, peer, environment, self._place / name, log, workers)

    def tell(self, **settings: object) -> None:
        """Settings of all nodes and of the router that are known only now."""
        given = {f"SESSIONHA_{name.upper()}": str(value) for name, value in settings.items()}
        for environment in (self.environment, *(s.environment for s in self.servers.values())):
            environment.update(given)

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    @property
    def names(self) -> list[str]:
        return list(self.servers)

    @property
    def living(self) -> list[str]:
        return [name for name, server in self.servers.items() if server.alive]

    @property
    def watchdog(self) -> Watchdog:
        assert self._watchdog is not None, "entered"
        return self._watchdog

    # --- life

    async def __aenter__(self) -> Self:
        self._watchdog = Watchdog.start([self._place])
        timeout = aiohttp.ClientTimeout(total=5.0)
        client = None if self._network is None else self._network.client
        connector = aiohttp.TCPConnector(force_close=True, socket_factory=client)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=connector)
        try:
            await self.start(*(name for name in self.names if name not in self._late))
        except BaseException:
            await self.close(failed=True)
            raise
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        faults = [] if kind is not None else self.faults()
        await self.close(failed=kind is not None or bool(faults))
        if faults:
            raise Unexpected("servers complained:\n" + "\n".join(faults))

    async def close(self, *, failed: bool = False) -> None:
        """Kill and remove everything; the processes' output is shown when a test failed."""
        groups = [*self._others, *(s.group for s in self.servers.values() if s.group is not None)]
        await asyncio.gather(*(group.kill() for group in groups))
        if failed:
            self.show()
        await self.watchdog.stop()  # which removes the logs as well
        if self._http is not None:
            await self._http.close()
        shutil.rmtree(self._place, ignore_errors=True)

    def show(self) -> None:
        """Print what the processes wrote; pytest shows it with a failure."""
        for log in sorted(self._place.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')}")

    async def start(self, *names: str) -> None:
        """Start nodes at once, and wait until all that live agree on the view."""
        for name in names:
            self.launch(name)
        if names:
            await self.settled()

    def launch(self, name: str) -> None:
        """Start a node's processes and wait for nothing."""
        assert not self.servers[name].alive, f"{name} runs already"
        self._launch(self.servers[name])

    def _launch(self, server: Server) -> None:
        command = [sys.executable, "-m", "uvicorn", "--factory", self.application]
        command += ["--host", server.host, "--port", str(server.port), "--no-access-log"]
        command += ["--log-config", str(Path(__file__).with_name("logging.json"))]
        command += ["--workers", str(server.workers)] if server.workers > 1 else []
        host = nullcontext() if self._network is None else self._network.inside(server.name)
        with host:
            server.group = self.watchdog.spawn(command, server.environment, server.log)

    def launch_router(self, **settings: str) -> str:
        """Start a router, which dies with the cluster; its URL. `settings`: other than the
        nodes'."""
        listen = f"127.0.0.1:{_ports.take()}"
        command = [sys.executable, "-m", "sessionha", "router", "--listen", listen]
        log = self._place / f"router-{listen.rpartition(':')[2]}.log"
        own = {f"SESSIONHA_{name.upper()}": value for name, value in settings.items()}
        self._others.append(self.watchdog.spawn(command, {**self.environment, **own}, log))
        return f"http://{listen}"

    def launch_claimant(self, name: str, **settings: str) -> None:
        """Start a process that says it is the node `name`, with a store of its own. It complains,
        as it should."""
        port = _ports.take()
        self._refused.add("claimant")
        claimant = Server(
            name,
            "127.0.0.1",
            port,
            self.servers[name].peer,
            {
                **self.servers[name].environment,
                "SESSIONHA_STORE": str(self._place / "claimant"),
                "SESSIONHA_STATE_DIR": str(self._place / "claimant-state"),
                "SESSIONHA_URL": f"http://127.0.0.1:{port}",
                **settings,
            },
            self._place / "claimant",
            self._place / "claimant.log",
        )
        self._launch(claimant)
        if claimant.group is not None:
            self._others.append(claimant.group)

    async def kill(self, *names: str) -> None:
        """SIGKILL all processes of these nodes; return when they are dead."""
        groups = [group for name in names if (group := self.servers[name].group) is not None]
        if len(groups) > 1:  # none shall see another die
            for group in groups:
                os.killpg(group.pid, signal.SIGSTOP)
        for name in names:
            self.servers[name].group = None
        await asyncio.gather(*(group.kill() for group in groups))

    async def terminate(self, name: str) -> None:
        """SIGTERM, as a planned stop; return when the processes have ended."""
        server = self.servers[name]
        group, server.group = server.group, None
        assert group is not None, f"{name} runs"
        os.kill(group.pid, signal.SIGTERM)
        async with asyncio.timeout(SOON):
            await group.ended(POLL)
        await group.kill()

    def freeze(self, name: str) -> None:
        """SIGSTOP: alive, but says nothing."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self._signal(name, signal.SIGCONT)

    def notify(self, name: str, number: signal.Signals) -> None:
        """A signal to the node's first process alone."""
        group = self.servers[name].group
        assert group is not None, f"{name} runs"
        os.kill(group.pid, number)

    def _signal(self, name: str, number: signal.Signals) -> None:
        group = self.servers[name].group
        assert group is not None, f"{name} runs"
        os.killpg(group.pid, number)

    def workers(self, name: str) -> list[int]:
        """The processes that serve, of a node with several engines."""
        group = self.servers[name].group
        return group.workers() if group is not None else []

    def lose_store(self, name: str) -> None:
        """Remove what a dead node kept."""
        assert not self.servers[name].alive, f"{name} is dead"
        shutil.rmtree(self.servers[name].store)

    # --- questions

    async def settled(self, names: Iterable[str] | None = None) -> None:
        """Wait until these nodes (by default all that live) are the members in everybody's eyes.

        Raises:
            Unexpected: a process ended, or READY seconds were not enough.
        """
        expected = set(self.living if names is None else names)

        async def agreed() -> bool:
            for name in expected:
                group = self.servers[name].group
                if group is None or not group.running:
                    raise Unexpected(f"{name} ended:\n{self.servers[name].output[-2000:]}")
            told = await asyncio.gather(*(self._told(name) for name in expected))
            views = [(node["view"], node["members"]) for node in told if node is not None]
            same = len(views) == len(expected) and all(view == views[0] for view in views)
            full = all(
                node is not None and len(node["engines"]) == self.servers[node["node"]].workers
                for node in told
            )
            return same and full and set(views[0][1]) == expected

        await until(f"{sorted(expected)} are the members", agreed, READY)

    async def _told(self, name: str) -> dict[str, Any] | None:
        try:
            return await self.ask(name)
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def ask(self, name: str, group: bytes = b"") -> dict[str, Any]:
        """What a node says of itself (see `Application.node`)."""
        assert self._http is not None, "entered"
        url = f"{self.servers[name].url}/node?group={group.hex()}"
        async with self._http.get(url) as response:
            assert response.status == 200
            told: dict[str, Any] = await response.json()
            return told

    async def copies(self, group: bytes) -> dict[str, dict[str, Any]]:
        """What each living node holds of a group, those that hold nothing left out."""
        told = await asyncio.gather(*(self.ask(name, group) for name in self.living))
        return {node["node"]: node["copy"] for node in told if node["copy"] is not None}

    async def counted(self, counter: str) -> int:
        """A counter of the state manager, added up over the living nodes with one engine."""
        told = await asyncio.gather(*(self.ask(name) for name in self.living))
        return sum(int(node["counters"][counter]) for node in told)

    def faults(self) -> list[str]:
        """Tracebacks and errors in what the servers and the router wrote."""
        return [
            f"{log.stem}: {line}"
            for log in sorted(self._place.glob("*.log"))
            if log.stem not in self._refused
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
            if "Traceback" in line or " ERROR " in line
        ]


def free_port() -> int:
    """A port that nobody listens on."""
    return _ports.take()


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
