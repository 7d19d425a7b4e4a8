"""`/v1/healing`, `/v1/heal/…` and `/v1/safe-to-stop/…` of nodes that talk to each other."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from sessionha.admin.app import build
from sessionha.admin.healing import HealingPage, _goes_on, _takes_changes
from sessionha.admin.metrics import text
from sessionha.admin.snapshot import store_of
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import Role, tokens
from sessionha.engine import Engine
from sessionha.identity import NO_VIEW
from sessionha.peer.messages import Course, Health, Share
from sessionha.view import Member, View
from sessionha.view import Role as Role_
from tests.admin.test_app import samples
from tests.admin.test_data_cluster import Pair, pair
from tests.admin.visitors import Visitor
from tests.test_engine import until

__all__ = ["pair"]


async def ask(
    engine: Engine, path: str, *, role: Role = "read", method: str = "GET"
) -> httpx.Response:
    transport = httpx.ASGITransport(build(engine, Tally(store_of(engine))))
    headers = {"authorization": f"Bearer {tokens(engine.settings, role)[0]}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7947") as client:
        return await client.request(method, path, headers=headers)


async def shown(engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(engine, "/v1/healing")).json()
    return found


async def test_an_absence_from_its_start_to_its_end(pair: Pair) -> None:
    """System 7: the countdown is visible everywhere, and an operator can hold, extend and end it;
    what would be lost is told."""
    one, two = pair
    visitor = Visitor(one)
    await visitor.begins(theme="dark")
    await until(lambda: one.state.redundancy.health().redundant.groups == 1)
    await until(lambda: all(each.node_state == "ready" for each in pair))
    await until(lambda: all(each.state.redundancy.health().complete for each in pair))
    found = await shown(one)
    assert [each["node"] for each in found["nodes"]] == ["n1", "n2"]
    assert all(each["answers"] for each in found["nodes"])
    assert (found["delays"], found["held"], found["heal_after"]) == ([], [], 30.0)
    assert not found["under_way"], "all is well"
    for engine in pair:
        answer = await ask(engine, "/v1/safe-to-stop/n1?zones=true")
        assert (answer.status_code, answer.json()["safe"]) == (409, False)
        assert answer.json()["zones"]["n2"]["sessions"] == 1, "both nodes have it, and nobody else"
        answer = await ask(engine, "/v1/safe-to-stop/n1")
        assert (answer.status_code, answer.json()["safe"]) == (200, True)

    said = (await ask(one, "/v1/heal/n2?hold", role="operate", method="POST")).json()
    assert (said["word"], said["absent"], said["told"]) == ("hold", False, ["n2"])
    assert (await shown(two))["held"] == ["n2"]

    await two.stop()
    await until(lambda: one.membership.node_state("n2") == "returning")
    [delay] = (await shown(one))["delays"]
    assert (delay["node"], delay["state"], delay["left"], delay["word"]) == (
        "n2", "returning", None, "hold",
    )  # fmt: skip
    said = (await ask(one, "/v1/heal/n2?extend=1h", role="operate", method="POST")).json()
    assert 3600 < said["left"] < 3630
    assert (await shown(one))["under_way"], "it is counted down"
    status = (await ask(one, "/v1/status")).json()
    assert status["others"][0]["delay"]["word"] == "extend"
    await until(lambda: one.state.redundancy.health().at_risk.groups == 1)
    metrics = samples(text(one, Tally(store_of(one)).total({})).decode())
    assert metrics['sessionha_groups{health="at_risk"}'] == 1
    assert metrics["sessionha_awaited_nodes"] == 1
    assert 3590 < metrics["sessionha_next_healing_seconds"] < 3630
    answer = await ask(one, "/v1/safe-to-stop/n1")
    assert answer.status_code == 409
    lost = answer.json()["lost"]
    assert (lost["groups"], lost["sessions"]) == (1, 1)
    assert lost["bytes"] > 0
    said = (await ask(one, "/v1/heal/n2?now", role="operate", method="POST")).json()
    assert said["left"] == 0
    assert one.state.delays.gone_for_good() == {"n2"}


async def test_nobody_waits_for_copies_that_nobody_has_room_for(pair: Pair) -> None:
    """What shows bars until nothing is under way comes to an end."""
    page = HealingPage(pair[0])
    for passed_over, goes_on in ((2, True), (3, False)):
        course = Course(passed_over=passed_over)
        lacking = Health(degraded=Share(3, 9), complete=True, course=course)
        assert page._is_under_way([], [lacking]) == goes_on


def member(node: str, role: Role_ = "server") -> Member:
    return Member(node, "x", NO_VIEW, "h:1", role=role)


THREE = tuple(member(node) for node in ("n1", "n2", "n3"))


@pytest.mark.parametrize(
    ("view", "silent", "goes_on"),
    [
        (View(members=THREE[:2]), (), True),
        (View(members=THREE[:2]), ("n2",), False),
        (View(members=(THREE[0], member("w", "witness"))), (), False),
        (View(members=THREE, electors=("n1", "n2", "n3")), (), True),
        (View(members=THREE, electors=("n1", "n2", "n3")), ("n3",), False),
        (View(members=THREE[:2], electors=("n1", "n2", "n3")), (), False),
        (View(members=THREE[:2], electors=("n1", "n2", "n3"), absent=("n3",)), (), True),
    ],
)
def test_it_is_not_safe_to_stop_whom_the_others_need_for_a_majority(
    view: View, silent: tuple[str, ...], goes_on: bool
) -> None:
    """No session is lost by that, and none is served. Who died by proof does not count (R2a)."""
    assert _goes_on(view, "n1", silent) is goes_on


@pytest.mark.parametrize(
    ("members", "silent", "min_copies", "changes"),
    [
        (THREE, (), 1, True),
        (THREE[:2], (), 1, False),
        (THREE[:2], (), 0, True),
        (THREE, ("n3",), 1, False),
        ((*THREE[:2], member("n3", "witness")), (), 1, False),
        ((*THREE[:2], replace(THREE[2], ready=False)), (), 1, False),
    ],
)
def test_it_is_not_safe_to_stop_whom_the_others_need_for_copies(
    members: tuple[Member, ...], silent: tuple[str, ...], min_copies: int, changes: bool
) -> None:
    """Nothing is lost by that, and no change is accepted (`min_copies`)."""
    assert _takes_changes(View(members=members), "n1", silent, min_copies) is changes


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/heal/n2?now", "n2 is a member"),
        ("/v1/heal/n9?hold", "n9 was never a member here"),
        ("/v1/heal/n1?hold", "ask another node"),
        ("/v1/heal/n2", "say one of"),
        ("/v1/heal/n2?hold&now", "say one of"),
        ("/v1/heal/n2?extend=soon", "must be a duration"),
        ("/v1/heal/n2?extend=never", "hold is without end"),
    ],
)
async def test_what_cannot_be_said_is_refused(path: str, words: str, pair: Pair) -> None:
    answer = await ask(pair[0], path, role="operate", method="POST")
    assert (answer.status_code, words in answer.text) == (400, True)
    assert (await ask(pair[0], path, method="POST")).status_code == 403
    assert (await ask(pair[0], "/v1/safe-to-stop/n9")).status_code == 400
