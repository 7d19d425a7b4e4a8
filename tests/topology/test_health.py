"""The state of a node: one function of the view and of what else is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessionha.identity import NO_VIEW
from sessionha.topology.health import NO_SIGNS, NodeState, Signs, state_of
from sessionha.view import Departure, Member, View
from tests.topology.world import World


def member(node: str, *, ready: bool = True) -> Member:
    return Member(node, f"i-{node}", NO_VIEW, f"{node}:1", ready=ready)


GONE: tuple[tuple[str, Departure], ...] = (
    ("killed", "failed"),
    ("silent", "failed"),
    ("stopped", "left"),
    ("restarting", "returning"),
)
VIEW = View(
    members=(member("n1"), member("n2", ready=False)),
    absent=("killed", "stopped", "restarting", "proven"),
    departed=GONE,
)


@pytest.mark.parametrize(
    ("node", "signs", "state", "status"),
    [
        ("n1", NO_SIGNS, "ready", 200),
        ("n1", Signs("joined", "i-n1"), "ready", 200),
        ("n1", Signs("joined", "i-n1", waits=True), "waiting", 503),
        ("n1", Signs(suspected=True), "suspect", 503),
        ("n1", Signs("leaving", "i-n1"), "draining", 404),
        ("n2", NO_SIGNS, "draining", 404),
        ("n2", Signs("joined", "i-n2", waits=True), "waiting", 503),
        ("n1", Signs("connecting", "another"), "starting", 503),
        ("n3", Signs("connecting", "i-n3"), "starting", 503),
        ("n3", Signs("reconnecting", "i-n3"), "starting", 503),
        ("n3", Signs("reconnecting", "i-n3", waits=True), "waiting", 503),
        ("n3", Signs("joining", "i-n3"), "joining", 503),
        ("n3", Signs("joined", "i-n3"), "ready", 200),
        ("n3", Signs("stopped", "i-n3"), "left", 503),
        ("n3", NO_SIGNS, "missing", 503),
        ("proven", NO_SIGNS, "absent", 503),
        ("killed", NO_SIGNS, "absent", 503),
        ("silent", NO_SIGNS, "failed", 503),
        ("stopped", NO_SIGNS, "left", 503),
        ("restarting", NO_SIGNS, "returning", 503),
        ("killed", Signs("connecting", "i-killed"), "starting", 503),
    ],
)
def test_each_state_follows_from_the_view_and_the_signs(
    node: str, signs: Signs, state: str, status: int
) -> None:
    found = state_of(node, VIEW, signs)
    assert (found, found.readiness.status) == (state, status)


def test_every_state_is_explained_to_operators() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [state for state in NodeState if f"\n| `{state}` | " not in page] == []


def test_a_router_gives_new_clients_to_ready_nodes_and_to_suspects_at_last() -> None:
    assert {state for state in NodeState if state.takes_clients} == {"ready", "suspect"}


@pytest.mark.parametrize(("trust_refused", "end"), [(False, "failed"), (True, "absent")])
def test_a_member_that_dies_is_suspected_and_then_gone(trust_refused: bool, end: str) -> None:
    world = World(3, 3, trust_refused=trust_refused)
    world.start(*world.description.order)
    world.settle()

    def seen() -> NodeState:
        watcher = world.nodes["n1"]
        return state_of("n3", watcher.view, watcher.automaton.signs("n3", world.now))

    assert seen() == "ready"
    if trust_refused:
        world.kill("n3")
    else:
        world.hang("n3")
        world.run_until(lambda: seen() == "suspect", 5_000)
    world.run_until(lambda: world.agreed("n1", "n2"), 5_000)
    assert seen() == end


def test_electors_that_hear_no_majority_wait_and_say_for_whom() -> None:
    """System 3: in quorum mode the first alone is live, not ready, and says whom it waits for."""
    world = World(1, 3, quorum=True)
    world.start("n1")
    world.run(3_000)
    automaton = world.nodes["n1"].automaton
    assert automaton.outvoted(world.now)
    assert set(automaton.lacks(world.now)) == {"n2", "n3"}
    world.start("n2", "n3")
    world.settle()
    assert not automaton.outvoted(world.now)
    assert automaton.lacks(world.now) == ()
