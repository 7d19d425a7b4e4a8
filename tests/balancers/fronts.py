"""Real balancers for the tests, each with the configuration that is made for it.

A kind is one entry in `KINDS`: how it is made (`demo_app.fronts`) and what it can.
"""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from demo_app.fronts import (
    NJS,
    SESSIONHA,
    Envoy,
    Front,
    HAProxy,
    Nginx,
    executable,
    follow_words,
)
from demo_app.processes import Group, Ports, Watchdog, rows
from sessionha.balancers.document import Document, keys_of
from sessionha.balancers.envoy import ROUTES
from sessionha.balancers.haproxy_socket import Unusable, ask
from sessionha.balancers.installing import differing, install, run, write
from sessionha.balancers.kinds import KINDS as CONFIGURED
from sessionha.settings import Settings
from tests.live.cluster import until


class Make(Protocol):
    """Makes a front."""

    def __call__(
        self, place: Path, port: int, own_port: int, *, response_timeout: float
    ) -> Front: ...


At = Callable[[Front, Document], Awaitable[bool]]


@dataclass(frozen=True)
class Kind:
    """A balancer, and what it can."""

    make: Make
    needs: tuple[Path | str, ...]
    """Programs or files without which it does not run."""
    can: frozenset[str] = frozenset()
    """Of what vectors may need."""
    alike: bool = False
    """Another kind here has the same chain: how that goes on after a death is seen there."""
    repeats: int = 300_000
    """Bytes of a body that it sends again when a server dies with it."""
    unsettled: bool = False
    """Its processes are replaced by a reload."""
    at: At | None = None
    """Whether it is at what it was told, and has seen that all servers live; None: it does not
    look at them by itself."""


RETRUSTED = 0.1
"""Seconds after which the balancers here look again at a server that failed."""


async def _haproxy_at(front: Front, document: Document) -> bool:
    try:
        told = await ask(front.options.socket, "show stat")
    except Unusable:
        return False
    rows = list(csv.DictReader(told.removeprefix("# ").splitlines()))
    names = {server.name for server in document.known}
    checked = [row for row in rows if row["svname"] in names and row["check_status"]]
    up = {row["svname"] for row in checked if row["check_status"] in ("L4OK", "L7OK")}
    return up == names and all(row["status"] != "DOWN" for row in checked)


async def _envoy_at(front: Front, document: Document) -> bool:
    assert isinstance(front, Envoy)
    url = f"http://127.0.0.1:{front.own_port}"
    try:
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/clusters?format=json") as response:
                clusters = (await response.json(content_type=None))["cluster_statuses"]
            async with http.get(f"{url}/config_dump?resource=dynamic_route_configs") as response:
                routes = await response.text()
    except aiohttp.ClientError:
        return False
    hosts = [host for each in clusters for host in each.get("host_statuses", ())]
    ports = {host["address"]["socket_address"]["port_value"] for host in hosts}
    healthy = all(host["health_status"].get("eds_health_status") == "HEALTHY" for host in hosts)
    ill = any("failed_active_health_check" in host["health_status"] for host in hosts)
    members = {each.port for each in (*document.routable, *document.draining)}
    version = (front.options.place / ROUTES).read_text(encoding="utf-8").split('"', 2)[1]
    return ports == members and healthy and not ill and version in routes


KINDS: Mapping[str, Kind] = {
    "nginx": Kind(partial(Nginx, verify=False), ("nginx",), unsettled=True),
    "nginx-njs": Kind(
        partial(Nginx, verify=True),
        ("nginx", NJS),
        frozenset({"signature"}),
        alike=True,
        unsettled=True,
    ),
    "haproxy": Kind(
        partial(HAProxy, retrusted=RETRUSTED),
        ("haproxy",),
        frozenset({"signature"}),
        repeats=12_000,
        unsettled=True,
        at=_haproxy_at,
    ),
    "envoy": Kind(
        partial(Envoy, retrusted=RETRUSTED),
        ("envoy",),
        frozenset({"signature", "every-cookie", "passed on"}),
        at=_envoy_at,
    ),
}

FOLLOWED = ("nginx-njs", "haproxy", "envoy")
"""Kinds that are driven in front of real nodes: of two that differ little only one."""

