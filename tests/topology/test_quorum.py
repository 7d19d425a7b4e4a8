"""Automata that agree by the votes of a majority: one chain of views, and nobody serves apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import msgspec
import pytest

from sessionha.errors import StoreError
from sessionha.identity import ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Accept, Accepted, Ping, Prepare, Prepared
from sessionha.store.base import Reader, Writer
from sessionha.store.memory import Memory, MemoryStore
from sessionha.topology import rows, votefile
from sessionha.topology.automaton import Automaton
from sessionha.topology.detector import NEVER, Detector
from sessionha.topology.effects import Effect
from sessionha.topology.members import Plan, Removal, next_view
from sessionha.topology.proposal import Proposal
from sessionha.topology.quorum import QuorumAutomaton
from sessionha.topology.rows import Grant, Grants, Voting
from sessionha.topology.timing import LEASE_MARGIN
from sessionha.topology.votefile import DiskVotes
from sessionha.topology.votes import NO_BALLOT, Vote, VoteFile
from sessionha.view import Member, Role, View
from tests.topology.world import TIMING, Disk, World, describe

SEEDS = range(int(os.environ.get("SESSIONHA_SEEDS", "24")))
"""Worlds a claim is tried in; `SESSIONHA_SEEDS=1000` for a long look."""
FEW = SEEDS[: len(SEEDS) // 4]
MUTANTS = 200
"""Worlds in which a missing rule must show."""


def cluster(seed: int, size: int, *, trust_refused: bool = True) -> World:
    """A cluster that has begun, and whose nodes have leases."""
    world = World(seed, size, trust_refused=trust_refused, quorum=True)
    world.start(*world.description.order)
    world.settle()
    assert serving(world) == set(world.nodes)
    return world


def serving(world: World) -> set[str]:
    return {node for node, process in world.nodes.items() if process.serves}


# --- what it does --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_first_view_needs_every_elector(seed: int, size: int) -> None:
    """R7a: only all of them together can tell that there never was a view."""
    world = World(seed, size, quorum=True)
    *some, last = world.description.order
    world.start(*some)
    world.run(5_000)
    assert all(not process.view.members for process in world.nodes.values())
    assert f"missing {last}" in world.nodes[some[0]].automaton.waiting_for(world.now)
    world.start(last)
    world.settle()
    view = world.nodes[last].view
    assert (view.id, view.electors, len(view.cluster)) == (ViewID(1, ""), (*some, last), 16)


@pytest.mark.parametrize("seed", FEW)
def test_a_minority_serves_no_more_before_the_majority_goes_on(seed: int) -> None:
    """G9, R9: in a partition of three and two; and the two come back with what they kept."""
    world = cluster(seed, 5)
    lost = set(world.random.sample(world.description.order, 2))
    rest = set(world.nodes) - lost
    world.split(tuple(lost), tuple(rest))
    world.run_until(lambda: world.agreed(*rest), 5_000)
    assert serving(world) == rest
    world.run(5_000)
    assert serving(world) == rest
    world.heal()
    world.settle()
    world.run(1_000)
    assert serving(world) == set(world.nodes)


def test_who_was_cut_off_sees_that_the_electors_are_silent() -> None:
    """It blames nobody, and does not call the dead ready either."""
    world = cluster(1, 3)
    world.kill("n1")
    world.run_until(lambda: world.agreed("n2", "n3"), 5_000)
    world.kill("n2")
    world.run(5_000)
    assert world.nodes["n3"].automaton.signs("n2", world.now).suspected


def test_who_is_not_admitted_is_told_by_whom() -> None:
    """And not that it waits for a majority, where all electors answer."""
    world = cluster(5, 3)
    impostor = world.start_impostor("n2")
    world.run(5_000)
    waiting = impostor.automaton.waiting_for(world.now)
    assert waiting.startswith("a member to admit this node (n")
    assert "refuses this node" in waiting


@pytest.mark.parametrize("seed", FEW)
def test_who_was_cut_off_blames_nobody_for_it(seed: int) -> None:
    """System 3 (5): whether the others went on without the node or not, what it concluded from
    their silence is void when it hears them again, though one of them answers later than the
    rest; and it is the one that proposes."""
    world = cluster(seed, 5)
    late = world.random.choice(["n2", "n3", "n4", "n5"])
    watcher = next(node for node in ("n2", "n3") if node != late)
    world.split(("n1",), ("n2", "n3", "n4", "n5"))
    world.run(world.random.choice([1_400, 2_500]))
    world.heal()
    world.split(("n1",), (late,))
    world.run(900)
    world.heal()
    world.settle()
    world.run(3_000)
    assert {*world.nodes[watcher].kinds} <= {"joined " + n for n in world.nodes} | {
        "failed n1",
        "returned n1",
    }


@pytest.mark.parametrize("seed", FEW)
def test_an_even_split_serves_on_neither_side(seed: int) -> None:
    """Section 2: without a majority there is no view, and no lease."""
    world = cluster(seed, 4)
    names = sorted(world.nodes)
    before = world.nodes["n1"].view
    world.split(tuple(names[:2]), tuple(names[2:]))
    world.run(8_000)
    assert serving(world) == set()
    assert {process.view for process in world.nodes.values()} == {before}
    world.heal()
    world.run_until(lambda: serving(world) == set(names), 6_000)


@pytest.mark.parametrize("seed", FEW)
def test_proven_deaths_do_not_eat_the_majority(seed: int) -> None:
    """R2a: five nodes die one after the other by proof, until two are left, which are both needed
    from then on; and the dead count again when they are back."""
    world = cluster(seed, 5)
    names = world.random.sample(world.description.order, 5)
    for gone in range(3):
        world.kill(names[gone])
        assert world.run_until(lambda: world.agreed(*world.nodes), 1_000) < 300
    left = world.nodes[names[4]].view
    assert (set(left.absent), left.majority) == (set(names[:3]), 2)
    world.kill(names[3])
    world.run(4_000)
    assert serving(world) == set()
    world.start(*names[:4])
    world.settle()
    assert world.nodes[names[0]].view.majority == 3


GOODBYE, PROOF, SILENCE = "goodbye", "proof", "silence"


def lose(world: World, node: str, how: str) -> None:
    """A node goes in this way, and the others have time to notice."""
    if how == GOODBYE:
        world.leave(node, returning=False)
    else:
        world.kill(node, dark=how == SILENCE)
    world.run(6_000)


@pytest.mark.parametrize("first", [GOODBYE, PROOF, SILENCE])
@pytest.mark.parametrize("second", [GOODBYE, PROOF, SILENCE])
def test_the_last_of_three_serves_only_after_a_goodbye(first: str, second: str) -> None:
    """R2a: of two that are left each needs the other, however long the first is gone. Only who
    says goodbye lets the last one go on, and only where the one before it is gone for sure."""
    world = cluster(1, 3)
    lose(world, "n1", first)
    assert serving(world) >= {"n2", "n3"}
    lose(world, "n2", second)
    assert ("n3" in serving(world)) == (second == GOODBYE and first != SILENCE)


def test_a_refusal_elsewhere_proves_no_death_that_lets_the_last_go_on() -> None:
    """R2a: with `trust_refused` = same-host a process that crashed on another machine counts."""
    world = cluster(1, 3, trust_refused=False)
    lose(world, "n1", PROOF)
    lose(world, "n2", GOODBYE)
    assert "n3" not in serving(world)


@pytest.mark.parametrize("seed", FEW)
def test_a_goodbye_is_decided_at_once(seed: int) -> None:
    """G11: a planned stop waits for no lease, and serves no more when it says so."""
    world = cluster(seed, 3)
    leaver = world.random.choice(world.description.order)
    world.leave(leaver, returning=True)
    assert not world.nodes[leaver].serves
    rest = [node for node in world.nodes if node != leaver]
    assert world.run_until(lambda: world.agreed(*rest), 1_000) < 200


@pytest.mark.parametrize("seed", FEW)
def test_a_whole_cluster_that_was_killed_is_the_same_again(seed: int) -> None:
    """R7: with their stores the nodes go on in the view they had, as the same members."""
    world = cluster(seed, 3)
    before = world.nodes["n1"].view
    world.kill(*world.description.order)
    world.start(*world.description.order)
    world.run_until(lambda: serving(world) == set(world.nodes), 4_000)
    assert {process.view for process in world.nodes.values()} == {before}


@pytest.mark.parametrize("seed", FEW)
def test_votes_outlive_every_store(seed: int) -> None:
    """R7a: machines that all rebooted begin where the chain of views was, not at one."""
    world = cluster(seed, 3)
    world.kill("n1")
    world.settle()
    number, identity = world.nodes["n2"].view.id.number, world.nodes["n2"].view.cluster
    world.kill("n2", "n3", lost=True)
    del world.stores["n1"]
    world.start("n1", "n2", "n3")
    world.settle()
    view = world.nodes["n1"].view
    assert (view.id.number > number, view.cluster) == (True, identity)


@pytest.mark.parametrize("seed", FEW)
def test_an_elector_without_votes_counts_again_after_the_next_view(seed: int) -> None:
    """R7a: blank, it neither votes nor counts; a view that was decided since swears it in."""
    world = cluster(seed, 3)
    world.kill("n1", lost=True, forgets=True)
    world.settle()
    world.start("n1")
    assert world.nodes["n1"].rows.blank()
    world.settle()
    world.run_until(lambda: not world.nodes["n1"].rows.blank(), 3_000)
    world.kill("n2", dark=True)
    world.run_until(lambda: serving(world) == {"n1", "n3"} and world.agreed("n1", "n3"), 6_000)


def tell(world: World, node: str, *without: str) -> None:
    """An operator's word."""

    def bootstrap(automaton: Automaton, now: int) -> list[Effect]:
        assert isinstance(automaton, QuorumAutomaton)
        return automaton.bootstrap(now, without)

    world.nodes[node].step(bootstrap)


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_an_operator_may_give_up_a_majority_that_is_gone_for_good(seed: int, node: str) -> None:
    """R7a: by hand, the one that is left goes on, and takes back who returns all the same."""
    world = cluster(seed, 3, trust_refused=False)
    others = [name for name in sorted(world.nodes) if name != node]
    world.kill(*others, dark=True, lost=True, forgets=True)
    world.run(5_000)
    assert serving(world) == set()
    tell(world, node, *others)
    world.run_until(lambda: serving(world) == {node}, 4_000)
    assert world.nodes[node].view.voters == (node,)
    world.dark.clear()
    world.start(*others)
    world.run_until(lambda: world.agreed() and serving(world) == {"n1", "n2", "n3"}, 6_000)
    assert world.nodes[node].view.majority == 2


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_an_operator_may_begin_without_who_never_came(node: str) -> None:
    """R7a: the first view by hand."""
    world = World(1, 3, quorum=True)
    world.start("n1", "n2")
    world.run(3_000)
    assert serving(world) == set()
    tell(world, node, "n3")
    world.run_until(lambda: serving(world) == {"n1", "n2"}, 4_000)
    world.start("n3")
    world.settle()
    assert world.nodes["n3"].view.voters == ("n2", "n3", "n1")


