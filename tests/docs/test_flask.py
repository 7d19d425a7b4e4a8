"""The programs of docs/flask.md and docs/from-flask-session.md do what the pages say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sessionha.keys import new_secret
from tests.docs.test_readme import blocks

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", new_secret())
    monkeypatch.setenv("SESSIONHA_STORE", "memory")


def defined(*programs: str) -> dict[str, Any]:
    """What the programs define, run as one."""
    found: dict[str, Any] = {"__name__": __name__}
    exec(compile("\n".join(programs), "page", "exec"), found)
    return found


def test_flasks_page(surroundings: None) -> None:
    whole, settings, tests, _ = blocks(DOCS / "flask.md", "python")
    client = defined(whole, settings)["app"].test_client()
    assert [client.get("/").text, client.get("/").text] == ["1 visits\n", "2 visits\n"]
    assert client.get("/healthz").status_code == 200
    assert defined(whole, tests, 'seen = client.get("/").text')["seen"] == "42 visits\n"


async def test_quarts_page(surroundings: None) -> None:
    whole, *_, quart = blocks(DOCS / "flask.md", "python")
    async with defined(whole, quart)["app"].test_app() as app:
        client = app.test_client()
        assert (await client.get("/report")).status_code == 200


def test_the_way_from_flask_session(surroundings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"session:old": msgspec.msgpack.encode({"n": 6})}
    times: dict[str, int] = {}

    class Redis:
        def __init__(self, *, socket_timeout: float, socket_connect_timeout: float) -> None:
            assert socket_timeout == socket_connect_timeout

        def get(self, key: str) -> bytes | None:
            return rows.get(key)

        def ttl(self, key: str) -> int:
            return times.get(key, -1)

        def expire(self, key: str, seconds: int) -> None:
            times[key] = seconds

    monkeypatch.setattr("redis.Redis", Redis)
    (program,) = blocks(DOCS / "from-flask-session.md", "python")
    app = defined(program)["app"]
    from flask import session

    app.get("/")(lambda: dict(session))
    client = app.test_client()
    client.set_cookie("session", "old")
    assert client.get("/").json == {"n": 6}
    assert times == {"session:old": 60}
