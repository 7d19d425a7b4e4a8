"""Connections to upstreams: which are kept and for how long, names, and TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sessionha.router.addresses import LASTS, Addresses
from sessionha.router.connections import (
    IDLE_SECONDS,
    Connection,
    Connections,
    NotAccepted,
    trusting,
)
from sessionha.router.options import Options
from tests.router.conftest import RawServer, closed_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    found = Connections(Options(connect_timeout=20.0))  # a busy machine shakes hands slowly
    yield found
    await found.close()


async def get(connections: Connections, url: str, method: str = "GET") -> bytes:
    headers = [(b"host", b"a")]
    answer = await connections.request(method, url, "/x", headers, None, kept=method == "GET")
    try:
        return await answer.piece()
    finally:
        answer.close()


def answering(go_on: asyncio.Event | None = None) -> RawServer:
    """Answers each request; and once more, unasked, when it may."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await server.head(reader)
                writer.write(OK)
                if go_on is not None:
                    await go_on.wait()
                    writer.write(OK)
        finally:
            writer.transport.abort()  # with TLS, to close takes the client's consent

    server = RawServer(act)
    return server


def idle(connections: Connections) -> list[Connection]:
    return [each for kept in connections._idle.values() for each in kept]


async def test_the_connection_that_was_used_last_is_used_next(connections: Connections) -> None:
    server = answering()
    async with server.listening() as url:
        for _ in range(3):
            assert await asyncio.gather(get(connections, url), get(connections, url))
        assert server.connections == len(idle(connections)) == 2
        last = idle(connections)[-1]
        assert await get(connections, url) == b"ok"
        assert idle(connections)[-1] is last


async def test_an_old_connection_is_not_used_and_closed_in_a_while(
    connections: Connections,
) -> None:
    server = answering()
    async with server.listening() as url:
        assert await get(connections, url) == b"ok"
        idle(connections)[0].idle_since -= IDLE_SECONDS
        assert await get(connections, url) == b"ok"
        assert server.connections == 2
        (kept,) = idle(connections)
        kept.idle_since -= IDLE_SECONDS
        connections._sweep()
        assert idle(connections) == []
        assert kept.transport.is_closing()


async def test_bytes_that_nobody_asked_for_end_a_connection(connections: Connections) -> None:
    go_on = asyncio.Event()
    server = answering(go_on)
    async with server.listening() as url, asyncio.timeout(10):
        assert await get(connections, url) == b"ok"
        (kept,) = idle(connections)
        go_on.set()
        while not kept.transport.is_closing():  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0)
        assert await get(connections, url) == b"ok"
    assert server.connections == 2


async def test_a_request_says_what_its_connection_needs(connections: Connections) -> None:
    """The length of no body to who may expect one, the end of a connection that is not kept, the
    prefix of a server's URL, and a host where the client named none."""
    server = answering()
    async with server.listening() as url:
        await get(connections, url + "/below/", "POST")
        assert await connections.check(url, "/ready", 10.0) == 200
    assert server.heads == [
        b"POST /below/x HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        f"GET /ready HTTP/1.1\r\nhost: {url.removeprefix('http://')}\r\n\r\n".encode(),
    ]


# --- names ---------------------------------------------------------------------------------------


async def test_a_server_may_have_a_name(connections: Connections) -> None:
    async with answering().listening() as url:
        assert await get(connections, url.replace("127.0.0.1", "localhost")) == b"ok"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64])
async def test_a_name_that_leads_nowhere_accepts_nothing(
    connections: Connections, host: str
) -> None:
    with pytest.raises(NotAccepted):
        await get(connections, f"http://{host}")
    assert await connections.check(f"http://{host}", "/", 10.0) == 0
    assert await connections.check(f"http://127.0.0.1:{closed_port()}", "/", 10.0) == 0


async def test_a_name_is_looked_up_once_in_a_while_and_again_when_that_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        await asyncio.sleep(0)
        if len(asked) == 1:
            raise OSError("nobody knows")
        return [host]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    now = 0.0
    addresses = Addresses(lambda: now)
    with pytest.raises(OSError, match="nobody knows"):
        await addresses.of("n1", 80)
    found: Any = await asyncio.gather(addresses.of("n1", 80), addresses.of("n1", 80))
    assert (found, len(asked)) == ([["n1"], ["n1"]], 2)
    now = LASTS
    await addresses.of("n1", 80)
    assert len(asked) == 3


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture
def certified(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=n1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert made.returncode == 0, made.stderr.decode()
    return certificate, key


async def test_the_certificate_of_a_server_is_verified(
    connections: Connections, certified: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certified)
    server = answering()
    async with server.listening(context) as url:
        trusting.cache_clear()
        with pytest.raises(NotAccepted, match="certificate"):
            await get(connections, url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certified[0]))
        trusting.cache_clear()
        for _ in range(2):
            assert await get(connections, url) == b"ok"
        assert server.connections == 1
        trusting.cache_clear()
