"""`sessionha doctor URL` in front of real nodes: names each misconfigured layer, else silence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack

import aiohttp
import pytest
import pytest_asyncio

from demo_app.roundrobin import RoundRobin
from sessionha.cli import main
from sessionha.keys import new_secret
from tests.front import layers
from tests.front.app import CLOCK, PATH
from tests.front.layers import Layer, serving
from tests.live.cluster import Cluster, free_port, until
from tests.live.test_servers import PATIENT

Output = pytest.CaptureFixture[str]

FIRST, SECOND, OTHER = new_secret(), new_secret(), new_secret()


class FrontCluster(Cluster):
    """Three nodes whose cookies belong to /app, and three more that are started when they are
    needed: one with another secret, one with a wrong clock, one that lacks a key."""

    application = "tests.front.app:create_app"

    def __init__(self) -> None:
        super().__init__(
            6,
            late=("n4", "n5", "n6"),
            secret=f"{FIRST},{SECOND}",
            consistency="available",
            backups=1,
            health_path="/",
            heal_after="0s",
        )
        self.tell(**PATIENT)
        for server in self.servers.values():
            server.environment[PATH] = "/app"
        self["n4"].environment["SESSIONHA_SECRET"] = OTHER
        self["n5"].environment[CLOCK] = "3600"
        self["n6"].environment["SESSIONHA_SECRET"] = SECOND
        self["n2"].environment["SESSIONHA_ADMIN"] = self.admin = f"127.0.0.1:{free_port()}"

    def urls(self, *more: str) -> dict[str, str]:
        """Where the first three nodes, and these, serve."""
        return {name: self[name].url for name in ("n1", "n2", "n3", *more)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[FrontCluster]:
    async with FrontCluster() as made:
        yield made


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONHA_SECRET", f"{FIRST},{SECOND}")


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.processes]


async def examine(capsys: Output, url: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and what is not fine, by check."""
    capsys.readouterr()
    code = await asyncio.to_thread(main, ["doctor", url, "--json"])
    rows = json.loads(capsys.readouterr().out)["checks"]
    wrong = {row["check"]: (row["found"], row["remedy"]) for row in rows if row["outcome"] != "ok"}
    assert len(rows) >= 1
    return code, wrong


async def ready(url: str, status: int = 200) -> bool:
    async with aiohttp.ClientSession() as http:
        try:
            async with http.get(f"{url}/readyz") as response:
                return response.status == status
        except aiohttp.ClientError:
            return False


async def routed(cluster: FrontCluster, **settings: str) -> str:
    url = cluster.launch_router(**settings)
    await until("the router knows a server", lambda: ready(url))
    return url


