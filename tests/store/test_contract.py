"""What every store promises, asked of both."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from sessionha.errors import StoreError, StoreFull
from sessionha.store import LMDBStore, MemoryStore

AnyStore: TypeAlias = LMDBStore | MemoryStore

SIZE = 4 << 20


class Node:
    """One node of either kind: opens engines on the same store."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind = kind
        self._directory = directory
        self._opened: list[AnyStore] = []

    def engine(self) -> AnyStore:
        store: AnyStore
        if self._kind == "lmdb":
            store = LMDBStore(self._directory, size=SIZE).open()
        elif self._opened:
            first = self._opened[0]
            assert isinstance(first, MemoryStore)
            store = first.engine()
        else:
            store = MemoryStore(size=SIZE).open()
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()


@pytest.fixture(params=["lmdb", "memory"])
def node(request: pytest.FixtureRequest, directory: Path) -> Iterator[Node]:
    node = Node(request.param, directory)
    yield node
    node.close()


@pytest.fixture
def store(node: Node) -> AnyStore:
    return node.engine()


def put(store: AnyStore, **rows: bytes) -> None:
    with store.write() as txn:
        for key, value in rows.items():
            txn.put(key.encode(), value)


def get(store: AnyStore, key: bytes) -> bytes | None:
    with store.read() as txn:
        return txn.get(key)


def keys(store: AnyStore, prefix: bytes = b"", after: bytes | None = None) -> list[bytes]:
    with store.read() as txn:
        return [key for key, _ in txn.scan(prefix, after)]


def fill(store: AnyStore, *, urgent: bool = False) -> int:
    """Put rows of 4 KB until the store refuses; how many it took."""
    for number in range(10_000):
        try:
            with store.write(urgent=urgent) as txn:
                txn.put(b"%05d%d" % (number, urgent), b"x" * 4000)
        except StoreFull:
            return number
    raise AssertionError("the store never became full")


def test_a_committed_row_is_read_back_as_bytes(store: AnyStore) -> None:
    put(store, a=b"1")
    value = get(store, b"a")
    assert type(value) is bytes
    assert value == b"1"
    assert get(store, b"b") is None


def test_an_exception_undoes_the_whole_transaction(store: AnyStore) -> None:
    put(store, a=b"1", b=b"1")

    def change_and_fail() -> None:
        with store.write() as txn:
            txn.put(b"a", b"2")
            txn.delete(b"b")
            txn.put(b"c", b"2")
            raise KeyError

    with pytest.raises(KeyError):
        change_and_fail()
    assert [get(store, key) for key in (b"a", b"b", b"c")] == [b"1", b"1", None]


def test_a_writer_sees_its_own_changes(store: AnyStore) -> None:
    put(store, a=b"1", b=b"1")
    with store.write() as txn:
        txn.put(b"c", b"2")
        assert txn.delete(b"a")
        assert not txn.delete(b"a")
        assert txn.get(b"a") is None
        assert txn.get(b"c") == b"2"
        assert list(txn.scan(b"")) == [(b"b", b"1"), (b"c", b"2")]
    assert keys(store) == [b"b", b"c"]


def test_a_reader_keeps_its_snapshot(store: AnyStore) -> None:
    put(store, a=b"1")
    with store.read() as txn:
        other = threading.Thread(target=put, args=(store,), kwargs={"a": b"2", "b": b"2"})
        other.start()
        other.join()
        assert txn.get(b"a") == b"1"
        assert list(txn.scan(b"")) == [(b"a", b"1")]
    assert get(store, b"a") == b"2"


def test_a_reader_inside_a_write_sees_what_was_committed(store: AnyStore) -> None:
    put(store, a=b"1")
    with store.write() as txn:
        txn.put(b"a", b"2")
        assert get(store, b"a") == b"1"
    assert get(store, b"a") == b"2"


@pytest.mark.parametrize(
    ("prefix", "after", "expected"),
    [
        (b"", None, [b"a", b"b", b"b1", b"b2", b"b\xff", b"c"]),
        (b"b", None, [b"b", b"b1", b"b2", b"b\xff"]),
        (b"b", b"b1", [b"b2", b"b\xff"]),
        (b"b", b"b1x", [b"b2", b"b\xff"]),
        (b"b", b"a", [b"b", b"b1", b"b2", b"b\xff"]),
        (b"b", b"b\xff", []),
        (b"b", b"c", []),
        (b"d", None, []),
        (b"b", b"", [b"b", b"b1", b"b2", b"b\xff"]),
    ],
)
def test_a_scan_is_ordered_bounded_and_resumable(
    store: AnyStore, prefix: bytes, after: bytes | None, expected: list[bytes]
) -> None:
    with store.write() as txn:
        for key in (b"c", b"b2", b"b\xff", b"b", b"a", b"b1"):
            txn.put(key, b"")
        assert [key for key, _ in txn.scan(prefix, after)] == expected
    assert keys(store, prefix, after) == expected


