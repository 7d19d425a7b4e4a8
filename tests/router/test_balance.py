"""Which node, and which of its engines, a new client gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from sessionha.balancers.table import Table
from sessionha.errors import InvalidSettings
from sessionha.identity import server_name
from sessionha.kinds import PolicyWord
from sessionha.router.affinity import in_order
from sessionha.router.balance import ANY, Balance, Preference
from sessionha.router.serve import build
from sessionha.settings import Settings
from sessionha.topology.health import NodeState
from sessionha.view import Member
from tests.router.conftest import member, view_of
from tests.router.test_affinity import Standing, engines

Health = Mapping[str, Standing]
NONE: Health = {}


class Router:
    """What a router's choice depends on."""

    def __init__(self, *members: Member, prefer: Preference = ANY, health: Health = NONE) -> None:
        self.table = Table(view_of(*members))
        self.balance = Balance(health)
        self.prefer = prefer

    def first(self, *servers: str) -> str:
        """The name of the target that a request gets."""
        return next(in_order(self.table, servers, self.balance, self.prefer)).name

    def clients(self, count: int) -> list[str]:
        """What as many new clients get, one after the other."""
        return [self.first() for _ in range(count)]


def four(**facts: int) -> tuple[Member, ...]:
    """n1 to n4, with these weights."""
    names = ("n1", "n2", "n3", "n4")
    return tuple(member(name, f"http://{name}", weight=facts.get(name, 1)) for name in names)


def by(*words: PolicyWord, zone: str = "") -> Preference:
    return Preference(policy=words, zone=zone)


def test_new_clients_take_turns_among_equally_loaded_servers() -> None:
    assert Router(*four()).clients(5) == ["n1", "n2", "n3", "n4", "n1"]


def test_a_busy_server_gets_no_new_client_while_an_idle_one_exists() -> None:
    """System 1 (e): its own clients still reach it."""
    router = Router(*four(), health={"n1": Standing(in_flight=50)})
    assert set(router.clients(8)) == {"n2", "n3", "n4"}
    assert router.first("n1") == "n1"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("round-robin",), {"n1": 5, "n2": 5, "n3": 5, "n4": 5}),
        (("weighted",), {"n1": 8, "n2": 4, "n3": 4, "n4": 4}),
        (("least-load",), {"n3": 10, "n4": 10}),
        (("least-load", "round-robin"), {"n3": 10, "n4": 10}),
    ],
)
def test_each_policy_shares_out_new_clients_in_its_way(
    words: tuple[PolicyWord, ...], expected: Mapping[str, int]
) -> None:
    """System 1, 7."""
    busy = {"n1": Standing(in_flight=2), "n2": Standing(in_flight=1)}
    router = Router(*four(n1=2), prefer=by(*words), health=busy)
    assert Counter(router.clients(20)) == expected


def test_turns_by_weight_are_not_given_in_a_row() -> None:
    router = Router(*four(n1=3)[:2], prefer=by("weighted"))
    assert router.clients(8) == ["n1", "n1", "n2", "n1", "n1", "n1", "n2", "n1"]


def test_the_load_of_a_server_counts_for_its_weight() -> None:
    router = Router(
        *four(n1=4)[:2], health={"n1": Standing(in_flight=4), "n2": Standing(in_flight=2)}
    )
    assert router.first() == "n1"


def test_a_zone_is_preferred_for_new_clients_and_left_when_it_has_no_ready_server() -> None:
    """System 1 (f): whatever comes after the word `zone`."""
    near = [member(name, f"http://{name}", zone="b") for name in ("n2", "n3")]
    far = member("n1", "http://n1", zone="a")
    busy = {"n2": Standing(in_flight=9), "n3": Standing(in_flight=8)}
    assert (
        Router(far, *near, prefer=by("zone", "least-load", zone="b"), health=busy).first() == "n3"
    )
    turns = Router(far, *near, prefer=by("zone", "round-robin", zone="b"), health=busy)
    assert turns.clients(4) == ["n2", "n3", "n2", "n3"]
    assert turns.first("n1") == "n1", "a client of another zone keeps its server"
    gone = {name: Standing(NodeState.FAILED) for name in ("n2", "n3")}
    assert Router(far, *near, prefer=by("zone", zone="b"), health=gone).first() == "n1"
    without = Router(far, *near, prefer=by("least-load", zone="b"), health=busy)
    assert without.first() == "n1"


