"""What the administration answers, and to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sessionha.admin.app import build
from sessionha.admin.snapshot import store_of
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import Role, tokens
from sessionha.balancers.document import read
from sessionha.engine import Engine
from sessionha.keys import new_secret
from sessionha.settings import Settings
from sessionha.topology.health import NodeState

SETTINGS = Settings.load({}, store="memory", node="n1", secret=new_secret())


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(SETTINGS, (b"k" * 32,))
    await made.start()
    yield made
    await made.stop()


def bearer(role: Role) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens(SETTINGS, role)[0]}"}


async def ask(
    engine: Engine,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    client: str = "127.0.0.1",
    host: str = "127.0.0.1:7947",
    method: str = "GET",
) -> httpx.Response:
    application = build(engine, Tally(store_of(engine)))
    transport = httpx.ASGITransport(application, client=(client, 50_000))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as asking:
        return await asking.request(method, path, headers=headers)


def samples(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


async def test_metrics_are_open_to_programs_of_the_same_host(engine: Engine) -> None:
    for client, host in [
        ("127.0.0.1", "localhost"),
        ("::1", "[::1]:7947"),
        ("127.0.0.9", "127.1.1.1"),
    ]:
        answer = await ask(engine, "/metrics", client=client, host=host)
        assert (host, answer.status_code) == (host, 200)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("client", "host"),
    [("10.0.0.9", "127.0.0.1"), ("127.0.0.1", "evil.example"), ("127.0.0.1", "10.0.0.1")],
)
async def test_metrics_need_a_token_from_elsewhere_or_under_another_name(
    engine: Engine, client: str, host: str
) -> None:
    refused = await ask(engine, "/metrics", client=client, host=host)
    assert refused.status_code == 401
    assert "sessionha_" not in refused.text
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert (await ask(engine, "/metrics", bearer("read"), client=client, host=host)).is_success


async def test_status_always_needs_a_token(engine: Engine) -> None:
    assert (await ask(engine, "/v1/status")).status_code == 401
    stranger = await ask(engine, "/v1/status", {"authorization": "Bearer x"})
    assert stranger.status_code == 401
    assert "not valid for this cluster's secret" in stranger.text
    for role in ("read", "operate", "data"):
        assert (await ask(engine, "/v1/status", bearer(role))).status_code == 200


async def test_there_is_nothing_else(engine: Engine) -> None:
    assert (await ask(engine, "/", bearer("data"))).status_code == 404


async def test_metrics_count_what_the_engine_does_and_start_at_zero(engine: Engine) -> None:
    before = samples((await ask(engine, "/metrics")).text)
    assert before["sessionha_commits_total"] == 0
    assert before["sessionha_unconfirmed_total"] == 0

    engine.state.node.counters.commits += 2
    engine.count("session_gone")

    after = samples((await ask(engine, "/metrics")).text)
    assert after["sessionha_commits_total"] == 2
    assert after['sessionha_visits_total{event="session_gone"}'] == 1


async def test_metrics_show_the_state_of_the_node(engine: Engine) -> None:
    found = samples((await ask(engine, "/metrics")).text)
    assert found["sessionha_member"] == 1
    assert found["sessionha_members"] == 1
    assert found["sessionha_engines"] == 1
    assert found["sessionha_view_number"] == engine.membership.view().id.number
    assert 0 < found["sessionha_store_limit_bytes"] <= SETTINGS.store_size


async def test_metrics_have_a_row_for_every_state_a_node_can_be_in(engine: Engine) -> None:
    found = samples((await ask(engine, "/metrics")).text)
    for state in NodeState:
        here = float(state == "ready")
        assert found[f'sessionha_state{{state="{state}"}}'] == here
        assert found[f'sessionha_nodes{{state="{state}"}}'] == here


async def test_anybody_learns_whether_the_node_is_ready_and_only_operators_why(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract section 8: health detail on the administration, errors to strangers generic."""
    membership = engine.membership
    assert (await ask(engine, "/healthz")).text == "ok\n"
    for state, status, words in (
        (NodeState.READY, 200, "ready\n"),
        (NodeState.DRAINING, 404, "draining\n"),
        (NodeState.CATCHING_UP, 503, "catching up\n"),
        (NodeState.WAITING, 503, "not ready\n"),
    ):
        monkeypatch.setattr(membership, "node_state", lambda node, state=state: state)
        monkeypatch.setattr(membership, "lacks", ("n2",))
        for headers in ({}, {"authorization": "Bearer x"}):
            answer = await ask(engine, "/readyz", headers, client="10.0.0.9", host="10.0.0.1:7947")
            assert (answer.status_code, answer.text) == (status, words)
        answer = await ask(engine, "/readyz", bearer("read"))
        assert answer.status_code == status
        found = answer.json()
        assert (found["node"], found["state"], found["lacks"]) == ("n1", state, ["n2"])


