"""Connections that carry frames: WebSockets by picows, behind a typed protocol.

Nothing else of sessionha knows picows. What follows here knows nothing of nodes, messages or keys.
Whatever a frame or a header says, an error from outside closes one connection and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_connect,
    ws_create_server,
)

_log = logging.getLogger("sessionha.peer")

PATH = "/sessionha/peer"

_BACKLOG = 512
"""Every engine of every node connects at once after a restart."""


class Connection(Protocol):
    """An open connection, as its receiver sees it."""

    @property
    def remote(self) -> str:
        """The other end's `host:port`, for logs."""
        ...

    def send(self, frame: bytes) -> None:
        """Send one frame; never blocks. After `paused` frames pile up in memory."""
        ...

    def close(self, *, reject: bool = False) -> None:
        """Close; what was sent is still delivered. `reject`: tell that we do not trust it."""
        ...

    def abort(self) -> None:
        """Close at once; what was sent may be lost."""
        ...


class Receiver(Protocol):
    """Told what happens on a connection; never after `closed`, frames never after a close."""

    def opened(self, connection: Connection) -> None: ...

    def received(self, frame: memoryview) -> None:
        """`frame` is valid only during this call: its memory is used again."""
        ...

    def paused(self) -> None: ...

    def resumed(self) -> None: ...

    def closed(self, *, rejected: bool) -> None:
        """`rejected`: the other end said that it does not trust us."""
        ...


class TLS(NamedTuple):
    """The contexts of both directions; make them ask for certificates to have mutual TLS."""

    client: ssl.SSLContext
    server: ssl.SSLContext


async def dial(
    address: str, receiver: Receiver, *, frame_bytes: int, tls: TLS | None = None
) -> None:
    """Connect to `host:port`; `receiver.opened` was called when this returns.

    Waits as long as the other end is silent: put a deadline around it.

    Raises:
        ConnectionRefusedError: nobody listens there; every address of the host said so.
        ConnectionError: anything else.
    """
    host, port = split_address(address)
    failure: OSError | None = None
    for number in await _resolve(host, port):
        try:
            await _connect((number, port), host, receiver, frame_bytes=frame_bytes, tls=tls)
        except OSError as error:
            if failure is None or isinstance(failure, ConnectionRefusedError):
                failure = error
        else:
            return
    if isinstance(failure, ConnectionRefusedError):
        raise failure
    raise ConnectionError(str(failure or "the host has no address"))


class Listening:
    """A bound listener; accepts connections until it is closed."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    @property
    def address(self) -> tuple[str, int]:
        """The bound host and port."""
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    def close(self) -> None:
        """Accept no more; open connections stay."""
        self._server.close()


async def listen(
    host: str,
    port: int,
    receiver: Callable[[], Receiver | None],
    *,
    frame_bytes: int,
    upgrade_timeout: float,
    tls: TLS | None = None,
) -> Listening:
    """Accept connections at an address that other processes of this node may share.

    `receiver` makes one for each connection, or None to turn it away. A client that has not
    asked for the upgrade within `upgrade_timeout` seconds is dropped.

    Raises:
        OSError: the address cannot be bound.
    """

    def accept(request: WSUpgradeRequest) -> WSListener | None:
        made = receiver() if request.path == PATH.encode() else None
        return None if made is None else _Bridge(made)

    server = await ws_create_server(
        accept,
        host,
        port,
        websocket_handshake_timeout=upgrade_timeout,
        logger_name=_quiet,
        enable_auto_pong=False,
        max_frame_size=frame_bytes,
        ssl=tls.server if tls else None,
        reuse_port=hasattr(socket, "SO_REUSEPORT"),
        backlog=_BACKLOG,
    )
    return Listening(server)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ConnectionError for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConnectionError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _resolve(host: str, port: int) -> list[str]:
    """The host's numeric addresses, in the resolver's order."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise ConnectionError(f"{host} has no address: {error.strerror}") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