def test_an_elector_configured_with_others_refuses_to_begin() -> None:
    """A typing mistake in one description must not make two clusters of one."""
    world = World(1, 3, quorum=True)
    world.descriptions["n3"] = describe(2)
    world.start("n1", "n2", "n3")
    world.run(5_000)
    assert all(not process.view.members for process in world.nodes.values())


# --- electors that change ------------------------------------------------------------------------


def elected(world: World, *nodes: str) -> None:
    """Wait until these decide, and everybody knows."""
    world.run_until(
        lambda: all(set(view.electors) == {*nodes} for view in world.views().values()), 15_000
    )
    world.settle()


@pytest.mark.parametrize("seed", FEW)
def test_electors_follow_the_description_one_by_one(seed: int) -> None:
    """R2: the description is a wish. It is reloaded node by node; whoever is added becomes an
    elector when it is a member, and whoever is not described any more ceases to be one."""
    world = World(seed, 5, quorum=True)
    for node in world.description.order:
        world.redescribe(node, "n1", "n2", "n3")
    world.start("n1", "n2", "n3")
    world.settle()
    for node in world.random.sample(world.description.order, 5):
        world.redescribe(node, *world.description.order)
        world.run(world.random.choice((10, 1_000)))
    world.run(2_000)
    assert set(world.nodes["n1"].view.electors) == {"n1", "n2", "n3"}, "nobody else ever came"
    world.start("n4")
    elected(world, "n1", "n2", "n3", "n4")
    world.start("n5")
    elected(world, "n1", "n2", "n3", "n4", "n5")
    assert all(not process.rows.blank() for process in world.nodes.values())
    for node in world.random.sample(world.description.order, 5):
        world.redescribe(node, "n3", "n4", "n5")
    world.settle("n3", "n4", "n5")
    assert set(world.nodes["n3"].view.electors) == {"n3", "n4", "n5"}
    world.kill("n3", dark=True)
    world.run_until(lambda: serving(world) == {"n4", "n5"} and world.agreed("n4", "n5"), 6_000)


