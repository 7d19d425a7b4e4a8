"""The commands `token` and `status`: what they print, ask and refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from sessionha.admin.tokens import ROLES, role_of, tokens
from sessionha.cli import main
from sessionha.cli.asking import address_of
from sessionha.errors import InvalidSettings
from sessionha.keys import new_secret
from sessionha.settings import Settings

Output = pytest.CaptureFixture[str]
SECRET = new_secret()
SETTINGS = Settings.observe({"SESSIONHA_SECRET": SECRET})

STATUS: dict[str, Any] = {
    "cluster": "shop",
    "node": "n1",
    "engines": [0, 1],
    "state": "reconnecting",
    "waiting_for": "n3",
    "view": {"number": 7, "lowest": "n1", "barrier": 0},
    "members": [
        {"node": "n1", "state": "ready", "joined": 1, "peer": "h:1", "url": "http://h", "zone": ""}
    ],
    "others": [
        {
            "node": "n2", "state": "failed", "awaited": True,
            "delay": {"left": 22.4, "word": "extend"},
        },
        {
            "node": "[bold]n3", "state": "absent", "awaited": False,
            "delay": {"left": None, "word": "hold"},
        },
    ],
    "held": ["n1"],
    "health": {
        "redundant": {"groups": 40, "bytes": 1 << 20}, "degraded": {"groups": 0, "bytes": 0},
        "at_risk": {"groups": 2, "bytes": 1 << 20}, "complete": True, "old": 0,
    },
    "consistency": "available",
    "backups": 1,
    "store": {"used": 3 << 20, "limit": 200 << 20},
    "counts": {"state/commits": 12, "state/promotions": 3},
    "versions": {"sessionha": "0.1.0"},
}  # fmt: skip


TOPOLOGY: dict[str, Any] = {
    "cluster": "shop",
    "node": "n1",
    "consistency": "quorum",
    "state": "ready",
    "waiting_for": "",
    "view": {
        "number": 7, "lowest": "", "barrier": 0,
        "electors": ["n1", "n2", "n3"], "voters": ["n1", "n2"], "majority": 2,
    },
    "members": [
        {
            "node": "n1", "state": "ready", "joined": 4, "peer": "h:1", "zone": "east", "weight": 2,
            "role": "spare", "incarnation": "0123456789abcdef", "watches": ["n2"],
        },
    ],
    "others": [
        {
            "node": "[bold]n3", "state": "absent", "awaited": False,
            "delay": {"left": 0, "word": None},
        },
    ],
    "held": [],
    "absent": ["n3"],
    "description": {"hash": "aa11", "nodes": ["n1", "n2", "n3"], "differing": {"n2": "the order"}},
    "detours": {"n1": "n2"},
    "last_change": {
        "view": 7, "seconds_ago": 90.0, "changes": [{"node": "n3", "kind": "failed"}],
    },
}  # fmt: skip


class Node(HTTPServer):
    """Stands in for a node's administration: gives one answer and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.status = 200
        self.body = json.dumps(STATUS).encode()
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Answering(BaseHTTPRequestHandler):
    server: Node

    def do_GET(self) -> None:
        self._answer(self.path)

    def do_POST(self) -> None:
        self._answer(f"POST {self.path}")

    def do_DELETE(self) -> None:
        self._answer(f"DELETE {self.path}")

    def _answer(self, asked: str) -> None:
        self.server.asked.append((asked, self.headers["Authorization"]))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def serving() -> Iterator[Node]:
    """A node that answers until the end of the block; then its port refuses."""
    made = Node()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("SESSIONHA_SECRET", SECRET)
    with serving() as made:
        yield made


# --- token ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_printed_token_proves_its_role(
    role: str, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONHA_SECRET", SECRET)
    assert main(["token", "--role", role]) == 0
    printed = capsys.readouterr().out.strip()
    assert role_of(f"Bearer {printed}".encode(), SETTINGS) == role


def test_without_a_secret_there_is_no_token_to_print(capsys: Output) -> None:
    assert main(["token"]) == 2
    assert "SESSIONHA_SECRET" in capsys.readouterr().err


