"""The contract of a transport: what any library under it must do, shown with real sockets."""

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator

import pytest

from sessionha.peer import transport
from sessionha.peer.transport import PATH, Connection, Listening, dial, listen

FRAME = 100_000


class Receiver:
    """Keeps what it is told."""

    def __init__(self, *, echo: bool = False) -> None:
        self.connection: Connection | None = None
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.pauses: list[str] = []
        self._echo = echo

    def opened(self, connection: Connection) -> None:
        self.connection = connection

    def received(self, frame: memoryview) -> None:
        self.frames.put_nowait(bytes(frame))
        if bytes(frame) == b"raise":
            raise RuntimeError("a defect of the receiver")
        if self._echo and self.connection is not None:
            self.connection.send(bytes(frame))

    def paused(self) -> None:
        self.pauses.append("paused")

    def resumed(self) -> None:
        self.pauses.append("resumed")

    def closed(self, *, rejected: bool) -> None:
        self.ended.set_result(rejected)


class Server:
    """A listener and what connected to it."""

    def __init__(self) -> None:
        self.receivers: list[Receiver] = []
        self.listening: Listening

    async def start(self) -> None:
        self.listening = await listen(
            "127.0.0.1", 0, self.accept, frame_bytes=FRAME, upgrade_timeout=0.2
        )

    def accept(self) -> Receiver:
        self.receivers.append(Receiver(echo=True))
        return self.receivers[-1]

    @property
    def address(self) -> str:
        host, port = self.listening.address
        return f"{host}:{port}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    server.listening.close()
    for receiver in server.receivers:
        if receiver.connection is not None:
            receiver.connection.abort()
            await receiver.ended


