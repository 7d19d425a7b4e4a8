"""The programs of docs/sessions.md do what the page says."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest
from starlette.testclient import TestClient

from sessionha import SessionMiddleware, WSGISessionMiddleware
from sessionha.keys import new_secret
from sessionha.settings import Settings
from sessionha.values import managers
from sessionha.values.codec import encode
from tests.docs.test_readme import blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sessions.md"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's programs define."""
    monkeypatch.setattr(managers, "_by_name", dict(managers._by_name))
    monkeypatch.setattr(managers, "_by_type", dict(managers._by_type))
    monkeypatch.setattr(managers, "managed", set())  # it is for the words of errors alone
    found: dict[str, Any] = {"__name__": __name__}
    exec(compile("\n".join(blocks(PAGE, "python")), str(PAGE), "exec"), found)
    return found


def test_votes_are_counted(names: dict[str, Any]) -> None:
    app = names["app"]
    app.add_middleware(SessionMiddleware, secret_key=new_secret(), store="memory")
    with TestClient(app) as client:
        assert [client.post("/vote").json() for _ in range(3)] == [1, 2, 3]


def test_a_wizard_has_a_session_of_its_own_until_it_is_done(names: dict[str, Any]) -> None:
    app = names["app"]
    app.add_middleware(SessionMiddleware, secret_key=new_secret(), store="memory")

    def answer(text: str) -> int:
        count: int = client.post("/wizard/next", params={"answer": text}).json()
        return count

    with TestClient(app) as client:
        assert [answer("a"), answer("b")] == [1, 2]
        assert {*client.cookies} == {"session-wizard"}
        client.post("/wizard/done")
        assert {*client.cookies} == {"session"}
        assert answer("c") == 1
        client.post("/logout")
        assert {*client.cookies} == set()


async def test_a_client_without_cookies_votes(names: dict[str, Any]) -> None:
    app = SessionMiddleware(names["app"], new_secret(), store="memory", session_in="both")
    transport, auth = httpx.ASGITransport(app), names["InHeaders"]()
    async with httpx.AsyncClient(transport=transport, auth=auth, base_url="http://a") as client:
        assert [(await client.post("/vote")).json() for _ in range(3)] == [1, 2, 3]
        assert not client.cookies


class Silent(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_curl_keeps_a_session_without_cookies(tmp_path: Path) -> None:
    """System 1 (c)"""
    (script,) = (block for block in blocks(PAGE, "sh") if "Sessionha-Token" in block)

    def count(environ: Any, start_response: Any) -> list[bytes]:
        session = environ["sessionha.session"]
        session["n"] = session.get("n", 0) + 1
        start_response("200 OK", [])
        return [str(session["n"]).encode()]

    app = WSGISessionMiddleware(count, new_secret(), store="memory", session_in="headers")
    with make_server("127.0.0.1", 0, app, handler_class=Silent) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            words = script.replace("127.0.0.1:8000", f"127.0.0.1:{server.server_port}")
            ran = subprocess.run(
                ["bash", "-c", words], check=False, cwd=tmp_path, capture_output=True, text=True
            )
        finally:
            server.shutdown()
            serving.join()
    assert (ran.stdout.split(), ran.stderr) == (["1", "2", "3"], "")


def test_the_virtual_servers_of_the_page_are_accepted(tmp_path: Path) -> None:
    (described,) = blocks(PAGE, "toml")
    (tmp_path / "cluster.toml").write_text(described)
    servers = Settings.load({}, config=tmp_path / "cluster.toml").virtual_server
    assert servers.names == {"shop", "blog", "admin", "main"}
    (text,) = re.findall(r"SESSIONHA_VIRTUAL_SERVER=(\S+)`", PAGE.read_text())
    assert Settings.load({}, virtual_server=text).virtual_server.of("a.blog.example", "/") == "blog"


def test_of_two_scores_the_higher_one_stays(names: dict[str, Any]) -> None:
    best = names["Best"]
    stored = {points: encode(points, "best") for points in (3, 5, 8)}
    assert managers.read("best", stored[5]) == best(5)
    operation = managers.operation_between("best", stored[3], stored[5])
    assert operation is not None
    assert managers.changed("best", stored[3], operation) == (stored[5], 0)
    assert managers.changed("best", stored[8], operation) == (stored[8], 0)
