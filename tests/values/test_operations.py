"""Operations: they make one value of another, and do the same to what others changed meanwhile."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionha.errors import OperationRefused
from sessionha.values import operations
from sessionha.values.codec import checksum, decode, encode
from sessionha.values.operations import ABSENT, STEPS, apply, difference

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.floats(), st.binary(max_size=3)
)
keys = st.one_of(st.sampled_from("abcd"), st.integers(0, 3))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(st.sampled_from("abcd")),
        st.tuples(inner),
    ),
    max_leaves=12,
)


def stored(value: Any) -> bytes:
    return encode(value, "x", 64)


def merged(base: Any, mine: Any, theirs: Any) -> tuple[Any, int]:
    """What mine makes of theirs; both began with the base."""
    done = apply(copy.deepcopy(theirs), difference(base, mine))
    return done.value, done.conflicts


@given(values, values)
def test_the_difference_makes_the_other_value(before: Any, after: Any) -> None:
    """Exactly: types, the order of keys, and also through the codec."""
    before, after = decode(stored(before)), decode(stored(after))
    operation = decode(encode(difference(before, after), "operation", 128))
    done = apply(before, operation)
    assert stored(done.value) == stored(after)
    assert done.conflicts == 0


@given(values)
def test_the_difference_to_nothing_makes_the_value(after: Any) -> None:
    after = decode(stored(after))
    assert stored(apply(ABSENT, difference(ABSENT, after)).value) == stored(after)


@given(values, values, values)
def test_whatever_others_did_an_operation_can_be_done(base: Any, mine: Any, theirs: Any) -> None:
    """And to every copy the same."""
    one, two = merged(base, mine, theirs), merged(base, mine, theirs)
    assert stored(one[0]) == stored(two[0])


CART: dict[str, Any] = {"items": [{"sku": "a", "n": 1}, {"sku": "b", "n": 1}], "owner": "ada"}


@pytest.mark.parametrize(
    ("mine", "theirs", "both"),
    [
        ({"x": 1, "y": 1}, {"x": 0, "y": 0, "z": 5}, {"x": 1, "y": 1, "z": 5}),
        ({"x": 0}, {"x": 0, "y": 0, "z": 5}, {"x": 0, "z": 5}),
        ({}, {"x": 0, "y": 0, "z": 5}, {"z": 5}),
        ({"x": 0, "y": {"in": 1}}, {"y": 0, "x": 0, "w": 1}, {"x": 0, "y": {"in": 1}, "w": 1}),
    ],
)
def test_changes_of_different_keys_are_both_kept(mine: Any, theirs: Any, both: Any) -> None:
    """System 2, 7."""
    assert merged({"x": 0, "y": 0}, mine, theirs) == (both, 0)


@pytest.mark.parametrize(
    ("mine", "theirs", "both"),
    [
        ([1, 2, 3], [1, 2, 4], [1, 2, 4, 3]),
        ([1], [1, 2, 3], [1, 3]),
        ([0, 1, 2], [1, 2, 3], [0, 1, 2, 3]),
        ([2], [0, 1, 2], [0, 2]),
        ([9, 2], [0, 1, 2], [0, 9, 2]),
        ([1, 2, 5], [2], [2, 5]),
    ],
)
def test_lists_are_merged_by_items(mine: Any, theirs: Any, both: Any) -> None:
    assert merged([1, 2], mine, theirs) == (both, 0)


@pytest.mark.parametrize("theirs", [[], [*range(9_000, 12_000)], [*reversed(range(3_000))]])
def test_merging_long_lists_looks_at_every_item_a_few_times(
    theirs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It happens in a write transaction: nobody may keep the node's store for seconds."""
    base = [*range(3_000)]
    shorter = difference(base, base[:5])
    changed = difference(base, [item + 1 for item in base])
    looks = 0

    def counted(value: Any) -> int:
        nonlocal looks
        looks += 1
        return checksum(value)

    monkeypatch.setattr(operations, "checksum", counted)
    apply([*theirs], shorter)
    apply([*theirs], changed)
    assert looks <= 4 * len(base)


def test_of_a_change_in_very_many_places_the_later_one_stays() -> None:
    base, mine = [*range(2 * STEPS)], [item + 1 for item in range(2 * STEPS)]
    assert len(difference(base, mine)) == 1
    assert merged(base, mine, [*base, 7])[0] == mine
    assert merged(base, [], [*base, 7])[0] == []