async def _connect(
    target: tuple[str, int], host: str, receiver: Receiver, *, frame_bytes: int, tls: TLS | None
) -> None:
    bridge = _Bridge(receiver)
    options: dict[str, Any] = {"server_hostname": host} if tls else {}
    sock = await _connected(target)
    try:
        _, made = await ws_connect(
            lambda: bridge,
            f"{'wss' if tls else 'ws'}://{address_text(*target)}{PATH}",
            ssl_context=tls.client if tls else None,
            websocket_handshake_timeout=None,
            logger_name=_quiet,
            enable_auto_pong=False,
            max_frame_size=frame_bytes,
            max_redirects=0,
            socket_factory=lambda _: sock,
            **options,
        )
    except WSError as error:
        raise ConnectionError("what listens there is not sessionha") from error
    except asyncio.CancelledError:
        # picows leaves a connection open whose upgrade nobody awaits any more
        _shut(sock)
        raise
    # picows returns no listener when the other end died between connect and upgrade
    if made is None:
        raise ConnectionError("closed during the upgrade")


async def _connected(target: tuple[str, int]) -> socket.socket:
    """A connected socket. Raises OSError."""
    sock = _Dialled(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


class _Dialled(socket.socket):
    """Leaves the event loop before another connection can get its number.

    aiofastnet, under picows, still registers the reader of a connection that broke at its first
    write. Whatever connection has the number next would then never be read from.
    """

    def close(self) -> None:
        if self.fileno() >= 0:
            with contextlib.suppress(RuntimeError):  # no loop runs any more
                asyncio.get_running_loop().remove_reader(self.fileno())
        super().close()


def _shut(sock: socket.socket) -> None:
    """Make whoever owns the socket see its end."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def address_text(host: str, port: int) -> str:
    """`host:port`, the host in brackets where it has colons."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Bridge(WSListener):
    """Turns picows' callbacks into a receiver's, and is its connection."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__()
        self._receiver = receiver
        self._transport: WSTransport
        self._open = False
        self._rejected = False
        self.remote = ""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._open = True
        peer = transport.underlying_transport.get_extra_info("peername")
        self.remote = address_text(peer[0], peer[1]) if peer else ""
        self._guard(self._receiver.opened, self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        # After a close, also its own for a frame that is too long, picows reads on for a while
        # and delivers what it objected to.
        if not self._open or transport.is_close_frame_sent:
            return
        if frame.msg_type is WSMsgType.BINARY and frame.fin:
            self._guard(self._receiver.received, frame.get_payload_as_memoryview())
            return
        if frame.msg_type is WSMsgType.CLOSE:
            self._rejected = frame.get_close_code() == WSCloseCode.POLICY_VIOLATION
        self.close()

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        self._open = False
        self._guard(lambda _: self._receiver.closed(rejected=self._rejected), None)

    def pause_writing(self) -> None:
        self._receiver.paused()

    def resume_writing(self) -> None:
        self._receiver.resumed()

    def send(self, frame: bytes) -> None:
        if self._open:
            self._transport.send(WSMsgType.BINARY, frame)

    def close(self, *, reject: bool = False) -> None:
        if self._open:
            self._open = False
            self._transport.send_close(
                WSCloseCode.POLICY_VIOLATION if reject else WSCloseCode.GOING_AWAY
            )
            self._transport.disconnect()

    def abort(self) -> None:
        self._open = False
        self._transport.disconnect(graceful=False)

    def _guard(self, callback: Callable[[Any], None], given: object) -> None:
        """The outermost frame of everything that a connection makes happen."""
        try:
            callback(given)
        except Exception:  # noqa: BLE001
            _log.exception("a peer connection is closed after an internal error")
            self.abort()


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class _Quiet(_Adapter):
    """picows' own log, at DEBUG: anybody who can connect could fill an INFO or ERROR log.

    Its level 9, which prints headers and buffers, is never written.
    """

    def isEnabledFor(self, level: int) -> bool:
        return level >= logging.DEBUG and self.logger.isEnabledFor(logging.DEBUG)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            kwargs.pop("exc_info", None)
            super().log(logging.DEBUG, msg, *args, **kwargs)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


_quiet = _Quiet(logging.getLogger("sessionha.peer.websocket"), {})
