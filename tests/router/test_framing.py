"""The strict reader by itself, without sockets: byte by byte, and against two other parsers."""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionha.router.framing import AHEAD_BYTES, Framing, Refusal
from tests.router.hostile import CORPUS, LAST, UNDERSTOOD, Arrived, Hostile, head, sized


def read(*pieces: bytes) -> tuple[bytes, Refusal | None]:
    """What passes when each request is answered at once, and why it ends if it does."""
    framing = Framing()
    passed = []
    for piece in pieces:
        passed.append(framing.feed(piece))
        while more := framing.answered() if not framing.in_body else b"":
            passed.append(more)
    return b"".join(passed), framing.refusal


@pytest.mark.parametrize(
    "hostile",
    [each for each in CORPUS if "behind" not in each.name],  # whom a websocket's bytes reach
    ids=lambda hostile: hostile.name,
)
def test_it_makes_no_difference_in_what_pieces_bytes_come(hostile: Hostile) -> None:
    passed, refusal = read(hostile.sent)
    dripped, its_refusal = read(*(bytes([byte]) for byte in hostile.sent))
    assert (its_refusal is None) == (refusal is None)
    if refusal is None:
        assert dripped == passed
    else:
        assert its_refusal is not None
        assert its_refusal.status == refusal.status


def test_the_next_request_is_kept_until_the_answer_to_the_first() -> None:
    framing = Framing()
    first = sized(b"hello")
    assert framing.feed(first + LAST) == first
    assert framing.feed(b"") == b""
    assert framing.answered() == LAST
    assert not framing.in_body


def test_an_early_answer_does_not_free_the_next_request_before_the_body_is_read() -> None:
    framing = Framing()
    assert framing.feed(sized(b"hello")[:-2]) == sized(b"hello")[:-2]
    assert framing.answered() == b""
    assert framing.feed(b"lo" + LAST) == b"lo" + LAST


def test_who_sends_too_far_ahead_is_refused() -> None:
    framing = Framing()
    framing.feed(head(start="GET / HTTP/1.1"))
    framing.feed(b"x" * AHEAD_BYTES)
    assert not framing.refusal
    framing.feed(b"x")
    assert framing.refusal == Refusal(
        400, "size", "Too much was sent before the answer.", in_body=True
    )


def test_a_head_that_drips_is_not_read_over_and_over() -> None:
    """As many looks as bytes would be two thousand million bytes for this head."""
    framing = Framing()
    for piece in [head(start="GET / HTTP/1.1")[:-2], *[b"x"] * 40_000]:
        assert framing.feed(piece) == b""
    assert framing.in_head
    assert not framing.refusal


def test_nothing_passes_after_a_refusal() -> None:
    framing = Framing()
    assert framing.feed(b"\x00") == b""
    assert framing.feed(LAST) == b""
    assert framing.answered() == b""


@dataclass
class Parsed:
    """Requests as httptools calls them out."""

    found: list[Arrived] = field(default_factory=list)
    url: bytes = b""
    body: bytes = b""

    def on_message_begin(self) -> None:
        self.url = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body


def by_httptools(data: bytes) -> list[Arrived] | None:
    """The complete requests; None: it refuses them."""
    parsed = Parsed()
    parser = httptools.HttpRequestParser(parsed)

    def complete() -> None:
        parsed.found.append((parser.get_method().decode(), parsed.url.decode(), parsed.body))

    parsed.on_message_complete = complete  # type: ignore[attr-defined]
    parser = httptools.HttpRequestParser(parsed)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        return None
    return parsed.found


def by_h11(data: bytes) -> list[Arrived] | None:
    """The same as h11 reads them."""
    found = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                found.append((request.method.decode(), request.target.decode(), body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return found
                connection.start_next_cycle()
            else:
                return found
    except h11.RemoteProtocolError:
        return None


_PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n", b"\n", b"\r", b" ",
        b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
        b"abc", b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"X: 1\r\n", b";x", b"\x00", b":", b",",
        b"HTTP/1.0\r\n", b"Upgrade: h2c\r\n", b"Connection: upgrade\r\n", b"\t", b"1", b"+", b"#",
    ]
)  # fmt: skip
_WHOLE = st.sampled_from([each.sent for each in CORPUS if len(each.sent) < 1000])
_MADE = st.lists(_PIECES, max_size=14).map(b"".join)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """One of the corpus, or several in a row, with some bytes replaced by others."""
    sent = b"".join(draw(st.lists(_WHOLE, min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(sent)))
        sent = sent[:at] + draw(_PIECES) + sent[at + draw(st.integers(0, 4)) :]
    return sent


@settings(max_examples=500, deadline=None)
@given(_MADE | _mutated())
def test_two_parsers_read_the_same_requests_in_what_passes(sent: bytes) -> None:
    passed, _ = read(sent)
    one, other = by_httptools(passed), by_h11(passed)
    if one is not None and other is not None:
        assert one[: len(other)] == other[: len(one)]
        assert abs(len(one) - len(other)) == 0 or b"close" in passed.lower() or b"/1.0" in passed


@pytest.mark.parametrize("hostile", UNDERSTOOD, ids=lambda hostile: hostile.name)
def test_both_parsers_read_what_is_understood(hostile: Hostile) -> None:
    passed, _ = read(hostile.sent)
    wanted = list(hostile.arrives)
    for found in (by_httptools(passed), by_h11(passed)):
        assert found is not None
        assert [(m, t, b) for m, t, b in found][: len(wanted)] == wanted