def test_nodes_that_were_told_different_things_keep_their_electors() -> None:
    """R2: only what a majority of the electors was told is a wish; two halves that wish something
    else would undo each other's views."""
    world = World(1, 4, quorum=True)
    for node in world.description.order:
        world.redescribe(node, "n1", "n2", "n3")
    world.start("n1", "n2", "n3")
    world.settle()
    world.redescribe("n4", *world.description.order)
    world.redescribe("n1", *world.description.order)
    world.run(3_000)
    world.start("n4")
    world.run(5_000)
    view = world.nodes["n1"].view
    assert set(view.electors) == {"n1", "n2", "n3"}
    world.redescribe("n2", *world.description.order)
    elected(world, "n1", "n2", "n3", "n4")


@pytest.mark.parametrize("seed", FEW)
def test_the_last_elector_counts_though_it_is_gone_by_proof(seed: int) -> None:
    """R2, R2a: where only one of the members votes, because `admission` admitted the others, they
    wait for it, or for an operator; a view without voters would be the last one."""
    world = World(seed, 3, quorum=True)
    world.admission = "dynamic"
    for node in world.description.order:
        world.redescribe(node, "n1")
    world.start("n1", "n2", "n3")
    world.settle()
    assert world.nodes["n2"].view.electors == ("n1",)
    world.leave("n1", returning=True)
    world.run(1_500)
    world.kill("n1")
    world.run(3_000)
    assert serving(world) == set()
    if seed % 2:
        tell(world, "n3", "n1")
        world.run_until(lambda: serving(world) == {"n2", "n3"}, 6_000)
    world.start("n1")
    world.run_until(lambda: serving(world) == {"n1", "n2", "n3"} and world.agreed(), 6_000)
    world.run_until(lambda: world.nodes["n2"].view.electors == ("n1",), 6_000)


