"""Requests that two servers could read differently, or that are meant to be read so, as raw bytes.

What is refused must be answered with its status and a closed connection, and nothing of it may
reach a server as a request. What passes must arrive as exactly the requests that are named, in this
order.
"""

from __future__ import annotations

from typing import Final, NamedTuple

Arrived = tuple[str, str, bytes]
"""Method, target and body of a request, as a server read it."""


class Hostile(NamedTuple):
    """One connection of a client."""

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    """Of all answers, in order."""
    arrives: tuple[Arrived, ...] = ()
    """What a server reads of it."""


HOST: Final = "Host: shop.example"
SMUGGLED: Final = b"GET /smuggled HTTP/1.1\r\nHost: shop.example\r\n\r\n"
"""Never arrives: it is part of something else wherever it stands."""
LAST: Final = b"GET /last HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"
"""A request of its own, and the connection's last."""


def head(*lines: str, start: str = "POST /first HTTP/1.1", host: str = HOST) -> bytes:
    """A complete head."""
    found = [start, *([host] if host else []), *lines, "", ""]
    return "\r\n".join(found).encode("latin-1")


def chunked(body: bytes, *lines: str) -> bytes:
    """A request with a body of chunks."""
    return head("Transfer-Encoding: chunked", *lines) + body


def sized(body: bytes, *lines: str, start: str = "POST /first HTTP/1.1") -> bytes:
    """A request with a body of a declared length."""
    return head(f"Content-Length: {len(body)}", *lines, start=start) + body


def refused(name: str, sent: bytes, status: int = 400) -> Hostile:
    """Something of which nothing arrives."""
    return Hostile(name, sent, (status,))


def passes(name: str, sent: bytes, *arrives: Arrived) -> Hostile:
    """Something that arrives as these requests; the connection ends by itself after the last."""
    return Hostile(name, sent, (200,) * len(arrives), arrives)


FIRST: Final = ("POST", "/first", b"")
GET_FIRST: Final = ("GET", "/first", b"")
THE_LAST: Final = ("GET", "/last", b"")
GET: Final = "GET /first HTTP/1.1"

LENGTHS: Final = (
    refused("a length and chunks", sized(b"0\r\n\r\nG", "Transfer-Encoding: chunked")),
    refused("chunks and a length", chunked(b"0\r\n\r\n" + SMUGGLED, "Content-Length: 4")),
    refused("two lengths", head("Content-Length: 5", "Content-Length: 0") + b"hello" + SMUGGLED),
    refused("the same length twice", sized(b"hello", "Content-Length: 5")),
    refused("a list of lengths", head("Content-Length: 5, 5") + b"hello"),
    refused("a length with a sign", head("Content-Length: +5") + b"hello"),
    refused("a negative length", head("Content-Length: -1") + SMUGGLED),
    refused("a hexadecimal length", head("Content-Length: 0x5") + b"hello"),
    refused("a length of two numbers", head("Content-Length: 5 5") + b"hello"),
    refused("a length with a fraction", head("Content-Length: 5.0") + b"hello"),
    refused("an empty length", head("Content-Length:") + SMUGGLED),
    refused(
        "a length beyond all integers", head("Content-Length: 18446744073709551621") + b"hello"
    ),
    refused("a length in other digits", head("Content-Length: \xc2\xb2") + b"hello"),
    refused("a length after a vertical tab", head("Content-Length: \x0b5") + b"hello"),
)

