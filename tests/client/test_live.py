"""The client at servers that are processes of their own, with everything logged."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import httpx
import pytest

from sessionha.admin.tokens import tokens
from sessionha.client import AsyncClient, NoSession
from sessionha.errors import CommitUnconfirmed
from sessionha.identity import group_of, session_key
from sessionha.settings import Settings
from sessionha.values.address import DataAddress
from tests.security.cluster import Cluster, running


async def _post(cluster: Cluster, client: httpx.AsyncClient, path: str, body: str) -> str:
    answer = await client.post(f"http://127.0.0.1:{cluster.ports[0]}/{path}", content=body)
    assert answer.is_success
    return answer.text


@pytest.mark.processes
async def test_a_job_at_one_server_and_a_visitor_of_another_share_a_session(
    tmp_path: Path,
) -> None:
    """System 2 item 8 with real processes. Neither ID, nor address, names and values are in any
    log, at the most talkative level of every logger."""
    canary = {word: f"{word}-{secrets.token_hex(8)}" for word in ("name", "key", "value", "put")}
    async with running(tmp_path, nodes=2) as cluster:
        settings = Settings.observe({"SESSIONHA_SECRET": cluster.secret})
        token = tokens(settings, "data")[0]
        async with httpx.AsyncClient(trust_env=False) as visitor:
            await _post(cluster, visitor, "put", canary["put"])
            session_id = visitor.cookies["session"][:56]
            url = f"http://127.0.0.1:{cluster.admins[1]}"
            async with AsyncClient(url, token) as client:
                session = client.session(session_id)
                assert await session.fetch("value") == canary["put"]
                written = await session.write({canary["name"]: {canary["key"]: [canary["value"]]}})
                assert written.copies == 1
                await session.increment("n", 5)
                assert await _post(cluster, visitor, "add", "") != ""
                assert await session.increment("n", 1) == 7
                await session.write({"value": canary["value"]})
                assert await _post(cluster, visitor, "get", "") == canary["value"]
                with pytest.raises(KeyError):
                    await session.fetch(canary["key"])
                await session.destroy()
                with pytest.raises(NoSession):
                    await session.load()
            assert await _post(cluster, visitor, "get", "") == ""
    key = session_key(session_id, "default")
    address = str(DataAddress(group_of(session_id), key))
    logged = cluster.logged()
    assert "Uvicorn running" in logged
    for secret in (*canary.values(), session_id, token, address[1:], address.partition(".")[2]):
        assert secret not in logged


class Counted:
    """What was added, and what may have been: a commit that meets a hand-over can be unknown."""

    def __init__(self) -> None:
        self.surely = self.perhaps = 0

    def note(self, by: int, *, known: bool) -> None:
        self.perhaps += by
        self.surely += by if known else 0


@pytest.mark.processes
async def test_what_processes_and_jobs_count_at_the_same_time_adds_up(tmp_path: Path) -> None:
    """System 2 (i): counter increments from two engines and two nodes add up."""
    counted, engines = Counted(), set()
    async with running(tmp_path, nodes=2, workers=2) as cluster:
        settings = Settings.observe({"SESSIONHA_SECRET": cluster.secret})
        token = tokens(settings, "data")[0]
        async with httpx.AsyncClient(trust_env=False) as visitor:
            await _post(cluster, visitor, "put", "begun")
            cookie = f"session={visitor.cookies['session']}"
        session_id = cookie.partition("=")[2][:56]
        urls = [f"http://127.0.0.1:{port}" for port in cluster.admins]

        async def requests(node: int) -> None:
            for _ in range(10):  # a connection each: the kernel chooses the engine
                async with httpx.AsyncClient(trust_env=False, headers={"cookie": cookie}) as client:
                    answer = await client.post(f"http://127.0.0.1:{cluster.ports[node]}/add")
                    assert answer.status_code in (200, 503)
                    counted.note(1, known=answer.is_success)
                    if answer.is_success:
                        engines.add((node, answer.json()["pid"]))

        async def messages(node: int) -> None:
            async with AsyncClient(urls[node], token) as client:
                session = client.session(session_id)
                for _ in range(10):
                    known = True
                    try:
                        await session.increment("n", 100)
                    except CommitUnconfirmed:
                        known = False
                    counted.note(100, known=known)

        await messages(0)
        await asyncio.gather(*(each(node) for each in (requests, messages) for node in (0, 1)))
        async with AsyncClient(urls[1], token) as client:
            found = await client.session(session_id).fetch("n")
    assert counted.surely <= found <= counted.perhaps
    assert counted.perhaps == 10 * 100 + 2 * (10 + 10 * 100)
    assert counted.surely > counted.perhaps / 2
    assert len(engines) > 2
