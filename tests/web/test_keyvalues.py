"""Values by key on a cluster, on one node and on two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sessionha import KeyValueStore, SessionMiddleware, SessionTooLarge, SessionUnavailable
from sessionha.engine import Engine
from sessionha.settings import Settings
from tests.test_engine import free_ports, until
from tests.web.browser import KEY, shop


def store_of(engine: Engine, name: str = "cache") -> KeyValueStore:
    return KeyValueStore(SessionMiddleware(shop, KEY, engine=engine), name)


@pytest.fixture
async def alone() -> AsyncIterator[Engine]:
    engine = Engine(Settings.load({}, store="memory", admin="off"), (KEY.encode(),))
    yield engine
    await engine.stop()


@pytest.fixture
async def two() -> AsyncIterator[tuple[Engine, Engine]]:
    ports = free_ports(2)
    nodes = ",".join(f"n{i}=http://127.0.0.1:{port}" for i, port in enumerate(ports, 1))
    made = [
        Engine(
            Settings.load(
                {}, cluster="values", node=f"n{number}", nodes=nodes, listen=f"127.0.0.1:{port}",
                secret="insecure-loopback", store="memory", store_size="8MB", admin="off",
                discovery_time=0.2,
            ),
            (KEY.encode(),),
        )
        for number, port in enumerate(ports, 1)
    ]  # fmt: skip
    await asyncio.gather(*(engine.start() for engine in made))
    await until(lambda: all(len(engine.membership.view().nodes) == 2 for engine in made))
    yield made[0], made[1]
    for engine in made:
        await engine.stop()


async def test_a_value_is_kept_under_its_key(alone: Engine) -> None:
    store = store_of(alone)
    assert await store.get("a") is None
    await store.set("a", b"one")
    await store.set("b", b"")
    assert (await store.get("a"), await store.get("b")) == (b"one", b"")
    await store.set("a", b"two")
    assert await store.get("a") == b"two"
    assert [await store.exists(key) for key in ("a", "b", "c")] == [True, True, False]


async def test_a_deleted_value_is_gone_and_may_be_set_again(alone: Engine) -> None:
    store = store_of(alone)
    await store.set("a", b"one")
    await store.delete("a")
    await store.delete("a")
    assert await store.get("a") is None
    await store.set("a", b"two")
    assert await store.get("a") == b"two"


async def test_stores_of_different_names_are_apart(alone: Engine) -> None:
    await store_of(alone, "one").set("a", b"1")
    assert await store_of(alone, "two").get("a") is None


async def test_a_value_expires_when_it_shall(
    alone: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = store_of(alone), 0
    await store.set("a", b"", 1)
    clock = alone.state.node.clock
    began = clock.now()
    monkeypatch.setattr(clock, "now", lambda: began + now)
    assert await store.expires_in("a") in (0, 1)
    assert await store.get("a", renew_for=timedelta(seconds=100)) == b""
    assert await store.expires_in("a") == 100
    await store.set("b", b"")
    assert await store.get("b", renew_for=1) == b""
    assert await store.expires_in("b") is None
    await store.set("b", b"", 5)
    assert await store.expires_in("b") == 5
    assert await store.expires_in("c") is None
    now = 99_000
    assert [await store.exists(key) for key in "ab"] == [True, False]
    now = 101_000
    assert await store.get("a") is None
    await store.set("a", b"again")
    assert await store.get("a") == b"again"


async def test_a_value_has_the_limits_of_a_session(alone: Engine) -> None:
    with pytest.raises(SessionTooLarge):
        await store_of(alone).set("a", b"x" * 70_000)


@pytest.mark.parametrize("name", ["", "x" * 65, "ü"])
def test_a_store_has_a_short_plain_name(name: str) -> None:
    engine = Engine(Settings.load({}, store="memory"), (KEY.encode(),))
    with pytest.raises(ValueError, match="cannot name a store"):
        store_of(engine, name)


# --- two nodes ---


async def test_every_node_has_the_value(two: tuple[Engine, Engine]) -> None:
    here, there = map(store_of, two)
    await here.set("a", b"one")
    assert await there.get("a") == b"one"
    await there.set("a", b"two")
    assert await here.get("a") == b"two"
    await here.delete("a")
    assert await there.get("a") is None


async def test_a_key_that_two_set_at_once_has_one_value_afterwards(
    two: tuple[Engine, Engine],
) -> None:
    here, there = map(store_of, two)
    for key in map(str, range(3)):
        await asyncio.gather(here.set(key, b"here"), there.set(key, b"there"))
        found = {await here.get(key), await there.get(key)}
        assert found in ({b"here"}, {b"there"})
        await there.set(key, b"last")
        assert (await here.get(key), await there.get(key)) == (b"last", b"last")
        await here.delete(key)
        assert (await here.get(key), await there.get(key)) == (None, None)


async def test_a_value_outlives_its_node_and_what_may_be_there_is_no_none(
    two: tuple[Engine, Engine],
) -> None:
    """An unknown key is no proof while a node is away that may have it; it can be set."""
    here, there = map(store_of, two)
    await here.set("a", b"one")
    await two[0].stop()
    assert await there.get("a") == b"one"
    with pytest.raises(SessionUnavailable, match="servers that are away"):
        await there.get("b")
    await there.set("b", b"new")
    assert await there.get("b") == b"new"
