"""Two nodes of one application under a real server, and browsers that visit them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp

from sessionha.keys import CANARY_LABEL, hkdf
from sessionha.session.canaries import Wish, canary
from tests.live.cluster import READY, SETTINGS, Server, until
from tests.live.test_servers import GUNICORN, UVICORN, ServedCluster

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "n1", "n2"
UWSGI = ["--master", "--need-app", "--die-on-term", "--disable-logging", "--catch-exceptions"]
CANARY_KEY = hkdf(SETTINGS["SESSIONHA_SECRET"].encode(), CANARY_LABEL)


def uvicorn(application: str) -> list[str]:
    """The command that serves an ASGI application of `tests.contract.applications`."""
    return [*UVICORN, "--lifespan", "auto", f"tests.contract.applications.{application}"]


def gthread(application: str) -> list[str]:
    """The same for a WSGI application: a process of four threads."""
    threads = ["--worker-class", "gthread", "--threads", "4"]
    return [*GUNICORN, *threads, f"tests.contract.applications.{application}"]


def gunicorn_sync(application: str) -> list[str]:
    """The same: a process that serves one request at a time."""
    return [*GUNICORN, "--worker-class", "sync", f"tests.contract.applications.{application}"]


def gevent(application: str) -> list[str]:
    """The same: a process of greenlets."""
    return [*GUNICORN, "--worker-class", "gevent", f"tests.contract.applications.{application}"]


def uwsgi(application: str, *options: str) -> list[str]:
    """The same: a process of uWSGI, of four threads where nothing else is said."""
    given = options or ("--threads", "4")
    return ["uwsgi", *UWSGI, *given, f"tests.contract.applications.{application}"]


class ContractCluster(ServedCluster):
    """Some nodes. They complain when the application makes the mistakes that it is asked for."""

    def __init__(
        self,
        *commands: Sequence[str],
        nodes: int = 2,
        late: Collection[str] = (),
        **environment: str,
    ) -> None:
        """`commands`: those of the nodes, in turn."""
        super().__init__(nodes, commands[0], late=late)
        self._commands = dict(zip(self.names, itertools.cycle(commands), strict=False))
        path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
        for server in self.servers.values():
            server.environment.update({"PYTHONPATH": path, **environment})

    def _launch(self, server: Server) -> None:
        self._command = list(self._commands[server.name])
        super()._launch(server)

    def faults(self) -> list[str]:
        return []

    @property
    def output(self) -> str:
        """What the servers wrote."""
        return "".join(server.output for server in self.servers.values())


@dataclass
class Answer:
    """A response."""

    status: int
    headers: list[tuple[str, str]]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> dict[str, str]:
        """The `Set-Cookie` headers, by the cookies' names."""
        told = [value for name, value in self.headers if name == "set-cookie"]
        return {header.partition("=")[0]: header for header in told}

    @property
    def vary(self) -> set[str]:
        """What the response depends on."""
        told = [value for name, value in self.headers if name == "vary"]
        return {word.strip().lower() for header in told for word in header.split(",") if word}


@dataclass
class Visitor:
    """Somebody's browser, at the site."""

    site: Site
    jar: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Visitor:
        """Another one with the same cookies."""
        return Visitor(self.site, dict(self.jar))

    async def ask(self, act: str, *, node: str = FIRST, **parameters: str) -> Answer:
        """One request to this node, with the jar, which keeps what it is told."""
        url = f"{self.site.cluster[node].url}/{act}"
        cookies = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        headers = {"Cookie": cookies} if cookies else {}
        async with self.site.http.get(url, params=parameters, headers=headers) as response:
            body = await response.text()
            told = [(name.lower(), value) for name, value in response.headers.items()]
        answer = Answer(response.status, told, body)
        for header in answer.cookies.values():
            morsel = next(iter(SimpleCookie(header).values()))
            if morsel["expires"].endswith("1970 00:00:00 GMT") or morsel["max-age"] == "0":
                self.jar.pop(morsel.key, None)
            else:
                self.jar[morsel.key] = morsel.value
        return answer

    async def canary(self, wish: Wish, *, node: str = FIRST) -> Any:
        """What a node reports of a canary with the jar."""
        query = canary([CANARY_KEY], wish, time.time(), secrets.token_hex(8))
        name, _, token = query.partition("=")
        return await self.get("who", node=node, **{name: token})

    async def get(self, act: str, *, node: str = FIRST, **parameters: str) -> Any:
        """What a request that succeeds is answered."""
        answer = await self.ask(act, node=node, **parameters)
        assert answer.status == 200, answer.body
        return answer.json


class SlowRequest:
    """A request that has read the session and waits; what it does then is still to come."""

    def __init__(self, visitor: Visitor, then: str, parameters: dict[str, str]) -> None:
        self._visitor = visitor.copy()
        self._gate = secrets.token_hex(8)
        slow = self._visitor.ask("slow", gate=self._gate, then=then, **parameters)
        self._request = asyncio.create_task(slow)

    async def reached(self) -> bool:
        """Whether it waits by now."""
        return bool(await Visitor(self._visitor.site).get("reached", gate=self._gate))

    async def finish(self) -> Answer:
        """Let it go on, and wait for its answer."""
        await Visitor(self._visitor.site).get("open", gate=self._gate)
        return await self._request


class Site:
    """The nodes, and what their visitors need."""

    def __init__(self, cluster: ContractCluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http

    def visitor(self) -> Visitor:
        """Somebody without cookies."""
        return Visitor(self)

    async def slow(self, visitor: Visitor, then: str, **parameters: str) -> SlowRequest:
        """A request of this visitor that has read its session and waits."""
        request = SlowRequest(visitor, then, parameters)
        await until("a slow request waits", request.reached)
        return request

    async def serving(self, node: str) -> None:
        """Wait until this node answers requests: a member may be one before its server listens."""
        visitor = self.visitor()

        async def answers() -> bool:
            try:
                return (await visitor.ask("who", node=node)).status == 200
            except aiohttp.ClientError:
                return False

        await until(f"{node} serves", answers, READY)