kinds = pytest.mark.parametrize("kind", KINDS)


def require(kind: str) -> None:
    """Skip where the balancer is not installed; fail in CI."""
    absent = [
        str(each)
        for each in KINDS[kind].needs
        if not Path(executable(each) if isinstance(each, str) else each).exists()
    ]
    if absent and os.environ.get("CI") == "true":
        pytest.fail(f"{', '.join(absent)} must be installed in CI", pytrace=False)
    if absent:
        pytest.skip(f"{', '.join(absent)} is not installed")


_ports = Ports(29_000 + os.getpid() * 8 % 1_500)


class Running:
    """A balancer that runs with what is made of the documents that it is told."""

    def __init__(
        self, kind: str, place: Path, watchdog: Watchdog, settings: Settings, patience: float
    ) -> None:
        """`patience`: seconds until a server that does not answer counts as dead."""
        self.port = _ports.take()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = place / "balancer.log"
        self.front = KINDS[kind].make(place, self.port, _ports.take(), response_timeout=patience)
        self.fresh = False
        self.can = KINDS[kind].can
        self._followed: Group | None = None
        self._unsettled = KINDS[kind].unsettled
        self._at = KINDS[kind].at
        self._balancer = CONFIGURED[self.front.kind]
        self._settings = settings
        self._watchdog = watchdog
        self._group: Group | None = None

    async def tell(self, document: Document) -> None:
        """Start it, or bring it to the document; return when it serves by that alone.

        While it is `fresh` it also forgets who failed.
        """
        await self._tell(document)
        if (at := self._at) is not None:
            await until(f"{self.front.kind} is there", lambda: at(self.front, document))

    async def _tell(self, document: Document) -> None:
        options, keys = self.front.options, keys_of(self._settings)
        files = self._balancer.files(document, keys, options)
        if self._group is None:
            self.front.prepare()
            write(options.place, files)
            self._group = self._watchdog.spawn(self.front.command, os.environ, self.log)
            await until(f"{self.front.kind} listens", self._listens)
            return
        changed = differing(options.place, files)
        found = await install(options.place, changed, self.front.check)
        assert found.done, found.words
        if not self.fresh and all(file.live for file in changed.values()):
            return
        if await self._balancer.adopt(document, keys, options) or not self.front.reload:
            return
        before = self.processes()
        reloaded = await run(self.front.reload)
        assert reloaded.done, reloaded.words

        async def settled() -> bool:
            return not before & self.processes() and bool(self.processes())

        if self._unsettled:
            await until("the old processes have ended", settled)

    @property
    def pid(self) -> int:
        """Of its first process."""
        assert self._group is not None, "it runs"
        return self._group.pid

    def follow(self, environment: Mapping[str, str]) -> None:
        """From now on it follows a cluster by itself."""
        command = [*SESSIONHA, "follow", *follow_words(self.front)]
        self._followed = self._watchdog.spawn(command, environment, self.log)

    async def _listens(self) -> bool:
        if self._group is not None and not self._group.running:
            raise AssertionError(f"it ended: {self.log.read_text()}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionError:
            return False
        writer.close()
        return True

    def processes(self) -> set[int]:
        """Those that serve, not the one that watches them."""
        group = self._group
        assert group is not None, "it runs"
        return {row.pid for row in rows() if row.parent == group.pid and row.alive}

    async def stop(self) -> None:
        """Kill it."""
        for group in (self._followed, self._group):
            if group is not None:
                await group.kill()


@asynccontextmanager
async def running(
    kind: str, settings: Settings, *, patience: float = 30.0
) -> AsyncIterator[Running]:
    """A balancer of a kind, not started before it is told a document."""
    require(kind)
    place = Path(tempfile.mkdtemp(prefix="sessionha-balancer-"))
    watchdog = Watchdog.start([place])
    made = Running(kind, place, watchdog, settings, patience)
    try:
        yield made
    except BaseException:
        if made.log.exists():
            print(f"--- {kind}\n{made.log.read_text(errors='replace')}")
        raise
    finally:
        await made.stop()
        await watchdog.stop()
        shutil.rmtree(place, ignore_errors=True)
