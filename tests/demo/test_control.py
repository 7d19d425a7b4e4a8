"""The supervisor's door: who may kill a server, and where the browser goes afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from demo_app.cluster import Cluster, Plan
from demo_app.control import Control

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster that believes itself up; no process was started."""
    made = Cluster(Plan(port=20_000))
    for node in made.nodes.values():
        node.state = "up"
    yield made
    await made.stop()


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with TestClient(TestServer(Control(cluster).application())) as made:
        yield made


async def test_tells_the_states(client: Client, cluster: Cluster) -> None:
    cluster.nodes["n2"].state = "starting"
    answer = await (await client.get("/servers")).json()
    states = [(server["name"], server["state"]) for server in answer["servers"]]
    assert states == [("n1", "up"), ("n2", "starting"), ("n3", "up")]


async def test_only_the_shop_may_read_the_states_from_a_browser(
    client: Client, cluster: Cluster
) -> None:
    shop = await client.get("/servers", headers={"Origin": cluster.url})
    other = await client.get("/servers", headers={"Origin": "http://evil.test"})
    assert shop.headers["Access-Control-Allow-Origin"] == cluster.url
    assert "Access-Control-Allow-Origin" not in other.headers


@pytest.mark.parametrize("action", ["kill", "start"])
async def test_without_the_token_nothing_happens(client: Client, action: str) -> None:
    response = await client.post(f"/servers/n1/{action}", data={"token": "guess"})
    assert response.status == 403
    assert (await client.post(f"/servers/n1/{action}")).status == 403


async def test_a_link_kills_nobody(client: Client) -> None:
    assert (await client.get("/servers/n1/kill")).status == 405


async def test_a_request_under_another_name_is_refused(client: Client, cluster: Cluster) -> None:
    """A site whose name was pointed at this machine cannot act in the page's place."""
    response = await client.post(
        "/servers/n1/kill", data={"token": cluster.token}, headers={"Host": "evil.test"}
    )
    assert response.status == 403


async def test_an_unknown_server_is_not_found(client: Client, cluster: Cluster) -> None:
    response = await client.post("/servers/n9/kill", data={"token": cluster.token})
    assert response.status == 404


@pytest.mark.parametrize(
    ("referer", "host"),
    [
        ("http://127.0.0.1:{port}/", "127.0.0.1"),
        ("http://localhost:{port}/", "localhost"),
        ("http://evil.test/", "127.0.0.1"),
        ("http://localhost:1/", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
async def test_the_way_back_leads_to_the_shop_only(
    client: Client, cluster: Cluster, referer: str, host: str
) -> None:
    response = await client.post(
        "/servers/n1/kill",
        data={"token": cluster.token},
        headers={"Referer": referer.format(port=cluster.front_port)},
        allow_redirects=False,
    )
    assert response.status == 303
    assert response.headers["Location"] == f"http://{host}:{cluster.front_port}/#servers"


async def test_when_no_server_is_left_the_door_itself_offers_to_start_one(
    client: Client, cluster: Cluster
) -> None:
    for node in cluster.nodes.values():
        node.state = "down"
    response = await client.post("/servers/n1/kill", data={"token": cluster.token})
    assert response.status == 200
    assert "Start n1 again" in await response.text()
