"""The plugin of Litestar: sessions in its own words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from litestar import Litestar, Request, WebSocket, get, post, websocket
from litestar.exceptions import NotAuthorizedException
from litestar.middleware import ASGIMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.security.session_auth import SessionAuth
from litestar.stores.memory import MemoryStore
from litestar.testing import TestClient
from litestar.types import ASGIApp, Receive, Scope, Send

from litestar_sessionha import CurrentSession, SessionPlugin
from sessionha import InvalidSettings, current_session
from sessionha.keys import new_secret
from sessionha.testing import session_of, unavailable

KEY = new_secret()


@dataclass
class Model:
    """What an application may keep instead of a dict."""

    user: str
    cart: list[str]


@get("/")
async def read(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return dict(request.session)


@post("/count")
async def count(session: CurrentSession) -> int:
    session["n"] = session.get("n", 0) + 1
    n: int = session["n"]
    return n


@post("/model")
async def model(request: Request[Any, Any, Any]) -> None:
    request.set_session(Model("ada", ["tea"]))


@post("/exchange")
async def exchange(request: Request[Any, Any, Any]) -> None:
    request.set_session({"only": True})


@post("/log-out")
async def log_out(request: Request[Any, Any, Any]) -> None:
    request.clear_session()


@get("/thread", sync_to_thread=True)
def in_a_thread() -> int:
    return len(current_session())


@get("/static")
async def static() -> str:
    return "static"


@get("/refused")
async def refused(request: Request[Any, Any, Any]) -> None:
    """Litestar answers; what was changed is committed with the answer."""
    request.session["tries"] = 1
    raise NotAuthorizedException


@websocket("/chat")
async def chat(socket: WebSocket[Any, Any, Any], session: CurrentSession) -> None:
    await socket.accept()
    session["said"] = await socket.receive_text()
    await session.commit()
    await socket.send_text("kept")
    await socket.close()


class Looks(ASGIMiddleware):
    """Of the application's own; it uses the session."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["session"].get("n")  # type: ignore[union-attr]
        await next_app(scope, receive, send)


HANDLERS = [read, count, model, exchange, log_out, in_a_thread, static, refused, chat]


@pytest.fixture
def client() -> Iterator[TestClient[Litestar]]:
    app = Litestar(HANDLERS, plugins=[SessionPlugin(KEY, store="memory")])
    with TestClient(app) as client:
        yield client


def test_all_routes_have_one_session(client: TestClient[Litestar]) -> None:
    assert [client.post("/count").json() for _ in range(3)] == [1, 2, 3]
    assert client.get("/").json() == {"n": 3}
    assert client.get("/thread").json() == 1


def test_a_session_that_is_exchanged_whole_is_stored(client: TestClient[Litestar]) -> None:
    client.post("/count")
    client.post("/exchange")
    assert client.get("/").json() == {"only": True}
    client.post("/model")
    assert client.get("/").json() == {"user": "ada", "cart": ["tea"]}


def test_clear_session_ends_it(client: TestClient[Litestar]) -> None:
    client.post("/count")
    before = client.cookies["session"]
    client.post("/log-out")
    assert "session" not in client.cookies
    client.cookies.set("session", before)
    assert client.get("/").json() == {}


def test_an_answer_to_an_exception_commits(client: TestClient[Litestar]) -> None:
    assert client.get("/refused").status_code == 401
    assert client.get("/").json() == {"tries": 1}


def test_what_uses_no_session_varies_by_none(client: TestClient[Litestar]) -> None:
    client.post("/count")
    assert "vary" not in client.get("/static").headers
    assert client.get("/").headers["vary"] == "Cookie"


def test_a_websocket_has_the_session(client: TestClient[Litestar]) -> None:
    client.post("/count")
    with client.websocket_connect("/chat") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "kept"
    assert client.get("/").json() == {"n": 1, "said": "hello"}


def test_a_session_that_cannot_be_had_is_503(client: TestClient[Litestar]) -> None:
    """And not the 500 that Litestar makes of what its handlers raise."""
    with unavailable():
        answer = client.get("/")
        assert client.get("/static").status_code == 200
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_middleware_of_the_application_is_inside() -> None:
    plugins = [SessionPlugin(KEY, store="memory")]
    with TestClient(Litestar(HANDLERS, plugins=plugins, middleware=[Looks()])) as client:
        assert [client.post("/count").json() for _ in range(2)] == [1, 2]


def test_the_session_of_a_test_client_is_changed_from_outside(client: TestClient[Litestar]) -> None:
    door = client.app.plugins.get(SessionPlugin).door
    with session_of(client, door) as session:
        session["n"] = 41
    assert client.post("/count").json() == 42


def test_the_session_auth_of_litestar_stands_on_it() -> None:
    async def user_of(session: dict[str, Any], _: object) -> str | None:
        return session.get("user")

    @post("/log-in")
    async def log_in(request: Request[Any, Any, Any]) -> None:
        request.set_session({"user": "ada"})

    @get("/me")
    async def me(request: Request[str, Any, Any]) -> str:
        return request.user

    sessions = SessionPlugin(KEY, store="memory", session_cookie="sid")
    auth = SessionAuth[str, Any](
        retrieve_user_handler=user_of,
        session_backend_config=sessions.backend_config,
        exclude=["/log-in", "/schema"],
    )
    app = Litestar([log_in, me], plugins=[sessions], on_app_init=[auth.on_app_init])
    with TestClient(app) as client:
        assert client.get("/me").status_code == 401
        client.post("/log-in")
        assert client.get("/me").text == "ada"
        with unavailable():
            assert client.get("/me").status_code == 503
        told = client.get("/schema/openapi.json").json()["components"]["securitySchemes"]
        assert told["sessionCookie"]["name"] == "sid"


def test_wrong_settings_stop_the_application() -> None:
    with pytest.raises(InvalidSettings, match="sotre"):
        SessionPlugin(KEY, sotre="memory")


async def test_a_store_of_litestar_is_on_the_cluster() -> None:
    """Beside it, in one test, a store of Litestar's own, so that both do the same."""
    plugin = SessionPlugin(KEY, store="memory")
    for store in (plugin.store("cache"), MemoryStore()):
        await store.set("a", "text")
        await store.set("b", b"bytes", expires_in=60)
        assert (await store.get("a"), await store.get("b", renew_for=90)) == (b"text", b"bytes")
        assert await store.expires_in("a") in (None, -1)
        assert 85 <= (await store.expires_in("b") or 0) <= 90
        await store.delete("a")
        assert [await store.exists(key) for key in "ab"] == [False, True]
    with pytest.raises(NotImplementedError, match="another name"):
        await plugin.store("cache").delete_all()


def test_litestars_own_sessions_can_be_kept_in_it() -> None:
    plugin = SessionPlugin(KEY, store="memory", session_cookie="ours", exclude=["/"])
    own = ServerSideSessionConfig()
    app = Litestar(
        HANDLERS,
        plugins=[plugin],
        middleware=[own.middleware],
        stores={"sessions": plugin.store("sessions")},
    )
    with TestClient(app) as client:
        client.post("/exchange")
        assert client.get("/").json() == {"only": True}
        assert {*client.cookies} == {"session"}