@pytest.mark.parametrize("seed", FEW)
@pytest.mark.parametrize("goodbye", [True, False])
def test_an_operator_may_go_on_without_the_last_that_served(seed: int, *, goodbye: bool) -> None:
    """R2a, R7a: all were stopped, and of the one that decided alone in the end nothing is left. An
    operator's word lets one of the others begin, though the last view has it as gone."""
    world = cluster(seed, 3)
    for node in ("n1", "n2", "n3")[: 2 + goodbye]:
        world.leave(node, returning=True)
        world.run(1_500)
        world.kill(node)
        world.run(500)
    if "n3" in world.nodes:
        world.kill("n3")
    world.stores.pop("n3")
    world.disks.pop("n3")
    world.start("n1", "n2")
    world.run(6_000)
    assert serving(world) == set()
    tell(world, "n1", "n3")
    world.run_until(lambda: serving(world) == {"n1", "n2"} and world.agreed(), 6_000)
    world.start("n3")
    world.run_until(lambda: serving(world) == {"n1", "n2", "n3"} and world.agreed(), 6_000)


# --- random worlds -------------------------------------------------------------------------------


def live(seed: int, *, late: bool = True, reloads: bool = False) -> World:
    """A life of kills, starts, partitions, pauses, goodbyes, lost stores and votes; and in the end
    all agree and serve. Every step of it checks I20, and that nobody serves who is left out.

    `reloads`: the description changes as well, at some nodes or at all.
    """
    random = Random(f"quorum {seed}")
    size = random.choice((2, 3, 3, 4, 5, 5)) if not reloads else random.choice((4, 5, 6))
    world = World(seed, size, trust_refused=random.random() < 0.6, quorum=True)
    names = sorted(world.description.order)
    world.loss = random.choice((0.0, 0.0, 0.05, 0.2)) if late else 0.0
    world.start(*names)
    world.run(random.choice((100, 2_000, 5_000)))
    stopped: list[str] = []
    for _ in range(25):
        if reloads and random.random() < 0.3:
            wish = random.sample(names, random.randint(3, size))
            for node in names if random.random() < 0.6 else random.sample(names, 2):
                world.redescribe(node, *wish)
        else:
            _trouble(world, random, names, stopped, voters=3 if reloads else size)
        world.run(random.choice((1, 20, 100, 100, 1_000, 3_000)))
    world.heal()
    world.loss = 0.0
    world.dark.clear()
    for node in stopped:
        world.resume(node)
    world.start(*(node for node in names if node not in world.nodes))
    world.redial()
    if reloads:
        for node in names:
            world.redescribe(node, *names)
    world.run_until(
        lambda: (
            world.agreed()
            and serving(world) == set(names)
            and set(world.nodes[names[0]].view.electors) == set(names)
        ),
        40_000,
    )
    return world


