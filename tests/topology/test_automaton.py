"""Automata of two to five nodes, joined by a fake wire, agree on their membership."""

from __future__ import annotations

import os

import pytest

from tests.topology.world import TIMING, World

DETECTION = TIMING.suspect_after + TIMING.confirm_after
SEEDS = range(int(os.environ.get("SESSIONHA_SEEDS", "60")))
"""Worlds a claim is tried in; `SESSIONHA_SEEDS=1000` for a long look."""
FEW = SEEDS[: len(SEEDS) // 4]


def cluster(seed: int, count: int, *, trust_refused: bool = True, quorum: bool = False) -> World:
    """A cluster that has formed; its events so far are forgotten."""
    world = World(seed, count, trust_refused=trust_refused, quorum=quorum)
    world.start(*world.description.order)
    world.settle()
    for process in world.nodes.values():
        process.events.clear()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_started_at_once_or_in_any_order_end_in_one_view(seed: int) -> None:
    """System 3 (a): five nodes started in random order, and at once: all joined, same view."""
    world = World(seed, 2 + seed % 4, trust_refused=seed % 3 > 0)
    order = list(world.description.order)
    world.random.shuffle(order)
    for node in order:
        world.start(node)
        world.run(world.random.choice((0, 0, 5, 100, 1_000, 2_500)) if seed % 2 else 0)
    world.settle()


def test_nodes_that_find_each_other_at_once_do_not_wait_for_the_discovery_time() -> None:
    world = World(1, 3, trust_refused=False)
    world.start("n1", "n2", "n3")
    assert world.run_until(world.agreed, 1_000) < 200
    assert world.nodes["n1"].view.id == (1, "n1")


def test_the_first_alone_serves_within_the_discovery_time() -> None:
    """System 3 (b): the first alone serves within the discovery time (available mode)."""
    world = World(1, 3, trust_refused=False)
    world.start("n2")
    took = world.run_until(world.agreed, 5_000)
    assert TIMING.discovery_time - 100 <= took <= TIMING.discovery_time + 100


def test_a_node_whose_peers_all_refuse_does_not_wait() -> None:
    world = World(1, 3)
    world.start("n2")
    assert world.run_until(world.agreed, 1_000) < 100


def test_a_joiner_ignores_another_joiner() -> None:
    """System 3 (c): a joiner ignores another non-member, both become members."""
    world = World(3, 3)
    world.start("n1")
    world.run_until(world.agreed, 1_000)
    world.start("n2", "n3")
    world.settle()
    assert {"joined n2", "joined n3"} <= set(world.nodes["n1"].kinds)


@pytest.mark.parametrize("seed", FEW)
def test_a_killed_node_is_out_of_the_view_in_milliseconds(seed: int) -> None:
    """System 3 (d): kill -9 one of five: the survivors agree, here by a proven death (R2a)."""
    world = cluster(seed, 5)
    victim = world.random.choice(world.description.order)
    world.kill(victim)
    took = world.run_until(world.agreed, 1_000)
    assert took < 50
    assert all(p.kinds == [f"failed {victim}"] for p in world.nodes.values())
    assert world.nodes[min(world.nodes)].view.absent == (victim,)


@pytest.mark.parametrize("seed", FEW)
def test_a_silent_host_is_removed_after_confirmation(seed: int) -> None:
    """System 3 (d): kill −9 one of five: survivors agree within heartbeat × misses +
    verification, also where a refusal proves nothing."""
    world = cluster(seed, 5, trust_refused=False)
    victim = world.random.choice(world.description.order)
    world.kill(victim, dark=True)
    took = world.run_until(world.agreed, 5_000)
    assert took <= DETECTION + TIMING.heartbeat + 100
    assert all(p.kinds == [f"failed {victim}"] for p in world.nodes.values())
    for process in world.nodes.values():
        counts = process.automaton.counts
        since_heard = counts["detected_ms"] - took  # an answer was on its way when it died
        assert -10 <= since_heard <= TIMING.heartbeat
        assert counts["detected_within_1500"] + counts["detected_within_2000"] == 1
        assert counts["failures"] == 1
        assert counts["false_suspicions"] == 0


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_short_stop_is_no_event(seed: int, count: int) -> None:
    """System 3 (e): SIGSTOP shorter than detection: no event."""
    world = cluster(seed, count)
    node = world.random.choice(world.description.order)
    stop = world.random.choice((100, 400, 700))
    world.hang(node)
    world.run(stop)
    world.resume(node)
    world.settle()
    assert all(p.events == [] for p in world.nodes.values())
    stopped = world.nodes[node].automaton
    assert stopped.counts["pauses"] == (stop >= TIMING.pause), "it notices by itself"
    assert stopped.counts["suspicions"] == 0, "and blames nobody"


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_long_stop_is_a_failure_and_a_return(seed: int, count: int) -> None:
    """System 3 (e): SIGSTOP longer than detection: failed, and after SIGCONT it rejoins as a new
    incarnation with what it kept."""
    world = cluster(seed, count)
    node = world.random.choice(world.description.order)
    before = world.stores[node].incarnation
    world.hang(node)
    rest = [n for n in world.nodes if n != node]
    world.run_until(lambda: world.agreed(*rest), 4_000)
    world.run(500)
    world.resume(node)
    world.settle()
    assert world.stores[node].incarnation != before
    for other in rest:
        assert world.nodes[other].kinds == [f"failed {node}", f"returned {node}"]
        assert world.nodes[other].events[-1][1][0].kept
    assert world.nodes[node].view.barrier <= world.nodes[node].view.members[0].joined


@pytest.mark.parametrize("seed", FEW[::2])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("apart", [1, 2])
def test_two_deaths_at_once(seed: int, dark: bool, apart: int) -> None:
    """System 3 (f): two adjacent and two non-adjacent deaths at once."""
    world = cluster(seed, 5, trust_refused=not dark)
    order = world.description.order
    first = world.random.randrange(5)
    victims = (order[first], order[(first + apart) % 5])
    world.kill(*victims, dark=dark)
    world.settle(limit=6_000)
    for process in world.nodes.values():
        assert sorted(process.kinds) == sorted(f"failed {victim}" for victim in victims)


def test_a_node_dies_with_all_who_watch_it() -> None:
    """System 3 (f) in a larger cluster, where each watches the next three in the order: when they
    are out of the view others watch in their place."""
    world = cluster(1, 10, trust_refused=False)
    order = world.description.order
    world.kill(*order[2:6], dark=True)
    took = world.settle(limit=10_000)
    assert took < 3 * DETECTION
    for process in world.nodes.values():
        assert sorted(process.kinds) == sorted(f"failed {victim}" for victim in order[2:6])


@pytest.mark.parametrize("seed", FEW)
def test_a_cut_link_is_not_a_death_while_others_reach_the_node(seed: int) -> None:
    """System 3 (g): the link A→B cut while others reach B: B is not declared failed. Each of them
    reaches the other by one hop, and straight again when the link is whole."""
    world = cluster(seed, 3 + seed % 3, trust_refused=False)
    one, other = world.random.sample(world.description.order, 2)
    world.cut.add((one, other))
    if seed % 2:
        world.cut.add((other, one))
    ends = [(world.nodes[one].automaton, other), (world.nodes[other].automaton, one)]
    took = world.run_until(lambda: all(end in a.detours for a, end in ends), 5_000)
    assert took <= DETECTION
    world.run(15_000)
    assert world.agreed()
    assert all(p.events == [] for p in world.nodes.values())
    for automaton, end in ends:
        assert automaton.detours[end].via not in (one, other)
        assert automaton.counts["false_suspicions"] == automaton.counts["detours"] == 1
    world.heal()
    assert world.run_until(lambda: not any(a.detours for a, _ in ends), 1_000) < 500


@pytest.mark.parametrize("quorum", [False, True])
def test_who_lost_its_store_beyond_a_broken_link_is_admitted_anew(quorum: bool) -> None:
    """R1, R7, I21: others reach the node, so it is not declared failed; but who the view has under
    its name is no more, and nothing that it holds a copy of could be committed."""
    world = cluster(5, 3, quorum=quorum, trust_refused=False)
    world.split(("n1",), ("n3",))
    world.run_until(lambda: "n3" in world.nodes["n1"].automaton.detours, 3_000)
    world.kill("n3", lost=True)
    world.run(200)
    world.start("n3")
    world.run_until(world.agreed, 5_000)
    assert world.nodes["n3"].is_member
    world.run(10_000)
    assert {*world.nodes["n1"].kinds} == {"failed n3", "returned n3"}


@pytest.mark.parametrize("quorum", [False, True])
def test_another_member_takes_the_place_of_the_one_in_between(quorum: bool) -> None:
    """R1: also who decides, and votes, may be beyond a broken link."""
    world = cluster(3, 4, quorum=quorum, trust_refused=False)
    world.split(("n1",), ("n4",))
    automaton = world.nodes["n4"].automaton
    world.run_until(lambda: "n1" in automaton.detours, 3_000)
    via = automaton.detours["n1"].via
    world.kill(via, dark=True)
    rest = [node for node in world.nodes if node != via]
    world.run_until(lambda: world.agreed(*rest), 5_000)
    world.run_until(lambda: "n1" in automaton.detours, 5_000)
    assert automaton.detours["n1"].via not in ("n1", "n4", via)
    world.leave("n4")
    world.run_until(lambda: world.agreed(*[node for node in rest if node != "n4"]), 5_000)


@pytest.mark.parametrize("quorum", [False, True])
@pytest.mark.parametrize("end", ["n1", "n4"])
def test_a_node_joins_though_one_member_cannot_reach_it(quorum: bool, end: str) -> None:
    """Also where that is the one that decides: the word of a member that reaches it counts."""
    world = cluster(4, 4, quorum=quorum, trust_refused=False)
    other = "n4" if end == "n1" else "n1"
    world.kill(other, lost=True)
    world.settle("n2", "n3", end)
    world.split((end,), (other,))
    world.start(other)
    world.run_until(world.agreed, 10_000)
    world.run(8_000)
    assert world.agreed()
    assert other in world.nodes[end].automaton.detours


@pytest.mark.parametrize("quorum", [False, True])
def test_where_no_member_reaches_both_the_later_one_leaves(quorum: bool) -> None:
    """R1: in the order n3, n4, n5, n1, n2, where n2 only reaches n1, which does not reach n5."""
    world = cluster(5, 5, quorum=quorum, trust_refused=False)
    assert world.description.order == ("n3", "n4", "n5", "n1", "n2")
    world.split(("n2",), ("n3", "n4", "n5"))
    world.split(("n1",), ("n5",))
    rest = ("n1", "n3", "n4", "n5")
    world.run_until(lambda: world.agreed(*rest), 15_000)
    assert all(world.nodes[node].kinds == ["failed n2"] for node in rest)


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("returning", [False, True])
def test_a_planned_leave_is_its_own_event(seed: int, returning: bool) -> None:
    """System 3 (h): planned stop: *left*, no delay, no suspicion."""
    world = cluster(seed, 2 + seed % 4)
    node = world.random.choice(world.description.order)
    world.leave(node, returning=returning)
    rest = [n for n in world.nodes if n != node]
    assert world.run_until(lambda: world.agreed(*rest), 1_000) < 50
    leaver = world.nodes[node]
    world.run_until(lambda: leaver.automaton.state == "stopped", 1_000)
    assert not leaver.is_member
    world.kill(node)
    world.settle()
    for process in world.nodes.values():
        assert process.kinds == [f"left {node}"]
        assert process.events[0][1][0].kept is returning
        assert process.automaton.counts["suspicions"] == 0
    world.start(node)
    world.settle()
    assert all(f"returned {node}" in world.nodes[n].kinds for n in rest)


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("lost", [False, True])
def test_a_node_returns_with_or_without_its_store(seed: int, lost: bool) -> None:
    """System 3 (i): exactly one event a change, in order; the return tells whether data is kept."""
    world = cluster(seed, 2 + seed % 4)
    node = world.random.choice(world.description.order)
    world.kill(node, lost=lost)
    world.settle()
    world.start(node)
    world.settle()
    for other, process in world.nodes.items():
        if other != node:
            assert process.kinds == [f"failed {node}", f"returned {node}"]
            assert process.events[-1][1][0].kept is not lost
            assert world.nodes[other].view.barrier == (0, "")


@pytest.mark.parametrize("seed", FEW)
def test_a_fast_restart_with_the_store_is_a_pause(seed: int) -> None:
    """Contract R7: a process that finds its store whole goes on as the same member."""
    world = cluster(seed, 2 + seed % 4, trust_refused=False)
    node = world.random.choice(world.description.order)
    view = world.nodes[node].view
    world.kill(node)
    world.start(node)
    assert not world.nodes[node].is_member, "not before others say that the view holds"
    world.run_until(world.agreed, 1_000)
    world.settle()
    assert world.nodes[node].view == view
    assert all(p.events == [] for p in world.nodes.values())


@pytest.mark.parametrize("seed", FEW)
def test_a_fast_restart_without_the_store_is_recognised_by_the_incarnation(seed: int) -> None:
    """System 7.7: a restart faster than detection is recognised by the incarnation."""
    world = cluster(seed, 2 + seed % 4, trust_refused=False)
    node = world.random.choice(world.description.order)
    world.kill(node, lost=True)
    world.run(100)
    world.start(node)
    world.settle()
    for other, process in world.nodes.items():
        if other != node:
            assert process.kinds == [f"failed {node}", f"returned {node}"]
            assert not process.events[-1][1][-1].kept


@pytest.mark.parametrize("seed", FEW)
def test_a_full_restart_with_stores_is_a_pause(seed: int) -> None:
    """Contract, a pair: both restart with stores: a pause (no view change)."""
    world = cluster(seed, 2 + seed % 4, trust_refused=False)
    view = world.nodes["n1"].view
    world.kill(*world.nodes)
    world.run(5_000)
    order = list(world.description.order)
    world.random.shuffle(order)
    for node in order:
        world.start(node)
        world.run(world.random.choice((0, 100, 300)))
    world.settle()
    assert world.nodes["n1"].view == view


@pytest.mark.parametrize("order", [("n4", "n3", "n1", "n2"), ("n1", "n2", "n3", "n4")])
def test_who_was_excluded_waits_for_those_that_return_to_their_view(order: tuple[str, ...]) -> None:
    """Then it joins them: it forms no view beside theirs, in which old copies would be served."""
    world = cluster(1, 4)
    world.kill("n1")
    world.settle("n2", "n3", "n4")
    theirs = {m.node: m.joined for m in world.nodes["n2"].view.members}
    world.kill("n2", "n3", "n4")
    for node in order:
        world.start(node)
        world.run(100)
    world.settle()
    members = {m.node: m.joined for m in world.nodes["n1"].view.members}
    assert {node: members[node] for node in theirs} == theirs, "their view went on"
    assert members["n1"] > max(theirs.values())
    assert world.nodes["n1"].view.barrier <= max(theirs.values()), "nobody served apart"


@pytest.mark.parametrize("seed", FEW)
def test_a_restart_that_finds_nobody_goes_on_without_them(seed: int) -> None:
    """After the discovery time, also where every other host refuses: nodes that went on without
    this one may be starting just now."""
    world = cluster(seed, 3, trust_refused=seed % 2 > 0)
    number = world.nodes["n1"].view.id.number
    world.kill(*world.nodes, dark=seed % 2 == 0)
    node = world.random.choice(world.description.order)
    world.dark.discard(node)
    world.start(node)
    took = world.run_until(world.agreed, 5_000)
    assert TIMING.discovery_time <= took < TIMING.discovery_time + 100
    assert world.nodes[node].view.id.number > number
    rest = [n for n in world.description.order if n != node]
    world.dark.clear()
    world.start(*rest)
    world.settle()


@pytest.mark.parametrize("seed", SEEDS)
def test_partitioned_sides_go_on_and_merge(seed: int) -> None:
    """System 3.4 and 3.8: two sides that meet merge deterministically, behind a barrier."""
    count = 2 + seed % 4
    world = cluster(seed, count, trust_refused=seed % 2 > 0)
    order = list(world.description.order)
    world.random.shuffle(order)
    at = world.random.randint(1, count - 1)
    sides = [tuple(order[:at]), tuple(order[at:])]
    if count == 5 and seed % 3 == 0:
        sides = [(order[0],), tuple(order[1:3]), tuple(order[3:])]
    world.split(*sides)
    world.run_until(lambda: all(world.agreed(*side) for side in sides), 8_000)
    world.run(1_000)
    world.heal()
    world.settle()
    view = world.nodes["n1"].view
    assert view.barrier.number > 1, "both sides could have served"
    assert any(member.joined < view.barrier for member in view.members), "one side keeps its place"


@pytest.mark.parametrize(("one", "other"), [("n1", "n2"), ("n1", "n3"), ("n2", "n3")])
def test_two_sides_merge_that_only_a_returning_node_reaches(one: str, other: str) -> None:
    """Also where the lowest of both cannot see the other one: who sees both proposes it to it."""
    world = cluster(5, 3)
    world.split((one,), (other,))
    third = next(node for node in world.nodes if node not in (one, other))
    world.run_until(lambda: one in world.nodes[other].automaton.detours, 3_000)
    world.kill(third)
    world.run_until(lambda: world.agreed(one) and world.agreed(other), 8_000)
    world.start(third)
    world.settle(limit=12_000)
    assert world.nodes[one].automaton.detours.keys() == {other}


@pytest.mark.parametrize("seed", SEEDS)
def test_three_alone_that_meet_become_one(seed: int) -> None:
    """1 + 1 + 1: no livelock where nobody knew of anybody."""
    world = World(seed, 3, trust_refused=False)
    world.split(("n1",), ("n2",), ("n3",))
    world.start(*world.description.order)
    world.run_until(lambda: all(world.agreed(n) for n in world.nodes), 4_000)
    world.heal()
    assert world.settle() < 3_000
    assert world.nodes["n1"].view.id.number <= 8, "a few views, not a storm of them"


@pytest.mark.parametrize("seed", FEW)
def test_a_partition_shorter_than_detection_is_no_event(seed: int) -> None:
    world = cluster(seed, 4)
    world.split(("n1", "n2"), ("n3", "n4"))
    world.run(700)
    world.heal()
    world.settle()
    assert all(p.events == [] for p in world.nodes.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_the_living_agree_when_it_stops(seed: int) -> None:
    """Contract G12, section 7: flapping, partial cuts, stops, deaths and returns; then quiet."""
    world = cluster(seed, 2 + seed % 4, trust_refused=seed % 2 > 0)
    names = list(world.description.order)
    for _ in range(12):
        node, other = world.random.sample(names, 2)
        match world.random.randrange(8):
            case 0 | 1 if node in world.nodes and len(world.nodes) > 1:
                world.kill(node, dark=world.random.random() < 0.3, lost=world.random.random() < 0.3)
            case 2 | 3 if node not in world.nodes:
                world.dark.discard(node)
                world.start(node)
            case 4 if node in world.nodes:
                world.hang(node)
            case 5:
                for process in [p for p in world.nodes.values() if p.hung]:
                    world.resume(process.node)
            case 6:
                world.cut.add((node, other))
            case 7:
                world.heal()
        world.run(world.random.choice((5, 50, 300, 1_200, 2_600)))
    world.heal()
    for process in [p for p in world.nodes.values() if p.hung]:
        world.resume(process.node)
    for node in names:
        if node not in world.nodes:
            world.dark.discard(node)
            world.start(node)
    world.settle()


def test_a_second_claimant_of_a_living_id_is_refused() -> None:
    """System 1 (k): restart keeps the node ID, a second live claimant is refused."""
    world = cluster(5, 3)
    view = world.nodes["n1"].view
    impostor = world.start_impostor("n2")
    world.run(5_000)
    assert not impostor.is_member
    waiting = impostor.automaton.waiting_for(world.now)
    assert waiting.startswith("a member to admit this node (n")
    assert "refuses this node: the node ID n2 belongs to a living member" in waiting
    assert "SESSIONHA_NODE" in waiting
    assert world.nodes["n1"].view == view
    assert world.agreed()


def test_who_asks_a_node_of_its_own_id_is_refused_with_the_id_and_the_setting() -> None:
    from msgspec.structs import replace

    from sessionha.peer.base import Sender
    from sessionha.peer.messages import Join
    from sessionha.view import NO_MEMBERS

    world = cluster(5, 2)
    automaton = world.nodes["n1"].automaton
    join = Join(me=replace(automaton.me, incarnation="other"), view=NO_MEMBERS, served=False)
    automaton.received(world.now, Sender("n1", "other"), join)
    assert automaton.refusal(join) == (
        "the node ID n1 is that of the node it asked; give each node its own `node`"
        " (SESSIONHA_NODE)"
    )


def test_a_message_that_a_state_does_not_listen_to_is_dropped_and_counted() -> None:
    """System 3.3: an illegal message in a state is dropped and counted."""
    from sessionha.peer.base import Sender
    from sessionha.peer.messages import Report

    world = World(1, 3, trust_refused=False)
    world.start("n1")
    automaton = world.nodes["n1"].automaton
    automaton.received(world.now, Sender("n2", "x"), Report("n3", "y", True))
    assert automaton.counts["dropped"] == 1


def test_a_stopped_member_is_found_by_the_data_path_before_the_heartbeats() -> None:
    """System 5 (m): suspicion from the data path, confirmation, one view change."""
    world = cluster(2, 3)
    world.hang("n3")
    world.run(20)
    world.nodes["n1"].step(lambda automaton, now: automaton.suspect(now, "n3"))
    took = world.run_until(lambda: world.agreed("n1", "n2"), 2_000)
    assert took <= TIMING.confirm_after + 50


def test_a_node_that_drains_tells_everybody() -> None:
    import msgspec

    world = cluster(2, 3)
    process = world.nodes["n3"]
    process.step(lambda a, now: a.describe(now, msgspec.structs.replace(a.me, ready=False)))
    world.run(1_000)
    for other in world.nodes.values():
        member = other.view.member("n3")
        assert member is not None
        assert not member.ready
        assert other.kinds == []
        assert len(other.events) == 1
