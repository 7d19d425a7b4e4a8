"""Quart applications with sessionha's sessions, through Quart's own test client."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from quart import Quart, session, websocket
from werkzeug.datastructures import Headers

from flask_sessionha import FormerCookies
from flask_sessionha.quart import QuartSession, Session
from sessionha import InvalidSettings, SessionUnavailable
from sessionha.settings import Settings
from tests.session.fakes import FakeEngine

KEY = "c0de-8f31-4b7a-99e2-5d06-ab54-7713-e8f9"  # of the tests' applications only


def mine() -> QuartSession:
    """The session itself."""
    found: Any = session
    current = found._get_current_object()
    assert isinstance(current, QuartSession)
    return current


def application(**given: Any) -> Quart:
    app = Quart("shop", static_folder=None)
    app.config.update(SECRET_KEY=KEY, SESSIONHA_STORE="memory")
    Session(app, **given)

    @app.get("/count")
    async def count() -> str:
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    @app.get("/read")
    async def read() -> dict[str, Any]:
        return dict(session)

    @app.get("/clear")
    async def clear() -> str:
        session.clear()
        return ""

    @app.get("/permanent")
    async def permanent() -> str:
        session.permanent = True
        return ""

    @app.get("/regenerate")
    async def regenerate() -> str:
        mine().regenerate()
        return ""

    @app.websocket("/talk")
    async def talk() -> None:
        while True:
            session[str(await websocket.receive())] = True
            await mine().commit()
            await websocket.send("stored")

    return app


async def test_requests_and_websockets_share_a_session() -> None:
    async with application().test_app() as app:
        client = app.test_client()
        await client.get("/count")
        async with client.websocket("/talk") as socket:
            await socket.send("hello")
            assert await socket.receive() == "stored"
        assert await (await client.get("/read")).get_json() == {"n": 1, "hello": True}


async def test_regenerating_keeps_the_data_and_permanence_the_cookie() -> None:
    async with application().test_app() as app:
        client = app.test_client()
        first = (await client.get("/count")).headers["set-cookie"]
        assert "Expires=" not in first
        assert "Expires=" in (await client.get("/permanent")).headers["set-cookie"]
        again = (await client.get("/regenerate")).headers["set-cookie"]
        assert first.partition(".")[0] != again.partition(".")[0]
        assert await (await client.get("/count")).get_data() == b"2"


async def test_a_session_can_be_prepared_for_a_test() -> None:
    client = application().test_client()
    async with client.session_transaction() as prepared:
        prepared["n"] = 6
    assert await (await client.get("/count")).get_data() == b"7"


async def test_what_cannot_be_had_or_committed_is_answered_with_503() -> None:
    engine = FakeEngine()
    client = application(engine=engine).test_client()
    await client.get("/count")
    engine.state.failure = SessionUnavailable("no copies")
    refused = await client.get("/count")
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    engine.state.away |= engine.state.groups.keys()
    assert (await client.get("/count")).status_code == 503
    engine.state.failure = None
    assert await (await client.get("/count")).get_data() == b"2"


@pytest.mark.parametrize("path", ["/odd", "/odd-talk"])
async def test_what_cannot_be_stored_still_leaves_the_request(path: str) -> None:
    app = application()
    exchanges = []

    @app.get("/odd")
    async def odd() -> str:
        exchanges.append(mine().exchange)
        session["odd"] = object()
        return ""

    @app.websocket("/odd-talk")
    async def odd_talk() -> None:
        await websocket.accept()
        exchanges.append(mine().exchange)
        session["odd"] = object()

    async with app.test_app() as tested:
        client = tested.test_client()
        if path == "/odd":
            assert (await client.get(path)).status_code == 500
        else:
            async with client.websocket(path):
                pass
    assert [each.left for each in exchanges] == [True]


async def test_probes_start_the_engine_only_to_say_that_it_is_ready() -> None:
    engine = FakeEngine(settings=Settings.load({}, store="memory", health_path="/"))
    client = application(engine=engine, exclude=["/readyz"]).test_client()
    assert (await client.get("/healthz")).status_code == 200
    assert not engine.running
    assert await (await client.get("/readyz")).get_data() == b"ready\n"
    assert engine.running


async def test_a_request_with_two_hosts_is_refused() -> None:
    """Quart goes by the first, and a virtual server would be chosen by the last."""
    settings = Settings.load({}, virtual_server="a.example=a,b.example=b")
    client = application(engine=FakeEngine(settings=settings)).test_client()
    twice = Headers([("host", "a.example"), ("host", "b.example")])
    assert (await client.get("/read", headers=twice)).status_code == 400


def _old_cookie(**data: object) -> str:
    old = Flask("shop")
    old.secret_key = KEY
    serializer = SecureCookieSessionInterface().get_signing_serializer(old)
    assert serializer is not None
    return str(serializer.dumps(data or {"n": 6}))


@pytest.mark.parametrize("key", [None, ""])
async def test_a_server_does_not_start_without_a_secret_key(key: str | None) -> None:
    """It may be set after `Session(app)`, and until then at the latest."""
    late = Quart("late")
    late.config.update(SECRET_KEY=key, SESSIONHA_STORE="memory")
    Session(late)
    with pytest.raises(InvalidSettings, match="`secret_key` is empty"):
        await late.startup()
    late.secret_key = KEY
    async with late.test_app() as started:
        assert (await started.test_client().get("/")).status_code == 404


async def test_sessions_of_before_are_taken_over() -> None:
    client = application(former=[FormerCookies()]).test_client()
    client.set_cookie("localhost", "session", _old_cookie())
    assert await (await client.get("/count")).get_data() == b"7"


async def test_a_session_of_before_belongs_to_its_user_of_flask_login() -> None:
    app = application(former=[FormerCookies()])

    @app.get("/subject")
    async def subject() -> str:
        return str(mine().subject)

    client = app.test_client()
    client.set_cookie("localhost", "session", _old_cookie(_user_id=7))
    assert await (await client.get("/subject")).get_data() == b"7"


async def test_a_log_out_may_be_the_first_request_after_the_change() -> None:
    client = application(former=[FormerCookies()]).test_client()
    client.set_cookie("localhost", "session", _old_cookie())
    await client.get("/clear")
    assert await (await client.get("/read")).get_json() == {}