def _trouble(
    world: World, random: Random, names: list[str], stopped: list[str], voters: int
) -> None:
    """One of them. Of `voters` electors a minority may have lost its votes."""
    up = [node for node in names if node in world.nodes]
    down = [node for node in names if node not in world.nodes]
    kinds = ("kill", "kill", "start", "start", "split", "heal", "stop", "resume", "leave", "cut")
    kind = random.choice(kinds)
    node = random.choice(up or names)
    if kind == "kill" and up:
        _forget(stopped, node)
        blank = sum(1 for name in names if name not in world.disks or not world.disks[name].vote)
        forgets = random.random() < 0.4 and blank + 1 <= (voters - 1) // 2
        world.kill(node, dark=random.random() < 0.2, lost=random.random() < 0.4, forgets=forgets)
    elif kind == "start" and down:
        node = random.choice(down)
        world.dark.discard(node)
        world.start(node)
    elif kind == "split":
        side = random.sample(names, random.randint(1, len(names) - 1))
        world.split(tuple(side), tuple(name for name in names if name not in side))
    elif kind == "cut":
        one, other = random.sample(names, 2)
        world.cut.add((one, other))
    elif kind == "heal":
        world.heal()
    elif kind == "stop" and up and node not in stopped:
        world.hang(node)
        stopped.append(node)
    elif kind == "resume" and stopped:
        world.resume(stopped.pop())
    elif kind == "leave" and up and node not in stopped:
        world.leave(node, returning=True)
        world.run(random.choice((10, 1_500)))
        world.kill(node)


def _forget(stopped: list[str], node: str) -> None:
    if node in stopped:
        stopped.remove(node)


@pytest.mark.parametrize("seed", FEW)
def test_an_elector_that_returns_excludes_nobody_who_lives(seed: int) -> None:
    """R2: alone, a member can decide nothing; the vote that it gets at last is that of the very
    node which it would exclude, and which must not go on without it."""
    world = cluster(seed, 3)
    world.kill("n1")
    world.run_until(lambda: world.agreed("n2", "n3"), 5_000)
    world.run(1_000)
    world.kill("n3")
    world.run(5_000)
    before = len(world.nodes["n2"].kinds)
    world.start("n3")
    world.run_until(lambda: serving(world) == {"n2", "n3"}, 5_000)
    world.run(2_000)
    told = [*world.nodes["n2"].kinds[before:], *world.nodes["n3"].kinds]
    assert not [kind for kind in told if kind.startswith("failed")]


@pytest.mark.parametrize("seed", SEEDS)
def test_views_form_one_chain_and_nobody_serves_apart(seed: int) -> None:
    """R2, R7a, R9, I20, whatever dies, forgets, stands still or is cut off; and when the faults
    stop, all agree and serve."""
    live(seed)


@pytest.mark.parametrize("seed", SEEDS[::2])
def test_views_form_one_chain_while_electors_change(seed: int) -> None:
    """R2, I20: the same, while the description is reloaded; and in the end its nodes decide."""
    live(seed, reloads=True)


# --- what the rules are worth --------------------------------------------------------------------


def _without_the_accepted_view() -> Iterator[AbstractContextManager[object]]:
    told = rows.Rows.prepare

    def prepare(self: rows.Rows, asked: Prepare, file: VoteFile) -> Prepared:
        found = told(self, asked, file)
        return msgspec.structs.replace(found, accepted=NO_BALLOT, view=None)

    yield mock.patch.object(rows.Rows, "prepare", prepare)


def _votes_forgotten_at_restart() -> Iterator[AbstractContextManager[object]]:
    def begin(self: rows.Rows, writer: Writer, votes: rows.Voting, now: int) -> None:
        vote = votes.file.load()
        votes.file.save(Vote(base=vote.base if vote is not None else View()))
        writer.delete(rows.BLANK)
        writer.put(rows.GRANTS, rows._encoder.encode(Grants(since=now)))

    yield mock.patch.object(rows.Rows, "_begin_voting", begin)


def _blank_votes_count() -> Iterator[AbstractContextManager[object]]:
    load = Disk.load
    yield mock.patch.object(Disk, "load", lambda self: load(self) or Vote())


def _views_without_majority() -> Iterator[AbstractContextManager[object]]:
    yield mock.patch.object(View, "majority", 1)


def _electors_from_the_file() -> Iterator[AbstractContextManager[object]]:
    """Who counts is whom this node can reach of those that its own file names."""
    known_base: Any = vars(QuorumAutomaton)["base"]

    def configured(self: QuorumAutomaton) -> View:
        known: View = known_base.fget(self)
        here = [n for n in self._electors if n == self.me.node or self._fresh(n, self._ticked)]
        return msgspec.structs.replace(known, electors=tuple(here))

    yield mock.patch.object(QuorumAutomaton, "base", property(configured))


def _exclude_at_once() -> Iterator[AbstractContextManager[object]]:
    yield mock.patch.object(rows, "_unexpired", return_value=(0, []))


def _grant_to_the_left_out() -> Iterator[AbstractContextManager[object]]:
    yield mock.patch.object(Grants, "allows", return_value=True)


def _read_without_lease() -> Iterator[AbstractContextManager[object]]:
    yield mock.patch.object(rows.Rows, "lease_in", return_value=1 << 62)


