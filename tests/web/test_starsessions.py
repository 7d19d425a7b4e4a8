"""Applications of starsessions: its words, its middleware's arguments, and its sessions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import starsessions
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from sessionha import session_from
from sessionha.keys import new_secret
from sessionha.starsessions import (
    SessionAutoloadMiddleware,
    SessionMiddleware,
    get_session_id,
    get_session_metadata,
    get_session_remaining_seconds,
    is_loaded,
    load_session,
    regenerate_session_id,
)
from sessionha.testing import unconfirmed

KEY = new_secret()
URL = "https://shop.example"  # their cookie is `Secure`


async def count(request: Request) -> Response:
    await load_session(request)
    assert is_loaded(request)
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(dict(request.session))


async def read(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def about(request: Request) -> Response:
    metadata = get_session_metadata(request)
    left = get_session_remaining_seconds(request)
    return JSONResponse({"id": get_session_id(request), "left": left, **metadata})


async def log_in(request: Request) -> Response:
    request.session["user"] = "ada"
    regenerate_session_id(request)
    return JSONResponse(None)


async def log_out(request: Request) -> Response:
    request.session.clear()
    return JSONResponse(None)


async def swap(request: Request) -> Response:
    del request.session["n"]
    request.session["cart"] = 1
    return JSONResponse(dict(request.session))


async def pop(request: Request) -> Response:
    return JSONResponse(request.session.pop("n"))


async def subject(request: Request) -> Response:
    return JSONResponse(session_from(request).subject)


ROUTES = [
    Route("/pop", pop),
    Route("/subject", subject),
    Route("/swap", swap),
    Route("/count", count),
    Route("/read", read),
    Route("/about", about),
    Route("/log-in", log_in),
    Route("/log-out", log_out),
]


async def count_there(request: Request) -> Response:
    await starsessions.load_session(request)
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(None)


def before(store: starsessions.SessionStore) -> TestClient:
    """A client of the application as it was."""
    old = Middleware(starsessions.SessionMiddleware, store=store, lifetime=3600)
    return TestClient(Starlette(routes=[Route("/count", count_there)], middleware=[old]), URL)


def now(**arguments: Any) -> TestClient:
    """A client of the application as it is now."""
    given = {"secret_key": KEY, "engine": None, **arguments}
    ours = Middleware(SessionMiddleware, **given)
    app = Starlette(routes=ROUTES, middleware=[ours, Middleware(SessionAutoloadMiddleware)])
    return TestClient(app, URL)


@pytest.fixture(autouse=True)
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONHA_STORE", "memory")


@pytest.fixture
def client() -> Iterator[TestClient]:
    with now(lifetime=3600) as client:
        yield client


def test_its_functions_do_what_they_did(client: TestClient) -> None:
    assert client.get("/about").json()["id"] is None
    assert [client.get("/count").json()["n"] for _ in range(2)] == [1, 2]
    told = client.get("/about").json()
    assert told["lifetime"] == 3600
    assert 3590 <= told["left"] <= 3600
    assert 0 <= told["last_access"] - told["created"] < 60
    assert told["id"] in client.cookies["session"]


def test_after_a_regeneration_the_old_id_is_dead(client: TestClient) -> None:
    client.get("/count")
    old = client.cookies["session"]
    client.get("/log-in")
    assert client.get("/read").json() == {"n": 1, "user": "ada"}
    client.cookies.clear()
    client.cookies.set("session", old)
    assert client.get("/read").json() == {}


def test_the_arguments_of_its_middleware_mean_the_same() -> None:
    arguments = {
        "lifetime": timedelta(minutes=10), "cookie_name": "sid", "cookie_same_site": "strict",
        "cookie_domain": "shop.example", "cookie_path": "/", "cookie_https_only": True,
    }  # fmt: skip
    with now(**arguments) as client:
        words = client.get("/count").headers["set-cookie"].lower().split("; ")
    assert words[0].startswith("sid=")
    expected = {"path=/", "max-age=600", "samesite=strict", "domain=shop.example", "secure"}
    assert expected <= {*words}


def test_without_a_lifetime_the_cookie_ends_with_the_browser() -> None:
    with now() as client:
        assert "max-age" not in client.get("/count").headers["set-cookie"].lower()
        assert client.get("/about").json()["lifetime"] == 12 * 3600  # the settings' own


@pytest.mark.parametrize("rolling", [True, False])
def test_only_a_rolling_lifetime_has_no_absolute_end(rolling: bool) -> None:
    door = SessionMiddleware(Starlette(), lifetime=600, rolling=rolling, secret_key=KEY)
    assert (door.terms.idle_timeout, door.terms.lifetime) == (600_000, 0 if rolling else 600_000)


# --- the change-over ---


def carried(store: starsessions.SessionStore, **arguments: Any) -> TestClient:
    """A client with a session of the old application, at the new one."""
    old = before(store)
    for _ in range(3):
        old.get("/count")
    client = now(store=store, lifetime=3600, **arguments)
    client.cookies.update(old.cookies)
    return client


def test_a_session_of_before_goes_on() -> None:
    with carried(store := starsessions.InMemoryStore()) as client:
        assert client.get("/read").json() == {"n": 3}
        assert client.get("/count").json() == {"n": 4}
        store.data.clear()  # from the second request on it is not asked
        assert client.get("/count").json() == {"n": 5}


def test_a_session_of_the_cookie_store_goes_on() -> None:
    with carried(starsessions.CookieStore(secret_key="old")) as client:
        assert client.get("/count").json() == {"n": 4}
        assert len(client.get("/about").json()["id"]) == 56


def test_requests_of_a_page_at_once_all_find_it() -> None:
    """The cookie that each of them brought is the old one."""
    with carried(starsessions.InMemoryStore()) as client:
        old = dict(client.cookies)
        for _ in range(3):
            client.cookies.clear()
            client.cookies.update(old)
            assert client.get("/count").json() == {"n": 4}


def test_a_log_out_removes_the_session_of_before() -> None:
    with carried(store := starsessions.InMemoryStore()) as client:
        client.get("/log-out")
        assert store.data == {}
        assert client.get("/read").json() == {}


class Timed(starsessions.InMemoryStore):
    """One that notes what times sessions are given."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[int] = []

    async def write(self, session_id: str, data: bytes, lifetime: int, ttl: int) -> str:
        self.times.append(ttl)
        return await super().write(session_id, data, lifetime, ttl)


