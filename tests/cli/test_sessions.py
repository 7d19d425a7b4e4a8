"""The command `sessions`: what it asks, prints and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sessionha.admin.tokens import tokens
from sessionha.cli import main
from sessionha.cli.sessions import ago
from tests.cli.test_status import SETTINGS, Node, Output, node

__all__ = ["node"]

BEARER = f"Bearer {tokens(SETTINGS, 'data')[0]}"
SESSION: dict[str, Any] = {
    "id": "AQEBAQEBAQEBAQEB", "age": 7300.0, "unused": 42.0,
    "virtual_server": "[bold]shop", "node": "n2",
}  # fmt: skip
FOUND: dict[str, Any] = {"sessions": [SESSION], "unreachable": ["n3"], "more": True}


def test_it_lists_sessions_and_says_what_is_missing(node: Node, capsys: Output) -> None:
    node.body = json.dumps(FOUND).encode()
    assert main(["sessions", "user:42/ü", "--url", node.address]) == 0
    assert node.asked == [("/v1/subjects/user%3A42%2F%C3%BC", BEARER)]
    shown = capsys.readouterr().out
    for words in (SESSION["id"], "2 h ago", "42 s ago", "[bold]shop", "n2"):
        assert words in shown
    assert "more sessions than are listed" in shown
    assert "n3 could not be asked and may hold more sessions" in shown


def test_nobody_logged_in(node: Node, capsys: Output) -> None:
    node.body = json.dumps({"sessions": [], "unreachable": [], "more": False}).encode()
    assert main(["sessions", "ada", "--url", node.address]) == 0
    assert capsys.readouterr().out == "no session\n"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--revoke", "A&B"], "DELETE /v1/subjects/ada?session=A%26B"),
        (["--revoke-all"], "DELETE /v1/subjects/ada"),
    ],
)
def test_it_ends_one_or_all(words: list[str], asked: str, node: Node, capsys: Output) -> None:
    node.body = json.dumps({"ended": 1, "unreachable": ["n3"]}).encode()
    assert main(["sessions", "ada", "--url", node.address, *words]) == 0
    assert node.asked == [(asked, BEARER)]
    shown = capsys.readouterr().out
    assert "1 session ended" in shown
    assert "n3 could not be told" in shown


def test_an_id_that_no_session_has_exits_1(node: Node, capsys: Output) -> None:
    node.body = json.dumps({"ended": 0, "unreachable": []}).encode()
    assert main(["sessions", "ada", "--url", node.address, "--revoke", "bogus"]) == 1
    shown = capsys.readouterr()
    assert "none has this ID" in shown.err
    assert main(["sessions", "ada", "--url", node.address, "--revoke-all"]) == 0


def test_without_a_secret_it_says_how_a_single_application_gets_one(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SESSIONHA_SECRET", raising=False)
    assert main(["sessions", "ada"]) == 2
    assert "runs alone" in capsys.readouterr().err


def test_json_is_the_answer_as_it_came(node: Node, capsys: Output) -> None:
    node.body = json.dumps(FOUND).encode()
    assert main(["sessions", "ada", "--url", node.address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == FOUND


def test_one_and_all_at_once_exits_2(node: Node, capsys: Output) -> None:
    assert main(["sessions", "ada", "--revoke", "x", "--revoke-all"]) == 2
    assert "not both" in capsys.readouterr().err
    assert node.asked == []


def test_why_nobody_was_logged_out_is_told(node: Node, capsys: Output) -> None:
    node.status, node.body = 503, b"nobody was logged out: the store is full\n"
    assert main(["sessions", "ada", "--url", node.address, "--revoke-all"]) == 1
    assert "answers 503: nobody was logged out: the store is full" in capsys.readouterr().err


def test_an_answer_that_is_something_else_exits_1(node: Node, capsys: Output) -> None:
    assert main(["sessions", "ada", "--url", node.address]) == 1
    assert "not the administration of a node" in capsys.readouterr().err


def test_times_are_told_in_the_largest_unit_that_fits() -> None:
    found = [ago(seconds) for seconds in (0.4, 59, 60, 3_599, 3_600, 200_000)]
    assert found == ["now", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "2 d ago"]
