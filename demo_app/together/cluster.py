"""Starts the nodes of both applications, and a router in front; kills them, starts them again.

Each node has two processes: uvicorn with the shop and gunicorn with the members' pages. They are
engines of one node: they share its store.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp

from demo_app.processes import Group, Ports, Watchdog

POLL = 0.05
"""Seconds between two looks."""

READY = 60.0
"""Seconds a start may take on a machine that is busy with something else."""

STORE = "16MiB"
"""Room for a few browsers."""

PAGES = {"shop": "/cart", "members": "/members/"}
"""A page of each application."""


class Engine(NamedTuple):
    """One process of a node."""

    name: str
    """Its application's."""
    url: str
    command: list[str]


class Together:
    """Nodes n1, n2, …, and the router at `url`, while the context lasts."""

    def __init__(self, nodes: int = 3, first_port: int = 8100) -> None:
        ports = Ports(first_port)
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._stores = Path(tempfile.mkdtemp(prefix="sessionha-together-", dir=memory))
        self._place = Path(tempfile.mkdtemp(prefix="sessionha-together-"))
        self._listen = f"127.0.0.1:{ports.take()}"
        self.url = f"http://{self._listen}"
        """Where both applications are."""
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self._peers = {name: f"127.0.0.1:{ports.take()}" for name in self.names}
        self._engines = {name: [_shop(ports.take()), _members(ports.take())] for name in self.names}
        self._groups: dict[str, list[Group]] = {}
        self._shared = _environment() | {"SESSIONHA_CONFIG": str(self._place / "cluster.toml")}
        self._http: aiohttp.ClientSession | None = None
        self._watchdog: Watchdog | None = None

    async def __aenter__(self) -> Self:
        config = self._place / "cluster.toml"
        config.touch(mode=0o600)
        config.write_text(self._description(), encoding="utf-8")
        self._watchdog = Watchdog.start([self._stores, self._place])
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0))
        try:
            for name in self.names:
                self._launch(name)
            router = [sys.executable, "-m", "sessionha", "router", "--listen", self._listen]
            self._spawn("router", router, self._shared)
            for name in self.names:
                await self._serves(name)
            for page in PAGES.values():
                await self._answers(f"{self.url}{page}")
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        for name in list(self._groups):
            await self.kill(name)
        if self._watchdog is not None:
            await self._watchdog.stop()
        if self._http is not None:
            await self._http.close()
        for directory in (self._stores, self._place):
            shutil.rmtree(directory, ignore_errors=True)

    async def kill(self, name: str) -> None:
        """SIGKILL both processes of a node; return when they are dead."""
        await asyncio.gather(*(group.kill() for group in self._groups.pop(name)))

    async def start(self, name: str) -> None:
        """Start a dead node again; return when both applications answer there."""
        self._launch(name)
        await self._serves(name)

    def _launch(self, name: str) -> None:
        for engine in self._engines[name]:
            environment = self._shared | {
                "SESSIONHA_NODE": name,
                "SESSIONHA_URL": engine.url,
                "SESSIONHA_VIRTUAL_SERVER": engine.name,  # each has sessions of its own
                "SESSIONHA_STORE": str(self._stores / name),
                "SESSIONHA_STATE_DIR": str(self._place / f"{name}-state"),
            }
            self._spawn(name, engine.command, environment)

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        assert self._watchdog is not None, "entered"
        log = self._place / f"{name}.log"
        group = self._watchdog.spawn(command, environment, log)
        self._groups.setdefault(name, []).append(group)

    async def _serves(self, name: str) -> None:
        for engine in self._engines[name]:
            await self._answers(f"{engine.url}{PAGES[engine.name]}")

    async def _answers(self, url: str) -> None:
        """Wait until a page is there. Raises TimeoutError after READY seconds."""
        assert self._http is not None, "entered"
        async with asyncio.timeout(READY):
            while True:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with self._http.get(url) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(POLL)

    def _description(self) -> str:
        """The file that all processes share. The router knows from it which of a node's engines has
        which paths."""
        lines = ["[cluster]", 'cluster = "together"', 'admin = "off"', f'store_size = "{STORE}"']
        lines += ['discovery_time = "1s"', 'drain_delay = "0s"']
        lines += ['engine_types = "/members=members,/=shop"']
        for name, engines in self._engines.items():
            lines += ["", "[[node]]", f'id = "{name}"', f'peer = "{self._peers[name]}"']
            listed = (f'{{url = "{each.url}", type = "{each.name}"}}' for each in engines)
            lines += [f"engines = [{', '.join(listed)}]"]
        return "\n".join(lines) + "\n"


def _shop(port: int) -> Engine:
    command = [sys.executable, "-m", "uvicorn", "demo_app.together.shop:app", "--port", str(port)]
    command += ["--log-level", "warning", "--no-access-log"]
    return Engine("shop", f"http://127.0.0.1:{port}", command)


def _members(port: int) -> Engine:
    command = [sys.executable, "-m", "gunicorn", "-c", "python:sessionha.gunicorn"]
    command += ["--worker-class", "gthread", "--threads", "4", "--bind", f"127.0.0.1:{port}"]
    command += ["--log-level", "warning", "--no-control-socket"]
    command += ["demo_app.together.members:application"]
    return Engine("members", f"http://127.0.0.1:{port}", command)


def _environment() -> dict[str, str]:
    """Ours without other clusters' settings, and the secrets."""
    mine = {name: text for name, text in os.environ.items() if not name.startswith("SESSIONHA_")}
    return mine | {
        "SESSIONHA_SECRET": secrets.token_urlsafe(48),
        "DEMO_SECRET_KEY": secrets.token_urlsafe(48),
    }
