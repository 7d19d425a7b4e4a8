"""From the real Flask-Session, with a real Redis, to ours, without logging anybody out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from flask import Flask, session
from flask_session import Session as OldSession

from flask_sessionha import FormerRedis, Session
from tests.discovery.servers import redis_server

KEY = "d17e-40b9-4c6f-8a02-61f5-cc38-9be4-207d"  # of the tests' applications only

pytestmark = [
    pytest.mark.processes,
    pytest.mark.needs("redis-server"),
    pytest.mark.filterwarnings("ignore:The 'use_signer' option:DeprecationWarning"),
]


def shop(**config: object) -> Flask:
    """The application, without sessions yet."""
    app = Flask("shop", static_folder=None)
    app.config.update({"SECRET_KEY": KEY, **config})

    @app.get("/put/<item>")
    def put(item: str) -> list[str]:
        session["cart"] = [*session.get("cart", []), item]
        return list(session["cart"])

    @app.get("/read")
    def read() -> dict[str, Any]:
        return {"cart": session.get("cart")}

    @app.get("/out")
    def out() -> str:
        session.clear()
        return ""

    return app


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("written", ["msgpack", "json"])
async def test_the_sessions_of_flask_session_go_on(written: str, signed: bool) -> None:
    """What a browser had goes on with its old cookie, whose session has a minute left in Redis; a
    log-out deletes it there at once; and without Redis the new sessions are as before."""
    async with redis_server() as port:
        await asyncio.to_thread(_change_over, redis.Redis(port=port), written, signed)


def _change_over(client: redis.Redis, written: str, signed: bool) -> None:
    before = shop(
        SESSION_TYPE="redis",
        SESSION_REDIS=client,
        SESSION_USE_SIGNER=signed,
        SESSION_SERIALIZATION_FORMAT=written,
    )
    OldSession(before)
    cookies = []
    for _ in range(3):
        browser = before.test_client()
        browser.get("/put/book")
        cookies.append(_cookie(browser))
    assert len(client.keys("session:*")) == 3

    after = shop(SESSIONHA_STORE="memory")
    Session(after, former=[FormerRedis(client, signed=signed)])
    moved, left, stranger = (after.test_client() for _ in cookies)
    for browser, cookie in zip((moved, left, stranger), cookies, strict=True):
        browser.set_cookie("session", cookie)

    assert moved.get("/put/pen").json == ["book", "pen"]
    assert _cookie(moved) != cookies[0]
    assert sorted(0 < client.ttl(key) <= 60 for key in client.keys("session:*")) == [
        False,
        False,
        True,
    ]
    left.get("/out")
    assert len(client.keys("session:*")) == 2
    left.set_cookie("session", cookies[1])
    assert left.get("/read").json == {"cart": None}

    client.shutdown(nosave=True)
    assert moved.get("/read").json == {"cart": ["book", "pen"]}
    assert stranger.get("/read").status_code == 500, "nobody is logged out meanwhile"


def _cookie(browser: Any) -> str:
    found = browser.get_cookie("session")
    assert found is not None
    return str(found.value)
