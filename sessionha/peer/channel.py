"""One stream between two engines: handshake first, then sealed frames of many messages each.

A stream has a direction: the dialler asks, the acceptor answers. What is queued in one turn of the
event loop, or while the socket cannot take more, travels in one frame (group commit).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import msgspec

from sessionha.errors import (
    AuthenticationFailed,
    BadMessage,
    ForeignCluster,
    PeerError,
    SessionHAError,
)
from sessionha.peer.auth import (
    HANDSHAKE_BYTES,
    NONCE_BYTES,
    SEAL_BYTES,
    Acceptor,
    Dialer,
    Keys,
    Party,
    Session,
)
from sessionha.peer.base import Handler, Sender
from sessionha.peer.messages import Failed, Message, Wire, decode, encode
from sessionha.peer.transport import TLS, Connection
from sessionha.rarely import Rarely

_log = logging.getLogger("sessionha.peer")

_ENTRY_BYTES = 16
"""More than a frame spends on one message besides its bytes: list, ID, kind, length."""

HELD = 0.001
"""Seconds a request may wait for the answer to the frame before: then it travels with others, and
both ends are woken once for all of them (Nagle's idea). Most answers come in a fifth of that."""

_WARN_EVERY = 10.0
"""Seconds between two warnings of one cause: an attacker must not fill the log."""


class Kind(IntEnum):
    """What an entry of a frame is."""

    CAST = 0
    REQUEST = 1
    REPLY = 2


_CAST, _REQUEST, _REPLY = (int(kind) for kind in Kind)

Entry = tuple[int, int, bytes]
"""ID (unique on its link, 0 for casts), kind, encoded message."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Entry]).decode


class Limits(NamedTuple):
    """What streams may use. Times are seconds."""

    frame_bytes: int = 4 * 1024 * 1024
    """The messages of one frame; one larger message cannot be sent."""
    queue_bytes: int = 8 * 1024 * 1024
    """What waits on one stream; more is refused."""
    calls: int = 65_536
    """Requests on one stream that await their reply."""
    running: int = 4_096
    """Requests of one stream whose handlers run at once; more are answered as failed."""
    strangers: int = 64
    """Accepted connections that have not proven themselves: each may hold a frame of memory."""
    handshake: float = 0.25
    """One attempt to connect and shake hands: a heartbeat."""
    attempts: int = 4
    """Unanswered handshakes before a node counts as silent: with SO_REUSEPORT the kernel may
    choose a stopped engine, and another one at the next attempt."""
    silence: float = 1.0
    """A stream that brought nothing for so long while a call timed out is dialled again."""
    retry_first: float = 0.02
    retry_last: float = 1.0

    @property
    def wire_bytes(self) -> int:
        """What a frame may have on the wire: its messages, the list's header, the seal."""
        return self.frame_bytes + _ENTRY_BYTES + SEAL_BYTES


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class StreamCounters:
    """What happened on all streams of one engine since it started."""

    frames_in: int = 0
    frames_out: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dialled: int = 0
    accepted: int = 0
    reconnects: int = 0
    authentication_failures: int = 0
    foreign_cluster: int = 0
    bad_messages: int = 0
    dropped_casts: int = 0
    refused_calls: int = 0
    overflows: int = 0
    turned_away: int = 0


class Warnings:
    """Warnings of the peer package, at most one in ten seconds for each cause."""

    def __init__(self) -> None:
        self._rarely = Rarely[str](_WARN_EVERY)

    def say(self, cause: str, text: str, *details: object) -> None:
        """Warn, unless the same cause was warned about just now. `cause`: one of a few."""
        due = self._rarely.due(cause, asyncio.get_running_loop().time())
        if due is None:
            return
        suffix = f" (and {due.withheld} more like it)" if due.withheld else ""
        _log.warning(f"{text}%s", *details, suffix, extra={"cause": cause})


class Common(NamedTuple):
    """What all streams of an engine share."""

    me: Callable[[], Party]
    keys: Callable[[], Keys]
    limits: Limits
    counters: StreamCounters
    warnings: Warnings
    tls: TLS | None

    def blame(self, error: PeerError, remote: str) -> None:
        """Count and report what a peer did wrong."""
        if isinstance(error, ForeignCluster):
            cause = "foreign cluster"
            self.counters.foreign_cluster += 1
        elif isinstance(error, AuthenticationFailed):
            cause = "authentication"
            self.counters.authentication_failures += 1
        else:
            cause = "bad message"
            self.counters.bad_messages += 1
        self.warnings.say(cause, "closed a peer stream with %s: %s", remote, error)


class Outbox:
    """What waits to be sent, oldest first."""

    __slots__ = ("_entries", "size")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self.size = 0
        """Bytes, at most what they take in frames."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, entry: Entry) -> None:
        """Queue an entry."""
        self._entries.append(entry)
        self.size += len(entry[2]) + _ENTRY_BYTES

    def take(self, most: int) -> list[Entry]:
        """The oldest entries, `most` bytes of them (or one that is larger)."""
        if self.size <= most:
            taken = list(self._entries)
            self._entries.clear()
            self.size = 0
            return taken
        taken, room = [], most
        while self._entries:
            cost = len(self._entries[0][2]) + _ENTRY_BYTES
            if cost > room and taken:
                break
            taken.append(self._entries.popleft())
            self.size -= cost
            room -= cost
        return taken

    def keep_if(self, wanted: Callable[[Entry], bool]) -> int:
        """Forget the entries that nobody wants any more; how many that were."""
        kept = [entry for entry in self._entries if wanted(entry)]
        dropped = len(self._entries) - len(kept)
        self._entries = deque(kept)
        self.size = sum(len(entry[2]) + _ENTRY_BYTES for entry in kept)
        return dropped


class Channel:
    """The half that both ends share: frames, sealed and batched. A receiver of one connection."""

    def __init__(self, common: Common, outbox: Outbox) -> None:
        self._common = common
        self._outbox = outbox
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._writable = True
        self._scheduled = False
        self.heard = 0.0
        """Loop time when the last frame came."""
        self.asked = 0.0
        """Loop time of the first frame sent since then."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def peer(self) -> Party | None:
        """Who is at the other end, once that is proven."""
        return self._session.peer if self._session else None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, proven or not."""
        return self._connection is not None

    def opened(self, connection: Connection) -> None:
        self._connection = connection

    def paused(self) -> None:
        self._writable = False

    def resumed(self) -> None:
        self._writable = True
        self.flush()

    def received(self, frame: memoryview) -> None:
        assert self._connection is not None
        self.heard = asyncio.get_running_loop().time()
        try:
            if self._session is None:
                if len(frame) > HANDSHAKE_BYTES:
                    raise BadMessage("a first frame that is no handshake")
                self._shake(bytes(frame))
            else:
                self._read(self._session, frame)
        except PeerError as error:
            self._common.blame(error, self._connection.remote)
            self._connection.close(reject=self._session is None)

    def closed(self, *, rejected: bool) -> None:
        self._session = None
        self._connection = None
        if not self.ended.done():
            self.ended.set_result(None)
        self._gone(rejected=rejected)

    def close(self) -> None:
        """Close the stream; `closed` follows."""
        if self._connection is not None:
            self._connection.close()

    def abort(self) -> None:
        """Close the stream at once; `closed` follows."""
        if self._connection is not None:
            self._connection.abort()

    def schedule(self) -> None:
        """Flush once, after everything that this turn of the loop still queues."""
        if not self._scheduled and self._writable and self._session is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        self._scheduled = False
        counters = self._common.counters
        while self._outbox and self._writable and self._session and self._connection:
            entries = self._taken(self._outbox.take(self._common.limits.frame_bytes))
            if not entries:
                continue
            frame = self._session.sealer.seal(_pack(entries))
            counters.frames_out += 1
            counters.messages_out += len(entries)
            counters.bytes_out += len(frame)
            self._connection.send(frame)
            self._sent(entries)
            if self.asked <= self.heard:
                self.asked = asyncio.get_running_loop().time()

    def silent_for(self) -> float:
        """Seconds since something was sent and nothing came."""
        if self.asked < self.heard:
            return 0.0
        return asyncio.get_running_loop().time() - self.asked

    def _read(self, session: Session, frame: memoryview) -> None:
        payload = session.opener.open(frame)
        try:
            entries = _unpack(payload)
        except msgspec.DecodeError as error:
            raise BadMessage(f"a frame that cannot be decoded: {error}") from error
        counters = self._common.counters
        counters.frames_in += 1
        counters.messages_in += len(entries)
        counters.bytes_in += len(frame)
        self._entries(session, entries)

    def _shake(self, frame: bytes) -> None:
        """The next frame of the handshake."""
        raise NotImplementedError

    def _entries(self, session: Session, entries: list[Entry]) -> None:
        """The messages of a verified frame."""
        raise NotImplementedError

    def _taken(self, entries: list[Entry]) -> list[Entry]:
        """What of the entries is still worth sending."""
        return entries

    def _sent(self, entries: list[Entry]) -> None:
        """These went out in one frame."""

    def _gone(self, *, rejected: bool) -> None:
        """The stream closed."""
        raise NotImplementedError


class Dialled(Channel):
    """The end that asks. `expects`: the node that must answer, or empty for whoever does."""

    def __init__(
        self,
        common: Common,
        outbox: Outbox,
        expects: str,
        *,
        replied: Callable[[int, bytes], None],
        taken: Callable[[list[Entry]], list[Entry]],
    ) -> None:
        super().__init__(common, outbox)
        self._expects = expects
        self._replied = replied
        self._worth_sending = taken
        self._dialer: Dialer | None = None
        self._unanswered = False
        self._late: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Party] = loop.create_future()
        """The proven peer, or ConnectionError."""

    def opened(self, connection: Connection) -> None:
        super().opened(connection)
        nonce = secrets.token_bytes(NONCE_BYTES)
        self._dialer = Dialer(self._common.keys(), self._common.me(), self._expects, nonce)
        connection.send(self._dialer.hello())

    def _shake(self, frame: bytes) -> None:
        assert self._dialer is not None
        assert self._connection is not None
        proof, session = self._dialer.answered(frame)
        self._connection.send(proof)
        self._session = session
        self._common.counters.dialled += 1
        if not self.ready.done():
            self.ready.set_result(session.peer)
        self.schedule()

    def _entries(self, session: Session, entries: list[Entry]) -> None:  # noqa: ARG002
        for number, kind, data in entries:
            if kind != _REPLY:
                raise BadMessage("a request on a stream that this node dialled")
            self._replied(number, data)
        self._unanswered = False
        if self._late is not None:
            self._late.cancel()
            self._late = None
            self.flush()

    def schedule(self) -> None:
        """Flush soon; while a frame is unanswered, with its answer, so that what comes meanwhile
        travels together."""
        if not self._unanswered:
            super().schedule()
        elif self._late is None:
            self._late = asyncio.get_running_loop().call_later(HELD, self._flush_late)

    def _flush_late(self) -> None:
        self._late = None
        self.flush()

    def _sent(self, entries: list[Entry]) -> None:
        self._unanswered = any(kind == _REQUEST for _, kind, _ in entries)

    def _taken(self, entries: list[Entry]) -> list[Entry]:
        return self._worth_sending(entries)

    def _gone(self, *, rejected: bool) -> None:
        if self._late is not None:
            self._late.cancel()
        if not self.ready.done():
            why = "rejected: do cluster ID and secret agree?" if rejected else "closed"
            self.ready.set_exception(ConnectionError(f"the handshake was {why}"))
            self.ready.exception()  # retrieved, also when nobody waits any more


class Accepted(Channel):
    """The end that answers."""

    def __init__(
        self,
        common: Common,
        handler: Handler,
        handling: set[asyncio.Task[None]],
        siblings: set[Accepted],
    ) -> None:
        """`handling` gets the tasks of handlers at work, which outlive their stream: a half-done
        round helps nobody. `siblings` has this stream while it is open."""
        super().__init__(common, Outbox())
        self._handler = handler
        self._handling = handling
        self._running = 0
        self._siblings = siblings
        self._sender: Sender | None = None
        self._acceptor: Acceptor | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def stranger(self) -> bool:
        """Whether the other end has not proven itself yet."""
        return self._sender is None

    def opened(self, connection: Connection) -> None:
        super().opened(connection)
        self._siblings.add(self)
        loop = asyncio.get_running_loop()
        # Twice what a dialler waits: its own deadline comes first.
        self._deadline = loop.call_later(2 * self._common.limits.handshake, connection.abort)

    def _shake(self, frame: bytes) -> None:
        assert self._connection is not None
        if self._acceptor is None:
            nonce = secrets.token_bytes(NONCE_BYTES)
            self._acceptor = Acceptor(self._common.keys(), self._common.me(), nonce)
            self._connection.send(self._acceptor.greeted(frame))
            return
        self._session = self._acceptor.proved(frame)
        self._sender = Sender(self._session.peer.node, self._session.peer.incarnation)
        self._common.counters.accepted += 1
        if self._deadline is not None:
            self._deadline.cancel()

    def _entries(self, session: Session, entries: list[Entry]) -> None:  # noqa: ARG002
        for number, kind, data in entries:
            if kind == _REPLY:
                raise BadMessage("a reply on a stream that this node accepted")
            self._serve(number, kind, data)
        self.flush()

    def _serve(self, number: int, kind: int, data: bytes) -> None:
        """Answer one message, at once or later; nothing that it does ends the stream."""
        assert self._sender is not None
        try:
            result = self._handler(self._sender, decode(data))
        except Exception as error:  # noqa: BLE001
            result = self._failed(error)
        if isinstance(result, Wire):
            self._reply(number, kind, result)
        elif result is not None:
            self._serve_later(number, kind, result)

    def _serve_later(self, number: int, kind: int, result: Awaitable[Message | None]) -> None:
        if self._running >= self._common.limits.running:
            if asyncio.iscoroutine(result):
                result.close()
            self._common.counters.overflows += 1
            self._reply(number, kind, Failed("PeerUnavailable", "too many requests are running"))
            return
        task = asyncio.ensure_future(self._wait(number, kind, result))
        self._running += 1
        self._handling.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running -= 1
        self._handling.discard(task)

    async def _wait(self, number: int, kind: int, result: Awaitable[Message | None]) -> None:
        answer: Message | None
        try:
            answer = await result
        except Exception as error:  # noqa: BLE001
            answer = self._failed(error)
        if answer is not None:
            self._reply(number, kind, answer)
            self.schedule()

    def _failed(self, error: Exception) -> Failed:
        """What the asker is told: our own errors by name, others only that there was one."""
        if isinstance(error, SessionHAError):
            if isinstance(error, BadMessage):
                self._common.counters.bad_messages += 1
                self._common.warnings.say("bad message", "could not read a message: %s", error)
            return Failed(type(error).__name__, str(error))
        _log.error("a peer's request failed", exc_info=error)
        return Failed("PeerError", "an internal error; the log of the answering node has it")

    def _reply(self, number: int, kind: int, answer: Message) -> None:
        if kind != _REQUEST or self._session is None or self._connection is None:
            return
        limits = self._common.limits
        data = encode(answer)
        if len(data) > limits.frame_bytes:
            data = encode(Failed("BadMessage", f"the answer would be {len(data)} bytes"))
        if self._outbox.size + len(data) > limits.queue_bytes:
            self._common.counters.overflows += 1
            self._common.warnings.say(
                "overflow", "closed the stream of %s: it does not read", self._sender
            )
            self._connection.abort()
            return
        self._outbox.add((number, _REPLY, data))

    def _gone(self, *, rejected: bool) -> None:  # noqa: ARG002
        if self._deadline is not None:
            self._deadline.cancel()
        self._outbox = Outbox()
        self._siblings.discard(self)