def _restarted_electors_never_vote() -> Iterator[AbstractContextManager[object]]:
    voting = rows.Rows._voting

    def lost(self: rows.Rows, reader: Reader, file: VoteFile) -> tuple[View, Vote, str]:
        held, vote, blank = voting(self, reader, file)
        return held, vote, blank or ("restarted" if self._store.run > 1 else "")

    yield mock.patch.object(rows.Rows, "_voting", lost)


def _blank_electors_never_count() -> Iterator[AbstractContextManager[object]]:
    yield mock.patch.object(Proposal, "_tokens", ())


def _silence_is_proof() -> Iterator[AbstractContextManager[object]]:
    """Who is only suspected counts as dead: its lease is not waited for."""
    condemn = Detector.condemn

    def dead(self: Detector, now: int, node: str, incarnation: str, *, proven: bool) -> None:
        del proven
        condemn(self, now, node, incarnation, proven=True)

    def unexpired(held: View, proposed: View, *_: object) -> tuple[int, list[str]]:
        found = unexpired_by_lease(held, proposed, *_)
        return (0, []) if {m.node for m in held.members} & {*proposed.absent} else found

    unexpired_by_lease: Any = rows._unexpired
    yield mock.patch.object(Detector, "condemn", dead)
    yield mock.patch.object(rows, "_unexpired", unexpired)


FIRST = {
    "lost votes count as none": 170,
    "silence counts as proof of a death": 80,
    "a member is left out before its lease ended": 80,
    "who is left out is told that it may serve": 40,
}
"""Where to begin looking for what shows rarely; nothing shows before."""

RULES: dict[str, Callable[[], Iterator[AbstractContextManager[object]]]] = {
    "vote without the accepted view": _without_the_accepted_view,
    "votes forgotten at restart": _votes_forgotten_at_restart,
    "lost votes count as none": _blank_votes_count,
    "restarted electors never vote": _restarted_electors_never_vote,
    "blank electors never count": _blank_electors_never_count,
    "silence counts as proof of a death": _silence_is_proof,
    "views without majority": _views_without_majority,
    "electors from the file": _electors_from_the_file,
    "a member is left out before its lease ended": _exclude_at_once,
    "who is left out is told that it may serve": _grant_to_the_left_out,
    "read without lease": _read_without_lease,
}


@pytest.mark.parametrize("name", RULES)
def test_a_missing_rule_is_caught(name: str) -> None:
    """Section 5: with the rule off, a random world ends in two views of one number, in a node that
    serves though it is left out, or never."""
    first = FIRST.get(name, 0)
    for seed in count(first):
        assert seed < first + MUTANTS, f"not one of {MUTANTS} worlds shows it"
        try:
            with ExitStack() as stack:
                for patch in RULES[name]():
                    stack.enter_context(patch)
                live(seed)
        except AssertionError:
            return


# --- one elector, one proposer -------------------------------------------------------------------

BASE = View(
    ViewID(4, ""),
    tuple(Member(n, f"{n}-inc", ViewID(1, ""), f"{n}:1") for n in ("n1", "n2", "n3")),
    cluster="c",
    electors=("n1", "n2", "n3"),
)
NEXT = next_view(BASE, Plan({"n3": Removal("failed", proven=False)}))
OTHER = next_view(BASE, Plan({"n2": Removal("failed", proven=False)}))


def test_a_vote_keeps_the_highest_promise_and_what_it_accepted() -> None:
    """Paxos, as an acceptor."""
    vote = Vote().prepare(5, (2, "a"), BASE)
    assert vote.prepare(5, (1, "z"), BASE) == vote
    assert vote.accept((1, "z"), NEXT, BASE) == vote
    vote = vote.accept((2, "a"), NEXT, BASE)
    assert (vote.accepted, vote.view) == ((2, "a"), NEXT)
    vote = vote.prepare(5, (3, "b"), BASE)
    assert (vote.promised, vote.accepted, vote.view) == ((3, "b"), (2, "a"), NEXT)
    assert vote.prepare(4, (9, "z"), BASE) == vote, "decided before"
    assert vote.prepare(6, (1, "a"), NEXT).view is None


def _prepared(**told: object) -> Prepared:
    plain = Prepared((1, "me"), NO_BALLOT, None, "", 4)
    return msgspec.structs.replace(plain, **told)


