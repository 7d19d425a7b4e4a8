"""Layers in front of nodes that do one thing wrong each: real proxies in the tests' process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

PASSED = ("user-agent", "accept")
RETURNED = ("content-type", "cache-control", "vary", "retry-after")


class Layer:
    """Passes requests to the server that the route cookie names first, others by turns: as a good
    balancer does. Knows the servers by the names that cookies carry."""

    def __init__(self, servers: Mapping[str, str]) -> None:
        self.servers = dict(servers)
        self._turn = 0
        self._http: aiohttp.ClientSession | None = None

    async def choose(self, cookies: Mapping[str, str]) -> str:
        """The server for a request."""
        named = cookies.get("hsr", "1.").split(".")[1].split("~")[0]
        return named if named in self.servers else await self.newcomer()

    async def newcomer(self) -> str:
        """The server for a client that nobody knows: the next one that is ready."""
        for _ in self.servers:
            name = self.next()
            if await self.is_ready(name):
                return name
        return self.next()

    def next(self) -> str:
        """By turns."""
        self._turn += 1
        return list(self.servers)[self._turn % len(self.servers)]

    async def is_ready(self, name: str) -> bool:
        """What the server's `/readyz` says."""
        assert self._http is not None, "it listens"
        async with self._http.get(f"{self.servers[name]}/readyz") as response:
            return response.status == 200

    def path(self, path: str) -> str:
        """What the server is asked for."""
        return path

    def asks(self, cookie: str) -> str:
        """The Cookie header that the server gets; empty: none."""
        return cookie

    def tells(self, set_cookie: str) -> str:
        """A Set-Cookie header that the client gets; empty: none."""
        return set_cookie

    def adds(self, name: str, cookies: Mapping[str, str]) -> str:
        """A Set-Cookie header of its own; empty: none."""
        del name, cookies
        return ""

    async def pass_on(self, request: web.Request) -> web.Response:
        """Serve one request."""
        assert self._http is not None, "it listens"
        cookie = request.headers.get("Cookie", "")
        cookies = {name: each.value for name, each in SimpleCookie(cookie).items()}
        name = await self.choose(cookies)
        headers = {key: value for key, value in request.headers.items() if key.lower() in PASSED}
        if kept := self.asks(cookie):
            headers["Cookie"] = kept
        path = self.path(request.path) + (f"?{request.query_string}" if request.query else "")
        async with self._http.get(self.servers[name] + path, headers=headers) as response:
            told = CIMultiDict(
                (key, value) for key, value in response.headers.items() if key.lower() in RETURNED
            )
            cookies_told = map(self.tells, response.headers.getall("Set-Cookie", []))
            for each in filter(None, [*cookies_told, self.adds(name, cookies)]):
                told.add("Set-Cookie", each)
            told["Server"] = "layer"
            return web.Response(status=response.status, body=await response.read(), headers=told)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serves meanwhile; gives its URL."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.pass_on)
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as self._http,
            serving(app) as url,
        ):
            yield url


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """The application at a free port of loopback."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


class StripsCookies(Layer):
    """Passes no cookies."""

    def asks(self, cookie: str) -> str:
        return ""


class KeepsSome(Layer):
    """Passes the application's cookies only, as a CDN with a list of names does."""

    def asks(self, cookie: str) -> str:
        return "; ".join(pair for pair in cookie.split("; ") if not pair.startswith("hsr="))


class HidesSetCookie(Layer):
    """Returns no Set-Cookie of the route, as a cache does that was told to."""

    def tells(self, set_cookie: str) -> str:
        return "" if set_cookie.startswith("hsr=") else set_cookie


class RewritesPaths(Layer):
    """Has the application at /shop, which calls itself /app."""

    def path(self, path: str) -> str:
        return path.replace("/shop", "/app", 1)


class RewritesCookies(Layer):
    """Gives cookies another path."""

    def tells(self, set_cookie: str) -> str:
        return set_cookie.replace("path=/app", "path=/elsewhere")


class Sticks(Layer):
    """Binds clients to servers by a cookie of its own."""

    async def choose(self, cookies: Mapping[str, str]) -> str:
        stuck = cookies.get("SRV", "")
        return stuck if stuck in self.servers else await self.newcomer()

    def adds(self, name: str, cookies: Mapping[str, str]) -> str:
        return "" if "SRV" in cookies else f"SRV={name}; path=/"


class SticksFirst(Sticks):
    """Looks at the route only where it does not know the client."""

    async def choose(self, cookies: Mapping[str, str]) -> str:
        if cookies.get("SRV", "") in self.servers:
            return cookies["SRV"]
        return await Layer.choose(self, cookies)


class IgnoresDrains(Layer):
    """Asks nobody whether he is ready."""

    async def is_ready(self, name: str) -> bool:
        return True


class AlwaysTheSame(Layer):
    """Chooses by the client's address."""

    async def choose(self, cookies: Mapping[str, str]) -> str:
        return next(iter(self.servers))
