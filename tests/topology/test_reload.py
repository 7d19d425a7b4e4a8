"""Descriptions that differ or change: who is admitted, what is reported, what a reload does."""

from __future__ import annotations

import msgspec
import pytest

from sessionha.topology.comparison import PATIENCE
from sessionha.topology.description import Description, differences
from sessionha.view import EngineAddress, Node
from tests.topology.world import World

MODES = pytest.mark.parametrize("quorum", [False, True], ids=["available", "quorum"])


def without(described: Description, *nodes: str) -> Description:
    return Description(tuple(each for each in described.nodes if each.node not in nodes))


def changed(described: Description, node: str, **fields: object) -> Description:
    return Description(
        tuple(
            msgspec.structs.replace(each, **fields) if each.node == node else each
            for each in described.nodes
        )
    )


def said(world: World, node: str, words: str) -> list[str]:
    return [line for line in world.nodes[node].log if words in line]


@MODES
def test_a_node_missing_from_the_description_is_refused_until_a_reload(quorum: bool) -> None:
    """System 3 (j): with `static-only` both sides name the node and the remedy; once the others
    have reloaded it is a member, and nobody differs."""
    world = World(1, 4, quorum=quorum)
    small = without(world.description, "n4")
    world.descriptions = dict.fromkeys(("n1", "n2", "n3"), small)
    world.start("n1", "n2", "n3")
    world.settle("n1", "n2", "n3")
    world.start("n4")
    world.run(5_000)
    assert world.agreed("n1", "n2", "n3")
    (refused,) = said(world, "n1", "join refused")
    assert "n4 is not in the description of n1; describe it there and `sessionha reload`" in refused
    (told,) = said(world, "n4", "n1 refuses this node: n4 is not in the description of n1")
    assert "`admission` to dynamic" in told
    for node in ("n1", "n2", "n3"):
        world.nodes[node].reload(world.description)
    world.run(10_000)  # where a majority decides, the node is an elector soon after it has joined
    world.settle("n1", "n2", "n3", "n4")
    world.run(2 * PATIENCE)
    assert not any(node.automaton.differing for node in world.nodes.values())


@MODES
def test_a_node_missing_from_the_description_is_appended_where_admission_is_dynamic(
    quorum: bool,
) -> None:
    """System 3 (j): with `dynamic` it is a member, watched after those that are described."""
    world = World(2, 4, quorum=quorum)
    small = without(world.description, "n4")
    world.descriptions = dict.fromkeys(("n1", "n2", "n3", "n4"), small)
    world.admission = "dynamic"
    world.start("n1", "n2", "n3")
    world.settle("n1", "n2", "n3")
    world.start("n4")
    world.settle("n1", "n2", "n3", "n4")
    world.kill("n4")
    world.settle("n1", "n2", "n3")


@MODES
def test_a_differing_description_is_reported_with_the_node_and_what_differs(quorum: bool) -> None:
    """System 3 (j): a different hash is reported once, and again when it has become another."""
    world = World(3, 3, quorum=quorum)
    world.descriptions["n2"] = changed(world.description, "n3", weight=2, zone="b")
    world.start("n1", "n2", "n3")
    world.settle("n1", "n2", "n3")
    world.run(PATIENCE + 3_000)
    (line,) = said(world, "n1", "another description")
    assert "n2 has another description of the cluster: n3: `zone` – here, b there; " in line
    assert "n3: `weight` 1 here, 2 there; give every node" in line
    assert {*world.nodes["n1"].automaton.differing} == {"n2"}
    assert {*world.nodes["n2"].automaton.differing} == {"n1", "n3"}
    world.run(2 * PATIENCE)
    assert len(said(world, "n1", "another description")) == 1
    world.nodes["n2"].reload(world.description)
    world.run(3_000)
    assert said(world, "n1", "n2 has the same description of the cluster again")
    assert not any(node.automaton.differing for node in world.nodes.values())


@MODES
def test_a_reload_that_goes_round_changes_every_node_and_alarms_nobody(quorum: bool) -> None:
    """Order, zones, weights, roles, URLs and engines take effect node by node."""
    world = World(4, 3, quorum=quorum)
    world.start("n1", "n2", "n3")
    world.settle("n1", "n2", "n3")
    engines = (EngineAddress("0", "api", "http://n3:8001"),)
    after = changed(
        Description(tuple(reversed(world.description.nodes))),
        "n3",
        zone="west",
        weight=5,
        role="spare",
        url="http://n3:80",
        engines=engines,
    )
    for node in ("n2", "n3", "n1"):
        world.nodes[node].reload(after)
        world.run(PATIENCE // 4)
    world.run(2 * PATIENCE)
    member = world.nodes["n1"].view.member("n3")
    assert member is not None
    assert (member.zone, member.weight, member.role) == ("west", 5, "spare")
    assert (member.url, member.engines) == ("http://n3:80", engines)
    assert world.agreed("n1", "n2", "n3")
    assert [node for node in world.nodes if said(world, node, "another description")] == []
    kinds = {kind for node in world.nodes.values() for kind in node.kinds}
    assert not any(kind.startswith(("failed", "left", "returned")) for kind in kinds)


@MODES
def test_a_node_that_is_described_no_more_leaves_the_view(quorum: bool) -> None:
    """It is refused from then on, and missed by nobody; described again it comes back."""
    world = World(5, 4, quorum=quorum)
    world.start("n1", "n2", "n3", "n4")
    world.settle("n1", "n2", "n3", "n4")
    small = without(world.description, "n4")
    for node in ("n1", "n2", "n3"):
        world.nodes[node].reload(small)
    world.settle("n1", "n2", "n3")
    world.run(5_000)
    assert world.agreed("n1", "n2", "n3")
    assert "left n4" in world.nodes["n1"].kinds
    assert not world.nodes["n4"].serves
    assert said(world, "n4", "refuses this node")
    assert "n4" not in world.nodes["n1"].automaton.addresses
    for node in ("n1", "n2", "n3"):
        world.nodes[node].reload(world.description)
    world.run(10_000)  # where a majority decides, the node is an elector soon after it has joined
    world.settle("n1", "n2", "n3", "n4")


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_reloaded_meanwhile_the_living_agree_when_it_stops(seed: int) -> None:
    """Nodes are told different things, die and part; when all have one description again, all of
    them are members."""
    world = World(seed, 5)
    names = list(world.description.order)
    world.start(*names)
    world.settle(*names)
    for _ in range(12):
        node = world.random.choice(names)
        if world.random.random() < 0.5 and node in world.nodes:
            others = [each for each in names if each != node]
            missing = world.random.sample(others, world.random.randint(0, 2))
            world.nodes[node].reload(without(world.description, *missing))
        elif node not in world.nodes:
            world.start(node)
        elif len(world.nodes) > 2:
            world.kill(node)
        world.run(world.random.choice((50, 500, 3_000)))
    world.start(*(node for node in names if node not in world.nodes))
    for node in names:
        world.nodes[node].reload(world.description)
    world.settle(*names)


def test_differences_name_nodes_fields_and_the_order() -> None:
    mine = Description((Node("n1", "h:1"), Node("n2", "h:2"), Node("n3", "h:3", weight=2)))
    theirs = Description((Node("n3", "h:3"), Node("n2", "h:2"), Node("n4", "h:4")))
    assert differences(mine, theirs) == [
        "n1 is missing there",
        "n4 is missing here",
        "n3: `weight` 2 here, 1 there",
        "the order of the nodes",
    ]
    many = Description(tuple(Node(f"m{number}", f"h:{number + 1}") for number in range(9)))
    assert differences(many, mine)[-1] == "and 6 more"
