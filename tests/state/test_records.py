"""Rows and their keys: one domain, one group and one session are contiguous ranges."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sessionha.identity import Epoch, ViewID
from sessionha.state.records import (
    ElementRecord,
    GroupRecord,
    SessionRecord,
    element_key,
    elements,
    epoch_at,
    epoch_end,
    get_group,
    get_session,
    group_key,
    groups,
    read_element,
    rows,
    session_row_key,
    write_record,
)
from sessionha.store.base import Reader
from sessionha.store.memory import MemoryStore

E1, E2, E3 = (Epoch(1, attempt, "n1") for attempt in (1, 2, 3))
LINE = ((E1, 1), (E2, 5), (E3, 9))


def group(first: int, last: int = 0) -> bytes:
    return bytes([first]) + bytes(10) + bytes([last])


SESSION = bytes(15) + b"\x01"
LAST_SESSION = b"\xff" * 16


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    opened = MemoryStore().open()
    yield opened
    opened.close()


def fill(store: MemoryStore, *found: bytes) -> None:
    with store.write() as writer:
        for name in found:
            writer.put(group_key(name), write_record(GroupRecord(version=name[-1])))
            for session in (SESSION, LAST_SESSION):
                record = SessionRecord(1, 0, 0, 1000, 1000, 0)
                writer.put(session_row_key(name, session), write_record(record))
                for element in ("a", "ÿ" * 40):
                    value = write_record(ElementRecord(1, "value", b"x"))
                    writer.put(element_key(name, session, element), value)


class Counting:
    """A reader that counts the rows it was asked to walk over."""

    def __init__(self, inner: Reader) -> None:
        self.inner = inner
        self.walked = 0

    def get(self, key: bytes) -> bytes | None:
        return self.inner.get(key)

    def scan(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        for row in self.inner.scan(prefix, after):
            self.walked += 1
            yield row


def test_what_is_written_is_read(store: MemoryStore) -> None:
    record = GroupRecord(
        epoch=E2, version=7, acked=6, promise=E3, holders=("n1", "n2"), formed=ViewID(3, "n1"),
        seats=("n2",), leaving=("n3",), line=LINE, trimmed=2, tombstones=1,
    )  # fmt: skip
    session = SessionRecord(7, 1, 2, 3, 4, 5, destroyed=True, size=6, count=7)
    with store.write() as writer:
        writer.put(group_key(group(1)), write_record(record))
        writer.put(session_row_key(group(1), SESSION), write_record(session))
    with store.read() as reader:
        assert get_group(reader, group(1)) == record
        assert get_session(reader, group(1), SESSION) == session
        assert get_group(reader, group(2)) is None
        assert get_session(reader, group(1), LAST_SESSION) is None
    tombstone = ElementRecord(3, "value", None)
    assert read_element(write_record(tombstone)) == tombstone


def test_groups_come_in_order_and_skip_what_is_in_them(store: MemoryStore) -> None:
    found = [group(0), group(0, 255), group(1), group(255, 255)]
    fill(store, *reversed(found))
    with store.read() as reader:
        counting = Counting(reader)
        assert [name for name, _ in groups(counting)] == found
        assert counting.walked <= len(found), "one row a group, and nothing inside it"
        assert [name for name, _ in groups(reader, after=found[1])] == found[2:]
        assert [name for name, _ in groups(reader, domain=0)] == found[:2]
        assert [record.version for _, record in groups(reader, domain=255)] == [255]
        assert list(groups(reader, after=found[-1])) == []


def test_rows_without_their_group_row_are_passed_over(store: MemoryStore) -> None:
    fill(store, group(1), group(2))
    with store.write() as writer:
        writer.delete(group_key(group(1)))
    with store.read() as reader:
        assert [name for name, _ in groups(reader)] == [group(2)]


def test_a_group_ends_where_the_next_begins(store: MemoryStore) -> None:
    fill(store, group(1), group(1, 1))
    with store.read() as reader:
        found = list(rows(reader, group(1)))
        assert [(row.session, row.element) for row in found] == [
            (session, element)
            for session in (SESSION, LAST_SESSION)
            for element in (None, "a", "ÿ" * 40)
        ]
        assert [name for name, _ in elements(reader, group(1), SESSION)] == ["a", "ÿ" * 40]


@pytest.mark.parametrize(
    ("version", "epoch"), [(1, E1), (4, E1), (5, E2), (8, E2), (9, E3), (1000, E3)]
)
def test_a_version_lies_in_one_epoch(version: int, epoch: Epoch) -> None:
    assert epoch_at(LINE, version) == epoch


def test_an_epoch_ends_where_the_next_begins() -> None:
    assert [epoch_end(LINE, epoch) for epoch in (E1, E2, E3)] == [4, 8, -1]
    assert epoch_end(LINE, Epoch(9, 9, "n9")) is None
    assert epoch_end((), E1) is None
