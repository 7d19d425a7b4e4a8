"""The router's connections to upstreams, and what their failures mean."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import cache, lru_cache, partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohappyeyeballs

from sessionha.router.addresses import Addresses
from sessionha.router.answers import Answer, Broken
from sessionha.router.body import ClientGone
from sessionha.router.headers import RawHeaders
from sessionha.router.options import Options

IDLE_SECONDS: Final = 4.0
"""Idle connections are closed before uvicorn's five seconds are over, so that a request seldom
meets a connection which its server is just closing."""

NEXT_ADDRESS: Final = 0.25
"""Seconds until another address of a host is tried beside one that is silent (RFC 8305)."""

SWEEP_EVERY: Final = 1.0
"""Seconds between two looks for connections that were idle for too long."""

_WITH_BODY: Final = frozenset({"PATCH", "POST", "PUT"})
"""Methods of which some servers want to be told that there is none."""


Pieces = AsyncGenerator[bytes, None]
Data = bytes | Pieces | None
"""A body whole, in pieces, or none."""


class NotAccepted(Exception):
    """There was no connection: nothing of the request was accepted."""


class Place(NamedTuple):
    """What the URL of an upstream says."""

    host: str
    port: int
    tls: bool
    authority: bytes
    path: str
    """That everything there is below."""


class Connection(asyncio.Protocol):
    """One connection; it carries one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.idle_since = 0.0
        self._answer: Answer | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._upload: asyncio.Task[None] | None = None

    def ask(self, head: bytes, data: Data, answer: Answer, *, chunked: bool) -> None:
        """Send a request; what comes is its answer. `chunked`: so go the pieces of its body."""
        self._answer = answer
        if self.transport.is_closing():
            answer.fail("the connection was lost")
        elif data is None or isinstance(data, bytes):
            self.transport.write(head + data if data else head)
        else:
            self.transport.write(head)
            self._upload = asyncio.create_task(self._send(data, answer, chunked=chunked))

    async def _send(self, data: Pieces, answer: Answer, *, chunked: bool) -> None:
        sent = False
        try:
            async with aclosing(data) as pieces:
                async for piece in pieces:
                    await self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                await self._write(b"0\r\n\r\n")
            sent = True
        except (Broken, ClientGone):  # the answer tells the one, the body the other
            return
        finally:
            if not sent:
                answer.fail("the request ended early")

    async def _write(self, piece: bytes) -> None:
        await self._writable.wait()
        if self.transport.is_closing():
            raise Broken("the connection was lost")
        self.transport.write(piece)

    def rest(self) -> bool:
        """End what was asked. Whether something else may be."""
        answer, self._answer = self._answer, None
        upload, self._upload = self._upload, None
        if upload is not None and not upload.done():
            upload.cancel()
            return False
        return answer is not None and answer.complete and answer.keeps

    # --- what the transport tells ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It stands."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """From the upstream; what nobody asked for ends the connection."""
        if self._answer is None:
            self.transport.abort()
        else:
            self._answer.feed(data)

    def eof_received(self) -> None:
        """The upstream says no more."""
        if self._answer is not None:
            self._answer.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._answer is not None:
            self._answer.fail(f"the connection was lost: {exc}")
        self._writable.set()

    def pause_writing(self) -> None:
        """The upstream takes no more of the body."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()


def _nothing() -> None:
    return None


class Connections:
    """Kept connections for what may be repeated, fresh ones for the rest.

    An unsafe request never goes out on a connection that was idle: a server that died meanwhile
    then refuses it, so the next one can be tried, instead of leaving open whether it was
    executed (R14).
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._addresses = Addresses(self._loop.time)
        self._idle: dict[Place, deque[Connection]] = {}
        self._busy: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    async def request(
        self,
        method: str,
        url: str,
        target: str,
        headers: RawHeaders,
        data: Data,
        *,
        kept: bool,
        connected: Callable[[], None] = _nothing,
    ) -> Answer:
        """The answer of the upstream at `url` as soon as it is ready; `close` it in the end.

        `connected` is called before the first byte is written: a request that is given up earlier
        was certainly not accepted.

        Raises:
            NotAccepted: nothing of the request was accepted.
            Broken: it may have been.
        """
        place = _place(url)
        connection = self._take(place) if kept else None
        if connection is None:
            connection = await self._open(place)
        connected()
        self._busy.add(connection)
        declared = any(name == b"content-length" for name, _ in headers)
        more = [] if declared else _length(method, data)
        if not kept:
            more.append((b"connection", b"close"))
        head = _head(method, place, target, [*headers, *more])
        end = partial(self._end, place, connection, kept=kept)
        answer = Answer(method, self._options.head_bytes, connection.transport, end)
        try:
            connection.ask(head, data, answer, chunked=not declared)
            await answer.ready()
        except BaseException:
            answer.close()
            raise
        return answer

    async def check(self, url: str, path: str, timeout: float) -> int:
        """The status that a server answers there within `timeout` seconds; 0: it does not."""
        try:
            async with asyncio.timeout(timeout):
                answer = await self.request("GET", url, path, (), None, kept=True)
        except (NotAccepted, Broken, TimeoutError):
            return 0
        answer.close()
        return answer.status

    async def close(self) -> None:
        """Close every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in (*self._busy, *(each for kept in self._idle.values() for each in kept)):
            connection.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # the loop tells them

    # --- opening and keeping ---------------------------------------------------------------------

    async def _open(self, place: Place) -> Connection:
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                return await self._connect(place)
        except (OSError, UnicodeError) as error:  # a timeout is one too; a name may be none
            raise NotAccepted(f"no connection to {place.host}:{place.port}: {error}") from error

    async def _connect(self, place: Place) -> Connection:
        found = await self._addresses.of(place.host, place.port)
        socket = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS)
        try:
            _, connection = await self._loop.create_connection(
                Connection,
                sock=socket,
                ssl=trusting() if place.tls else None,
                server_hostname=place.host if place.tls else None,
            )
        except BaseException:
            socket.close()
            raise
        return connection

    def _take(self, place: Place) -> Connection | None:
        """The one that was used last, so that the others may grow old."""
        kept = self._idle.get(place)
        while kept:
            connection = kept.pop()
            if self._loop.time() - connection.idle_since >= IDLE_SECONDS:
                connection.transport.abort()
            elif not connection.transport.is_closing():
                return connection
        return None

    def _end(self, place: Place, connection: Connection, *, kept: bool) -> None:
        """What was asked on it has its answer, or is given up."""
        self._busy.discard(connection)
        if not (connection.rest() and kept) or connection.transport.is_closing():
            connection.transport.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.setdefault(place, deque()).append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(IDLE_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        due = self._loop.time() - IDLE_SECONDS
        for place, kept in tuple(self._idle.items()):
            while kept and kept[0].idle_since <= due:
                kept.popleft().transport.abort()
            if not kept:
                del self._idle[place]
        if self._idle:
            self._sweeper = self._loop.call_later(SWEEP_EVERY, self._sweep)


@lru_cache(1024)
def _place(url: str) -> Place:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    authority = parts.netloc.rpartition("@")[2].encode("ascii", "replace")
    port = parts.port or (443 if tls else 80)
    return Place(parts.hostname or "", port, tls, authority, parts.path.rstrip("/"))


@cache
def trusting() -> ssl.SSLContext:
    """Verifies the certificates of upstreams, by what the system or `SSL_CERT_FILE` trusts."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _head(method: str, place: Place, target: str, headers: RawHeaders) -> bytes:
    """A request line and headers; the host is the place's own if the client named none."""
    lines = [f"{method} {place.path}{target} HTTP/1.1".encode("latin-1")]
    lines += [b"%b: %b" % item for item in headers]
    if not any(name == b"host" for name, _ in headers):
        lines.append(b"host: " + place.authority)
    return b"\r\n".join([*lines, b"", b""])


def _length(method: str, data: Data) -> list[tuple[bytes, bytes]]:
    """What tells where a body ends whose client did not tell its length."""
    if isinstance(data, bytes):
        return [(b"content-length", b"%d" % len(data))]
    if data is not None:
        return [(b"transfer-encoding", b"chunked")]
    return [(b"content-length", b"0")] if method in _WITH_BODY else []
