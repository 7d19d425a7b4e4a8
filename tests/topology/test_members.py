"""One view follows from another, and what that means for each node."""

from __future__ import annotations

import pytest

from sessionha.errors import InvalidSettings
from sessionha.identity import NO_VIEW, ViewID
from sessionha.topology.around import WATCHED, watches
from sessionha.topology.base import Change
from sessionha.topology.members import Plan, Removal, accepts, changes, forked, merge, next_view
from sessionha.topology.timing import Timing
from sessionha.view import NO_MEMBERS, Departure, Member, View


def member(node: str, incarnation: str = "1", *, kept: bool = False) -> Member:
    return Member(node, incarnation, NO_VIEW, f"{node}:1", kept=kept)


def formed(*nodes: str) -> View:
    return next_view(NO_MEMBERS, Plan({}, tuple(member(node) for node in nodes)))


def without(view: View, node: str, how: Departure = "failed", *, proven: bool = False) -> View:
    return next_view(view, Plan({node: Removal(how, proven)}))


def test_a_view_is_named_by_its_number_and_its_lowest_member() -> None:
    view = formed("b", "a")
    assert view.id == (1, "a")
    assert without(view, "a").id == (2, "b")
    assert next_view(view, Plan({}, (member("c"),)), highest=7).id == (8, "a")


def test_members_keep_their_place_and_joiners_come_last() -> None:
    view = next_view(formed("b", "c"), Plan({}, (member("a"),)))
    assert view.nodes == ("b", "c", "a")
    assert view.holds("b", ViewID(1, "b"))
    assert not view.holds("a", ViewID(1, "b"))


def test_a_merge_keeps_the_higher_side_and_is_a_barrier() -> None:
    old = formed("a", "b", "c")
    low, high = next_view(old, Plan({n: Removal("failed", False) for n in "bc"})), without(old, "a")
    merged = merge(low, high, {})
    assert merged == merge(high, low, {})
    assert merged.id == merged.barrier == (3, "a")
    assert merged.nodes == ("b", "c", "a")
    assert merged.departed == ()
    assert not forked(high, merged)
    assert forked(low, high)


def test_a_merge_takes_the_incarnation_that_answers() -> None:
    mine = next_view(NO_MEMBERS, Plan({}, (member("a", "2"),)), highest=5)
    theirs = next_view(formed("a", "b"), Plan({}), highest=8)
    found = merge(mine, theirs, {"a": "2"}).member("a")
    assert found is not None
    assert found.incarnation == "2"


@pytest.mark.parametrize(
    ("how", "change"),
    [
        ("left", Change("left", "b")),
        ("returning", Change("left", "b", kept=True)),
        ("failed", Change("failed", "b")),
    ],
)
def test_a_departure_is_told_as_it_was(how: Departure, change: Change) -> None:
    view = formed("a", "b")
    after = without(view, "b", how, proven=how != "failed")
    assert changes(view, after) == (change,)
    assert after.absent == (("b",) if how != "failed" else ())


def test_a_return_is_not_a_join_also_when_views_were_skipped() -> None:
    view = formed("a", "b")
    gone = without(view, "b")
    back = next_view(gone, Plan({}, (member("b", "2", kept=True), member("c"))))
    assert set(changes(gone, back)) == {Change("returned", "b", kept=True), Change("joined", "c")}
    assert changes(view, back)[0] == Change("failed", "b")


def test_a_view_without_me_is_accepted_only_when_it_follows_mine() -> None:
    view = formed("a", "b", "c")
    me = view.members[0]
    after = without(view, "a")
    assert accepts(view, after, me)
    assert not accepts(after, view, me), "older"
    alone = next_view(view, Plan({n: Removal("failed", False) for n in "bc"}))
    assert not accepts(alone, after, me), "the two sides must be joined"


def test_timings_that_do_not_fit_are_told() -> None:
    with pytest.raises(InvalidSettings, match="at least three heartbeats"):
        Timing.of(heartbeat=0.5, suspect_after=1.0)
    with pytest.raises(InvalidSettings, match="`discovery_time`"):
        Timing.of(discovery_time=0)
    assert Timing.of(forget_after=float("inf")).forget_after == 10**12
    assert Timing.of() == Timing()


def test_in_a_large_cluster_each_watches_the_next_ones_in_the_order_of_the_description() -> None:
    names = [f"n{number}" for number in range(10)]
    view, order = formed(*names), names[5:] + names[1:5]
    assert watches(view, order)["n3"] == ("n4", "n0", "n5")[:WATCHED]
    assert watches(formed("n1", "n2", "n3"), ("n3", "n1", "n2"))["n1"] == ("n2", "n3")
