"""Clients of the live tests: a browser with a cookie jar, and a balancer that knows nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import aiohttp

from sessionha.keys import ROUTE_LABEL, hkdf
from sessionha.session.cookies import Route, RouteCookies

ROUTES = RouteCookies([hkdf(b"insecure-loopback", ROUTE_LABEL)])
"""Reads and signs the route cookies of the clusters here."""

SESSION = "session"
ROUTE = ROUTES.name


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: str
    cookies: tuple[str, ...]
    """Names of the cookies that it set."""

    def __getitem__(self, key: str) -> Any:
        return json.loads(self.body)[key]

    @property
    def node(self) -> str:
        name: str = self["node"]
        return name

    @property
    def session(self) -> dict[str, Any]:
        held: dict[str, Any] = self["session"]
        return held


@dataclass
class Browser:
    """Sends its cookies and keeps what it is told, as browsers do. One connection a request."""

    http: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)

    async def get(self, url: str, **parameters: str) -> Answer:
        return await self.request("GET", url, **parameters)

    async def post(self, url: str, **parameters: str) -> Answer:
        return await self.request("POST", url, **parameters)

    async def request(self, method: str, url: str, **parameters: str) -> Answer:
        """Raises aiohttp.ClientConnectorError when nobody listens there."""
        async with self.http.request(
            method, url, params=parameters, headers=self.headers()
        ) as response:
            body = await response.text()
            told = self._keep(response.headers.getall("Set-Cookie", []))
            return Answer(response.status, dict(response.headers), body, told)

    def headers(self) -> dict[str, str]:
        """What it sends along."""
        if not self.cookies:
            return {}
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}

    def _keep(self, headers: Sequence[str]) -> tuple[str, ...]:
        told = []
        for header in headers:
            for name, morsel in SimpleCookie(header).items():
                told.append(name)
                if morsel["expires"].endswith("1970 00:00:00 GMT"):
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        return tuple(told)

    def copy(self) -> Browser:
        """Another one with the same cookies."""
        return Browser(self.http, dict(self.cookies))

    @property
    def route(self) -> Route:
        """What its route cookie says."""
        found = ROUTES.read(self.cookies[ROUTE])
        assert found is not None, "the route cookie is valid"
        return found

    @property
    def group(self) -> bytes:
        return self.route.group

    @property
    def primary(self) -> str:
        return self.route.servers[0]

    @property
    def backups(self) -> tuple[str, ...]:
        return self.route.servers[1:]


class RoundRobin:
    """A balancer that knows nothing of sessions: the next server in turn, the one after it when
    nobody listens there."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._turns = itertools.cycle(range(len(urls)))

    async def get(self, browser: Browser, path: str, **parameters: str) -> Answer:
        return await self._request("GET", browser, path, parameters)

    async def post(self, browser: Browser, path: str, **parameters: str) -> Answer:
        return await self._request("POST", browser, path, parameters)

    async def _request(
        self, method: str, browser: Browser, path: str, parameters: dict[str, str]
    ) -> Answer:
        for attempt in range(len(self._urls)):
            url = self._urls[next(self._turns)]
            try:
                return await browser.request(method, url + path, **parameters)
            except aiohttp.ClientConnectorError:
                if attempt == len(self._urls) - 1:
                    raise
        raise AssertionError("there are servers")
