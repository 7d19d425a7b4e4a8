"""Bodies of the data API: JSON, or msgpack in the codec of sessions, which keeps every type."""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

from starlette.requests import Request
from starlette.responses import Response

from sessionha.errors import RequestRefused
from sessionha.values.codec import Undecodable, decode, encode
from sessionha.values.managers import OPERATION_DEPTH

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"

NOTHING: Final = object()
"""In the place of a body that was not sent."""

EXTRA_BYTES: Final = 16 * 1024
"""What a body may have beyond the values: names, steps, and what JSON adds to them."""

INTEGER_BITS: Final = 2_000
"""Of an integer in JSON: about 600 digits; Python writes no number of more than 4,300, and can be
told to stop at 640."""

_PLAIN: Final = (type(None), bool, str)


class TooMuch(RequestRefused):
    """A body is larger than any session."""


class NotAcceptable(RequestRefused):
    """The answer has values that the format asked for cannot express."""


class UnknownFormat(RequestRefused):
    """A body has another format than the two."""


async def read(request: Request, session_bytes: int) -> Any:
    """The body's value, or NOTHING.

    Raises:
        RequestRefused: it is malformed, of an unknown format, or larger than what `session_bytes`
            of values can need.
    """
    limit = 2 * session_bytes + EXTRA_BYTES  # JSON writes bytes as text, and numbers longer
    data = await _received(request, limit)
    if not data:
        return NOTHING
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind == JSON:
        return _from_json(data)
    if kind != MSGPACK:
        raise UnknownFormat(f"a body must be {JSON} or {MSGPACK}, and its Content-Type say so")
    value = decode(data)
    if isinstance(value, Undecodable):
        raise RequestRefused(f"the body is no {MSGPACK}")
    return value


async def _received(request: Request, limit: int) -> bytes:
    refusal = TooMuch(f"a body may have {limit} bytes (setting `session_bytes`)")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise refusal
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise refusal
    return bytes(data)


def _from_json(data: bytes) -> Any:
    try:
        return json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RequestRefused(f"the body is no {JSON}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def answer(request: Request, value: Any, headers: dict[str, str]) -> Response:
    """The value in the format that the request accepts; JSON where it leaves the choice.

    Raises:
        NotAcceptable: JSON cannot express it.
    """
    if _takes_msgpack(request):
        return Response(encode(value, "answer", OPERATION_DEPTH), 200, headers, MSGPACK)
    check(request, value)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), 200, headers, JSON)


def check(request: Request, value: Any) -> None:
    """Raise NotAcceptable when the format that the request accepts cannot express the value."""
    if not _takes_msgpack(request) and not is_json(value):
        raise NotAcceptable(
            f"JSON cannot express every value here: send `Accept: {MSGPACK}`, or ask for other"
            " elements; nothing was changed"
        )


def _takes_msgpack(request: Request) -> bool:
    return MSGPACK in request.headers.get("accept", "*/*").lower()


def is_json(value: Any) -> bool:
    """Whether JSON gives exactly this value back."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is int:
        return int(value).bit_length() <= INTEGER_BITS
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(map(is_json, value))
    return (
        kind is dict
        and all(type(key) is str for key in value)
        and all(map(is_json, value.values()))
    )
