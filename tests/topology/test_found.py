"""Automata without a description: nodes are found, join, move, vanish, and are forgotten."""

from __future__ import annotations

import pytest

from sessionha.discovery.base import Found
from sessionha.identity import NO_VIEW, ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Join, Ping, Pong
from sessionha.store.memory import MemoryStore
from sessionha.topology.automaton import Automaton
from sessionha.topology.available import AvailableAutomaton
from sessionha.topology.description import Description
from sessionha.topology.manager import TopologyManager
from sessionha.topology.rows import GONE_LIMIT, Rows
from sessionha.topology.timing import Timing
from sessionha.view import NO_MEMBERS, Member, View
from tests.topology.world import TIMING, World


def found_cluster(seed: int, count: int) -> World:
    world = World(seed, count, dynamic=True)
    world.start(*world.description.order)
    world.settle()
    return world


@pytest.mark.parametrize("seed", range(20))
def test_nodes_that_find_each_other_end_in_one_view_without_any_list(seed: int) -> None:
    """System 3 (a), with discovery: started at once or in any order, all joined, same view."""
    world = World(seed, 2 + seed % 4, trust_refused=seed % 3 > 0, dynamic=True)
    order = list(world.description.order)
    world.random.shuffle(order)
    for node in order:
        world.start(node)
        world.run(world.random.choice((0, 5, 500, 2_500, 4_000)) if seed % 2 else 0)
    world.settle()


def test_a_node_that_finds_nobody_waits_the_discovery_time_and_serves_alone() -> None:
    """System 3 (b), with discovery: nobody knows that a list which was found is complete."""
    world = World(1, 2, dynamic=True)
    world.start("n2")
    took = world.run_until(world.agreed, 5_000)
    assert TIMING.discovery_time - 100 <= took <= TIMING.discovery_time + 100


def test_a_node_that_appears_joins_at_once() -> None:
    world = World(1, 4, dynamic=True)
    world.start("n1", "n2", "n3")
    world.settle()
    world.start("n4")
    assert world.run_until(world.agreed, 5_000) < TIMING.discovery_time


@pytest.mark.parametrize("seed", range(5))
def test_two_sides_that_find_each_other_after_a_partition_become_one(seed: int) -> None:
    world = found_cluster(seed, 4)
    world.split(("n1", "n2"), ("n3", "n4"))
    world.settle("n1", "n2")
    world.settle("n3", "n4")
    world.heal()
    world.settle()


def test_a_node_that_died_is_not_awaited_by_those_who_start_after_it() -> None:
    world = found_cluster(3, 3)
    world.kill("n2", dark=True)
    world.settle("n1", "n3")
    world.kill("n1", "n3")
    world.start("n1", "n3")
    world.settle("n1", "n3")


# --- addresses ------------------------------------------------------------------------------------


def member(node: str, incarnation: str, address: str) -> Member:
    return Member(node, incarnation, NO_VIEW, peer=address)


def joined_automaton() -> Automaton:
    """n1, a member with n2."""
    members = (member("n1", "i1", "10.0.0.1:7946"), member("n2", "i2", "10.0.0.2:7946"))
    view = View(id=ViewID(3, "n1"), members=members)
    return AvailableAutomaton(
        members[0], Description(), Timing(), 0, view=view, admission="dynamic"
    )


def test_a_member_keeps_its_address_whoever_claims_its_id_elsewhere() -> None:
    automaton = joined_automaton()
    automaton.found(0, {"n2": Found("10.0.0.66:7946", "other")})
    claim = Join(me=member("n2", "other", "10.0.0.66:7946"), view=NO_MEMBERS, served=False)
    automaton.received(0, Sender("n2", "other"), claim)
    assert automaton.addresses == {"n2": "10.0.0.2:7946"}


def test_a_member_that_is_found_with_its_store_at_another_address_is_reached_there() -> None:
    automaton = joined_automaton()
    automaton.found(0, {"n2": Found("10.0.0.7:7946", "i2"), "n3": Found("10.0.0.3:7946", "i3")})
    assert automaton.addresses == {"n2": "10.0.0.7:7946", "n3": "10.0.0.3:7946"}
    automaton.found(0, {})
    assert automaton.addresses == {"n2": "10.0.0.2:7946"}


def test_a_member_that_answers_is_reached_where_it_says_itself_whatever_records_say() -> None:
    automaton = joined_automaton()
    automaton.found(0, {"n2": Found("10.0.0.66:7946", "i2")})
    told = member("n2", "i2", "10.0.0.7:7946")
    pong = Pong(me=told, view=automaton.view.id, newer=None, state="joined")
    automaton.replied(0, "n2", Ping(me=automaton.me, view=automaton.view.id), pong)
    assert automaton.addresses == {"n2": "10.0.0.7:7946"}


# --- who is awaited -------------------------------------------------------------------------------


def test_who_was_seen_within_forget_after_may_hold_what_nobody_else_has() -> None:
    """Contract, available mode: with discovery and no list, the list is who was seen within
    `forget_after`."""
    now = 1_000_000
    store = MemoryStore().open()
    me = member("n1", store.incarnation, "10.0.0.1:7946")
    manager = TopologyManager(
        store, me, Description(), lambda: now, Timing(forget_after=30_000), admission="dynamic"
    )
    Rows(store).alone(me)
    assert manager.unproven() == ()
    manager.found({"n2": Found("10.0.0.2:7946", "i2")})
    assert manager.unproven() == ("n2",)
    now += 10_000
    manager.found({})
    assert manager.unproven() == ("n2",)
    now += 20_000
    manager.found({})
    assert manager.unproven() == ()


def test_nodes_that_are_gone_do_not_pile_up_where_every_pod_has_a_new_name() -> None:
    store = MemoryStore().open()
    rows = Rows(store)
    me = member("n1", store.incarnation, "10.0.0.1:7946")
    for number in range(1, GONE_LIMIT + 50):
        held = rows.view()
        view = View(
            id=ViewID(held.id.number + 1, "n1"),
            members=(me,),
            departed=((f"pod-{number}", "failed"),),
        )
        assert rows.replace(held, view, None, number)
    gone = rows.gone()
    assert len(gone) == GONE_LIMIT
    assert min(gone.values()) == 50
