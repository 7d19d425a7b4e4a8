"""Operators see where somebody is logged in, and log them out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from sessionha.admin.app import build
from sessionha.admin.snapshot import store_of
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import Role
from sessionha.engine import Engine
from sessionha.identity import encode64
from sessionha.peer.messages import Batch, Create, Owner, SessionChange
from tests.admin.test_app import SETTINGS, bearer


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine(SETTINGS, (b"k" * 32,))
    await made.start()
    yield made
    await made.stop()


async def ask(
    engine: Engine, path: str, method: str = "GET", role: Role | None = "data"
) -> httpx.Response:
    application = build(engine, Tally(store_of(engine)))
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:
        headers = {} if role is None else bearer(role)
        return await asking.request(method, path, headers=headers)


async def log_in(engine: Engine, number: int, subject: str = "user:42") -> str:
    owner = Owner(subject, "shop", bytes([number]) * 12)
    change = SessionChange(
        bytes([number]) * 16, create=Create(60_000, 0), puts=(("a", "value", b"1"),), owner=owner
    )
    await engine.state.commit(Batch(bytes([number]) * 12, (change,)), fresh=True)
    return encode64(owner.handle)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_it_takes_the_role_data(engine: Engine, method: str) -> None:
    """A subject may be personal data: who may read metrics may not ask for it."""
    await log_in(engine, 1)
    for role in ("read", "operate"):
        assert (await ask(engine, "/v1/subjects/user:42", method, role)).status_code == 403
    assert (await ask(engine, "/v1/subjects/user:42", method, None)).status_code == 401
    assert len((await engine.state.sessions_of("user:42")).sessions) == 1


async def test_sessions_are_listed_with_ids_that_open_nothing(engine: Engine) -> None:
    names = {await log_in(engine, 1), await log_in(engine, 2)}
    await log_in(engine, 3, "user:7")
    answer = await ask(engine, "/v1/subjects/user:42")
    assert answer.headers["cache-control"] == "no-store"
    assert "user:42" not in answer.text
    found = answer.json()
    assert {each.pop("id") for each in found["sessions"]} == names
    for each in found["sessions"]:
        assert each.keys() == {"age", "unused", "virtual_server", "node"}
        assert (each["virtual_server"], each["node"]) == ("shop", "n1")
    assert (found["unreachable"], found["more"]) == ([], False)


async def test_one_session_or_all_are_ended(engine: Engine) -> None:
    first = await log_in(engine, 1)
    await log_in(engine, 2)
    one = f"/v1/subjects/user:42?session={first}"
    assert (await ask(engine, one, "DELETE")).json() == {"ended": 1, "unreachable": []}
    assert (await ask(engine, one, "DELETE")).json()["ended"] == 0
    assert (await ask(engine, "/v1/subjects/user:42?session=", "DELETE")).json()["ended"] == 0
    assert (await ask(engine, "/v1/subjects/user:42", "DELETE")).json()["ended"] == 1
    assert (await ask(engine, "/v1/subjects/user:42")).json()["sessions"] == []


async def test_a_subject_may_have_any_characters(engine: Engine) -> None:
    await log_in(engine, 1, "https://id.example/ü?x=1")
    path = "/v1/subjects/https%3A%2F%2Fid.example%2F%C3%BC%3Fx%3D1"
    assert len((await ask(engine, path)).json()["sessions"]) == 1


async def test_what_is_no_subject_is_refused(engine: Engine) -> None:
    for path in ("/v1/subjects/", "/v1/subjects/" + "x" * 129):
        answer = await ask(engine, path)
        assert answer.status_code == 400
        assert "1 to 128 bytes" in answer.text
        assert "xxx" not in answer.text


async def test_log_outs_are_counted(engine: Engine) -> None:
    await log_in(engine, 1)
    await ask(engine, "/v1/subjects/user:42", "DELETE")
    metrics = (await ask(engine, "/metrics", role="read")).text
    assert "sessionha_revocations_total 1.0" in metrics
    assert "sessionha_revoked_total 1.0" in metrics
    assert "user:42" not in metrics
