"""Counts of a node: added up over its engines, and never falling."""

from __future__ import annotations

from sessionha.admin.tally import Tally
from sessionha.store.memory import Memory, MemoryStore


def engines(count: int) -> list[MemoryStore]:
    node = Memory()
    return [MemoryStore(node).open() for _ in range(count)]


def test_a_node_has_counted_what_its_engines_have() -> None:
    first, second = map(Tally, engines(2))
    second.leave({"commits": 2, "gone": 0})
    assert first.total({"commits": 1}) == {"commits": 3, "gone": 0}


def test_an_engine_adds_its_own_counts_as_they_are_now() -> None:
    (store,) = engines(1)
    tally = Tally(store)
    tally.leave({"commits": 1})
    assert tally.total({"commits": 5}) == {"commits": 5}


def test_the_counts_of_a_dead_engine_stay_when_another_takes_its_slot() -> None:
    survivor, dying = engines(2)
    Tally(dying).leave({"commits": 7})
    slot, node = dying.slot, dying._memory
    dying.close()
    assert Tally(survivor).total({}) == {"commits": 7}
    heir = MemoryStore(node).open()
    assert heir.slot == slot
    tally = Tally(heir)
    tally.leave({"commits": 1})
    assert Tally(survivor).total({}) == {"commits": 8}


def test_unchanged_counts_are_not_written_again() -> None:
    (store,) = engines(1)
    tally = Tally(store)
    tally.leave({"commits": 1})
    store.close()
    tally.leave({"commits": 1})