def test_an_unknown_role_exits_2(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONHA_SECRET", SECRET)
    assert main(["token", "--role", "root"]) == 2
    assert "operate" in capsys.readouterr().err


# --- status ---------------------------------------------------------------------------------------


def test_status_asks_with_the_token_to_read(node: Node) -> None:
    assert main(["status", node.address]) == 0
    assert node.asked == [("/v1/status", f"Bearer {tokens(SETTINGS, 'read')[0]}")]


def test_status_takes_the_address_as_sessions_does(node: Node, capsys: Output) -> None:
    assert main(["status", "--url", node.address]) == 0
    assert len(node.asked) == 1
    assert main(["status", node.address, "--url", node.address]) == 2
    assert "once" in capsys.readouterr().err


def test_status_shows_the_node_and_every_other(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["status", f"http://{node.address}/"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "n1 (reconnecting, waits for n3), engines 0, 1", "3.0 of 200.0 MiB", "12 commits",
        "40 redundant, 0 degraded, 2 at risk (2.0 MiB)", "ready, held when it goes",
        "failed, may hold sessions, awaited for 23 s more, extended", "held until it is back",
        "[bold]n3", "http://h ",
    ):  # fmt: skip
        assert words in shown


def test_status_prints_the_answer_as_json(node: Node, capsys: Output) -> None:
    assert main(["status", "--json", node.address]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_status_asks_the_address_of_the_settings(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONHA_ADMIN", f"0.0.0.0:{node.server_port}")
    assert main(["status"]) == 0
    assert len(node.asked) == 1


@pytest.mark.usefixtures("node")
def test_status_without_an_address_exits_2(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONHA_ADMIN", "off")
    assert main(["status"]) == 2
    assert "`admin` is off" in capsys.readouterr().err
    assert main(["status", "ftp://x"]) == 2


# --- topology -------------------------------------------------------------------------------------


def test_topology_shows_members_watchers_and_electors(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    node.body = json.dumps(TOPOLOGY).encode()
    assert main(["topology", node.address]) == 0
    assert node.asked == [("/v1/topology", f"Bearer {tokens(SETTINGS, 'read')[0]}")]
    shown = capsys.readouterr().out
    for words in ("2 of n1, n2 decide the next (n3 absent)", "1 min ago: n3 failed (view 7)",
                  "n3, by proof", "n1 through n2", "aa11, but n2 has another: the order",
                  " 01234567 ", " n2 ", " east ",
                  " spare ", "[bold]n3"):  # fmt: skip
        assert words in shown
    node.body = json.dumps({**TOPOLOGY, "last_change": None, "absent": [], "detours": {}}).encode()
    assert main(["topology", "--json", node.address]) == 0
    assert json.loads(capsys.readouterr().out)["last_change"] is None
    assert main(["topology", node.address]) == 0
    assert "nobody\n" in capsys.readouterr().out


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_token_exits_1_and_tells_of_the_secret(
    code: int, node: Node, capsys: Output
) -> None:
    node.status = code
    assert main(["status", node.address]) == 1
    assert "cluster secret" in capsys.readouterr().err


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"\xff\xfe"])
def test_something_else_behind_the_address_exits_1(body: bytes, node: Node, capsys: Output) -> None:
    node.body = body
    assert main(["status", node.address]) == 1
    assert "not the administration" in capsys.readouterr().err


def test_a_node_that_does_not_run_exits_1(node: Node, capsys: Output) -> None:
    free = Node()
    free.server_close()
    assert main(["status", free.address]) == 1
    assert "is this the address of its `admin`?" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["foo:bar", "http://", "ftp://n1:1", "n1:99999"])
def test_what_is_no_address_is_said_to_be_none(given: str) -> None:
    with pytest.raises(InvalidSettings, match="is no address"):
        address_of(Settings.observe({}), given)


@pytest.mark.parametrize(
    ("given", "asked"),
    [("n1", "http://n1:7947"), ("n1:1", "http://n1:1"), ("https://n1/x/", "https://n1/x")],
)
def test_an_address_without_a_port_means_the_usual_one(given: str, asked: str) -> None:
    assert address_of(Settings.observe({}), given) == asked


def test_the_token_follows_no_redirect_and_goes_to_no_proxy(
    node: Node, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bearer token in other hands is the right to read."""
    other = Node()
    node.status, node.headers = 302, {"Location": f"http://{other.address}/"}
    monkeypatch.setenv("http_proxy", f"http://{other.address}")
    monkeypatch.setenv("no_proxy", "")
    other.timeout = 0
    assert main(["status", node.address]) == 1
    other.handle_request()  # takes a connection that waits; returns at once without one
    assert other.asked == []
    other.server_close()
    assert "answers 302" in capsys.readouterr().err
