"""The router's own server: uvicorn behind a strict reader, with limits, deadlines and draining."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any, Final, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sessionha.router.counts import Counts
from sessionha.router.framing import Framing
from sessionha.router.options import Options

logger = logging.getLogger("sessionha.router")

TICK: Final = 10
"""Of uvicorn's ticks of 0.1 s, after so many the connections are looked at."""

KEEP_ALIVE: Final = 75
"""Seconds for which an idle connection of a client is kept, as browsers expect of a front."""


class Clock(Protocol):
    """Monotonic seconds."""

    def __call__(self) -> float: ...


class Gathering:
    """Gathers what is written in one turn of the loop: a head and a short body are one packet.

    It stands for the transport where answers are written.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, piece: bytes) -> None:
        """Write it at the end of this turn, or with `flush`."""
        if not self._pieces:
            self._call_soon(self.flush)
        self._pieces.append(piece)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            if not self._transport.is_closing():
                self._transport.write(b"".join(pieces))

    def close(self) -> None:
        """Close the transport when everything is written."""
        self.flush()
        self._transport.close()


class ClientConnection(HttpToolsProtocol):
    """One connection of a client: what it sends is read strictly before it is parsed."""

    def __init__(
        self, *, options: Options, counts: Counts, clock: Clock = time.monotonic, **given: Any
    ) -> None:
        super().__init__(**given)
        self._options = options
        self._counts = counts
        self._clock = clock
        self._framing = Framing(options.head_bytes)
        self._received = 0
        self._seen: tuple[str, int] = ("", 0)
        self._since = clock()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; one too many is told so."""
        super().connection_made(transport)
        self._answer = Gathering(transport, self.loop)
        if len(self.connections) > self._options.connections:
            self._counts.refused["crowded"] += 1
            self._refuse(503, "Too many connections.")

    def data_received(self, data: bytes) -> None:
        """From the client."""
        self._received += len(data)
        self._parse(self._framing.feed(data))

    def on_headers_complete(self) -> None:
        """A request begins."""
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = self._answer  # type: ignore[assignment]

    def on_response_complete(self) -> None:
        """The answer was written: what the client sent meanwhile may be read."""
        self._answer.flush()
        super().on_response_complete()
        if self.expect_100_continue and self._framing.in_body:
            # it may send the body, or leave it out, and nobody can tell which it does
            self.transport.close()
        if not self.transport.is_closing():
            self._parse(self._framing.answered())

    def _parse(self, passed: bytes) -> None:
        if self.transport.is_closing():
            return
        if passed:
            super().data_received(passed)
        refusal = self._framing.refusal
        if refusal is not None and not self.transport.is_closing():
            self._counts.refused[refusal.reason] += 1
            self._refuse(refusal.status, refusal.text)

    def send_400_response(self, msg: str) -> None:
        """What passed the strict reader, and the parser refuses all the same."""
        self._counts.refused["parser"] += 1
        self._refuse(400, msg)

    def _refuse(self, status: int, text: str) -> None:
        """Answer if nothing of another answer was written, and close the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        serving = cycle is not None and not cycle.response_complete
        if not serving or not self.cycle.response_started:
            body = f"{text}\n".encode()
            self.transport.write(
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
                "content-type: text/plain; charset=utf-8\r\n"
                f"content-length: {len(body)}\r\n"
                "cache-control: no-store\r\nconnection: close\r\n\r\n".encode()
                + body
            )
        self._answer.close()
        if serving:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    # --- deadlines -------------------------------------------------------------------------------

    def look(self) -> None:
        """Close the connection if the client takes too long; called about once a second."""
        waits, moved, limit = self._waits()
        if (waits, moved) != self._seen:
            self._seen, self._since = (waits, moved), self._clock()
        elif waits and self._clock() - self._since >= limit:
            self._counts.refused["slow"] += 1
            if waits == "reader":
                self.transport.abort()
            elif waits == "newcomer":
                self.transport.close()
            else:
                self._refuse(408, "The request took too long to arrive.")

    def _waits(self) -> tuple[str, int, float]:
        """What the client is waited for, what shows that it moves, and the seconds it has."""
        waiting = self.transport.get_write_buffer_size()
        if waiting and (self.flow.write_paused or self.transport.is_closing()):
            return "reader", waiting, self._options.client_timeout
        if self._framing.in_head:  # all of it within the time, however it drips
            return "head", 0, self._options.head_timeout
        if self._framing.in_body and not self.flow.read_paused:
            return "body", self._received, self._options.client_timeout
        if not self._received:
            return "newcomer", 0, KEEP_ALIVE
        return "", 0, 0.0


class Front(uvicorn.Server):
    """Serves the router until it is told to stop: first it says so, then it stops to listen."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain_delay: float = 0.0,
        gauges: socket.socket | None = None,
    ) -> None:
        """`drain_delay`: seconds between saying so and stopping; `gauges`: another socket to
        listen at, without TLS."""
        super().__init__(config)
        self._gauges = gauges
        self._drain_delay = drain_delay
        self._stop_at: float | None = None
        self.draining: Callable[[], None] = _nothing
        """Called when the stop begins."""
        self.ticked: Callable[[], None] = _nothing
        """Called ten times a second."""
        self.reload: Callable[[], None] = _nothing
        """Called at SIGHUP."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.reload)
        if self._gauges is not None:
            protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
            connect = partial(
                protocol,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )
            self.servers.append(await loop.create_server(connect, sock=self._gauges))

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now."""
        self.ticked()
        if counter % TICK == 0:
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, ClientConnection):
                    connection.look()
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains; a second one, or SIGINT, stops at once."""
        if sig == signal.SIGTERM and self._drain_delay > 0 and self._stop_at is None:
            self._captured_signals.append(sig)
            self._stop_at = time.monotonic() + self._drain_delay
            self.draining()
            return
        self.draining()
        super().handle_exit(sig, frame)


def config(
    app: Any,
    options: Options,
    counts: Counts,
    *,
    trusted_proxies: str = "",
    clock: Clock = time.monotonic,
    **more: Any,
) -> uvicorn.Config:
    """How uvicorn serves the router.

    Args:
        app: The router.
        options: Limits.
        counts: Where refused requests are counted.
        trusted_proxies: Addresses (comma-separated) whose `X-Forwarded-For` and `-Proto` are
            believed, when something stands in front of the router; empty: nobody's.
        clock: For the deadlines of clients.
        more: Settings of uvicorn's own.
    """
    return uvicorn.Config(
        app,
        http=partial(  # type: ignore[arg-type]
            ClientConnection, options=options, counts=counts, clock=clock
        ),
        access_log=False,  # nothing per request above DEBUG
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        server_header=False,  # both are the upstream's
        date_header=False,
        ws_max_size=options.message_bytes,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(options.drain_timeout),
        **more,
    )


def _nothing() -> None:
    return None
