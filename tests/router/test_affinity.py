"""The affinity rule as a table: route, view and health in, ordered servers out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest

from sessionha.balancers.table import Table, Target
from sessionha.identity import server_name
from sessionha.router import affinity
from sessionha.router.affinity import may_repeat
from sessionha.router.balance import ANY, Balance, Preference
from sessionha.topology.health import NodeState
from sessionha.view import EngineAddress, View
from tests.router.conftest import member, view_of


class Standing(NamedTuple):
    state: NodeState = NodeState.READY
    in_flight: int = 0


def in_order(
    table: Table,
    servers: Sequence[str],
    health: Mapping[str, Standing],
    prefer: Preference = ANY,
) -> Iterator[Target]:
    return affinity.in_order(table, servers, Balance(health), prefer)


def view() -> View:
    return view_of(*(member(name, f"http://{name}") for name in ("n1", "n2", "n3", "n4")))


@pytest.mark.parametrize(
    ("servers", "health", "expected"),
    [
        (("n3", "n1"), {}, "n3 n1 n2 n4"),
        (("n3", "n1"), {"n3": Standing(NodeState.FAILED)}, "n1 n2 n4 n3"),
        (("n3", "n1"), {"n3": Standing(NodeState.SUSPECT)}, "n3 n1 n2 n4"),
        (("gone", "n2"), {}, "n2 n1 n3 n4"),
        (("n2", "n2", "n2"), {}, "n2 n1 n3 n4"),
        ((), {}, "n1 n2 n3 n4"),
        ((), {"n1": Standing(in_flight=2), "n2": Standing(in_flight=1)}, "n3 n4 n2 n1"),
        ((), {"n1": Standing(NodeState.SUSPECT)}, "n2 n3 n4 n1"),
        (
            ("n1", "n2"),
            {n: Standing(NodeState.FAILED) for n in ("n1", "n2", "n3", "n4")},
            "n1 n2 n3 n4",
        ),
        (("10.0.0.1", "http://evil"), {}, "n1 n2 n3 n4"),
    ],
)
def test_the_order_of_upstreams(
    servers: tuple[str, ...], health: dict[str, Standing], expected: str
) -> None:
    names = [target.name for target in in_order(Table(view()), servers, health)]
    assert names == expected.split()


def test_a_primary_that_left_the_view_is_skipped_and_the_first_backup_comes_first() -> None:
    table = Table(view_of(member("n2", "http://n2"), member("n3", "http://n3")))
    assert [t.name for t in in_order(table, ("n1", "n3", "n2"), {})] == ["n3", "n2"]


def test_draining_and_starting_members_come_last_also_for_their_own_clients() -> None:
    draining = member("n1", "http://n1", ready=False)
    table = Table(view_of(draining, member("n2", "http://n2"), member("n3", "http://n3")))
    assert [t.name for t in in_order(table, ("n1", "n3"), {})] == ["n3", "n2", "n1"]


def test_spares_get_new_clients_last_and_witnesses_never() -> None:
    table = Table(
        view_of(
            member("n1", "http://n1", role="spare"),
            member("n2", "http://n2", role="witness"),
            member("n3", "http://n3"),
            member("n4"),
        )
    )
    assert [t.name for t in in_order(table, ("n2",), {})] == ["n3", "n1"]


def engines(*slots: str, types: str = "web web web") -> tuple[EngineAddress, ...]:
    return tuple(
        EngineAddress(slot, kind, f"http://e{slot}")
        for slot, kind in zip(slots, types.split(), strict=False)
    )


def test_the_second_stage_chooses_the_engine_and_then_its_sibling() -> None:
    """system 1 (a), (i)"""
    table = Table(
        view_of(member("n1", engines=engines("0", "1")), member("n2", engines=engines("0", "1")))
    )
    e1 = server_name("n2", "1")
    order = [(t.node, t.engine) for t in in_order(table, (e1, "n1"), {})]
    assert order == [("n2", "1"), ("n2", "0"), ("n1", "0"), ("n1", "1")]
    dead = {e1: Standing(NodeState.FAILED)}
    first = next(in_order(table, (e1, "n1"), dead))
    assert (first.node, first.engine) == ("n2", "0")


def test_the_name_of_an_engine_that_is_gone_still_leads_to_its_node() -> None:
    """system 1 (i)"""
    table = Table(view_of(member("n1", "http://n1"), member("n2", engines=engines("0"))))
    assert next(in_order(table, (server_name("n2", "7"),), {})).node == "n2"


def test_a_sibling_of_the_same_type_is_preferred() -> None:
    table = Table(view_of(member("n1", engines=engines("0", "1", "2", types="api web api"))))
    health = {server_name("n1", "2"): Standing(NodeState.FAILED)}
    order = [t.engine for t in in_order(table, (server_name("n1", "2"),), health)]
    assert order == ["0", "1", "2"]


def test_a_request_for_a_type_reaches_only_servers_that_have_it() -> None:
    """system 1 (d)"""
    table = Table(
        view_of(
            member("n1", engines=engines("0", "1", types="web api")),
            member("n2", engines=engines("0", types="web")),
            member("n3", "http://n3", engines=(EngineAddress("0", "api"),)),
        )
    )
    order = [(t.node, t.engine) for t in in_order(table, ("n2",), {}, Preference("api"))]
    assert order == [("n1", "1"), ("n3", "")]
    assert list(in_order(table, (), {}, Preference("worker"))) == []


@pytest.mark.parametrize(
    ("accepted", "idempotent", "replayable", "allowed"),
    [
        (False, False, True, True),
        (False, True, True, True),
        (True, True, True, True),
        (True, False, True, False),
        (True, True, False, False),
        (False, False, False, False),
    ],
)
def test_only_what_was_never_accepted_or_is_idempotent_is_repeated(
    accepted: bool, idempotent: bool, replayable: bool, allowed: bool
) -> None:
    """R14"""
    assert may_repeat(accepted=accepted, idempotent=idempotent, replayable=replayable) is allowed
