"""Requests that servers could read differently: refused, or passed on so that none can."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionha.router.app import Router
from sessionha.router.options import Options
from sessionha.router.upstreams import Upstreams
from tests.router.conftest import closed_port, front_of, member, running, view_of
from tests.router.hostile import CORPUS, HOST, Arrived, Hostile

PATIENCE = 20.0
"""Seconds for a server to start, and for an answer on a busy machine."""

BEHIND = "tests.router.behind:application"
SERVERS = {
    "uvicorn": ("uvicorn", BEHIND, "--log-level", "critical", "--host", "127.0.0.1", "--port"),
    "hypercorn": ("hypercorn", BEHIND, "--log-level", "critical", "--bind"),
    "granian": (
        *("granian", BEHIND, "--interface", "asgi", "--workers", "1", "--log-level", "critical"),
        *("--host", "127.0.0.1", "--port"),
    ),
}
SECRETLY = {"transfer_encoding", "content_length", "upgrade", "x"}
"""Names that no request has behind the router: disguises, offers and trailers."""
CANARY: Arrived = ("GET", "/canary", b"")


@pytest.fixture(scope="module", params=SERVERS)
def behind(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a real server of each kind."""
    name, port = request.param, closed_port()
    where = f"127.0.0.1:{port}" if name == "hypercorn" else str(port)
    process = subprocess.Popen(
        [sys.executable, "-m", *SERVERS[name], where], cwd=Path(__file__).parents[2]
    )
    try:
        _until_listening(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(int(PATIENCE / 0.05)):
        with socket.socket() as probe:
            probe.settimeout(0.05)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the server ended with {process.returncode}")
    raise AssertionError("the server does not listen")


class Front:
    """The router before one server, and what arrives there."""

    def __init__(self, url: str, behind: str) -> None:
        self._url = url
        self._behind = behind
        self.host = behind.removeprefix("http://")
        """Which HTTP/1.0 does not name."""

    async def send(self, raw: bytes, *, breaks_off: bool = False) -> tuple[int, ...]:
        """The statuses of all answers until the router closes the connection."""
        return statuses(await self._exchange(self._url, raw, breaks_off=breaks_off))

    async def arrived(self) -> list[dict[str, Any]]:
        """What the server has read complete since the last time; asked without the router."""
        request = b"GET /arrived HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = await self._exchange(self._behind, request)
        found: list[dict[str, Any]] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return found

    async def _exchange(self, url: str, raw: bytes, *, breaks_off: bool = False) -> bytes:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE):
            try:
                writer.write(raw)
                if breaks_off:
                    writer.write_eof()
                return await reader.read()
            except ConnectionResetError:
                return b""
            finally:
                writer.close()


@pytest.fixture
async def front(behind: str) -> AsyncIterator[Front]:
    upstreams = Upstreams(asyncio.get_running_loop().time)
    router = Router(upstreams, None, Options())
    upstreams.view_changed(view_of(member("n1", behind)))
    await router.start()
    try:
        async with running(front_of(router)) as url:
            yield Front(url, behind)
    finally:
        await router.stop()


def statuses(answer: bytes) -> tuple[int, ...]:
    return tuple(int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer))


def told(found: dict[str, Any]) -> Arrived:
    return (found["method"], found["target"], b64decode(found["body"]))


async def canary(front: Front) -> None:
    raw = f"GET /canary HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n".encode()
    assert await front.send(raw) == (200,)


@pytest.mark.processes
async def test_the_next_request_never_sees_bytes_of_a_hostile_one(front: Front) -> None:
    """For each of the corpus: its statuses and the end of the connection, what arrives at a real
    server, and that a request behind it, on the same connection to that server, arrives alone."""
    wrong = []
    ports = []
    for hostile in CORPUS:
        await canary(front)
        got = await front.send(hostile.sent, breaks_off=not hostile.statuses)
        await canary(front)
        found = await front.arrived()
        arrived = [told(each) for each in found]
        if got != hostile.statuses or arrived != [CANARY, *hostile.arrives, CANARY]:
            wrong.append(f"{hostile.name}: {got}, {arrived}")
        assert not any(SECRETLY & set(each["names"]) for each in found), hostile.name
        hosts = {host.lower() for each in found for host in each["hosts"]}
        assert hosts <= {"shop.example", front.host}, hostile.name
        ports.append([each["port"] for each in found])
    assert not wrong, "\n".join(wrong)
    assert any(len(set(each)) < len(each) for each in ports), "no connection was used again"


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(CORPUS) >= 60
    assert len({hostile.name for hostile in CORPUS}) == len(CORPUS)
    assert all(isinstance(hostile, Hostile) for hostile in CORPUS)
