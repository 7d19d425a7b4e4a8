"""A front that passes requests to servers in turn and knows nothing of sessions or cookies.

It does what the simplest load balancer does: asks each server whether it is ready, and tries the
next one when a connection is refused, or when the request may be repeated (its method is
idempotent, or it has an Idempotency-Key).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

CHECK_EVERY = 0.2
"""Seconds between two questions whether a server is ready."""

CONNECT = 1.0
ANSWER = 15.0
"""Seconds; above what a node may wait for its peers (commit and acquire: 5)."""

BODY = 1 << 20

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "proxy-authenticate", "proxy-authorization", "content-length", "expect"}
)


class RoundRobin:
    """Requests in, answers out; one connection for each request."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = tuple(servers)
        self._ready = dict.fromkeys(servers, True)
        self._turns = itertools.count()
        self._http: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        """The front as an aiohttp application."""
        app = web.Application(client_max_size=BODY)
        app.router.add_route("*", "/{path:.*}", self.pass_on)
        app.cleanup_ctx.append(self._run)
        return app

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Answer with what a server answers: 502 when one died with it, 503 when none is left."""
        body = await request.read()
        may_repeat = request.method in IDEMPOTENT or "Idempotency-Key" in request.headers
        for server in self._in_turn():
            try:
                return await self._ask(server, request, body)
            except aiohttp.ClientConnectorError:
                self._ready[server] = False  # nothing was sent
            except (aiohttp.ClientError, TimeoutError):
                if not may_repeat:
                    return web.Response(status=502, text="The server died with this request.\n")
        return web.Response(status=503, text="No server.\n", headers={"Retry-After": "1"})

    def _in_turn(self) -> list[str]:
        """Every server, those that are ready first, beginning with another one each time."""
        first = next(self._turns) % len(self._servers)
        turn = self._servers[first:] + self._servers[:first]
        return sorted(turn, key=lambda server: not self._ready[server])

    async def _ask(self, server: str, request: web.Request, body: bytes) -> web.Response:
        assert self._http is not None, "the application runs"
        async with self._http.request(
            request.method,
            server + request.raw_path,
            headers=_end_to_end(request.headers),
            data=body or None,
            allow_redirects=False,
        ) as response:
            content = await response.read()
            headers = _end_to_end(response.headers)
            return web.Response(status=response.status, body=content, headers=headers)

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        del app
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=ANSWER, sock_connect=CONNECT),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        checks = [asyncio.create_task(self._check(server)) for server in self._servers]
        yield
        for task in checks:
            task.cancel()
        await self._http.close()

    async def _check(self, server: str) -> None:
        assert self._http is not None, "the application runs"
        while True:
            try:
                async with self._http.get(f"{server}/readyz") as response:
                    self._ready[server] = response.status == 200
            except (aiohttp.ClientError, TimeoutError):
                self._ready[server] = False
            await asyncio.sleep(CHECK_EVERY)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    kept = ((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)
    return CIMultiDict(kept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_app.roundrobin", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("servers", nargs="+", metavar="URL")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    app = RoundRobin(options.servers).application()
    with suppress(KeyboardInterrupt):
        web.run_app(app, host=host, port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main()