async def settled(capsys: Output, url: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """What is complained about still, once nodes that a busy machine let wait have gone on."""
    for _ in range(4):
        if not (found := await examine(capsys, url))[0]:
            return found
    return await examine(capsys, url)


async def test_a_healthy_cluster_is_not_complained_about(
    cluster: FrontCluster, capsys: Output
) -> None:
    """Behind the router of sessionha, and behind another good balancer; and its sessions end."""
    url = await routed(cluster)
    assert await settled(capsys, f"{url}/app/") == (0, {})
    async with Layer(cluster.urls()).listening() as url:
        assert await settled(capsys, f"{url}/app/") == (0, {})
    told = [(await cluster.ask(name))["affinity"] for name in cluster.living]
    assert not any(count for each in told for way, count in each.items() if way == "lb_ignored")
    assert all(each["kept"] for each in told)


async def test_round_robin_is_named(cluster: FrontCluster, capsys: Output) -> None:
    """The demo's front, that knows nothing of cookies; nodes count what it does."""
    front = RoundRobin(list(cluster.urls().values())).application()
    async with serving(front) as url:
        code, wrong = await examine(capsys, f"{url}/app/")
    assert (code, list(wrong)) == (1, ["balancer"]), wrong
    assert "spreads requests over n1, n2, n3 whatever `hsr` says" in wrong["balancer"][0]
    told = [(await cluster.ask(name))["affinity"] for name in cluster.living]
    assert all(each["lb_ignored"] for each in told)


LAYERS: Mapping[str, tuple[Callable[[Mapping[str, str]], Layer], str, str, str]] = {
    "cookies stripped": (
        layers.StripsCookies, "/app/", "cookies", "'layer') drops `hsr` and `session` from requests"
    ),
    "route cookie stripped": (
        layers.KeepsSome, "/app/", "cookies", "drops `hsr` from requests"
    ),
    "Set-Cookie hidden": (
        layers.HidesSetCookie, "/app/", "cookies", "drops the Set-Cookie of `hsr` from answers"
    ),
    "path rewritten": (
        layers.RewritesPaths, "/shop/", "cookie path",
        "browsers do not send `session` to /shop/: its path is /app; the layer in front (it says"
        " 'layer') rewrites /shop/ to /app/",
    ),
    "path of cookies rewritten": (
        layers.RewritesCookies, "/app/", "cookie path", "which the layer in front (it says 'layer')"
        " made of /app",
    ),
    "sticky by another cookie": (
        layers.Sticks, "/app/", "balancer", "sticks clients to servers by `SRV`"
    ),
    "sticky by another cookie first": (
        layers.SticksFirst, "/app/", "balancer", "sticks clients to servers by `SRV`"
    ),
    "by address": (
        layers.AlwaysTheSame, "/app/", "balancer", "passes every request to n1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
async def test_a_misconfigured_layer_is_named(
    cluster: FrontCluster, capsys: Output, layer: str
) -> None:
    """The cause, and nothing that only follows from it."""
    make, path, check, words = LAYERS[layer]
    async with make(cluster.urls()).listening() as url:
        code, wrong = await examine(capsys, url + path)
    assert (code, list(wrong)) == (1, [check]), wrong
    assert words in wrong[check][0]
    assert wrong[check][1], "with a remedy"


async def test_a_server_that_gets_nothing_is_named(cluster: FrontCluster, capsys: Output) -> None:
    servers = cluster.urls()
    del servers["n3"]
    async with Layer(servers).listening() as url:
        code, wrong = await examine(capsys, f"{url}/app/")
    assert (code, list(wrong)) == (1, ["balancer"]), wrong
    assert "passes nothing to n3" in wrong["balancer"][0]


async def test_a_server_that_gets_nothing_is_named_beside_round_robin(
    cluster: FrontCluster, capsys: Output
) -> None:
    servers = cluster.urls()
    del servers["n3"]
    async with serving(RoundRobin(list(servers.values())).application()) as url:
        await asyncio.to_thread(main, ["doctor", f"{url}/app/"])
    out = capsys.readouterr().out
    assert "passes nothing to n3" in out
    assert "spreads requests over n1, n2 whatever" in out


async def test_a_router_with_other_route_keys_is_named(
    cluster: FrontCluster, capsys: Output
) -> None:
    """A rotation of the secret that was not brought to its end."""
    url = await routed(cluster, secret=SECOND)
    code, wrong = await examine(capsys, f"{url}/app/")
    assert (code, list(wrong)) == (1, ["route keys"]), wrong
    assert "with other keys than the nodes sign with" in wrong["route keys"][0]
    url = await routed(cluster, route_cookie="another")
    code, wrong = await examine(capsys, f"{url}/app/")
    assert (code, list(wrong)) == (1, ["route keys"]), wrong
    assert "does not read the nodes' route cookies" in wrong["route keys"][0]


async def test_an_ignored_drain_is_named(cluster: FrontCluster, capsys: Output) -> None:
    """And a balancer that heeds it is not complained about."""
    n1, n2 = cluster["n1"].url, cluster["n2"].url
    assert await ready(n1)
    await drain(cluster, "n2", "--restart")
    try:
        await until("n2 says so", lambda: ready(n2, 404))
        async with layers.IgnoresDrains(cluster.urls()).listening() as url:
            code, wrong = await examine(capsys, f"{url}/app/")
        assert (code, list(wrong)) == (1, ["drain"]), wrong
        assert "gives new clients to n2, which is draining" in wrong["drain"][0]
        async with Layer(cluster.urls()).listening() as url:
            assert await examine(capsys, f"{url}/app/") == (0, {})
    finally:
        await drain(cluster, "n2", "--cancel")
        await until("n2 is ready", lambda: ready(n2))


async def drain(cluster: FrontCluster, name: str, how: str) -> None:
    arguments = ["drain", name, how, "--url", cluster.admin, "--json"]
    await asyncio.to_thread(main, arguments)


async def with_node(cluster: FrontCluster, name: str, stack: AsyncExitStack) -> str:
    """One of the late nodes until the end; the URL of a balancer that knows it as well."""
    cluster.launch(name)
    stack.push_async_callback(cluster.kill, name)
    await until(f"{name} is ready", lambda: ready(cluster[name].url))
    return await stack.enter_async_context(Layer(cluster.urls(name)).listening())


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("n4", "secrets", "to a node with another cluster secret than n1, n2, n3"),
        ("n5", "clocks", "the clock of n5 is 3"),
        ("n6", "route keys", "n6 cannot verify the route cookies of n1, n2, n3"),
    ],
)
async def test_a_node_that_is_unlike_the_others_is_named(
    cluster: FrontCluster, capsys: Output, name: str, check: str, words: str
) -> None:
    """Another cluster secret; a clock one hour off; a route key that it lacks."""
    async with AsyncExitStack() as stack:
        url = await with_node(cluster, name, stack)
        code, wrong = await examine(capsys, f"{url}/app/")
    assert (code, list(wrong)) == (1, [check]), wrong
    assert words in wrong[check][0]
