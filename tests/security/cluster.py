"""A cluster of real processes on loopback, each node with a log file and an administration."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from sessionha.keys import new_secret

ROOT = Path(__file__).parents[2]

PATIENCE = 60.0
"""Seconds for real processes on a busy machine."""

POLL = 0.05
"""Seconds between two looks."""


def free_ports(count: int) -> list[int]:
    """Ports of this host that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again; a connection that fails is a no. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await condition():
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(POLL)


class Cluster:
    """Nodes n0, n1, …, each a server with the application of these tests."""

    def __init__(
        self, directory: Path, stores: Path, extra: Mapping[str, str], *, nodes: int, workers: int
    ) -> None:
        ports = free_ports(3 * nodes)
        self.peers = ports[:nodes]
        self.ports = ports[nodes : 2 * nodes]
        self.admins = ports[2 * nodes :]
        self.secret = new_secret()
        self.key = secrets.token_urlsafe(32)
        self.nodes = ",".join(
            f"n{index}=http://127.0.0.1:{port}" for index, port in enumerate(self.peers)
        )
        self.logs = [directory / f"n{index}.log" for index in range(nodes)]
        self._stores = stores
        self._extra = dict(extra)
        self._workers = workers
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, index: int) -> None:
        """Start a node."""
        environment = {
            **os.environ,
            "APPLICATION_KEY": self.key,
            "SESSIONHA_NODES": self.nodes,
            "SESSIONHA_NODE": f"n{index}",
            "SESSIONHA_SECRET": self.secret,
            "SESSIONHA_STORE": str(self._stores / f"n{index}"),
            "SESSIONHA_STORE_SIZE": "8MiB",
            "SESSIONHA_URL": f"http://127.0.0.1:{self.ports[index]}",
            "SESSIONHA_ADMIN": f"127.0.0.1:{self.admins[index]}",
            "SESSIONHA_HEALTH_PATH": "/",
            **self._extra,
        }
        command = [sys.executable, "-m", "uvicorn", "tests.security.application:app"]
        command += ["--port", str(self.ports[index]), "--workers", str(self._workers)]
        command += ["--log-level", "debug", "--loop", "asyncio"]
        with self.logs[index].open("ab") as log:
            self._processes[index] = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def start_router(self) -> int:
        """Start a router; gives the number that stands for it, as a node's does for a node."""
        self.ports += free_ports(1)
        index = len(self.ports) - 1
        environment = {
            **os.environ,
            "SESSIONHA_NODES": self.nodes,
            "SESSIONHA_SECRET": self.secret,
            **self._extra,
        }
        command = [sys.executable, "-m", "tests.security.router", f"127.0.0.1:{self.ports[index]}"]
        self.logs.append(self.logs[0].with_name("router.log"))
        with self.logs[-1].open("ab") as log:
            self._processes[index] = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        return index

    async def ready(self, index: int) -> None:
        """Wait until the node is a member of its cluster, or the router knows one."""
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                url = f"http://127.0.0.1:{self.ports[index]}/readyz"
                return (await client.get(url)).status_code == 200

            await until(answers)

    def kill(self, index: int) -> None:
        """Kill a node of one worker."""
        process = self._processes.pop(index)
        process.kill()
        process.wait()

    def index_of(self, pid: int) -> int:
        """The node whose server has this process ID."""
        return next(index for index, each in self._processes.items() if each.pid == pid)

    def living(self) -> Iterable[int]:
        """The nodes that were not killed."""
        return [index for index in self._processes if index < len(self.peers)]

    def stop(self) -> None:
        """End every node."""
        for process in self._processes.values():
            process.terminate()
        for index, process in list(self._processes.items()):
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill(index)

    def logged(self) -> str:
        """Everything that the nodes said."""
        return "\n".join(log.read_text(errors="replace") for log in self.logs)


@asynccontextmanager
async def running(
    directory: Path, extra: Mapping[str, str] | None = None, *, nodes: int = 3, workers: int = 1
) -> AsyncIterator[Cluster]:
    """A cluster whose nodes are all members; `extra`: more of their environment."""
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(directory)
    stores = Path(shared, f"sessionha-tests-{secrets.token_hex(4)}")
    cluster = Cluster(directory, stores, extra or {}, nodes=nodes, workers=workers)
    try:
        for index in range(nodes):
            cluster.start(index)
        for index in range(nodes):
            await cluster.ready(index)
        yield cluster
    finally:
        await asyncio.to_thread(cluster.stop)
        shutil.rmtree(stores, ignore_errors=True)
