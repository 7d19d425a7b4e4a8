"""Why a request came past the server that its cookie names first."""

from __future__ import annotations

import pytest

from sessionha.identity import NO_VIEW, ViewID, server_name
from sessionha.session.affinity import PASSED_OVER, REASONS, Reason, misrouted
from sessionha.session.cookies import RouteCookies
from sessionha.session.visit import Visit
from sessionha.topology.health import NodeState, state_of
from sessionha.view import EngineAddress, Member, View
from tests.session.fakes import FakeEngine
from tests.session.places import terms


def member(node: str, *, ready: bool = True, engines: tuple[EngineAddress, ...] = ()) -> Member:
    return Member(node, "i", NO_VIEW, "127.0.0.1:1", ready=ready, engines=engines)


APART = (EngineAddress("0", url="http://127.0.0.1:1"),)
VIEW = View(
    ViewID(3, ""), (member("n1", engines=APART), member("n2", ready=False), member("n3")),
    departed=(("n4", "failed"),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("named", "own", "reason"),
    [
        ("n3", "n1", "lb_ignored"),
        ("n2", "n1", "draining"),
        ("n4", "n1", "server_gone"),
        ("n9", "n1", "server_gone"),
        (server_name("n1", "0"), "n1", "other_engine"),
        (server_name("n1", "7"), "n1", "other_engine"),
        (server_name("n1", "7"), "n3", "lb_ignored"),
    ],
)
def test_the_view_tells_why(named: str, own: str, reason: Reason) -> None:
    """Names of engines that died lead to their node."""
    found = misrouted(VIEW.served_as(named), own, lambda node: state_of(node, VIEW))
    assert found == reason


@pytest.mark.parametrize("state", sorted({*NodeState} - {NodeState.READY, NodeState.DRAINING}))
def test_a_server_that_is_not_heard_is_no_fault_of_the_balancer(state: NodeState) -> None:
    assert misrouted(member("n3"), "n1", lambda _: state) == "not_ready"


def test_every_reason_is_explained() -> None:
    assert set(PASSED_OVER) < set(REASONS)


def ways(engine: FakeEngine, header: str) -> list[Reason]:
    engine.ways.clear()
    Visit(engine, terms(), [header] if header else []).arrive()
    return engine.ways


def test_only_clients_that_are_known_somewhere_count() -> None:
    """Without a session and a route nothing says where a request belongs; and a node without peers
    has nobody to pass it over."""
    engine = FakeEngine(("n1", "n2"))
    session = f"session={terms().cookies.write(terms().cookies.ids.new(b'g' * 12), 10**11)}"
    assert ways(engine, "") == []
    assert ways(engine, "theme=dark") == []
    assert ways(engine, session) == ["no_route"]
    assert ways(engine, f"{session}; hsr=forged") == ["refused"]
    assert ways(FakeEngine(("n1",)), session) == []


def test_a_key_that_is_not_known_here_is_told_from_a_forgery() -> None:
    engine = FakeEngine(("n1", "n2"))
    assert engine.route_cookies is not None
    own = f"1.n1.AAAA.{next(iter(engine.route_cookies.balancer_keys))}." + "A" * 43
    other = f"1.n1.AAAA.{next(iter(RouteCookies([b'x' * 32]).balancer_keys))}." + "A" * 43
    assert ways(engine, f"hsr={own}") == ["refused"]
    assert ways(engine, f"hsr={other}") == ["keys_differ"]
