"""What `sessionha.testing` gives to tests of applications."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from sessionha import SessionMiddleware, SessionUnavailable, WSGISessionMiddleware
from sessionha.keys import new_secret
from sessionha.testing import in_memory, session_of, unavailable, unconfirmed


def application(**settings: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=new_secret(), **settings)

    @app.get("/")
    async def read(request: Request) -> dict[str, Any]:
        return dict(request.session)

    @app.post("/")
    async def write(request: Request) -> None:
        request.session["written"] = True

    @app.get("/careful")
    async def careful(request: Request) -> str:
        try:
            return str(len(request.session))
        except SessionUnavailable:
            return "no session"

    @app.get("/static")
    async def static() -> str:
        return "static"

    return app


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(application(store="memory")) as client:
        yield client


def test_a_session_is_prepared_before_the_first_request(client: TestClient) -> None:
    with session_of(client) as session:
        session["user"] = "ada"
    assert client.get("/").json() == {"user": "ada"}


def test_a_session_is_looked_at_and_changed_between_requests(client: TestClient) -> None:
    client.post("/")
    with session_of(client) as session:
        assert session == {"written": True}
        session["more"] = [1, 2]
        session.renew_id()
    assert client.get("/").json() == {"written": True, "more": [1, 2]}
    assert len(client.cookies) == 1


def test_a_session_is_ended_from_outside(client: TestClient) -> None:
    client.post("/")
    with session_of(client) as session:
        session.destroy()
    assert len(client.cookies) == 0
    assert client.get("/").json() == {}


def test_what_a_block_changed_before_it_raised_is_dropped(client: TestClient) -> None:
    with pytest.raises(ZeroDivisionError), session_of(client) as session:
        session["n"] = 1 / 0
    assert client.get("/").json() == {}


def test_it_works_without_a_lifespan() -> None:
    client = TestClient(application(store="memory"))
    with session_of(client) as session:
        session["n"] = 1
    assert client.get("/").json() == {"n": 1}


async def test_it_works_in_a_coroutine_and_with_any_client_of_httpx() -> None:
    app = application(store="memory")
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://shop.example") as client:
        with session_of(client, app) as session:
            session["n"] = 1
        assert (await client.get("/")).json() == {"n": 1}
        (cookie,) = client.cookies.jar
        assert cookie.secure


def test_it_works_with_a_wsgi_application() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(dict(environ["sessionha.session"])).encode()]

    door = WSGISessionMiddleware(app, new_secret(), store="memory")
    transport = httpx.WSGITransport(door)
    with httpx.Client(transport=transport, base_url="http://shop.example") as client:
        with session_of(client, door) as session:
            session["n"] = 1
        assert client.get("/").text == "{'n': 1}"


def test_an_application_without_the_middleware_has_no_session_to_show() -> None:
    with pytest.raises(LookupError, match="no session middleware"):
        session_of(TestClient(FastAPI())).__enter__()


def test_unavailable_sessions_are_503_where_they_are_used(client: TestClient) -> None:
    client.post("/")
    with unavailable():
        assert client.get("/static").status_code == 200
        assert client.get("/").status_code == 503
        assert client.get("/careful").json() == "no session"
    assert client.get("/").json() == {"written": True}


def test_an_unconfirmed_change_is_503_and_a_read_is_not(client: TestClient) -> None:
    with unconfirmed():
        answer = client.post("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.get("/").status_code == 200


def test_in_memory_needs_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONHA_NODES", "n1=http://10.0.0.1:7946,n2=http://10.0.0.2:7946")
    with in_memory(), TestClient(application()) as client:
        client.post("/")
        assert client.get("/").json() == {"written": True}
    assert "SESSIONHA_STORE" not in os.environ
    assert "SESSIONHA_NODES" in os.environ
