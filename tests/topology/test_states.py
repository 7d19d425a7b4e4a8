"""The table of the automaton's transitions: what it says, the code does, and the page shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from sessionha.identity import ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Install, Join, Leave, Message, Ping, Pong, Report
from sessionha.topology.diagram import mermaid, written
from sessionha.topology.states import HEARS, MEANS, MOVES, Event, State
from sessionha.view import NO_MEMBERS, Member, View
from tests.topology.world import World

SOMEBODY = Member("n9", "x", ViewID(1, "n9"), peer="10.0.0.9:7946")
MESSAGES: tuple[Message, ...] = (
    Ping(SOMEBODY, (1, "n9")),
    Install(NO_MEMBERS),
    Join(SOMEBODY, NO_MEMBERS, served=False),
    Report("n2", "y", refused=True),
    Leave("n9", "x", returning=False),
    Pong(SOMEBODY, (1, "n9")),
)


def test_the_page_shows_the_table() -> None:
    """`make docs` writes the part of the page anew."""
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == written(page)
    for (state, event), move in MOVES.items():
        if move.to is not state:
            assert re.search(rf"^  {state} --> {move.to}: .*{event}", mermaid(), re.MULTILINE)


def test_every_state_can_be_reached_and_left() -> None:
    """The last one cannot: a node that stopped is another process when it comes back."""
    assert set(MEANS) == set(HEARS) == set(State)
    assert {state for state, _ in MOVES} == set(State) - {State.STOPPED}
    assert {move.to for move in MOVES.values()} == set(State)
    assert {event for _, event in MOVES} == set(Event)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("quorum", [False, True])
def test_what_a_state_does_not_listen_to_is_dropped_and_counted(state: State, quorum: bool) -> None:
    """System 3.3: an illegal message in a state is dropped and counted."""
    for message in MESSAGES:
        if type(message) in HEARS[state]:
            continue
        world = World(1, 3, quorum=quorum)
        world.start("n1")
        automaton = world.nodes["n1"].automaton
        automaton.state = state
        if state is State.JOINED:
            automaton.view = View(members=(automaton.me,))
        if state is State.RECONNECTING:
            automaton.kept = automaton.view
        effects = automaton.received(world.now, Sender("n9", "x"), message)
        assert automaton.counts["dropped"] == 1
        assert any(f"dropped a {type(message).__name__} of n9" in str(each) for each in effects)
    assert {type(message) for message in MESSAGES} <= set(get_args(Message))


def test_every_transition_is_logged_and_counted() -> None:
    """System 3.3, from the first look for others to the goodbye."""
    world = World(1, 2)
    world.start("n1")
    world.settle("n1")
    world.start("n2")
    world.settle()
    world.leave("n2")
    leaver = world.nodes["n2"]
    world.run_until(lambda: leaver.automaton.state == "stopped", 1_000)
    told = [line.split(maxsplit=2)[2] for line in leaver.log if "→" in line]
    assert told == [
        "connecting → joining: found view 1 (n1)",
        "joining → joined: member of view 2 (n1)",
        "joined → leaving: asked to leave",
        "leaving → stopped: the others have view 3 (n1) without this node",
    ]
    counts = leaver.automaton.counts
    assert counts["transitions"] == 4
    assert counts["connecting_to_joining"] == counts["leaving_to_stopped"] == 1
