"""A strict reader of what clients send: what two servers could read differently never passes.

It stands before the parser of the router's own server, knows no sockets, and lets one request pass
at a time. What it lets pass is plain: one head that ends with CRLF CRLF, a body of a declared
length or of chunks without extensions and trailers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

Reason = Literal[
    "head", "target", "host", "length", "chunk", "method", "expectation", "upgrade", "size"
]
"""What was wrong: bounded, for the metrics."""

HEAD_BYTES: Final = 64 * 1024
"""Of a request line and headers, as much as servers behind usually take; browsers send 2 KiB."""

HEADERS: Final = 128
"""In a request; browsers send about twenty, proxies before the router add a few."""

AHEAD_BYTES: Final = 64 * 1024
"""A client may send as much of its next requests before it has read the answer to this one."""

_LENGTH_DIGITS: Final = 15
_SIZE_LINE: Final = 1024
_TRAILER_BYTES: Final = 8 * 1024

_NAME: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]*+"
_HEAD: Final = re.compile(
    rb"(" + _NAME + rb") ([!-~]++) HTTP/1\.([01])\r\n"
    rb"((?:" + _NAME + rb":" + _VALUE + rb"\r\n)*+)\r\n"
)
_TELLING: Final = re.compile(
    rb"\n(host|content-length|transfer-encoding|connection|upgrade|expect):[ \t]*([^\r]*)",
    re.IGNORECASE,
)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]+)", re.IGNORECASE)
_UPGRADE_LINE: Final = re.compile(rb"\r\nupgrade:[^\r]*", re.IGNORECASE)
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_SIZE_BEGUN: Final = re.compile(
    rb"[0-9A-Fa-f]{0,15}|[0-9A-Fa-f]{1,15}(?:;[\t\x20-\x7e\x80-\xff]*)?\r?"
)
_TRAILERS: Final = re.compile(rb"(?:" + _NAME + rb":" + _VALUE + rb"\r\n)*+\r\n")

_EMPTY: Final = b""


class Refusal(NamedTuple):
    """Why nothing more of a connection is read."""

    status: int
    reason: Reason
    text: str
    """For the client; it says nothing of the inside."""
    in_body: bool
    """Of a request that is served already; else of the one that would come next."""


class _Refused(Exception):
    def __init__(self, status: int, reason: Reason, text: str) -> None:
        self.status, self.reason, self.text = status, reason, text
        super().__init__(text)


_Read = Callable[[bytes], tuple[bytes, bytes]]
"""Takes what came: what passes on, and what is still to be read."""


class Framing:
    """Takes the bytes of one connection as they come and gives those that may be parsed.

    After the last byte of a request it keeps what follows until `answered` is called.
    """

    def __init__(self, head_bytes: int = HEAD_BYTES) -> None:
        self._head_bytes = head_bytes
        self._held = _EMPTY
        self._seen = 0
        self._left = 0
        self._answered = True
        self._read: _Read = self._head
        self.refusal: Refusal | None = None
        """Set for good when something was refused: what comes later is thrown away."""

    @property
    def in_head(self) -> bool:
        """A head has begun and is not complete."""
        return bool(self._held) and self._answered and self._between

    @property
    def in_body(self) -> bool:
        """The body of a request is not complete."""
        return not self._between

    @property
    def _between(self) -> bool:
        return self._read == self._head

    def feed(self, data: bytes) -> bytes:
        """What of this and of what was kept before may be parsed now; look at `refusal` then."""
        if self.refusal is not None:
            return _EMPTY
        rest = self._held + data if self._held else data
        self._held = _EMPTY
        passed: list[bytes] = []
        try:
            while rest:
                if self._between and not self._answered:
                    self._keep(rest, AHEAD_BYTES)
                    break
                piece, rest = self._read(rest)
                passed.append(piece)
        except _Refused as refused:
            self.refusal = Refusal(
                refused.status, refused.reason, refused.text, in_body=not self._answered
            )
            self._held = _EMPTY
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def answered(self) -> bytes:
        """The request that passed has its answer: as `feed` of what was kept."""
        self._answered = True
        return self.feed(_EMPTY) if self._held else _EMPTY

    # --- heads -----------------------------------------------------------------------------------

    def _head(self, data: bytes) -> tuple[bytes, bytes]:
        seen, self._seen = self._seen, len(data)
        end = data.find(b"\r\n\r\n", max(0, seen - 3), self._head_bytes)
        if end < 0:
            if len(data) >= self._head_bytes:
                raise _Refused(431, "size", "The head of the request is too large.")
            if _hopeless(data, seen):
                raise _Refused(400, "head", "Not a request of HTTP/1.1.")
            self._held = data
            return _EMPTY, _EMPTY
        self._seen = 0
        head, rest = data[: end + 4], data[end + 4 :]
        found = _HEAD.fullmatch(head)
        if found is None:
            raise _Refused(400, "head", "Not a request of HTTP/1.1.")
        head = self._checked(head, found, bool(rest))
        self._answered = False
        return head, rest

    def _checked(self, head: bytes, found: re.Match[bytes], more: bool) -> bytes:
        method, target, minor, block = found.groups()
        if block.count(b"\n") > HEADERS:
            raise _Refused(431, "size", "The request has too many headers.")
        told: dict[bytes, bytes] = {}
        for name, value in _TELLING.findall(head, len(method) + len(target)):
            self._tell(told, name.lower(), value.rstrip(b" \t"))
        host = told.get(b"host")
        if host is None and minor == b"1":
            raise _Refused(400, "host", "The request names no host.")
        if host and not _HOST.fullmatch(host):
            raise _Refused(400, "host", "The request names no valid host.")
        if method in (b"CONNECT", b"TRACE"):
            raise _Refused(405, "method", "This method is not served here.")
        if told.get(b"expect", b"100-continue").lower() != b"100-continue":
            raise _Refused(417, "expectation", "This expectation cannot be met.")
        path = _path(target, host or b"")
        if path != target:
            head = head.replace(b" " + target + b" ", b" " + path + b" ", 1)
        self._frame(told, minor)
        if b"upgrade" in told:
            head = self._upgrade(head, told, method, more)
        return head

    @staticmethod
    def _tell(told: dict[bytes, bytes], name: bytes, value: bytes) -> None:
        if name not in told:
            told[name] = value
        elif name in (b"connection", b"upgrade"):
            told[name] += b"," + value
        elif name == b"host":
            raise _Refused(400, "host", "The request names several hosts.")
        else:
            raise _Refused(400, "length", f"The request has several {name.decode()} headers.")

    def _frame(self, told: dict[bytes, bytes], minor: bytes) -> None:
        length, coding = told.get(b"content-length"), told.get(b"transfer-encoding")
        if coding is not None:
            if length is not None or minor == b"0" or coding.lower() != b"chunked":
                raise _Refused(400, "length", "The length of the request is ambiguous.")
            self._read = self._chunk
        elif length is not None:
            if not length.isdigit() or len(length) > _LENGTH_DIGITS:
                raise _Refused(400, "length", "The length of the request is ambiguous.")
            self._left = int(length)
            if self._left:
                self._read = self._body

    def _upgrade(self, head: bytes, told: dict[bytes, bytes], method: bytes, more: bool) -> bytes:
        """Websockets pass; any other upgrade is not offered, so the header means nothing."""
        options = [option.strip() for option in told.get(b"connection", _EMPTY).lower().split(b",")]
        if told[b"upgrade"].lower() != b"websocket" or b"upgrade" not in options:
            return _UPGRADE_LINE.sub(_EMPTY, head)
        if method != b"GET" or more or self.in_body:
            raise _Refused(400, "upgrade", "Nothing may follow the handshake of a websocket.")
        return head

    # --- bodies ----------------------------------------------------------------------------------

    def _body(self, data: bytes) -> tuple[bytes, bytes]:
        return self._piece(data, self._head)

    def _piece(self, data: bytes, after: _Read) -> tuple[bytes, bytes]:
        """What is left of a body or a chunk, as far as it came; `after` reads what follows it."""
        piece = data[: self._left]
        self._left -= len(piece)
        if not self._left:
            self._read = after
        return piece, data[len(piece) :]

    def _chunk(self, data: bytes) -> tuple[bytes, bytes]:
        found = _SIZE.match(data, 0, _SIZE_LINE)
        if found is None:
            if len(data) >= _SIZE_LINE or not _SIZE_BEGUN.fullmatch(data):
                raise _Refused(400, "chunk", "The chunks of the request are malformed.")
            self._held = data
            return _EMPTY, _EMPTY
        self._left = int(found[1], 16)
        self._read = self._chunk_data if self._left else self._trailers
        return b"%x\r\n" % self._left, data[found.end() :]

    def _chunk_data(self, data: bytes) -> tuple[bytes, bytes]:
        return self._piece(data, self._chunk_end)

    def _chunk_end(self, data: bytes) -> tuple[bytes, bytes]:
        if not b"\r\n".startswith(data[:2]):
            raise _Refused(400, "chunk", "The chunks of the request are malformed.")
        if len(data) == 1:
            self._held = data
            return _EMPTY, _EMPTY
        self._read = self._chunk
        return b"\r\n", data[2:]

    def _trailers(self, data: bytes) -> tuple[bytes, bytes]:
        """They are read and left out: nothing behind asked for them."""
        end = 0 if data.startswith(b"\r\n") else data.find(b"\r\n\r\n", 0, _TRAILER_BYTES) + 2
        if end == 1:
            if len(data) >= _TRAILER_BYTES or _BARE_LF.search(data):
                raise _Refused(400, "chunk", "The trailers of the request are malformed.")
            self._held = data
            return _EMPTY, _EMPTY
        if not _TRAILERS.fullmatch(data, 0, end + 2):
            raise _Refused(400, "chunk", "The trailers of the request are malformed.")
        self._read = self._head
        return b"\r\n", data[end + 2 :]

    def _keep(self, data: bytes, limit: int) -> None:
        if len(data) > limit:
            raise _Refused(400, "size", "Too much was sent before the answer.")
        self._held = data


def _hopeless(data: bytes, seen: int) -> bool:
    """Whether the beginning of a head cannot become one: another protocol, or bare line feeds.

    As many bytes as were `seen` before are not looked at again, or dripping would be dear.
    """
    bare = data.count(b"\n", seen) - data.count(b"\r\n", max(0, seen - 1))
    return bare > 0 or (seen <= _METHOD_BYTES and not _METHOD_BEGUN.match(data))


_METHOD_BYTES: Final = 32
_METHOD_BEGUN: Final = re.compile(_NAME + rb"(?: |$)")


def _path(target: bytes, host: bytes) -> bytes:
    """The path and query of a target that names no other host than the `Host` header does."""
    found = _ABSOLUTE.match(target)
    if found is not None:
        if found[1].lower() != host.lower():
            raise _Refused(400, "host", "The request names several hosts.")
        target = target[found.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    path = target.partition(b"?")[0]
    if not path.startswith(b"/") or b"\\" in path or b"#" in target:
        raise _Refused(400, "target", "The target of the request is not a path.")
    return target