def test_a_change_inside_an_item_finds_it_where_it_went() -> None:
    mine, theirs = copy.deepcopy(CART), copy.deepcopy(CART)
    mine["items"][1]["n"] = 7
    mine["items"][1]["gift"] = True
    del theirs["items"][0]
    both, conflicts = merged(CART, mine, theirs)
    assert both == {"items": [{"sku": "b", "n": 7, "gift": True}], "owner": "ada"}
    assert conflicts == 0


def test_changes_in_the_same_item_are_both_kept() -> None:
    mine, theirs = copy.deepcopy(CART), copy.deepcopy(CART)
    mine["items"][0]["n"] = 7
    theirs["items"][0]["note"] = "x"
    assert merged(CART, mine, theirs)[0]["items"][0] == {"sku": "a", "n": 7, "note": "x"}


def test_the_later_change_of_the_same_place_wins_and_is_counted() -> None:
    assert merged({"x": 0}, {"x": 1}, {"x": 2}) == ({"x": 1}, 1)
    assert merged({"x": 0}, {}, {"x": 2}) == ({}, 1)


def test_what_was_removed_around_a_change_is_made_again() -> None:
    """The later change wins."""
    assert merged({"a": {"b": 0, "c": 0}}, {"a": {"b": 1, "c": 0}}, {}) == ({"a": {"b": 1}}, 1)


def test_a_change_inside_an_item_that_is_gone_is_dropped_and_counted() -> None:
    mine = copy.deepcopy(CART)
    mine["items"][1]["n"] = 7
    assert merged(CART, mine, {"items": [], "owner": "ada"}) == ({"items": [], "owner": "ada"}, 2)


def test_members_of_sets_are_added_and_taken_out() -> None:
    assert merged({"a", "b"}, {"b", "c"}, {"a", "b", "d"}) == ({"b", "c", "d"}, 0)


def test_a_small_change_of_a_large_value_is_a_small_operation() -> None:
    before = {f"k{number}": [number] for number in range(1000)}
    after = {**before, "k500": [500, 501]}
    assert len(encode(difference(before, after), "operation", 128)) < 40


@pytest.mark.parametrize(
    ("value", "step", "result"),
    [
        (ABSENT, ["increment", [], 2], 2),
        (3, ["increment", [], 0.5], 3.5),
        ({"a": {"n": 1}}, ["increment", ["a", "n"], 1], {"a": {"n": 2}}),
        ([1, 2, 3], ["splice", [], 1, 1, []], [1, 3]),
        ([1, 2, 3], ["splice", [], -1, 0, [9]], [1, 2, 9, 3]),
        ([1, {"a": 1}], ["set", [-1, "a"], 5], [1, {"a": 5}]),
        ([1, 2], ["remove", [0]], [2]),
        ({"a": [1]}, ["append", ["a"], [2, 3]], {"a": [1, 2, 3]}),
        ({}, ["append", ["a", "new", "list"], [1]], {"a": {"new": {"list": [1]}}}),
        ({1: "x"}, ["remove", [1]], {}),
        (ABSENT, ["add", [], ["x"]], {"x"}),
        ({"x": 1}, ["update", [], {"y": 2}], {"x": 1, "y": 2}),
    ],
)
def test_what_somebody_wrote_is_done(value: Any, step: list[Any], result: Any) -> None:
    assert apply(value, [step], strict=True) == (result, 0)


@pytest.mark.parametrize(
    ("value", "operation"),
    [
        (1, "increment"),
        (1, [["increment"]]),
        (1, [["increment", [], "x"]]),
        (1, [["increment", [], True]]),
        ("text", [["increment", [], 1]]),
        (1, [["explode", []]]),
        (1, [[["set"], []]]),
        (1, [["set", "a", 1]]),
        (1, [["set", [], 1, 0, 0]]),
        (1, [["set", ["a"], 1]]),
        ([1], [["set", ["a"], 1]]),
        ([1], [["set", [1], 1]]),
        ([1], [["splice", [], 0, None, []]]),
        ([1], [["append", [], 1]]),
        ({}, [["remove", ["a"]]]),
        ({"a": 1}, [["append", ["a"], [1]]]),
        ({"a": 1}, [["set", ["a"], 2, checksum(5)]]),
        (set(), [["add", [], [[]]]]),
        ({}, [["set", [[1]], 1]]),
        ({}, [["update", [], [1]]]),
        (0, [["increment", [], 1]] * (STEPS + 1)),
    ],
)
def test_what_does_not_fit_is_refused(value: Any, operation: Any) -> None:
    with pytest.raises(OperationRefused):
        apply(value, operation, strict=True)
