"""The programs on the pages of frameworks do what the pages say."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from litestar.testing import TestClient as LitestarClient
from starlette.testclient import TestClient

from fastapi_sessionha import CurrentSession
from sessionha.keys import new_secret
from sessionha.testing import session_of
from tests.docs.test_readme import blocks

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(autouse=True)
def _shop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setenv("SECRET_KEY", new_secret())
    monkeypatch.setenv("SESSIONHA_STORE", "memory")


def program(page: str) -> dict[str, Any]:
    """What the Python blocks of a page define together."""
    path = DOCS / page
    module = sys.modules["shop"] = ModuleType("shop")  # frameworks look types up there
    exec(compile("\n".join(blocks(path, "python")), str(path), "exec"), vars(module))
    return vars(module)


@pytest.fixture
def fastapi() -> dict[str, Any]:
    return program("fastapi.md")


def test_a_handler_of_fastapi_asks_for_its_session(fastapi: dict[str, Any]) -> None:
    with TestClient(fastapi["app"]) as client:
        assert client.get("/cart").status_code == 401
        assert [client.post("/cart/tea").json() for _ in range(2)] == [1, 2]
        assert client.get("/cart").json() == ["tea", "tea"]
        assert client.get("/account").status_code == 401
        client.post("/login", params={"user": "ada"})
        assert client.get("/account").json() == "user:ada"
        assert [client.get("/").json()["visits"] for _ in range(2)] == [1, 2]


def test_tests_of_an_application_are_as_the_page_has_them(fastapi: dict[str, Any]) -> None:
    found = [test for name, test in fastapi.items() if name.startswith("test_")]
    assert len(found) == 2
    for test in found:
        test()


def test_what_is_opted_out_gets_no_session(fastapi: dict[str, Any]) -> None:
    site = fastapi["site"]

    @site.get("/{path:path}")  # type: ignore[untyped-decorator]
    async def any_path(session: CurrentSession) -> None:
        session["n"] = 1

    with TestClient(site) as client:
        for path, agent in (("/healthz", ""), ("/static/a.css", ""), ("/", "Googlebot/2.1")):
            answer = client.get(path, headers={"User-Agent": agent})
            assert (answer.status_code, "set-cookie" in answer.headers) == (200, False)
        assert "set-cookie" in client.get("/").headers
    with TestClient(site, client=("10.1.2.3", 5000)) as client:
        assert "set-cookie" not in client.get("/").headers


def test_litestar_has_sessions_in_its_own_words() -> None:
    with LitestarClient(program("litestar.md")["app"]) as client:
        assert [client.post("/cart/tea").json() for _ in range(2)] == [1, 2]
        client.post("/login", params={"user": "ada"})
        assert client.get("/").json() == {"cart": ["tea", "tea"], "user": "ada"}
        client.post("/logout")
        assert client.get("/").json() == {}


async def test_litestar_has_a_store() -> None:
    store = program("litestar.md")["with_store"].stores.get("results")
    await store.set("a", b"one", expires_in=60)
    assert await store.get("a") == b"one"


@pytest.fixture
def wsgi() -> dict[str, Any]:
    return program("wsgi.md")


@pytest.mark.parametrize("name", ["application", "shop"])
def test_a_wsgi_application_counts(wsgi: dict[str, Any], name: str) -> None:
    """Behind our own words, and behind Beaker's."""
    transport = httpx.WSGITransport(wsgi[name])
    with httpx.Client(transport=transport, base_url="http://shop.example") as client:
        assert [client.get("/").text for _ in range(3)] == ["1\n", "2\n", "3\n"]
        expected = {"application": "session", "shop": "beaker.session.id"}
        assert [*client.cookies] == [expected[name]]


@pytest.fixture
def starsessions() -> Iterator[tuple[Any, TestClient]]:
    names = program("from-starsessions.md")
    with TestClient(names["app"], "https://shop.example") as client:
        yield names["store"], client


def test_a_session_of_starsessions_goes_on(starsessions: tuple[Any, TestClient]) -> None:
    store, client = starsessions
    data = b'{"visits": 41, "__metadata__": {"lifetime": 3600, "created": 1, "last_access": 1}}'
    asyncio.run(store.write("0" * 32, data, 3600, 3600))
    brought = {"Cookie": "session=" + "0" * 32}
    assert client.get("/", headers=brought).json() == {"visits": 42}
    client.get("/login", params={"user": "ada"})
    with session_of(client) as session:
        assert session == {"visits": 42, "user": "ada"}
