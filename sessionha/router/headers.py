"""Which headers pass the router, in both directions, and which it sets itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sessionha.session.headers import HOPS, RETRY, ROUTE, TOKEN

RawHeaders = Sequence[tuple[bytes, bytes]]

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1); the next one gets its own."""

_NOT_FORWARDED: Final = HOP_BY_HOP | {b"expect", b"forwarded", b"x-real-ip"}
"""`Expect` is answered by the router's own server, which asks the client for the body."""

_INTERNAL: Final = (b"x-forwarded-", b"sessionha-")
"""Applications trust these from a router, so a client's own never pass."""

MOST_HOPS: Final = 4
"""Routers on a request's way: one of the site and one of a zone are usual, more is a loop."""

_HOPS: Final = HOPS.encode()
_NOT_DISGUISED: Final = _NOT_FORWARDED | {b"content-length", b"host"}
_NOT_NOMINATED: Final = frozenset({b"host", b"content-length"})
"""A client cannot make the router drop what says to whom a request goes and where it ends."""

_OF_CLIENTS: Final = frozenset({TOKEN.encode(), ROUTE.encode()})
"""What clients themselves say, as their cookies do."""

_ROUTE: Final = ROUTE.encode()
_NOT_RETURNED: Final = HOP_BY_HOP | {RETRY.encode()}
_TARGET: Final = re.compile(rb"/[^\x00-\x20#\x7f]*")
_LINE_BREAK: Final = re.compile(rb"[\r\n\0]")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f.:]+")
_HOST: Final = re.compile(rb"[A-Za-z0-9._~%:\[\]-]*")


class Malformed(Exception):
    """The request could mean different things to different servers; answered with 400."""


class Endless(Malformed):
    """The request came through more routers than a way has: they send it to each other."""


class Request:
    """What the router reads of a request's head."""

    __slots__ = ("body_length", "cookies", "headers", "hops", "idempotency_key", "route", "target")

    def __init__(self, scope: dict[str, Any], cookie_name: bytes) -> None:
        """Read the head. Raises Malformed, Endless."""
        self.hops = 0
        """Routers that the request has passed before."""
        self.route = ""
        """What a client without cookies says of its servers."""
        self.cookies: list[str] = []
        self.body_length: int | None = 0
        """Bytes of the body; None: it is chunked."""
        self.idempotency_key = False
        self.target = _target(scope)
        self.headers = self._read(scope, cookie_name)

    def _read(self, scope: dict[str, Any], cookie_name: bytes) -> list[tuple[bytes, bytes]]:
        passed: list[tuple[bytes, bytes]] = []
        single: dict[bytes, bytes] = {}
        for item in scope["headers"]:
            name, value = item
            if name in _NOT_FORWARDED or name.startswith(_INTERNAL):
                if not self._passes(name, value, single):
                    continue
            elif name == b"cookie":
                if cookie_name in value:
                    self.cookies.append(value.decode("latin-1"))
            elif name in (b"host", b"content-length"):
                _only(single, name, value)
            elif name == b"idempotency-key":
                self.idempotency_key = True
            elif b"_" in name and _disguised(name):
                continue
            passed.append(item)
        nominated = single.get(b"connection", b"").lower()
        if nominated and nominated not in (b"keep-alive", b"close", b"upgrade"):
            dropped = {option.strip() for option in nominated.split(b",")} - _NOT_NOMINATED
            passed = [item for item in passed if item[0] not in dropped]
        if _LINE_BREAK.search(b"".join([value for _, value in passed])):
            raise Malformed("a line break in a header")
        self._frame(single)
        if self.hops >= MOST_HOPS:
            raise Endless(f"it has passed {self.hops} routers")
        passed.append((_HOPS, b"%d" % (self.hops + 1)))
        passed += _forwarded(scope, single.get(b"host", b""))
        return passed

    def _passes(self, name: bytes, value: bytes, single: dict[bytes, bytes]) -> bool:
        """Whether such a header passes all the same; it may mean something here."""
        if name in _OF_CLIENTS:
            if name == _ROUTE:
                self.route = value.decode("latin-1")
            return True
        if name == b"connection":
            single[name] = single[name] + b"," + value if name in single else value
        elif name == b"transfer-encoding":
            _only(single, name, value)
        elif name == _HOPS and value.isdigit():
            self.hops = int(value[:3])
        return False

    def _frame(self, single: dict[bytes, bytes]) -> None:
        length, coding = single.get(b"content-length"), single.get(b"transfer-encoding")
        if coding is not None:
            if length is not None or coding.lower() != b"chunked":
                raise Malformed("ambiguous length")
            self.body_length = None
        elif length is not None:
            if not length.isdigit():
                raise Malformed("ambiguous length")
            self.body_length = int(length)


def _target(scope: dict[str, Any]) -> str:
    """Path and query as they came. They begin with `/`, so that they never name another host."""
    target: bytes = scope.get("raw_path") or scope["path"].encode()
    if query := scope["query_string"]:
        target += b"?" + query
    if not _TARGET.fullmatch(target):
        raise Malformed("not a path")
    return target.decode("latin-1")


def _only(single: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    if name in single:
        raise Malformed(f"several {name.decode()} headers")
    single[name] = value


def _disguised(name: bytes) -> bool:
    """WSGI reads `X_Forwarded_For` as `X-Forwarded-For`."""
    plain = name.replace(b"_", b"-")
    return plain in _NOT_DISGUISED or plain.startswith(_INTERNAL)


def _forwarded(scope: dict[str, Any], host: bytes) -> list[tuple[bytes, bytes]]:
    if not _HOST.fullmatch(host):
        raise Malformed("not a host")
    scheme = b"https" if scope["scheme"] in ("https", "wss") else b"http"
    headers = [(b"x-forwarded-proto", scheme)]
    forwarded = b"proto=" + scheme
    client = scope.get("client")
    if client and _ADDRESS.fullmatch(client[0]):  # a proxy that is trusted may pass on anything
        address = client[0].encode()
        headers.append((b"x-forwarded-for", address))
        forwarded = (b'for="[%b]";%b' if b":" in address else b"for=%b;%b") % (address, forwarded)
    if host:
        headers.append((b"x-forwarded-host", host))
        forwarded += b';host="%b"' % host
    headers.append((b"forwarded", forwarded))
    return headers


def returned(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an upstream's answer that go to the client, each as often as it came."""
    headers = [(name.lower(), value) for name, value in raw]
    nominated = [value for name, value in headers if name == b"connection"]
    dropped: set[bytes] | frozenset[bytes] = _NOT_RETURNED
    if nominated:
        options = b",".join(nominated).lower().split(b",")
        dropped = _NOT_RETURNED.union(option.strip() for option in options)
    return [(name, value) for name, value in headers if name not in dropped]
