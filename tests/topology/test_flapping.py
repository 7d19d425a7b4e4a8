"""Who keeps joining and falling silent is admitted ever later."""

from __future__ import annotations

import pytest

from sessionha.topology.flapping import BRIEF, MEMORY, Flapping
from tests.topology.test_automaton import cluster
from tests.topology.world import TIMING, World

SECOND = TIMING.suspect_after


def outage(world: World, *, stopped: bool) -> int:
    """n3 falls silent and comes back; how long it takes until it is a member again."""
    if stopped:
        world.hang("n3")
    else:
        world.split(("n3",), ("n1", "n2"))
    world.run_until(lambda: world.agreed("n1", "n2"), 6_000)
    if stopped:
        world.resume("n3")
    else:
        world.heal()
    return world.run_until(world.agreed, 30_000)


@pytest.mark.parametrize("quorum", [False, True])
def test_a_node_that_flaps_is_admitted_ever_later(quorum: bool) -> None:
    """Each time twice as late, up to a limit; a steady membership later it is as any other."""
    world = cluster(1, 3, trust_refused=False, quorum=quorum)
    world.run(BRIEF * SECOND)
    soon = [outage(world, stopped=not quorum) for _ in range(2)]
    assert max(soon) < 2 * SECOND, "one outage, and another by chance"
    late = [outage(world, stopped=not quorum) for _ in range(6)]
    assert [round(each / SECOND) for each in late] == [1, 2, 4, 8, 16, 16]
    decider = world.nodes["n1"]
    assert decider.automaton.counts["held_back"] == 6
    assert sum("n3 fell silent 2 times shortly after it had joined" in x for x in decider.log) == 1
    world.run((BRIEF + 1) * SECOND)
    assert outage(world, stopped=not quorum) < 2 * SECOND


def test_who_dies_by_proof_does_not_flap() -> None:
    """A process that is killed and started over and over is a member as soon as it is there."""
    world = cluster(1, 3)
    for _ in range(6):
        world.kill("n3")
        world.run_until(lambda: world.agreed("n1", "n2"), 1_000)
        world.start("n3")
        assert world.run_until(world.agreed, 1_000) < 500
    assert world.nodes["n1"].automaton.counts["held_back"] == 0


def test_what_is_counted_is_forgotten() -> None:
    """Nodes that come under ever new names leave nothing behind."""
    flapping = Flapping(TIMING)
    for number in range(100):
        flapping.joined(number, f"n{number}")
        flapping.fell_silent(number + 1, f"n{number}")
    flapping.joined(0, "gone")
    flapping.keep(MEMORY * SECOND + 200, ())
    assert not flapping._brief
    assert not flapping._began
