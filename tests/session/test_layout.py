"""A session decoded once: what requests share, what they do not, and that no change is missed."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionha.peer.messages import Create
from sessionha.session.layout import Layout, layout_of
from sessionha.session.session import DictSession, Known, Session
from sessionha.state.base import Elements
from sessionha.values.codec import decode, encode
from sessionha.values.managers import manager_for
from tests.session.fakes import written

VALUES: dict[str, Any] = {
    "name": "Ada",
    "when": datetime(2026, 1, 2, tzinfo=UTC),
    "price": Decimal("1.50"),
    "cart": [{"sku": "a", "n": 1}],
    "map": {"x": [1]},
    "pair": (1, [2]),
    "marks": {"a", "b"},
}
CREATE = Create(60_000, 0)


def elements(values: dict[str, Any]) -> Elements:
    return Elements(
        {name: (manager_for(value).name, encode(value, name)) for name, value in values.items()}
    )


def session(found: Elements) -> Session:
    return Session(Known("id", b"k" * 16, found, 0), now=0.0)


def test_every_kind_of_value_is_read_in_its_order() -> None:
    values, _ = layout_of(elements(VALUES)).read()
    assert values == VALUES
    assert [*values] == [*VALUES]
    assert {name: type(value) for name, value in values.items()} == {
        name: type(value) for name, value in VALUES.items()
    }


def test_requests_share_only_what_cannot_change() -> None:
    layout = layout_of(elements(VALUES))
    one, other = layout.read()[0], layout.read()[0]
    shared = {name for name in VALUES if one[name] is other[name]}
    assert shared == {"name", "when", "price"}


def test_the_elements_keep_their_layout() -> None:
    found = elements(VALUES)
    assert layout_of(found) is layout_of(found)


def test_an_element_that_cannot_be_decoded_is_named_and_spoils_nothing() -> None:
    found = elements({"a": [1], "z": 2})
    found["bad"] = ("value", b"\xc1")
    layout = layout_of(found)
    assert layout.read()[0] == {"a": [1], "z": 2}
    assert [*layout.unreadable] == ["bad"]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70])
def test_lists_of_any_length_are_recognised(count: int) -> None:
    layout = layout_of(elements({f"{number:02}": [number] for number in range(count)}))
    values, changeable = layout.read()
    assert layout.is_unchanged(changeable)
    if count:
        values[f"{count - 1:02}"].append(0)
        assert not layout.is_unchanged(changeable)


def test_a_shared_value_that_changed_needs_no_new_layout() -> None:
    found = elements(VALUES)
    layout = layout_of(found)
    after = found.after((("name", "value", encode("Grace", "name")),), ())
    assert isinstance(after.reading, Layout)
    assert after.reading.stored is layout.stored
    assert after.reading.read()[0] == {**VALUES, "name": "Grace"}
    assert layout.read()[0] == VALUES


@pytest.mark.parametrize(
    ("puts", "kept"),
    [
        ({"name": "Grace"}, True),
        ({"cart": []}, True),
        ({"cart": [{"sku": 3}], "name": None}, True),
        ({"new": 1}, True),
        ({"new": [1], "newer": {"a": 1}}, True),
        ({"name": ["Ada"]}, False),
        ({"cart": 1}, False),
        ({"pair": 1}, False),
        ({"new": {1}}, False),
    ],
)
def test_a_change_keeps_the_layout_where_values_stay_of_their_kind(
    puts: dict[str, Any], kept: bool
) -> None:
    """So that a change of one element does not make every other one be decoded by itself."""
    found = elements(VALUES)
    before = layout_of(found)
    written = tuple((name, "value", encode(value, name)) for name, value in puts.items())
    after = found.after(written, ())
    assert isinstance(after.reading, Layout) is kept
    values, changeable = layout_of(after).read()
    assert values == {**VALUES, **puts}
    assert [*values] == [*after]
    assert layout_of(after).is_unchanged(changeable)
    assert before.read()[0] == VALUES


def test_a_deletion_makes_it_anew() -> None:
    found = elements(VALUES)
    layout_of(found)
    after = found.after((("name", "value", encode("Grace", "name")),), ("cart",))
    assert after.reading is None
    assert layout_of(after).read()[0] == {
        name: value for name, value in {**VALUES, "name": "Grace"}.items() if name != "cart"
    }


def test_no_value_is_shown() -> None:
    assert "Ada" not in repr(layout_of(elements(VALUES)))


# --- against the slow and obvious ----------------------------------------------------------------

names = st.sampled_from(["a", "b", "c", "d"])
scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x"])
data = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.tuples(inner) | st.dictionaries(names, inner, max_size=2)
    ),
    max_leaves=5,
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "delete", "grow", "grow unseen", "commit", "same"]), names, data
    ),
    max_size=8,
)


def grow(value: Any, by: Any) -> bool:
    """Change a value in place, if that is possible."""
    if isinstance(value, list):
        value.append(by)
    elif isinstance(value, dict):
        value["grown"] = by
    elif isinstance(value, tuple):
        return any(grow(item, by) for item in value)
    else:
        return False
    return True


def carry_out(face: DictSession, step: str, name: str, value: Any) -> None:
    match step:
        case "set":
            face[name] = value
        case "delete":
            face.pop(name, None)
        case "grow":
            grow(face.get(name), value)
        case "grow unseen":  # as extension modules reach into a dict
            grow(dict.get(face, name), value)
        case "same" if name in face:
            face[name] = face[name]


@given(st.dictionaries(names, data), steps)
def test_what_is_committed_is_what_differs_whatever_was_done(
    begin: dict[str, Any], done: list[tuple[str, str, Any]]
) -> None:
    stored = {name: encode(value, name) for name, value in sorted(begin.items())}
    body = session(elements({name: decode(raw) for name, raw in stored.items()}))
    face = body.as_dict()
    for step, name, value in [*done, ("commit", "", None)]:
        if step != "commit":
            carry_out(face, step, name, decode(encode(value, name)))
            continue
        now = {name: encode(value, name) for name, value in dict.items(face)}
        assert not (body.is_untouched() and now != stored)
        prepared = body.prepare(lambda: ("id", b"k" * 16), CREATE)
        after = dict(stored)
        for change in prepared.changes:
            if change.clear or change.destroy:
                after = {}
            put = {name: raw for name, (_, raw) in written(change).items()}
            after.update(put)
            for gone in change.deletes:
                del after[gone]
            assert not put or any(stored.get(name) != raw for name, raw in put.items())
        assert after == now
        body.settle(prepared, None)
        stored = now
        if prepared.after is None:
            return
