"""The loopback door of the supervisor: the page's buttons kill servers and start them here.

It is apart from the shop so that a button still answers when the server that made the page is
dead. Every change needs the token of this run, which only the page carries; a request under another
host's name is refused, so that no site in the browser can pretend to be the page.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from demo_app.cluster import Cluster

HOSTS = ("127.0.0.1", "localhost")


class Control:
    """Serves the states of the servers, `kill` and `start` on a loopback port."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._fronts = tuple(f"http://{host}:{cluster.front_port}" for host in HOSTS)
        self._runner = web.AppRunner(self.application(), access_log=None, handle_signals=False)

    def application(self) -> web.Application:
        """The door as an aiohttp application."""
        app = web.Application(client_max_size=4096, middlewares=[_only_loopback])
        app.router.add_get("/servers", self.states)
        app.router.add_post("/servers/{name}/kill", self.kill)
        app.router.add_post("/servers/{name}/start", self.start_again)
        return app

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._cluster.control_port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def states(self, request: web.Request) -> web.Response:
        """Which servers are up, starting or down; the page asks every second."""
        headers = {"Cache-Control": "no-store", "Vary": "Origin"}
        if (origin := request.headers.get("Origin")) in self._fronts:
            headers["Access-Control-Allow-Origin"] = str(origin)
        servers = [
            {"name": node.name, "state": node.state} for node in self._cluster.nodes.values()
        ]
        return web.json_response({"servers": servers}, headers=headers)

    async def kill(self, request: web.Request) -> web.Response:
        """SIGKILL a server, then back to the shop."""
        await self._cluster.kill(await self._server(request))
        return self._back(request)

    async def start_again(self, request: web.Request) -> web.Response:
        """Start a dead server; back to the shop at once, which shows it starting."""
        self._cluster.revive(await self._server(request))
        return self._back(request)

    async def _server(self, request: web.Request) -> str:
        token = str((await request.post()).get("token", ""))
        if not secrets.compare_digest(token.encode(), self._cluster.token.encode()):
            raise web.HTTPForbidden(text="This button is of another run. Reload the page.\n")
        name = request.match_info["name"]
        if name not in self._cluster.nodes:
            raise web.HTTPNotFound(text="No such server.\n")
        return name

    def _back(self, request: web.Request) -> web.Response:
        """To the front under the name the browser knows it by; never to any other place."""
        referer = urlsplit(request.headers.get("Referer", ""))
        origin = f"{referer.scheme}://{referer.netloc}"
        front = origin if origin in self._fronts else self._fronts[0]
        if any(node.state == "up" for node in self._cluster.nodes.values()):
            raise web.HTTPSeeOther(f"{front}/#servers")
        return web.Response(text=self._all_down(front), content_type="text/html")

    def _all_down(self, front: str) -> str:
        """What the browser sees when no server is left that could make a page."""
        buttons = "".join(
            f'<form method="post" action="/servers/{name}/start">'
            f'<input type="hidden" name="token" value="{self._cluster.token}">'
            f'<button style="min-height:44px">Start {name} again</button></form><br>'
            for name in self._cluster.nodes
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>No server is up</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<body style="font:1rem/1.5 system-ui;max-width:30rem;margin:3rem auto;padding:0 1rem">'
            "<h1>No server is up</h1><p>Nobody is left to show the shop. A server needs a few"
            f" seconds to start.</p>{buttons}"
            f'<p><a href="{front}/">Back to the shop</a></p></body></html>'
        )


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _only_loopback(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.url.host not in HOSTS:
        raise web.HTTPForbidden(text="Only for this machine.\n")
    return await handler(request)