def test_a_node_is_chosen_first_and_then_one_of_its_engines() -> None:
    """System 1, 6: a node with three engines gets as many new clients as a node with one."""
    n1 = member("n1", engines=engines("0", "1", "2"))
    router = Router(n1, member("n2", "http://n2"))
    of_n1 = [server_name("n1", slot) for slot in "012"]
    assert router.clients(6) == [of_n1[0], "n2", of_n1[1], "n2", of_n1[2], "n2"]


def test_the_load_of_a_node_is_that_of_its_engines_and_the_idlest_is_chosen() -> None:
    n1 = member("n1", engines=engines("0", "1"))
    e0, e1 = server_name("n1", "0"), server_name("n1", "1")
    busy = {e0: Standing(in_flight=2), "n2": Standing(in_flight=2)}
    assert Router(n1, member("n2", "http://n2"), health=busy).clients(2) == [e1, "n2"]
    assert Router(n1, health=busy).first("n1") == e1, "a cookie that names the node alone"


def test_a_node_is_suspect_when_all_its_engines_are() -> None:
    n1 = member("n1", engines=engines("0", "1"))
    e0, e1 = server_name("n1", "0"), server_name("n1", "1")
    one = Router(n1, member("n2", "http://n2"), health={e0: Standing(NodeState.SUSPECT)})
    assert one.clients(2) == [e1, "n2"]
    both = {e0: Standing(NodeState.SUSPECT), e1: Standing(NodeState.SUSPECT)}
    assert Router(n1, member("n2", "http://n2"), health=both).clients(2) == ["n2", "n2"]


def test_who_joins_has_no_turns_to_make_up_for() -> None:
    router = Router(*four()[:2], prefer=by("round-robin"))
    router.clients(100)
    router.table = Table(view_of(*four()[:3]))
    router.balance.know({}, ("n1", "n2", "n3"))
    assert Counter(router.clients(6)) == {"n1": 2, "n2": 2, "n3": 2}


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"policy": "zone,least-load"}, r"set `zone` \(--zone\)"),
        ({"policy": "least-load", "zone": "east"}, "begin it with the word `zone`"),
    ],
)
def test_a_policy_and_a_zone_that_contradict_each_other_are_refused(
    given: dict[str, str], remedy: str
) -> None:
    secret = "correct-horse-battery-staple-0123456789-ABCDEFGH"
    settings = Settings.observe({}, nodes="n1=http://127.0.0.1:1", secret=secret, **given)
    with pytest.raises(InvalidSettings, match=remedy):
        build(settings)


def hashed(client: str) -> Preference:
    return Preference(policy=("hash",), client=client)


CLIENTS = [f"10.0.{number // 250}.{number % 250}" for number in range(500)]


def chosen(*members: Member) -> dict[str, str]:
    """The server of each client by its address."""
    return {client: Router(*members, prefer=hashed(client)).first() for client in CLIENTS}


def test_by_hash_a_client_without_a_cookie_has_the_same_server_at_every_router() -> None:
    assert chosen(*four()) == chosen(*reversed(four()))


def test_by_hash_the_clients_of_a_lost_server_move_and_nobody_else() -> None:
    before, after = chosen(*four()), chosen(*four()[1:])
    moved = {client for client in CLIENTS if before[client] != after[client]}
    assert moved == {client for client in CLIENTS if before[client] == "n1"}


def test_by_hash_servers_have_clients_by_their_weight() -> None:
    count = Counter(chosen(*four(n1=3)).values())
    assert 200 < count["n1"] < 300, count  # of 500, half are expected
    assert all(50 < count[name] < 120 for name in ("n2", "n3", "n4")), count


def test_hash_is_one_of_the_words_that_leave_one_server() -> None:
    with pytest.raises(InvalidSettings, match="`weighted`, `round-robin` or `hash`"):
        Settings.observe({}, policy="weighted,hash")
    assert Settings.observe({}, policy="zone,hash").policy == ("zone", "hash")