CODINGS: Final = (
    refused("an unknown coding", head("Transfer-Encoding: xchunked") + b"0\r\n\r\n"),
    refused("chunks that are not last", head("Transfer-Encoding: chunked, identity") + SMUGGLED),
    refused("identity before chunks", head("Transfer-Encoding: identity, chunked") + b"0\r\n\r\n"),
    refused("compressed chunks", head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    refused("chunks of chunks", head("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n"),
    refused("two codings", chunked(b"0\r\n\r\n", "Transfer-Encoding: identity")),
    refused("the same coding twice", chunked(b"0\r\n\r\n", "Transfer-Encoding: chunked")),
    refused("a coding after a vertical tab", head("Transfer-Encoding: \x0bchunked") + SMUGGLED),
    refused("a quoted coding", head('Transfer-Encoding: "chunked"') + b"0\r\n\r\n"),
    refused("an empty coding", head("Transfer-Encoding:") + SMUGGLED),
    refused("a coding and a tab", head("Transfer-Encoding: chunked\t") + b"0\r\n\r\n"),
    refused("a coding with a comma", head("Transfer-Encoding: ,chunked") + b"0\r\n\r\n"),
    refused(
        "chunks in HTTP/1.0",
        head("Transfer-Encoding: chunked", start="POST /first HTTP/1.0") + b"0\r\n\r\n" + SMUGGLED,
    ),
)

LINES: Final = (
    refused("a space before the colon", head("Transfer-Encoding : chunked") + b"0\r\n\r\n"),
    refused("a tab before the colon", head("Transfer-Encoding\t: chunked") + b"0\r\n\r\n"),
    refused("a space before the name", head("X: 1", " Transfer-Encoding: chunked") + SMUGGLED),
    refused("a folded value", head("Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n"),
    refused("a folded first line", head(host=" " + HOST)),
    refused("a NUL in a name", head("X\x00Y: 1")),
    refused("a NUL in a value", head("X: a\x00b")),
    refused("a control character in a value", head("X: a\x01b")),
    refused("a delete character in a value", head("X: a\x7fb")),
    refused("a carriage return in a value", head("X: a\rTransfer-Encoding: chunked") + SMUGGLED),
    refused("a line feed in a value", head("X: a\nTransfer-Encoding: chunked") + SMUGGLED),
    refused("a line of no header", head("GET /smuggled HTTP/1.1")),
    refused("a header without a name", head(": 1")),
    refused("a name of two words", head("Content Length: 5") + b"hello"),
    refused("a name with a bracket", head("X[1]: 1")),
    refused("a name beyond ASCII", head("X\xe9: 1")),
    refused("line feeds alone", head(start=GET).replace(b"\r\n", b"\n")),
    refused("a line feed after the first line", head(start=GET).replace(b"\r\n", b"\n", 1)),
    refused("a line feed at the end", head(start=GET)[:-2] + b"\n" + SMUGGLED),
    refused("carriage returns alone", head(start=GET).replace(b"\r\n", b"\r") + b"\r\n\r\n"),
)

TARGETS: Final = (
    refused("two spaces before the target", head(start="GET  /first HTTP/1.1")),
    refused("tabs between the words", head(start="GET\t/first\tHTTP/1.1")),
    refused("a space in the target", head(start="GET /first /second HTTP/1.1")),
    refused("a space at the end of the line", head(start=GET + " ")),
    refused("HTTP/0.9", b"GET /first\r\n\r\n"),
    refused("HTTP/2 in words", head(start="GET /first HTTP/2.0")),
    refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    refused("another version", head(start="GET /first HTTP/1.10")),
    refused("another protocol", head(start="GET /first ICAP/1.1")),
    refused("a version in small letters", head(start="GET /first http/1.1")),
    refused("a line break first", b"\n" + head(start=GET)),
    refused("a space first", b" " + head(start=GET)),
    refused("a method of other characters", head(start="G(ET /first HTTP/1.1")),
    refused("a method in small letters", head(start="get /first HTTP/1.1")),
    refused("a NUL in the target", head(start="GET /fir\x00st HTTP/1.1")),
    refused("a target beyond ASCII", head(start="GET /f\xefrst HTTP/1.1")),
    refused("a fragment", head(start="GET /first#second HTTP/1.1")),
    refused("a relative target", head(start="GET first HTTP/1.1")),
    refused("a backslash for a slash", head(start="GET \\first HTTP/1.1")),
    refused("a target of all", head(start="OPTIONS * HTTP/1.1")),
    refused("another host's target", head(start="GET http://evil.example/first HTTP/1.1")),
    refused("a name before the host", head(start="GET http://shop.example@evil/ HTTP/1.1")),
    refused("a tunnel", head(start="CONNECT evil.example:443 HTTP/1.1"), 405),
    refused("an echo of the request", head(start="TRACE /first HTTP/1.1"), 405),
    refused("TLS without TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64),
    refused("another protocol's greeting", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
)

HOSTS: Final = (
    refused("no host", head(start=GET, host="")),
    refused("two hosts", head("Host: evil.example", start=GET)),
    refused("the same host twice", head(HOST, start=GET)),
    refused("a host with a path", head(start=GET, host="Host: shop.example/evil")),
    refused("a host with a name before it", head(start=GET, host="Host: me@shop.example")),
    refused("a list of hosts", head(start=GET, host="Host: shop.example, evil.example")),
    refused("a host with quotes", head(start=GET, host='Host: a";for=evil')),
    refused("a port of letters", head(start=GET, host="Host: shop.example:http")),
)

CHUNKS: Final = (
    refused("a hexadecimal prefix", chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    refused("a size with a sign", chunked(b"+5\r\nhello\r\n0\r\n\r\n")),
    refused("a size with an underscore", chunked(b"1_0\r\nhellohellohello!\r\n0\r\n\r\n")),
    refused("a size and a space", chunked(b"5 \r\nhello\r\n0\r\n\r\n")),
    refused("a space and a size", chunked(b" 5\r\nhello\r\n0\r\n\r\n")),
    refused("no size", chunked(b"\r\nhello\r\n0\r\n\r\n")),
    refused("a size beyond all integers", chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n")),
    refused("a size of words", chunked(b"five\r\nhello\r\n0\r\n\r\n")),
    refused("a size and a line feed", chunked(b"5\nhello\r\n0\r\n\r\n")),
    refused("an extension and a line feed", chunked(b"5;a\nhello\r\n0\r\n\r\n" + SMUGGLED)),
    refused("an extension with a return", chunked(b"5;a\rb\r\nhello\r\n0\r\n\r\n")),
    refused("an endless extension", chunked(b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n")),
    refused("a longer chunk", chunked(b"5\r\nhello world\r\n0\r\n\r\n")),
    refused("a chunk and a line feed", chunked(b"5\r\nhello\n0\r\n\r\n")),
    refused("a chunk and two bytes", chunked(b"5\r\nhelloXX0\r\n\r\n")),
    refused("an end with a line feed", chunked(b"5\r\nhello\r\n0\n\r\n")),
    refused("a trailer with a line feed", chunked(b"0\r\nX: 1\n\r\n" + SMUGGLED)),
    refused("a trailer that is none", chunked(b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n")),
    refused("a folded trailer", chunked(b"0\r\nX: 1\r\n Y: 2\r\n\r\n")),
    refused("endless trailers", chunked(b"0\r\n" + b"X: 1\r\n" * 2000 + b"\r\n")),
)

UPGRADES: Final = (
    refused(
        "a websocket with a body",
        sized(b"hello", "Upgrade: websocket", "Connection: upgrade", start=GET),
    ),
    refused(
        "a websocket with a request behind it",
        head("Upgrade: websocket", "Connection: upgrade", start=GET) + SMUGGLED,
    ),
    refused("a websocket by POST", sized(b"", "Upgrade: websocket", "Connection: upgrade")),
)

LIMITS: Final = (
    refused("an expectation that nobody knows", sized(b"hello", "Expect: 102-processing"), 417),
    refused("a head without an end", head("X: " + "a" * 100_000, start=GET), 431),
    refused("a target without an end", head(start=f"GET /{'a' * 100_000} HTTP/1.1"), 431),
    refused("too many headers", head(*["X: 1"] * 200, start=GET), 431),
)

ENDS: Final = (
    Hostile("a body that breaks off", head("Content-Length: 10") + b"hello", ()),
    Hostile("chunks that break off", chunked(b"5\r\nhello\r\n"), ()),
    Hostile("a chunk that breaks off", chunked(b"ff\r\nhello"), ()),
    Hostile("a head that breaks off", b"GET /first HTTP/1.1\r\nHost: shop", ()),
)

UNDERSTOOD: Final = (
    passes(
        "a request in a body", sized(SMUGGLED, "Connection: close"), ("POST", "/first", SMUGGLED)
    ),
    passes(
        "a request in the body of a GET",
        sized(SMUGGLED, "Connection: close", start=GET),
        ("GET", "/first", SMUGGLED),
    ),
    passes(
        "a request in a chunk",
        chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), "Connection: close"),
        ("POST", "/first", SMUGGLED),
    ),
    passes("no body, and the next request", sized(b"") + LAST, FIRST, THE_LAST),
    passes(
        "requests in a row",
        head(start=GET) + sized(b"hello") + chunked(b"3\r\nabc\r\n0\r\n\r\n") + LAST,
        GET_FIRST,
        ("POST", "/first", b"hello"),
        ("POST", "/first", b"abc"),
        THE_LAST,
    ),
    passes(
        "extensions and trailers",
        chunked(b"5;a=1;b\r\nhello\r\n0\r\nX: 1\r\nContent-Length: 3\r\n\r\n") + LAST,
        ("POST", "/first", b"hello"),
        THE_LAST,
    ),
    passes(
        "sizes with zeros and capitals",
        chunked(b"00A\r\nhelloworld\r\n000\r\n\r\n") + LAST,
        ("POST", "/first", b"helloworld"),
        THE_LAST,
    ),
    passes(
        "chunks in capitals",
        head("transfer-ENCODING:CHUNKED") + b"0\r\n\r\n" + LAST,
        FIRST,
        THE_LAST,
    ),
    passes(
        "a length with zeros",
        head("Content-Length: 0005") + b"hello" + LAST,
        ("POST", "/first", b"hello"),
        THE_LAST,
    ),
    passes(
        "a length that the client wants dropped",
        sized(SMUGGLED, "Connection: close, content-length"),
        ("POST", "/first", SMUGGLED),
    ),
    passes(
        "a coding and a host that the client wants dropped",
        chunked(b"0\r\n\r\n", "Connection: close, Transfer-Encoding, Host"),
        FIRST,
    ),
    passes(
        "headers in disguise",
        sized(b"hello", "Transfer_Encoding: chunked", "Content_Length: 0", "Connection: close"),
        ("POST", "/first", b"hello"),
    ),
    passes(
        "another protocol that is offered",
        head(
            "Upgrade: h2c",
            "Connection: Upgrade, HTTP2-Settings",
            "HTTP2-Settings: AAMAAABk",
            start=GET,
        )
        + LAST,
        GET_FIRST,
        THE_LAST,
    ),
    passes(
        "the own host's target",
        head("Connection: close", start="GET http://SHOP.example/first HTTP/1.1"),
        GET_FIRST,
    ),
    passes("HTTP/1.0 without a host", head(start="GET /first HTTP/1.0", host=""), GET_FIRST),
    passes(
        "dots, slashes and escapes",
        head("Connection: close", start="GET //a/../%2e%2e/%00%0d%0a?x=\\&y={} HTTP/1.1"),
        ("GET", "//a/../%2e%2e/%00%0d%0a?x=\\&y={}", b""),
    ),
    Hostile(
        "garbage after a request",
        head(start=GET) + b"\x00garbage\r\n\r\n",
        (200, 400),
        (GET_FIRST,),
    ),
    Hostile(
        "an ambiguous one after a request",
        sized(b"hello") + sized(b"0\r\n\r\n", "Transfer-Encoding: chunked"),
        (200, 400),
        (("POST", "/first", b"hello"),),
    ),
    Hostile("requests after the last one", LAST + SMUGGLED, (200,), (THE_LAST,)),
)

CORPUS: Final = (
    *LENGTHS,
    *CODINGS,
    *LINES,
    *TARGETS,
    *HOSTS,
    *CHUNKS,
    *UPGRADES,
    *LIMITS,
    *ENDS,
    *UNDERSTOOD,
)
