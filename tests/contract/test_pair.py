"""A Django and a FastAPI application of one domain share their client, on two nodes."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import aiohttp
import pytest

from demo_app.processes import Group
from tests.contract.site import ContractCluster, Site, gthread, uvicorn
from tests.live.cluster import READY, Server, free_port, until


class PairCluster(ContractCluster):
    """Each node serves the account by uvicorn, and beside it the shop by gunicorn."""

    def __init__(self) -> None:
        super().__init__(uvicorn("fastapi_account:app"))
        self.shops: dict[str, Server] = {}
        self._shops: dict[str, Group] = {}
        for name, server in self.servers.items():
            server.workers = 2  # engines of the node
            port = free_port()
            log = server.log.with_name(f"{name}-shop.log")
            environment = server.environment
            self.shops[name] = Server(
                name, server.host, port, server.peer, environment, server.store, log
            )

    def _launch(self, server: Server) -> None:
        server.workers = 1
        super()._launch(server)
        server.workers = 2
        shop = self.shops[server.name]
        program, *options = gthread("django_shop:app")
        command = [sys.executable, "-m", program, "--bind", f"{shop.host}:{shop.port}", *options]
        self._shops[server.name] = self.watchdog.spawn(command, shop.environment, shop.log)

    async def kill(self, *names: str) -> None:
        await asyncio.gather(super().kill(*names), *(self._shops.pop(n).kill() for n in names))

    async def close(self, *, failed: bool = False) -> None:
        await asyncio.gather(*(group.kill() for group in self._shops.values()))
        await super().close(failed=failed)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="the shared store needs Linux")
async def test_both_sessions_of_a_client_lie_and_move_together() -> None:
    """One group, told by one route cookie; when the node dies with both of its servers, the other
    node has both sessions."""
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
        PairCluster() as cluster,
    ):
        visitor = Site(cluster, http).visitor()

        async def count(server: Server) -> int:
            cookies = "; ".join(f"{name}={value}" for name, value in visitor.jar.items())
            async with http.get(f"{server.url}/count", headers={"Cookie": cookies}) as response:
                for header in response.headers.getall("set-cookie", ()):
                    name, _, value = header.partition(";")[0].partition("=")
                    visitor.jar[name] = value
                n: int = (await response.json())["n"]
                return n

        async def serves(server: Server) -> bool:
            try:
                async with http.get(f"{server.url}/", headers={}) as response:
                    return response.status == 404
            except aiohttp.ClientError:
                return False

        for server in (*cluster.servers.values(), *cluster.shops.values()):
            await until(f"{server.url} serves", partial(serves, server), READY)
        for n in (1, 2):
            assert await count(cluster.shops["n1"]) == n
            assert await count(cluster["n1"]) == n
        group = visitor.jar["sessionid"][:16]
        assert visitor.jar["account"].startswith(group)
        assert visitor.jar["hsr"].startswith("1.n1~n2.")
        await cluster.kill("n1")
        assert await count(cluster.shops["n2"]) == 3
        assert await count(cluster["n2"]) == 3
        assert visitor.jar["hsr"].startswith("1.n2.")
