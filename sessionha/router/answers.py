"""One answer of an upstream, read strictly as its bytes come; it knows no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import httptools

SHORT: Final = 64 * 1024
"""Bytes of an answer that are gathered before any of it is passed on."""

_INTERIM: Final = frozenset({100, 102, 103})
_FINAL: Final = range(200, 600)
"""Nobody asked for another protocol (101), and others are none of HTTP's."""

_NO_BODY: Final = frozenset({204, 304})
"""Answers that end with their head, whatever it says of a length (RFC 9112, 6.3)."""


class Broken(Exception):
    """The connection ended, or spoke no HTTP, after the request may have been sent."""


class Flow(Protocol):
    """Where the bytes come from: a transport."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Answer:
    """What an upstream says to one request. Who asked waits until it is `ready`.

    A short answer is ready when it is whole, so that a server that dies in the middle of it can
    still be replaced; another one with its head, and its pieces follow.
    """

    def __init__(self, method: str, head_bytes: int, flow: Flow, close: Callable[[], None]) -> None:
        """`method`: of the request; `head_bytes`: the most that may come without any of a body;
        `close`: called when nothing more of it is read."""
        self.close = close
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """As they came, in lower case."""
        self.complete = False
        """It ended; what was not taken of it is still here."""
        self.keeps = False
        """Another request may follow on the connection, once this is complete."""
        self._flow = flow
        self._head_bytes = head_bytes
        self._bodiless = method == "HEAD"
        self._length: int | None = None
        self._chunked = False
        self._begun = False
        self._bare_bytes = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._failure: Broken | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    # --- what the connection tells ---------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """These bytes came."""
        if self._parser is None:  # nobody asked for them
            self.keeps = False
            return
        self._bare_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(f"not HTTP: {error}")
        if self._bare_bytes > self._head_bytes:
            self.fail("a head too large")
        if self.complete:
            self._parser = None
        elif self._size > SHORT:
            self._flow.pause_reading()
        if self.complete or self._streams:
            self._wake()

    def ended(self) -> None:
        """No more bytes come: the end of an answer that tells no length."""
        until_now = self._length is None and not self._chunked
        if self._begun and until_now and self._failure is None:
            self.complete = True
            self._wake()
        self.fail("the connection ended")

    def fail(self, why: str) -> None:
        """It will never be complete, if it is not yet; the connection is of no more use."""
        self.keeps = False
        self._parser = None
        if not self.complete and self._failure is None:
            self._failure = Broken(why)
            self._wake()

    # --- what the parser tells -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Of this answer, after one that only said to wait, or of something nobody asked for."""
        if self.complete:
            self.keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is left out."""
        if self._begun:
            return
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            if self._chunked or value.lower() != b"chunked":
                raise Broken("an unknown coding")
            self._chunked = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is here."""
        parser = self._parser
        if self._begun or parser is None:
            return
        status = parser.get_status_code()
        if status in _INTERIM:
            self.headers.clear()
            self._length = None
            return
        if status not in _FINAL:
            raise Broken(f"status {status}")
        if self._bare_bytes > self._head_bytes and self._told() > self._head_bytes:
            raise Broken("a head too large")
        self._begun = True
        self.status = status
        self.complete = self._bodiless or status in _NO_BODY
        # chunks that should not be there go unseen where they begin; HTTP/1.0 knows none at all
        unsure = self._chunked and (self.complete or parser.get_http_version() == "1.0")
        self.keeps = parser.should_keep_alive() and not unsure

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if not self._begun:
            raise Broken("a body of what has none")
        if self.complete:
            self.keeps = False
            return
        self._bare_bytes = 0
        self._size += len(piece)
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """The end of the body, or of an answer that only said to wait."""
        self.complete = self._begun

    def _told(self) -> int:
        return sum(len(name) + len(value) for name, value in self.headers)

    # --- who asked -------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait for all of a short answer, for the head of another. Raises Broken."""
        while not (self.complete or self._streams):
            await self._news()

    async def piece(self) -> bytes:
        """All that has come since the last time, at least a byte unless it ends. Raises Broken."""
        while not (self._pieces or self.complete):
            await self._news()
        pieces, self._pieces, self._size = self._pieces, [], 0
        self._flow.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def _streams(self) -> bool:
        return self._begun and (self._length is None or self._length > SHORT)

    async def _news(self) -> None:
        if self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
