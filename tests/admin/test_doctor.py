"""A node examines itself and asks the others."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from sessionha.admin.app import build
from sessionha.admin.checks import skew
from sessionha.admin.doctor import gathered
from sessionha.admin.snapshot import store_of
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import tokens
from sessionha.engine import Engine
from sessionha.errors import PeerUnavailable
from tests.admin.test_data_cluster import Pair, pair
from tests.test_engine import until

__all__ = ["pair"]


async def examination(engine: Engine) -> dict[str, Any]:
    transport = httpx.ASGITransport(build(engine, Tally(store_of(engine))))
    headers = {"authorization": f"Bearer {tokens(engine.settings, 'read')[0]}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7947") as client:
        assert (await client.get("/v1/doctor")).status_code == 401
        answer = await client.get("/v1/doctor", headers=headers)
    found: dict[str, Any] = answer.json()
    return found


async def test_a_node_asks_the_others_and_tells_who_does_not_answer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = pair
    await until(lambda: one.node_state == "ready")  # its first heartbeat was answered
    found = await examination(one)
    assert (found["node"], found["engines"], found["health_path"]) == ("n1", [0], "")
    outcomes = {each["check"]: each["outcome"] for each in found["checks"]}
    assert outcomes.pop("store") == "warn"  # these tests keep it in the process
    assert set(outcomes.values()) == {"ok"}
    assert {"peers", "clocks", "settings", "application key"} <= outcomes.keys()

    monkeypatch.setattr(two, "now", lambda: one.now() - 3_600)
    one.count("late_start")
    facts = await gathered(one)
    assert facts.late
    assert -3_601 < facts.heard["n2"].skew < -3_599

    await two.stop()
    facts = await gathered(one)
    assert facts.heard["n2"].error
    assert facts.heard["n2"].refused


async def test_a_peer_that_does_not_prove_itself_is_told_from_one_behind_a_firewall(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both nothing is heard on a stream; only one of them accepts connections."""
    one, _ = pair
    assert one.streams is not None

    async def call(node: str, message: object, timeout: float, *, straight: bool) -> None:
        assert straight
        raise PeerUnavailable(node, "silent")

    monkeypatch.setattr(one.streams, "call", call)
    heard = (await gathered(one)).heard["n2"]
    assert (heard.listens, heard.refused) == (True, False)
    assert heard.error == "silent, though something accepts connections there"

    async def nobody(host: str, port: int) -> None:
        raise TimeoutError

    monkeypatch.setattr(asyncio, "open_connection", nobody)
    heard = (await gathered(one)).heard["n2"]
    assert (heard.listens, heard.error) == (False, "silent")


def test_a_difference_of_clocks_counts_as_far_as_it_is_sure() -> None:
    assert skew(theirs=10.2, asked=10.0, answered=10.5) == 0.0
    assert skew(theirs=12.0, asked=10.0, answered=10.5) == 1.5
    assert skew(theirs=8.0, asked=10.0, answered=10.5) == -2.0