async def connect(address: str) -> Receiver:
    receiver = Receiver()
    async with asyncio.timeout(5):
        await dial(address, receiver, frame_bytes=FRAME)
    assert receiver.connection is not None
    return receiver


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, FRAME])
async def test_frames_of_every_size_arrive_whole(server: Server, size: int) -> None:
    client = await connect(server.address)
    assert client.connection is not None
    payload = bytes(range(256)) * (size // 256) + b"z" * (size % 256)

    client.connection.send(payload)

    assert await client.frames.get() == payload
    client.connection.close()
    await client.ended


async def test_frames_arrive_in_order(server: Server) -> None:
    client = await connect(server.address)
    assert client.connection is not None
    for number in range(500):
        client.connection.send(b"%d" % number)

    got = [await client.frames.get() for _ in range(500)]

    assert got == [b"%d" % number for number in range(500)]
    client.connection.close()
    await client.ended


async def test_what_was_sent_before_a_close_arrives(server: Server) -> None:
    client = await connect(server.address)
    assert client.connection is not None
    client.connection.send(b"last words")
    client.connection.close()
    client.connection.send(b"too late")

    assert await server.receivers[0].ended is False
    assert server.receivers[0].frames.get_nowait() == b"last words"
    assert server.receivers[0].frames.empty()
    await client.ended


async def test_a_rejection_is_told_to_the_other_end(server: Server) -> None:
    client = await connect(server.address)
    client_side = server.receivers[0].connection
    assert client_side is not None

    client_side.close(reject=True)

    assert await client.ended is True
    assert await server.receivers[0].ended is False


async def test_an_oversized_frame_closes_the_connection(server: Server) -> None:
    client = await connect(server.address)
    assert client.connection is not None

    client.connection.send(b"x" * (FRAME + 1))

    await client.ended
    await server.receivers[0].ended
    assert server.receivers[0].frames.empty()


async def test_a_defect_of_the_receiver_closes_its_connection_with_a_traceback(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(server.address)
    assert client.connection is not None

    client.connection.send(b"raise")

    await client.ended
    assert "a defect of the receiver" in caplog.text


async def test_frames_after_a_close_are_not_delivered(server: Server) -> None:
    """A receiver that distrusts one frame must not get the next one of the same buffer."""
    client = await connect(server.address)
    assert client.connection is not None

    client.connection.send(b"raise")
    client.connection.send(b"after")

    await client.ended
    await server.receivers[0].ended
    assert server.receivers[0].frames.get_nowait() == b"raise"
    assert server.receivers[0].frames.empty()


async def test_a_slow_reader_pauses_the_writer_and_a_quick_one_resumes_it(server: Server) -> None:
    client = await connect(server.address)
    assert client.connection is not None
    sent = 0
    while "paused" not in client.pauses:
        client.connection.send(b"x" * FRAME)
        sent += 1

    for _ in range(sent):
        assert len(await client.frames.get()) == FRAME
    assert client.pauses[:2] == ["paused", "resumed"]
    client.connection.close()
    await client.ended


async def test_a_port_where_nobody_listens_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    with pytest.raises(ConnectionRefusedError):
        await connect(f"127.0.0.1:{port}")
    with pytest.raises(ConnectionRefusedError):
        await connect(f"localhost:{port}")


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "host:", "host:port", "nowhere.invalid:1", "127.0.0.1"]
)
async def test_an_address_that_is_none_is_no_refusal(address: str) -> None:
    with pytest.raises(ConnectionError) as raised:
        await connect(address)
    assert not isinstance(raised.value, ConnectionRefusedError)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff" * 100,
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
async def test_what_is_no_peer_listener_is_an_error_and_no_refusal(answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    listener = await asyncio.start_server(other, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        with pytest.raises(ConnectionError) as raised:
            await connect(f"127.0.0.1:{port}")
    assert not isinstance(raised.value, ConnectionRefusedError)


async def test_giving_up_on_a_silent_listener_leaves_no_connection_open() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        writer.close()
        gone.set()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dial(f"127.0.0.1:{port}", Receiver(), frame_bytes=FRAME)
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_listener_that_dies_before_the_upgrade_leaves_its_descriptor_usable(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next connection gets its number; the event loop must see what arrives there."""
    getpeername = socket.socket.getpeername

    def seen_then_reset(sock: socket.socket) -> object:
        """Whoever asked takes the connection for alive."""
        name = getpeername(sock)
        if name == listener.getsockname():
            other, _ = listener.accept()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()
        return name

    monkeypatch.setattr(socket.socket, "getpeername", seen_then_reset)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        with pytest.raises(ConnectionError):
            await connect(f"127.0.0.1:{listener.getsockname()[1]}")
        client.settimeout(5)
        client.connect(server.listening.address)  # its other end gets the free descriptor
        client.sendall(GET % (b"/", b""))
        assert b"404" in await asyncio.to_thread(client.recv, 100)


async def ask(address: str, request: bytes) -> bytes:
    """What the listener answers until it closes."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


GET = b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (GET % (b"/", b""), b"404"),
        (GET % (PATH.encode(), b"Accept: text/html\r\n"), b"400"),
        (GET % (b"/other", UPGRADE), b"404"),
        (b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ],
)
async def test_a_browser_is_told_no_and_makes_no_stream(
    server: Server, request_bytes: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    answer = await ask(server.address, request_bytes)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert all(receiver.connection is None for receiver in server.receivers)
    assert caplog.records == []


async def test_who_never_asks_for_the_upgrade_is_dropped(server: Server) -> None:
    assert await ask(server.address, b"") == b""


def masked(opcode: int, payload: bytes) -> bytes:
    return bytes([opcode, 0x80 | len(payload)]) + b"\0\0\0\0" + payload


@pytest.mark.parametrize(
    "frame",
    [
        masked(0x81, b"text"),
        masked(0x02, b"first of several"),
        masked(0x89, b"ping"),
        masked(0x8A, b"pong"),
        masked(0x83, b"reserved opcode"),
        b"\x82\x04notmasked",
        masked(0x88, b"\x03\xe8"),
    ],
)
async def test_anything_but_whole_binary_frames_closes_the_connection(
    server: Server, frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    answer = await ask(server.address, GET % (PATH.encode(), UPGRADE) + frame)

    assert answer.startswith(b"HTTP/1.1 101")
    await server.receivers[0].ended
    assert server.receivers[0].frames.empty()
    assert caplog.records == []


async def test_other_clients_do_not_notice_garbage(server: Server) -> None:
    good = await connect(server.address)
    assert good.connection is not None

    await ask(server.address, GET % (PATH.encode(), UPGRADE) + b"\xff" * 64)
    good.connection.send(b"still here")

    assert await good.frames.get() == b"still here"
    good.connection.close()
    await good.ended


def test_only_the_transport_knows_the_websocket_library() -> None:
    assert "picows" in vars(transport)["WSTransport"].__module__
    assert transport.TLS(ssl.create_default_context(), ssl.create_default_context())
