"""What an engine need not read again, and when it must."""

from __future__ import annotations

import pytest

from sessionha.identity import Epoch, Position, ViewID
from sessionha.peer.messages import Batch, Create, SessionChange
from sessionha.state import readings
from sessionha.state.base import Elements, Held
from sessionha.state.readings import Readings
from sessionha.state.records import GroupRecord, write_record
from sessionha.view import View

GROUP = b"\x05" * 12
KEY, OTHER = b"\x01" * 16, b"\x02" * 16
EPOCH = Epoch(1, 1, "n1")
FOUND = Elements({"a": ("value", b"\x01"), "b": ("value", b"\x02")})


def at(version: int, epoch: Epoch = EPOCH) -> Position:
    return Position(epoch, version)


@pytest.fixture
def kept() -> Readings:
    kept = Readings()
    kept.keep(KEY, at(5), FOUND)
    return kept


def test_elements_are_right_at_their_position_only(kept: Readings) -> None:
    assert kept.elements(KEY, at(5)) is FOUND
    assert kept.elements(KEY, at(6)) is None
    assert kept.elements(KEY, at(5, Epoch(1, 2, "n2"))) is None
    assert kept.elements(OTHER, at(5)) is None


def test_a_batch_on_top_of_them_is_followed(kept: Readings) -> None:
    change = SessionChange(
        KEY, puts=(("a", "value", b"\x07"), ("c", "value", b"\x08")), deletes=("b",)
    )
    kept.follow(Batch(GROUP, (change,)), (), at(5), at(6))
    assert kept.elements(KEY, at(6)) == {"a": ("value", b"\x07"), "c": ("value", b"\x08")}
    assert kept.elements(KEY, at(5)) is None
    assert FOUND["a"] == ("value", b"\x01")  # other requests still have it


@pytest.mark.parametrize(
    "change",
    [
        SessionChange(KEY, destroy=True),
        SessionChange(KEY, clear=True),
        SessionChange(KEY, create=Create(1, 0)),
        SessionChange(KEY, replaces=OTHER),
    ],
    ids=["destroyed", "cleared", "created", "renewed"],
)
def test_what_is_more_than_elements_is_read_anew(kept: Readings, change: SessionChange) -> None:
    kept.follow(Batch(GROUP, (change,)), (), at(5), at(6))
    assert kept.elements(KEY, at(6)) is None


def test_a_batch_on_top_of_something_else_is_read_anew(kept: Readings) -> None:
    """A sibling engine wrote in between."""
    change = SessionChange(KEY, puts=(("a", "value", b"\x07"),))
    kept.follow(Batch(GROUP, (change,)), (), at(6), at(7))
    assert kept.elements(KEY, at(7)) is None


@pytest.mark.parametrize(
    "values",
    [
        {"a": ("value", bytes(4096))},
        {f"{number:0200}": ("value", bytes([number])) for number in range(256)},
    ],
    ids=["one large value", "many long names"],
)
def test_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, tuple[str, bytes]]
) -> None:
    monkeypatch.setattr(readings, "KEPT_BYTES", 256 * 1024)
    kept = Readings()
    values = Elements(values)
    keys = [number.to_bytes(16, "big") for number in range(50)]
    for key in keys:
        kept.keep(key, at(1), values)
        assert kept.elements(key, at(1)) is values
    found = [key for key in keys if kept.elements(key, at(1)) is not None]
    least = sum(2 * len(name) + 3 * len(value) for name, (_, value) in values.items())
    assert 1 <= len(found) <= 256 * 1024 // least


def test_a_session_that_is_written_again_and_again_takes_its_room_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readings, "KEPT_BYTES", 64 * 1024)
    kept = Readings()
    kept.keep(OTHER, at(1), FOUND)
    kept.keep(KEY, at(1), FOUND)
    for version in range(1, 200):
        change = SessionChange(KEY, puts=(("a", "value", bytes(4096)),))
        kept.follow(Batch(GROUP, (change,)), (), at(version), at(version + 1))
    assert kept.elements(KEY, at(200)) is not None
    assert kept.elements(OTHER, at(1)) is FOUND


def test_what_was_deleted_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "KEPT_BYTES", 64 * 1024)
    kept = Readings()
    kept.keep(OTHER, at(1), FOUND)
    kept.keep(KEY, at(1), FOUND)
    for version in range(1, 200, 2):
        flash = SessionChange(KEY, puts=(("flash", "value", bytes(1024)),))
        kept.follow(Batch(GROUP, (flash,)), (), at(version), at(version + 1))
        gone = SessionChange(KEY, deletes=("flash",))
        kept.follow(Batch(GROUP, (gone,)), (), at(version + 1), at(version + 2))
    assert kept.elements(OTHER, at(1)) is FOUND


def test_what_is_said_of_a_group_belongs_to_its_row_and_the_view() -> None:
    kept, asked = Readings(), []

    def serves(record: GroupRecord, view: View) -> Held | None:
        asked.append((record.version, view.id.number))
        return Held(record.position, record.holders)

    def say(version: int, view: View) -> Held | None:
        row = write_record(GroupRecord(epoch=EPOCH, version=version, holders=("n1",)))
        return kept.held(GROUP, row, view, serves)

    one, two = View(id=ViewID(1, "")), View(id=ViewID(2, ""))
    assert [say(1, one), say(1, one), say(2, one), say(2, two)] == [
        Held(at(version), ("n1",)) for version in (1, 1, 2, 2)
    ]
    assert asked == [(1, 1), (2, 1), (2, 2)]
