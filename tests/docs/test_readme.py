"""The documentation is true: its programs run, its links, settings, tests and messages exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import sessionha
from sessionha.keys import new_secret
from sessionha.settings import Settings, table

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language on a page, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def shop() -> FastAPI:
    """The application that the Python blocks of the README make together."""
    names: dict[str, object] = {"__name__": "shop"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_KEY", new_secret())
        patch.setenv("SESSIONHA_STORE", "memory")
        exec(compile("\n".join(blocks(README, "python")), str(README), "exec"), names)
    app = names["app"]
    assert isinstance(app, FastAPI)
    return app


@pytest.fixture
def client(shop: FastAPI, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("SESSIONHA_STORE", "memory")  # read when the middleware is built
    return TestClient(shop)


def test_the_application_of_the_readme_counts(client: TestClient) -> None:
    with client:
        assert [client.get("/").json()["visits"] for _ in range(3)] == [1, 2, 3]


def test_a_log_in_keeps_the_session_under_a_new_cookie_and_a_log_out_ends_it(
    client: TestClient,
) -> None:
    with client:
        client.get("/")
        before = client.cookies["session"]
        client.post("/login", params={"user": "ada"})
        assert client.cookies["session"] != before
        assert client.get("/").json() == {"visits": 2}
        client.post("/logout")
        assert client.get("/").json() == {"visits": 1}


def test_a_user_sees_their_devices_and_ends_them(client: TestClient) -> None:
    with client:
        client.post("/sign-in", params={"user": "ada"})
        phone = client.cookies["session"]
        client.cookies.clear()
        client.post("/sign-in", params={"user": "ada"})
        found = client.get("/devices").json()["devices"]
        (other,) = [each["id"] for each in found if not each["this one"]]
        assert client.post(f"/devices/{other}/end").json() == 1
        assert client.post("/log-out-others").json() == 0
        assert client.post("/log-out-everywhere").json() == 1
        assert "session" not in client.cookies
        client.cookies["session"] = phone
        assert client.get("/").json() == {"visits": 1}


def test_who_is_not_logged_in_has_no_devices(client: TestClient) -> None:
    with client:
        assert client.get("/devices").status_code == 401
        assert client.post("/log-out-everywhere").status_code == 401


def test_a_commit_that_fails_need_not_cost_the_response(client: TestClient) -> None:
    with client:
        long = "x" * 40_000  # of 64 KiB
        assert client.post("/note", params={"text": long}).json() == {"kept": True}
        client.post("/logout")
        client.post("/login", params={"user": long})
        assert client.post("/note", params={"text": long}).json() == {"kept": False}


def test_a_websocket_commits_when_it_wants(client: TestClient) -> None:
    with client:
        client.get("/")
        with client.websocket_connect("/chat") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "kept, with 0 copies on other servers"


def test_the_handler_of_an_unavailable_session_is_an_ordinary_one(client: TestClient) -> None:
    with client:
        assert client.get("/cart").json() == {"items": []}


def test_the_settings_of_the_three_nodes_are_accepted() -> None:
    """Both clusters of the README: on one machine without a secret, on three with a file."""
    sample = "".join(block for block in blocks(README, "sh") if "SESSIONHA_NODES" in block)
    exports = [word for word in shlex.split(sample, comments=True) if word.startswith("SESSIONHA_")]
    given = [word.partition("=")[::2] for word in exports if "$" not in word and ";" not in word]
    clusters = [value for name, value in given if name == "SESSIONHA_NODES"]
    assert len(clusters) == 2
    for nodes, secret in zip(clusters, ("insecure-loopback", new_secret()), strict=True):
        for node in ("n1", "n2", "n3"):
            settings = Settings.load({}, nodes=nodes, node=node, secret=secret)
            assert settings.has_peers


def test_the_settings_of_the_pods_are_accepted() -> None:
    """The pod's own address and machine, and the secret, come from Kubernetes."""
    (page,) = [
        text for text in blocks(ROOT / "docs" / "operations.md", "yaml") if "Service" in text
    ]
    given = dict(re.findall(r'name: SESSIONHA_(\w+), value: "([^"]*)"', page))
    assert "SESSIONHA_ZONE, valueFrom" in page
    pod = {name.lower(): text.replace("$(POD_IP)", "10.1.2.3") for name, text in given.items()}
    settings = Settings.load({}, node="shop-0", zone="machine-7", secret=new_secret(), **pod)
    assert str(settings.discovery) == "dns://shop-peers:7946"
    assert settings.url == "http://10.1.2.3:8000"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_that_are_linked_exist(page: Path) -> None:
    text = page.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_environment_variables_are_settings(page: Path) -> None:
    known = {f"SESSIONHA_{name.upper()}" for name, _, _ in table()}
    assert set(re.findall(r"SESSIONHA_[A-Z_]+[A-Z]", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    names = re.findall(
        r"`((?:tests|sessionha|benchmarks|demo_app|docs)/[\w./]*)`", page.read_text()
    )
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_error_is_explained_or_internal() -> None:
    explained = README.read_text()
    for name in sessionha.__all__:
        value = getattr(sessionha, name)
        if isinstance(value, type) and issubclass(value, sessionha.SessionError):
            assert name == "SessionError" or f"`{name}`" in explained, name


def test_log_messages_of_the_operations_page_are_in_the_source() -> None:
    """What the first column of the table of warnings quotes is said somewhere in the code."""
    source = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in ROOT.glob("sessionha/**/*.py")
    )
    page = (ROOT / "docs" / "operations.md").read_text()
    quoted = re.findall(r"^\| “([^”]+)”", page, re.MULTILINE)
    assert len(quoted) > 10
    pieces = [piece.strip() for text in quoted for piece in text.split("…")]
    assert [piece for piece in pieces if piece and piece not in source] == []
