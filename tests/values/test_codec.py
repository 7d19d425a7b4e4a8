"""The codec: exact round trips, clear refusals, nothing spoilt by one bad element."""

from __future__ import annotations

import enum
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionha.errors import ElementNotEncodable
from sessionha.values.codec import Undecodable, decode, encode

NAIVE = datetime(2026, 3, 1, 12, 30, 1, 5)  # noqa: DTZ001


def same(a: Any, b: Any) -> bool:
    """Equality that tells 1 from True, a tuple from a list, and knows NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, set | frozenset):
        return same(sorted(map(repr, a)), sorted(map(repr, b)))
    return bool(a == b)


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, 1, -1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**50, -(10**50),
        0.0, -0.0, 1.0, math.inf, math.nan, "", "äß€😀", b"", b"\x00\xff", [], {}, (), set(),
        frozenset(), [True, 1, 1.0], {"a": [{"b": (1, (2, {3}))}]}, {1: "a", "1": "b"},
        {(1, "x"): {None: True}}, {True: 1}, {1.5: 1}, {b"k": 1}, {1, "1", (1, 2), frozenset({3})},
        NAIVE, NAIVE.replace(tzinfo=UTC), NAIVE.replace(fold=1),
        NAIVE.replace(tzinfo=timezone(timedelta(hours=5, minutes=30))),
        date(1, 1, 1), time(23, 59, 59, 999999), time(1, 2, tzinfo=UTC),
        timedelta(days=-1, microseconds=1), Decimal("1.10"), Decimal("1E+30"), Decimal("-0"),
        UUID(int=5), [NAIVE, [Decimal(1), {"x": {1, 2}}]],
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, set) else repr(value),
)  # fmt: skip
def test_round_trip(value: Any) -> None:
    assert same(decode(encode(value, "x")), value)


def test_a_named_time_zone_keeps_its_name_and_fold() -> None:
    zone = ZoneInfo("Europe/Berlin")
    value = datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=1)
    read = decode(encode(value, "x"))
    assert isinstance(read, datetime)
    assert read.tzinfo is zone
    assert read.fold == 1
    assert read.utcoffset() == timedelta(hours=1)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.dates()
    | st.uuids()
    | st.timedeltas()
)
hashable = st.integers() | st.text(st.characters(exclude_categories=["Cs"])) | st.binary()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.frozensets(hashable, max_size=4)
    ),
    max_leaves=12,
)


@given(values)
def test_round_trip_of_anything(value: Any) -> None:
    data = encode(value, "x")
    read = decode(data)
    assert same(read, value)
    assert encode(read, "x") == data


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("<b>"), "<b>"),
        (Level.LOW, 1),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (OrderedDict(a=Text("x")), {"a": "x"}),
        (Counter("aa"), {"a": 2}),
        ([Point(1, 2)], [(1, 2)]),
    ],
)
def test_a_subclass_is_stored_as_the_plain_value_it_equals(value: Any, plain: Any) -> None:
    assert same(decode(encode(value, "x")), plain)


@pytest.mark.parametrize(
    ("value", "place", "kind"),
    [
        (object(), "cart", "object"),
        (Colour.RED, "cart", "Colour"),
        ({"items": [1, 2, {3j}]}, r"cart\.items\[2\] \(a member\)", "complex"),
        ({"items": [1, 2, Colour.RED]}, r"cart\.items\[2\]", "Colour"),
        ({Colour.RED: 1}, r"cart \(a key\)", "Colour"),
        ([bytearray(b"x")], r"cart\[0\]", "bytearray"),
        (["\ud800"], r"cart\[0\]", "str"),
        (lambda: 1, "cart", "function"),
    ],
)
def test_what_cannot_be_stored_is_named_with_its_place_and_type(
    value: Any, place: str, kind: str
) -> None:
    with pytest.raises(ElementNotEncodable, match=place) as raised:
        encode(value, "cart")
    assert raised.value.type_name.endswith(kind)


def test_depth_is_limited_and_a_value_inside_itself_is_refused() -> None:
    deep: Any = 1
    for _ in range(16):
        deep = [deep]
    assert same(decode(encode(deep, "x")), deep)
    with pytest.raises(ElementNotEncodable, match="nested too deeply"):
        encode([deep], "x")
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ElementNotEncodable, match="contains itself"):
        encode(loop, "x")
    with pytest.raises(ElementNotEncodable, match="nested too deeply"):
        encode({"a": {"b": (1,)}}, "x", depth=2)


def test_equal_sets_have_equal_bytes() -> None:
    names = [f"name{i}" for i in range(50)]
    assert encode(set(names), "x") == encode({*names[::-1]}, "x")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x91", b"\x01\x01", b"\x91" * 100_000 + b"\x01",
        msgspec.msgpack.encode(msgspec.msgpack.Ext(99, b"")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(10, b"short")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(9, b"no number")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(2, b"\x91\x90")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"\x93\xa1x\x00\xc0")),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(5, msgspec.msgpack.encode(
            ["2026-01-01T00:00:00", 0, "No/Where"]))),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_kept_with_the_reason(data: bytes) -> None:
    read = decode(data)
    assert isinstance(read, Undecodable)
    assert read.raw == data
    assert read.why