async def test_every_count_of_the_state_manager_has_a_help_text(engine: Engine) -> None:
    from dataclasses import fields

    from sessionha.admin.metrics import STATE
    from sessionha.state.node import Counters

    assert set(STATE) == {field.name for field in fields(Counters)}


async def test_status_says_who_the_node_is_and_whom_it_knows(engine: Engine) -> None:
    found: dict[str, Any] = (await ask(engine, "/v1/status", bearer("read"))).json()
    assert (found["node"], found["cluster"], found["state"]) == ("n1", "default", "ready")
    assert (found["automaton"], found["waiting_for"], found["lacks"]) == ("joined", "", [])
    assert found["member"] is True
    assert found["incarnation"] == store_of(engine).incarnation
    assert found["engines"] == [engine.slot]
    assert [member["node"] for member in found["members"]] == ["n1"]
    assert found["others"] == []
    assert found["counts"]["state/commits"] == 0


async def test_every_key_of_status_and_topology_is_explained_to_operators(engine: Engine) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    unexplained = []
    for path in ("/v1/status", "/v1/topology"):
        found: dict[str, Any] = (await ask(engine, path, bearer("read"))).json()
        keys = {*found, *found["view"], *found["members"][0], *found.get("description", ())}
        unexplained += [(path, key) for key in sorted(keys) if f"`{key}`" not in page]
    assert unexplained == []


async def test_the_topology_of_a_lone_node_is_itself(engine: Engine) -> None:
    assert (await ask(engine, "/v1/topology")).status_code == 401
    found: dict[str, Any] = (await ask(engine, "/v1/topology", bearer("read"))).json()
    assert [(each["node"], each["state"]) for each in found["members"]] == [("n1", "ready")]
    assert found["members"][0]["incarnation"] == store_of(engine).incarnation
    assert found["members"][0]["watches"] == []
    assert (found["others"], found["absent"], found["last_change"]) == ([], [], None)
    assert found["view"]["number"] == engine.membership.view().id.number


@pytest.mark.parametrize("path", ["/v1/forget/n2", "/v1/bootstrap?without=n2"])
async def test_what_only_a_person_can_know_needs_the_role_operate(
    engine: Engine, path: str
) -> None:
    assert (await ask(engine, path, method="POST")).status_code == 401
    assert (await ask(engine, path, bearer("read"), method="POST")).status_code == 403
    answer = await ask(engine, path, bearer("operate"), method="POST")
    assert answer.status_code == 400, "a node alone has nobody to forget, and nobody votes"


async def test_balancers_are_told_the_document_once_for_each_version(engine: Engine) -> None:
    assert (await ask(engine, "/v1/balancers")).status_code == 401
    answer = await ask(engine, "/v1/balancers", bearer("read"))
    document = read(answer.content)
    assert (document.cluster, document.cookie.name) == ("default", "hsr")
    known = {**bearer("read"), "if-none-match": f'"other", {answer.headers["etag"]}'}
    assert (await ask(engine, "/v1/balancers", known)).status_code == 304
    changed = {**bearer("read"), "if-none-match": '"other"'}
    assert (await ask(engine, "/v1/balancers", changed)).content == answer.content
