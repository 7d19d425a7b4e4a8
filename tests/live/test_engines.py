"""Engines with addresses of their own: real processes, and a router that does both stages."""

from __future__ import annotations

from dataclasses import replace

import aiohttp

from tests.live.clients import Browser
from tests.live.cluster import READY, Cluster, Server, free_port, until


class Engines(Cluster):
    """Nodes whose two engines are described, and started, each by itself. Engine 1 of n2 is of the
    type `api`, to which routers send `/who`."""

    def __init__(self, nodes: int) -> None:
        super().__init__(nodes, session_in="both", engine_types="/who=api")
        tables = ['[cluster]\ncluster = "live"\n']
        self.engines: dict[str, list[Server]] = {}
        for name, server in self.servers.items():
            server.workers = 2
            second = replace(server, port=free_port(), log=server.log.with_suffix(".2.log"))
            self.engines[name] = [server, second]
            kind = "api" if name == "n2" else "web"
            engines = f'{{url = "{server.url}"}}, {{url = "{second.url}", type = "{kind}"}}'
            table = f'id = "{name}"\npeer = "{server.peer}"\nengines = [{engines}]\n'
            tables.append(f"[[node]]\n{table}")
        config = self._place / "cluster.toml"
        config.write_text("\n".join(tables))
        for environment in (
            self.environment,
            *(each.environment for each in self.servers.values()),
        ):
            del environment["SESSIONHA_NODES"], environment["SESSIONHA_CLUSTER"]
            environment["SESSIONHA_CONFIG"] = str(config)

    def _launch(self, server: Server) -> None:
        for each in self.engines[server.name]:
            environment = {**server.environment, "SESSIONHA_URL": each.url}
            alone = replace(each, workers=1, environment=environment)
            super()._launch(alone)
            each.group = alone.group
        second = self.engines[server.name][1].group
        assert second is not None, "launched"
        self._others.append(second)


async def test_both_stages_with_cookies_and_with_headers(
    browser: Browser, http: aiohttp.ClientSession
) -> None:
    """System 1 (a): two nodes with two engines of equal IDs: 100 requests with the cookie (n2, e1)
    are executed by that process. (c): so are those of a client without cookies. (i): killed, its
    sibling answers with the session, and the cookie names the sibling. (d): requests for its type
    reached it alone, and are 503 then."""
    async with Engines(2) as cluster:
        url = cluster.launch_router()
        own, sibling = cluster.engines["n2"][1], cluster.engines["n2"][0]

        async def routed() -> bool:
            try:
                async with http.get(f"{url}/who") as response:
                    return response.status == 200
            except aiohttp.ClientConnectorError:
                return False

        await until("the router knows the nodes", routed, READY)
        first = await browser.post(f"{own.url}/increment")
        assert browser.route.servers == ("n2--e1", "n1")
        answers = [await browser.get(f"{url}/read") for _ in range(100)]
        assert {answer["pid"] for answer in answers} == {first["pid"]}
        typed = [await Browser(http).get(f"{url}/who") for _ in range(4)]
        assert {answer["pid"] for answer in typed} == {first["pid"]}

        kept = {"Sessionha-Token": "none"}
        pids = set()
        for count in range(1, 11):
            async with http.post(f"{url}/increment", headers=kept) as response:
                told = await response.json()
                assert (told["n"], response.cookies) == (count, {})
                pids.add(told["pid"])
                names = ("Sessionha-Token", "Sessionha-Route")
                kept |= {name: response.headers[name] for name in names if name in response.headers}
        assert len(pids) == 1

        assert own.group is not None
        await own.group.kill()
        answer = await browser.post(f"{url}/increment")
        assert (answer.node, answer["n"]) == ("n2", 2)
        assert answer["pid"] != first["pid"]
        assert browser.route.servers == ("n2--e0", "n1")
        refused = await browser.get(f"{url}/who")
        assert refused.status == 503
        assert "no server with engines of type api can be reached" in refused.body
        direct = await browser.get(f"{sibling.url}/read")
        assert (direct["pid"], direct.cookies) == (answer["pid"], ())
        assert await cluster.counted("handovers") == 0, "the node stayed what it was"
