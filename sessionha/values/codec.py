"""Plain Python values to bytes and back: msgpack, with extension types for what msgpack lacks.

What is read equals what was stored, and has its type: a tuple stays a tuple and 1 stays apart from
True. A subclass of a plain type (IntEnum, defaultdict, a named tuple) is stored as the plain value
that it equals, as JSON does; text that says it is safe as HTML stays so, or templates would escape
it. Anything else is refused by name. Never pickle.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any, Final, NamedTuple
from uuid import UUID
from zlib import crc32

import msgspec
from msgspec.msgpack import Ext

from sessionha.errors import PLAIN_VALUES, ElementNotEncodable

DEPTH: Final = 16
"""How deep containers may be nested; deeper data is a mistake, often a value inside itself."""

# Numbers of stored data: never reuse one.
_TUPLE, _SET, _FROZENSET, _PAIRS, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _INT = (
    range(1, 12)
)
_SAFE: Final = 12

IMMUTABLE: Final = frozenset(
    {type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID}
)
"""Types whose values cannot change behind our back, so that one read needs no comparison."""

_STORED: Final = 128
"""A limit that nothing reaches which was stored: values have at most 64 levels."""

managed: Final[set[type]] = set()
"""Types that have data managers of applications: known here for the words of refusals alone."""

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS: Final = frozenset({list, dict})
_ROWS: Final = frozenset({dict})
_KEYS: Final = frozenset({str, int})

_REFUSALS: Final = (TypeError, OverflowError, UnicodeEncodeError, RecursionError)
"""What msgspec raises for values that it cannot store."""

_UNREADABLE: Final = (msgspec.DecodeError, ValueError, TypeError, ArithmeticError, KeyError)
"""What msgspec and the readers raise for stored bytes that are not ours."""


class Undecodable(NamedTuple):
    """Stored bytes that this process cannot read: they are kept and travel as they are."""

    raw: bytes
    why: str


def encode(value: Any, element: str, depth: int = DEPTH) -> bytes:
    """The value's stored form; the same bytes for equal values with equally ordered dicts.

    Raises:
        ElementNotEncodable: naming the place (`cart.items[2]`) and the type.
    """
    if _is_plain(value, depth):
        try:
            return _encoder.encode(value)
        except (OverflowError, UnicodeEncodeError):
            pass  # a large integer, or a mistake that the careful way names
    return _encoder.encode(_Careful(element).convert(value, element, depth))


def checksum(value: Any) -> int:
    """CRC-32 of the stored form of a value that was stored before, never 0."""
    kind = type(value)
    if kind in _SCALARS and (kind is not int or abs(value) < 1 << 63):
        return crc32(_encoder.encode(value)) or 1
    return crc32(encode(value, "item", _STORED)) or 1


def decode(data: bytes) -> Any | Undecodable:
    """The value, or `Undecodable`: one bad element does not spoil the others."""
    try:
        return _decoder.decode(data)
    except _UNREADABLE as error:
        return Undecodable(data, f"{type(error).__name__}: {error}"[:200])
    except RecursionError:
        return Undecodable(data, "it is nested too deeply")


def joined(encoded: Sequence[bytes]) -> bytes:
    """The stored form of the list of these values."""
    count = len(encoded)
    if count < 16:
        header = bytes([0x90 | count])
    elif count < 1 << 16:
        header = b"\xdc" + count.to_bytes(2, "big")
    else:
        header = b"\xdd" + count.to_bytes(4, "big")
    return header + b"".join(encoded)


def decode_list(data: bytes) -> list[Any]:
    """The values of a stored list, each of which is known to be decodable."""
    values: list[Any] = _decoder.decode(data)
    return values


def is_stored(value: Any, data: bytes) -> bool:
    """Whether msgpack by itself stores the value as `data`."""
    try:
        return _encoder.encode(value) == data
    except _REFUSALS:
        return False


def is_unchanged(value: Any, data: bytes, depth: int, *, exactly: bool) -> bool:
    """Whether `data` surely is the value's stored form; False: perhaps, `encode` and compare.

    Not `exactly`: for values that the application has not seen, so that a list in them cannot
    have become an equal tuple.
    """
    return is_stored(value, data) and (not exactly or _is_plain(value, depth))


def _is_plain(value: Any, depth: int) -> bool:
    """Whether msgspec stores the value exactly; loops run in C, Python sees containers only."""
    kind = type(value)
    if kind is dict:
        if not _KEYS.issuperset(map(type, value)):
            return False
        value = value.values()
    elif kind is not list:
        return kind in _SCALARS
    if depth == 0:
        return False
    inner = set(map(type, value)) - _SCALARS
    if not inner:
        return True
    if not inner <= _CONTAINERS:
        return False
    if inner == _ROWS and depth > 1 and _are_rows([row for row in value if type(row) is dict]):
        return True
    return all(_is_plain(item, depth - 1) for item in value if type(item) in _CONTAINERS)


def _are_rows(rows: list[dict[Any, Any]]) -> bool:
    """Whether these are flat and plain, as rows of a table are: the most frequent nesting."""
    if not _KEYS.issuperset(map(type, chain.from_iterable(rows))):
        return False
    return _SCALARS.issuperset(map(type, chain.from_iterable(map(dict.values, rows))))


class _Careful:
    """Converts a value that msgspec alone would store inexactly, and names what it cannot."""

    def __init__(self, element: str) -> None:
        self._element = element

    def convert(self, value: Any, place: str, depth: int) -> Any:
        for kind, write in _WRITERS:
            if isinstance(value, kind):
                return write(self, value, place, depth)
        if _is_safe(value):  # such as lazy text of a translation
            return _safe(str(value.__html__()))
        raise ElementNotEncodable(place, type(value).__qualname__, self._remedy(value, place))

    def _remedy(self, value: object, place: str) -> str:
        if not managed.isdisjoint(type(value).__mro__):
            return "its data manager applies to whole elements only: give it a key of its own"
        return "" if place != self._element else f"{PLAIN_VALUES}, or register a data manager"

    def text(self, value: str, place: str, _: int) -> Any:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ElementNotEncodable(
                place, "str", f"it is no Unicode text: {error.reason}"
            ) from error
        return _safe(value) if _is_safe(value) else str.__str__(value)

    def integer(self, value: int, _place: str, _depth: int) -> Any:
        number = int.__pos__(value)
        if -(2**63) <= number < 2**64:
            return number
        return Ext(_INT, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))

    def mapping(self, value: dict[Any, Any], place: str, depth: int) -> Any:
        self._descend(value, place, depth)
        keys = (str, int, float, bool, bytes, type(None), tuple)
        pairs = []
        for key, item in value.items():
            if not isinstance(key, keys) and type(key) not in IMMUTABLE:
                raise ElementNotEncodable(f"{place} (a key)", type(key).__qualname__)
            pairs.append(
                (
                    self.convert(key, f"{place} (a key)", depth - 1),
                    self.convert(item, f"{place}.{key}", depth - 1),
                )
            )
        if all(type(key) in _KEYS for key, _ in pairs):
            return dict(pairs)
        return Ext(_PAIRS, _encoder.encode(pairs))

    def sequence(self, value: Iterable[Any], place: str, depth: int) -> list[Any]:
        self._descend(value, place, depth)
        return [
            self.convert(item, f"{place}[{index}]", depth - 1) for index, item in enumerate(value)
        ]

    def tuple(self, value: Iterable[Any], place: str, depth: int) -> Ext:
        return Ext(_TUPLE, _encoder.encode(self.sequence(value, place, depth)))

    def set(self, value: Iterable[Any], place: str, depth: int) -> Ext:
        return Ext(_SET, self._sorted(value, place, depth))

    def frozenset(self, value: Iterable[Any], place: str, depth: int) -> Ext:
        return Ext(_FROZENSET, self._sorted(value, place, depth))

    def _sorted(self, value: Iterable[Any], place: str, depth: int) -> bytes:
        self._descend(value, place, depth)
        members = [self.convert(item, f"{place} (a member)", depth - 1) for item in value]
        return _encoder.encode(sorted(members, key=_encoder.encode))

    def datetime(self, value: datetime, place: str, _: int) -> Ext:
        zone = value.tzinfo.key if isinstance(value.tzinfo, zoneinfo.ZoneInfo) else None
        if zone is None and isinstance(value.tzinfo, zoneinfo.ZoneInfo):
            raise ElementNotEncodable(place, "datetime", "its time zone has no name")
        if zone is not None:
            value = value.replace(tzinfo=None)
        parts = [datetime.isoformat(value), value.fold, zone]
        return Ext(_DATETIME, _encoder.encode(parts))

    def time(self, value: time, place: str, _: int) -> Ext:
        if isinstance(value.tzinfo, zoneinfo.ZoneInfo):
            raise ElementNotEncodable(place, "time", "a time of day cannot have a named zone")
        return Ext(_TIME, _encoder.encode([time.isoformat(value), value.fold]))

    def date(self, value: date, _place: str, _depth: int) -> Ext:
        return Ext(_DATE, date.isoformat(value).encode())

    def timedelta(self, value: timedelta, _place: str, _depth: int) -> Ext:
        parts = (value.days, value.seconds, value.microseconds)
        return Ext(_TIMEDELTA, _encoder.encode(parts))

    def decimal(self, value: Decimal, _place: str, _depth: int) -> Ext:
        return Ext(_DECIMAL, Decimal.__str__(value).encode())

    def uuid(self, value: UUID, _place: str, _depth: int) -> Ext:
        return Ext(_UUID, value.bytes)

    def _descend(self, value: object, place: str, depth: int) -> None:
        if depth == 0:
            raise ElementNotEncodable(
                self._element,
                type(value).__qualname__,
                f"it is nested too deeply at {place[:80]} (setting `depth`), or contains itself",
            )


_WRITERS: Final[tuple[tuple[Any, Callable[[_Careful, Any, str, int], Any]], ...]] = (
    # before int, datetime before date: a bool is an int and a datetime is a date
    ((bool, type(None), bytes), lambda _self, value, _place, _depth: _exact(value)),
    (str, _Careful.text),
    (int, _Careful.integer),
    (float, lambda _self, value, _place, _depth: float.__pos__(value)),
    (dict, _Careful.mapping),
    (list, _Careful.sequence),
    (tuple, _Careful.tuple),
    (set, _Careful.set),
    (frozenset, _Careful.frozenset),
    (datetime, _Careful.datetime),
    (date, _Careful.date),
    (time, _Careful.time),
    (timedelta, _Careful.timedelta),
    (Decimal, _Careful.decimal),
    (UUID, _Careful.uuid),
)


def _is_safe(value: object) -> bool:
    """Whether templates take it for HTML, by the convention of markupsafe, Jinja and Django."""
    return callable(getattr(type(value), "__html__", None))


def _safe(value: str) -> Ext:
    return Ext(_SAFE, str.encode(value))


def _exact(value: Any) -> Any:
    return bytes(value) if isinstance(value, bytes) else value


def _read_datetime(data: bytes) -> datetime:
    text, fold, zone = _decoder.decode(data)
    value = datetime.fromisoformat(text).replace(fold=fold)
    if value.tzinfo is not None and value.tzinfo.utcoffset(None) == timedelta(0):
        value = value.replace(tzinfo=UTC)
    return value if zone is None else value.replace(tzinfo=zoneinfo.ZoneInfo(zone))


def _read_safe(data: bytes) -> str:
    try:
        from markupsafe import Markup  # noqa: PLC0415 -- whoever stored it had a template engine
    except ModuleNotFoundError:
        return data.decode()  # and is escaped
    return Markup(data.decode())


def _read_time(data: bytes) -> time:
    text, fold = _decoder.decode(data)
    return time.fromisoformat(text).replace(fold=fold)


_READERS: Final[dict[int, Callable[[bytes], Any]]] = {
    _TUPLE: lambda data: tuple(_decoder.decode(data)),
    _SET: lambda data: set(_decoder.decode(data)),
    _FROZENSET: lambda data: frozenset(_decoder.decode(data)),
    _PAIRS: lambda data: dict(_decoder.decode(data)),
    _DATETIME: _read_datetime,
    _DATE: lambda data: date.fromisoformat(data.decode()),
    _TIME: _read_time,
    _TIMEDELTA: lambda data: timedelta(*_decoder.decode(data)),
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: lambda data: UUID(bytes=data),
    _SAFE: _read_safe,
    _INT: lambda data: int.from_bytes(data, "big", signed=True),
}


def _read_ext(code: int, data: memoryview) -> Any:
    read = _READERS.get(code)
    if read is None:
        raise ValueError(f"it has the unknown type {code}, written by a newer version")
    return read(bytes(data))


_encoder: Final[msgspec.msgpack.Encoder] = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(ext_hook=_read_ext)