def test_what_was_taken_over_ends_in_a_minute_however_often_it_is_asked_for() -> None:
    with carried(store := Timed()) as client:
        old, before = dict(client.cookies), len(store.times)
        for _ in range(3):
            client.cookies.clear()
            client.cookies.update(old)
            assert client.get("/read").json() == {"n": 3}
        assert store.times[before:] == [60]


def test_a_log_out_that_leaves_something_removes_the_session_of_before_as_well() -> None:
    with carried(store := starsessions.InMemoryStore()) as client:
        assert client.get("/swap").json() == {"cart": 1}
        assert store.data == {}
        assert client.get("/read").json() == {"cart": 1}


def test_a_log_out_with_a_cookie_that_holds_the_session_clears_it() -> None:
    with carried(starsessions.CookieStore(secret_key="old")) as client:
        client.get("/log-out")
        assert not client.cookies
        assert client.get("/read").json() == {}


def test_a_commit_that_is_refused_leaves_the_session_of_before_alone() -> None:
    with carried(starsessions.InMemoryStore()) as client:
        with unconfirmed():
            assert client.get("/read").status_code == 503
        assert client.get("/read").json() == {"n": 3}


def test_a_request_that_is_opted_out_leaves_the_session_of_before_alone() -> None:
    with carried(starsessions.InMemoryStore(), exclude=["/about"]) as client:
        client.get("/about")
        assert client.get("/read").json() == {"n": 3}


@pytest.mark.parametrize("page", ["/read", "/pop"])
def test_a_session_of_before_has_the_subject_that_its_data_tell(page: str) -> None:
    store = starsessions.InMemoryStore()
    with carried(store, subject_of=lambda data: f"user:{data['n']}") as client:
        client.get(page)
        assert client.get("/subject").json() == ("user:3" if page == "/read" else None)
        assert client.get("/read").json() == ({"n": 3} if page == "/read" else {})


def test_what_is_no_session_of_before_begins_a_new_one() -> None:
    with carried(starsessions.InMemoryStore()) as client:
        client.cookies.clear()
        planted = {"Cookie": "session=" + "0" * 32}
        assert client.get("/count", headers=planted).json() == {"n": 1}
        assert "0" * 32 not in client.cookies["session"]


def test_what_the_old_application_could_not_read_either_is_no_session() -> None:
    store = starsessions.InMemoryStore()
    with carried(store) as client:
        for name in store.data:
            store.data[name] = b"{"
        assert client.get("/count").json() == {"n": 1}
