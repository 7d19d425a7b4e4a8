"""Where copies should be: evenly, apart from their primary, and steady."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sessionha.identity import ViewID
from sessionha.state.placement import backups
from sessionha.view import Member, Role, View

FIRST = ViewID(1, "n1")
GROUPS = [random.Random(number).randbytes(12) for number in range(10_000)]


def member(
    number: int, zone: str = "", host: str = "", role: Role = "server", weight: int = 1,
    ready: bool = True,
) -> Member:  # fmt: skip
    name = f"n{number}"
    return Member(
        name, "0", FIRST, "", role=role, zone=zone, host=host or name, weight=weight, ready=ready
    )


def view(*members: Member) -> View:
    return View(FIRST, members)


SIX = view(*(member(number) for number in range(1, 7)))


@pytest.mark.parametrize("zones", ["", "aaabbb", "aabbcc"], ids=["no zones", "two", "three"])
@pytest.mark.parametrize("count", [1, 2])
def test_six_nodes_hold_equally_many_copies(zones: str, count: int) -> None:
    """System 5 (l): 10,000 groups on six nodes, copies per node within ±15 %, and with zones all
    of them in another one than the primary."""
    members = [member(number + 1, zones[number : number + 1]) for number in range(6)]
    nodes = view(*members)
    zone = {each.node: each.zone for each in members}
    held: Counter[str] = Counter()
    for number, group in enumerate(GROUPS):
        primary = f"n{number % 6 + 1}"
        chosen = backups(group, nodes, primary, count)
        held.update([primary, *chosen])
        if zones:
            assert all(zone[each] != zone[primary] for each in chosen)
    mean = (count + 1) * len(GROUPS) / 6
    assert all(0.85 * mean <= copies <= 1.15 * mean for copies in held.values()), held


def test_a_node_of_twice_the_weight_attracts_twice_as_many() -> None:
    nodes = view(member(1), member(2), member(3, weight=2), member(4))
    held = Counter(backups(group, nodes, "n1", 1)[0] for group in GROUPS)
    assert 0.85 * len(GROUPS) / 2 <= held["n3"] <= 1.15 * len(GROUPS) / 2


def test_the_other_zone_comes_before_another_host() -> None:
    """System 5 (l): other zone when possible; "all backups on workers of one machine"."""
    nodes = view(
        member(1, "a", "h1"), member(2, "a", "h1"), member(3, "a", "h2"), member(4, "b", "h3")
    )
    assert {backups(group, nodes, "n1", 3) for group in GROUPS[:200]} == {("n4", "n3", "n2")}


def test_spares_are_last_and_witnesses_never() -> None:
    nodes = view(member(1), member(2, role="spare"), member(3), member(4, role="witness"))
    for group in GROUPS[:200]:
        assert backups(group, nodes, "n1", 3) == ("n3", "n2")


def test_a_node_that_drains_or_refuses_gets_nothing_new() -> None:
    nodes = view(member(1), member(2, ready=False), member(3), member(4))
    for group in GROUPS[:200]:
        assert backups(group, nodes, "n1", 2, without=("n4",)) == ("n3",)
        assert backups(group, nodes, "n1", 2, keep=("n2",))[0] == "n2", "it keeps what it has"


def test_who_leaves_for_good_gives_its_copies_away_and_who_returns_keeps_them() -> None:
    """Draining: while there is nobody else a copy there is better than none."""
    four = view(member(1), member(2).draining("leaving"), member(3), member(4))
    back = view(member(1), member(2).draining("returning"), member(3), member(4))
    pair = view(member(1), member(2).draining("leaving"))
    for group in GROUPS[:200]:
        assert "n2" not in backups(group, four, "n1", 2, keep=("n2", "n3"))
        assert backups(group, back, "n1", 2, keep=("n2", "n3")) == ("n2", "n3")
        assert "n2" not in backups(group, back, "n1", 2)
        assert backups(group, pair, "n1", 1, keep=("n2",)) == ("n2",)
        assert backups(group, pair, "n1", 1) == ()


def test_those_that_hold_a_copy_keep_it() -> None:
    for group in GROUPS[:200]:
        for keep in (("n5",), ("n6", "n2")):
            assert backups(group, SIX, "n1", 2, keep=keep)[: len(keep)] == keep
    assert backups(GROUPS[0], SIX, "n1", 1, keep=("gone", "n1", "n3")) == ("n3",)


def test_a_change_of_members_moves_little() -> None:
    """Only groups of the node that left, or that came, are placed elsewhere."""
    five = view(*SIX.members[:-1])
    moved = 0
    for group in GROUPS[:2_000]:
        before, after = backups(group, SIX, "n1", 1), backups(group, five, "n1", 1)
        if before != ("n6",):
            assert after == before
        moved += before != after
    assert moved <= 1.2 * 2_000 / 5


def test_alone_there_is_no_backup() -> None:
    assert backups(GROUPS[0], view(member(1)), "n1", 2) == ()
