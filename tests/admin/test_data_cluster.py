"""The data API of one node and the application of another: one session, one state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sessionha.engine import Engine
from sessionha.errors import OperationRefused
from sessionha.keys import new_secret
from sessionha.peer.messages import Batch, SessionChange
from sessionha.settings import Settings
from sessionha.values.codec import encode
from tests.admin.visitors import Visitor, ask
from tests.test_engine import free_ports, until

ROUNDS = 10

Pair = tuple[Engine, Engine]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two nodes that are one cluster, on the loopback address."""
    secret, ports = new_secret(), free_ports(2)
    nodes = ",".join(f"n{number}=http://127.0.0.1:{port}" for number, port in enumerate(ports, 1))
    made = []
    for number, port in enumerate(ports, 1):
        settings = Settings.load(
            {}, nodes=nodes, node=f"n{number}", listen=f"127.0.0.1:{port}", secret=secret,
            backups=1, store="memory", store_size="8MB", admin="off", discovery_time=0.2,
        )  # fmt: skip
        made.append(Engine(settings, (b"an application's key, 32 bytes or more",)))
    one, two = made
    await asyncio.gather(one.start(), two.start())
    await until(lambda: all(len(each.membership.view().members) == 2 for each in made))
    yield one, two
    for each in made:
        await each.stop()


async def test_increments_of_requests_and_of_messages_to_another_node_add_up(pair: Pair) -> None:
    """System 2 (i): counter increments from two engines and two nodes add up."""
    one, two = pair
    visitor = Visitor(one)
    await visitor.begins(theme="dark")
    counter = str(visitor.address.at("counter", "visits"))
    seen: list[float] = []

    async def requests() -> None:
        for _ in range(ROUNDS):
            await visitor.does(lambda session: session.increment("visits"))

    async def messages(engine: Engine) -> None:
        for _ in range(ROUNDS):
            body = b'{"increment": 10}'
            answer = await ask(engine, "POST", counter, visitor.headers(), content=body)
            assert answer.headers["sessionha-copies"] == "1"
            seen.append(answer.json()["value"])

    await asyncio.gather(requests(), messages(one), messages(two), messages(two))
    total = ROUNDS * (1 + 3 * 10)
    assert await visitor.does(lambda session: session["visits"]) == total
    for engine in pair:
        value = await ask(engine, "GET", counter, visitor.headers())
        assert value.json() == total
    assert max(seen) <= total


async def test_what_a_message_changes_is_on_both_nodes_before_its_answer(pair: Pair) -> None:
    """The position that it tells is that of the copy."""
    one, two = pair
    visitor = Visitor(one)
    await visitor.begins(cart={"lines": []})
    body = b'[["append", ["lines"], ["leaf"]]]'
    cart = str(visitor.address.at("map", "cart"))
    answer = await ask(two, "PATCH", cart, visitor.headers(), content=body)
    assert answer.json()["copies"] == 1
    group, key = visitor.address.group, visitor.address.key
    held = two.state.load(group, key)
    assert held is not None
    assert held.held.holders == ("n2", "n1")
    told = visitor.headers(sessionha_position=answer.json()["position"])
    assert (await ask(one, "GET", f"{cart}/lines", told)).json() == ["leaf"]


async def test_an_operation_that_the_primary_refuses_is_known_to_be_refused(pair: Pair) -> None:
    """A node that lost the group passes the operation on, and tells what was said of it."""
    one, two = pair
    visitor = Visitor(one)
    await visitor.begins(cart={"code": "A"})
    group, key = visitor.address.group, visitor.address.key
    steps = encode([["remove", ["absent"]]], "cart", 16)
    batch = Batch(group, (SessionChange(key, edits=(("cart", "map", steps, None),)),))
    with pytest.raises(OperationRefused, match="nothing is there"):
        await two.state.commit(batch, fresh=False)
    assert two.state.node.counters.forwards == 1
    assert await visitor.does(dict) == {"cart": {"code": "A"}}