def test_a_proposer_adopts_what_may_be_decided() -> None:
    """Paxos, as a proposer: the accepted view of the highest ballot takes the place of its own."""
    proposal = Proposal(BASE, NEXT, (1, "me"), 0)
    question = Prepare(5, (1, "me"), BASE)
    assert [node for node, _ in proposal.questions()] == ["n1", "n2", "n3"]
    assert not proposal.answered("n1", question, _prepared())
    assert proposal.answered("n2", question, _prepared(accepted=(0, "x"), view=OTHER))
    asked = [message for _, message in proposal.questions()]
    assert asked == [Accept((1, "me"), OTHER)] * 3
    assert not proposal.answered("n1", Accept((1, "me"), OTHER), Accepted(True, (1, "me"), 0, 4))
    assert proposal.answered("n3", Accept((1, "me"), OTHER), Accepted(True, (1, "me"), 0, 4))
    assert proposal.outcome == "decided"


def test_a_blank_elector_counts_only_where_all_answer() -> None:
    """R7a."""
    proposal = Proposal(BASE, NEXT, (1, "me"), 0)
    question = Prepare(5, (1, "me"), BASE)
    assert not proposal.answered("n1", question, _prepared())
    assert not proposal.answered("n2", question, _prepared(blank="t2"))
    assert proposal.answered("n3", question, _prepared(blank="t3"))
    assert proposal.questions()[0][1] == Accept((1, "me"), NEXT, (("n2", "t2"), ("n3", "t3")))


def test_a_proposer_gives_way() -> None:
    """To a higher ballot, and to a view that is decided already."""
    question = Prepare(5, (1, "me"), BASE)
    beaten, late = (Proposal(BASE, NEXT, (1, "me"), 0) for _ in range(2))
    beaten.answered("n1", question, _prepared(promised=(7, "x")))
    assert (beaten.outcome, beaten.highest, beaten.questions()) == ("beaten", 7, [])
    late.answered("n1", question, _prepared(held=5))
    assert late.outcome == "late"


def test_what_was_granted_ends_by_proof_only_for_the_start_that_ended() -> None:
    """A goodbye of an earlier start says nothing of the present one."""
    member = BASE.members[0]
    grants = Grants(since=10).grant("n1", Grant(member.incarnation, run=2, at=50))
    assert grants.last(member) == 50
    assert grants.release("n1", member.incarnation, run=1) == grants
    assert grants.release("n1", member.incarnation, None, before=50) == grants
    assert grants.release("n1", member.incarnation, None, before=51).last(member) == NEVER
    ended = grants.release("n1", member.incarnation, run=2)
    assert ended.last(member) == NEVER
    assert not ended.allows("n1", member.incarnation, 2, BASE, 60)
    assert ended.allows("n1", member.incarnation, 3, BASE, 60)
    assert ended.grant("n1", Grant(member.incarnation, 3, 60)).last(member) == 60


def test_a_restarted_elector_has_just_answered_everybody() -> None:
    """R9: it cannot know whom it answered before; so may one for whom other electors decide."""
    store = MemoryStore(Memory()).open()
    disk = Disk()
    disk.vote = Vote(5, base=BASE)
    voting = Voting(disk, lambda: "token", BASE.electors, lease=100)
    table = rows.Rows(store)
    table.begin_run(BASE.members[0], 1_000, voting)
    me = BASE.members[0]
    asked = Accept((1, "n2/x"), NEXT)
    answer = table.accept(asked, me, disk, 1_040, voting.lease)
    assert (answer.ok, answer.wait, disk.vote.view) == (False, 60, None)
    assert table.accept(asked, me, disk, 1_100, voting.lease).ok
    assert (disk.vote.accepted, disk.vote.view) == ((1, "n2/x"), NEXT)


def test_who_missed_a_view_has_just_answered_everybody() -> None:
    """R9: its electors, others perhaps than before and after it, may have let a member serve, and
    nobody who decides the next view need be one of them."""
    grants = Grants(since=10)
    view = msgspec.structs.replace(NEXT, electors=BASE.electors, absent=BASE.absent)
    assert grants.under(view, BASE, 90).since == 10
    later = msgspec.structs.replace(view, id=ViewID(view.id.number + 1, ""))
    assert grants.under(later, BASE, 90).since == 90


def test_an_end_that_was_seen_counts_for_nothing_where_others_decide() -> None:
    """R9: the member may have begun anew since, and been answered by those who decided before."""
    member = BASE.members[0]
    grants = Grants(since=10).release(member.node, member.incarnation, run=1)
    view = msgspec.structs.replace(NEXT, electors=BASE.electors, absent=BASE.absent)
    assert grants.under(view, BASE, 90).last(member) == NEVER
    others = msgspec.structs.replace(view, electors=BASE.electors[:-1])
    assert grants.under(others, BASE, 90).last(member) == 90


