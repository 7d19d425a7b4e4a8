"""The administration beside its engine: served while the engine leads, never in its way."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from os import kill
from pathlib import Path

import httpx
import pytest

from sessionha.admin.administration import Administration
from sessionha.admin.tokens import tokens
from sessionha.engine import Companion, Engine
from sessionha.settings import Settings
from sessionha.topology.lone import LoneMembership
from tests.security.cluster import PATIENCE, free_ports, running, until

Start = Callable[..., Awaitable[Engine]]


def quick(engine: Engine) -> Companion:
    return Administration(engine, tick=0.005)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts engines that are alone, each with its administration; stops them at the end."""
    async with AsyncExitStack() as stack:

        async def started(admin: str, **others: object) -> Engine:
            settings = Settings.load({}, store="memory", admin=admin, **others)
            engine = Engine(settings, (b"k" * 32,), (quick,))
            await engine.start()
            stack.push_async_callback(engine.stop)
            return engine

        yield started


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


async def metrics(address: str) -> str:
    """The metrics, as soon as somebody serves them."""
    async with httpx.AsyncClient(trust_env=False) as client:
        found = []

        async def served() -> bool:
            answer = await client.get(f"http://{address}/metrics")
            found.append(answer.text)
            return answer.is_success

        await until(served)
        return found[-1]


def is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError:
        return False
    return True


async def test_it_serves_from_the_start_to_the_stop_of_the_engine(
    start: Start, address: str
) -> None:
    engine = await start(address)
    assert "sessionha_commits_total 0.0" in await metrics(address)
    await engine.stop()
    assert is_free(address)
    await engine.start()
    assert "sessionha_commits_total 0.0" in await metrics(address)


async def test_an_open_connection_does_not_hold_up_the_stop(start: Start, address: str) -> None:
    engine = await start(address)
    async with httpx.AsyncClient(trust_env=False) as client:
        await metrics(address)
        assert (await client.get(f"http://{address}/metrics")).is_success
        async with asyncio.timeout(PATIENCE):
            await engine.stop()
    assert is_free(address)


async def test_off_means_off(start: Start) -> None:
    before = asyncio.all_tasks()
    await start("off")
    assert asyncio.all_tasks() == before


async def test_only_the_leading_engine_serves(
    start: Start, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads, asked = False, 0

    def answer(engine: Engine) -> bool:
        nonlocal asked
        asked += 1
        return leads

    async def asked_often() -> bool:
        return asked > 3

    async def closed() -> bool:
        return is_free(address)

    monkeypatch.setattr("sessionha.admin.administration.leads", answer)
    await start(address)
    await until(asked_often)
    assert is_free(address)
    leads = True
    assert await metrics(address)
    leads = False
    await until(closed)


async def test_an_address_that_is_taken_is_named_and_the_node_goes_on(
    start: Start, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))):
        engine = await start(address)

        async def warned() -> bool:
            return bool(caplog.records)

        await until(warned)
        assert engine.running
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "`admin`" in record.getMessage()
    assert "SESSIONHA_ADMIN" in record.getMessage()


async def test_without_its_extra_the_node_starts_and_says_what_to_install(
    start: Start,
    address: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "sessionha.admin")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    engine = await start(address)
    assert engine.running
    (record,) = caplog.records
    assert record.levelno == logging.WARNING  # the address was asked for
    assert "sessionha[admin]" in record.getMessage()


def test_without_an_event_loop_of_asyncio_an_engine_without_peers_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings.load({}, store="memory", admin="127.0.0.1:7947")
    engine = Engine(settings, (b"k" * 32,), (Administration,))
    coroutine = engine.start()
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert "not asyncio's" in caplog.text
    coroutine = engine.stop()
    with pytest.raises(StopIteration):
        coroutine.send(None)


async def test_an_unexpected_failure_is_logged_and_passes(
    start: Start, address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessionha.admin.administration.TAKEN", 0.005)
    failures = [OSError("the store is gone")]

    def leads(engine: Engine) -> bool:
        if failures:
            raise failures.pop()
        return isinstance(engine.membership, LoneMembership)

    monkeypatch.setattr("sessionha.admin.administration.leads", leads)
    await start(address)
    assert await metrics(address)
    assert "the store is gone" in caplog.text


async def test_it_leaves_the_log_of_the_servers_process_alone(start: Start, address: str) -> None:
    """The application's server uses the same library: its access log must not change."""
    loggers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "uvicorn.access")]
    before = [(each.level, each.propagate, list(each.handlers)) for each in loggers]
    await start(address)
    await metrics(address)
    assert [(each.level, each.propagate, list(each.handlers)) for each in loggers] == before


@pytest.mark.processes
async def test_when_the_leading_engine_is_killed_another_one_serves(tmp_path: Path) -> None:
    """Two workers are one node with one administration, which outlives each of them."""
    async with (
        running(tmp_path, nodes=1, workers=2) as cluster,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        settings = Settings.observe({"SESSIONHA_SECRET": cluster.secret})
        bearer = {"authorization": f"Bearer {tokens(settings, 'read')[0]}"}
        url = f"http://127.0.0.1:{cluster.admins[0]}/v1/status"
        seen: dict[str, int] = {}

        async def both() -> bool:
            found = (await client.get(url, headers=bearer)).json()
            seen["pid"], seen["commits"] = found["pid"], found["counts"]["state/commits"]
            return len(found["engines"]) == 2

        await until(both)
        first = seen["pid"]
        for _ in range(4):  # a connection each: the kernel chooses the engine
            async with httpx.AsyncClient(trust_env=False) as visitor:
                answer = await visitor.post(f"http://127.0.0.1:{cluster.ports[0]}/put", content="v")
                assert answer.is_success

        async def counted() -> bool:
            return await both() and seen["commits"] == 4

        await until(counted)
        kill(first, signal.SIGKILL)

        async def another() -> bool:
            return await both() and seen["pid"] != first

        await until(another)
