"""What the simulator needs of the store in one process."""

from __future__ import annotations

from random import Random

import pytest

from sessionha.errors import StoreError
from sessionha.store import Memory, MemoryStore
from tests.store.conftest import in_child


def test_one_seed_gives_one_sequence_of_incarnations() -> None:
    def incarnations() -> list[str]:
        store = MemoryStore(random=Random(7)).open()
        return [store.incarnation, store.renew_incarnation(), store.renew_incarnation()]

    assert incarnations() == incarnations()
    assert len(set(incarnations())) == 3


def test_a_killed_engine_frees_slot_and_leadership_and_can_do_nothing_more() -> None:
    first = MemoryStore().open()
    second = first.engine()
    assert first.try_lead()
    first.kill()
    with pytest.raises(StoreError, match="killed"):
        first.read()
    assert second.living_slots() == {1}
    assert second.try_lead()
    assert second.engine().slot == 0
    assert second.run == 1


def test_an_engine_killed_in_its_transaction_changes_nothing() -> None:
    first = MemoryStore().open()
    second = first.engine()
    with first.write() as txn:
        txn.put(b"a", b"1")
        first.kill()
    with second.write() as txn:
        assert txn.get(b"a") is None


@pytest.mark.parametrize(
    ("kept", "rebooted", "same", "run", "row"),
    [
        (True, False, True, 2, b"1"),
        (True, True, False, 2, b"1"),
        (False, False, False, 1, None),
        (False, True, False, 1, None),
    ],
)
def test_a_node_restarts_with_its_store_after_a_boot_or_without_it(
    kept: bool, rebooted: bool, same: bool, run: int, row: bytes | None
) -> None:
    memory = Memory(random=Random(1))
    before = MemoryStore(memory).open()
    with before.write() as txn:
        txn.put(b"a", b"1")
    incarnation = before.incarnation
    memory.restart(kept=kept, rebooted=rebooted)
    with pytest.raises(StoreError):
        before.write()
    after = MemoryStore(memory).open()
    assert (after.incarnation == incarnation) is same
    assert (after.run, after.slot, after.boot_changed) == (run, 0, kept and rebooted)
    with after.read() as reader:
        assert reader.get(b"a") == row


def test_a_forked_child_has_a_memory_of_its_own_or_none() -> None:
    alone = MemoryStore().open()
    shared = MemoryStore(Memory()).open()
    incarnation = alone.incarnation

    def child() -> None:
        for store in (alone, shared):
            with pytest.raises(StoreError, match="forked"):
                store.read()
        alone.open()
        assert alone.incarnation != incarnation
        with pytest.raises(StoreError, match="forked"):
            shared.open()

    assert in_child(child) == 0
    assert alone.living_slots() == {0}