@pytest.mark.parametrize(("role", "same"), [("server", True), ("spare", True), ("witness", False)])
def test_a_server_that_restarts_as_a_witness_is_another_member(role: Role, same: bool) -> None:
    """R7: it is a holder of copies no more, so the old one must leave the view."""
    store = MemoryStore(Memory()).open()
    table, disk = rows.Rows(store), Disk()
    me = msgspec.structs.replace(BASE.members[0], incarnation=store.incarnation)
    voting = Voting(disk, lambda: "token", BASE.electors, lease=100)
    table.begin_run(me, 1_000, voting)
    table.install(me, msgspec.structs.replace(BASE, members=(me, *BASE.members[1:])), 1_000)
    with store.write(urgent=True) as writer:
        writer.put(rows.RUN, b"of another start")
    table.begin_run(msgspec.structs.replace(me, role=role), 1_001, voting)
    assert (store.incarnation == me.incarnation) is same


def test_an_elector_without_votes_gives_no_lease() -> None:
    """R7a, R9: it may have accepted a view without the member that asks, and forgotten that."""
    table = rows.Rows(MemoryStore(Memory()).open())
    disk = Disk()
    table.begin_run(BASE.members[0], 1_000, Voting(disk, lambda: "token", BASE.electors, lease=100))
    table.install(BASE.members[0], BASE, 1_000)
    asker, ping = BASE.members[1], Ping(BASE.members[1], BASE.id, asked=7, run=1)
    sender = Sender(asker.node, asker.incarnation)
    assert not table.grant(sender, ping, 1_001)
    table.swear_in("n1", disk)
    assert table.blank(), "no view since names its loss"
    sworn = msgspec.structs.replace(NEXT, sworn=(("n1", "token"),))
    table.install(BASE.members[0], sworn, 1_002)
    table.swear_in("n1", disk)
    assert table.grant(sender, msgspec.structs.replace(ping, view=sworn.id), 1_003)
    assert disk.vote == Vote(5, base=sworn)


def test_a_member_that_was_to_be_left_out_and_was_not_gets_leases_again() -> None:
    """I21: who proposed that may have died, or seen that the member lives. Until its lease has run
    out, and as long again, no answer of this elector adds to it (R9)."""
    table, disk = rows.Rows(MemoryStore(Memory()).open()), Disk()
    disk.vote = Vote(4, base=BASE)
    me, asker = BASE.members[0], BASE.members[2]
    table.begin_run(me, 0, Voting(disk, lambda: "token", BASE.electors, lease=100))
    table.install(me, BASE, 0)
    sender, ping = Sender("n3", asker.incarnation), Ping(asker, BASE.id, asked=7, run=1)
    assert table.grant(sender, ping, 1_000)
    answer = table.accept(Accept((1, "n2/x"), NEXT), me, disk, 1_010, 100)
    assert (answer.ok, answer.wait) == (False, 90)
    assert not table.grant(sender, ping, 1_100)
    assert not table.grant(sender, ping, 1_209)
    assert table.grant(sender, ping, 1_210)
    answer = table.accept(Accept((1, "n2/x"), NEXT), me, disk, 1_220, 100)
    assert (answer.ok, answer.wait) == (False, 90), "and they are waited for again"


# --- the vote file -------------------------------------------------------------------------------


def test_a_vote_survives_on_the_disk(tmp_path: Path) -> None:
    """R2: written before it is answered, and read back as it was."""
    votes = DiskVotes(tmp_path)
    assert votes.load() is None
    vote = Vote(5, (2, "n1/a"), (2, "n1/a"), NEXT, BASE)
    votes.save(vote)
    assert DiskVotes(tmp_path).load() == vote
    assert (tmp_path / votefile.NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_crash_while_a_vote_is_written_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The new file takes the old one's place at once or not at all."""
    votes = DiskVotes(tmp_path)
    before = Vote(5, (1, "n1/a"), base=BASE)
    votes.save(before)

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(f"sessionha.topology.votefile.os.{step}", crash)
        with pytest.raises(Crash):
            votes.save(Vote(6, (9, "n2/b"), base=NEXT))
    assert DiskVotes(tmp_path).load() == before


def test_a_damaged_vote_is_not_taken_for_none(tmp_path: Path) -> None:
    DiskVotes(tmp_path).save(Vote(5, (1, "n1/a"), base=BASE))
    path = tmp_path / votefile.NAME
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match="is damaged"):
        DiskVotes(tmp_path).load()


def test_a_vote_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="`state_dir`"):
        DiskVotes(tmp_path / "absent").save(Vote())


def test_leases_end_before_a_silent_member_is_given_up() -> None:
    """R9: a lease costs nothing; detection takes longer than it."""
    assert TIMING.lease + LEASE_MARGIN < TIMING.suspect_after + TIMING.confirm_after