def test_rows_may_be_deleted_and_added_while_a_writer_scans(store: AnyStore) -> None:
    with store.write() as txn:
        for number in range(200):
            txn.put(b"%03d" % number, b"x" * 200)
    seen = []
    with store.write() as txn:
        for key, _ in txn.scan(b""):
            seen.append(int(key))
            txn.delete(key)
            txn.put(b"z" + key, b"")
            if len(seen) == 200:
                break
    assert seen == list(range(200))
    assert keys(store) == [b"z%03d" % number for number in range(200)]


def test_a_key_has_1_to_511_bytes(store: AnyStore) -> None:
    with store.write() as txn:
        txn.put(b"k" * 511, b"")
    assert keys(store, b"k", b"k" * 511) == []
    for key in (b"", b"k" * 512):
        with pytest.raises(ValueError, match="511"), store.write() as txn:
            txn.put(key, b"")


def test_a_write_inside_a_write_is_refused_instead_of_waiting_forever(store: AnyStore) -> None:
    with store.write() as txn:
        txn.put(b"a", b"1")
        with pytest.raises(StoreError), store.write():
            pass
    assert get(store, b"a") == b"1"


def test_a_transaction_ends_with_its_block(store: AnyStore) -> None:
    with store.read() as reader:
        pass
    with store.write() as writer:
        pass
    with pytest.raises(AttributeError):
        reader.get(b"a")
    with pytest.raises(AttributeError):
        writer.put(b"a", b"")


def test_a_full_store_refuses_writes_and_changes_nothing(store: AnyStore) -> None:
    count = fill(store)
    used, limit = store.usage()
    assert used >= limit
    assert limit == int(SIZE * 0.8)
    assert keys(store) == [b"%05d0" % number for number in range(count)]


def test_urgent_writes_have_a_reserve(store: AnyStore) -> None:
    fill(store)
    assert fill(store, urgent=True) > 0
    assert store.usage().used <= SIZE


def test_deletions_of_50_rows_empty_a_store_that_refuses_writes(store: AnyStore) -> None:
    count = fill(store)
    for start in range(0, count, 50):
        with store.write(urgent=True) as txn:
            for number in range(start, min(start + 50, count)):
                assert txn.delete(b"%05d0" % number)
    assert keys(store) == []
    assert fill(store) > count // 2


def test_what_shrinks_is_not_refused_where_nothing_else_is_accepted(store: AnyStore) -> None:
    fill(store)
    fill(store, urgent=True)
    first = keys(store)[0]
    with store.write(shrinking=True) as txn:
        txn.put(first, b"y" * 4000)
    for key in keys(store):
        with store.write(shrinking=True) as txn:
            assert txn.delete(key)
    assert keys(store) == []


def test_one_transaction_larger_than_the_store_changes_nothing(store: AnyStore) -> None:
    put(store, a=b"1")

    def write_too_much() -> None:
        with store.write() as txn:
            txn.put(b"a", b"2")
            for number in range(100):
                txn.put(b"b%d" % number, b"x" * (SIZE // 50))

    with pytest.raises(StoreFull):
        write_too_much()
    assert keys(store) == [b"a"]
    assert get(store, b"a") == b"1"


def test_a_swallowed_refusal_still_undoes_the_transaction(store: AnyStore) -> None:

    def swallow() -> None:
        with store.write() as txn:
            txn.put(b"a", b"2")
            with pytest.raises(StoreFull):
                txn.put(b"b", b"x" * SIZE * 2)

    with pytest.raises(StoreFull):
        swallow()
    assert keys(store) == []


def test_threads_that_write_at_once_lose_nothing(store: AnyStore) -> None:
    def count() -> None:
        for _ in range(200):
            with store.write() as txn:
                txn.put(b"n", b"%d" % (int(txn.get(b"n") or b"0") + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert get(store, b"n") == b"800"


def test_engines_of_one_node_share_rows_and_have_slots_of_their_own(node: Node) -> None:
    first, second = node.engine(), node.engine()
    put(first, a=b"1")
    assert get(second, b"a") == b"1"
    assert {first.slot, second.slot} == {0, 1} == first.living_slots() == second.living_slots()
    assert first.incarnation == second.incarnation
    assert first.run == second.run == 1


def test_a_closed_engine_frees_its_slot_for_the_next(node: Node) -> None:
    first, second = node.engine(), node.engine()
    freed = second.slot
    second.close()
    assert first.living_slots() == {first.slot}
    assert node.engine().slot == freed
    assert first.run == 1


def test_one_engine_leads_until_it_leaves(node: Node) -> None:
    first, second = node.engine(), node.engine()
    assert first.try_lead()
    assert first.try_lead()
    assert not second.try_lead()
    first.close()
    assert second.try_lead()


def test_a_new_incarnation_is_seen_by_every_engine(node: Node) -> None:
    first, second = node.engine(), node.engine()
    before = second.incarnation
    put(first, a=b"1")
    renewed = first.renew_incarnation()
    assert second.incarnation == first.incarnation == renewed != before
    assert get(second, b"a") == b"1"


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.read(),
        lambda store: store.write(),
        lambda store: store.usage(),
        lambda store: store.try_lead(),
        lambda store: store.incarnation,
    ],
)
def test_a_closed_store_says_so(node: Node, use: Callable[[AnyStore], object]) -> None:
    closed = node.engine()
    closed.close()
    closed.close()
    with pytest.raises(StoreError, match="open"):
        use(closed)
