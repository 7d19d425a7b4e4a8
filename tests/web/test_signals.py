"""SIGTERM in front of a server: the engine retires first, and the server is told all the same."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from sessionha.siblings import told_to_end
from sessionha.web.signals import chain_in_loop, retire_first
from tests.session.fakes import FakeEngine


class Server:
    """As uvicorn's."""

    def __init__(self) -> None:
        self.should_exit = False
        self.told = 0

    def handle_exit(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.should_exit = True
        self.told += 1


class Retiring(FakeEngine):
    """Takes its time, or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.running = True
        self.retired = 0
        self.may_go = asyncio.Event()
        self._fails = fails

    async def retire(self) -> None:
        self.retired += 1
        await self.may_go.wait()
        if self._fails:
            raise RuntimeError("nobody knows why")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that handles SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    found = Server()
    signal.signal(signal.SIGTERM, found.handle_exit)
    yield found
    signal.signal(signal.SIGTERM, before)


async def told(server: Server) -> None:
    async with asyncio.timeout(5):
        while not server.told:  # noqa: ASYNC110 - a signal
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("fails", [False, True])
async def test_the_server_is_told_once_every_engine_has_retired(
    server: Server, *, fails: bool
) -> None:
    """However often the signal comes: service managers send it to a group of processes, of which
    one sends it to the others."""
    engines = [Retiring(), Retiring(fails=fails)]
    for engine in engines:
        retire_first(engine, asyncio.get_running_loop())
    assert told_to_end() is False
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)
    engines[0].may_go.set()
    await asyncio.sleep(0.01)
    assert server.told == 0
    engines[1].may_go.set()
    await told(server)
    assert [engine.retired for engine in engines] == [1, 1]
    assert told_to_end()
    signal.raise_signal(signal.SIGTERM)
    assert server.told == 2, "nothing stands before it any more"


async def test_where_no_engine_runs_the_server_is_told_at_once(server: Server) -> None:
    engine = Retiring()
    retire_first(engine, asyncio.get_running_loop())
    engine.running = False
    signal.raise_signal(signal.SIGTERM)
    assert server.told == 1
    assert not engine.retired


async def test_a_server_that_gave_its_handler_to_its_loop() -> None:
    """As gunicorn's own worker for ASGI does."""
    server, loop, engine = Server(), asyncio.get_running_loop(), Retiring()
    loop.add_signal_handler(signal.SIGTERM, server.handle_exit, 15, None)
    retire_first(engine, loop)
    signal.raise_signal(signal.SIGTERM)
    await told(server)
    assert not engine.retired, "nobody knows that handler"
    server.told = 0
    chain_in_loop(loop, lambda: server.handle_exit(15, None))
    retire_first(engine, loop)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0.01)
    assert (engine.retired, server.told) == (1, 0)
    engine.may_go.set()
    await told(server)
    loop.remove_signal_handler(signal.SIGTERM)


def test_a_process_that_handles_no_signal_ends_by_it_as_before() -> None:
    program = """
import asyncio, os, signal
from sessionha.web.signals import retire_first
from tests.web.test_signals import Retiring
async def main():
    retire_first(Retiring(), asyncio.get_running_loop())
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(10)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGTERM
