"""Dependencies of FastAPI: the session, and the session of somebody who has one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fastapi_sessionha import CurrentSession, LoggedInSession, RequiredSession, SessionCookie
from sessionha import Session, SessionMiddleware, current_session
from sessionha.keys import new_secret
from sessionha.testing import unavailable

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=new_secret(), store="memory")

Basket = Annotated[Session, Depends(SessionCookie("session-basket", required=False))]


@app.get("/cart")
async def cart(session: CurrentSession) -> dict[str, Any]:
    return dict(session)


@app.post("/cart/{article}")
def add(article: str, session: CurrentSession) -> None:
    """In a thread."""
    session.setdefault("cart", []).append(article)


@app.get("/orders")
async def orders(session: RequiredSession) -> dict[str, Any]:
    return dict(session)


@app.post("/log-in")
async def log_in(session: CurrentSession) -> None:
    session.subject = "user:ada"


@app.get("/account")
async def account(session: LoggedInSession) -> str | None:
    return session.subject


@app.get("/plain")
async def plain(session: Annotated[Session, Depends(current_session)]) -> bool:
    """No adapter is needed where OpenAPI need not know."""
    return session.new


@app.get("/basket")
async def basket(session: Basket) -> bool:
    return session.new


@app.websocket("/chat")
async def chat(websocket: WebSocket, session: RequiredSession) -> None:
    await websocket.accept()
    await websocket.send_json(dict(session))
    await websocket.close()


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def test_a_handler_gets_its_session(client: TestClient) -> None:
    client.post("/cart/tea")
    assert client.get("/cart").json() == {"cart": ["tea"]}
    assert client.get("/plain").json() is False


def test_who_has_no_session_is_answered_with_401(client: TestClient) -> None:
    answer = client.get("/orders")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Session"
    assert answer.headers["vary"] == "Cookie"
    assert "set-cookie" not in answer.headers
    client.post("/cart/tea")
    assert client.get("/orders").json() == {"cart": ["tea"]}


def test_who_has_not_logged_in_is_answered_with_401(client: TestClient) -> None:
    client.post("/cart/tea")
    assert client.get("/account").status_code == 401
    client.post("/log-in")
    assert client.get("/account").json() == "user:ada"


def test_a_websocket_without_a_session_is_refused(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/chat"):
        pass
    assert caught.value.code == 1008
    client.post("/cart/tea")
    with client.websocket_connect("/chat") as socket:
        assert socket.receive_json() == {"cart": ["tea"]}


@pytest.mark.parametrize("path", ["/cart", "/orders", "/account"])
def test_a_session_that_cannot_be_had_is_503_and_not_401(client: TestClient, path: str) -> None:
    with unavailable():
        answer = client.get(path)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_open_api_shows_the_cookie(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    schemes = told["components"]["securitySchemes"]
    assert {name: (each["in"], each["name"]) for name, each in schemes.items()} == {
        "session": ("cookie", "session"),
        "session-basket": ("cookie", "session-basket"),
    }
    for path in ("/cart", "/orders", "/account"):
        assert told["paths"][path]["get"]["security"] == [{"session": []}]
    assert "parameters" not in told["paths"]["/orders"]["get"]


def test_a_test_gives_a_handler_another_session(client: TestClient) -> None:
    """The dependencies are FastAPI's: they can be exchanged in tests of an application."""
    (required,) = RequiredSession.__metadata__  # type: ignore[attr-defined]
    app.dependency_overrides[required.dependency] = lambda: {"given": True}
    try:
        assert client.get("/orders").json() == {"given": True}
    finally:
        app.dependency_overrides.clear()


def test_without_the_middleware_the_remedy_is_told() -> None:
    bare = FastAPI()
    bare.add_api_route("/cart", cart)
    with TestClient(bare) as client, pytest.raises(LookupError, match="SessionMiddleware"):
        client.get("/cart")
